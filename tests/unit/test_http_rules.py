"""What may be shared: a table of requests and responses, and a promise for every other one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nearcache.http.rules import lifetime, may_share, route_key

HOST = (b"host", b"example.com")


def request(*headers: tuple[bytes, bytes], method: str = "GET", **scope: Any) -> dict[str, Any]:
    """An HTTP scope."""
    return {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": [HOST, *headers], **scope}


class User:
    def __init__(self, is_authenticated: bool) -> None:
        self.is_authenticated = is_authenticated


@pytest.mark.parametrize(
    "scope",
    [
        request(),
        request((b"accept", b"*/*"), (b"user-agent", b"curl")),
        request((b"cache-control", b"max-age=0")),
        request((b"content-length", b"0")),
        request((b"upgrade-insecure-requests", b"1")),
        request((b"if-none-match", b'"x"')),
        request(session={}),
        request(user=User(False)),
        request(user=None),
    ],
)
def test_request_may_share(scope: dict[str, Any]) -> None:
    assert may_share(scope)


@pytest.mark.parametrize(
    "scope",
    [
        *(request(method=method) for method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get", "QUERY")),
        request((b"authorization", b"")),
        request((b"Authorization", b"Bearer x")),
        request((b"cookie", b"a=b")),
        request((b"COOKIE", b"")),
        request((b"proxy-authorization", b"x")),
        request((b"x-api-key", b"x")),
        request((b"x-auth-token", b"x")),
        request((b"range", b"bytes=0-1")),
        request((b"upgrade", b"h2c")),
        request((b"content-length", b"2")),
        request((b"content-length", b"")),
        request((b"transfer-encoding", b"chunked")),
        request((b"cache-control", b"no-store")),
        request((b"cache-control", b"max-age=0, NO-CACHE")),
        request((b"cache-control", b"max-age=5"), (b"Cache-Control", b" no-cache ")),
        request((b"pragma", b"no-cache")),
        request(session={"user": 1}),
        request(user=User(True)),
        request(user="somebody"),
    ],
)
def test_request_is_passed_through(scope: dict[str, Any]) -> None:
    assert not may_share(scope)


def control(*lines: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"cache-control", line) for line in lines]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], 300),
        ([(b"content-type", b"text/html")], 300),
        (control(b""), 300),
        (control(b"public"), 300),
        (control(b"public, max-age=60"), 60),
        (control(b"MAX-AGE=60"), 60),
        (control(b" max-age = 60 "), 60),
        (control(b'max-age="60"'), 60),
        (control(b"public\t,\tmax-age=60"), 60),
        (control(b"public;max-age=60;must-revalidate"), 60),
        (control(b"max-age=60, s-maxage=10"), 10),
        (control(b"s-maxage=10", b"max-age=60"), 10),
        (control(b"S-MaxAge=600, max-age=60"), 600),
        (control(b"max-age=60, max-age=5"), 5),  # of two, the safer
        (control(b'ext="a, max-age=9999", max-age=5'), 5),
        (control(b"x-max-age=5"), 300),
        (control(b"max-agent=5"), 300),
        (control(b"stale-while-revalidate=5"), 300),
        (control(b"max-age=60, immutable, must-revalidate"), 60),
        (control(b"max-age=9999999999999"), 2**31),
        ([(b"expires", b"0"), *control(b"max-age=60")], 60),
    ],
)
def test_response_lifetime(headers: list[tuple[bytes, bytes]], seconds: float) -> None:
    assert lifetime(200, headers, 300) == seconds


@pytest.mark.parametrize("status", [100, 101, 201, 203, 204, 206, 301, 302, 304, 400, 401, 403, 404, 500, 503])
def test_only_200_is_stored(status: int) -> None:
    assert lifetime(status, [], 300) is None


@pytest.mark.parametrize(
    "line",
    [
        b"private",
        b"Private",
        b"PRIVATE, max-age=60",
        b"max-age=60,private",
        b"max-age=60 , \t private",
        b"max-age=60;private",
        b"public private",
        b'private="x-name"',
        b'"private"',
        b'private, no-cache="set-cookie"',
        b"no-store",
        b"No-Store",
        b"max-age=60, no-store",
        b"no-store=1",
        b"no-cache",
        b"NO-CACHE, max-age=60",
        b'no-cache="Set-Cookie"',
        b'ext="unterminated, no-store',
        b'ext="escaped \\", private',
        b"\xff\x00private",
        b"max-age=0",
        b"max-age=-1",
        b"max-age=x",
        b"max-age",
        b"max-age=",
        b"max-age=1.5",
        b"max-age=60, max-age=x",
        b"max-age=" + b"9" * 5000,
        b"max-age=\xd9\xa3",  # a digit in another script
        b"s-maxage=0, max-age=60",
        b's-maxage="", max-age=60',
        b'ext="unterminated, max-age=0',
    ],
)
def test_cache_control_forbids(line: bytes) -> None:
    assert lifetime(200, control(line), 300) is None
    assert lifetime(200, [(b"Cache-Control", b"public"), (b"CACHE-CONTROL", line)], 300) is None
    assert lifetime(200, control(b'ext="unterminated', line), 300) is None


@pytest.mark.parametrize(
    "header",
    [
        (b"set-cookie", b"a=b"),
        (b"Set-Cookie", b""),
        (b"vary", b"accept"),
        (b"Vary", b"*"),
        (b"content-range", b"bytes 0-1/2"),
        (b"pragma", b"no-cache"),
        (b"expires", b"0"),
        (b"Expires", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"content-type", b"text/event-stream"),
        (b"Content-Type", b" Text/Event-Stream; charset=utf-8"),
    ],
)
def test_header_forbids(header: tuple[bytes, bytes]) -> None:
    assert lifetime(200, [(b"content-length", b"3"), header], 300) is None


HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"cache-control", b"Cache-Control", b"pragma", b"vary", b"expires"]) | st.binary(),
        st.binary()
        | st.lists(
            st.sampled_from(
                [b"max-age", b"s-maxage", b"private", b"=", b'"', b",", b";", b" ", b"\t", b"\\", b"0", b"77", b"\xff"]
            )
        ).map(b"".join),
    )
)


@given(st.integers(0, 1000) | st.just(200), HEADERS)
@example(200, control(b'max-age="' * 1000))
def test_any_headers_give_a_lifetime_in_bounds(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    seconds = lifetime(status, headers, 300)
    assert seconds is None or 0 < seconds <= 2**31
    said = b",".join(value for name, value in headers if name.lower() == b"cache-control").lower()
    assert seconds is None or b"private" not in said


@given(HEADERS)
def test_any_request_headers_give_a_verdict(headers: list[tuple[bytes, bytes]]) -> None:
    assert may_share(request(*headers)) in {True, False}


@given(st.text(), st.binary(), st.binary(), st.binary())
def test_any_url_gives_a_key(path: str, raw_path: bytes, query: bytes, host: bytes) -> None:
    scope = request(path=path, raw_path=raw_path, query_string=query, headers=[(b"host", host)])
    assert route_key(scope).startswith("route:")


TEXTS = st.text(alphabet="ab/?% :\n\x00é") | st.text()


@given(*[st.tuples(*[TEXTS] * 4)] * 2)
@example(("example.com/a", "", "/b", ""), ("example.com", "", "/a/b", ""))
@example(("example.com", "", "/a?b", ""), ("example.com", "", "/a", "b"))
@example(("example.com", "", "/a", "b c"), ("example.com", "", "/a b", "c"))
@example(("a", "", "b", ""), ("ab", "", "", ""))
def test_different_urls_have_different_keys(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    def key(host: str, root_path: str, path: str, query: str) -> str:
        headers = [(b"host", host.encode())]
        return route_key(request(root_path=root_path, path=path, query_string=query.encode(), headers=headers))

    same = (one[0].encode().lower(), *one[1:]) == (other[0].encode().lower(), *other[1:])
    assert (key(*one) == key(*other)) is same


@pytest.mark.parametrize(
    "other",
    [
        request(path="/b", scheme="https"),
        request(path="/b", headers=[(b"host", b"other.com")]),
        request(path="/b", headers=[HOST, (b"host", b"other.com")]),
        request(path="/b", headers=[]),
        request(path="/b", root_path="/b"),
        request(path="/b", raw_path=b"/%62%2F"),
        request(path="/b", query_string=b"q"),
        request(path="/B"),
    ],
)
def test_what_tells_two_urls_apart(other: dict[str, Any]) -> None:
    assert route_key(other) != route_key(request(path="/b", scheme="http"))


def test_two_hosts_are_not_one() -> None:
    one, other = ([(b"host", host) for host in hosts] for hosts in ((b"a", b"b"), (b"ab",)))
    assert route_key(request(headers=one)) != route_key(request(headers=other))


def test_what_is_the_same_url() -> None:
    one = request(path="/é b", raw_path=b"/%C3%A9%20b", headers=[(b"host", b"EXAMPLE.com")])
    assert route_key(one) == route_key(request(path="/é b", scheme="http"))


def test_a_rewritten_path_is_another_url() -> None:
    """A middleware in front may send two users' ``/`` to different places."""
    one, other = (request(path=path, raw_path=b"/") for path in ("/en", "/de"))
    assert route_key(one) != route_key(other)
