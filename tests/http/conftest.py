"""What the tests of the HTTP room share: applications are called as servers call them, message by message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from uuid import uuid4

import pytest

from nearcache import AsyncCache, Settings, get_multi_redis_connection_manager
from nearcache.http import HTTPCacheMiddleware
from nearcache.testing import FakeClock

Message = MutableMapping[str, Any]
Headers = Iterable[tuple[bytes, bytes]]
App = Callable[[Any, Any, Any], Awaitable[None]]


@pytest.fixture(autouse=True)
async def disconnected() -> AsyncIterator[None]:
    """The clients of the process end with the test."""
    yield
    await get_multi_redis_connection_manager().disconnect_all()


@pytest.fixture
def settings() -> Settings:
    """A store of the test's own."""
    return Settings(redis_url=f"memory://{uuid4().hex}", _env_file=None)


@pytest.fixture
async def cache(settings: Settings) -> AsyncCache:
    cache = AsyncCache(3600, "app")
    await cache.initialize(settings)
    return cache


@dataclass
class Answer:
    """What an application sent."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in self.messages[0]["headers"]]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


def http_scope(path: str = "/", headers: Headers = (), *, method: str = "GET", **scope: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"example.com"), *headers],
        **scope,
    }


async def waiting() -> Message:
    """``receive`` of a client that has sent its request and waits."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def ask(
    app: App, path: str = "/", headers: Headers = (), *, receive: Any = waiting, send: Any = None, **scope: Any
) -> Answer:
    """One request; what the application sent. ``send`` is called before a message is kept."""
    answer = Answer()

    async def keep(message: Message) -> None:
        if send is not None:
            await send(message)
        answer.messages.append(dict(message))

    await app(http_scope(path, headers, **scope), receive, keep)
    return answer


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[dict[str, Any]]:
    """A server's side of the lifespan protocol; yields its state. Raises what the application raised."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    state: dict[str, Any] = {}
    running = asyncio.create_task(app({"type": "lifespan", "state": state}, to_app.get, from_app.put))  # type: ignore[arg-type]

    async def told(expected: str) -> None:
        message = asyncio.create_task(from_app.get())
        await asyncio.wait([message, running], return_when=asyncio.FIRST_COMPLETED)
        if not message.done():
            message.cancel()
            await running
            raise AssertionError(f"the application ended without {expected}")
        if (kind := (await message)["type"]) != expected:
            await running
            raise AssertionError(f"the application said {kind}, not {expected}")

    await to_app.put({"type": "lifespan.startup"})
    await told("lifespan.startup.complete")
    yield state
    await to_app.put({"type": "lifespan.shutdown"})
    await told("lifespan.shutdown.complete")
    await running


# -- an origin behind the cache, for the tests of the RFCs


def fields(*lines: str) -> list[tuple[bytes, bytes]]:
    """``"name: value"`` as ASGI has it."""
    pairs = (line.partition(":") for line in lines)
    return [(name.encode("latin-1"), value.removeprefix(" ").encode("latin-1")) for name, _, value in pairs]


class Got(Answer):
    """What a client got; ``asked`` tells whether the origin was asked for it."""

    asked: bool = False

    def all(self, name: str) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.encode()]

    def field(self, name: str) -> bytes | None:
        return next(iter(self.all(name)), None)


class Site:
    """An origin with the cache in front of it. What it answers is said before it is asked; it notes who asks.

    Bodies are the number of the request, unless said otherwise.
    """

    def __init__(self, cache: AsyncCache, clock: FakeClock, **options: Any) -> None:
        self.cache = cache
        self.clock = clock
        self.requests: list[dict[str, Any]] = []
        self.asked = asyncio.Event()
        self.middleware = HTTPCacheMiddleware(self._origin, cache, **options)
        self._app: App | None = None
        self.says()

    def says(self, *lines: str, status: int = 200, body: bytes | None = None) -> None:
        """Answer so from now on."""
        self._app, self._answer = None, (status, fields(*lines), body)

    def runs(self, app: App) -> None:
        """Answer with this application from now on."""
        self._app = app

    async def _origin(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(dict(scope))
        self.asked.set()
        if self._app is not None:
            await self._app(scope, receive, send)
            return
        status, headers, body = self._answer
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b"%d" % len(self.requests) if body is None else body})

    async def get(self, *lines: str, path: str = "/", **scope: Any) -> Got:
        """Ask, through the cache."""
        before = len(self.requests)
        got = Got((await ask(self.middleware, path, fields(*lines), **scope)).messages)
        got.asked = len(self.requests) > before
        return got

    async def reuses(self, *lines: str, **scope: Any) -> bool:
        """Whether a request that comes twice is answered without the origin the second time."""
        await self.get(*lines, **scope)
        return not (await self.get(*lines, **scope)).asked

    def asked_with(self, name: str) -> list[bytes]:
        """The values of a field in the last request to the origin."""
        return [value for key, value in self.requests[-1]["headers"] if key.lower() == name.encode()]

    def date(self, seconds: float = 0) -> str:
        """The date so many seconds from now."""
        return formatdate(self.clock.wall() + seconds, usegmt=True)

    async def refreshed(self) -> None:
        """Wait until what is fetched anew behind has arrived."""
        while running := list(self.middleware._refreshing.values()):
            await asyncio.wait(running)


@pytest.fixture
def site(fake_clock: FakeClock, cache: AsyncCache) -> Site:
    """Time passes when the test says ``site.clock.advance``."""
    return Site(cache, fake_clock)
