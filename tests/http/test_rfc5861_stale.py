"""RFC 5861: stale-while-revalidate and stale-if-error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nearcache.http import cached_response

from .conftest import Site, fields

REVALIDATE = "cache-control: max-age=10, stale-while-revalidate=30"
IF_ERROR = "cache-control: max-age=10, stale-if-error=30"


# -- 3: stale-while-revalidate


async def test_3_a_stale_response_is_served_and_fetched_anew_behind(site: Site) -> None:
    """MAY serve it within that time, and SHOULD revalidate while it does."""
    site.says(REVALIDATE)
    await site.get()
    site.clock.advance(15)
    got = await site.get()
    assert (got.body, got.field("age")) == (b"1", b"15")
    assert got.field("cache-status") == b"nearcache; hit; ttl=-5"
    await site.refreshed()
    got = await site.get()
    assert (got.asked, got.body, got.field("age")) == (False, b"2", b"0")


async def test_3_its_time_begins_when_the_response_gets_stale_and_ends(site: Site) -> None:
    """Beyond it, the client waits."""
    site.says(REVALIDATE)
    await site.get()
    site.clock.advance(39.9)
    assert (await site.get()).body == b"1"
    await site.refreshed()
    site.clock.advance(40)
    assert (await site.get()).body == b"3"


async def test_3_it_is_fetched_once_for_all(site: Site) -> None:
    """Whoever comes meanwhile gets the stale one, too."""
    site.says(REVALIDATE)
    await site.get()
    site.clock.advance(15)
    gate = asyncio.Event()
    site.asked.clear()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": fields(REVALIDATE)})
        await send({"type": "http.response.body", "body": b"new"})

    site.runs(slow)
    assert (await site.get()).body == b"1"
    await site.asked.wait()
    assert {(await site.get()).body for _ in range(5)} == {b"1"}
    gate.set()
    await site.refreshed()
    assert len(site.requests) == 2
    assert (await site.get()).body == b"new"


async def test_3_it_is_validated_where_it_can_be(site: Site) -> None:
    """A 304 makes it fresh."""
    site.says(REVALIDATE, 'etag: "a"', body=b"first")
    await site.get()
    site.clock.advance(15)
    site.says(REVALIDATE, 'etag: "a"', status=304)
    await site.get()
    await site.refreshed()
    assert site.asked_with("if-none-match") == [b'"a"']
    got = await site.get()
    assert (got.body, got.field("age")) == (b"first", b"0")


@pytest.mark.parametrize(
    ("lines", "method"),
    [((), "HEAD"), (("range: bytes=0-0",), "GET"), (('if-none-match: "z"', "if-modified-since: x"), "GET")],
)
async def test_3_whole_responses_are_fetched_behind_whoever_asked(
    site: Site, lines: tuple[str, ...], method: str
) -> None:
    """HEAD, ranges and conditions are the client's, and answered with the stale response."""
    site.says(REVALIDATE, body=b"first")
    await site.get()
    site.clock.advance(15)
    site.says(REVALIDATE, body=b"second")
    await site.get(*lines, method=method)
    await site.refreshed()
    assert site.requests[-1]["method"] == "GET"
    for name in ("range", "if-none-match", "if-modified-since"):
        assert site.asked_with(name) == []
    got = await site.get()
    assert (got.asked, got.body) == (False, b"second")


async def test_3_a_failing_application_does_not_end_its_time(site: Site) -> None:
    """The stale response goes on being served, and the application is left alone for a moment."""
    site.says(REVALIDATE)
    await site.get()
    site.clock.advance(15)

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionError

    site.runs(failing)
    for _ in range(3):
        assert (await site.get()).body == b"1"
        await site.refreshed()
    assert len(site.requests) == 2
    site.clock.advance(1)
    await site.get()
    await site.refreshed()
    assert len(site.requests) == 3


async def test_3_what_is_not_stored_does_not_replace_it(site: Site) -> None:
    """The client of the moment sees nothing of it either."""
    site.says(REVALIDATE)
    await site.get()
    site.clock.advance(15)
    site.says("cache-control: no-store")
    assert (await site.get()).body == b"1"
    await site.refreshed()
    site.clock.advance(30)
    assert (await site.get()).body == b"3"


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5"])
async def test_3_a_time_that_is_garbage_is_none(site: Site, value: str) -> None:
    """Not any time."""
    site.says(f"cache-control: max-age=10, stale-while-revalidate={value}", 'etag: "a"')
    await site.get()
    site.clock.advance(10)
    assert (await site.get()).body == b"2"


async def test_3_a_route_may_say_it(site: Site) -> None:
    """Whatever the fields say, for this cache."""

    @cached_response(ttl=10, stale_while_revalidate=30)
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields("cache-control: must-revalidate")})
        await send({"type": "http.response.body", "body": b"%d" % len(site.requests)})

    site.runs(app)
    await site.get()
    site.clock.advance(15)
    assert (await site.get()).body == b"1"
    await site.refreshed()
    assert (await site.get()).body == b"2"


