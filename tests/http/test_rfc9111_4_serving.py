"""RFC 9111, section 4: what stored responses answer, when they are validated, and what makes them invalid."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nearcache.http import cached_response, storing
from nearcache.http.records import Pairs, Stored, as_stored, as_variants
from nearcache.http.requests import Request
from nearcache.http.targets import related_keys

from .conftest import Site, fields, http_scope

FRESH = "cache-control: max-age=60"
NOW = 1_767_225_600.0  # where the fake clock begins
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def lifetime(*lines: str, status: int = 200, **options: Any) -> float | None:
    """Seconds; None for a response that is not stored."""
    headers: Pairs = tuple(fields(*lines))
    terms = storing.terms(Request(http_scope()), status, headers, now=NOW, **options)
    return terms.lifetime if isinstance(terms, storing.Terms) else None


def age(*lines: str, now: float = NOW, **options: Any) -> float:
    headers: Pairs = tuple(fields("cache-control: max-age=100000", 'etag: "a"', *lines))
    terms = storing.terms(Request(http_scope()), 200, headers, now=now, **options)
    assert isinstance(terms, storing.Terms)
    return terms.age


# -- 4: what a response may answer


async def test_4_only_the_same_target_is_answered(site: Site) -> None:
    """MUST NOT reuse unless the target URI of the request matches the stored one."""
    site.says(FRESH)
    targets: list[dict[str, Any]] = [
        {"path": "/a"},
        {"path": "/A"},
        {"path": "/a/"},
        {"path": "/a", "query_string": b"x"},
        {"path": "/a", "query_string": b"x="},
        {"path": "/a", "query_string": b"X"},
        {"path": "/a", "scheme": "https"},
        {"path": "/a;x"},
        {"path": "/a/b", "raw_path": b"/a/b"},
        {"path": "/a/b", "raw_path": b"/a%2Fb"},
        {"path": "/x", "headers": ()},
    ]
    for target in targets[:-1]:
        assert (await site.get(**target)).asked, target
    for target in targets[:-1]:
        assert not (await site.get(**target)).asked, target


async def test_4_hosts_are_told_apart_whatever_their_case(site: Site) -> None:
    """The host is part of the target, and has no case."""
    site.says(FRESH)

    async def asked(host: bytes) -> bool:
        before = len(site.requests)
        await site.middleware(http_scope() | {"headers": [(b"host", host)]}, None, _nowhere)  # type: ignore[arg-type]
        return len(site.requests) > before

    assert await asked(b"one.example")
    assert await asked(b"two.example")
    assert await asked(b"one.example:81")
    assert not await asked(b"One.Example")


async def _nowhere(message: Any) -> None:
    pass


async def test_4_a_head_request_is_answered_by_a_response_to_get(site: Site) -> None:
    """The method of the stored response has to allow it: GET's answers HEAD, without the content (RFC 9110, 9.3.2)."""
    site.says(FRESH, body=b"12345")
    got = await site.get()
    for head in (
        await site.get(method="HEAD"),
        await site.get("accept: */*", "cache-control: max-age=9", method="HEAD"),
    ):
        assert not head.asked
        assert (head.status, head.body, head.field("content-length")) == (200, b"", b"5")
        assert head.field("cache-control") == got.field("cache-control")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_4_other_methods_are_written_through(site: Site, method: str) -> None:
    """MUST write through requests with unsafe methods: no answer before the origin has given one."""
    site.says(FRESH)
    await site.get()
    assert (await site.get(method=method)).asked


async def test_4_what_was_stored_last_is_used(site: Site) -> None:
    """MUST use the most recent response of several."""
    site.says(FRESH)
    await site.get()
    await site.get("cache-control: no-cache")
    assert (await site.get()).body == b"2"


async def test_4_misses_at_the_same_time_are_one_request(site: Site) -> None:
    """MAY use a response that is about to be stored for several requests ("collapsing")."""
    gate = asyncio.Event()
    site.runs(_slow(site, gate, FRESH))
    asking = [asyncio.create_task(site.get()) for _ in range(5)]
    await site.asked.wait()
    gate.set()
    assert {got.body for got in await asyncio.gather(*asking)} == {b"1"}
    assert len(site.requests) == 1


@pytest.mark.parametrize("control", ["private", "no-store", "max-age=60\nset-cookie: a=b", "max-age=60\nvary: *"])
async def test_4_requests_are_not_collapsed_onto_a_response_that_is_not_shared(site: Site, control: str) -> None:
    """What may not be stored may not answer others, whether they wait or come later."""
    gate = asyncio.Event()
    site.runs(_slow(site, gate, *f"cache-control: {control}".split("\n")))
    asking = [asyncio.create_task(site.get()) for _ in range(5)]
    await site.asked.wait()
    gate.set()
    assert len({got.body for got in await asyncio.gather(*asking)}) == 5


async def test_4_requests_that_wait_are_told_apart_by_vary(site: Site) -> None:
    """They learn what tells responses apart when the first one is there."""
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        language = dict(scope["headers"])[b"accept-language"]
        await send({"type": "http.response.start", "status": 200, "headers": fields(FRESH, "vary: accept-language")})
        await send({"type": "http.response.body", "body": language})

    site.runs(app)
    asking = {
        language: asyncio.create_task(site.get(f"accept-language: {language}")) for language in ("de", "fr", "it")
    }
    await site.asked.wait()
    gate.set()
    assert {x: (await task).body.decode() for x, task in asking.items()} == {x: x for x in asking}


def _slow(site: Site, gate: asyncio.Event, *lines: str) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = len(site.requests)
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": fields(*lines)})
        await send({"type": "http.response.body", "body": b"%d" % number})

    return app


# -- 4.1: Vary


