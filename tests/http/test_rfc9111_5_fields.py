"""RFC 9111, section 5: Age, Cache-Control in requests and responses, Expires and Pragma."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nearcache.http.fields import directives

from .conftest import Site, fields

FRESH = "cache-control: max-age=60"


# -- 5.1: Age


async def test_5_1_a_response_from_the_cache_has_an_age(site: Site) -> None:
    """MUST generate Age when a stored response is used without validation (section 4); whole seconds, one line."""
    site.says(FRESH)
    assert (await site.get()).field("age") is None
    for seconds, expected in ((0, b"0"), (1, b"1"), (0.9, b"1"), (0.1, b"2"), (50, b"52")):
        site.clock.advance(seconds)
        for request in ((), ("accept: a", "cache-control: max-stale")):
            got = await site.get(*request)
            assert (got.asked, got.all("age")) == (False, [expected])


async def test_5_1_every_kind_of_answer_has_one(site: Site) -> None:
    """304, 206 and 416 as well as 200, and to HEAD."""
    site.says(FRESH, 'etag: "a"', "Age: 5", body=b"12345")
    await site.get()
    site.clock.advance(3)
    for lines, status in (
        (('if-none-match: "a"',), 304),
        (("range: bytes=0-1",), 206),
        (("range: bytes=9-",), 416),
        (("accept: a",), 200),
    ):
        got = await site.get(*lines)
        assert (got.asked, got.status, got.all("age")) == (False, status, [b"8"])
    assert (await site.get(method="HEAD")).all("age") == [b"8"]


async def test_5_1_the_age_of_a_response_that_is_passed_on_is_left_alone(site: Site) -> None:
    """It is the origin's."""
    site.says("cache-control: no-store", "age: 7")
    assert (await site.get()).all("age") == [b"7"]


# -- 5.2: how Cache-Control is read


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Max-Age=1"], {b"max-age": b"1"}),
        (["max-age=1", "s-maxage=2"], {b"max-age": b"1", b"s-maxage": b"2"}),
        (['a="b, c" , d'], {b"a": b"b, c", b"d": b""}),
        (['a="b\\"c\\\\d"'], {b"a": b'b"c\\d'}),
        (["a=1, A=2"], {b"a": b"1"}),
        (["", ",", ", ,"], {}),
        (['a="b'], {b"a": b"?"}),
        (['a="b, c'], {b"a": b"?", b"c": b""}),
        (["a="], {b"a": b"?"}),
        (["=b"], {b"": b"b"}),
        (['a="b"c'], {b"a": b"?"}),
        (["a = b"], {b"a": b"?"}),
        (['a="\\'], {b"a": b"?"}),
    ],
)
def test_5_2_names_have_no_case_and_arguments_may_be_quoted(lines: list[str], expected: dict[bytes, bytes]) -> None:
    """A cache MUST obey what is said there, tokens and quoted strings alike, over several lines."""
    assert directives(line.encode() for line in lines) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("private", b""),
        ('private="a"', b"a"),
        ('private="a", private="b, c"', b"a,b,c"),
        ('private="a", private', b""),
        ('private, private="a"', b""),
        ('private=""', b""),
        ("private=", b""),
        ("private=a", b""),
        ("private=true", b""),
        ('private = "a"', b""),
        ('private="a', b""),
        ('private="*"', b""),
        ('private="a b"', b""),
        ("PRIVATE", b""),
        ("max-age=1; private", b""),
        ("max-age=1 private", b""),
        ("max-age=private", b""),
        ("no-store=private", b""),
        ('x="a, private', b""),
        ('x="\\", private', b""),
        ('"private', b""),
        ('private="a", x;private', b""),
        ("x-private", None),
        ("privately", None),
        ('x="private"', None),
        ('x="a, private, b"', None),
        ('x="\\", private"', None),
    ],
)
def test_5_2_what_forbids_is_found_and_forbids_what_it_can(line: str, expected: bytes | None) -> None:
    """Empty: everything; else the fields it is about. In doubt, everything."""
    assert directives([line.encode()]).get(b"private") == expected
    for name in ("no-cache", "no-store"):
        swapped = line.replace("no-store", "x").replace("PRIVATE", name.upper()).replace("private", name)
        assert directives([swapped.encode()]).get(name.encode()) == expected


