"""[shell] A response of the application on its way: passed on as it comes, and recorded.

Nothing of the response waits for the cache: messages are passed on as they come, and a copy is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ..core.clock import clock as time_source
from . import fields, serving, storing
from .records import Pairs, Stored
from .requests import PERSON, Request
from .routes import Said
from .serving import Answer
from .status import forwarded
from .storing import NO_RULES, Refusal, Rules, Terms
from .turns import is_of_a_scope

__all__ = [
    "App",
    "Message",
    "Receive",
    "Recorder",
    "Scope",
    "Send",
    "send_answer",
    "tell",
    "telling",
    "without_content",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

START = "http.response.start"
BODY = "http.response.body"
_ERRORS = frozenset([500, 502, 503, 504])  # RFC 5861, section 4

_log = logging.getLogger("nearcache.http")


class Recorder:
    """Passes every message on as it comes, and keeps a copy of a response that may be stored.

    What it keeps it takes before it passes a message on: middleware in front changes messages in place.

    Args:
        said: what the route says.
        why: the application was asked, in the words of RFC 9211.
        validating: the request carries the validators of a stored response: a 304 is about that.
        stand_in: there is a stored response that is better than an error.
        max_body: bytes.
        default: lifetime of a 200 that says nothing.
        personal: whether a middleware has found a user by now.
        refused: called when it turns out that the response will not be stored; with True when that is the client's
            fault, so that another one may fare better.
        clock: the cache's.
        complete: awaited when the response has been sent, with its status, fields, body, terms, and when it began.

    Attributes:
        status: of the response; 0 before it has begun.
        headers: its fields.
        terms: under which it may be stored; None when it may not.
        firm: the response itself says that it may not.
        gone: the client is: an application that knows may end its response early.
        instead: the stored response is to be sent, not this one.
        cancelled: the task is, but has not heard of it.
    """

    def __init__(
        self,
        request: Request,
        receive: Receive,
        send: Send,
        said: Said,
        *,
        why: bytes,
        validating: bool,
        stand_in: bool,
        max_body: int,
        default: float | None,
        clock: Callable[[], float],
        personal: Callable[[], bool],
        refused: Callable[[bool], None],
        complete: Callable[[int, Pairs, bytes, Terms, float], Awaitable[None]],
    ) -> None:
        self._request = request
        self._receive = receive
        self._send = send
        self._said = said
        self._why = why
        self._validating = validating
        self._stand_in = stand_in
        self._max_body = max_body
        self._default = default
        self._personal = personal
        self._refused = refused
        self._on_complete = complete
        self._clock = clock
        self._wall = time_source().wall
        self._began = self._wall()
        self._came = 0.0
        self._asked_with_body = False
        self._body = bytearray()
        self._held: Message | None = None  # the start of a response, until its body shows whether it is all there
        self._leaving: asyncio.Future[None] | None = None  # the same on its way, without its body
        self.status = 0
        self.headers: Pairs = ()
        self.terms: Terms | None = None
        self.firm = False
        self.gone = False
        self.instead = False
        self.cancelled = False

    @property
    def rules(self) -> Rules:
        """What the route says, if it was asked."""
        return self._said.rules or NO_RULES

    @property
    def worthwhile(self) -> bool:
        """Whether it is worth looking at the next response for this URL."""
        return self.terms is not None or not self.firm or self.rules.etag

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
        elif message.get("body"):
            # A GET with a body, which its fields did not tell: the answer may depend on it.
            self._refuse(firm=False)
            self._asked_with_body = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.instead:
            return  # of an error, or a 304, nothing is passed on
        if kind == START:
            start = self._begin(message)
            if start is None:
                return
            message = start
        elif kind != BODY and self.terms is not None:
            self._refuse()  # its body travels by another way: a file sent by path, for one
        complete = kind == BODY and not message.get("more_body", False)
        try:
            if kind == BODY and self._held is not None:
                start, self._held = self._held, None
                message = await self._release(start, message)
            else:
                await self.flush()
            if kind == BODY and self.terms is not None:
                self._keep(message.get("body", b""))
            terms = self.terms
            await self._send(message)
        except BaseException:
            self._refuse(firm=False, again=True)
            raise
        if terms is not None and self.terms is terms and complete:
            await self._complete(terms)

    async def flush(self) -> None:
        """Send the start of a response that has no body, or none yet; wait until it is sent."""
        if self._held is not None:
            start, self._held = self._held, None
            await self._send(start)
        elif self._leaving is not None:
            leaving, self._leaving = self._leaving, None
            await leaving

    def _let_go(self) -> None:
        """The application waits for something, and its body may take long: the client gets the start."""
        if self._held is not None:
            start, self._held = self._held, None
            self._leaving = asyncio.ensure_future(self._send(start))

    def stop(self) -> None:
        """The application was cancelled: nothing is sent any more."""
        self._held = None
        if self._leaving is not None:
            self._leaving.cancel()

    def _begin(self, message: Message) -> Message | None:
        self.status, self._came = int(message["status"]), self._clock()
        # An iterator can be read once: the next in line gets a list.
        headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
        self.headers = tuple(headers)
        if (self.status == 304 and self._validating) or (self.status in _ERRORS and self._stand_in):
            self.instead = True
            return None
        if message.get("trailers") or self._request.head or self._asked_with_body:
            self._refuse(firm=False)
        else:
            verdict = self.judge(self.status, self.headers)
            if isinstance(verdict, Refusal):
                _log.debug("not stored: %s", verdict.why)
                self._refuse(firm=verdict.firm)
            else:
                self.terms = verdict
        if storing.internal(headers):
            headers = [pair for pair in headers if pair[0].lower() not in storing.INTERNAL]
        if self.rules is not NO_RULES:
            added = _for_clients(headers, self.rules)
            headers += added
            self.headers += tuple(added)
        if self.terms is not None:
            headers.append(forwarded(self._why, stored=True))
        message = {**message, "headers": headers}
        names = {name.lower() for name, _ in headers}
        if self.status != 200 or message.get("trailers"):
            return message
        # An ETag is made of a whole body: of one that comes with the start, or where the route asks for it.
        if self.rules.etag:
            self._held = message
        elif self.terms is not None and b"etag" not in names and b"content-length" in names:
            self._held = message
            asyncio.get_running_loop().call_soon(self._let_go)
        return message if self._held is None else None

    async def _release(self, start: Message, body: Message) -> Message:
        """Send the start that was held back, with an ETag if this is the whole body; the body message to be sent."""
        if body.get("more_body", False):
            await self._send(start)
            return body
        content, headers = bytes(body.get("body", b"")), list(start["headers"])
        etag = fields.first_of(headers, b"etag")
        if etag is None:
            etag = storing.make_etag(content)
            headers.append((b"etag", etag))
            self.headers = (*self.headers, (b"etag", etag))
        if self._request.conditional and not self._request.head:
            modified = fields.first_of(headers, b"last-modified") or b""
            asked = Stored.make(200, tuple(headers), content, self._came, 0.0, 0.0, 0.0, 0, etag, modified, ())
            whole = serving.answer(asked, self._request)
            if whole.status == 304:
                if self.terms is not None:
                    self._keep(content)
                await self._send({**start, "status": 304, "headers": list(whole.headers)})
                return {**body, "body": b""}
        await self._send({**start, "headers": headers})
        return body

    def judge(self, status: int, headers: Pairs) -> Terms | Refusal:
        """Whether such a response may be stored."""
        now = self._wall()
        if self._personal():
            self._request.credentials = {*self._request.credentials, PERSON}
        took = max(0.0, now - self._began)
        return storing.terms(self._request, status, headers, self.rules, now=now, took=took, default=self._default)

    def _keep(self, part: bytes) -> None:
        if len(self._body) + len(part) > self._max_body:
            self._refuse()
        else:
            self._body += part

    def _refuse(self, *, firm: bool = True, again: bool = False) -> None:
        self.terms, self.firm = None, firm
        self._body.clear()
        self._refused(again)

    async def _complete(self, terms: Terms) -> None:
        length = b"%d" % len(self._body)
        lengths = [value for name, value in self.headers if name.lower() == b"content-length"]
        if any(value != length for value in lengths) or (self.gone and not lengths):
            self._refuse(firm=False, again=self.gone)  # cut short
            return
        # Before the application goes on to background tasks, whose purges come after this.
        try:
            await self._on_complete(self.status, self.headers, bytes(self._body), terms, self._came)
        except asyncio.CancelledError as error:
            # The message is sent: without the cache the application had gone on, to be cancelled where it waits next.
            task = asyncio.current_task()
            if task is not None and not is_of_a_scope(error):
                task.uncancel()
                task.cancel(*error.args)
                self.cancelled = True


def _for_clients(headers: list[tuple[bytes, bytes]], rules: Rules) -> list[tuple[bytes, bytes]]:
    """Fields that tell clients, and caches between, what they have to know of what a route said."""
    varied = fields.names(value for name, value in headers if name.lower() == b"vary")
    added = [(b"vary", name) for name in rules.vary if name not in varied]
    if rules.per_user and fields.first_of(headers, b"cache-control") is None:
        added.append((b"cache-control", b"private"))
    return added


async def send_answer(send: Send, answer: Answer, *lines: tuple[bytes, bytes]) -> None:
    """Send a response that is all there."""
    await send({"type": START, "status": answer.status, "headers": [*answer.headers, *lines]})
    await send({"type": BODY, "body": answer.body})


def tell(scope: Scope, outer: Scope) -> None:
    """What the application put into its scope is seen by middleware in front: its route, for one."""
    if scope is not outer:
        outer.update((name, value) for name, value in scope.items() if name != "headers")


def telling(scope: Scope, outer: Scope, send: Send) -> Send:
    async def telling(message: Message) -> None:
        tell(scope, outer)
        await send(message)

    return telling


def without_content(receive: Receive) -> Receive:
    """A GET request again: without content, and then whatever comes."""
    asked = False

    async def again() -> Message:
        nonlocal asked
        if asked:
            return await receive()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return again
