"""RFC 9211: the Cache-Status field."""

from __future__ import annotations

import asyncio
import re

import pytest

from .conftest import Got, Site, fields

FRESH = "cache-control: max-age=60"

# A member: a token, and parameters (RFC 8941).
MEMBER = re.compile(
    rb"nearcache(; hit|; fwd=[a-z-]+|; fwd-status=\d{3}|; ttl=-?\d{1,10}|; stored|; collapsed|; detail=[a-z-]+)*"
)


def status(got: Got) -> bytes:
    """What this cache says."""
    (line,) = got.all("cache-status")
    assert MEMBER.fullmatch(line)
    assert (b"; hit" in line) != (b"; fwd=" in line), "hit and fwd are exclusive"
    for name in (b"fwd-status", b"stored", b"collapsed"):
        assert (b"; " + name) not in line or b"; fwd=" in line, "these are about what was forwarded"
    return line


async def test_2_1_a_hit(site: Site) -> None:
    """hit: answered without going forward; ttl: the remaining lifetime, in seconds."""
    site.says(FRESH)
    await site.get()
    assert status(await site.get()) == b"nearcache; hit; ttl=60"
    site.clock.advance(20)
    assert status(await site.get()) == b"nearcache; hit; ttl=40"
    assert status(await site.get("accept: a")) == b"nearcache; hit; ttl=40"


async def test_2_1_304_and_206_from_the_cache_are_hits(site: Site) -> None:
    """They are based on a stored response."""
    site.says(FRESH, 'etag: "a"', body=b"12345")
    await site.get()
    for line in ('if-none-match: "a"', "range: bytes=0-1", "range: bytes=9-"):
        assert status(await site.get(line)) == b"nearcache; hit; ttl=60"
    assert status(await site.get(method="HEAD")) == b"nearcache; hit; ttl=60"


async def test_2_1_a_stale_response_that_is_served_is_a_hit(site: Site) -> None:
    """Its ttl is negative."""
    site.says("cache-control: max-age=10", 'etag: "a"')
    await site.get()
    site.clock.advance(15)
    assert status(await site.get("cache-control: max-stale")) == b"nearcache; hit; ttl=-5"


async def test_2_2_uri_miss(site: Site) -> None:
    """Nothing is stored for the URI; stored: the response is, now."""
    site.says(FRESH)
    assert status(await site.get()) == b"nearcache; fwd=uri-miss; stored"


async def test_2_2_vary_miss(site: Site) -> None:
    """Something is stored for the URI, but not for such a request."""
    site.says(FRESH, "vary: x-a")
    await site.get("x-a: 1")
    assert status(await site.get("x-a: 2")) == b"nearcache; fwd=vary-miss; stored"


async def test_2_2_request(site: Site) -> None:
    """The request did not want what is fresh."""
    site.says(FRESH, 'etag: "a"')
    await site.get()
    assert status(await site.get("cache-control: no-cache")) == b"nearcache; fwd=request; stored"


async def test_2_2_stale(site: Site) -> None:
    """What is stored is not fresh any more."""
    site.says("cache-control: max-age=10", 'etag: "a"')
    await site.get()
    site.clock.advance(10)
    assert status(await site.get()) == b"nearcache; fwd=stale; stored"


async def test_2_2_no_cache_is_as_good_as_stale(site: Site) -> None:
    """It was not the request that wanted it."""
    site.says("cache-control: max-age=10, no-cache", 'etag: "a"')
    await site.get()
    assert status(await site.get()) == b"nearcache; fwd=stale; stored"


async def test_2_3_fwd_status(site: Site) -> None:
    """The status of the forwarded request, where it is not the one of the answer."""
    site.says("cache-control: max-age=10", 'etag: "a"')
    await site.get()
    site.clock.advance(10)
    site.says("cache-control: max-age=10", 'etag: "a"', status=304)
    assert status(await site.get()) == b"nearcache; fwd=stale; fwd-status=304; stored"
    site.clock.advance(10)
    site.says("cache-control: no-store", 'etag: "a"', status=304)
    assert status(await site.get()) == b"nearcache; fwd=stale; fwd-status=304"


async def test_2_6_collapsed(site: Site) -> None:
    """Answered by a request that was on its way for another client."""
    gate = asyncio.Event()

    async def slow(scope: object, receive: object, send: object) -> None:
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": fields(FRESH)})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"a"})  # type: ignore[operator]

    site.runs(slow)
    asking = [asyncio.create_task(site.get()) for _ in range(3)]
    await site.asked.wait()
    gate.set()
    said = sorted([status(got) for got in await asyncio.gather(*asking)])
    assert said == [b"nearcache; fwd=uri-miss; collapsed"] * 2 + [b"nearcache; fwd=uri-miss; stored"]


async def test_2_no_member_is_added_to_what_is_made_here(site: Site) -> None:
    """SHOULD NOT append to a response that is based on nothing stored."""
    got = await site.get("cache-control: only-if-cached")
    assert (got.status, got.all("cache-status")) == (504, [])


async def test_2_the_members_of_caches_before_are_preserved(site: Site) -> None:
    """SHOULD preserve the existing value; the one nearest to the origin comes first."""
    site.says(FRESH, "cache-status: Origin; hit")
    assert (await site.get()).all("cache-status") == [b"Origin; hit", b"nearcache; fwd=uri-miss; stored"]
    assert (await site.get()).all("cache-status") == [b"Origin; hit", b"nearcache; hit; ttl=60"]
    assert (await site.get()).all("cache-status") == [b"Origin; hit", b"nearcache; hit; ttl=60"]


@pytest.mark.parametrize("line", ["cache-control: no-store", "cache-control: private", "set-cookie: a=b"])
async def test_2_3_what_is_not_stored_is_not_called_so(site: Site, line: str) -> None:
    """Nor is anything else claimed of it that is not true."""
    site.says(line)
    said = (await site.get()).field("cache-status") or b""
    assert b"stored" not in said
    assert b"hit" not in said
