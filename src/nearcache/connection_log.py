"""What the log says of a client's connections: a line when they change, and one a minute while they go on changing."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

__all__ = ["ConnectionLog"]

_log = logging.getLogger("nearcache.connections")
_SUMMARY_EVERY = 60.0  # seconds between two lines about what goes on
_OFTEN = 3  # losses within that time, after which they are counted instead of told


class ConnectionLog:
    """The state of one client, as far as it was told.

    Args:
        where: the client and its server, for people.
        now: seconds, monotonic.
    """

    def __init__(self, where: Callable[[], str], now: Callable[[], float] = time.monotonic) -> None:
        self._where = where
        self._now = now
        self._down_since: float | None = None
        self._attempts = 0
        self._last_line = 0.0
        self._losses: deque[float] = deque(maxlen=_OFTEN)
        self._untold = 0

    def up(self, server: str, *, first: bool) -> None:
        """A connection came up."""
        since, self._down_since = self._down_since, None
        if since is None:
            if first:
                _log.info("%s: connected (%s)", self._where(), server)
        elif not self._untold:
            seconds = self._now() - since
            _log.warning("%s: reconnected after %.1f s, %d attempts", self._where(), seconds, self._attempts)

    def down(self, error: Exception) -> None:
        """A connection was lost, or could not be made."""
        now = self._now()
        self._attempts += 1
        since = self._down_since
        if since is None:
            self._down_since, self._attempts = now, 1
            often = len(self._losses) == _OFTEN and now - self._losses[0] < _SUMMARY_EVERY
            self._losses.append(now)
            if often:
                self._count(now, error)
            else:
                self._last_line, self._untold = now, 0
                _log.warning("%s: connection failed: %s", self._where(), error)
        elif now - self._last_line >= _SUMMARY_EVERY:
            self._last_line = now
            seconds = now - since
            _log.warning(
                "%s: still down after %.0f s and %d attempts: %s", self._where(), seconds, self._attempts, error
            )

    def _count(self, now: float, error: Exception) -> None:
        self._untold += 1
        if self._untold == 1:
            _log.warning(
                "%s: connections fail again and again, from now on one line a minute: %s", self._where(), error
            )
            self._last_line = now
        elif now - self._last_line >= _SUMMARY_EVERY:
            _log.warning("%s: connections failed %d times more: %s", self._where(), self._untold - 1, error)
            self._last_line, self._untold = now, 1