async def test_4_1_a_request_whose_fields_differ_is_not_answered(site: Site) -> None:
    """MUST NOT use a response with Vary unless all fields it names match those of the request it was made for."""
    site.says(FRESH, "vary: Accept-Language, x-theme")
    assert await site.reuses("accept-language: de", "x-theme: dark")
    assert (await site.get("accept-language: fr", "x-theme: dark")).asked
    assert (await site.get("accept-language: de", "x-theme: light")).asked
    assert (await site.get("accept-language: de")).asked
    for language, theme in (("de", "dark"), ("fr", "dark"), ("de", "light")):
        assert not (await site.get(f"accept-language: {language}", f"x-theme: {theme}")).asked


async def test_4_1_other_fields_do_not_matter(site: Site) -> None:
    """Only what Vary names tells responses apart."""
    site.says(FRESH, "vary: x-theme")
    await site.get("x-theme: dark", "user-agent: a")
    assert not (await site.get("x-theme: dark", "user-agent: b")).asked


async def test_4_1_absent_is_not_empty(site: Site) -> None:
    """A field that is absent matches only one that is absent."""
    site.says(FRESH, "vary: x-theme")
    assert await site.reuses()
    assert (await site.get("x-theme:")).asked
    assert not (await site.get("x-theme:")).asked
    assert not (await site.get()).asked


@pytest.mark.parametrize("vary", ["*", "accept, *", " * ", "*, accept"])
async def test_4_1_an_asterisk_never_matches(site: Site, vary: str) -> None:
    """Vary: * always fails to match."""
    site.says(FRESH, f"vary: {vary}")
    assert not await site.reuses("accept: a")


async def test_4_1_lines_of_a_field_are_one_list(site: Site) -> None:
    """Matching MAY combine lines, and ignore white space where the syntax does."""
    site.says(FRESH, "vary: x-list")
    await site.get("x-list: a, b")
    assert not (await site.get("x-list: a", "x-list: b")).asked
    assert not (await site.get("X-List:  a ,b ")).asked
    assert (await site.get("x-list: b, a")).asked, "order may matter"
    assert (await site.get("x-list: A, b")).asked, "so may case"


async def test_4_1_white_space_inside_of_quotes_matters(site: Site) -> None:
    """MUST NOT make values equal that differ in meaning: a quoted string is one value."""
    site.says(FRESH, "vary: x-list")
    await site.get('x-list: "a, b"')
    assert (await site.get('x-list: "a,b"')).asked


async def test_4_1_credentials_are_compared_as_they_are(site: Site) -> None:
    """A cookie is no list: nothing of it is ours to normalise."""
    site.says(FRESH, "vary: cookie")
    await site.get("cookie: a=1 , b")
    assert (await site.get("cookie: a=1,b")).asked
    assert (await site.get("cookie: a=1", "cookie: b")).asked
    assert not (await site.get("cookie: a=1 , b")).asked


@pytest.mark.parametrize("name", ["accept-language", "accept-encoding", "accept-charset"])
async def test_4_1_case_is_normalised_where_the_specification_knows_none(site: Site, name: str) -> None:
    """MAY normalise in ways that are known to have the same meaning."""
    site.says(FRESH, f"vary: {name}")
    await site.get(f"{name}: De, EN")
    assert not (await site.get(f"{name}: de,en")).asked


@pytest.mark.parametrize("name", ["accept", "accept-tenant", "accept-version"])
async def test_4_1_case_is_not_normalised_where_it_may_have_a_meaning(site: Site, name: str) -> None:
    """Parameters of media types may have a case, and of fields that are not known, everything."""
    site.says(FRESH, f"vary: {name}")
    await site.get(f'{name}: a;profile="https://example.com/A"')
    assert (await site.get(f'{name}: a;profile="https://example.com/a"')).asked


async def test_4_1_a_response_without_vary_does_not_answer_what_others_vary_on(site: Site) -> None:
    """One without Vary could match all requests; here it answers those it was made for, which is allowed."""
    site.says(FRESH, "vary: x-theme", body=b"dark")
    await site.get("x-theme: dark")
    site.says(FRESH, body=b"plain")
    await site.get("x-theme: none")
    assert (await site.get("x-theme: dark")).body == b"dark"
    assert (await site.get("x-theme: none")).body == b"plain"
    assert not (await site.get("x-theme: none")).asked


