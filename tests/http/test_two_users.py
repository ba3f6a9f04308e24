"""Users with cookies, tokens and keys ask for routes of every kind, all at once: no byte of one reaches another.

Run as a program it asks more often: ``python -m tests.http.test_two_users 100000``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from nearcache import AsyncCache, Settings, get_multi_redis_connection_manager
from nearcache.http import HTTPCacheMiddleware, cached_response

from .conftest import Headers, ask, fields

USERS = ("alice", "bob", "carol")
LANGUAGES = ("de", "fr")


def secret(user: str) -> bytes:
    """What only this user may see."""
    return b"<secret of %s>" % user.encode()


def user_of(scope: Mapping[str, Any]) -> str | None:
    """The user a request is from, as the application sees it."""
    if scope.get("user"):
        return str(scope["user"])
    for name, value in scope["headers"]:
        if name in {b"cookie", b"authorization", b"x-api-key"}:
            for user in USERS:
                if b"session-" + user.encode() in value:
                    return user
    return None


def cookie_user(scope: Mapping[str, Any]) -> str | None:
    """The same, by cookies alone."""
    return user_of({"headers": [pair for pair in scope["headers"] if pair[0] == b"cookie"]})


def named(scope: Any) -> str | None:
    """For ``per_user=``: anonymous requests are not cached."""
    return user_of(scope)


# -- the application: a route says how it is cached, and who sees what

ROUTES: dict[str, tuple[str, ...]] = {
    # Personal to whoever has credentials; what is said of caching is careless, or none.
    "/says-nothing": (),
    "/max-age": ("cache-control: max-age=60",),
    "/expires": ("expires: Fri, 01 Jan 2100 00:00:00 GMT",),
    "/modified": ("last-modified: Thu, 01 Jan 2015 00:00:00 GMT",),
    "/private": ("cache-control: private, max-age=60",),
    "/private-odd": ("cache-control: max-age=60; Private",),
    "/private-twice": ('cache-control: public, max-age=60, private="x-a", private',),
    "/no-store": ("cache-control: public, no-store, max-age=60",),
    "/no-cache": ('cache-control: no-cache, max-age=60',),
    "/vary-authorization": ("cache-control: max-age=60", "vary: authorization"),
    "/vary-asterisk": ("cache-control: public, max-age=60", "vary: accept-language, *"),
    "/stale": ("cache-control: max-age=0, stale-while-revalidate=60, stale-if-error=60",),
    "/cdn-private": ("cache-control: public, max-age=60", "cdn-cache-control: private"),
    # Told apart by credentials.
    "/vary-cookie": ("cache-control: max-age=60", "vary: cookie"),
    "/vary-more": ("cache-control: max-age=60", "vary: accept-language", "Vary: Cookie , X-API-Key"),
    "/vary-stale": ("cache-control: max-age=0, stale-while-revalidate=60", "vary: cookie"),
    "/per-user": ("cache-control: max-age=60",),
    "/per-user-name": (),
    "/per-user-private": ("cache-control: private, max-age=60",),
    # For everybody, but for a field or a cookie.
    "/public": ("cache-control: public, max-age=60",),
    "/s-maxage": ("cache-control: s-maxage=60",),
    "/public-set-cookie": ("cache-control: public, max-age=60",),
    "/private-field": ('cache-control: public, max-age=60, private="X-User"',),
    "/no-cache-field": ('cache-control: public, max-age=60, no-cache="x-user, x-other"',),
    "/connection-field": ("cache-control: public, max-age=60", "connection: X-User"),
    "/validated": ("cache-control: public, max-age=0", 'etag: "a"'),
    # Users found by a middleware, in front or behind.
    "/in-front": ("cache-control: max-age=60",),
    "/behind": ("cache-control: max-age=60",),
}  # fmt: skip
PERSONAL_FIELD = {"/private-field", "/no-cache-field", "/connection-field"}
FOR_ALL = {"/public", "/s-maxage", "/public-set-cookie", "/validated"} | PERSONAL_FIELD
BY_COOKIE = {"/vary-cookie", "/vary-stale"}


@cached_response(ttl=60, per_user=True)
async def per_user(answer: Any) -> None:
    await answer()


@cached_response(ttl=60, per_user=named, stale_while_revalidate=60)
async def per_user_name(answer: Any) -> None:
    await answer()


WRAPPED = {"/per-user": per_user, "/per-user-private": per_user, "/per-user-name": per_user_name}


class Application:
    """Tells every user its secret, wherever the route lets it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        path = scope["path"]
        route = path.partition("!")[0]
        if route == "/behind" and (name := dict(scope["headers"]).get(b"x-proxy-user")):
            scope["user"] = name.decode()
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        if self.chance.random() < 0.02:
            raise ConnectionError

        async def answer() -> None:
            await self._answer(scope, route, send)

        await WRAPPED.get(route, _plain)(answer)

    async def _answer(self, scope: Any, route: str, send: Any) -> None:
        user = cookie_user(scope) if route in BY_COOKIE else user_of(scope)
        told = secret(user) if user else b"nobody"
        headers, status = fields(*ROUTES[route]), 200
        body = b"for all" if route in FOR_ALL else told + b" in " + route.encode()
        if route in PERSONAL_FIELD:
            headers.append((b"x-user", told))
        if route == "/public-set-cookie" and user:
            headers.append((b"set-cookie", b"last=" + told))
        if route == "/validated" and dict(scope["headers"]).get(b"if-none-match") == b'"a"':
            status, body = 304, b""
            if user:
                headers.append((b"set-cookie", b"seen=" + told))
        if scope["method"] not in {"GET", "HEAD"}:
            headers, body = [(b"location", b"/max-age")], told
        if self.chance.random() < 0.03:
            status, headers = self.chance.choice([404, 500, 503]), headers[: 1 + self.chance.randrange(2)]
            # An error tells who asks, too: it must not call itself public.
            headers = [] if any(b"public" in value or b"s-maxage" in value for _, value in headers) else headers
        if route not in FOR_ALL and user and self.chance.random() < 0.1:
            headers.append((b"set-cookie", told))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        half = len(body) // 2
        await send({"type": "http.response.body", "body": body[:half], "more_body": True})
        if self.chance.random() < 0.2:
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body[half:]})


