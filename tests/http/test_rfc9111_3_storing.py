"""RFC 9111, section 3: which responses a shared cache stores, and what of them."""

from __future__ import annotations

from typing import Any

import pytest

from nearcache.http import cached_response, storing
from nearcache.http.records import Pairs
from nearcache.http.requests import Request
from nearcache.http.routes import CacheRules
from nearcache.http.storing import Refusal, Terms

from .conftest import Site, fields, http_scope

FRESH = "cache-control: max-age=60"


def terms(*lines: str, status: int = 200, request: tuple[str, ...] = (), **options: Any) -> Terms | Refusal:
    headers: Pairs = tuple(fields(*lines))
    asked = Request(http_scope(headers=fields(*request)))
    return storing.terms(asked, status, headers, now=1_767_225_600.0, **options)


def is_stored(*lines: str, **options: Any) -> bool:
    return isinstance(terms(*lines, **options), Terms)


# -- 3: what may be stored


async def test_3_a_response_to_get_with_a_lifetime_is_stored(site: Site) -> None:
    """What all the others would prove nothing without."""
    site.says(FRESH)
    assert await site.reuses()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "MADEUP", "get"])
async def test_3_only_methods_that_are_understood_are_stored(site: Site, method: str) -> None:
    """MUST NOT store unless the cache understands the method; methods have a case."""
    site.says(FRESH)
    assert not await site.reuses(method=method)
    assert (await site.get()).asked, "nor is such a response used for a GET request"


async def test_3_a_response_to_head_is_not_stored_as_one_to_get(site: Site) -> None:
    """The content of a response to HEAD is missing, not empty."""
    site.says(FRESH)
    assert (await site.get(method="HEAD")).asked
    assert (await site.get()).asked


async def test_3_a_get_request_with_content_is_not_answered_from_the_cache(site: Site) -> None:
    """Content has no meaning that the cache knows, and might have one for the application."""
    site.says(FRESH)
    assert await site.reuses("content-length: 0")
    assert (await site.get("content-length: 5")).asked
    assert (await site.get("transfer-encoding: chunked")).asked


@pytest.mark.parametrize("status", [100, 101, 102, 103, 199])
def test_3_an_interim_response_is_not_stored(status: int) -> None:
    """MUST NOT store unless the status code is final."""
    assert not is_stored(FRESH, status=status)


@pytest.mark.parametrize("status", [206, 304])
async def test_3_206_and_304_are_not_stored(site: Site, status: int) -> None:
    """MUST NOT store these two unless they are understood; parts are not, here, and a 304 is about something else."""
    site.says(FRESH, "content-range: bytes 0-0/2", status=status)
    assert not await site.reuses()


@pytest.mark.parametrize("status", [200, 201, 203, 204, 299, 302, 307, 400, 403, 404, 410, 418, 500, 503, 599])
async def test_3_every_final_status_may_be_stored_with_a_lifetime(site: Site, status: int) -> None:
    """Of a final status code that is not understood, the general rules hold."""
    site.says(FRESH, status=status)
    await site.get()
    got = await site.get()
    assert not got.asked
    assert got.status == status


async def test_3_no_store_is_not_stored(site: Site) -> None:
    """MUST NOT store with no-store in the response."""
    site.says("cache-control: max-age=60, no-store")
    assert not await site.reuses()


async def test_3_no_store_counts_on_any_line(site: Site) -> None:
    """Several lines of a field are one list."""
    site.says(FRESH, "cache-control: no-store")
    assert not await site.reuses()


async def test_3_private_is_not_stored(site: Site) -> None:
    """MUST NOT store in a shared cache with private in the response."""
    site.says("cache-control: private, max-age=60")
    assert not await site.reuses()


async def test_3_a_shared_cache_does_not_store_private_even_when_it_is_public_too(site: Site) -> None:
    """What contradicts itself is taken the safe way (section 4.2.1: the most restrictive directive)."""
    site.says("cache-control: public, private, s-maxage=60")
    assert not await site.reuses()


