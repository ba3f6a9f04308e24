"""[shell] Typed dependencies for FastAPI routes, after ``cache_plugin(app)``.

@app.get("/users/{user_id}")
async def user(user_id: str, cache: ApiCache) -> dict: ...
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from ..aio import AsyncCache
from ..errors import NotInitialized

__all__ = ["ApiCache", "SessionCache", "get_api_cache", "get_session_cache"]


# Asynchronous: FastAPI calls a synchronous dependency in a thread.


async def get_api_cache(connection: HTTPConnection) -> AsyncCache:
    """The application's API cache."""
    return _from_state(connection, "api_cache")


async def get_session_cache(connection: HTTPConnection) -> AsyncCache:
    """The application's session cache."""
    return _from_state(connection, "session_cache")


def _from_state(connection: HTTPConnection, name: str) -> AsyncCache:
    cache = getattr(connection.app.state, name, None)
    if cache is None:
        raise NotInitialized("the application has no caches: call cache_plugin(app) when you make it")
    return cache


ApiCache = Annotated[AsyncCache, Depends(get_api_cache)]
SessionCache = Annotated[AsyncCache, Depends(get_session_cache)]
