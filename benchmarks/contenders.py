"""Who is compared on an event loop. Each is used as its own documentation says, with its defaults.

Where a default would make 128 tasks fail (redis-py's and aiocache's pools stop at 100 connections and raise)
the pool is given a connection per task; where it makes them wait (cashews' pool of 10) it is left. Every value
is set with a time to live of an hour. ``get`` and ``set`` are the library's own functions wherever possible: a
wrapper would be measured too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from .server import Server

__all__ = ["BASELINE", "CONTENDERS", "Contender", "Store"]

BASELINE = "redis-py"
_TTL = 3600  # seconds
_CONNECTIONS = 128


@dataclass(frozen=True)
class Store:
    """An opened contender.

    Attributes:
        get, set: one value, by key.
        text: it cannot keep bytes, and is given text of the same size.
    """

    get: Callable[[str], Awaitable[Any]]
    set: Callable[[str, Any], Awaitable[Any]]
    text: bool = False


@dataclass(frozen=True)
class Contender:
    """Attributes: ``packages`` are its distributions, for the header; ``open`` closes it at its exit."""

    name: str
    packages: tuple[str, ...]
    open: Callable[[Server], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def _nearcache(server: Server) -> AsyncIterator[Store]:
    from nearcache import AsyncCache, Settings, get_multi_redis_connection_manager

    cache = AsyncCache(ttl=_TTL, namespace="bench", near=False)
    await cache.initialize(Settings(redis_url=server.url, near_enabled=False))
    yield Store(cache.get, cache.set)
    await get_multi_redis_connection_manager().disconnect_all()


@asynccontextmanager
async def _lane(server: Server) -> AsyncIterator[Store]:
    """nearcache's transport alone: bytes under a key, without namespaces, codec, statistics or plans."""
    import asyncio

    from nearcache import Settings
    from nearcache.connections import MultiRedisConnectionManager

    manager = MultiRedisConnectionManager()
    await manager.initialize_all(Settings(redis_url=server.url, near_enabled=False), strict=True)
    post = manager.client("cache").link().post
    create_future = asyncio.get_running_loop().create_future

    def get(key: str) -> asyncio.Future[Any]:
        future = create_future()
        post(("GET", key), future)
        return future

    def set_(key: str, value: bytes) -> asyncio.Future[Any]:
        future = create_future()
        post(("SET", key, value, "EX", _TTL), future)
        return future

    yield Store(get, set_)
    await manager.disconnect_all()


@asynccontextmanager
async def _redis_py(server: Server) -> AsyncIterator[Store]:
    import redis.asyncio

    async with redis.asyncio.Redis(port=server.port, max_connections=_CONNECTIONS) as client:
        yield Store(client.get, partial(client.set, ex=_TTL))


@asynccontextmanager
async def _coredis(server: Server) -> AsyncIterator[Store]:
    import coredis

    async with coredis.Redis(host="127.0.0.1", port=server.port) as client:
        yield Store(client.get, partial(client.set, ex=_TTL))


@asynccontextmanager
async def _valkey_glide(server: Server) -> AsyncIterator[Store]:
    import glide

    client = await glide.GlideClient.create(
        glide.GlideClientConfiguration([glide.NodeAddress("127.0.0.1", server.port)])
    )
    expiry = glide.ExpirySet(glide.ExpiryType.SEC, _TTL)
    yield Store(client.get, partial(client.set, expiry=expiry))
    await client.close()


@asynccontextmanager
async def _cashews(server: Server) -> AsyncIterator[Store]:
    from cashews import Cache

    cache = Cache()
    cache.setup(server.url)
    await cache.init()
    yield Store(cache.get, partial(cache.set, expire=_TTL))
    await cache.close()


@asynccontextmanager
async def _aiocache(server: Server) -> AsyncIterator[Store]:
    from aiocache import RedisCache  # type: ignore[import-untyped]

    cache = RedisCache(endpoint="127.0.0.1", port=server.port, pool_max_size=_CONNECTIONS)
    yield Store(cache.get, partial(cache.set, ttl=_TTL), text=True)  # its default format is JSON
    await cache.close()


CONTENDERS = (
    Contender("nearcache", ("nearcache",), _nearcache),
    Contender("lane", (), _lane),
    Contender(BASELINE, ("redis",), _redis_py),
    Contender("coredis", ("coredis",), _coredis),
    Contender("valkey-glide", ("valkey-glide",), _valkey_glide),
    Contender("cashews", ("cashews",), _cashews),
    Contender("aiocache", ("aiocache",), _aiocache),
)