@pytest.mark.parametrize(
    "lifetime",
    ["cache-control: max-age=60", "cache-control: s-maxage=60", "cache-control: public, max-age=60", "expires: {}"],
)
async def test_3_any_explicit_lifetime_lets_a_response_be_stored(site: Site, lifetime: str) -> None:
    """One of public, Expires, max-age, s-maxage; of a status that is not stored by heuristics."""
    site.says(lifetime.format(site.date(60)), status=299)
    assert await site.reuses()


@pytest.mark.parametrize("status", [201, 202, 302, 303, 307, 400, 401, 403, 500, 502, 503, 599])
async def test_3_without_a_lifetime_other_statuses_are_not_stored(site: Site, status: int) -> None:
    """MUST NOT store what neither says so nor has a status that is cacheable by heuristics."""
    site.says(f"last-modified: {site.date(-100_000)}", status=status)
    assert not await site.reuses()


@pytest.mark.parametrize("status", [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
async def test_3_a_status_that_is_cacheable_by_heuristics_is_enough(site: Site, status: int) -> None:
    """These may be stored without a word about lifetimes (RFC 9110, section 15.1)."""
    site.says(f"last-modified: {site.date(-100_000)}", status=status)
    assert await site.reuses()


async def test_3_public_lets_any_status_be_stored_by_heuristics(site: Site) -> None:
    """Public makes a response storable (section 5.2.2.9)."""
    site.says("cache-control: public", f"last-modified: {site.date(-100_000)}", status=299)
    assert await site.reuses()


async def test_3_a_response_with_a_tag_alone_is_stored_and_validated(site: Site) -> None:
    """It has no lifetime, but its status may be stored, and it can be asked about."""
    site.says('etag: "a"', body=b"first")
    await site.get()
    site.says('etag: "a"', status=304)
    got = await site.get()
    assert (got.asked, got.status, got.body) == (True, 200, b"first")
    assert site.asked_with("if-none-match") == [b'"a"']


async def test_3_a_response_that_says_nothing_is_not_stored(site: Site) -> None:
    """No lifetime, no validator: of no use."""
    site.says("content-type: text/plain")
    assert not await site.reuses()


async def test_3_a_response_with_set_cookie_is_not_stored(site: Site) -> None:
    """Section 7.3 leaves it open; here, never."""
    site.says("cache-control: public, s-maxage=60", "Set-Cookie: a=b")
    assert not await site.reuses()


# -- 3: must-understand (5.2.2.3)


async def test_3_must_understand_refuses_a_status_that_is_not_understood(site: Site) -> None:
    """MUST NOT store what must be understood, and is not."""
    site.says("cache-control: max-age=60, must-understand", status=299)
    assert not await site.reuses()


async def test_3_must_understand_overrides_no_store_for_a_status_that_is_understood(site: Site) -> None:
    """SHOULD ignore no-store beside must-understand, where the status is understood."""
    site.says("cache-control: max-age=60, no-store, must-understand")
    assert await site.reuses()
    site.says("cache-control: max-age=60, no-store, must-understand", status=299)
    assert not await site.reuses(path="/299")


# -- 3.1: what of a response is stored

HOP_BY_HOP = [
    "connection: x-hop",
    "keep-alive: timeout=5",
    "proxy-connection: keep-alive",
    "te: trailers",
    "transfer-encoding: chunked",
    "upgrade: h2c",
    "proxy-authenticate: Basic",
    "proxy-authentication-info: a=b",
    "proxy-authorization: Basic eA==",
]


@pytest.mark.parametrize("line", HOP_BY_HOP)
async def test_3_1_fields_of_a_connection_are_not_stored(site: Site, line: str) -> None:
    """MUST NOT store Connection, what RFC 9110 (7.6.1) lists beside it, and the Proxy- fields."""
    site.says(FRESH, line.title())
    await site.get()
    assert (await site.get()).field(line.partition(":")[0]) is None


async def test_3_1_fields_named_by_connection_are_not_stored(site: Site) -> None:
    """MUST NOT store what Connection lists, in any case, on any line."""
    site.says(FRESH, "x-one: 1", "x-two: 2", "x-three: 3", "x-kept: 4", "connection: close, X-One", "connection: x-two")
    await site.get()
    got = await site.get()
    assert not got.asked
    assert [got.field(name) for name in ("x-one", "x-two", "x-three", "x-kept")] == [None, None, b"3", b"4"]


async def test_3_1_all_other_fields_are_stored(site: Site) -> None:
    """MUST store all fields that were received, unrecognised ones too, in their order."""
    site.says(FRESH, "x-unknown: a", "content-language: de", "x-unknown: b", "x-empty: ")
    await site.get()
    headers = (await site.get()).headers
    kept = [pair for pair in headers if pair[0].startswith((b"x-", b"content-lang"))]
    assert kept == fields("x-unknown: a", "content-language: de", "x-unknown: b", "x-empty: ")


async def test_3_1_fields_named_by_no_cache_are_not_stored(site: Site) -> None:
    """What no-cache names must be validated to be sent: it is left out (section 5.2.2.4)."""
    site.says('cache-control: max-age=60, no-cache="X-Secret, x-other"', "x-secret: 1", "x-other: 2", "x-kept: 3")
    await site.get()
    got = await site.get()
    assert not got.asked
    assert [got.field(name) for name in ("x-secret", "x-other", "x-kept")] == [None, None, b"3"]


async def test_3_1_fields_named_by_private_are_not_stored(site: Site) -> None:
    """MUST NOT store the fields that private names, in a shared cache (section 5.2.2.7)."""
    site.says('cache-control: max-age=60, private="X-User"', "x-user: alice", "x-kept: 3")
    await site.get()
    got = await site.get()
    assert not got.asked
    assert [got.field(name) for name in ("x-user", "x-kept")] == [None, b"3"]


async def test_3_1_a_stored_204_has_no_content_length(site: Site) -> None:
    """MUST NOT send Content-Length in a 204 (RFC 9110, section 8.6)."""
    site.says(FRESH, status=204, body=b"")
    await site.get()
    got = await site.get()
    assert not got.asked
    assert got.field("content-length") is None


async def test_3_1_a_stored_response_gets_the_length_of_its_content(site: Site) -> None:
    """A response without one was sent in chunks; what is stored is all there."""
    site.says(FRESH, body=b"12345")
    await site.get()
    assert (await site.get()).all("content-length") == [b"5"]


@pytest.mark.parametrize("line", ["x-a: b\r\nset-cookie: c=d", "x-a: b\nx: y", "x-a: b\rx: y", "x-a: b\0", ": b"])
def test_3_1_a_field_that_could_pose_as_two_is_not_stored(line: str) -> None:
    """RFC 9110, section 5.5: CR, LF and NUL are dangerous."""
    assert not is_stored(FRESH, line)
    assert is_stored(FRESH, "x-a: b")


# -- 3.3: incomplete responses


def streaming(*parts: bytes, headers: list[tuple[bytes, bytes]], ends: bool = True, fails: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if fails:
            raise ConnectionError
        if ends:
            await send({"type": "http.response.body"})

    return app


async def test_3_3_a_response_in_parts_is_stored_whole(site: Site) -> None:
    """It is complete when the last part has been sent."""
    site.runs(streaming(b"ab", b"cd", headers=fields(FRESH)))
    await site.get()
    got = await site.get()
    assert (got.asked, got.body) == (False, b"abcd")


async def test_3_3_a_response_shorter_than_its_length_is_not_stored(site: Site) -> None:
    """MUST NOT treat a response as complete when it is shorter than it said (RFC 9112, section 8)."""
    site.runs(streaming(b"ab", headers=fields(FRESH, "content-length: 4")))
    assert not await site.reuses()


async def test_3_3_a_response_without_an_end_is_not_stored(site: Site) -> None:
    """The last part never came."""
    site.runs(streaming(b"ab", headers=fields(FRESH), ends=False))
    assert not await site.reuses()


async def test_3_3_a_response_cut_short_by_an_error_is_not_stored(site: Site) -> None:
    """A broken connection makes a response incomplete."""
    site.runs(streaming(b"ab", headers=fields(FRESH), fails=True))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await site.get()
    assert len(site.requests) == 2


async def test_3_3_an_incomplete_response_is_not_used_for_whole_ones(site: Site) -> None:
    """MUST NOT answer with a part as if it were all."""
    site.says(FRESH, "content-range: bytes 0-0/5", status=206)
    await site.get("range: bytes=0-0")
    site.says(FRESH, body=b"12345")
    got = await site.get()
    assert (got.asked, got.status, got.body) == (True, 200, b"12345")


# -- 3.5: requests with Authorization


@pytest.mark.parametrize("control", ["max-age=60", "max-age=60, proxy-revalidate", "max-age=60, immutable", "no-cache"])
async def test_3_5_a_response_to_an_authorized_request_is_not_reused(site: Site, control: str) -> None:
    """MUST NOT reuse a response to a request with Authorization, unless a directive allows a shared cache to."""
    site.says(f"cache-control: {control}", 'etag: "a"')
    assert not await site.reuses("authorization: Basic YTpi")
    assert (await site.get()).body == b"3"
    assert (await site.get("authorization: Basic Yzpk")).asked


@pytest.mark.parametrize("control", ["public, max-age=60", "must-revalidate, max-age=60", "s-maxage=60"])
async def test_3_5_these_directives_let_it_be_reused(site: Site, control: str) -> None:
    """public, must-revalidate and s-maxage are such directives."""
    site.says(f"cache-control: {control}")
    assert await site.reuses("authorization: Basic YTpi")
    assert not (await site.get("Authorization: Basic Yzpk")).asked
    assert not (await site.get()).asked


async def test_3_5_must_revalidate_says_nothing_of_cookies(site: Site) -> None:
    """It lets responses to requests with Authorization be reused; a cookie is somebody else's business."""
    site.says("cache-control: must-revalidate, max-age=60")
    assert not await site.reuses("authorization: Basic YTpi", "cookie: a=b")


async def test_3_5_vary_authorization_does_not_let_it_be_reused(site: Site) -> None:
    """The section names its exceptions; a Vary is none of them."""
    site.says("cache-control: max-age=60", "vary: authorization")
    assert not await site.reuses("authorization: Basic YTpi")


async def test_3_5_an_authorized_request_is_not_answered_with_what_others_got(site: Site) -> None:
    """More than the section asks: the user may be shown more than everybody."""
    site.says(FRESH)
    await site.get()
    assert (await site.get("authorization: Basic YTpi")).asked


# -- intended: credentials of other kinds


SECRETS = ["cookie: a=b", "x-api-key: k", "X-Auth-Token: t", "X-Token: t", "proxy-authorization: Basic eA=="]
SECRETS += ["X-Forwarded-User: anna", "Remote-User: anna", "Cf-Access-Jwt-Assertion: t"]


@pytest.mark.parametrize("line", SECRETS)
async def test_requests_with_other_credentials_bypass(site: Site, line: str) -> None:
    """Who is asking is known by more than Authorization."""
    site.says(FRESH)
    assert not await site.reuses(line)
    await site.get()
    assert (await site.get(line)).asked


@pytest.mark.parametrize("name", ["cookie", "x-api-key"])
async def test_vary_tells_such_requests_apart(site: Site, name: str) -> None:
    """A response that varies on a credential is stored, for that very credential."""
    site.says(FRESH, f"vary: {name}")
    assert await site.reuses(f"{name}: alice")
    assert (await site.get(f"{name}: bob")).asked
    assert (await site.get()).asked
    assert not (await site.get(f"{name}: alice")).asked


async def test_vary_on_one_credential_does_not_cover_another(site: Site) -> None:
    """Every credential in a request has to be accounted for."""
    site.says(FRESH, "vary: cookie")
    assert not await site.reuses("cookie: a=b", "x-api-key: k")


@pytest.mark.parametrize("control", ["public, max-age=60", "s-maxage=60"])
async def test_a_response_may_say_that_it_is_for_everybody(site: Site, control: str) -> None:
    """Then credentials do not matter."""
    site.says(f"cache-control: {control}")
    assert await site.reuses("cookie: a=b", "x-api-key: k")


async def test_a_user_found_by_a_middleware_in_front_is_a_credential(site: Site) -> None:
    """A session with something in it, or a user who is logged in."""
    site.says(FRESH)
    assert not await site.reuses(session={"user": 1})
    assert not await site.reuses(user="alice")
    assert await site.reuses(session={}, user=None)


# -- what routes say


async def test_private_of_a_route_that_tells_users_apart_is_stored_for_the_user(site: Site) -> None:
    """The route says how its responses are keyed; to caches that do not know, they are private."""

    @cached_response(ttl=60, per_user=True)
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(site.requests)})

    site.runs(app)
    alice = await site.get("cookie: alice")
    assert alice.field("cache-control") == b"private"
    await site.get("cookie: alice")  # the first one told how responses are told apart
    again = await site.get("cookie: alice")
    assert (again.asked, again.field("cache-control")) == (False, b"private")
    assert (await site.get("cookie: bob")).asked
    assert (await site.get()).asked


async def test_vary_of_a_route_tells_requests_apart_and_is_told_to_clients(site: Site) -> None:
    """As if the response had said it."""

    @cached_response(ttl=60, vary=["X-Theme"])
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields("vary: accept")})
        await send({"type": "http.response.body", "body": b"%d" % len(site.requests)})

    site.runs(app)
    got = await site.get("x-theme: dark")
    assert got.all("vary") == [b"accept", b"x-theme"]
    assert (await site.get("x-theme: light")).asked
    again = await site.get("x-theme: dark")
    assert (again.asked, again.body, again.all("vary")) == (False, b"1", [b"accept", b"x-theme"])