async def test_4_1_responses_that_vary_on_different_fields(site: Site) -> None:
    """All of them have to match."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        by = b"x-a" if (b"x-a", b"1") in scope["headers"] else b"x-b"
        await send({"type": "http.response.start", "status": 200, "headers": [*fields(FRESH), (b"vary", by)]})
        await send({"type": "http.response.body", "body": dict(scope["headers"]).get(by, b"none")})

    site.runs(app)
    for _ in range(4):
        assert (await site.get("x-a: 1", "x-b: 1")).body == b"1"
        assert (await site.get("x-a: 2", "x-b: 2")).body == b"2"
        assert (await site.get("x-a: 2", "x-b: 3")).body == b"3"
        assert (await site.get("x-a: 1", "x-b: 3")).body == b"1"
        assert (await site.get()).body == b"none"
    assert not (await site.get("x-a: 2", "x-b: 3")).asked


async def test_4_1_a_304_that_varies_on_more_does_not_make_the_response_answer_more(site: Site) -> None:
    """The stored response was made for one value of a field that is named only now: others are not to get it."""
    site.says("cache-control: max-age=1", 'etag: "a"', body=b"german")
    await site.get("accept-language: de")
    site.clock.advance(2)
    site.says(FRESH, 'etag: "a"', "vary: accept-language", status=304)
    assert (await site.get("accept-language: de")).body == b"german"
    site.says(FRESH, "vary: accept-language", body=b"french")
    assert (await site.get("accept-language: fr")).body == b"french"


# -- 4.2: freshness


async def test_4_2_a_fresh_response_answers_and_a_stale_one_does_not(site: Site) -> None:
    """Fresh: its lifetime is greater than its age; at the very end of it, it is not."""
    site.says(FRESH)
    await site.get()
    site.clock.advance(59.9)
    assert not (await site.get()).asked
    assert not (await site.get("accept: a", "cache-control: max-stale=0")).asked
    site.clock.advance(0.1)
    assert (await site.get()).asked


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("cache-control: s-maxage=10, max-age=20", "expires: Thu, 01 Jan 2026 00:00:30 GMT"), 10),
        (("cache-control: max-age=20, s-maxage=10",), 10),
        (("cache-control: max-age=20", "expires: Thu, 01 Jan 2026 00:00:30 GMT"), 20),
        (("expires: Thu, 01 Jan 2026 00:00:30 GMT", f"date: {DATE}"), 30),
        (("expires: Thu, 01 Jan 2026 00:00:30 GMT",), 30),
        (("expires: Thu, 01 Jan 2026 00:00:30 GMT", "date: Thu, 01 Jan 2026 00:00:10 GMT"), 20),
        (("expires: Thu, 01 Jan 2026 00:00:30 GMT", "date: garbage"), 30),
        (("last-modified: Wed, 31 Dec 2025 23:59:00 GMT", f"date: {DATE}"), 6),
        (("last-modified: Wed, 31 Dec 2025 23:59:00 GMT",), 6),
    ],
)
def test_4_2_1_the_first_of_these_that_is_there_counts(lines: tuple[str, ...], expected: float) -> None:
    """s-maxage before max-age before Expires minus Date before a heuristic."""
    assert lifetime(*lines) == expected


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ("max-age=10, max-age=20", 10),
        ("MAX-AGE=10", 10),
        ('max-age="10"', 10),
        ('max-age="1\\0"', 10),
        ("max-age=010", 10),
        ("max-age=0000000000000000000000000000010", 10),
        ("max-age=2147483647", 2147483647),
        ("max-age=2147483648", 2147483648),
        ("max-age=99999999999", 2147483648),
        ("max-age=" + "9" * 400, 2147483648),
        (", ,max-age=10,, foo=bar", 10),
        ('foo="max-age=7, ", max-age=10', 10),
        ('foo="\\"max-age=7, ", max-age=10', 10),
        ("x-max-age=7, max-age=10", 10),
        ("\tmax-age=10 ", 10),
    ],
)
def test_4_2_1_lifetimes_that_are_understood(control: str, expected: int) -> None:
    """The first of several; tokens and quoted strings; what overflows is 2147483648 (section 1.2.2)."""
    assert lifetime(f"cache-control: {control}", 'etag: "a"') == expected


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "1.5",
        "1s",
        "a",
        "",
        '""',
        "'60'",
        "60;a",
        "0x3c",
        "+60",
        "٦",
        "6 0",
        '"60',
        "1e3",
        "60 foo",
        " 60",
        "60\x0b",
    ],
)
def test_4_2_1_a_lifetime_that_is_invalid_is_none_at_all(value: str) -> None:
    """Responses with invalid freshness information ought to be considered stale; not fresh by Expires, or a default."""
    control = (b"cache-control", b"max-age=" + value.encode())
    headers = (control, *fields("expires: Thu, 01 Jan 2026 00:00:30 GMT", 'etag: "a"'))
    terms = storing.terms(Request(http_scope()), 200, headers, now=NOW, default=300)
    assert isinstance(terms, storing.Terms)
    assert terms.lifetime == 0


@pytest.mark.parametrize("control", ["max-age =60", "max-age = 60", "max-age", "max-age\t=60"])
def test_4_2_1_a_lifetime_with_spaces_or_without_a_value_is_invalid(control: str) -> None:
    """No white space around the equals sign; the name is meant all the same."""
    assert lifetime(f"cache-control: {control}", 'etag: "a"', default=300) == 0


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "-1",
        "",
        "garbage",
        "60",
        "Thu, 01 Jan 2026 00:00:30",
        "Thu, 01 Jan 2026 00:00:30 UTC",
        "Thu, 01 Jan 2026 24:00:30 GMT",
        "Thu, 01 Jan 2026 00:60:30 GMT",
        "Thu, 32 Jan 2026 00:00:30 GMT",
        "Thu, 00 Jan 2026 00:00:30 GMT",
        "Thu, 01 Xxx 2026 00:00:30 GMT",
        "Thu, 01 Jan 0000 00:00:30 GMT",
        "Thu, 1 Jan 2026 00:00:30 GMT",
        "Thu, 01 Jan 2026 00:00:30 GMT, Thu, 01 Jan 2026 00:00:30 GMT",
        "2026-01-01T00:00:30Z",
    ],
)
def test_4_2_1_an_expires_that_is_no_date_is_in_the_past(value: str) -> None:
    """MUST interpret invalid dates, especially "0", as in the past (section 5.3)."""
    assert lifetime(f"expires: {value}", 'etag: "a"', default=300) == 0


@pytest.mark.parametrize(
    "value",
    [
        "Thu, 01 Jan 2026 00:00:30 GMT",
        "Thursday, 01-Jan-26 00:00:30 GMT",
        "Thu Jan  1 00:00:30 2026",
        "thu, 01 JAN 2026 00:00:30 gmt",
        " Thu, 01 Jan 2026 00:00:30 GMT ",
    ],
)
def test_4_2_dates_in_every_format_are_understood(value: str) -> None:
    """MUST accept all three formats (RFC 9110, 5.6.7), in any case."""
    assert lifetime(f"expires: {value}") == 30


def test_4_2_1_the_first_of_two_expires_counts() -> None:
    """Or the response is stale."""
    one, other = "Thu, 01 Jan 2026 00:00:30 GMT", "Thu, 01 Jan 2026 01:00:00 GMT"
    assert lifetime(f"expires: {one}", f"expires: {other}") == 30


def test_4_2_1_an_expires_in_the_past_is_no_lifetime() -> None:
    """Nor a negative one."""
    assert lifetime("expires: Thu, 01 Jan 2025 00:00:00 GMT", 'etag: "a"', default=300) == 0


def test_4_2_2_a_heuristic_is_not_used_beside_an_explicit_lifetime() -> None:
    """MUST NOT use heuristics when an explicit expiration time is present."""
    modified = "last-modified: Wed, 01 Jan 2025 00:00:00 GMT"
    assert lifetime(modified) == 300
    for explicit in ("cache-control: max-age=0", "cache-control: max-age=x", "expires: 0", "expires: x"):
        assert lifetime(modified, explicit) == 0


@pytest.mark.parametrize("status", [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
def test_4_2_2_a_heuristic_is_a_tenth_of_the_time_since_the_last_change(status: int) -> None:
    """A typical setting of this fraction is 10 %; no more than five minutes, here."""
    assert lifetime("last-modified: Wed, 31 Dec 2025 23:58:20 GMT", status=status) == 10
    assert lifetime("last-modified: Wed, 31 Dec 2024 23:58:20 GMT", status=status) == 300
    assert lifetime("last-modified: Fri, 02 Jan 2026 00:00:00 GMT", status=status) == 0, "not yet changed"


@pytest.mark.parametrize("status", [201, 302, 307, 400, 403, 500, 502, 503])
def test_4_2_2_heuristics_are_for_some_statuses_only(status: int) -> None:
    """MUST NOT be used for other statuses, unless the response is marked as explicitly cacheable."""
    modified = "last-modified: Wed, 31 Dec 2025 23:58:20 GMT"
    assert lifetime(modified, status=status) is None
    assert lifetime(modified, "cache-control: public", status=status) == 10


def test_4_2_2_a_configured_lifetime_is_for_200_alone() -> None:
    """A default is one more heuristic."""
    assert lifetime(default=300) == 300
    assert lifetime("last-modified: Wed, 31 Dec 2025 23:58:20 GMT", default=300) == 300
    for status in (203, 301, 404, 500):
        assert lifetime(default=300, status=status) is None
    assert lifetime("cache-control: max-age=5", default=300) == 5


# -- 4.2.3: age


@pytest.mark.parametrize(
    ("lines", "took", "expected"),
    [
        ((), 0, 0),
        ((), 2, 2),
        (("age: 30",), 0, 30),
        (("age: 30",), 2, 32),
        (("date: Wed, 31 Dec 2025 23:59:50 GMT",), 0, 10),
        (("date: Wed, 31 Dec 2025 23:59:50 GMT",), 2, 10),
        (("date: Wed, 31 Dec 2025 23:59:50 GMT", "age: 9"), 0, 10),
        (("date: Wed, 31 Dec 2025 23:59:50 GMT", "age: 11"), 0, 11),
        (("date: Wed, 31 Dec 2025 23:59:50 GMT", "age: 9"), 2, 11),
        (("date: Thu, 01 Jan 2026 00:01:00 GMT",), 0, 0),
        (("date: Thu, 01 Jan 2026 00:01:00 GMT", "age: 5"), 0, 5),
        (("date: garbage", "age: 5"), 0, 5),
    ],
)
def test_4_2_3_the_age_on_arrival(lines: tuple[str, ...], took: float, expected: float) -> None:
    """The larger of apparent_age (now - Date, at least 0) and Age + response_delay."""
    assert age(*lines, took=took) == expected


def test_4_2_3_a_date_of_this_second_is_no_age() -> None:
    """A server's Date has whole seconds."""
    assert age(f"date: {DATE}", now=NOW + 0.9) == 0
    assert age(f"date: {DATE}", now=NOW + 1.5) == 1.5


