"""What the server refuses for a while: rights that its user has not, writes for which it has no memory.

Most of what fails so is no error to the caller: a ``get`` is a miss, tracking is off and nothing is near, a write is
made good later. So it has to be said elsewhere: by health, and in one line of the log. Only refusals are looked at, so
this costs nothing while all is well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf

__all__ = ["Refusals"]

_REMEMBERED = 60.0  # seconds after the last refusal: rights are given without a new connection, and nobody tells of it
_LOADING = 5.0  # the same for what is over soon, and is said to every command until then
# What Redis and Valkey of different versions say, of a command and of one inside of a script.
_DENIED = re.compile(r"(?:NOPERM|ERR ACL failure in script|ERR The user executing the script can't run)")
_COMMAND = re.compile(r"the '([a-z|]+)' command", re.IGNORECASE)
_STATES = {
    "OOM": "has no memory left for writes (maxmemory)",
    "READONLY": "takes no writes: it is a replica",
    "MISCONF": "takes no writes: it could not save them to its disk",
    "NOREPLICAS": "takes no writes: too few of its replicas are connected",
    "LOADING": "is reading its data from disk",
    "MASTERDOWN": "is a replica without its primary",
    "CLUSTERDOWN": "belongs to a cluster that is down",
}
_IN_SCRIPT = "one of +get +getrange +set +pttl +pexpire +persist +unlink +time, which the scripts run"
_KEYS = "access to keys that begin with the prefix, or with '{' and the prefix"


class Refusals:
    """Why the server has refused one client's commands of late.

    Args:
        now: seconds.
        on_new: told of a reason that was not known.
    """

    def __init__(self, now: Callable[[], float], on_new: Callable[[str], None]) -> None:
        self._now = now
        self._on_new = on_new
        self._reasons: dict[str, float] = {}

    def note(self, refusal: str) -> None:
        """The text of an error that the server has answered, whatever it is."""
        code = refusal.partition(" ")[0]
        state = _STATES.get(code)
        if state is not None:
            reason = f"the server {state}"
        elif _DENIED.match(refusal):
            command = _COMMAND.search(refusal)
            right = f"+{command[1].lower()}" if command else _IN_SCRIPT if refusal.startswith("ERR") else _KEYS
            reason = f"the server's user lacks {right}"
        else:
            return
        new = not self._is_recent(reason)
        self._reasons[reason] = self._now() + (_LOADING if code == "LOADING" else _REMEMBERED)
        if new:
            self._on_new(reason)

    def reasons(self) -> list[str]:
        """In words; rights as they are written in an ACL."""
        return [reason for reason in list(self._reasons) if self._is_recent(reason)]

    def _is_recent(self, reason: str) -> bool:
        return self._now() < self._reasons.get(reason, -inf)
