"""The lane: one auto-pipelined connection that many callers share.

Theory of operation
-------------------
Whatever is asked within one turn of the event loop leaves in one ``write``; replies come back in order, so the
waiters stand in a deque and the reply at hand always belongs to the waiter at its head. Nothing else decides who
gets a reply: a caller that was cancelled, or whose deadline passed, leaves its waiter in the deque as a
placeholder, and the late reply is dropped on it (handing it to the next caller is CVE-2023-28858).

Two objects share the work. A ``Wire`` is one socket and dies with it, together with its parser and its waiters, so
no reply can cross from one connection to the next. A ``Lane`` outlives its wires: it opens them, keeps commands
that must wait for their turn (``_backlog``: no connection yet, too many in flight, or a full socket buffer), sweeps
deadlines, and reconnects with jittered back-off.

*Deadlines* cost no timer per command: each write notes how many replies it brings the total to and when they are
due, and one timer per lane looks at the oldest note. A loop that was blocked is not a slow server, so the sweep
first lets the loop read what has arrived, and goes on only when nothing more comes. After a deadline the connection
stays. Only when the server has been silent for three deadlines is the wire replaced, and then the server
acknowledges a ``CLIENT KILL`` of the old connection before the new one is used: otherwise commands still lying in
the old socket could be carried out after newer ones.

*Hooks* run where replies are parsed, in order with the server's pushes. State that a push may revoke (the versions
in ``counters``) must be stored by a hook: by the time an awaiting task wakes up, the push may have been and gone.

Memory: a command in flight costs about 0.6 kB plus its own bytes while they wait to be written, so
``NEARCACHE_MAX_IN_FLIGHT`` = 100,000 bounds a lane at about 60 MB plus one socket buffer.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast

import hiredis

from ..errors import CommandRefused, CommandTimeout, ConnectionFailed, NearcacheError, NotInitialized

__all__ = ["Batch", "Command", "Hook", "Lane", "Waiter", "Wire"]

Command = tuple[str | bytes | int | float, ...]
Hook = Callable[[list[Any]], None]

_NOTHING = object()
_PushNotification = hiredis.PushNotification
_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 0.5  # seconds; the most keeps a lane within a second of its server
_SILENT_DEADLINES = 3
_CATCH_UP = 0.05  # seconds a sweep lets the loop read on while replies keep coming


class Waiter(Protocol):
    """What takes a reply: an ``asyncio.Future``, a ``ThreadWaiter``, a ``Batch``."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: Exception, /) -> None: ...


class Breaker(Protocol):
    """What a lane tells a circuit breaker."""

    @property
    def failing(self) -> bool: ...
    def failed(self) -> None: ...
    def succeeded(self) -> None: ...


class Batch:
    """Stands in the deque once per command and hands the list of replies to one waiter."""

    __slots__ = ("_hook", "_left", "_replies", "_waiter")

    def __init__(self, waiter: Waiter, count: int, hook: Hook | None) -> None:
        self._waiter = waiter
        self._left = count
        self._replies: list[Any] = []
        self._hook = hook

    def done(self) -> bool:
        # Never: a hook has to see its replies even when the caller has left.
        return self._left == 0

    def set_result(self, result: Any, /) -> None:
        self._replies.append(result)
        self._left -= 1
        if self._left:
            return
        if self._hook is not None:
            self._hook(self._replies)
        if not self._waiter.done():
            self._waiter.set_result(self._replies)

    def set_exception(self, exception: Exception, /) -> None:
        if isinstance(exception, CommandTimeout):
            # Late replies still belong to this batch, and its hook.
            if not self._waiter.done():
                self._waiter.set_exception(exception)
            return
        self._left = 0
        if not self._waiter.done():
            self._waiter.set_exception(exception)


