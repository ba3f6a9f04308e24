"""[shell] Pure ASGI middleware: ``HTTPCacheMiddleware`` and ``RequestLogMiddleware``."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..errors import NearcacheError
from ..services import get_default_cache
from . import rules

if TYPE_CHECKING:
    from ..aio import AsyncCache
    from ..settings import Settings

__all__ = ["HTTPCacheMiddleware", "RequestLogMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_MAX_BODY = 1 << 20  # bytes of a body that is kept while it streams by; larger ones are not stored

_log = logging.getLogger("nearcache.http")


class HTTPCacheMiddleware:
    """Answers ``GET`` requests from the cache, and stores responses with status 200 that may be shared.

    Stands in front of any ASGI application. Requests with ``Authorization`` or ``Cookie``, and responses with
    ``Set-Cookie``, ``Vary``, ``private``, ``no-store`` or ``no-cache``, pass through. Trouble with the cache is never
    trouble of the application.

    Args:
        app: the application.
        cache: where responses go; left out, the default cache, which the middleware then connects by itself, in
            the lifespan or on the first request.
        settings: for connecting; the environment's when left out.
        ttl: seconds a response is kept when it does not say so itself.
        on_startup: awaited before the application starts up, instead of connecting the cache.
        on_shutdown: awaited when the application has shut down.
    """

    def __init__(
        self,
        app: App,
        cache: AsyncCache | None = None,
        settings: Settings | None = None,
        *,
        ttl: float = 300,
        on_startup: Callable[[], Awaitable[None]] | None = None,
        on_shutdown: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.app = app
        self.cache = cache if cache is not None else get_default_cache()
        self._settings = settings
        self._ttl = ttl
        self._on_startup = on_startup or self._connect
        self._on_shutdown = on_shutdown
        self._connected = cache is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if rules.may_share(scope["method"], scope["headers"]):
                await self._answer(scope, receive, send)
                return
        elif scope["type"] == "lifespan":
            receive, send = self._around_lifespan(receive, send)
        await self.app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = rules.route_key(
            scope.get("scheme", "http"),
            next((value for name, value in scope["headers"] if name == b"host"), b""),
            scope.get("raw_path") or quote(scope["path"]).encode("ascii"),
            scope.get("query_string", b""),
        )
        stored = await self._get(key)
        if stored is None:
            capture = _Capture(send, self._ttl)
            await self.app(scope, receive, capture)
            if (response := capture.response()) is not None:
                await self._set(key, *response)
            return
        status, headers, body = stored
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _get(self, key: str) -> Any:
        try:
            if not self._connected:
                await self._connect()
            return await self.cache.get(key)
        except NearcacheError:
            _log.debug("no cache for %s", key, exc_info=True)
            return None

    async def _set(self, key: str, lifetime: float, response: list[Any]) -> None:
        try:
            await self.cache.set(key, response, ttl=lifetime)
        except NearcacheError:
            _log.debug("not stored: %s", key, exc_info=True)

    async def _connect(self) -> None:
        await self.cache.initialize(self._settings)
        self._connected = True

    def _around_lifespan(self, receive: Receive, send: Send) -> tuple[Receive, Send]:
        async def starting() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._on_startup()
            return message

        async def ending(message: Message) -> None:
            if self._on_shutdown is not None and message["type"] in _ENDS:
                await self._on_shutdown()
            await send(message)

        return starting, ending


_ENDS = frozenset(["lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"])


class _Capture:
    """A ``send`` that passes every message on at once, and keeps a copy of a response that may be stored."""

    def __init__(self, send: Send, ttl: float) -> None:
        self._send = send
        self._ttl = ttl
        self._lifetime: float | None = None
        self._headers: list[list[bytes]] = []
        self._status = 0
        self._body = bytearray()
        self._complete = False

    async def __call__(self, message: Message) -> None:
        await self._send(message)
        kind = message["type"]
        if kind == "http.response.start":
            headers = message.get("headers", ())
            self._status = message["status"]
            if not message.get("trailers"):
                self._lifetime = rules.lifetime(self._status, headers, self._ttl)
            if self._lifetime is not None:
                self._headers = [[bytes(name), bytes(value)] for name, value in headers]
        elif self._lifetime is None:
            return
        elif kind == "http.response.body":
            self._body += message.get("body", b"")
            self._complete = not message.get("more_body", False)
            if len(self._body) > _MAX_BODY:
                self._lifetime = None
                self._body.clear()
        else:
            self._lifetime = None  # the body travels by another way: a file sent by path, for one

    def response(self) -> tuple[float, list[Any]] | None:
        """How long to keep what, once the application has returned; None when it may not be stored."""
        if self._lifetime is None or not self._complete:
            return None
        for name, value in self._headers:
            if name.lower() == b"content-length" and value != b"%d" % len(self._body):
                return None  # cut short
        return self._lifetime, [self._status, self._headers, bytes(self._body)]


class RequestLogMiddleware:
    """Logs url, method, status, duration and the cache's hit ratio and statistics of every request.

    One INFO line to the logger ``nearcache.http``; the fields are also on the record (``extra``), for structured logs.

    Args:
        app: the application.
        cache: whose statistics; the default cache's when left out.
    """

    def __init__(self, app: App, cache: AsyncCache | None = None) -> None:
        self.app = app
        self.cache = cache if cache is not None else get_default_cache()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            duration = (time.perf_counter() - began) * 1000
            query = scope.get("query_string", b"").decode("latin-1")
            url = scope["path"] + (f"?{query}" if query else "")
            stats = self.cache.get_stats()
            _log.info(
                "%s %s %d %.1f ms, hit ratio %.1f %%",
                scope["method"],
                # Quoted: a path may hold line breaks, and a log line is one line.
                quote(url, safe="/?&=%:,+~!*'();@$[]"),
                status,
                duration,
                stats.hit_ratio,
                extra={
                    "url": url,
                    "method": scope["method"],
                    "status": status,
                    "duration": duration,
                    "cache_hit_ratio": stats.hit_ratio,
                    "cache_stats": dict(stats),
                },
            )