async def _plain(answer: Any) -> None:
    await answer()


# -- the users

METHODS = ("GET",) * 30 + ("HEAD", "HEAD", "POST")
ASIDES: tuple[tuple[str, ...], ...] = (
    *([()] * 12),
    ("cache-control: no-cache",),
    ("cache-control: max-age=0",),
    ("cache-control: max-stale",),
    ("cache-control: no-store",),
    ("cache-control: only-if-cached, max-stale",),
    ("pragma: no-cache",),
    ("range: bytes=0-20",),
    ('if-none-match: "a"',),
    ("if-none-match: *",),
    ("if-modified-since: Fri, 01 Jan 2100 00:00:00 GMT",),
)


@dataclass
class Report:
    """What came of it."""

    asked: int = 0
    forwarded: int = 0
    leaks: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    collapsed: int = 0
    by_route: Counter[str] = field(default_factory=Counter)


def a_request(chance: random.Random, route: str) -> tuple[str | None, str, Headers, dict[str, Any]]:
    """A user (or nobody), a method, fields, and more of the scope."""
    user = chance.choice((*USERS, *USERS, None, None))
    headers, more = [], {}
    if user is not None and route in {"/in-front", "/behind"}:
        headers.append((b"x-proxy-user", user.encode()))
        if route == "/in-front":
            more["user"] = user
    elif user is not None:
        kinds = [b"cookie", b"authorization", b"x-api-key"]
        kinds = kinds[:1] if route in BY_COOKIE else kinds[::2] if route == "/vary-more" else kinds
        some = chance.sample(kinds, chance.randint(1, len(kinds)))
        headers += [(kind, b"session-" + user.encode()) for kind in some]
    if chance.random() < 0.3:
        extra = (b"cookie", b"consent=%d" % chance.randrange(2))
        headers = [(name, value + b"; " + extra[1]) if name == b"cookie" else (name, value) for name, value in headers]
        if all(name != b"cookie" for name, _ in headers):
            headers.append(extra)
    headers.append((b"accept-language", chance.choice(LANGUAGES).encode()))
    headers += fields(*chance.choice(ASIDES))
    return user, chance.choice(METHODS), headers, more


