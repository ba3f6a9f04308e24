"""[shell] One line for a FastAPI or Starlette application: ``cache_plugin(app)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..connections import get_multi_redis_connection_manager
from ..services import CacheServiceFactory, get_default_cache, get_session_cache
from .asgi import HTTPCacheMiddleware

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ..settings import Settings

__all__ = ["cache_plugin"]


def cache_plugin(app: Starlette, settings: Settings | None = None, *, ttl: float = 300) -> None:
    """Give an application its caches.

    Connects the services in the lifespan (a server that is away is retried, and does not keep the application from
    starting) and disconnects them at shutdown. Puts them on ``app.state.api_cache`` (also ``app.state.cache``) and
    ``app.state.session_cache``; ``nearcache.http.fastapi`` has typed dependencies. Caches ``GET`` responses with
    status 200 that may be shared, in the API cache, under ``route:…``.

    Args:
        app: a FastAPI or Starlette application that has not started.
        settings: where to connect; the environment's when left out.
        ttl: seconds a response is kept when it does not say so itself.
    """
    cache = get_default_cache()
    app.state.api_cache = app.state.cache = cache
    app.state.session_cache = get_session_cache()

    async def connect() -> None:
        await CacheServiceFactory.create_default_cache_service(settings)
        await CacheServiceFactory.create_session_cache_service(settings)

    async def disconnect() -> None:
        await get_multi_redis_connection_manager().disconnect_all()

    app.add_middleware(
        HTTPCacheMiddleware,
        settings=settings,
        ttl=ttl,
        on_startup=connect,
        on_shutdown=disconnect,
    )
