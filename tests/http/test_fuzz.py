"""Garbage: nothing raises for what a field says, and nothing is shared that must not be."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nearcache import AsyncCache, Settings, get_multi_redis_connection_manager
from nearcache.http import HTTPCacheMiddleware, fields, serving, storing
from nearcache.http.records import Pairs, Variants, as_stored
from nearcache.http.requests import Request, url_key
from nearcache.http.routes import CacheRules
from nearcache.http.storing import Terms
from nearcache.http.targets import related_keys

from .conftest import Got, ask, http_scope

NOW = 1_767_225_600.0

# -- what fields may say: words that mean something, and what is around them

WORDS = [
    *(b"private", b"no-store", b"no-cache", b"public", b"max-age", b"s-maxage", b"must-revalidate", b"immutable"),
    *(b"proxy-revalidate", b"stale-while-revalidate", b"stale-if-error", b"only-if-cached", b"min-fresh", b"max-stale"),
    *(
        b"=60",
        b"=0",
        b"=",
        b"=-1",
        b'="',
        b'"',
        b"\\",
        b",",
        b", ",
        b";",
        b" ",
        b"\t",
        b"*",
        b"W/",
        b'"a"',
        b"=x",
        b"\xff",
    ),
    *(
        b"Cookie",
        b"accept",
        b"authorization",
        b"x-a",
        b"(",
        b")",
        b"?0",
        b"?1",
        b"bytes=",
        b"0-1",
        b"-",
        b"9" * 25,
        b"\0",
    ),
    *(b"Thu, 01 Jan 2026 00:00:00 GMT", b"Wed, 31 Dec 2025 00:00:00 GMT", b"Sat, 01 Jan 0000 00:00:00 GMT", b"GMT"),
    *(b"http://", b"//", b"/", b"example.com", b":", b"[", b"%", b"?", b"#", b"..", b"text/event-stream", b"\xc3\xa9"),
]
VALUES = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=8).map(b"".join),
    st.lists(st.sampled_from(WORDS), max_size=5).map(b", ".join),
    st.binary(max_size=40),
)
RESPONSE_NAMES = [
    *(b"cache-control", b"Cache-Control", b"vary", b"set-cookie", b"Set-Cookie", b"etag", b"last-modified", b"expires"),
    *(b"date", b"age", b"pragma", b"connection", b"content-length", b"content-range", b"location", b"content-location"),
    *(
        b"cdn-cache-control",
        b"nearcache-cache-control",
        b"cache-tag",
        b"surrogate-key",
        b"trailer",
        b"x-a",
        b"content-type",
    ),
]
REQUEST_NAMES = [
    *(b"cache-control", b"Cache-Control", b"pragma", b"if-none-match", b"if-modified-since", b"if-range", b"range"),
    *(b"authorization", b"cookie", b"Cookie", b"x-api-key", b"accept", b"x-a", b"if-match", b"content-length", b"host"),
]


def headers(names: list[bytes]) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    return st.lists(st.tuples(st.one_of(st.sampled_from(names), st.binary(max_size=8)), VALUES), max_size=7)


RESPONSES, REQUESTS = headers(RESPONSE_NAMES), headers(REQUEST_NAMES)
STATUSES = st.one_of(st.sampled_from([200, 200, 204, 206, 301, 304, 404, 500, 503]), st.integers(100, 599))
LONG = settings(max_examples=200, deadline=None)


@LONG
@given(st.lists(VALUES, max_size=3))
@example([b"Sat, 01 Jan 0000 00:00:00 GMT"])
@example([b"9" * 5000])
def test_no_value_of_a_field_raises(values: list[bytes]) -> None:
    """Every parser, with everything."""
    assert all(isinstance(name, bytes) for name in fields.directives(values))
    said = fields.targeted(values)
    assert said is None or all(isinstance(value, bytes) for value in said.values())
    assert all(element == element.strip(b" \t") for element in fields.elements(values))
    assert fields.names(values) == sorted(set(fields.names(values)))
    assert all(fields.entity_tags(values))
    for value in values:
        seconds = fields.seconds(value)
        assert seconds is None or 0 <= seconds <= fields.MOST
        date = fields.http_date(value)
        assert date is None or isinstance(date, float)


@LONG
@given(st.lists(VALUES, min_size=1, max_size=3))
def test_lines_of_a_list_are_one_list(values: list[bytes]) -> None:
    """But for a quote that is never closed, which ends with its line."""
    if not any(value.count(b'"') or b"\\" in value for value in values):
        assert list(fields.elements(values)) == list(fields.elements([b",".join(values)]))
        assert fields.directives(values) == fields.directives([b",".join(values)])


RULES = st.sampled_from(
    [
        storing.NO_RULES,
        CacheRules(ttl=60).rules,
        CacheRules(per_user=True).rules,
        CacheRules(per_user=False, ttl=5).rules,
    ]
)


@LONG
@given(REQUESTS, STATUSES, RESPONSES, RULES, st.floats(0, 1e6), st.sampled_from([None, 300.0]))
def test_nothing_raises_from_storing_to_serving(
    asking: list[tuple[bytes, bytes]],
    status: int,
    answered: list[tuple[bytes, bytes]],
    rules: storing.Rules,
    passed: float,
    default: float | None,
) -> None:
    """And what comes out makes sense."""
    scope = http_scope(headers=asking)
    request, pairs = Request(scope), tuple(answered)
    terms = storing.terms(request, status, pairs, rules, now=NOW, default=default)
    storing.read_tags(pairs)
    related_keys(scope, request.host, pairs)
    if not isinstance(terms, Terms):
        assert terms.why
        return
    assert terms.keep > 0
    assert terms.age >= 0
    stored = storing.make_stored(status, pairs, b"0123456789", terms, NOW)
    assert as_stored(tuple(stored)) == stored
    names = {name.lower() for name, _ in stored.headers}
    assert not names & {b"set-cookie", b"connection", b"age", b"cache-tag", b"nearcache-cache-control"}
    assert not any(set(value) & set(b"\r\n\0") for _, value in stored.headers)
    use = serving.use(stored, request, passed)
    if use is serving.Use.SERVE and b"max-stale" not in request.directives:
        assert passed < stored.lifetime
    serving.may_stand_in(stored, request, passed)
    serving.conditions(stored, asking)
    serving.same_content(stored, pairs)
    serving.confirms(stored, pairs)
    serving.freshened(stored.headers, pairs)
    found = serving.answer(stored, request)
    assert found.status in {status, 206, 304, 416}
    assert found.body in stored.body
    variants = Variants.make("g", terms.names, ())
    assert request.secondary_key("k", variants, ()) == request.secondary_key("k", variants, ())


@LONG
@given(*[st.tuples(st.text(max_size=12), st.binary(max_size=8), st.sampled_from([b"", b"a", b".-", b"a.-b"]))] * 2)
def test_keys_of_different_urls_differ(one: tuple[str, bytes, bytes], other: tuple[str, bytes, bytes]) -> None:
    """Nothing in a path can pose as a query or a host."""
    keys = [url_key("/" + path, None, query, host, "http") for path, query, host in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@LONG
@given(REQUESTS, REQUESTS)
def test_requests_that_differ_in_a_credential_have_different_places(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]
) -> None:
    """However their fields are normalised."""
    names = (b"authorization", b"cookie", b"x-api-key")

    def who(pairs: list[tuple[bytes, bytes]]) -> list[list[bytes]]:
        return [[value for key, value in pairs if key.lower() == name] for name in names]

    first, second = (Request(http_scope(headers=pairs)) for pairs in (one, other))
    variants = Variants.make("g", names, ())
    same = first.secondary_key("k", variants, ()) == second.secondary_key("k", variants, ())
    assert same == (who(one) == who(other))


# -- through the middleware

_ALONE = re.compile(rb"(?<![\w-])(?:private|no-store)(?![\w-])")
_CREDENTIALS = {b"authorization", b"cookie", b"x-api-key"}
_COVERS = (b"public", b"s-maxage", b"must-revalidate", b"cookie", b"x-api-key")


def is_for_one(asking: Pairs, status: int, answered: Pairs) -> bool:
    """Whether a response must not be shared: by much simpler rules, which know of fewer exceptions."""
    names = {name.lower() for name, _ in answered}
    if status in {206, 304} or status < 200 or b"set-cookie" in names:
        return True
    if b"cdn-cache-control" in names or b"nearcache-cache-control" in names:
        return False  # it may silence all the rest
    said = [value.lower() for name, value in answered if name.lower() == b"cache-control"]
    if any(_ALONE.search(value) and b'"' not in value for value in said):
        return True
    if any(name.lower() == b"vary" and value.strip() == b"*" for name, value in answered):
        return True
    told = b" ".join(value.lower() for name, value in answered if name.lower() in {b"cache-control", b"vary"})
    with_credentials = any(name.lower() in _CREDENTIALS for name, _ in asking)
    return with_credentials and not any(word in told for word in _COVERS)


SAID = [
    *(
        (b"cache-control", word)
        for word in (b"public", b"private", b"Private", b"no-store", b"s-maxage=60", b"no-cache")
    ),
    *((b"cache-control", word) for word in (b"max-age=9;private", b"x, no-store", b"must-revalidate", b"max-age=0")),
    *((b"cache-control", word) for word in (b"stale-while-revalidate=60", b"stale-if-error=60", b'private="x-a"')),
    *((b"vary", word) for word in (b"cookie", b"accept", b"*", b"x-a", b"authorization", b" Cookie ,X-A")),
    *((b"Set-Cookie", b"a=b"), (b"etag", b'"a"'), (b"x-a", b"1"), (b"connection", b"x-a"), (b"age", b"50")),
]
ASKED = [
    *((b"cookie", b"a"), (b"cookie", b"b"), (b"authorization", b"a"), (b"authorization", b"b"), (b"x-api-key", b"a")),
    *(
        (b"accept", b"a"),
        (b"x-a", b"1"),
        (b"x-a", b""),
        (b"cache-control", b"no-cache"),
        (b"cache-control", b"max-stale"),
    ),
]


def mostly(pairs: list[tuple[bytes, bytes]], names: list[bytes]) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    """Of these, and sometimes garbage."""
    pair = st.one_of(st.sampled_from(pairs), st.sampled_from(pairs), st.tuples(st.sampled_from(names), VALUES))
    return st.one_of(st.just([]), st.lists(pair, max_size=3))


EXCHANGE = st.tuples(
    mostly(ASKED, REQUEST_NAMES),
    st.sampled_from([200] * 12 + [204, 206, 304, 404, 503]),
    mostly(SAID, RESPONSE_NAMES),
    st.sampled_from(["GET"] * 8 + ["HEAD", "POST"]),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EXCHANGE, min_size=4, max_size=8))
@example([([], 200, [(b"cache-control", b"max-age=60"), (b"set-cookie", b"a")], "GET"), ([], 200, [], "GET")])
@example([([(b"cookie", b"a")], 200, [(b"cache-control", b"max-age=60")], "GET"), ([], 200, [], "GET")])
@example([([], 200, [(b"cache-control", b"max-age=60; private")], "GET"), ([], 200, [], "GET")])
def test_nothing_is_shared_that_must_not_be(exchanges: list[Any]) -> None:
    """Every response says whom it was made for; who else gets it must be allowed to."""

    async def run() -> None:
        cache = AsyncCache(3600, "app")
        await cache.initialize(Settings(redis_url=f"memory://{uuid4().hex}", _env_file=None))
        made: list[tuple[Pairs, int, Pairs, str]] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            _, status, answered, _ = exchange
            answered = [pair for pair in answered if pair[0].lower() != b"content-length"]
            answered.append((b"Cache-Control", b"max-age=60"))
            made.append((tuple(scope["headers"]), status, tuple(answered), scope["method"]))
            await send({"type": "http.response.start", "status": status, "headers": answered})
            await send({"type": "http.response.body", "body": b"number %d" % (len(made) - 1)})

        middleware = HTTPCacheMiddleware(app, cache)
        for exchange in exchanges:
            asking, _, _, method = exchange
            before = len(made)
            got = Got((await ask(middleware, "/", asking, method=method)).messages)
            while running := list(middleware._refreshing.values()):
                await asyncio.wait(running)
            match = re.fullmatch(rb"number (\d+)", got.body)
            if len(made) > before or match is None:
                continue  # it was made for this request, or is a part, or nothing
            request, status, answered, made_by = made[int(match[1])]
            assert made_by == "GET"
            assert not is_for_one(request, status, answered), (request, status, answered)
            assert not any(name.lower() in {b"set-cookie", b"connection"} for name, _ in got.headers)
            if any(name.lower() in _CREDENTIALS for name, _ in asking):
                told = b" ".join(value.lower() for _, value in answered)
                assert any(word in told for word in _COVERS), (asking, answered)
        await get_multi_redis_connection_manager().disconnect_all()

    asyncio.run(run())