@pytest.mark.parametrize("garbage", ['"\\', '"', '\\"', '",', "=", "W/", 'a="b\\"', "private ", ", ", '"a"'])
@pytest.mark.timeout(30)
def test_5_2_garbage_takes_linear_time(garbage: str) -> None:
    """It comes from anybody. With quadratic time this would take half an hour, and fail by its timeout."""
    directives([garbage.encode() * (300_000 // len(garbage))])


# -- 5.2.1: request directives


async def test_5_2_1_1_max_age(site: Site) -> None:
    """The client wants no response that is older than that."""
    site.says(FRESH)
    await site.get()
    site.clock.advance(10)
    assert not (await site.get("cache-control: max-age=10")).asked
    assert not (await site.get("cache-control: max-age=99999999999999999999")).asked
    assert (await site.get("cache-control: max-age=9")).asked
    assert not (await site.get("cache-control: max-age=9")).asked, "it got a new one"


async def test_5_2_1_1_max_age_0_asks_for_a_validation(site: Site) -> None:
    """What a browser sends on reload: however new the stored response is, it is older than that."""
    site.says(FRESH)
    await site.get()
    assert (await site.get("cache-control: max-age=0")).asked
    site.clock.advance(0.5)
    assert (await site.get("cache-control: max-age=0")).asked


async def test_5_2_1_1_max_age_beside_max_stale(site: Site) -> None:
    """With max-stale, a response may be older than max-age."""
    site.says(FRESH)
    await site.get()
    site.clock.advance(10)
    assert not (await site.get("cache-control: max-age=5, max-stale=10")).asked


async def test_5_2_1_1_max_age_wants_nothing_stale(site: Site) -> None:
    """Unless max-stale is there, too; also not what may be served while it is fetched anew."""
    site.says("cache-control: max-age=5, stale-while-revalidate=60")
    await site.get()
    site.clock.advance(10)
    assert (await site.get("cache-control: max-age=20")).asked


@pytest.mark.parametrize("value", ["", "x", "-1", "=", '"', "1.5"])
async def test_5_2_1_1_a_max_age_that_is_garbage_does_not_count(site: Site, value: str) -> None:
    """These directives are advice; there is none in it."""
    site.says(FRESH)
    await site.get()
    site.clock.advance(10)
    assert not (await site.get(f"cache-control: max-age={value}")).asked


async def test_5_2_1_2_max_stale(site: Site) -> None:
    """The client accepts what is stale by that many seconds; without a number, by any."""
    site.says("cache-control: max-age=10", 'etag: "a"')
    await site.get()
    site.clock.advance(20)
    got = await site.get("cache-control: max-stale=10")
    assert (got.asked, got.field("age")) == (False, b"20")
    assert not (await site.get("cache-control: max-stale")).asked
    for value in ("9", "x", "-5", ""):
        assert (await site.get(f"cache-control: max-stale={value}")).asked
        site.clock.advance(20)


async def test_5_2_1_3_min_fresh(site: Site) -> None:
    """The client wants a response that stays fresh for so long."""
    site.says(FRESH)
    await site.get()
    site.clock.advance(30)
    assert not (await site.get("cache-control: min-fresh=30")).asked
    assert not (await site.get("cache-control: min-fresh=garbage")).asked
    assert (await site.get("cache-control: min-fresh=31")).asked
    site.says("cache-control: max-age=1, stale-while-revalidate=100")
    await site.get(path="/b")
    site.clock.advance(2)
    assert (await site.get("cache-control: min-fresh=1", path="/b")).asked
    site.clock.advance(2)
    assert (await site.get("cache-control: min-fresh=1, max-stale", path="/b")).asked


async def test_5_2_1_4_no_cache(site: Site) -> None:
    """MUST NOT (5.2.1.4: prefers that it not) be answered without a validation; the answer is stored."""
    site.says(FRESH, 'etag: "a"')
    await site.get()
    assert (await site.get("Cache-Control: No-Cache")).asked
    assert site.asked_with("if-none-match") == [b'"a"']
    assert (await site.get()).body == b"2"


async def test_5_2_1_4_no_cache_beside_others(site: Site) -> None:
    """Nothing else in the request takes it back."""
    site.says(FRESH)
    await site.get()
    assert (await site.get("cache-control: max-stale, no-cache, max-age=60")).asked
    assert (await site.get("cache-control: max-stale", "cache-control: no-cache")).asked


@pytest.mark.parametrize(("line", "expected"), [("cache-control: no-cache", b"2"), ("x-a: 1", b"1")])
async def test_5_2_1_4_no_cache_is_not_answered_by_what_began_before_it(site: Site, line: str, expected: bytes) -> None:
    """Who asks for news does not get a response that was on its way already; others do."""
    gate = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        number = len(site.requests)
        await send({"type": "http.response.start", "status": 200, "headers": fields(FRESH)})
        await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        site.clock.advance(1)
        await gate.wait()
        await send({"type": "http.response.body"})

    site.runs(slow)
    first = asyncio.create_task(site.get())
    await site.asked.wait()
    second = asyncio.create_task(site.get(line))
    await asyncio.sleep(0)
    gate.set()
    assert ((await first).body, (await second).body) == (b"1", expected)


async def test_5_2_1_5_no_store(site: Site) -> None:
    """MUST NOT store any part of the request, nor of any response to it."""
    site.says(FRESH)
    assert not await site.reuses("cache-control: no-store")
    assert (await site.get()).asked
    assert not (await site.get()).asked


async def test_5_2_1_5_no_store_does_not_keep_from_using_what_is_stored(site: Site) -> None:
    """It says nothing of what was stored before; a client that wants a new one says no-cache."""
    site.says(FRESH)
    await site.get()
    assert not (await site.get("cache-control: no-store")).asked
    got = await site.get("cache-control: no-store, no-cache")
    assert got.body == b"2"
    assert (await site.get()).body == b"1", "nor is it stored by way of a validation"


async def test_5_2_1_5_no_store_does_not_touch_what_is_stored(site: Site) -> None:
    """Such a request goes on as it is; what is stored is for others."""
    site.says(FRESH, 'etag: "a"', body=b"first")
    await site.get()
    site.says(FRESH, 'etag: "b"', body=b"second")
    assert (await site.get("cache-control: no-store, no-cache")).body == b"second"
    assert site.asked_with("if-none-match") == []
    got = await site.get()
    assert (got.asked, got.body) == (False, b"first")


async def test_5_2_1_6_no_transform(site: Site) -> None:
    """MUST NOT transform; nothing here does."""
    site.says(FRESH, body=b"12345")
    await site.get()
    got = await site.get("cache-control: no-transform")
    assert (got.asked, got.body) == (False, b"12345")


async def test_5_2_1_7_only_if_cached(site: Site) -> None:
    """SHOULD answer with what is stored, or with 504 (Gateway Timeout)."""
    site.says("cache-control: max-age=10", 'etag: "a"')
    got = await site.get("cache-control: only-if-cached")
    assert (got.asked, got.status, got.body, got.field("content-length")) == (False, 504, b"", b"0")
    await site.get()
    assert (await site.get("cache-control: only-if-cached")).status == 200
    site.clock.advance(11)
    assert (await site.get("cache-control: only-if-cached")).status == 504
    assert (await site.get("cache-control: only-if-cached, max-stale")).status == 200
    assert len(site.requests) == 1


@pytest.mark.parametrize("line", ["cookie: a=b", "authorization: Basic YTpi"])
async def test_5_2_1_7_only_if_cached_holds_for_whoever_asks(site: Site, line: str) -> None:
    """A request that may not be answered from the cache gets the 504, too."""
    site.says(FRESH)
    for _ in range(2):
        assert (await site.get("cache-control: only-if-cached", line)).status == 504
        await site.get()
    for _ in range(4):
        await site.get(line)
    assert (await site.get("cache-control: only-if-cached", line)).status == 504


async def test_5_2_1_7_a_504_is_not_stored(site: Site) -> None:
    """It was made here."""
    await site.get("cache-control: only-if-cached")
    site.says(FRESH)
    assert (await site.get()).status == 200


# -- 5.2.2: response directives (those about storing are in test_rfc9111_3_storing)


async def test_5_2_2_1_max_age(site: Site) -> None:
    """Stale when the age is greater than so many seconds."""
    site.says("cache-control: max-age=5")
    await site.get()
    site.clock.advance(4)
    assert not (await site.get()).asked
    site.clock.advance(2)
    assert (await site.get()).asked


@pytest.mark.parametrize("control", ["must-revalidate", "Must-Revalidate", "must-revalidate=1"])
async def test_5_2_2_2_must_revalidate(site: Site, control: str) -> None:
    """MUST NOT reuse once it is stale until it has been validated."""
    site.says(f"cache-control: max-age=5, {control}, stale-while-revalidate=60", 'etag: "a"')
    await site.get()
    site.clock.advance(4)
    assert not (await site.get()).asked
    site.clock.advance(2)
    assert (await site.get("cache-control: max-stale")).asked


async def test_5_2_2_2_must_revalidate_and_an_application_that_fails(site: Site) -> None:
    """MUST answer with an error, not with a stale response."""
    site.says("cache-control: max-age=5, must-revalidate, stale-if-error=60", 'etag: "a"')
    await site.get()
    site.clock.advance(6)

    async def failing(scope: object, receive: object, send: object) -> None:
        raise ConnectionError

    site.runs(failing)
    with pytest.raises(ConnectionError):
        await site.get()


async def test_5_2_2_4_no_cache(site: Site) -> None:
    """MUST NOT be used without a successful validation."""
    site.says("cache-control: max-age=60, no-cache", 'etag: "a"', body=b"first")
    await site.get()
    site.says("cache-control: max-age=60, no-cache", 'etag: "a"', status=304)
    for _ in range(2):
        got = await site.get()
        assert (got.asked, got.status, got.body) == (True, 200, b"first")
        assert site.asked_with("if-none-match") == [b'"a"']
    assert (await site.get("cache-control: max-stale")).asked
    assert (await site.get("cache-control: only-if-cached")).status == 504


async def test_5_2_2_4_no_cache_is_not_served_while_it_is_fetched_or_instead_of_an_error(site: Site) -> None:
    """RFC 5861 takes nothing back."""
    site.says(
        "cache-control: max-age=1, no-cache, stale-while-revalidate=60, stale-if-error=60", 'etag: "a"', body=b"first"
    )
    await site.get()
    site.clock.advance(2)
    site.says(status=500)
    for _ in range(2):
        assert (await site.get()).status == 500


async def test_5_2_2_4_no_cache_with_names_is_about_these(site: Site) -> None:
    """The others may be used without validation."""
    site.says('cache-control: max-age=60, no-cache="x-a"', "x-a: 1", "x-b: 2")
    await site.get()
    got = await site.get()
    assert (got.asked, got.field("x-a"), got.field("x-b")) == (False, None, b"2")


async def test_5_2_2_8_proxy_revalidate(site: Site) -> None:
    """must-revalidate for shared caches."""
    site.says("cache-control: max-age=5, proxy-revalidate", 'etag: "a"')
    await site.get()
    site.clock.advance(6)
    assert (await site.get("cache-control: max-stale")).asked


async def test_5_2_2_10_s_maxage(site: Site) -> None:
    """It overrides max-age and Expires in a shared cache, and incorporates proxy-revalidate."""
    site.says("cache-control: max-age=1, s-maxage=10", f"expires: {site.date(1)}", 'etag: "a"')
    await site.get()
    site.clock.advance(9)
    assert not (await site.get()).asked
    site.clock.advance(1)
    assert (await site.get("cache-control: max-stale")).asked


async def test_5_2_2_10_s_maxage_0(site: Site) -> None:
    """Stale from the start, here alone."""
    site.says("cache-control: max-age=100, s-maxage=0", 'etag: "a"')
    assert not await site.reuses()


async def test_5_2_3_directives_that_are_not_known_are_ignored(site: Site) -> None:
    """MUST ignore unrecognised directives."""
    site.says('cache-control: frob, max-age=60, immutable, x="y, no"')
    assert await site.reuses("cache-control: frob=1, no-no-cache")


# -- 5.3: Expires


async def test_5_3_expires(site: Site) -> None:
    """Stale from that moment on; it is not changed."""
    when = site.date(30)
    site.says(f"expires: {when}")
    await site.get()
    site.clock.advance(29)
    got = await site.get()
    assert (got.asked, got.field("expires")) == (False, when.encode())
    site.clock.advance(1)
    assert (await site.get()).asked


async def test_5_3_max_age_and_s_maxage_override_expires(site: Site) -> None:
    """MUST ignore Expires beside them."""
    site.says(FRESH, "expires: 0")
    assert await site.reuses()
    site.says("cache-control: s-maxage=60", "expires: 0")
    assert await site.reuses(path="/b")
    site.says("cache-control: max-age=0", f"expires: {site.date(30)}")
    assert not await site.reuses(path="/c")


# -- 5.4: Pragma


async def test_5_4_pragma_stands_for_no_cache(site: Site) -> None:
    """When Cache-Control is missing, Pragma: no-cache in a request means the same."""
    site.says(FRESH)
    await site.get()
    assert (await site.get("Pragma: No-Cache, x")).asked
    assert not (await site.get("pragma: x")).asked


async def test_5_4_pragma_in_a_response_is_taken_for_caution(site: Site) -> None:
    """It was never specified there; an application that says it means no-cache."""
    site.says("pragma: no-cache", f"expires: {site.date(60)}", 'etag: "a"')
    assert not await site.reuses()
    site.says("pragma: no-cache", FRESH)
    assert await site.reuses(path="/b")


async def test_5_4_cache_control_counts_more_than_pragma(site: Site) -> None:
    """A cache that understands Cache-Control ignores Pragma beside it."""
    site.says(FRESH)
    await site.get()
    assert not (await site.get("pragma: no-cache", "cache-control: max-age=60")).asked
    assert not (await site.get("pragma: no-cache", "cache-control: ")).asked
