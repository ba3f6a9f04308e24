"""What the tests of the HTTP room share: applications are called as servers call them, message by message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from nearcache import AsyncCache, Settings, get_multi_redis_connection_manager

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
