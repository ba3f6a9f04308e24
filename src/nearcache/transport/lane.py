"""The lane: one auto-pipelined connection that many callers share.

Theory of operation
-------------------
Whatever is asked within one turn of the event loop leaves in one ``write``; replies come back in order, so the
waiters stand in a deque and the reply at hand always belongs to the waiter at its head. Nothing else decides who
gets a reply: a caller that was cancelled, or whose deadline passed, leaves its waiter in the deque as a
placeholder, and the late reply is dropped on it (handing it to the next caller is CVE-2023-28858).

Two objects share the work. A ``Wire`` (``wire.py``) is one socket and dies with it, together with its parser and its
waiters, so no reply can cross from one connection to the next. A ``Lane`` outlives its wires: it opens them, keeps
commands that must wait for their turn (``_backlog``: no connection yet, too many in flight, or a full socket buffer),
sweeps deadlines, and reconnects with jittered back-off. What was sent on a wire that is lost fails; what still waited
for its turn goes out on the next one, if that comes up at the first attempt.

*Deadlines* cost no timer per command: each write notes how many replies it brings the total to and when they are
due, and one timer per lane looks at the oldest note. A loop that was blocked is not a slow server, so the sweep
first lets the loop read what has arrived, and goes on only when nothing more comes. After a deadline the connection
stays. Only when the server has said nothing for three deadlines is the wire replaced. Commands still lying in an old
socket could be carried out after newer ones, so the next wire is used only when the server knows no connection of the
old one's id and name any more, or has acknowledged its ``CLIENT KILL``.

*Hooks* run where replies are parsed, in order with the server's pushes. State that a push may revoke (such as the
versions in ``counters``) must be stored by a hook: by the time an awaiting task wakes up, the push may have been and
gone. The *listener* removes it: it hears of every push, and of the end of a connection before anybody else does.

Memory: a command, sent or waiting for its turn, costs up to 0.4 kB plus its own bytes until they are written, so
``NEARCACHE_MAX_IN_FLIGHT`` = 100,000 bounds a lane at 40 MB plus one socket buffer. What callers keep comes on top.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from ..core.ring import UNKNOWN, History
from ..errors import CommandTimeout, ConnectionFailed, NearcacheError, NotInitialized
from . import backoff
from .descriptors import hang_up
from .hello import local_clock
from .tasks import start_keeper
from .wire import Batch, Command, Hook, LaneListener, Waiter, Wire, afresh, announce, pack

__all__ = ["Breaker", "Lane"]

_SILENT_DEADLINES = 3
_CATCH_UP = 50  # times a sweep lets the loop read on while replies keep coming
_CLOSED = "the connection is closed: call initialize() again"


class Breaker(Protocol):
    """What a lane tells a circuit breaker."""

    @property
    def failing(self) -> bool: ...
    def failed(self) -> None: ...
    def succeeded(self) -> None: ...


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
        listener: told what the server revokes, of every connection that is lost, and of every other server.
        track_all: ``open_wire`` asks the server to track every key that is read.

    Attributes:
        counters: what hooks remember of the server's versions; the listener removes what is revoked.
        tracks: the server revokes what was read, on this connection or, before the first one, probably.
        track_all: it does so for every key that is read.
        clock: seconds to add to ``time.monotonic()`` for the server's unix time.
        history: that of the server it leads to.
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
        listener: LaneListener,
        track_all: bool = False,
    ) -> None:
        self._loop = loop
        self._open_wire = open_wire
        self._command_timeout = command_timeout
        self._connect_timeout = connect_timeout
        self._max_in_flight = max_in_flight
        self._breaker = breaker
        self._on_state = on_state
        self._listener = listener
        self._track_all = track_all
        self._wire: Wire | None = None
        self._down: Exception | None = None  # why, once an attempt has failed; commands then fail at once
        self._closed = False
        self._backlog: deque[tuple[float, Command | list[Command], Waiter, Hook | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._kill: int | None = None
        self._first = loop.create_future()
        self._keeper = start_keeper(loop, self._keep_up(), "nearcache-lane")
        self.counters: dict[bytes, tuple[int, int]] = {}
        self.tracks = True
        self.track_all = track_all
        self.clock = local_clock()
        self.history = UNKNOWN
        self.connects = 0

    # -- asking

    def post(self, command: Command, waiter: Waiter) -> None:
        """Send one command; the waiter gets its reply, which may be a ``CommandRefused``."""
        wire = self._wire
        if wire is None or wire.paused or len(wire.waiting) >= self._max_in_flight:
            self._queue(command, waiter, None)
            return
        wire.send(pack(command), waiter)
        if self._timer is None:
            self._arm()

    def post_many(self, commands: list[Command], waiter: Waiter, hook: Hook | None = None) -> None:
        """Send commands back to back; the waiter gets the list of replies, after ``hook`` has seen it."""
        wire = self._wire
        if wire is None or wire.paused or len(wire.waiting) >= self._max_in_flight:
            self._queue(commands, waiter, hook)
            return
        packed = [pack(command) for command in commands]
        wire.send_many(packed, Batch(waiter, len(packed), hook))
        if self._timer is None:
            self._arm()

    def flush(self) -> None:
        """Write now instead of at the end of this turn of the loop."""
        if self._wire is not None:
            self._wire.flush()

    def watch(self) -> None:
        """The loop reads what the server pushes, whether or not somebody waits for a reply."""

    def histories(self, name: bytes | None = None) -> tuple[History, ...]:
        """There is one server."""
        return (self.history,)

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

    def _queue(self, asked: Command | list[Command], waiter: Waiter, hook: Hook | None) -> None:
        if self._closed:
            waiter.set_exception(NotInitialized(_CLOSED))
        elif self._down is not None:
            waiter.set_exception(ConnectionFailed(str(self._down)))
        else:
            wait = self._command_timeout + (self._connect_timeout if self._wire is None else 0.0)
            self._backlog.append((monotonic() + wait, asked, waiter, hook))
            self._arm()

    def follow(self, primary: tuple[str, int]) -> None:
        """Leave a server that is not the primary any more; from any thread."""
        with suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._follow, primary)

    def _follow(self, primary: tuple[str, int]) -> None:
        if self._wire is not None and self._wire.node not in (None, primary):
            self._wire.abort(ConnectionFailed(f"{primary[0]}:{primary[1]} is the primary now"))

    def _take_turns(self) -> None:
        """Send what waited, as far as there is room.

        Called whenever there may be some, at once: who posts and finds room overtakes nobody.
        """
        backlog = self._backlog
        while backlog:
            wire = self._wire
            if wire is None or wire.paused or len(wire.waiting) >= self._max_in_flight:
                return
            _, asked, waiter, hook = backlog.popleft()
            if waiter.done():
                continue
            try:
                if isinstance(asked, tuple):
                    self.post(asked, waiter)
                else:
                    self.post_many(asked, waiter, hook)
            except (TypeError, ValueError) as error:
                # It cannot be put into bytes, and this is not its caller's stack.
                waiter.set_exception(error)

    # -- deadlines

    def _arm(self) -> None:
        if self._timer is not None:
            return
        due = self._wire.next_due() if self._wire is not None else None
        if self._backlog and (due is None or self._backlog[0][0] < due):
            due = self._backlog[0][0]
        if due is not None:
            # Not before a twentieth of the timeout: a busy lane would sweep after every read.
            wait = max(due - monotonic(), self._command_timeout / 20)
            self._timer = self._loop.call_later(wait, self._sweep_soon, _CATCH_UP)

    def _sweep_soon(self, rounds: int) -> None:
        # Two turns, so that one poll for input lies between, whichever order the loop keeps: uvloop runs
        # timers before it polls, asyncio after. What was due by now and is not read by then did not come in time.
        self._loop.call_soon(self._loop.call_soon, self._sweep, monotonic(), self._heard(), rounds)

    def _heard(self) -> float:
        return self._wire.heard if self._wire is not None else 0.0

    def _sweep(self, now: float, heard: float, rounds: int) -> None:
        if self._heard() != heard and rounds:
            self._sweep_soon(rounds - 1)
            return
        self._timer = None
        wire = self._wire
        if wire is not None:
            for _ in range(wire.expire(now)):
                self._breaker.failed()
            if wire.waiting and now - wire.heard >= _SILENT_DEADLINES * self._command_timeout:
                wire.abort(ConnectionFailed(f"the server has been silent for {now - wire.heard:.1f} s"))
        while self._backlog and self._backlog[0][0] <= now:
            _, _, waiter, _ = self._backlog.popleft()
            if not waiter.done():
                waiter.set_exception(CommandTimeout("no turn before the deadline: the server or the way to it is busy"))
        self._arm()

    # -- life

    async def _keep_up(self) -> None:
        attempt = 0
        try:
            while True:
                began = monotonic()
                try:
                    async with asyncio.timeout(self._connect_timeout) as limit:
                        wire = await self._open_wire(self._kill)
                except NearcacheError as error:
                    self._went_down(error)
                except Exception as error:  # noqa: BLE001  # whatever it is, the next attempt may succeed
                    late = limit.expired()
                    why = f"no connection within {self._connect_timeout:g} s" if late else str(error) or repr(error)
                    self._went_down(ConnectionFailed(why))
                else:
                    self._came_up(wire)
                    await asyncio.shield(wire.closed)
                    self._on_state(self, wire.error)
                    if monotonic() - began > backoff.MOST:
                        attempt = 0
                attempt += 1
                await asyncio.sleep(backoff.pause(attempt - 1))  # the first after a loss is at once
        finally:
            self._shut()

    def _came_up(self, wire: Wire) -> None:
        if wire.error is not None:
            return
        self._kill = self._down = None
        self.connects += 1
        self.tracks, self.clock = wire.tracks, wire.clock
        self.track_all = self._track_all and wire.tracks
        before, self.history = self.history, wire.history
        if wire.history != before:
            self._listener.turned(self, first=before is UNKNOWN)
        self._wire = wire
        wire.on_push = self._pushed
        wire.on_read = self._after_read
        wire.on_room = self._take_turns
        wire.on_lost = self._lost
        self._on_state(self, None)
        if not self._first.done():
            self._first.set_result(None)
        self._take_turns()

    def _lost(self) -> None:
        """At once, before anybody can post again: what the wire has not answered it never will."""
        wire, self._wire = self._wire, None
        self._kill = wire.client_id if wire is not None else None
        self._listener.lost(self)

    def _pushed(self, push: list[Any]) -> None:
        announce(push, self._listener)

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
                waiter.set_exception(afresh(error))

    async def aclose(self) -> None:
        """Let what is in flight finish (at most one command timeout), then close. Idempotent."""
        wire = self._wire
        if not self._closed:
            self._closed = True
            deadline = monotonic() + self._command_timeout
            # Polled: an event would cost every read a look.
            while (self.in_flight or self._backlog) and monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            wire = self._wire
            self._keeper.cancel()
        await asyncio.wait([self._keeper])
        if wire is not None:
            await asyncio.wait([wire.closed], timeout=self._command_timeout)

    def drop(self) -> None:
        """Close at once, for a loop that does not turn any more."""
        wire = self._wire
        self._shut()
        if wire is not None:
            hang_up(wire.fileno())

    def _shut(self) -> None:
        """The synchronous end: also reached when the loop cancels its tasks on the way out."""
        self._closed = True
        if self._wire is not None:
            self._wire.abort(NotInitialized(_CLOSED))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop.is_closed():
            return  # nobody waits on it any more
        self._fail_backlog(NotInitialized(_CLOSED))
        if not self._first.done():
            self._first.set_result(None)
