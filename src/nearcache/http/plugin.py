"""[shell] One line for a FastAPI or Starlette application: ``cache_plugin(app)``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..core.ttl import milliseconds
from ..services import CacheServiceFactory, get_default_cache, get_session_cache
from .asgi import HTTPCacheMiddleware
from .cache import HTTPCache

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ..settings import Settings

__all__ = ["cache_plugin"]


def cache_plugin(app: Starlette, settings: Settings | None = None, *, ttl: float = 300) -> None:
    """Give an application its caches.

    Connects the services in the lifespan (a server that is away is retried, and does not keep the application from
    starting) and disconnects them at shutdown; of several applications in a process, the last one does. Puts them on
    ``app.state.api_cache`` (also ``app.state.cache``) and ``app.state.session_cache``; ``nearcache.http.fastapi`` has
    typed dependencies. Caches ``GET`` responses with status 200 that may be shared, in the API cache, under
    ``route:…``.

    Middleware added before this line is behind the cache: it does not see requests that are answered from it, and
    where it adds ``Vary`` (as ``CORSMiddleware`` does) nothing is stored. Add such middleware after it.

    Args:
        app: a FastAPI or Starlette application that has not started.
        settings: where to connect; the environment's when left out.
        ttl: seconds a response is kept when it does not say so itself.

    Raises:
        InvalidTTL: zero, negative, or not a time.
    """
    milliseconds(ttl)  # the middleware is made when the application starts, which is late to hear of it

    async def connect() -> None:
        await asyncio.gather(
            CacheServiceFactory.create_default_cache_service(settings),
            CacheServiceFactory.create_session_cache_service(settings),
        )

    app.add_middleware(HTTPCacheMiddleware, settings=settings, ttl=ttl, connect=connect)
    app.state.api_cache = app.state.cache = get_default_cache()
    app.state.session_cache = get_session_cache()
    app.state.http_cache = HTTPCache(app.state.api_cache)
