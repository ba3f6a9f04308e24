"""Who is compared on a hit in the process. Each is used as its own documentation says, with its defaults.

A contender offers some of four ways to a value that is there: ``get`` and ``async-get`` by a key of text, ``decorated``
and ``async-decorated`` functions of one whole number. All have room for 10,000 entries and, where they know of time, a
time to live of an hour. What is called is the library's own function where possible: a wrapper would be measured too.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from .server import Server

__all__ = ["ARGUMENT", "CONTENDERS", "KEY", "KINDS", "MEMORY", "OURS", "VALUES", "Calls", "Contender"]

OURS, MEMORY = "nearcache", "nearcache-memory"
KINDS = ("get", "async-get", "decorated", "async-decorated")
ARGUMENT = 1234
KEY = f"user:{ARGUMENT}"
VALUES: dict[str, Any] = {
    "str": "".join(chr(97 + at % 26) for at in range(200)),
    "dict": {"id": ARGUMENT, "name": "Ada Lovelace", "email": "ada@example.org", "active": True, "score": 9.75},
}
_TTL = 3600  # seconds
_SIZE = 10_000

Calls = dict[str, Callable[[Any], Any]]
"""By kind: what is called, or called and awaited, with ``KEY`` or ``ARGUMENT``."""


@dataclass(frozen=True)
class Contender:
    """Attributes: ``open`` takes the value that every call has to return."""

    name: str
    packages: tuple[str, ...]
    open: Callable[[Server, Any], AbstractAsyncContextManager[Calls]]


def _function(value: Any) -> Any:
    def user(user_id: int) -> Any:
        return value

    return user


def _coroutine_function(value: Any) -> Any:
    async def user(user_id: int) -> Any:
        return value

    return user


def _nearcache(client: str, **template: str) -> Callable[[Server, Any], AbstractAsyncContextManager[Calls]]:
    @asynccontextmanager
    async def open_(server: Server, value: Any) -> AsyncIterator[Calls]:
        from nearcache import AsyncCache, Settings, get_multi_redis_connection_manager

        get_multi_redis_connection_manager().register("memory", "memory://benchmark")
        cache = AsyncCache(ttl=_TTL, namespace="bench", client_type=client, near=True)
        await cache.initialize(Settings(redis_url=server.url, _env_file=None))
        await cache.clear()
        await cache.set(KEY, value)
        sync = cache.sync()
        decorate: Any = sync.cached
        decorate_async: Any = cache.cached
        decorated: Calls = {
            "decorated": decorate(**template)(_function(value)),
            "async-decorated": decorate_async(**template)(_coroutine_function(value)),
        }
        yield decorated if template else decorated | {"get": sync.get, "async-get": cache.get}
        await cache.clear()

    return open_


@asynccontextmanager
async def _lru_cache(server: Server, value: Any) -> AsyncIterator[Calls]:
    yield {"decorated": functools.lru_cache(_SIZE)(_function(value))}


@asynccontextmanager
async def _cachetools(server: Server, value: Any) -> AsyncIterator[Calls]:
    from cachetools import TTLCache, cached  # type: ignore[import-untyped,unused-ignore]

    cache: Any = TTLCache(_SIZE, _TTL)
    cache[KEY] = value
    yield {"get": cache.get, "decorated": cached(TTLCache(_SIZE, _TTL))(_function(value))}


@asynccontextmanager
async def _cachetools_locked(server: Server, value: Any) -> AsyncIterator[Calls]:
    """Without a lock cachetools is not safe under threads; all others here are."""
    from cachetools import TTLCache, cached  # type: ignore[import-untyped,unused-ignore]

    cache: Any = TTLCache(_SIZE, _TTL)
    cache[KEY] = value
    lock = threading.Lock()

    def get(key: str) -> Any:
        with lock:
            return cache.get(key)

    yield {"get": get, "decorated": cached(TTLCache(_SIZE, _TTL), lock=threading.Lock())(_function(value))}


@asynccontextmanager
async def _cachebox(server: Server, value: Any) -> AsyncIterator[Calls]:
    import cachebox

    cache: Any = cachebox.TTLCache(_SIZE, _TTL)
    cache[KEY] = value
    yield {
        "get": cache.get,
        "decorated": cachebox.cached(cachebox.TTLCache(_SIZE, _TTL))(_function(value)),
        "async-decorated": cachebox.cached(cachebox.TTLCache(_SIZE, _TTL))(_coroutine_function(value)),
    }


@asynccontextmanager
async def _cachebox_lru(server: Server, value: Any) -> AsyncIterator[Calls]:
    import cachebox

    cache: Any = cachebox.LRUCache(_SIZE)
    cache[KEY] = value
    yield {
        "get": cache.get,
        "decorated": cachebox.cached(cachebox.LRUCache(_SIZE))(_function(value)),
        "async-decorated": cachebox.cached(cachebox.LRUCache(_SIZE))(_coroutine_function(value)),
    }


@asynccontextmanager
async def _theine(server: Server, value: Any) -> AsyncIterator[Calls]:
    from theine import Cache, Memoize

    ttl = timedelta(seconds=_TTL)
    cache: Any = Cache(_SIZE)
    cache.set(KEY, value, ttl)
    yield {
        "get": cache.get,
        "decorated": Memoize(_SIZE, ttl)(_function(value)),
        "async-decorated": Memoize(_SIZE, ttl)(_coroutine_function(value)),
    }
    cache.close()


@asynccontextmanager
async def _async_lru(server: Server, value: Any) -> AsyncIterator[Calls]:
    from async_lru import alru_cache

    yield {"async-decorated": alru_cache(maxsize=_SIZE, ttl=_TTL)(_coroutine_function(value))}


@asynccontextmanager
async def _cashews(server: Server, value: Any) -> AsyncIterator[Calls]:
    from cashews import Cache

    cache = Cache()
    cache.setup("mem://", size=_SIZE)
    await cache.init()
    await cache.set(KEY, value, expire=_TTL)
    yield {"async-get": cache.get, "async-decorated": cache(ttl=_TTL)(_coroutine_function(value))}
    await cache.close()


@asynccontextmanager
async def _aiocache(server: Server, value: Any) -> AsyncIterator[Calls]:
    from aiocache import SimpleMemoryCache, cached  # type: ignore[import-untyped]

    cache = SimpleMemoryCache(ttl=_TTL)
    await cache.set(KEY, value)
    yield {"async-get": cache.get, "async-decorated": cached(ttl=_TTL)(_coroutine_function(value))}
    await cache.clear()


@asynccontextmanager
async def _dogpile(server: Server, value: Any) -> AsyncIterator[Calls]:
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.memory", expiration_time=_TTL)
    region.set(KEY, value)
    yield {"get": region.get, "decorated": region.cache_on_arguments()(_function(value))}


CONTENDERS = (
    Contender(OURS, ("nearcache",), _nearcache("cache")),
    Contender(MEMORY, (), _nearcache("memory")),
    Contender("nearcache-template", (), _nearcache("cache", key="user/{user_id}")),
    Contender("lru_cache", (), _lru_cache),
    Contender("cachetools", ("cachetools",), _cachetools),
    Contender("cachetools-lock", (), _cachetools_locked),
    Contender("cachebox", ("cachebox",), _cachebox),
    Contender("cachebox-lru", (), _cachebox_lru),
    Contender("theine", ("theine",), _theine),
    Contender("async-lru", ("async-lru",), _async_lru),
    Contender("cashews", ("cashews",), _cashews),
    Contender("aiocache", ("aiocache",), _aiocache),
    Contender("dogpile", ("dogpile.cache",), _dogpile),
)
