"""Who answers the same GET behind uvicorn. Each is used as its own documentation says, with its defaults.

Whoever caches keeps the response for an hour, and must not ask the application again meanwhile. The application makes
the content anew for every request it is asked, as one would that reads it somewhere. ``bare`` has it ready, as bytes.
cashews has no cache of responses: its decorator keeps what the route returns, and its middlewares see to the fields.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["BASELINE", "BODY", "CONTENDERS", "NEAR", "PATH", "REMOTE", "App", "Contender", "Origin"]

BASELINE, NEAR, REMOTE = "bare", "nearcache-fastapi", "nearcache-remote"
PATH = "/items"
_TTL = 3600  # seconds
_CONTROL = f"public, max-age={_TTL}"

App = Callable[
    [MutableMapping[str, Any], Callable[..., Awaitable[Any]], Callable[..., Awaitable[Any]]], Awaitable[None]
]


def _content() -> dict[str, Any]:
    """Some 3,000 bytes of JSON."""
    return {
        "items": [
            {
                "id": 1000 + number,
                "name": f"Item number {number}",
                "price": 9.99 + number,
                "in_stock": number % 3 > 0,
                "tags": ["tools", "garden"],
                "note": None,
            }
            for number in range(28)
        ]
    }


BODY = json.dumps(_content(), separators=(",", ":")).encode()


class Origin:
    """What a cache is to spare.

    Attributes:
        calls: how often it was asked.
    """

    def __init__(self) -> None:
        self.calls = 0

    def content(self) -> dict[str, Any]:
        self.calls += 1
        return _content()


@dataclass(frozen=True)
class Contender:
    """Attributes: ``make`` takes the server's URL; ``caches``: the application may be asked only once."""

    name: str
    packages: tuple[str, ...]
    make: Callable[[str, Origin], App]
    caches: bool = True


def _bare(url: str, origin: Origin) -> App:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(BODY)),
        (b"cache-control", _CONTROL.encode()),
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        origin.calls += 1
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})

    return app


def _fastapi(url: str, origin: Origin) -> Any:
    from fastapi import FastAPI, Response

    app = FastAPI()

    async def items(response: Response) -> dict[str, Any]:
        response.headers["cache-control"] = _CONTROL
        return origin.content()

    # FastAPI reads a route's annotations, and in this module they are text that only this function could resolve.
    items.__annotations__ = {"response": Response, "return": dict[str, Any]}
    app.get(PATH)(items)
    return app


def _nearcache(app: Callable[[str, Origin], App], **settings: Any) -> Callable[[str, Origin], App]:
    def make(url: str, origin: Origin) -> App:
        from nearcache import Settings
        from nearcache.http import HTTPCacheMiddleware

        return HTTPCacheMiddleware(
            app(url, origin),
            settings=Settings(redis_url=url, _env_file=None, **settings),
        )

    return make


def _plugin(url: str, origin: Origin) -> App:
    from nearcache import Settings
    from nearcache.http import cache_plugin

    app = _fastapi(url, origin)
    cache_plugin(app, Settings(redis_url=url, _env_file=None))
    return app


def _with_route(decorate: Callable[[Any], Any], origin: Origin) -> Any:
    """A FastAPI application with one route, decorated."""
    from fastapi import FastAPI

    async def items() -> dict[str, Any]:
        return origin.content()

    app = FastAPI()
    app.get(PATH)(decorate(items))
    return app


def _fastapi_cache2(backend: Callable[[str], Any]) -> Callable[[str, Origin], App]:
    def make(url: str, origin: Origin) -> App:
        from fastapi_cache import FastAPICache
        from fastapi_cache.decorator import cache

        FastAPICache.init(backend(url), prefix="fastapi-cache")
        return _with_route(cache(expire=_TTL), origin)

    return make


def _fastapi_cache2_memory(url: str) -> Any:
    from fastapi_cache.backends.inmemory import InMemoryBackend

    return InMemoryBackend()


def _fastapi_cache2_redis(url: str) -> Any:
    from fastapi_cache.backends.redis import RedisBackend
    from redis import asyncio as redis

    return RedisBackend(redis.from_url(url))


def _fastapi_cachex(backend: Callable[[str], Any]) -> Callable[[str, Origin], App]:
    def make(url: str, origin: Origin) -> App:
        from fastapi_cachex import BackendProxy, cache

        BackendProxy.set(backend(url))
        return _with_route(cache(ttl=_TTL, public=True), origin)

    return make


def _fastapi_cachex_memory(url: str) -> Any:
    from fastapi_cachex.backends import MemoryBackend

    return MemoryBackend()


def _fastapi_cachex_redis(url: str) -> Any:
    from fastapi_cachex.backends import AsyncRedisCacheBackend

    parts = urlsplit(url)
    return AsyncRedisCacheBackend(host=parts.hostname or "", port=parts.port or 0)


def _cashews(place: str) -> Callable[[str, Origin], App]:
    def make(url: str, origin: Origin) -> App:
        from cashews import cache
        from cashews.contrib.fastapi import CacheEtagMiddleware, CacheRequestControlMiddleware, cache_control_ttl

        cache.setup(place or url)
        app = _with_route(cache(ttl=cache_control_ttl(default=_TTL), key="items"), origin)
        app.add_middleware(CacheEtagMiddleware)
        app.add_middleware(CacheRequestControlMiddleware)
        return app

    return make


CONTENDERS = (
    Contender(BASELINE, ("uvicorn",), _bare, caches=False),
    Contender("fastapi", ("fastapi",), _fastapi, caches=False),
    Contender("nearcache", ("nearcache",), _nearcache(_bare)),
    Contender(NEAR, ("nearcache",), _nearcache(_fastapi)),
    Contender("nearcache-plugin", ("nearcache",), _plugin),
    Contender(REMOTE, ("nearcache",), _nearcache(_fastapi, near_enabled=False)),
    Contender("fastapi-cache2", ("fastapi-cache2",), _fastapi_cache2(_fastapi_cache2_memory)),
    Contender("fastapi-cache2-redis", ("fastapi-cache2", "redis"), _fastapi_cache2(_fastapi_cache2_redis)),
    Contender("fastapi-cachex", ("fastapi-cachex",), _fastapi_cachex(_fastapi_cachex_memory)),
    Contender("fastapi-cachex-redis", ("fastapi-cachex", "redis"), _fastapi_cachex(_fastapi_cachex_redis)),
    Contender("cashews", ("cashews",), _cashews("mem://")),
    Contender("cashews-redis", ("cashews", "redis"), _cashews("")),
)
