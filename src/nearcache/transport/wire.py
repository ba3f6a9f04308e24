"""One connection: commands out, replies in, in order. ``lane.py`` says how wires and lanes share the work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice, repeat
from time import monotonic
from typing import Any, Protocol, cast

import hiredis

from ..core.ring import UNKNOWN
from ..errors import CommandRefused, CommandTimeout, ConnectionFailed, NearcacheError
from .descriptors import Numbered, close_in_children

__all__ = [
    "LONGEST",
    "Batch",
    "Command",
    "Hook",
    "LaneListener",
    "Listener",
    "Waiter",
    "Wire",
    "afresh",
    "announce",
    "pack",
]

Command = tuple[str | bytes | int | float, ...]
Hook = Callable[[list[Any]], None]

pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub takes one word only

_NOTHING = object()
_PushNotification = hiredis.PushNotification
_LARGE = 16_384  # bytes: a command so large does not wait to leave with others
LONGEST = 2**29 + 2**16  # bytes of a reply's part: no server sends a longer one (proto-max-bulk-len)


class Waiter(Protocol):
    """What takes a reply: an ``asyncio.Future``, or a ``Batch``."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: Exception, /) -> None: ...


class Listener(Protocol):
    """What hears, from every lane, that something read earlier may not be current any more.

    It is called where replies are parsed, on whichever thread that is, so it must not wait and must ask the lane for
    nothing. If ``revoked`` raises, the connection is given up, because something stale may be left: ``lost`` follows.
    """

    def revoked(self, keys: list[bytes] | None) -> None:
        """The server says these keys have changed, in order with the replies; ``None``: all keys have."""
        ...

    def lost(self, link: object) -> None:
        """The link's connection is gone, and with it the server's word on all that was read through it."""
        ...


class LaneListener(Listener, Protocol):
    """What hears from a lane, besides, which server it leads to."""

    def turned(self, link: Any, *, first: bool) -> None:
        """The link leads to another server than before, or to its ``first``; nothing was sent there yet."""
        ...


class Batch:
    """Stands in the deque once per command and hands the list of replies to one waiter."""

    __slots__ = ("_hook", "_left", "_replies", "_waiter")

    def __init__(self, waiter: Waiter, count: int, hook: Hook | None) -> None:
        self._waiter = waiter
        self._left = count
        self._replies: list[Any] = []
        self._hook = hook

    def done(self) -> bool:
        # Never before the last reply: a hook has to see its replies even when the caller has left.
        return self._left == 0

    def set_result(self, result: Any, /) -> None:
        self._replies.append(result)
        self._left -= 1
        if self._left:
            return
        try:
            if self._hook is not None:
                self._hook(self._replies)
        except Exception as error:  # noqa: BLE001  # the caller's, not the connection's
            self.set_exception(error)
        else:
            if not self._waiter.done():
                self._waiter.set_result(self._replies)

    def set_exception(self, exception: Exception, /) -> None:
        # After a deadline the late replies still belong to this batch, and to its hook.
        if not isinstance(exception, CommandTimeout):
            self._left = 0
        if not self._waiter.done():
            self._waiter.set_exception(exception)