class Wire(asyncio.Protocol):
    """One connection: commands out, replies in, in order. It never reconnects."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._reader = hiredis.Reader(
            protocolError=ConnectionFailed, replyError=CommandRefused, notEnoughData=_NOTHING
        )
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._answered = 0  # replies that came, ever
        self.waiting: deque[Waiter] = deque()
        self.due: deque[tuple[int, float]] = deque()  # (replies asked for by then, ever; when they are due)
        self.paused = False
        self.last_read = loop.time()
        self.client_id: int | None = None
        self.server = ""
        self.tracks = False
        self.on_push: Callable[[list[Any]], None] = _ignore_push
        self.on_read: Callable[[], None] = _ignore
        self.lost: asyncio.Future[Exception | None] = loop.create_future()

    # -- out

    def send(self, data: bytes, waiter: Waiter) -> None:
        """Queue one command; it leaves at the end of this turn of the loop."""
        self.waiting.append(waiter)
        out = self._out
        if not out:
            self._loop.call_soon(self.flush)
        out.append(data)

    def flush(self) -> None:
        """Write what was queued, now."""
        out = self._out
        if not out or self._transport is None:
            return
        due, answered = self.due, self._answered
        while due and due[0][0] <= answered:
            due.popleft()
        due.append((answered + len(self.waiting), self._loop.time() + self._timeout))
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._transport.write(data)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.on_read()

    # -- in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self.last_read = self._loop.time()
        reader, waiting = self._reader, self.waiting
        try:
            reader.feed(data)
            while True:
                reply = reader.gets()
                if reply is _NOTHING:
                    break
                if reply.__class__ is _PushNotification:
                    self.on_push(reply)
                    continue
                waiter = waiting.popleft()
                self._answered += 1
                if not waiter.done():
                    waiter.set_result(reply)
        except (ConnectionFailed, IndexError) as error:
            # Not RESP, or a reply nobody asked for: what follows cannot be matched to its callers.
            self.abort(ConnectionFailed(f"the server broke the protocol: {error!r}"))
        self.on_read()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort(ConnectionFailed(f"the connection was lost: {exc or 'closed by the server'}"))

    # -- deadlines and the end

    def expire(self, now: float) -> int:
        """Fail the waiters whose deadline has passed, and say how many; their replies will be dropped."""
        due = self.due
        expired = 0
        while due and (due[0][0] <= self._answered or due[0][1] <= now):
            count, _ = due.popleft()
            expired = max(expired, count - self._answered)
        failed = 0
        if expired <= 0:
            return failed
        error = CommandTimeout(f"no reply within {self._timeout:g} s")
        seen: Waiter | None = None
        for index, waiter in enumerate(self.waiting):
            if index == expired:
                break
            if waiter is not seen and not waiter.done():
                waiter.set_exception(error)
                failed += 1
            seen = waiter
        return failed

    def abort(self, error: Exception) -> None:
        """Close the socket at once and fail whatever still waits."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if not self.lost.done():
            self.lost.set_result(error)
        self._out.clear()
        self.due.clear()
        waiting, self.waiting = self.waiting, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(error)


