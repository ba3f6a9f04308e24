"""HTTP caching for ASGI applications: the plugin, its middleware, and a request log."""

from .asgi import HTTPCacheMiddleware, RequestLogMiddleware
from .plugin import cache_plugin

__all__ = ["HTTPCacheMiddleware", "RequestLogMiddleware", "cache_plugin"]
