"""``memory://``: the commands the plans send, answered by a dictionary in this process.

A store outlives the caches that use it and is shared by name: the same name is the same store, one dictionary per
database. Values are kept encoded, exactly as a server would hold them, so nobody can change one in place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import CommandRefused
from ..tiers import remote
from .wire import Command, Hook, Waiter

__all__ = ["MemoryLink", "MemoryStore", "get_store"]

_SWEEP_EVERY = 1_000  # writes between two searches for what has expired


class MemoryStore:
    """One database: stored keys to (bytes, when they expire).

    Args:
        clock: seconds, monotonic.
        wall: seconds since the epoch; new version counters start from it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._lock = threading.RLock()
        self._entries: dict[bytes, tuple[bytes, float | None]] = {}
        self._writes = 0
        self.counters: dict[bytes, int] = {}
        self._commands: dict[str | bytes | int | float, Callable[..., Any]] = {
            "PING": lambda: b"PONG",
            "GET": self._get,
            "MGET": lambda *keys: [self._get(key) for key in keys],
            "GETRANGE": lambda key, first, last: (self._get(key) or b"")[first : last + 1],
            "SET": self._set,
            "UNLINK": lambda *keys: sum(self._pop(key) for key in keys),
            "EXISTS": lambda key: int(self._get(key) is not None),
            "PTTL": self._pttl,
            "PEXPIRE": lambda key, ms: self._expire(key, self._clock() + ms / 1000),
            "PERSIST": lambda key: int(self._pttl(key) >= 0 and self._expire(key, None)),
            "SCAN": lambda cursor, _match, pattern, _count, _n: [b"0", self._matching(pattern[:-1])],
            "CLIENT": lambda *_: b"OK",
            remote.READ_COUNTER: lambda _, counter: b"%d" % self._counter(counter),
            remote.RAISE_COUNTER: lambda _, counter: self._raise_counter(counter),
            remote.REMOVE_OLDER: self._remove_older,
        }

    def __len__(self) -> int:
        return len(self._entries)

    def execute(self, command: Command) -> Any:
        """Carry out one command; its reply, errors included."""
        name, *arguments = command
        if name == "EVAL":
            name, *arguments = arguments
        run = self._commands.get(name)
        if run is None:
            return CommandRefused(f"ERR memory:// does not know {name!r}")
        with self._lock:
            return run(*arguments)

    def execute_all(self, commands: Sequence[Command], hook: Hook | None) -> list[Any]:
        """Carry out commands and show the replies to ``hook``, with nothing in between."""
        with self._lock:
            replies = [self.execute(command) for command in commands]
            if hook is not None:
                hook(replies)
            return replies

    def _get(self, key: bytes) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, expires = entry
        if expires is not None and expires <= self._clock():
            del self._entries[key]
            return None
        return value

    def _set(self, key: bytes, value: bytes, _px: str = "", ms: int | None = None) -> bytes:
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            for other in list(self._entries):
                self._get(other)
        self._entries[key] = (value, None if ms is None else self._clock() + ms / 1000)
        return b"OK"

    def _pop(self, key: bytes) -> int:
        there = self._get(key) is not None
        self._entries.pop(key, None)
        return int(there)

    def _pttl(self, key: bytes) -> int:
        if self._get(key) is None:
            return -2
        expires = self._entries[key][1]
        return -1 if expires is None else max(0, int((expires - self._clock()) * 1000))

    def _expire(self, key: bytes, expires: float | None) -> int:
        value = self._get(key)
        if value is None:
            return 0
        self._entries[key] = (value, expires)
        return 1

    def _matching(self, head: bytes) -> list[bytes]:
        return [key for key in list(self._entries) if key.startswith(head) and self._get(key) is not None]

    def _counter(self, counter: bytes) -> int:
        return self.counters.setdefault(counter, int(self._wall() * 1e6))

    def _raise_counter(self, counter: bytes) -> list[bytes]:
        before = self.counters.get(counter)
        now = max((before or 0) + 1, int(self._wall() * 1e6))
        self.counters[counter] = now
        return [b"" if before is None else b"%d" % before, b"%d" % now]

    def _remove_older(self, count: int, *arguments: bytes) -> int:
        keys, (before, now) = arguments[:count], arguments[count:]
        valid = {None, int(before)} if before else {None}
        counted = 0
        for key in keys:
            head = (self._get(key) or b"")[: remote.HEADER]
            has_version = head[:2] == b"\xc1\x01" and len(head) == remote.HEADER
            version = int.from_bytes(head[24:32], "big") if has_version else None
            if head and (version is None or version < int(now)):
                del self._entries[key]
                counted += version in valid
        return counted


class MemoryLink:
    """A store, looked at as plans and shells look at a lane. Replies are there before the call returns."""

    server = "memory"
    connected = True
    in_flight = 0
    connects = 1
    tracks = True

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.counters = store.counters

    def post(self, command: Command, waiter: Waiter) -> None:
        waiter.set_result(self._store.execute(command))

    def post_many(self, commands: Sequence[Command], waiter: Waiter, hook: Hook | None = None) -> None:
        waiter.set_result(self._store.execute_all(commands, hook))

    def request(self, command: Command) -> Any:
        return self._store.execute(command)

    def request_many(self, commands: Sequence[Command], hook: Hook | None = None) -> list[Any]:
        return self._store.execute_all(commands, hook)


_stores: dict[tuple[str, int], MemoryStore] = {}
_stores_lock = threading.Lock()


def get_store(name: str, db: int) -> MemoryStore:
    """The store of that name and database in this process."""
    with _stores_lock:
        return _stores.setdefault((name, db), MemoryStore())