async def many_requests(requests: int, seed: int, *, workers: int = 8, copies: int = 3) -> Report:
    """Ask so often, by several clients at once, of two middlewares on one cache."""
    chance, report = random.Random(seed), Report()
    url = f"memory://{uuid4().hex}"
    cache = AsyncCache(3600, "app")
    await cache.initialize(Settings(redis_url=url, _env_file=None))
    application = Application(chance)
    nodes = [HTTPCacheMiddleware(application, cache) for _ in range(2)]

    async def one(route: str, path: str) -> None:
        report.asked += 1
        user, method, headers, more = a_request(chance, route)
        try:
            got = await ask(chance.choice(nodes), path, headers, method=method, **more)
        except ConnectionError:
            return
        told = b"\n".join([*(value for _, value in got.headers), got.body])
        others = [other for other in USERS if secret(other) in told and other != user]
        report.leaks += [f"{user} saw {other} in {path}" for other in others]
        # Nothing of a request tells that a middleware behind the cache will find a user.
        mine = got.status == 200 and method == "GET" and user and route not in {*FOR_ALL, "/behind"}
        if mine and secret(user or "") not in got.body:
            report.wrong.append(f"{user} got {got.body!r} for {path}")
        report.collapsed += any(b"; collapsed" in value for name, value in got.headers if name == b"cache-status")
        if any(name == b"age" for name, _ in got.headers):
            report.by_route[route] += 1

    async def client() -> None:
        while report.asked < requests:
            route = chance.choice(list(ROUTES))
            if chance.random() < 0.95:
                await one(route, f"{route}!{chance.randrange(copies)}")
            else:  # all at once, of what is not there yet
                await asyncio.gather(*[one(route, f"{route}!new{report.asked}") for _ in range(8)])

    await asyncio.gather(*(client() for _ in range(workers)))
    while running := [task for node in nodes for task in node._refreshing.values()]:
        await asyncio.wait(running)
    report.forwarded = application.requests
    await get_multi_redis_connection_manager().disconnect_all()
    return report


# Where something is to be answered from the cache, or the test would show nothing.
SHARED = {"/public", "/s-maxage", "/max-age", "/vary-cookie", "/vary-more", "/per-user", "/per-user-name", "/validated"}
SHARED |= {"/per-user-private", "/private-field", "/no-cache-field", "/connection-field", "/in-front", "/expires"}
NEVER = {"/private", "/private-odd", "/private-twice", "/no-store", "/vary-asterisk", "/cdn-private", "/says-nothing"}


async def test_no_byte_of_one_user_reaches_another() -> None:
    """Whatever the routes say, whoever asks, and whoever waits for whose response."""
    report = await many_requests(5_000, seed=1, copies=2)
    assert report.leaks == []
    assert report.wrong == []
    assert report.collapsed > 10
    assert {route for route in SHARED if not report.by_route[route]} == set()
    assert {route for route in NEVER if report.by_route[route]} == set()


def main() -> int:
    """The same, more often."""
    logging.disable()  # of an application that fails now and then
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    report = asyncio.run(many_requests(requests, seed=random.randrange(2**32)))
    hits = report.by_route.total()
    told = f"{report.asked} requests, {report.forwarded} reached the application, {hits} were answered from the cache"
    print(f"{told}, {report.collapsed} by a response to somebody else")  # noqa: T201
    for line in [*report.leaks, *report.wrong][:20]:
        print(line)  # noqa: T201
    print(f"{len(report.leaks)} leaks, {len(report.wrong)} wrong answers")  # noqa: T201
    return bool(report.leaks or report.wrong)


if __name__ == "__main__":
    sys.exit(main())
