"""The bridge: how threads use a lane that lives on an event loop.

One background thread per process runs a loop (uvloop's when it is installed). A thread that wants something done puts
it into a deque and wakes the loop, once for however many threads ask in the meantime, and then sleeps on a plain lock
that the loop releases where replies are parsed: no ``run_coroutine_threadsafe``, no task, no future.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from ..errors import CommandTimeout

__all__ = ["Bridge", "ThreadWaiter", "get_bridge"]

T = TypeVar("T")


class Link(Protocol):
    def flush(self) -> None: ...


class ThreadWaiter:
    """Takes one reply for a thread that sleeps until it is there."""

    __slots__ = ("_done", "_error", "_lock", "_result")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._done = False
        self._error: Exception | None = None
        self._result: Any = None

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any, /) -> None:
        self._result = result
        self._done = True
        self._lock.release()

    def set_exception(self, exception: Exception, /) -> None:
        self._error = exception
        self._done = True
        self._lock.release()

    def wait(self, timeout: float) -> Any:
        """The reply.

        Args:
            timeout: seconds; a net under the lane's own deadlines, for a loop that has stopped turning.
        """
        if not self._lock.acquire(timeout=timeout):
            raise CommandTimeout(f"no answer from the background loop within {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._result


class Bridge:
    """The background loop, and the way onto it."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._inbox: deque[tuple[Link, Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False
        self._thread = threading.Thread(target=self._run, name="nearcache-loop", daemon=True)
        self._thread.start()

    def call(self, link: Link, post: Callable[..., None], *args: Any) -> None:
        """Have the loop call ``post``, a method of ``link``, soon. Thread-safe; in order per thread."""
        self._inbox.append((link, post, args))
        if not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self._drain)

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and wait for it: for the rare things, such as connecting."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    @property
    def is_this_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """End the loop and its thread. Idempotent."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(timeout=5)

    def _drain(self) -> None:
        # Cleared before the deque is emptied: who appends later wakes the loop again.
        self._woken = False
        inbox, links = self._inbox, set[Link]()
        while inbox:
            link, post, args = inbox.popleft()
            post(*args)
            links.add(link)
        # One write per lane for everything that was asked, without waiting for the loop's next turn.
        for link in links:
            link.flush()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


_bridge: Bridge | None = None
_bridge_lock = threading.Lock()


def get_bridge() -> Bridge:
    """The process's bridge, started on the first call."""
    global _bridge
    if _bridge is None or _bridge.loop.is_closed():
        with _bridge_lock:
            if _bridge is None or _bridge.loop.is_closed():
                _bridge = Bridge()
    return _bridge


def _forget_in_child() -> None:
    # Threads do not survive a fork; the loop's descriptors are the parent's.
    global _bridge, _bridge_lock
    _bridge = None
    _bridge_lock = threading.Lock()


def _stop_at_exit() -> None:
    if _bridge is not None:
        _bridge.stop()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_stop_at_exit)
