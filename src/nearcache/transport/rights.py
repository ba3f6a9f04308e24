"""Rights that the server's user has not: noticed where the server refuses, told by health and in one line of the log.

Most of what fails for want of a right is no error to the caller: a ``get`` is a miss, tracking is off and nothing is
near. So what is missing has to be said elsewhere. Only refusals are looked at, so this costs nothing while all is well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf

__all__ = ["Denials"]

_REMEMBERED = 60.0  # seconds after the last refusal: rights are given without a new connection, and nobody tells of it
# What Redis and Valkey of different versions say, of a command and of one inside of a script.
_DENIED = re.compile(r"(?:NOPERM|ERR ACL failure in script|ERR The user executing the script can't run)")
_COMMAND = re.compile(r"the '([a-z|]+)' command", re.IGNORECASE)
_IN_SCRIPT = "one of +get +getrange +set +pttl +pexpire +persist +unlink +time, which the scripts run"
_KEYS = "access to keys that begin with the prefix, or with '{' and the prefix"


class Denials:
    """What the server has refused one client's user within the last minute.

    Args:
        now: seconds.
        on_new: told of a right that was not known to be missing.
    """

    def __init__(self, now: Callable[[], float], on_new: Callable[[str], None]) -> None:
        self._now = now
        self._on_new = on_new
        self._missing: dict[str, float] = {}

    def note(self, refusal: str) -> None:
        """The text of an error that the server has answered, whatever it is."""
        if _DENIED.match(refusal) is None:
            return
        command = _COMMAND.search(refusal)
        right = f"+{command[1].lower()}" if command else _IN_SCRIPT if refusal.startswith("ERR") else _KEYS
        new = not self._is_recent(right)
        self._missing[right] = self._now()
        if new:
            self._on_new(right)

    def missing(self) -> list[str]:
        """As they are written in an ACL, or in words."""
        return [right for right in list(self._missing) if self._is_recent(right)]

    def _is_recent(self, right: str) -> bool:
        return self._now() - self._missing.get(right, -inf) < _REMEMBERED
