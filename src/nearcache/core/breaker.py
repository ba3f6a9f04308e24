"""A circuit breaker: after failures in a row, fail at once for a while instead of waiting for each deadline."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """Closed: all pass. Open: none pass. Half-open: one probe passes, and its outcome decides.

    Args:
        failures: failures in a row that open it.
        reset: seconds it stays open before a probe.
        clock: seconds, monotonic.

    Attributes:
        closed: whether all pass; read on every operation.
        on_failed: called after every failure.
    """

    __slots__ = ("_clock", "_failed", "_failures", "_reset", "_until", "closed", "on_failed")

    def __init__(self, failures: int, reset: float, clock: Callable[[], float]) -> None:
        self._failures = failures
        self._reset = reset
        self._clock = clock
        self._failed = 0
        self._until = 0.0
        self.closed = True
        self.on_failed: Callable[[], None] = lambda: None

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self.closed:
            return "closed"
        return "open" if self._clock() < self._until else "half-open"

    @property
    def failing(self) -> bool:
        """Whether the last thing heard was a failure."""
        return self._failed > 0

    def allow(self) -> bool:
        """Whether an operation may be tried now; when half-open, the first to ask is the probe."""
        if self.closed:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._until = now + self._reset
        return True

    def succeeded(self) -> None:
        self._failed = 0
        self.closed = True

    def failed(self) -> None:
        self._failed += 1
        if self._failed >= self._failures:
            self.closed = False
            self._until = self._clock() + self._reset
        self.on_failed()
