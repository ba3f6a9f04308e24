"""The server's tier: the commands for entries, leases and version counters, and how to read their replies.

Nothing is sent here. Lua scripts live in ``lua/``, one documented file each.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Final

from ..errors import CommandRefused

__all__ = [
    "DELETE",
    "ELECT",
    "EXPIRE",
    "FILL",
    "RAISE_COUNTER",
    "READ_COUNTER",
    "RELEASE",
    "REMOVE_OLDER",
    "RETRY",
    "TRACK_NEXT",
    "alive",
    "check",
    "delete",
    "elect",
    "expire",
    "fill",
    "is_alive",
    "lease",
    "lease_head",
    "leased",
    "raise_counter",
    "read_counter",
    "release",
    "remaining_seconds",
    "remove_older",
    "scan",
    "store",
    "version",
]

Command = tuple[str | bytes | int | float, ...]


_COMMENT = re.compile(r"^\s*--.*\n|^\s*\n", re.MULTILINE)


def _load(*names: str) -> str:
    """A script and what is to stand before it, without the comments, which would travel with every command."""
    folder = Path(__file__).parent / "lua"
    return _COMMENT.sub("", "".join((folder / f"{name}.lua").read_text("utf-8") for name in names))


READ_COUNTER: Final = _load("counter", "read_counter")
RAISE_COUNTER: Final = _load("counter", "raise_counter")
REMOVE_OLDER: Final = _load("live", "remove_older")
ELECT: Final = _load("identity", "elect")
FILL: Final = _load("identity", "fill")
RELEASE: Final = _load("release")
DELETE: Final = _load("live", "delete")
EXPIRE: Final = _load("live", "expire")

TRACK_NEXT: Final[Command] = ("CLIENT", "CACHING", "YES")  # the server tracks what the next command reads
RETRY: Final = b"retry"  # holds a lease after a load that failed, until somebody may try again
_SCAN_COUNT = 500  # keys a server looks at per step: about 0.1 ms


def lease(key: bytes) -> bytes:
    """The key of a key's lease, in the same cluster slot."""
    return b"{%b}~lease" % key


def lease_head(prefix: bytes) -> bytes:
    """What the leases of keys that begin with ``prefix`` begin with."""
    return b"{%b" % prefix


def leased(key: bytes) -> bytes:
    """The key that a lease is for; any other key as it is."""
    return key[1:-7] if key.startswith(b"{") and key.endswith(b"}~lease") else key


def elect(key: bytes, identity: bytes, token: bytes, lease_ms: int, dead: bytes) -> Command:
    return ("EVAL", ELECT, 2, key, lease(key), identity, token, lease_ms, dead)


def fill(key: bytes, identity: bytes, token: bytes, data: bytes, ttl_ms: int | None) -> Command:
    return ("EVAL", FILL, 2, key, lease(key), token, identity, "" if ttl_ms is None else ttl_ms, data)


def store(key: bytes, data: bytes, ttl_ms: int | None, *, read_back: bool) -> list[Command]:
    """Commands that store a value and drop the lease; read back, the last one's reply is the key's PTTL."""
    if read_back:
        return [fill(key, b"", b"", data, ttl_ms)]
    # The lease first: a load that lost it stores nothing, and one that takes it now finds another value.
    setting: Command = ("SET", key, data) if ttl_ms is None else ("SET", key, data, "PX", ttl_ms)
    return [("UNLINK", lease(key)), setting]


def release(key: bytes, token: bytes, retry_ms: int | None) -> Command:
    return ("EVAL", RELEASE, 1, lease(key), token, "" if retry_ms is None else retry_ms, RETRY)


def delete(keys: list[bytes], version: int) -> Command:
    return ("EVAL", DELETE, 2 * len(keys), *(name for key in keys for name in (key, lease(key))), version)


def expire(key: bytes, version: int, ttl_ms: int | None) -> Command:
    return ("EVAL", EXPIRE, 2, key, lease(key), version, "" if ttl_ms is None else ttl_ms)


def alive(name: bytes, ms: int) -> Command:
    """Say that a process lives, for that long."""
    return ("SET", name, b"1", "PX", ms)


def is_alive(name: bytes) -> Command:
    return ("EXISTS", name)


def read_counter(counter: bytes, start: bytes = b"") -> Command:
    return ("EVAL", READ_COUNTER, 1, counter, start)


def raise_counter(counter: bytes, *, soft: bool = False) -> Command:
    return ("EVAL", RAISE_COUNTER, 1, counter, "soft" if soft else "hard")


def version(reply: bytes) -> tuple[int, int]:
    """A counter's hard and soft half."""
    hard, _, soft = reply.partition(b" ")
    return int(hard), int(soft or 0)


def remove_older(keys: list[bytes], before: bytes, now: bytes) -> Command:
    return ("EVAL", REMOVE_OLDER, len(keys), *keys, before, now)


def scan(cursor: bytes, head: bytes) -> Command:
    # No character of a stored key's head means anything in a glob pattern.
    return ("SCAN", cursor, "MATCH", head + b"*", "COUNT", _SCAN_COUNT)


def remaining_seconds(remaining_ms: int | None) -> int:
    """Whole seconds, rounded up; -1 for no expiry."""
    return -1 if remaining_ms is None else max(1, math.ceil(remaining_ms / 1000))


def check(reply: Any) -> Any:
    """Give a reply back, or raise it when it is the server's error.

    Raises:
        CommandRefused: it is.
    """
    if reply.__class__ is CommandRefused:
        raise reply
    return reply
