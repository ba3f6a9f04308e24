"""What is still to be written: in order per key, retried with back-off. No I/O, no clock of its own.

A key with pending values is in one of three places: ready, resting after a failure until it is due, or with whoever
took its first value. The later values of a key wait behind the first, so no two of them are ever under way together.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import Any, NamedTuple

__all__ = ["Buffer", "Write"]

_BACKOFF_FIRST, _BACKOFF_MOST = 0.1, 30.0  # seconds
_BACKOFF_HASTENED = 1.0  # seconds at most while the process is ending


class Write(NamedTuple):
    """One value on its way to the writer."""

    key: str
    value: Any
    attempt: int


class Buffer:
    """Pending writes. A key whose write fails holds up only its own later writes.

    Args:
        attempts: tries before a write is given up.
    """

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts
        self._values: dict[str, deque[Any]] = {}
        self._ready: deque[str] = deque()
        self._resting: list[tuple[float, int, str]] = []  # a heap: when due, in which order, which key
        self._order = count()
        self._tried: dict[str, int] = {}
        self._pending = 0
        self._backoff_most = _BACKOFF_MOST

    def __len__(self) -> int:
        return self._pending

    def add(self, key: str, value: Any) -> None:
        values = self._values.get(key)
        if values is None:
            self._values[key] = deque([value])
            self._ready.append(key)
        else:
            values.append(value)
        self._pending += 1

    def take(self, now: float) -> Write | None:
        """The next write that may be tried now; to be given back by ``written``, ``failed`` or ``put_back``."""
        while self._resting and self._resting[0][0] <= now:
            self._ready.append(heappop(self._resting)[2])
        if not self._ready:
            return None
        key = self._ready.popleft()
        return Write(key, self._values[key][0], self._tried.get(key, 0) + 1)

    def next_due(self) -> float | None:
        """When the earliest write that is resting may be tried; None when none is."""
        return self._resting[0][0] if self._resting else None

    def written(self, write: Write) -> None:
        self._tried.pop(write.key, None)
        values = self._values[write.key]
        values.popleft()
        self._pending -= 1
        if values:
            self._ready.append(write.key)  # at the end: every key gets its turn
        else:
            del self._values[write.key]

    def failed(self, write: Write, now: float) -> bool:
        """Whether it will be tried again; given up, it makes room for the key's next value."""
        if write.attempt >= self._attempts:
            self.written(write)
            return False
        self._tried[write.key] = write.attempt
        due = now + min(self._backoff_most, _BACKOFF_FIRST * 2 ** (write.attempt - 1))
        heappush(self._resting, (due, next(self._order), write.key))
        return True

    def put_back(self, write: Write) -> None:
        """It was not tried to the end: it is the next of its key again."""
        self._ready.appendleft(write.key)

    def hasten(self) -> None:
        """What rests may be tried at once, and from here on rests for 1 s at most: the process is ending."""
        self._backoff_most = _BACKOFF_HASTENED
        while self._resting:
            self._ready.append(heappop(self._resting)[2])

    def relax(self) -> None:
        """The process goes on after all."""
        self._backoff_most = _BACKOFF_MOST