@pytest.mark.parametrize("value", ["-5", "a", "", "1.5", "abc, 5", "0x5"])
def test_4_2_3_an_age_that_is_garbage_is_ignored(value: str) -> None:
    """A cache that receives an invalid Age ought to ignore it (section 5.1)."""
    assert age(f"age: {value}") == 0


def test_4_2_3_of_several_ages_the_first_one_counts() -> None:
    """A list in Age: the first member is used, the others are discarded (section 5.1)."""
    assert age("age: 5, 70") == 5
    assert age("age: 5", "age: 70") == 5


def test_4_2_3_an_age_that_overflows() -> None:
    """2147483648 (section 1.2.2), and nothing raised."""
    assert age("age: " + "9" * 30) == 2147483648


async def test_4_2_3_time_on_the_way_counts(site: Site) -> None:
    """response_delay: from when the request was made."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        site.clock.advance(5)
        await send({"type": "http.response.start", "status": 200, "headers": fields("cache-control: max-age=20")})
        site.clock.advance(5)
        await send({"type": "http.response.body", "body": b"a"})

    site.runs(slow)
    await site.get()
    assert (await site.get()).field("age") == b"10"
    site.clock.advance(9)
    assert not (await site.get()).asked
    site.clock.advance(1)
    assert (await site.get()).asked


async def test_4_2_3_resident_time_adds_up(site: Site) -> None:
    """current_age = corrected_initial_age + resident_time."""
    site.says(FRESH, "age: 20")
    assert (await site.get()).all("age") == [b"20"]
    site.clock.advance(10)
    assert (await site.get()).all("age") == [b"30"]
    site.clock.advance(29)
    assert not (await site.get()).asked
    site.clock.advance(1)
    assert (await site.get()).asked


async def test_4_2_3_a_response_that_was_stale_when_it_came_is_not_reused(site: Site) -> None:
    """Its age counts from the start."""
    site.says("cache-control: max-age=10", "age: 15", 'etag: "a"')
    assert not await site.reuses()


# -- 4.2.4: stale responses

STRICT = [
    "no-cache, max-age=1",
    "must-revalidate, max-age=1",
    "proxy-revalidate, max-age=1",
    "s-maxage=1",
    "s-maxage=1, max-age=100",
]


@pytest.mark.parametrize("control", STRICT)
async def test_4_2_4_a_directive_prohibits_stale_responses(site: Site, control: str) -> None:
    """MUST NOT serve stale what says no-cache, must-revalidate, proxy-revalidate or s-maxage, whatever is asked."""
    site.says(f"cache-control: {control}, stale-while-revalidate=60, stale-if-error=60", 'etag: "a"')
    await site.get()
    site.clock.advance(2)
    assert (await site.get("cache-control: max-stale")).asked
    site.clock.advance(2)
    assert (await site.get()).asked
    site.clock.advance(2)
    site.says(status=503)
    assert (await site.get("cache-control: stale-if-error=100")).status == 503


async def test_4_2_4_a_stale_response_is_not_served_unless_somebody_allows_it(site: Site) -> None:
    """SHOULD NOT, unless the client or the origin allows it."""
    site.says("cache-control: max-age=1", 'etag: "a"')
    await site.get()
    site.clock.advance(2)
    assert (await site.get()).asked


async def test_4_2_4_what_cannot_be_validated_is_fetched(site: Site) -> None:
    """Without a validator there is nothing to ask by: the request goes on as it is."""
    site.says("cache-control: max-age=1, stale-while-revalidate=1")
    await site.get()
    site.clock.advance(5)
    await site.get()
    assert site.asked_with("if-none-match") == site.asked_with("if-modified-since") == []


# -- 4.3.1: sending a validation request


async def test_4_3_1_the_validators_of_the_stored_response_are_sent(site: Site) -> None:
    """SHOULD send If-None-Match with the entity tag, and If-Modified-Since with the Last-Modified."""
    modified = site.date(-100)
    site.says("cache-control: max-age=1", 'ETag: W/"a"', f"Last-Modified: {modified}")
    await site.get()
    site.clock.advance(2)
    await site.get("x-else: 1")
    assert site.asked_with("if-none-match") == [b'W/"a"']
    assert site.asked_with("if-modified-since") == [modified.encode()]
    assert site.asked_with("x-else") == [b"1"]


async def test_4_3_1_the_clients_own_conditions_are_not_mixed_in(site: Site) -> None:
    """The answer has to be about what is stored; the client's conditions are evaluated here."""
    site.says("cache-control: max-age=1", 'etag: "a"')
    await site.get()
    site.clock.advance(2)
    conditions = ('if-none-match: "b"', f"if-modified-since: {site.date()}", "range: bytes=0-0", 'if-range: "b"')
    await site.get(*conditions)
    assert site.asked_with("if-none-match") == [b'"a"']
    for name in ("if-modified-since", "range", "if-range"):
        assert site.asked_with(name) == []


