"""[shell] What a client owes is paid in the background, soon after its server is back, whoever reads meanwhile.

On a loop a timer waits for the next attempt, and only the attempt itself is a task: a loop that ends finds none between
two of them. Where there is no loop it is a thread, which ends with the debts.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from .core.forking import keep
from .core.recovery import Recovery, Replay
from .core.ring import Ring
from .driving import drive, drive_in_thread
from .errors import CommandTimeout, ConnectionFailed, NearcacheError, NotInitialized, ServerError
from .tiers import remote
from .transport.tasks import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .client import Client, ThreadLink
    from .core.effects import Command, Link
    from .tiers.memory import NearTier
    from .transport.wire import Hook

__all__ = ["Recovering"]

_log = logging.getLogger("nearcache.connections")
_EVERY = 0.5  # seconds between two attempts
_WHY = "the oldest of more than NEARCACHE_RECOVERY_ENTRIES, or refused for good. What they meant to replace may be read"


class _Hurried:
    """A connection of threads on which nothing is asked any more after so many seconds."""

    def __init__(self, link: ThreadLink, seconds: float) -> None:
        self._link = link
        self._until = monotonic() + seconds

    def request(self, command: Command) -> Any:
        return self.request_many([command])[0]

    def request_many(self, commands: Sequence[Command], hook: Hook | None = None) -> list[Any]:
        if monotonic() > self._until:
            raise CommandTimeout("it takes too long")
        return self._link.request_many(commands, hook)


class _Listener:
    """What the lanes of a client tell, to whom it concerns."""

    def __init__(self, near: NearTier, replay: Replay) -> None:
        self.revoked, self.lost, self.turned = near.revoked, near.lost, replay.turned


class Recovering:
    """Begins when something is owed, and ends when nothing is, or when the client is closed.

    Args:
        client: whose debts they are.
        lanes: that of its threads, if there is one, and those of loops.

    Attributes:
        replay: for the plans of the caches on that client.
        listener: for its lanes.
    """

    def __init__(
        self, client: Client, lanes: Callable[[], tuple[object, Mapping[asyncio.AbstractEventLoop, object]]]
    ) -> None:
        self._client = client
        self._lanes = lanes
        self._recovery = Recovery(client.settings.recovery_entries)
        self._recovery.alive = self._may_send
        ring = Ring(client.settings.recovery_entries, client.near.now)
        self.replay = Replay(self._recovery, remote, client.near, client.flights, client.settings.command_timeout, ring)
        self.replay.on_owed = self.begin
        self.replay.on_turned = self._begin_now
        self.listener = _Listener(client.near, self.replay)
        self._timers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}
        self._tasks: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._settled: int | None = None  # how many were, when it was said that something is owed
        self._forgotten = 0  # how many were, when nothing was owed last
        self._forgetting = False  # that was said, too

    def begin(self, link: Link) -> None:
        """Try it soon, on this loop or in a thread, unless that is so already."""
        loop = None if link == self._lanes()[0] else asyncio._get_running_loop()
        with suppress(RuntimeError):  # the loop, or the interpreter, is ending
            if loop is not None:
                if loop not in self._timers and loop not in self._tasks:
                    for ended in [other for other in list(self._timers) if other.is_closed()]:
                        self._timers.pop(ended, None)
                    self._timers[loop] = loop.call_later(_EVERY, self._due, loop)
                return
            with self._lock:
                if self._thread is None:
                    self._thread = start_thread("nearcache-recovery", self._pay_in_thread)

    def _begin_now(self, link: Link) -> None:
        """The same, at once: another server is there, and somebody else may read from it."""
        owed = len(self._recovery.owed)
        _log.warning("%s client: another server is there: %d writes are told to it anew", self._client.name, owed)
        self.begin(link)
        self._wake.set()
        loop = asyncio._get_running_loop()
        if loop is not None and loop in self._timers:
            self._timers[loop].cancel()
            self._timers[loop] = loop.call_later(0, self._due, loop)

    def _may_send(self, link: Link) -> bool:
        """Whether it is a connection that may still carry out what it was given."""
        threads, lanes = self._lanes()
        return link == threads or any(link == lane and loop.is_running() for loop, lane in list(lanes.items()))

    async def aclose(self) -> None:
        """Try once more where there is a connection, for one command timeout at most; then never again."""
        client, owed = self._client, self._recovery.owed
        if owed:
            try:
                if not client.connected:
                    raise ConnectionFailed("there is no connection")
                async with asyncio.timeout(client.settings.command_timeout):
                    link = client.link()
                    await drive(link, self.replay.settled(link, wait=False))
            except (ServerError, TimeoutError) as error:
                _log.warning("%s client: closed with %d writes not made good: %s", client.name, len(owed), error)
        self._stop.set()
        self._wake.set()
        loop = asyncio.get_running_loop()
        timer, task = self._timers.pop(loop, None), self._tasks.pop(loop, None)
        if timer is not None:
            timer.cancel()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def finish(self) -> None:
        """``aclose`` at the interpreter's end, in this thread: it connects, for the loop that did has perhaps ended."""
        client, owed = self._client, self._recovery.owed
        self._stop.set()
        if not owed:
            return
        try:
            link = client.thread_link()
            hurried = _Hurried(link, client.settings.command_timeout)
            drive_in_thread(cast("ThreadLink", hurried), self.replay.settled(link, wait=False))
        except NearcacheError as error:
            _log.warning("%s client: the process ends with %d writes not made good: %s", client.name, len(owed), error)

    def forget_in_child(self) -> None:
        """After a fork: the thread and the loops are the parent's. What is owed is owed by both processes."""
        keep(self._timers, self._tasks)
        self._lock, self._stop, self._wake = threading.Lock(), threading.Event(), threading.Event()
        self._thread, self._timers, self._tasks = None, {}, {}
        self._recovery.forget_in_child()

    # -- attempts

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timers.pop(loop, None)
        if self._client.open:
            self._tasks[loop] = loop.create_task(self._pay(loop), name="nearcache-recovery")

    async def _pay(self, loop: asyncio.AbstractEventLoop) -> None:
        error: ServerError | None = None
        try:
            if self._recovery.owed:
                link = self._client.link()
                await drive(link, self.replay.settled(link, wait=False))
        except ServerError as failure:
            error = failure
        except NotInitialized:
            return
        finally:
            self._tasks.pop(loop, None)
        if self._say(error):
            self._timers[loop] = loop.call_later(_EVERY, self._due, loop)

    def _pay_in_thread(self) -> None:
        stop, wake = self._stop, self._wake
        while True:
            wake.wait(_EVERY)
            if stop.is_set():
                return
            wake.clear()
            error: ServerError | None = None
            try:
                if self._recovery.owed:
                    link = self._client.thread_link()
                    drive_in_thread(link, self.replay.settled(link, wait=False))
            except ServerError as failure:
                error = failure
            except NotInitialized:
                return
            self._say(error)
            with self._lock:
                if not self._recovery.owed:
                    self._thread = None
                    return

    def _say(self, error: ServerError | None) -> bool:
        """Whether something is still owed. One line when it begins and one when it ends, none for each attempt."""
        recovery, name = self._recovery, self._client.name
        with self._lock:
            owed, forgotten = len(recovery.owed), recovery.forgotten - self._forgotten
            if owed and error is not None and self._settled is None:
                self._settled = recovery.settled
                _log.warning("%s client: %d writes or invalidations are to be made good: %s", name, owed, error)
            if forgotten and not self._forgetting:
                self._forgetting = True
                _log.warning("%s client: %d of the writes to be made good are forgotten: %s", name, forgotten, _WHY)
            if not owed and self._settled is not None:
                made_good = recovery.settled - self._settled
                _log.warning("%s client: %d were made good, %d forgotten", name, made_good, forgotten)
            if not owed:
                self._settled, self._forgotten, self._forgetting = None, recovery.forgotten, False
            return owed > 0