class Lane:
    """The one connection of a (process, event loop) to one database of one server.

    Args:
        loop: the loop it lives on; every method but ``counters``' look-ups is called there.
        open_wire: connects, shakes hands, and returns a wire that is ready; gets the client id to kill first.
        command_timeout: seconds from the write to the reply.
        connect_timeout: seconds for one attempt to connect.
        max_in_flight: commands sent and not yet answered; more wait their turn.
        breaker: fed with deadlines that passed and with anything the server says.
        on_state: told of every change: the lane, and the error that took it down (``None`` when it is up).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        open_wire: Callable[[int | None], Awaitable[Wire]],
        *,
        command_timeout: float,
        connect_timeout: float,
        max_in_flight: int,
        breaker: Breaker,
        on_state: Callable[[Lane, Exception | None], None],
    ) -> None:
        self._loop = loop
        self._open_wire = open_wire
        self._command_timeout = command_timeout
        self._connect_timeout = connect_timeout
        self._max_in_flight = max_in_flight
        self._breaker = breaker
        self._on_state = on_state
        self._wire: Wire | None = None
        self._down: Exception | None = None  # why, once an attempt has failed; commands then fail at once
        self._closed = False
        self._backlog: deque[tuple[float, list[Command], Waiter, Hook | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._kill: int | None = None
        self._first = loop.create_future()
        self._keeper = loop.create_task(self._keep_up(), name="nearcache-lane")
        self.counters: dict[bytes, int] = {}
        self.tracks = True  # until a connection says otherwise: hooks look again when the reply is there
        self.connects = 0

    # -- asking

    def post(self, command: Command, waiter: Waiter) -> None:
        """Send one command; the waiter gets its reply, which may be a ``CommandRefused``."""
        wire = self._wire
        if wire is None or self._backlog or wire.paused or len(wire.waiting) >= self._max_in_flight:
            self._queue([command], waiter, None, single=True)
            return
        wire.send(hiredis.pack_command(command), waiter)
        if self._timer is None:
            self._arm()

    def post_many(self, commands: Sequence[Command], waiter: Waiter, hook: Hook | None = None) -> None:
        """Send commands back to back; the waiter gets the list of replies, after ``hook`` has seen it."""
        wire = self._wire
        if wire is None or self._backlog or wire.paused or len(wire.waiting) >= self._max_in_flight:
            self._queue(list(commands), waiter, hook, single=False)
            return
        self._send_batch(wire, commands, waiter, hook)

    def flush(self) -> None:
        """Write now instead of at the end of this turn of the loop."""
        if self._wire is not None:
            self._wire.flush()

    @property
    def connected(self) -> bool:
        return self._wire is not None

    @property
    def in_flight(self) -> int:
        """Commands sent and not answered, those past their deadline included."""
        return len(self._wire.waiting) if self._wire is not None else 0

    @property
    def server(self) -> str:
        """What the server says it is, such as ``valkey 9.1.2``; empty before the first connection."""
        return self._wire.server if self._wire is not None else ""

    async def connected_or_raise(self) -> None:
        """Wait for the first attempt to connect; raise what made it fail."""
        if self._wire is None:
            if self._down is None:
                await asyncio.shield(self._first)
            if self._wire is None:
                raise self._down or ConnectionFailed("the lane is closed")

    def _send_batch(
        self, wire: Wire, commands: Sequence[Command], waiter: Waiter, hook: Hook | None
    ) -> None:
        packed = [hiredis.pack_command(command) for command in commands]
        batch = Batch(waiter, len(packed), hook)
        for data in packed:
            wire.send(data, batch)
        if self._timer is None:
            self._arm()

    def _queue(self, commands: list[Command], waiter: Waiter, hook: Hook | None, *, single: bool) -> None:
        if self._closed:
            waiter.set_exception(NotInitialized("the connection is closed: call initialize() again"))
        elif self._down is not None:
            waiter.set_exception(ConnectionFailed(str(self._down)))
        else:
            wait = self._command_timeout + (self._connect_timeout if self._wire is None else 0.0)
            target = _Single(waiter) if single else waiter
            self._backlog.append((self._loop.time() + wait, commands, target, hook))
            if self._timer is None:
                self._arm()

    def _take_turns(self) -> None:
        """Send what waited, as far as there is room; called after every read."""
        backlog, wire = self._backlog, self._wire
        while backlog and wire is not None and not wire.paused and len(wire.waiting) < self._max_in_flight:
            _, commands, waiter, hook = backlog.popleft()
            if not waiter.done():
                self._send_batch(wire, commands, waiter, hook)

    # -- deadlines

    def _arm(self) -> None:
        due = [self._backlog[0][0]] if self._backlog else []
        if self._wire is not None and self._wire.waiting:
            due.append(self._wire.due[0][1] if self._wire.due else self._loop.time() + self._command_timeout)
        if due:
            # Not before a twentieth of the timeout: a busy lane would sweep after every read.
            soonest = self._loop.time() + self._command_timeout / 20
            self._timer = self._loop.call_at(max(min(due), soonest), self._sweep_soon, None)

    def _sweep_soon(self, since: float | None) -> None:
        # Two turns, so that one poll for input lies between, whichever order the loop keeps: uvloop runs
        # timers before it polls, asyncio after.
        self._loop.call_soon(self._loop.call_soon, self._sweep, since or self._loop.time(), self._last_read())

    def _last_read(self) -> float:
        return self._wire.last_read if self._wire is not None else 0.0

    def _sweep(self, since: float, last_read: float) -> None:
        now = self._loop.time()
        if self._last_read() != last_read and now - since < _CATCH_UP:
            self._sweep_soon(since)
            return
        self._timer = None
        wire = self._wire
        if wire is not None:
            for _ in range(wire.expire(now)):
                self._breaker.failed()
            if wire.waiting and now - max(wire.last_read, 0.0) >= _SILENT_DEADLINES * self._command_timeout:
                self._kill = wire.client_id
                wire.abort(ConnectionFailed(f"the server has been silent for {now - wire.last_read:.1f} s"))
        while self._backlog and self._backlog[0][0] <= now:
            _, _, waiter, _ = self._backlog.popleft()
            if not waiter.done():
                waiter.set_exception(CommandTimeout("too many commands in flight: no turn before the deadline"))
        self._arm()

    # -- life

    async def _keep_up(self) -> None:
        attempt = 0
        try:
            while not self._closed:
                try:
                    async with asyncio.timeout(self._connect_timeout):
                        wire = await self._open_wire(self._kill)
                except TimeoutError:
                    self._went_down(ConnectionFailed(f"no connection within {self._connect_timeout:g} s"))
                except (OSError, CommandRefused) as error:
                    self._went_down(ConnectionFailed(str(error) or repr(error)))
                except NearcacheError as error:
                    self._went_down(error)
                else:
                    attempt = 0
                    self._came_up(wire)
                    lost = await wire.lost
                    self._wire = None
                    self.counters.clear()
                    if not self._closed:
                        self._went_down(lost or ConnectionFailed("the connection was lost"))
                attempt += 1
                # Full jitter, but for the first attempt after a loss, which is at once.
                most = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2**attempt)
                await asyncio.sleep(random.uniform(0, most) if attempt > 1 else 0)
        finally:
            self._shut(NotInitialized("the connection is closed: call initialize() again"))

    def _came_up(self, wire: Wire) -> None:
        self._kill = self._down = None
        self.connects += 1
        self.tracks = wire.tracks
        self._wire = wire
        wire.on_push = self._pushed
        wire.on_read = self._after_read
        self._on_state(self, None)
        if not self._first.done():
            self._first.set_result(None)
        self._take_turns()

    def _after_read(self) -> None:
        if self._breaker.failing:
            self._breaker.succeeded()
        if self._backlog:
            self._take_turns()

    def _went_down(self, error: Exception) -> None:
        self._down = error
        self._on_state(self, error)
        if not self._first.done():
            self._first.set_result(None)
        self._fail_backlog(error)

    def _fail_backlog(self, error: Exception) -> None:
        backlog, self._backlog = self._backlog, deque()
        for _, _, waiter, _ in backlog:
            if not waiter.done():
                waiter.set_exception(error)

    def _pushed(self, push: list[Any]) -> None:
        """A push: only invalidations are asked for; anything else is not ours."""
        if push[0] == b"invalidate":
            if push[1] is None:
                self.counters.clear()
            else:
                for key in push[1]:
                    self.counters.pop(key, None)

    async def aclose(self) -> None:
        """Let what is in flight finish (at most one command timeout), then close. Idempotent."""
        if not self._closed:
            self._closed = True
            deadline = self._loop.time() + self._command_timeout
            while (self.in_flight or self._backlog) and self._loop.time() < deadline:
                await asyncio.sleep(0.001)
            self._keeper.cancel()
        await asyncio.wait([self._keeper])

    def drop(self) -> None:
        """Close at once, for a loop that does not turn any more."""
        self._shut(NotInitialized("the connection is closed: call initialize() again"))

    def _shut(self, error: Exception) -> None:
        """The synchronous end: also reached when the loop cancels its tasks on the way out."""
        self._closed = True
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.counters.clear()
        self._fail_backlog(error)
        if not self._first.done():
            self._first.set_result(None)


class _Single:
    """Unpacks the one reply of a single command that went through the backlog."""

    __slots__ = ("_waiter",)

    def __init__(self, waiter: Waiter) -> None:
        self._waiter = waiter

    def done(self) -> bool:
        return self._waiter.done()

    def set_result(self, result: list[Any], /) -> None:
        self._waiter.set_result(result[0])

    def set_exception(self, exception: Exception, /) -> None:
        self._waiter.set_exception(exception)


def _ignore_push(push: list[Any]) -> None:
    """Before the handshake is over no push means anything."""


def _ignore() -> None:
    """Nothing waits for a turn yet."""