async def test_4_3_1_a_tag_that_was_made_here_is_not_sent(site: Site) -> None:
    """The origin does not know it: it could only take it for one of its own."""
    site.says("cache-control: max-age=1", f"last-modified: {site.date(-100)}")
    got = await site.get()
    assert got.field("etag") is None
    assert (await site.get()).field("etag") is not None
    site.clock.advance(2)
    await site.get()
    assert site.asked_with("if-none-match") == []
    assert len(site.asked_with("if-modified-since")) == 1


async def test_4_3_1_a_last_modified_that_is_no_date_is_not_sent(site: Site) -> None:
    """Garbage validates nothing."""
    site.says("cache-control: max-age=1", "last-modified: yesterday", 'etag: "a"')
    await site.get()
    site.clock.advance(2)
    await site.get()
    assert site.asked_with("if-modified-since") == []


@pytest.mark.parametrize("status", [404, 301])
async def test_4_3_1_only_a_200_is_validated(site: Site, status: int) -> None:
    """A 304 means that the answer would have been a success."""
    site.says("cache-control: max-age=1", 'etag: "a"', status=status)
    await site.get()
    site.clock.advance(2)
    await site.get()
    assert site.asked_with("if-none-match") == []


# -- 4.3.2: answering a client's conditions (what they mean is in test_rfc9110_conditions_and_ranges)


async def test_4_3_2_conditions_are_answered_from_a_fresh_response(site: Site) -> None:
    """A cache MUST evaluate those it understands, when it has a fresh response."""
    site.says(FRESH, 'etag: "a"')
    await site.get()
    got = await site.get('if-none-match: "a"')
    assert (got.asked, got.status, got.body) == (False, 304, b"")


@pytest.mark.parametrize("name", ["if-match", "if-unmodified-since"])
async def test_4_3_2_conditions_for_the_origin_are_left_to_it(site: Site, name: str) -> None:
    """MUST NOT evaluate If-Match and If-Unmodified-Since: they go on."""
    site.says(FRESH, 'etag: "a"')
    await site.get()
    value = '"b"' if name == "if-match" else site.date(-1000)
    assert (await site.get(f"{name}: {value}")).asked
    assert site.asked_with(name) == [value.encode()]


async def test_4_3_2_without_a_stored_response_conditions_go_on(site: Site) -> None:
    """And the origin's 304 is for the client: it says nothing of anything stored."""
    site.says('etag: "a"', FRESH, status=304)
    got = await site.get('if-none-match: "a"')
    assert (got.status, site.asked_with("if-none-match")) == (304, [b'"a"'])
    site.says(FRESH)
    assert (await site.get()).status == 200


async def test_4_3_2_a_client_that_validates_gets_a_304_once_the_origin_has_agreed(site: Site) -> None:
    """Its own condition is evaluated with what is stored, after the validation."""
    site.says("cache-control: max-age=1", 'etag: "a"', body=b"12345")
    await site.get()
    site.clock.advance(2)
    site.says(FRESH, 'etag: "a"', status=304)
    assert (await site.get('if-none-match: "a"')).status == 304
    site.clock.advance(61)
    got = await site.get('if-none-match: "b"')
    assert (got.status, got.body) == (200, b"12345")


