"""The server's tier: the commands for entries and version counters, and how to read their replies.

Nothing is sent here. Lua scripts live in ``lua/``, one documented file each.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from ..errors import CommandRefused

__all__ = [
    "HEADER",
    "RAISE_COUNTER",
    "READ_COUNTER",
    "REMOVE_OLDER",
    "TRACK_NEXT",
    "check",
    "expire",
    "raise_counter",
    "read_counter",
    "remaining_seconds",
    "remove_older",
    "scan",
    "write",
]

Command = tuple[str | bytes | int | float, ...]

_LUA = Path(__file__).parent / "lua"
READ_COUNTER: Final = (_LUA / "read_counter.lua").read_text("utf-8")
RAISE_COUNTER: Final = (_LUA / "raise_counter.lua").read_text("utf-8")
REMOVE_OLDER: Final = (_LUA / "remove_older.lua").read_text("utf-8")

HEADER: Final = 32  # bytes at the front of a stored value that tell what it is
TRACK_NEXT: Final[Command] = ("CLIENT", "CACHING", "YES")  # the server tracks what the next command reads
_SCAN_COUNT = 500  # keys a server looks at per step: about 0.1 ms


def write(key: bytes, data: bytes, ttl_ms: int | None) -> Command:
    return ("SET", key, data) if ttl_ms is None else ("SET", key, data, "PX", ttl_ms)


def expire(key: bytes, ttl_ms: int | None) -> list[Command]:
    """Commands of which the last one's reply says whether the key was there."""
    if ttl_ms is None:
        # PERSIST answers 0 for a key that had no expiry, too.
        return [("PERSIST", key), ("EXISTS", key)]
    return [("PEXPIRE", key, ttl_ms)]


def read_counter(counter: bytes) -> Command:
    return ("EVAL", READ_COUNTER, 1, counter)


def raise_counter(counter: bytes) -> Command:
    return ("EVAL", RAISE_COUNTER, 1, counter)


def remove_older(keys: list[bytes], before: bytes, now: bytes) -> Command:
    return ("EVAL", REMOVE_OLDER, len(keys), *keys, before, now)


def scan(cursor: bytes, head: bytes) -> Command:
    # No character of a stored key's head means anything in a glob pattern.
    return ("SCAN", cursor, "MATCH", head + b"*", "COUNT", _SCAN_COUNT)


def remaining_seconds(pttl: int) -> int:
    """Whole seconds, rounded up, from PTTL's milliseconds; -1 and -2 stay themselves."""
    return pttl if pttl < 0 else max(1, math.ceil(pttl / 1000))


def check(reply: Any) -> Any:
    """Give a reply back, or raise it when it is the server's error.

    Raises:
        CommandRefused: it is.
    """
    if reply.__class__ is CommandRefused:
        raise reply
    return reply
