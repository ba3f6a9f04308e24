"""``FakeClock``: time that stands still until a test lets it pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Self

from ..core.clock import Clock, use

__all__ = ["FakeClock"]

_START = 1_767_225_600.0  # 2026-01-01 00:00:00 UTC
_PATIENCE = 10.0  # seconds, real ones


class FakeClock:
    """Time that stands still until ``advance``. In force inside a ``with`` block, one at a time.

    Clients and ``memory://`` stores made while it is in force live on its time, also afterwards: times to live, grace,
    soft and hard limits of loads, leases, the circuit breaker. What a real server does, deadlines of commands,
    reconnecting and the retries of write-behind stay on real time.

    ``memory://`` stores made under another clock are out of sight while it is in force.

    Args:
        start: seconds since the epoch at which its wall clock begins; 2026-01-01 00:00 UTC unless given.
    """

    def __init__(self, start: float = _START) -> None:
        self._start = start
        # Near the real one, so that a client's idea of a real server's time is about right. Whole, so that adding to
        # it rounds as little as can be.
        self._base = float(int(time.monotonic()))
        self._passed = 0  # nanoseconds: ten times 0.1 s are 1 s
        self._timers: list[tuple[int, int, Callable[[], None]]] = []  # a heap: when due, a number, what to call
        self._numbers = count()
        self._changed = threading.Condition()
        self._before: list[Clock] = []

    def __enter__(self) -> Self:
        self._before.append(use(Clock(self.monotonic, self.wall, self.after)))
        return self

    def __exit__(self, *_: object) -> None:
        use(self._before.pop())

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self._base + self._passed / 1e9

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._start + self._passed / 1e9

    def advance(self, seconds: float) -> None:
        """Let time pass; whatever becomes due is called at its moment, in order.

        A task that waited is ready to run when this returns; it runs when the test awaits something.

        Raises:
            ValueError: time does not go back.
        """
        if not seconds >= 0:
            raise ValueError(f"advance({seconds!r}): time does not go back")
        with self._changed:
            until = self._passed + round(seconds * 1e9)
        while (call := self._next(until)) is not None:
            call()

    def _next(self, until: int) -> Callable[[], None] | None:
        with self._changed:
            if self._timers and self._timers[0][0] <= until:
                due, _, call = heappop(self._timers)
                self._passed = max(self._passed, due)
                return call
            self._passed = max(self._passed, until)
            return None

    def after(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call something when so many seconds have passed, in the thread that lets them; what prevents it."""
        if seconds <= 0:
            call()
            return lambda: None
        with self._changed:
            timer = (self._passed + round(seconds * 1e9), next(self._numbers), call)
            heappush(self._timers, timer)
            self._changed.notify_all()

        def cancel() -> None:
            with self._changed:
                if timer in self._timers:
                    self._timers.remove(timer)
                    heapify(self._timers)

        return cancel

    def wait_for_timer(self, seconds: float) -> None:
        """Block until some other thread waits for this clock, so that ``advance(seconds)`` will wake it.

        Raises:
            TimeoutError: nobody does so within 10 real seconds.
        """
        within = round(seconds * 1e9)
        with self._changed:
            if not self._changed.wait_for(
                lambda: bool(self._timers) and self._timers[0][0] <= self._passed + within, _PATIENCE
            ):
                raise TimeoutError(f"nobody waits for something that is due within {seconds:g} s")
