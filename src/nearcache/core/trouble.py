"""Whether the server of a client is in trouble: whoever has something else to go by need not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

__all__ = ["Trouble"]

_SECONDS = 1.0  # for which one trouble counts
_LATE = 5.0  # seconds after which a read that has not ended never will: its loop is gone


class Trouble:
    """From when a connection is lost until a second after it came back, and for a second after a command failed.

    Args:
        now: seconds, monotonic.

    Attributes:
        away: seconds for which a lost connection counts, unless one more attempt fails meanwhile.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.away = _SECONDS
        self._now = now
        self._until = -inf
        self._late: dict[object, float] = {}

    @property
    def lasts(self) -> bool:
        return self._now() < self._until

    def connection_lost(self) -> None:
        """Or could not be made."""
        self._until = max(self._until, self._now() + self.away)

    def connected(self) -> None:
        self._until = self._now() + _SECONDS

    def command_failed(self) -> None:
        """It was not answered in time."""
        self._until = max(self._until, self._now() + _SECONDS)

    # -- reads that take longer than somebody would wait for them

    @property
    def slow(self) -> bool:
        """Whether there is one."""
        now = self._now()
        return bool(self._late) and any(now < until for until in list(self._late.values()))

    def late(self, read: object) -> None:
        """It goes on with nobody waiting."""
        now = self._now()
        for other in [other for other, until in list(self._late.items()) if until <= now]:
            self._late.pop(other, None)
        self._late[read] = now + _LATE

    def ended(self, read: object) -> None:
        self._late.pop(read, None)

    def forget_in_child(self) -> None:
        """After a fork: the parent's reads end there."""
        self._late = {}