@pytest.mark.parametrize("control", ["no-cache", "max-age=0", "no-cache, must-revalidate"])
async def test_what_a_route_says_of_lifetimes_counts_here_whatever_clients_are_told(site: Site, control: str) -> None:
    """It is the application's own cache: clients ask each time, and are answered from it."""

    @cached_response(ttl=60)
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields(f"cache-control: {control}")})
        await send({"type": "http.response.body", "body": b"a"})

    site.runs(app)
    await site.get()
    site.clock.advance(59)
    got = await site.get()
    assert (got.asked, got.field("cache-control")) == (False, control.encode())
    site.clock.advance(1)
    assert (await site.get()).asked


async def test_a_route_may_say_that_it_is_the_same_for_all_users(site: Site) -> None:
    """``per_user=False``: credentials do not matter."""

    @cached_response(ttl=60, per_user=False)
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a"})

    site.runs(app)
    assert await site.reuses("cookie: alice", "authorization: Basic YTpi")
    assert not (await site.get("cookie: bob")).asked
    assert not (await site.get()).asked


@pytest.mark.parametrize(("status", "expected"), [(200, True), (404, True), (301, True), (201, False), (500, False)])
def test_a_lifetime_of_a_route_is_for_what_it_succeeds_in(status: int, expected: bool) -> None:
    """An error that says nothing is not stored for as long as an answer."""
    assert is_stored(status=status, rules=CacheRules(ttl=60).rules) is expected
    assert is_stored(FRESH, status=status, rules=CacheRules(ttl=60).rules)


def test_no_store_counts_for_a_route_with_a_lifetime() -> None:
    """A route's ttl is about lifetimes; what forbids storing goes on doing so."""
    rules = CacheRules(ttl=60).rules
    assert is_stored(rules=rules)
    for control in ("no-store", "private", "private, max-age=3"):
        assert not is_stored(f"cache-control: {control}", rules=rules)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("content-type: text/event-stream", FRESH), "events"),
        (("trailer: x-sum", FRESH), "trailers"),
        (("vary: *", FRESH), "Vary: *"),
        (("set-cookie2: a", FRESH), "Set-Cookie"),
        (("cache-control: no-cache",), "no-cache, and nothing to validate it by"),
        (("cache-control: max-age=0",), "stale already"),
        ((), "no lifetime"),
    ],
)
def test_why_a_response_is_not_stored(lines: tuple[str, ...], why: str) -> None:
    """Every refusal has its reason, for the log."""
    refusal = terms(*lines)
    assert isinstance(refusal, Refusal)
    assert refusal.why == why
