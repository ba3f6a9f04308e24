"""What is still to be written: in order per key, retried with back-off. No I/O, no clock of its own."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

__all__ = ["Buffer", "Write"]

_BACKOFF_FIRST, _BACKOFF_MOST = 0.1, 30.0  # seconds


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
        self._queues: dict[str, deque[Any]] = {}
        self._tried: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._busy: set[str] = set()
        self._pending = 0

    def __len__(self) -> int:
        return self._pending

    def add(self, key: str, value: Any) -> None:
        self._queues.setdefault(key, deque()).append(value)
        self._pending += 1

    def take(self, now: float, *, hurry: bool = False) -> Write | None:
        """The next write that may be tried now; its key is busy until ``written`` or ``failed``.

        ``hurry`` does not wait for back-off: the process is ending.
        """
        for key, queue in self._queues.items():
            if key not in self._busy and (hurry or self._not_before.get(key, 0.0) <= now):
                self._busy.add(key)
                return Write(key, queue[0], self._tried.get(key, 0) + 1)
        return None

    def next_due(self) -> float | None:
        """When the earliest write that is backing off may be tried; None when none is."""
        return min((at for key, at in self._not_before.items() if key not in self._busy), default=None)

    def written(self, write: Write) -> None:
        self._remove(write.key)

    def failed(self, write: Write, now: float) -> bool:
        """Whether it will be tried again."""
        if write.attempt >= self._attempts:
            self._remove(write.key)
            return False
        self._busy.discard(write.key)
        self._tried[write.key] = write.attempt
        self._not_before[write.key] = now + min(_BACKOFF_MOST, _BACKOFF_FIRST * 2 ** (write.attempt - 1))
        return True

    def _remove(self, key: str) -> None:
        queue = self._queues.pop(key)
        queue.popleft()
        if queue:
            self._queues[key] = queue  # at the end: every key gets its turn
        self._pending -= 1
        self._busy.discard(key)
        self._tried.pop(key, None)
        self._not_before.pop(key, None)
