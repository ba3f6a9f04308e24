"""[shell] Pure ASGI middleware: ``HTTPCacheMiddleware`` and ``RequestLogMiddleware``."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from ..connections import get_multi_redis_connection_manager
from ..core.ttl import milliseconds
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

T = TypeVar("T")
_MAX_BODY = 1 << 20  # bytes of a body that is kept while it streams by; larger ones are not stored

_log = logging.getLogger("nearcache.http")
_lifespans: set[object] = set()  # of applications in this process: the clients they share end with the last one


class _Stored(NamedTuple):
    """A response as it is sent. In the cache it is a plain tuple; what has another shape there is a miss."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def _safely(work: Awaitable[T], what: str, *, level: int = logging.DEBUG) -> T | None:
    """Trouble with the cache is a line in the log, never trouble of the application."""
    try:
        return await work
    except NearcacheError:
        _log.log(level, what, exc_info=True)
    except Exception:  # a fault of the cache itself is one, too
        _log.exception(what)
    return None


class HTTPCacheMiddleware:
    """Answers ``GET`` requests from the cache, and stores responses with status 200 that may be shared.

    Stands in front of any ASGI application. Requests with ``Authorization``, ``Cookie`` or another credential, and
    responses with ``Set-Cookie``, ``Vary``, ``private``, ``no-store`` or ``no-cache``, pass through. Trouble with the
    cache is never trouble of the application.

    Args:
        app: the application.
        cache: where responses go, connected by the caller; left out, the default cache, which the middleware connects
            in the lifespan, or before the first request where there is none, and disconnects at shutdown.
        settings: for connecting the default cache; the environment's when left out.
        ttl: seconds a response is kept when it does not say so itself.
        connect: awaited instead of connecting the default cache.

    Raises:
        InvalidTTL: zero, negative, or not a time.
    """

    def __init__(
        self,
        app: App,
        cache: AsyncCache | None = None,
        settings: Settings | None = None,
        *,
        ttl: float = 300,
        connect: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.app = app
        self.cache = cache if cache is not None else get_default_cache()
        self._settings = settings
        milliseconds(ttl)  # a wrong one is refused now, not when the first response is to be stored
        self._ttl = ttl
        self._connect = connect or self._connect_default
        self._connects = self._late = cache is None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await (self._lifespan if self._connects else self.app)(scope, receive, send)
            return
        if self._late:
            await self._connect_late()
        if scope["type"] != "http" or not rules.may_share(scope):
            await self.app(scope, receive, send)
            return
        key = rules.route_key(scope)
        stored = await _safely(self.cache.get(key, type=_Stored), "no cache for a request")
        if stored is None:
            recorder = _Recorder(scope, receive, send, self.cache, key, self._ttl)
            await self.app(scope, recorder.receive, recorder.send)
            return
        await send({"type": "http.response.start", "status": stored.status, "headers": stored.headers})
        await send({"type": "http.response.body", "body": stored.body})

    async def _connect_default(self) -> None:
        await self.cache.initialize(self._settings)

    async def _connect_late(self) -> None:
        """For a server, a test client or an application that knows no lifespan."""
        await _safely(self._connect(), "no cache: it could not be connected", level=logging.ERROR)
        self._late = False

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Connected before the application starts, disconnected when it has ended, however it ends."""
        lifespan = object()

        async def starting() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._connect()
                except Exception as error:
                    # Without this message servers think that the application knows no lifespan, and go on.
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                self._late = False
                _lifespans.add(lifespan)
            return message

        async def ending(message: Message) -> None:
            if message["type"] in _ENDS:
                await self._end(lifespan)
            await send(message)

        try:
            await self.app(scope, starting, ending)
        finally:
            await self._end(lifespan)

    async def _end(self, lifespan: object) -> None:
        if lifespan not in _lifespans:
            return
        _lifespans.discard(lifespan)
        self._late = True
        if not _lifespans:
            await _safely(get_multi_redis_connection_manager().disconnect_all(), "could not disconnect")


_ENDS = frozenset(["lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"])


class _Recorder:
    """Passes every message on at once, and stores a copy of a response that may be stored.

    What it keeps it takes before it passes a message on: middleware in front changes messages in place.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        cache: AsyncCache,
        key: str,
        ttl: float,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._cache = cache
        self._key = key
        self._ttl = ttl
        self._gone = False  # the client: an application that knows may end its response early
        self._lifetime: float | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()

    async def receive(self) -> Message:
        message = await self._receive()
        self._gone = self._gone or message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._begin(message)
        elif kind == "http.response.body" and self._lifetime is not None:
            self._keep(message.get("body", b""))
        else:
            self._lifetime = None  # the body travels by another way: a file sent by path, for one
        complete = kind == "http.response.body" and not message.get("more_body", False)
        lifetime = self._lifetime
        try:
            await self._send(message)
        except BaseException:
            self._lifetime = None
            raise
        if lifetime is not None and complete and not self._gone and self._has_its_length():
            self._lifetime = None
            # Before the application goes on to background tasks, whose invalidations must not be undone by this.
            response = (200, self._headers, bytes(self._body))
            await _safely(self._cache.set(self._key, response, ttl=lifetime), "a response was not stored")

    def _begin(self, message: Message) -> None:
        # An iterator can be read once: the next in line gets the list.
        headers = message["headers"] = list(message.get("headers", ()))
        if message.get("trailers") or rules.is_personal(self._scope):
            return
        self._lifetime = rules.lifetime(message["status"], headers, self._ttl)
        if self._lifetime is not None:
            self._headers = [(bytes(name), bytes(value)) for name, value in headers]

    def _keep(self, part: bytes) -> None:
        if len(self._body) + len(part) > _MAX_BODY:
            self._lifetime = None
            self._body.clear()
        else:
            self._body += part

    def _has_its_length(self) -> bool:
        length = b"%d" % len(self._body)
        return all(value == length for name, value in self._headers if name.lower() == b"content-length")


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
        status = 500  # what servers answer when an application ends without a word

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
                quote(url, safe="/?&=%:,+~!*'();@$[]", errors="surrogatepass"),
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
