"""[shell] One request that may be answered from the cache: find what is stored, serve it, or ask the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Token
from copy import copy
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from ..core.clock import clock as time_source
from ..core.loading import current_load
from ..sentinels import ABSENT
from . import serving, status, storing
from .cache import safely
from .exchange import START, Message, Receive, Recorder, Scope, Send, send_answer, tell, telling, without_content
from .records import MADE_ETAG, VALIDATE, Pairs, Stored, Variants, as_stored, as_variants
from .requests import Request, is_personal
from .routes import Said, keyed_values, said
from .serving import Use
from .storing import Refusal, Rules, Terms
from .turns import Kept, Turn

if TYPE_CHECKING:
    from .asgi import HTTPCacheMiddleware

__all__ = ["Answering"]

_VARIANTS_TTL = 86_400.0  # seconds that a URL is known to have several responses
_LONG = 5.0  # seconds to wait for somebody else's response, where it is not known that it may be shared
_SHORT = 0.02  # seconds to wait for somebody else's response in this process, where that will hardly be shared
_TURN = 0.5  # the same where nobody in this process is asking: for the server, or for another process

_log = logging.getLogger("nearcache.http")


class Answering:
    """What is known of the answer to one request."""

    def __init__(
        self,
        middleware: HTTPCacheMiddleware,
        request: Request,
        scope: Scope,
        receive: Receive,
        send: Send,
        key: str,
        value: Any,
    ) -> None:
        self._middleware = middleware
        self._cache = middleware.http_cache
        self._request = request
        self._scope = scope
        self._receive = receive
        self._send = send
        self._key = key
        self._read = value  # under that key, and not looked at yet
        self._place = key  # where the response is, or is to be
        self._variants: Variants | None = None
        self._seen: Any = None  # what was read there
        self._stored: Stored | None = None
        self._why = b"uri-miss"
        self._arrived = self._cache.now()
        around = said.get()
        self._nested = around is not None and not around.over  # made while the application answers another request

    # -- from the cache

    async def find(self) -> bool:
        """Look for a response; False when the request is one that is not cached."""
        value, self._read = self._read, ABSENT
        if value is ABSENT:
            value = await self._cache.read(self._key)
        self._place, self._variants = self._key, as_variants(value)
        self._why = b"uri-miss"
        if self._variants is not None:
            keyed = keyed_values(self._variants.keyed, self._scope)
            if keyed is None:
                return False
            self._place = self._request.secondary_key(self._key, self._variants, keyed)
            value = await self._cache.read(self._place)
            self._why = b"vary-miss"
        self._seen, self._stored = value, as_stored(value)
        if self._nested and self._cache.is_loading(self._place):
            return False  # the application may be asked by itself, or by a second middleware: that would wait for ever
        return self._stored is None or self._covers(self._stored)

    def _covers(self, stored: Stored) -> bool:
        """Whether a stored response may answer a request with these credentials."""
        variants = self._variants
        names, keyed = (variants.names, variants.keyed) if variants is not None else ((), ())
        return storing.not_covered(self._request, stored.flags, names, keyed) is None

    async def serve(self) -> bool:
        """Answer with what was found, if that is good enough."""
        stored = self._stored
        if stored is None:
            return False
        age = max(0.0, self._cache.now() - stored.born)
        use = serving.use(stored, self._request, age)
        if use is Use.VALIDATE and not (
            self._middleware.is_failing(self._place) and serving.may_stand_in(stored, self._request, age)
        ):
            self._why = b"stale" if age >= stored.lifetime or stored.flags & VALIDATE else b"request"
            self._cache.count(0, misses=1)
            return False
        if use is Use.REFRESH and not self._middleware.is_failing(self._place):
            self._middleware.refresh(self._place, self)
        self._cache.count(1)
        await self._answer(stored, age)
        return True

    async def _answer(self, stored: Stored, age: float, *lines: tuple[bytes, bytes]) -> None:
        found = serving.answer(stored, self._request)
        aged, hit = status.hit(age, stored.lifetime)
        await send_answer(self._send, found, aged, *(lines or (hit,)))

    # -- from the application

    async def ask(self) -> bool:
        """Ask the application, or wait for who does; False when there is something new to be found."""
        request, middleware = self._request, self._middleware
        if request.head:
            await self._ask_head()
            return True
        partial = b"range" in request.fields and self._stored is None and not self._cache.is_loading(self._place)
        if partial or b"no-store" in request.directives:
            await middleware.pass_on(self._scope, self._receive, self._send)
            return True
        patience = None if self._seen is not None or middleware.was_stored(self._key) else _LONG
        if self._nested or (request.credentials and self._place not in middleware.keeping):
            patience = _SHORT if self._cache.is_loading(self._place) else _TURN
        turn, seen = Turn(), self._seen
        outdated = None if seen is None else (lambda value: bool(value == seen))
        given = await turn.take(self._cache, self._place, outdated, patience)
        if turn.comes.done():
            await self._lead(turn, self._scope, self._receive, self._send)
            return True
        if given is ABSENT:
            return False
        if given is None or given == seen:
            if middleware.is_failing(self._place):
                return False
            if turn.late:
                middleware.remember(self._key, request, hopeful=False)
            await middleware.pass_on(self._scope, self._receive, self._send)
            return True
        stored = as_stored(given)
        if stored is None or not self._covers(stored):
            return False  # by now it is known how responses are told apart
        age = self._cache.now() - stored.born
        # Made while this request waited: as good as one made for it.
        if stored.born < self._arrived and serving.use(stored, request, age) is Use.VALIDATE:
            return False
        await self._answer(stored, age, status.forwarded(self._why, collapsed=True))
        return True

    async def refresh(self) -> None:
        """The same for the whole response, and with nobody to answer: replace what is stale."""
        seen, turn = self._seen, Turn()
        await turn.take(self._cache, self._place, lambda value: bool(value == seen), None)
        if not turn.comes.done():
            return
        scope = {name: value for name, value in self._scope.items() if name != "extensions"}
        if "state" in scope:
            scope["state"] = dict(scope["state"])
        scope["method"], scope["headers"] = "GET", serving.unconditional(scope["headers"])
        behind = copy(self)
        behind._request = Request(scope)

        async def waiting() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        async def send(message: Message) -> None: ...

        try:
            await behind._lead(turn, scope, without_content(waiting), send)
        except Exception:  # noqa: BLE001  # there is nobody to tell but the log
            _log.warning("a stale response could not be refreshed: the application failed", exc_info=True)
            self._middleware.failed(self._place)

    async def _lead(self, turn: Turn, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the application for everybody."""
        stored, request, middleware = self._stored, self._request, self._middleware
        outer, told = scope, send
        stand_in = validating = False
        if stored is not None:
            stand_in = serving.may_stand_in(stored, request, self._cache.now() - stored.born)
            headers = serving.conditions(stored, scope["headers"])
            validating = stored.status == 200 and headers is not None
            if validating:
                scope = {**scope, "headers": headers}
                told = telling(scope, outer, send)
        voice = Said()
        recorder = Recorder(
            request,
            receive,
            told,
            voice,
            why=self._why,
            validating=validating,
            stand_in=stand_in,
            max_body=middleware.max_body,
            default=middleware.ttl,
            clock=self._cache.now,
            personal=lambda: is_personal(scope),
            refused=turn.leave,
            complete=lambda *response: self._keep(turn, voice, *response),
        )
        token = said.set(voice)
        try:
            await middleware.app(scope, recorder.receive, recorder.send)
            await recorder.flush()
        except Exception:
            if not recorder.instead and (not stand_in or recorder.status):
                await recorder.flush()
                raise
            _log.warning("the application failed: a stale response is served instead", exc_info=True)
            recorder.instead = True
        except BaseException:
            with suppress(RuntimeError):  # the loop is torn down
                turn.drop()
                recorder.stop()
            raise
        finally:
            tell(scope, outer)
            _unset(token)
            voice.over = True
            if not recorder.instead:
                turn.leave(recorder.gone)
        kept = recorder.instead or recorder.terms is not None
        middleware.remember(self._key, request, hopeful=kept or recorder.worthwhile, stored=kept)
        if recorder.instead:
            assert stored is not None
            if recorder.status == 304 and not serving.confirms(stored, recorder.headers):
                await self._ask_again(turn, send)
            else:
                await self._send_stored(turn, recorder, stored, send)
        await turn.settled(cancelled=recorder.cancelled)

    async def _ask_again(self, turn: Turn, send: Send) -> None:
        """The application answered with a 304 about something else: without our conditions it says what there is."""
        turn.give(None)
        await self._cache.remove([self._place])
        await self._middleware.pass_on(self._scope, without_content(self._receive), send)

    async def _send_stored(self, turn: Turn, recorder: Recorder, stored: Stored, send: Send) -> None:
        """Answer with the stored response: the application said it still holds, or failed."""
        if recorder.status == 304:
            fresh, terms = self._freshened(stored, recorder.headers, recorder.rules, recorder.judge)
            if terms is None:
                turn.give(None)
                await self._cache.remove([self._place])
            else:
                turn.give(Kept(tuple(fresh), terms.keep, list(fresh.tags)))
            line = status.forwarded(self._why, status=304, stored=terms is not None)
        else:
            fresh = stored
            self._middleware.failed(self._place)
            turn.give(None)
            line = status.forwarded(self._why, status=recorder.status or 500)
        found = serving.answer(fresh, self._request)
        aged, _ = status.hit(self._cache.now() - fresh.born, fresh.lifetime)
        await send_answer(send, found, aged, line)

    def _freshened(
        self, stored: Stored, news: Pairs, rules: Rules, judge: Callable[[int, Pairs], Terms | Refusal]
    ) -> tuple[Stored, Terms | None]:
        """The stored response with the news of a 304; the terms under which it is stored again, if it may be."""
        headers = serving.freshened(stored.headers, news)
        terms = judge(stored.status, headers)
        if isinstance(terms, Refusal) or not self._tells_apart(terms.names, rules.keyed):
            return stored._replace(headers=headers), None
        tags = dict.fromkeys([*stored.tags, *_tags(rules, news)])
        fresh = storing.make_stored(stored.status, headers, stored.body, terms, self._cache.now(), tags)
        return fresh._replace(flags=fresh.flags | stored.flags & MADE_ETAG), terms

    def _tells_apart(self, names: Iterable[bytes], keyed: Iterable[str]) -> bool:
        """Whether the place this request has looked at is for requests that agree in these."""
        known = self._variants
        return {*names, *keyed} <= ({*known.names, *known.keyed} if known is not None else set())

    async def _keep(
        self, turn: Turn, voice: Said, status: int, headers: Any, body: bytes, terms: Terms, clock: float
    ) -> None:
        """Store a complete response, where requests like this one will look for it."""
        rules = voice.rules or storing.NO_RULES
        tags = _tags(rules, headers)
        stored = tuple(storing.make_stored(status, headers, body, terms, clock, tags))
        self._middleware.keeping.add(self._place)
        try:
            turn.give(await self._where(stored, terms, rules, tags))
            await turn.stored()
        finally:
            self._middleware.keeping.discard(self._place)

    async def _where(self, stored: tuple[Any, ...], terms: Terms, rules: Rules, tags: list[str]) -> Kept | None:
        """What is to be stored in the place this request has looked."""
        known = self._variants
        names = tuple(sorted({*terms.names, *(known.names if known else ())}))
        keyed = tuple(dict.fromkeys((*(known.keyed if known else ()), *rules.keyed)))
        if (names, keyed) == ((known.names, known.keyed) if known else ((), ())):
            return Kept(stored, terms.keep, tags)
        if known is not None:
            # Unless it was purged meanwhile; the next response will be stored.
            wider = known._replace(names=names, keyed=keyed)
            await self._replace(self._key, known, Kept(tuple(wider), _VARIANTS_TTL, []))
            return None
        # The response first, and then how to find it; a purge meanwhile takes the latter, and so both.
        variants = Variants.make(token_hex(8), names, keyed)
        values = keyed_values(keyed, self._scope)
        if values is None:
            return None
        place = self._request.secondary_key(self._key, variants, values)
        if not await self._cache.write(place, stored, terms.keep, tags):
            return None
        return Kept(tuple(variants), _VARIANTS_TTL, tags)

    async def _replace(self, place: str, known: tuple[Any, ...], kept: Kept) -> None:
        """Store something in the place of what is known to be there, unless that is gone meanwhile."""
        old = tuple(known)

        async def load() -> Any:
            load = current_load()
            load.ttl, load.tags = kept.seconds, kept.tags
            if load.stale != old:
                load.do_not_store()
            return kept.value

        await safely(self._cache.replace(place, load, lambda value: bool(value == old)), "news were not stored")

    async def _ask_head(self) -> None:
        """A HEAD request goes to the application; it may show that what is stored is out of date (section 4.3.5)."""
        stored, voice, began = self._stored, Said(), time_source().wall()

        async def watching(message: Message) -> None:
            if message["type"] == START:
                headers = message["headers"] = list(message.get("headers", ()))
                if stored is not None and message["status"] == 200:
                    await self._heard(stored, tuple(headers), voice.rules or storing.NO_RULES, began)
            await self._send(message)

        token = said.set(voice)
        try:
            await self._middleware.pass_on(self._scope, self._receive, watching)
        finally:
            _unset(token)

    async def _heard(self, stored: Stored, news: Pairs, rules: Rules, began: float) -> None:
        """Update what is stored by the response to a HEAD request, or remove it."""
        now = time_source().wall()

        def judge(status: int, headers: Pairs) -> Terms | Refusal:
            default = self._middleware.ttl
            return storing.terms(self._request, status, headers, rules, now=now, took=now - began, default=default)

        fresh, terms = self._freshened(stored, news, rules, judge)
        if terms is None or not serving.same_content(stored, news):
            await self._cache.remove([self._place])
        else:
            kept = Kept(tuple(fresh), terms.keep, list(fresh.tags))
            await self._replace(self._place, stored, kept)


def _unset(token: Token[Said | None]) -> None:
    with suppress(ValueError):  # a coroutine whose loop was torn down is closed in another context
        said.reset(token)


def _tags(rules: Rules, headers: Pairs) -> list[str]:
    return list(dict.fromkeys([*rules.tags, *storing.read_tags(headers)]))