# -- 4.3.3: what becomes of the answer


async def test_4_3_3_a_304_lets_the_stored_response_be_used(site: Site) -> None:
    """Not modified: it is fresh again, and nobody hears of the 304."""
    site.says("cache-control: max-age=10", 'etag: "a"', body=b"first")
    await site.get()
    site.clock.advance(11)
    site.says("cache-control: max-age=10", 'etag: "a"', status=304)
    got = await site.get()
    assert (got.status, got.body, got.asked) == (200, b"first", True)
    site.clock.advance(9)
    again = await site.get()
    assert (again.body, again.asked, again.field("age")) == (b"first", False, b"9")
    site.clock.advance(1)
    assert (await site.get()).asked


async def test_4_3_3_a_full_response_takes_the_place_of_the_stored_one(site: Site) -> None:
    """MUST use it for the request, and MAY replace what is stored."""
    site.says("cache-control: max-age=1", 'etag: "a"', body=b"first")
    await site.get()
    site.clock.advance(2)
    site.says(FRESH, 'etag: "b"', body=b"second")
    assert (await site.get()).body == b"second"
    again = await site.get()
    assert (again.body, again.asked, again.field("etag")) == (b"second", False, b'"b"')


async def test_4_3_3_a_full_response_that_is_not_stored_leaves_nothing_fresh(site: Site) -> None:
    """What was stale stays so."""
    site.says("cache-control: max-age=1", 'etag: "a"', body=b"first")
    await site.get()
    site.clock.advance(2)
    site.says("cache-control: no-store", body=b"second")
    assert (await site.get()).body == b"second"
    assert (await site.get()).asked


@pytest.mark.parametrize("status", [500, 502, 503, 504, 501, 599])
async def test_4_3_3_an_error_is_passed_on(site: Site, status: int) -> None:
    """A 5xx on validation goes to the client, where nobody allowed stale responses."""
    site.says("cache-control: max-age=1", 'etag: "a"', body=b"first")
    await site.get()
    site.clock.advance(2)
    site.says(status=status)
    assert (await site.get()).status == status
    site.says(FRESH, 'etag: "a"', status=304)
    assert (await site.get()).body == b"first", "and what is stored can still be validated"


# -- 3.2 and 4.3.4: freshening


async def test_4_3_4_a_304_updates_the_fields_of_the_stored_response(site: Site) -> None:
    """MUST add each field of the 304, in the place of its namesakes (section 3.2)."""
    site.says("cache-control: max-age=1", 'etag: "a"', "x-old: 1", "x-both: 1", "X-Both: 2", body=b"first")
    await site.get()
    site.clock.advance(2)
    site.says(FRESH, 'etag: "a"', "X-both: 3", "x-new: 4", status=304)
    for got in (await site.get(), await site.get()):
        assert got.all("cache-control") == [b"max-age=60"]
        assert (got.all("x-old"), got.all("x-both"), got.all("x-new")) == ([b"1"], [b"3"], [b"4"])
        assert got.all("etag") == [b'"a"']


@pytest.mark.parametrize("line", ["content-length: 99", "content-encoding: gzip", "content-range: bytes 0-0/1"])
async def test_4_3_4_a_304_does_not_change_what_the_content_depends_on(site: Site, line: str) -> None:
    """Content-Length is excepted, and what the stored content depends on (section 3.2)."""
    site.says("cache-control: max-age=1", 'etag: "a"', body=b"first")
    await site.get()
    before = (await site.get()).all(line.partition(":")[0])
    site.clock.advance(2)
    site.says(FRESH, 'etag: "a"', line, status=304)
    await site.get()
    assert (await site.get()).all(line.partition(":")[0]) == before


@pytest.mark.parametrize("line", ["connection: x-hop", "x-hop: 1", "keep-alive: 5", "proxy-authenticate: Basic"])
async def test_4_3_4_fields_that_are_not_stored_are_not_updated(site: Site, line: str) -> None:
    """Those excluded by section 3.1."""
    site.says("cache-control: max-age=1", 'etag: "a"')
    await site.get()
    site.clock.advance(2)
    site.says(FRESH, 'etag: "a"', "connection: x-hop", line, status=304)
    await site.get()
    got = await site.get()
    assert not got.asked
    assert got.field(line.partition(":")[0]) is None


async def test_4_3_4_a_304_with_another_strong_tag_updates_nothing(site: Site) -> None:
    """MUST NOT update a response that has none of the 304's strong validators: it is about another one."""
    site.says("cache-control: max-age=1", 'etag: "a"', body=b"first")
    await site.get()
    site.clock.advance(2)
    second = fields(FRESH, 'etag: "b"')

    async def confused(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        conditional = any(name == b"if-none-match" for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 304 if conditional else 200, "headers": second})
        await send({"type": "http.response.body", "body": b"" if conditional else b"second"})

    site.runs(confused)

    def once() -> Any:
        messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            for message in messages:
                return message
            raise AssertionError("the application would wait for ever")

        return receive

    got = await site.get(receive=once())
    assert (got.status, got.body) == (200, b"second")
    assert (await site.get(receive=once())).asked, "it was passed on, and is stored next time"
    again = await site.get()
    assert (again.body, again.field("etag")) == (b"second", b'"b"')


@pytest.mark.parametrize("tags", [('"a"', 'W/"a"'), ('W/"a"', 'W/"b"'), ('"a"', None), ('W/"a"', None)])
async def test_4_3_4_a_304_without_a_strong_tag_is_about_what_was_asked(
    site: Site, tags: tuple[str, str | None]
) -> None:
    """One response is stored, and the origin was asked about that one."""
    site.says("cache-control: max-age=1", f"etag: {tags[0]}", body=b"first")
    await site.get()
    site.clock.advance(2)
    site.says(FRESH, *([f"etag: {tags[1]}"] if tags[1] else []), status=304)
    assert (await site.get()).body == b"first"
    got = await site.get()
    assert (got.asked, got.all("etag")) == (False, [tags[0].encode()]), "by that one it will be asked for"