class Wire(asyncio.Protocol):
    """One socket with its parser and its waiters. It never reconnects.

    Args:
        loop: the loop it lives on.
        timeout: seconds from the write of a command to its reply.
        refused: makes an exception of the text of a server's error; the connection ends when it raises one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        refused: Callable[[str], CommandRefused] = CommandRefused,
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._reader = hiredis.Reader(protocolError=ConnectionFailed, replyError=refused, notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._socket: Numbered | None = None
        self._out: list[bytes] = []
        self._asked = 0  # replies asked for, ever, up to the last write
        self._answered = 0  # replies that came, ever
        self._expired = 0  # replies whose waiters were told that they came too late, ever
        self._due: deque[tuple[int, float]] = deque()  # (replies asked for by then, ever; when they are due)
        self.waiting: deque[Waiter] = deque()
        self.paused = False
        self.heard = monotonic()  # when something came last, or when something was asked for after all had come
        self.client_id: int | None = None
        self.node: tuple[str, int] | None = None  # where it goes, if there is a choice
        self.server = ""
        self.tracks = False
        self.clock = 0.0
        self.history = UNKNOWN
        self.on_push: Callable[[list[Any]], None] = _ignore
        self.on_read: Callable[[], None] = _ignore
        self.on_room: Callable[[], None] = _ignore
        self.on_lost: Callable[[], None] = _ignore
        self.error: Exception | None = None  # why it ended
        self.closed: asyncio.Future[None] = loop.create_future()  # the socket is, too

    # -- out

    def send(self, data: bytes, waiter: Waiter) -> None:
        """Queue one command; it leaves at the end of this turn of the loop."""
        out = self._out
        if not out:
            self._loop.call_soon(self.flush)
        self.waiting.append(waiter)
        out.append(data)
        if len(data) > _LARGE:
            self.flush()

    def send_many(self, commands: Sequence[bytes], batch: Batch) -> None:
        """Queue the commands of a batch."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self.waiting.extend(repeat(batch, len(commands)))
        self._out.extend(commands)

    def flush(self) -> None:
        """Write what was queued, now."""
        out = self._out
        if not out:
            return
        answered, now = self._answered, monotonic()
        if self._asked <= answered:
            self.heard = now
        self._asked = asked = answered + len(self.waiting)
        self._due.append((asked, now + self._timeout))
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        assert self._transport is not None  # abort() empties what was queued
        self._transport.write(data)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.on_room()

    # -- in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._socket = transport.get_extra_info("socket")
        close_in_children(self)

    def fileno(self) -> int:
        """The socket's number; -1 when it is closed."""
        return -1 if self._socket is None else self._socket.fileno()

    def data_received(self, data: bytes) -> None:
        self.heard = monotonic()
        waiting, gets = self.waiting, self._reader.gets
        waited = len(waiting)
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _NOTHING:
                if reply.__class__ is _PushNotification:
                    self.on_push(reply)
                    continue
                waiter = waiting.popleft()
                if not waiter.done():
                    waiter.set_result(reply)
        except Exception as error:  # noqa: BLE001
            # Not RESP, or a reply nobody asked for: what follows cannot be matched to its callers. Or a push that
            # could not be carried out.
            self.abort(ConnectionFailed(f"what the server said could not be taken in: {error!r}"))
            return
        if len(waiting) == waited and self._reader.len() > LONGEST:
            self.abort(ConnectionFailed(f"the server began a reply of more than {LONGEST:,} bytes"))
            return
        self._answered = answered = self._answered + waited - len(waiting)
        due = self._due
        while due and due[0][0] <= answered:
            due.popleft()
        self.on_read()

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort(ConnectionFailed(f"the connection was lost: {exc or 'closed by the server'}"))
        if not self.closed.done() and not self._loop.is_closed():
            self.closed.set_result(None)

    # -- deadlines and the end

    def next_due(self) -> float | None:
        """When the sweep should look again; ``None`` when nothing is waited for."""
        if not self.waiting:
            return None
        return self._due[0][1] if self._due else monotonic() + self._timeout

    def expire(self, now: float) -> int:
        """Fail the waiters whose deadline has passed, and say how many; their replies will be dropped."""
        due, answered = self._due, self._answered
        first = upto = max(self._expired, answered)
        while due and due[0][1] <= now:
            upto, _ = due.popleft()
        if upto <= first:
            return 0
        self._expired = upto
        failed = 0
        seen: Waiter | None = None
        for waiter in islice(self.waiting, first - answered, upto - answered):
            if waiter is not seen and not waiter.done():
                waiter.set_exception(CommandTimeout(f"no reply within {self._timeout:g} s"))
                failed += 1
            seen = waiter
        return failed

    def abort(self, error: Exception) -> None:
        """Close the socket at once and fail whatever still waits. Idempotent."""
        if self.error is not None:
            return
        self.error = error
        self._out.clear()
        self._due.clear()
        waiting, self.waiting = self.waiting, deque()
        if self._transport is not None:
            _close(self._transport, self._loop)
            self._transport = None
        try:
            self.on_lost()
        finally:
            for waiter in waiting:
                if not waiter.done() and not self._loop.is_closed():
                    waiter.set_exception(afresh(error))


def _close(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        transport.abort()
        return
    # Nobody will make the call in which asyncio's transports close their socket. (uvloop has closed it by itself.)
    with suppress(RuntimeError):
        transport.abort()
    finish = getattr(transport, "_call_connection_lost", None)
    if finish is not None:
        finish(None)


def afresh(error: Exception) -> Exception:
    """The same error for one more caller: raising it adds a traceback, which callers must not share."""
    if isinstance(error, NearcacheError):
        return error.__class__(*error.args)
    return error


def announce(push: list[Any], listener: Listener) -> None:
    """Hand on what the server revokes. Only invalidations are asked for; another push is not ours.

    Raises:
        ConnectionFailed: the listener failed, so something stale may be left.
    """
    if push[0] == b"invalidate":
        try:
            listener.revoked(push[1])
        except Exception as error:
            raise ConnectionFailed(f"an invalidation could not be carried out: {error!r}") from error


def _ignore(*_: object) -> None:
    """Nobody listens yet."""
