"""[shell] ``HTTPCacheMiddleware``: an HTTP cache (RFC 9111) in front of an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..core.clock import clock
from ..core.ttl import milliseconds
from ..errors import InvalidArgument
from ..sentinels import ABSENT
from . import storing
from .answering import Answering
from .cache import HTTPCache
from .exchange import BODY, START, App, Message, Receive, Scope, Send, send_answer
from .lifespan import Lifespan
from .records import VALIDATE, as_stored
from .requests import PERSON, SAFE, Request, is_personal, primary_key
from .serving import Answer
from .status import hit
from .targets import related_keys

if TYPE_CHECKING:
    from ..aio import AsyncCache
    from ..settings import Settings

__all__ = ["HTTPCacheMiddleware"]

_MAX_BODY = 1 << 20  # bytes
_NEVER = (0, 0.0)
_HOPEFUL = 3  # responses on end that may not be stored, after which the next ones are not looked for
_UNCACHED = 10.0  # seconds for which that holds
_RETRY = 1.0  # seconds after an error that a stale response stood in for, until the application is asked again
_MOST = 10_000  # URLs of which such things are remembered
_TRIES = 4  # answers that turn out to be for other requests


class HTTPCacheMiddleware:
    """Answers requests from the cache, and stores responses that may be shared: RFC 9111, as a shared cache.

    Stands in front of any ASGI application. What has no lifetime of its own is not stored, unless ``ttl`` gives it one.
    Requests with ``Authorization``, ``Cookie`` or another credential are passed through unless the response or the
    route says that or how it may be shared; responses with ``Set-Cookie`` are never stored. Trouble with the cache is
    never trouble of the application. It needs asyncio: on trio every request is passed through.

    Args:
        app: the application.
        cache: where responses go, connected by the caller; left out, the default cache, which the middleware connects
            in the lifespan, or before the first request where there is none, and disconnects at shutdown.
        settings: for connecting the default cache; the environment's when left out.
        ttl: seconds a response with status 200 is fresh when it does not say so itself; None: it is not stored, or as
            long as its ``Last-Modified`` suggests.
        max_body: bytes of the largest body that is stored.
        connect: awaited instead of connecting the default cache.

    Attributes:
        http_cache: to purge responses.

    Raises:
        InvalidTTL: zero, negative, or not a time.
    """

    def __init__(
        self,
        app: App,
        cache: AsyncCache | None = None,
        settings: Settings | None = None,
        *,
        ttl: float | None = None,
        max_body: int = _MAX_BODY,
        connect: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        milliseconds(ttl)  # a wrong one is refused now, not when the first response is to be stored
        if max_body < 0:
            raise InvalidArgument(f"max_body={max_body!r:.60}: bytes, 0 or more")
        self.app = app
        self.http_cache = HTTPCache(cache)
        self._hit = self.http_cache.hit
        self._now = clock().monotonic
        self.ttl = ttl
        self.max_body = max_body
        self._lifespan = Lifespan(app, self.http_cache.cache, settings, connect) if cache is None else None
        self.keeping: set[str] = set()  # the keys of responses that are being stored
        self._cached: set[str] = set()
        self._uncached: dict[tuple[str, bool], tuple[int, float]] = {}
        self._failing: dict[str, float] = {}
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    @property
    def cache(self) -> AsyncCache:
        """Where responses are kept."""
        return self.http_cache.cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if asyncio._get_running_loop() is None:  # trio: as without a cache
            await (self.pass_on if kind == "http" else self.app)(scope, receive, send)
            return
        lifespan = self._lifespan
        if lifespan is not None:
            if kind == "lifespan":
                await lifespan.run(scope, receive, send)
                return
            if lifespan.late:
                await lifespan.connect_late()
        if kind != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        if not request.cacheable:
            await self._pass_changing(request, scope, receive, send)
            return
        if is_personal(scope):
            request.credentials = {*request.credentials, PERSON}
        key = primary_key(scope, request.host)
        value = self._hit(key)
        if value is ABSENT and not self.is_uncached(key, request):
            # What could not be stored before is not worth waiting for a server that is slow.
            cache, doubtful = self.http_cache, self._in_vain(key, request)[0] >= _HOPEFUL
            value = await (cache.fetch_soon if doubtful else cache.fetch)(key)
        # A hit that nothing is asked of: without another coroutine.
        if not request.fields and not request.credentials:
            stored = as_stored(value)
            if stored is not None and not stored.flags & VALIDATE:
                age = self.http_cache.now() - stored.born
                if age < stored.lifetime:
                    headers = [*stored.headers, *hit(age, stored.lifetime)]
                    await send({"type": START, "status": stored.status, "headers": headers})
                    await send({"type": BODY, "body": b"" if request.head else stored.body})
                    return
        if value is not ABSENT and value is not None:
            self.http_cache.count(-1)
        await self._look(request, scope, receive, send, key, value)

    # -- from the cache

    async def _look(self, request: Request, scope: Scope, receive: Receive, send: Send, key: str, value: Any) -> None:
        """Answer from what is stored; else have the application asked. ``value`` is what was read first."""
        if not self.is_uncached(key, request):
            answering = Answering(self, request, scope, receive, send, key, value)
            for _ in range(_TRIES):
                if not await answering.find():
                    break
                if await answering.serve():
                    return
                if b"only-if-cached" in request.directives:
                    break
                if await answering.ask():
                    return
        if b"only-if-cached" in request.directives:
            await send_answer(send, Answer(504, ((b"content-length", b"0"),), b""))
        else:
            await self.pass_on(scope, receive, send)

    @property
    def background(self) -> list[asyncio.Task[None]]:
        """What is being fetched with nobody waiting."""
        return list(self._refreshing.values())

    # -- what is known of URLs, in this process

    def is_uncached(self, key: str, request: Request) -> bool:
        """Whether the last responses for a URL could not be stored."""
        count, until = self._in_vain(key, request)
        return count >= _HOPEFUL and (self._now() < until or self.http_cache.is_in_trouble())

    def _in_vain(self, key: str, request: Request) -> tuple[int, float]:
        """How many responses on end could not be stored, and until when none is expected to be."""
        return self._uncached.get((key, bool(request.credentials)), _NEVER) if self._uncached else _NEVER

    def was_stored(self, key: str) -> bool:
        """Whether the last response for a URL could be."""
        return key in self._cached

    def remember(self, key: str, request: Request, *, hopeful: bool, stored: bool = False) -> None:
        """Whether the next response for a URL may be stored, and this one was."""
        place = key, bool(request.credentials)
        if len(self._cached) >= _MOST:
            self._cached.clear()
        (self._cached.add if stored else self._cached.discard)(key)
        if hopeful:
            self._uncached.pop(place, None)
            return
        if len(self._uncached) >= _MOST:
            self._uncached.clear()
        self._uncached[place] = (self._in_vain(key, request)[0] + 1, self._now() + _UNCACHED)

    def failed(self, place: str) -> None:
        """The application failed to make a response that is stored."""
        if len(self._failing) >= _MOST:
            self._failing.clear()
        self._failing[place] = self._now() + _RETRY

    def is_failing(self, place: str) -> bool:
        """Whether it did so a moment ago."""
        return bool(self._failing) and self._now() < self._failing.get(place, 0.0)

    def refresh(self, place: str, answering: Answering) -> None:
        """Replace a stale response, with nobody waiting; once at a time."""
        running = self._refreshing.get(place)
        if running is None or running.done():
            task = self._refreshing[place] = asyncio.ensure_future(answering.refresh())
            task.add_done_callback(lambda _: self._refreshing.pop(place, None))

    # -- from the application

    async def pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As without a cache, but for fields that are the cache's own."""

        async def without_internal(message: Message) -> None:
            if message["type"] == START:
                headers = list(message.get("headers", ()))
                if storing.internal(headers):
                    headers = [pair for pair in headers if pair[0].lower() not in storing.INTERNAL]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, without_internal)

    async def _pass_changing(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that may change what it names: what is stored of that is invalid (RFC 9111, section 4.4)."""
        if scope["method"] in SAFE:
            await self.pass_on(scope, receive, send)
            return

        async def invalidating(message: Message) -> None:
            if message["type"] == START and 200 <= message["status"] < 400:
                headers = message["headers"] = list(message.get("headers", ()))
                # Before the client hears that it is done.
                await self.http_cache.remove(related_keys(scope, request.host, headers))
            await send(message)

        await self.pass_on(scope, receive, invalidating)