async def test_4_3_4_a_304_without_a_date_was_made_now(site: Site) -> None:
    """The Date of the first response is not that of the second: it would be old from the start."""
    site.says("cache-control: max-age=10", 'etag: "a"', f"date: {site.date()}")
    await site.get()
    site.clock.advance(100)
    site.says("cache-control: max-age=10", 'etag: "a"', status=304)
    await site.get()
    got = await site.get()
    assert (got.asked, got.field("age")) == (False, b"0")


async def test_4_3_4_a_304_has_an_age_of_its_own(site: Site) -> None:
    """It may come from a cache, too."""
    site.says("cache-control: max-age=10", 'etag: "a"')
    await site.get()
    site.clock.advance(100)
    site.says("cache-control: max-age=10", 'etag: "a"', "age: 4", status=304)
    await site.get()
    assert (await site.get()).all("age") == [b"4"]


@pytest.mark.parametrize("line", ["cache-control: no-store", "cache-control: private", "set-cookie: a=b", "vary: *"])
async def test_4_3_4_a_304_may_say_that_the_response_is_no_longer_stored(site: Site, line: str) -> None:
    """It is used for this request, and gone."""
    site.says("cache-control: max-age=1", 'etag: "a"', body=b"first")
    await site.get()
    site.clock.advance(2)
    site.says('etag: "a"', line, status=304)
    assert (await site.get()).body == b"first"
    site.says(FRESH, body=b"second")
    assert (await site.get()).body == b"second"
    assert site.asked_with("if-none-match") == []


async def test_4_3_4_a_304_makes_a_made_tag_last(site: Site) -> None:
    """A tag that was made here is still not the origin's after a validation."""
    site.says("cache-control: max-age=1", f"last-modified: {site.date(-100)}", body=b"first")
    await site.get()
    tag = (await site.get()).field("etag")
    site.clock.advance(2)
    site.says("cache-control: max-age=1", status=304)
    await site.get()
    assert (await site.get()).field("etag") == tag
    site.clock.advance(2)
    await site.get()
    assert site.asked_with("if-none-match") == []


async def test_4_3_4_a_304_without_tags_leaves_those_of_the_response(site: Site) -> None:
    """A field that the 304 does not have stays as it was; also one that is not sent to clients."""
    site.says("cache-control: max-age=1", 'etag: "a"', "cache-tag: users", body=b"first")
    await site.get()
    site.clock.advance(2)
    site.says(FRESH, 'etag: "a"', status=304)
    await site.get()
    assert not (await site.get()).asked
    await site.middleware.http_cache.purge(tags=["users"])
    assert (await site.get()).asked


# -- 4.3.5: HEAD

HEAD_CHANGES = ['etag: "b"', "last-modified: Mon, 01 Dec 2025 00:00:00 GMT", "content-length: 6"]


@pytest.mark.parametrize("line", HEAD_CHANGES)
async def test_4_3_5_a_head_response_that_differs_makes_the_stored_one_stale(site: Site, line: str) -> None:
    """SHOULD consider it stale when a validator, or the length, does not match."""
    stored = ['ETag: "a"', "Last-Modified: Mon, 01 Dec 2025 00:00:09 GMT", "Content-Length: 5"]
    site.says(FRESH, *stored, body=b"12345")
    await site.get()
    site.says(FRESH, line, body=b"")
    assert (await site.get("cache-control: no-cache", method="HEAD")).asked
    assert (await site.get()).asked


async def test_4_3_5_a_head_response_that_matches_updates_the_stored_one(site: Site) -> None:
    """SHOULD update its fields as a 304 does, and its lifetime with them."""
    same = ['ETag: "a"', "Last-Modified: Mon, 01 Dec 2025 00:00:00 GMT", "Content-Length: 5"]
    site.says("cache-control: max-age=10", *same, "x-count: 1", body=b"12345")
    await site.get()
    site.clock.advance(11)
    site.says("cache-control: max-age=10", *same, "x-count: 2", body=b"")
    head = await site.get(method="HEAD")
    assert (head.asked, head.body, head.field("x-count")) == (True, b"", b"2")
    got = await site.get()
    assert (got.asked, got.body, got.field("x-count"), got.field("age")) == (False, b"12345", b"2", b"0")
    site.clock.advance(9)
    assert not (await site.get()).asked
    site.clock.advance(1)
    assert (await site.get()).asked


async def test_4_3_5_a_head_response_that_says_nothing_storable_updates_nothing(site: Site) -> None:
    """no-store in it: what is stored goes, rather than be kept longer."""
    site.says("cache-control: max-age=10", 'etag: "a"', body=b"12345")
    await site.get()
    site.says("cache-control: no-store", 'etag: "a"', body=b"")
    await site.get("cache-control: no-cache", method="HEAD")
    assert (await site.get()).asked


async def test_4_3_5_a_tag_that_was_made_here_does_not_differ(site: Site) -> None:
    """It is no validator the origin has sent."""
    site.says(FRESH, body=b"12345")
    await site.get()
    site.says(FRESH, 'etag: "a"', body=b"")
    await site.get("cache-control: no-cache", method="HEAD")
    assert not (await site.get()).asked


@pytest.mark.parametrize("status", [304, 404, 500])
async def test_4_3_5_a_head_response_of_another_status_changes_nothing(site: Site, status: int) -> None:
    """It is about a 200."""
    site.says(FRESH, 'etag: "a"', body=b"12345")
    await site.get()
    site.says(FRESH, 'etag: "b"', status=status, body=b"")
    await site.get("cache-control: no-cache", method="HEAD")
    assert not (await site.get()).asked


