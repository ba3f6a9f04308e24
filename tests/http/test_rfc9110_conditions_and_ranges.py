"""RFC 9110, sections 13 to 15, as far as a cache answers: conditions, ranges, 304, 206 and 416."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nearcache.http import cached_response, serving, storing
from nearcache.http.fields import entity_tags, http_date
from nearcache.http.records import Stored
from nearcache.http.requests import Request

from .conftest import Site, fields, http_scope

NOW = 1_767_225_600.0
THEN = "Thu, 01 Jan 2026 00:00:00 GMT"
BEFORE = "Wed, 31 Dec 2025 23:00:00 GMT"
AFTER = "Thu, 01 Jan 2026 01:00:00 GMT"
BODY = b"0123456789"


def stored(*lines: str, status: int = 200, body: bytes = BODY) -> Stored:
    headers = tuple(fields("cache-control: max-age=100000", *lines))
    terms = storing.terms(Request(http_scope()), status, headers, now=NOW)
    assert isinstance(terms, storing.Terms)
    return storing.make_stored(status, headers, body, terms, NOW)


def answer(held: Stored, *lines: str, method: str = "GET") -> serving.Answer:
    return serving.answer(held, Request(http_scope(headers=fields(*lines), method=method)))


# -- 13.1.2: If-None-Match


@pytest.mark.parametrize(
    ("etag", "asked", "status"),
    [
        ('"a"', '"a"', 304),
        ('"a"', '"b"', 200),
        ('"a"', '"A"', 200),
        ('"a"', 'W/"a"', 304),
        ('W/"a"', '"a"', 304),
        ('W/"a"', 'W/"a"', 304),
        ('W/"a"', 'W/"b"', 200),
        ('"a"', '"b", "a"', 304),
        ('"a"', '"b","a"', 304),
        ('"a"', '"b" , W/"a" ', 304),
        ('"a,b"', '"a,b"', 304),
        ('"a,b"', '"a", "b"', 200),
        ('"a"', "*", 304),
        ('"a"', '*, "b"', 200),
        ('"a"', "", 200),
        ('"a"', "a", 200),
        ('"a"', '"a', 200),
        ('""', '""', 304),
        ('""', "", 200),
        ("unquoted", "unquoted", 304),
    ],
)
def test_9110_13_1_2_if_none_match_is_compared_weakly(etag: str, asked: str, status: int) -> None:
    """MUST use the weak comparison; the condition is false when a tag matches, or for an asterisk."""
    assert answer(stored(f"etag: {etag}"), f"if-none-match: {asked}").status == status


def test_9110_13_1_2_several_lines_are_one_list() -> None:
    """As of any list."""
    assert answer(stored('etag: "a"'), 'if-none-match: "b"', 'If-None-Match: "a"').status == 304


def test_9110_13_1_3_if_none_match_counts_more_than_a_date() -> None:
    """MUST ignore If-Modified-Since beside If-None-Match, whichever way it goes."""
    held = stored('etag: "a"', f"last-modified: {THEN}")
    assert answer(held, 'if-none-match: "b"', f"if-modified-since: {AFTER}").status == 200
    assert answer(held, 'if-none-match: "a"', f"if-modified-since: {BEFORE}").status == 304


# -- 13.1.3: If-Modified-Since


@pytest.mark.parametrize(
    ("lines", "asked", "status"),
    [
        ((f"last-modified: {THEN}",), THEN, 304),
        ((f"last-modified: {THEN}",), AFTER, 304),
        ((f"last-modified: {THEN}",), BEFORE, 200),
        ((f"last-modified: {THEN}",), "Thursday, 01-Jan-26 00:00:00 GMT", 304),
        ((f"last-modified: {THEN}",), "garbage", 200),
        ((f"last-modified: {THEN}",), "", 200),
        ((f"last-modified: {AFTER}", f"date: {BEFORE}"), THEN, 200),
        ((f"date: {BEFORE}",), THEN, 304),
        ((f"date: {THEN}",), BEFORE, 200),
        (("last-modified: garbage", f"date: {BEFORE}"), THEN, 304),
        ((), THEN, 304),
        ((), AFTER, 304),
        ((), BEFORE, 200),
        (("age: 3600",), BEFORE, 304),
        (("date: garbage",), THEN, 304),
    ],
)
def test_9110_13_1_3_if_modified_since(lines: tuple[str, ...], asked: str, status: int) -> None:
    """By Last-Modified; without, by Date; without, by the time it was received (RFC 9111, section 4.3.2)."""
    assert answer(stored(*lines), f"if-modified-since: {asked}").status == status


def test_9110_13_1_3_two_dates_are_none() -> None:
    """MUST ignore the field when its value is not one valid date."""
    held = stored(f"last-modified: {BEFORE}")
    assert answer(held, f"if-modified-since: {THEN}", f"if-modified-since: {THEN}").status == 200


@pytest.mark.parametrize("status", [203, 301, 404, 500])
def test_9110_13_2_1_conditions_are_for_responses_with_200(status: int) -> None:
    """MUST ignore conditions where the answer without them would be no success."""
    held = stored('etag: "a"', status=status)
    for line in ('if-none-match: "a"', "if-none-match: *", f"if-modified-since: {AFTER}", "range: bytes=0-1"):
        assert answer(held, line).status == status


# -- 15.4.5: 304


def test_9110_15_4_5_a_304_has_these_fields_and_no_content() -> None:
    """MUST have Content-Location, Date, ETag, Vary, Cache-Control and Expires; SHOULD NOT describe the content."""
    kept = [f"date: {THEN}", f"expires: {AFTER}", "content-location: /a", "vary: accept", 'etag: "a"', "x-more: 1"]
    about = ["content-type: text/plain", "content-encoding: gzip", "content-language: de", "content-length: 10"]
    found = answer(stored(*kept, *about), 'if-none-match: "a"')
    assert (found.status, found.body) == (304, b"")
    assert sorted(found.headers) == sorted(fields("cache-control: max-age=100000", *kept))


async def test_9110_15_4_5_a_head_request_may_be_answered_by_a_304(site: Site) -> None:
    """Conditions are for GET and HEAD."""
    site.says("cache-control: max-age=60", 'etag: "a"')
    await site.get()
    assert (await site.get('if-none-match: "a"', method="HEAD")).status == 304


async def test_9110_8_8_3_what_has_no_tag_gets_one(site: Site) -> None:
    """A strong one, of the content: the same for the same, another for another."""
    site.says("cache-control: max-age=60", "content-length: 1")
    first = (await site.get(path="/a")).field("etag")
    assert first is not None
    assert first.startswith(b'"')
    assert (await site.get(path="/a")).field("etag") == first
    assert (await site.get(f"if-none-match: {first.decode()}", path="/a")).status == 304
    assert (await site.get(path="/b")).field("etag") != first


@pytest.mark.parametrize(
    ("modified", "asked", "status"),
    [(None, BEFORE, 200), (None, AFTER, 304), (BEFORE, BEFORE, 304), (BEFORE, "Wed, 31 Dec 2025 22:00:00 GMT", 200)],
)
async def test_9110_13_1_3_a_route_that_asks_for_it_gets_conditions_answered_though_nothing_is_stored(
    site: Site, modified: str | None, asked: str, status: int
) -> None:
    """By the same rules."""

    @cached_response(etag=True)
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = fields("cache-control: no-store", *([f"last-modified: {modified}"] if modified else []))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})

    site.runs(app)
    tag = (await site.get()).field("etag")
    assert tag is not None
    assert (await site.get(f"if-none-match: {tag.decode()}")).status == 304
    assert (await site.get('if-none-match: "b"')).status == 200
    assert (await site.get(f"if-modified-since: {asked}")).status == status
    assert site.requests[3:], "every time the application was asked"


@pytest.mark.parametrize("status", [203, 301, 404])
def test_9110_8_8_3_only_a_200_gets_a_tag(status: int) -> None:
    """Conditions are for nothing else."""
    assert b"etag" in dict(stored().headers)
    assert b"etag" not in dict(stored(status=status).headers)


# -- 14: ranges


@pytest.mark.parametrize(
    ("asked", "content_range", "body"),
    [
        ("bytes=0-0", "bytes 0-0/10", b"0"),
        ("bytes=2-4", "bytes 2-4/10", b"234"),
        ("bytes=2-", "bytes 2-9/10", b"23456789"),
        ("bytes=9-9", "bytes 9-9/10", b"9"),
        ("bytes=9-99", "bytes 9-9/10", b"9"),
        ("bytes=0-9", "bytes 0-9/10", BODY),
        ("bytes=-1", "bytes 9-9/10", b"9"),
        ("bytes=-3", "bytes 7-9/10", b"789"),
        ("bytes=-10", "bytes 0-9/10", BODY),
        ("bytes=-99", "bytes 0-9/10", BODY),
        ("BYTES=0-1", "bytes 0-1/10", b"01"),
        (" bytes=0-1 ", "bytes 0-1/10", b"01"),
    ],
)
def test_9110_14_one_range_is_answered_with_206(asked: str, content_range: str, body: bytes) -> None:
    """MUST have Content-Range, and the fields a 200 would have; Content-Length is that of the part (15.3.7)."""
    held = stored('etag: "a"', "content-type: text/plain", "vary: accept", "content-location: /a", f"date: {THEN}")
    found = answer(held, f"range: {asked}")
    assert (found.status, found.body) == (206, body)
    lines = [f"content-range: {content_range}", f"content-length: {len(body)}"]
    rest = [pair for pair in held.headers if pair[0] != b"content-length"]
    assert sorted(found.headers) == sorted([*fields(*lines), *rest])


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=999999999999-"])
def test_9110_15_5_17_a_range_beyond_the_end_is_answered_with_416(asked: str) -> None:
    """SHOULD tell the length in Content-Range."""
    found = answer(stored("content-type: text/plain"), f"range: {asked}")
    assert (found.status, found.body) == (416, b"")
    headers = dict(found.headers)
    assert headers[b"content-range"] == b"bytes */10"
    assert headers[b"content-length"] == b"0"
    assert b"content-type" not in headers


@pytest.mark.parametrize(
    "asked",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "bytes=0", "lines=0-1", "bytes=0-1,3-4"),
        *("bytes=0-1,", "bytes=+0-1", "bytes=0x0-1", "bytes=0--1", "bytes=0-1-2", "bytes 0-1"),
        *("bytes=" + "9" * 999 + "-", "bytes=\u0660-\u0661"),
    ],
)
def test_9110_14_2_what_is_no_range_is_ignored(asked: str) -> None:
    """MUST ignore ranges in units that are not understood; MAY ignore Range altogether, and does for several."""
    held = stored()
    found = serving.answer(held, Request(http_scope(headers=[(b"range", asked.encode())])))
    assert (found.status, found.body, found.headers) == (200, BODY, held.headers)


def test_9110_14_2_a_range_is_for_get_alone() -> None:
    """MUST ignore Range in a request of another method."""
    found = answer(stored(), "range: bytes=0-1", method="HEAD")
    assert (found.status, found.body) == (200, b"")


def test_9110_14_2_two_range_lines_are_none() -> None:
    """Which one?"""
    assert answer(stored(), "range: bytes=0-1", "range: bytes=2-3").status == 200


@pytest.mark.parametrize(("asked", "status"), [("bytes=0-", 416), ("bytes=0-0", 416), ("bytes=-5", 200)])
def test_9110_14_1_2_ranges_of_nothing(asked: str, status: int) -> None:
    """No position is within it; the last five bytes are all there is."""
    found = answer(stored(body=b""), f"range: {asked}")
    assert (found.status, found.body) == (status, b"")


def test_9110_13_2_2_conditions_come_before_ranges() -> None:
    """When If-None-Match is false the answer is a 304, whatever Range says."""
    held = stored('etag: "a"')
    assert answer(held, 'if-none-match: "a"', "range: bytes=0-1").status == 304
    assert answer(held, 'if-none-match: "b"', "range: bytes=0-1").status == 206


# -- 13.1.5: If-Range


@pytest.mark.parametrize(
    ("validator", "status"),
    [
        ('"a"', 206),
        ('"b"', 200),
        ('W/"a"', 200),
        ("a", 200),
        ("", 200),
        (BEFORE, 206),
        (THEN, 200),
        ("Wednesday, 31-Dec-25 23:00:00 GMT", 200),
        ("Wed, 31 Dec 2025 22:00:00 GMT", 200),
    ],
)
def test_9110_13_1_5_if_range_is_compared_strongly(validator: str, status: int) -> None:
    """MUST use the strong comparison, and of dates an exact match."""
    held = stored('etag: "a"', f"last-modified: {BEFORE}", f"date: {THEN}")
    assert answer(held, "range: bytes=0-1", f"if-range: {validator}").status == status


def test_9110_13_1_5_a_weak_tag_never_matches() -> None:
    """Not even itself."""
    assert answer(stored('etag: W/"a"'), "range: bytes=0-1", 'if-range: W/"a"').status == 200


@pytest.mark.parametrize(
    ("date", "status"), [(BEFORE, 200), ("Wed, 31 Dec 2025 23:00:01 GMT", 206), ("Wed, 31 Dec 2025 22:59:59 GMT", 200)]
)
def test_9110_13_1_5_a_date_that_is_not_strong_never_matches(date: str, status: int) -> None:
    """A change within the same second would go unseen: Date has to be one second later at least (8.8.2.2)."""
    held = stored(f"last-modified: {BEFORE}", f"date: {date}")
    assert answer(held, "range: bytes=0-1", f"if-range: {BEFORE}").status == status


def test_9110_13_1_5_without_a_date_the_time_it_was_received_counts() -> None:
    """Section 6.6.1."""
    assert answer(stored(f"last-modified: {BEFORE}"), "range: bytes=0-1", f"if-range: {BEFORE}").status == 206
    assert answer(stored(f"last-modified: {THEN}"), "range: bytes=0-1", f"if-range: {THEN}").status == 200


def test_9110_13_1_5_two_validators_are_none() -> None:
    """Then the range does not count."""
    assert answer(stored('etag: "a"'), "range: bytes=0-1", 'if-range: "a"', 'if-range: "a"').status == 200


def test_9110_13_1_5_if_range_without_range_means_nothing() -> None:
    """MUST ignore it."""
    assert answer(stored('etag: "a"'), 'if-range: "b"').status == 200


# -- ranges through the middleware


async def test_a_range_of_what_is_stored(site: Site) -> None:
    """From the cache, of the whole that is stored."""
    site.says("cache-control: max-age=60", body=BODY)
    await site.get()
    got = await site.get("range: bytes=2-4")
    assert (got.asked, got.status, got.body, got.field("content-range")) == (False, 206, b"234", b"bytes 2-4/10")


async def test_a_range_of_what_is_not_stored_is_the_applications(site: Site) -> None:
    """Its 206 is passed on, and not stored."""
    site.says("cache-control: max-age=60", "content-range: bytes 0-1/10", status=206, body=b"01")
    got = await site.get("range: bytes=0-1")
    assert (got.status, site.asked_with("range")) == (206, [b"bytes=0-1"])
    site.says("cache-control: max-age=60", body=BODY)
    assert (await site.get()).body == BODY


async def test_nobody_waits_for_a_range(site: Site) -> None:
    """A part is of no use to who wants the whole."""
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        part = (b"range", b"bytes=0-1") in scope["headers"]
        if part:
            await gate.wait()
        await send({"type": "http.response.start", "status": 206 if part else 200, "headers": []})
        await send({"type": "http.response.body", "body": BODY})

    site.runs(app)
    waiting = asyncio.create_task(site.get("range: bytes=0-1"))
    await site.asked.wait()
    assert (await site.get()).body == BODY
    gate.set()
    assert (await waiting).status == 206


# -- 5.6.7 and 8.8.3: dates and tags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0),
        ("Sun Nov  6 08:49:37 1994", 784111777.0),
        ("Sun Nov 06 08:49:37 1994", 784111777.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:60 GMT", 253402300800.0),
        ("Sat, 01 Jan 0001 00:00:00 GMT", -62135596800.0),
        ("Sat, 01 Jan 0000 00:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 PST", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ("", None),
    ],
)
def test_9110_5_6_7_dates(text: str, expected: float | None) -> None:
    """Three formats; whatever else is none."""
    assert http_date(text.encode()) == expected


def test_9110_5_6_7_two_digits_are_the_year_that_is_less_than_50_years_ahead() -> None:
    """MUST take what seems to be more than 50 years ahead for the past."""
    year = "Sunday, 06-Nov-{} 08:49:37 GMT"
    assert http_date(year.format("70").encode()) == http_date(b"Thu, 06 Nov 2070 08:49:37 GMT")
    assert http_date(year.format("79").encode()) == http_date(b"Thu, 06 Nov 1979 08:49:37 GMT")


def test_9110_8_8_3_entity_tags() -> None:
    """Commas inside of them are theirs."""
    assert entity_tags([b'"a,b", W/"c"', b" x "]) == [b'"a,b"', b'W/"c"', b"x"]
