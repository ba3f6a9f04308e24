"""Whether the server of a client is in trouble: whoever has something else to go by need not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

__all__ = ["Trouble"]

_SECONDS = 1.0  # for which one trouble counts


class Trouble:
    """From when a connection is lost until a second after it came back, and for a second after a command failed.

    Args:
        now: seconds, monotonic.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until = -inf

    @property
    def lasts(self) -> bool:
        return self._now() < self._until

    def connection_lost(self) -> None:
        self._until = inf

    def connected(self) -> None:
        self._until = self._now() + _SECONDS

    def command_failed(self) -> None:
        """It was not answered in time."""
        self._until = max(self._until, self._now() + _SECONDS)