async def test_4_3_5_the_clients_conditions_of_a_head_request_stay_its_own(site: Site) -> None:
    """It goes to the origin as it came."""
    site.says("cache-control: max-age=1", 'etag: "a"')
    await site.get()
    site.clock.advance(2)
    await site.get('if-none-match: "z"', method="HEAD")
    assert site.requests[-1]["method"] == "HEAD"
    assert site.asked_with("if-none-match") == [b'"z"']


# -- 4.4: invalidation


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "MADEUP"])
@pytest.mark.parametrize("status", [200, 204, 303])
async def test_4_4_an_unsafe_method_makes_its_target_invalid(site: Site, method: str, status: int) -> None:
    """MUST invalidate the target URI on a non-error response to an unsafe method, or one that is not known."""
    site.says(FRESH)
    await site.get()
    await site.get("x-vary: 1", path="/other")
    site.says(status=status)
    await site.get(method=method)
    site.says(FRESH)
    assert (await site.get()).asked
    assert not (await site.get(path="/other")).asked


async def test_4_4_all_variants_of_it(site: Site) -> None:
    """Every stored response of the target, whatever tells them apart."""
    site.says(FRESH, "vary: x-theme")
    for theme in ("dark", "light"):
        assert await site.reuses(f"x-theme: {theme}")
    await site.get("x-theme: none", method="POST")
    for theme in ("dark", "light"):
        assert (await site.get(f"x-theme: {theme}")).asked


@pytest.mark.parametrize("status", [400, 403, 404, 409, 500, 503])
async def test_4_4_an_error_makes_nothing_invalid(site: Site, status: int) -> None:
    """A non-error response is one of 2xx or 3xx."""
    site.says(FRESH)
    await site.get()
    site.says(status=status)
    await site.get(method="POST")
    assert not (await site.get()).asked


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
async def test_4_4_a_safe_method_makes_nothing_invalid(site: Site, method: str) -> None:
    """They change nothing."""
    site.says(FRESH)
    await site.get()
    await site.get("content-length: 5", method=method)
    assert not (await site.get()).asked


@pytest.mark.parametrize("name", ["location", "Content-Location"])
@pytest.mark.parametrize(
    "value",
    ["/users/7", "http://example.com/users/7", "HTTP://Example.COM:80/users/7", "7", "../users/7", "?", " /users/7 "],
)
async def test_4_4_location_and_content_location_name_more(site: Site, name: str, value: str) -> None:
    """MAY invalidate what these name, relative to the target."""
    site.says(FRESH)
    path = "/users/7" if value != "?" else "/users/"
    await site.get(path=path)
    await site.get(path="/users/8")
    site.says(f"{name}: {value}", status=201)
    await site.get(path="/users/", method="POST")
    assert (await site.get(path=path)).asked
    assert not (await site.get(path="/users/8")).asked


@pytest.mark.parametrize(
    "value", ["http://evil.example/a", "https://example.com/a", "//evil.example/a", "//example.com:81/a"]
)
async def test_4_4_another_origin_cannot_be_made_invalid(site: Site, value: str) -> None:
    """MUST NOT invalidate what Location names in another origin: one site could empty the cache of another."""
    host = http_scope() | {"headers": [(b"host", value.partition("//")[2].partition("/")[0].encode())]}
    site.says(FRESH)
    for target in ({"scheme": "http"}, {"scheme": "https"}):
        await site.middleware(host | {"path": "/a", "raw_path": b"/a"} | target, None, _nowhere)  # type: ignore[arg-type]
        await site.get(path="/a", **target)
    before = len(site.requests)
    site.says(f"location: {value}", status=201)
    await site.get(path="/b", method="POST")
    for target in ({"scheme": "http"}, {"scheme": "https"}):
        await site.middleware(host | {"path": "/a", "raw_path": b"/a"} | target, None, _nowhere)  # type: ignore[arg-type]
        assert not (await site.get(path="/a", **target)).asked
    assert len(site.requests) == before + 1


async def test_4_4_a_target_with_marks_of_its_own(site: Site) -> None:
    """A path with an escaped question mark is a base like another."""
    site.says(FRESH)
    await site.get(path="/a?/b", raw_path=b"/a%3F/b")
    site.says("location: b", status=201)
    await site.get(path="/a?/new", raw_path=b"/a%3F/new", method="POST")
    site.says(FRESH)
    assert (await site.get(path="/a?/b", raw_path=b"/a%3F/b")).asked


@pytest.mark.parametrize(
    "value", ["http://[", "", "\xff\xfe", "//", "http://example.com:port/", "\0", "://", "http:///"]
)
def test_4_4_a_location_that_is_no_url_is_ignored(value: str) -> None:
    """It came from the application, and perhaps from a user before."""
    assert related_keys(http_scope("/a"), b"example.com", fields(f"location: {value}"))


async def test_4_4_the_client_hears_of_success_after_the_invalidation(site: Site) -> None:
    """Whoever knows that it is done must not read what was before."""
    site.says(FRESH)
    await site.get()
    site.says(status=204)
    seen: list[bool] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            site.says(FRESH)
            seen.append((await site.get()).asked)

    await site.get(method="DELETE", send=send)
    assert seen == [True]


async def test_4_4_a_route_can_do_without_lifetimes_of_its_own(site: Site) -> None:
    """What a route says is invalidated like anything else."""

    @cached_response(ttl=60)
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a"})

    site.runs(app)
    assert await site.reuses()
    await site.get(method="POST")
    assert (await site.get()).asked


def test_a_record_that_is_not_ours_is_a_miss() -> None:
    """Whatever else is stored there, or an older version left, counts as nothing."""
    stored = Stored.make(200, (), b"", 0.0, 0.0, 0.0, 0.0, 0, b"", b"", ())
    assert as_stored(tuple(stored)) == stored
    for value in (None, (), [*stored], tuple(stored)[:-1], ("response/0", *tuple(stored)[1:]), b"", {"a": 1}):
        assert as_stored(value) is None
        assert as_variants(value) is None
