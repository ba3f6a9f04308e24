"""Where actors live: an event loop or a thread. Actors are written once, as coroutines.

In a thread nothing they await ever waits: a ``Cache``'s method has blocked and returned before it is awaited. Such a
coroutine runs from its beginning to its end in one step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from nearcache import AsyncCache, Cache

__all__ = ["Caches", "Front", "LoopFront", "ThreadFront", "in_one_step"]

Body = Callable[[], Coroutine[Any, Any, Any]]


def _has_tags() -> bool:
    cached: Any = AsyncCache().cached
    try:
        cached(key="key", tags=["tag"])
    except TypeError:
        return False
    return hasattr(AsyncCache, "invalidate_tags")


TAGS = _has_tags()
"""Whether this version has tags, everywhere: what is stored without its tag is not invalidated by it."""


class Caches:
    """The caches of a process, on one client: reading near, reading far, and one whose failures raise."""

    def __init__(self, namespace: str) -> None:
        self.near = AsyncCache(3600, namespace, near=True)
        self.far = AsyncCache(3600, namespace, near=False)
        self.strict = AsyncCache(3600, namespace, near=True, strict=True)

    def each(self) -> tuple[AsyncCache, AsyncCache, AsyncCache]:
        return self.near, self.far, self.strict


class Front(Protocol):
    """Attributes: ``near``, ``far`` and ``strict`` are caches whose methods are awaited."""

    near: Any
    far: Any
    strict: Any
    name: str
    cancels: bool

    async def pause(self, seconds: float) -> None: ...

    async def together(self, calls: list[Coroutine[Any, Any, None]]) -> None:
        """At the same time where that can be."""
        ...

    def loader(self, body: Body) -> Callable[[], Any]:
        """A loader as this front's caches take it."""
        ...


class LoopFront:
    cancels = True

    def __init__(self, caches: Caches, name: str) -> None:
        self.near, self.far, self.strict = caches.each()
        self.name = name

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def together(self, calls: list[Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*calls)

    def loader(self, body: Body) -> Callable[[], Awaitable[Any]]:
        async def load() -> Any:
            return await body()

        return load


class ThreadFront:
    cancels = False

    def __init__(self, caches: Caches, name: str) -> None:
        self.near, self.far, self.strict = (_Awaited(cache.sync()) for cache in caches.each())
        self.name = name

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # there is no loop here

    async def together(self, calls: list[Coroutine[Any, Any, None]]) -> None:
        for call in calls:
            await call

    def loader(self, body: Body) -> Callable[[], Any]:
        def load() -> Any:
            return in_one_step(body())

        return load


class _Awaited:
    """A ``Cache`` whose methods return something to await."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._cache, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        setattr(self, name, call)
        return call

    def cached(self, **options: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        def decorate(function: Callable[[], Any]) -> Callable[[], Any]:
            decorated = self._cache.cached(**options)(function)

            async def call() -> Any:
                return decorated()

            return call

        return decorate


def in_one_step(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a coroutine for a thread has waited")
