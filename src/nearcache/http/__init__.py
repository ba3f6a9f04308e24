"""HTTP caching for ASGI applications: the middleware, what routes say, the plugin, and a request log."""

from .asgi import HTTPCacheMiddleware
from .cache import HTTPCache
from .log import RequestLogMiddleware
from .plugin import cache_plugin
from .routes import cached_response

__all__ = ["HTTPCache", "HTTPCacheMiddleware", "RequestLogMiddleware", "cache_plugin", "cached_response"]
