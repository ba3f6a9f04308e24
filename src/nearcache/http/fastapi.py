"""[shell] For FastAPI routes, after ``cache_plugin(app)``: typed dependencies, and what they say of their responses.

@app.get("/users/{user_id}", dependencies=[Depends(CachedResponse(ttl=60, tags=["users"]))])
async def user(user_id: str, cache: ApiCache) -> dict: ...
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from ..aio import AsyncCache
from ..errors import NotInitialized
from .cache import HTTPCache
from .routes import CacheRules

__all__ = [
    "ApiCache",
    "CachedResponse",
    "ResponseCache",
    "SessionCache",
    "get_api_cache",
    "get_http_cache",
    "get_session_cache",
]


# Asynchronous: FastAPI calls a synchronous dependency in a thread.


class CachedResponse(CacheRules):
    """A dependency that says how a route's responses are cached, in the words of ``cached_response``.

    On a router or an application it gives defaults: what a route says itself counts more, and tags add up.
    """

    async def __call__(self) -> None:
        self.apply()


async def get_api_cache(connection: HTTPConnection) -> AsyncCache:
    """The application's API cache."""
    cache: AsyncCache = _from_state(connection, "api_cache")
    return cache


async def get_session_cache(connection: HTTPConnection) -> AsyncCache:
    """The application's session cache."""
    cache: AsyncCache = _from_state(connection, "session_cache")
    return cache


async def get_http_cache(connection: HTTPConnection) -> HTTPCache:
    """The application's responses, to be purged."""
    cache: HTTPCache = _from_state(connection, "http_cache")
    return cache


def _from_state(connection: HTTPConnection, name: str) -> Any:
    cache = getattr(connection.app.state, name, None)
    if cache is None:
        raise NotInitialized("the application has no caches: call cache_plugin(app) when you make it")
    return cache


ApiCache = Annotated[AsyncCache, Depends(get_api_cache)]
SessionCache = Annotated[AsyncCache, Depends(get_session_cache)]
ResponseCache = Annotated[HTTPCache, Depends(get_http_cache)]