# -- 4: stale-if-error


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("validator", [(), ('etag: "a"',)])
async def test_4_a_stale_response_is_served_instead_of_an_error(
    site: Site, status: int, validator: tuple[str, ...]
) -> None:
    """MAY, for these statuses, within that time."""
    site.says(IF_ERROR, *validator)
    await site.get()
    site.clock.advance(15)
    site.says("x-error: 1", status=status)
    got = await site.get()
    assert (got.asked, got.status, got.body, got.field("age")) == (True, 200, b"1", b"15")
    assert got.field("x-error") is None
    assert got.field("cache-status") == b"nearcache; fwd=stale; fwd-status=%d" % status


async def test_4_no_answer_at_all_is_an_error_too(site: Site) -> None:
    """A connection that fails is a situation that would give a 502 or 504."""
    site.says(IF_ERROR)
    await site.get()
    site.clock.advance(15)

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionError

    site.runs(failing)
    got = await site.get()
    assert (got.asked, got.status, got.body) == (True, 200, b"1")


async def test_4_an_error_after_the_beginning_of_a_response_is_an_error(site: Site) -> None:
    """Two responses to one request would be worse."""
    site.says(IF_ERROR)
    await site.get()
    site.clock.advance(15)

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ConnectionError

    site.runs(failing)
    with pytest.raises(ConnectionError):
        await site.get()


@pytest.mark.parametrize("status", [501, 505, 404, 403, 429])
async def test_4_other_statuses_are_answers(site: Site, status: int) -> None:
    """They are no sign that something is broken for now."""
    site.says(IF_ERROR, 'etag: "a"')
    await site.get()
    site.clock.advance(15)
    site.says(status=status)
    assert (await site.get()).status == status


async def test_4_its_time_ends(site: Site) -> None:
    """So many seconds after the response got stale."""
    site.says(IF_ERROR, 'etag: "a"')
    await site.get()
    site.says(status=503)
    site.clock.advance(39.9)
    assert (await site.get()).status == 200
    site.clock.advance(0.1)
    assert (await site.get()).status == 503, "also when the application has failed a moment ago"


@pytest.mark.parametrize("validator", [(), ('etag: "a"',)])
async def test_4_a_response_is_kept_for_its_time(site: Site, validator: tuple[str, ...]) -> None:
    """It may be needed, whether it can be validated or not."""
    site.says("cache-control: max-age=10, stale-if-error=100000", *validator)
    await site.get()
    site.clock.advance(99_000)
    site.says(status=503)
    assert (await site.get()).body == b"1"


async def test_4_after_an_error_the_application_is_left_alone_for_a_moment(site: Site) -> None:
    """One second; then it is asked again, and may be well."""
    site.says(IF_ERROR)
    await site.get()
    site.clock.advance(15)
    site.says(status=503)
    assert [(await site.get()).asked for _ in range(3)] == [True, False, False]
    site.clock.advance(1)
    site.says(IF_ERROR)
    got = await site.get()
    assert (got.asked, got.body) == (True, b"3")


async def test_4_the_request_may_ask_for_it(site: Site) -> None:
    """The directive in a request does the same for that request."""
    site.says("cache-control: max-age=10", 'etag: "a"')
    await site.get()
    site.clock.advance(15)
    site.says(status=503)
    assert (await site.get("cache-control: stale-if-error=5")).status == 503
    assert (await site.get("cache-control: stale-if-error=x")).status == 503
    assert (await site.get("cache-control: stale-if-error=6")).status == 200


@pytest.mark.parametrize("request_line", ["cache-control: no-cache", "cache-control: no-cache, stale-if-error=99"])
async def test_4_a_client_that_wants_no_cache_gets_the_error(site: Site, request_line: str) -> None:
    """It has said so."""
    site.says(IF_ERROR, 'etag: "a"')
    await site.get()
    site.clock.advance(15)
    site.says(status=503)
    assert (await site.get(request_line)).status == 503


async def test_4_a_fresh_response_may_stand_in_too(site: Site) -> None:
    """For a client that wanted one newer than that."""
    site.says(IF_ERROR, 'etag: "a"')
    await site.get()
    site.clock.advance(5)
    site.says(status=503)
    assert (await site.get("cache-control: max-age=3")).body == b"1"


async def test_4_both_times(site: Site) -> None:
    """First it is fetched anew behind, later it stands in for errors."""
    site.says("cache-control: max-age=10, stale-while-revalidate=10, stale-if-error=30")
    await site.get()
    site.says(status=503)
    site.clock.advance(15)
    assert (await site.get()).field("cache-status") == b"nearcache; hit; ttl=-5"
    await site.refreshed()
    site.clock.advance(10)
    got = await site.get()
    assert (got.body, got.field("cache-status")) == (b"1", b"nearcache; fwd=stale; fwd-status=503")
