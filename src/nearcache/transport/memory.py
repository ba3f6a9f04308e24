"""``memory://``: the commands the plans send, answered by a dictionary in this process.

A store outlives the caches that use it and is shared by name: the same name is the same store, one dictionary per
database. Values are kept encoded, exactly as a server would hold them, so nobody can change one in place. It is
bounded like a near tier, and evicts like one; version counters and leases do not count. Each client on it is told of
what the others write, as a server would, but at once.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..core.clock import Clock, clock
from ..core.forking import forget_in_children
from ..errors import CommandRefused
from ..tiers import remote
from ..tiers.eviction import Eviction
from .wire import Command, Hook, Listener, Waiter

__all__ = ["MemoryLink", "MemoryStore", "get_store"]

_SWEEP_EVERY = 1_000  # writes between two searches for what has expired
_OVERHEAD = 300  # bytes of an entry besides key and value
_ENVELOPE = 40  # bytes of a header; codec/envelope.py
_Bytes = bytes | None
_COUNTER = re.compile(rb"([0-9]{1,16})(?: ([0-9]{0,16}))?")


class _Stored:
    """A value, when it expires, and what the eviction keeps of it."""

    __slots__ = ("expires", "filed", "key", "size", "used", "value")

    def __init__(self, key: bytes, value: bytes, expires: float | None) -> None:
        self.key = key
        self.value = value
        self.expires = expires
        self.size = len(key) + len(value) + _OVERHEAD
        self.used = self.filed = 0


class MemoryStore:
    """One database.

    Args:
        clock: where time comes from; new version counters start from its wall clock.
        entries: the most values it holds.
        size: the most bytes they may have together.
    """

    def __init__(self, clock: Clock | None = None, entries: int = 10_000, size: int = 64 * 2**20) -> None:
        self._clock = clock or Clock()
        self._lock = threading.RLock()
        self._entries: dict[bytes, _Stored] = {}
        self._side: dict[bytes, _Stored] = {}  # counters and leases: evicting one would do harm
        self._bounds = entries, size
        self._eviction = Eviction(entries, size)
        self._writes = 0
        self._links: weakref.WeakSet[MemoryLink] = weakref.WeakSet()
        self._commands: dict[str | bytes | int | float, Callable[..., Any]] = {
            "PING": lambda: b"PONG",
            "GET": self._get,
            "MGET": lambda *keys: [self._get(key) for key in keys],
            "GETRANGE": lambda key, first, last: (self._get(key) or b"")[first : last + 1],
            "SET": self._set,
            "UNLINK": lambda *keys: sum(self._pop(key) for key in keys),
            "EXISTS": lambda key: int(self._get(key) is not None),
            "PTTL": self._pttl,
            "SCAN": lambda cursor, _match, pattern, _count, _n: [b"0", self._matching(pattern[:-1])],
            "CLIENT": lambda *_: b"OK",
            remote.READ_COUNTER: lambda _, counter, start: self._counter(counter, start),
            remote.RAISE_COUNTER: lambda _, counter, half: self._raise_counter(counter, half),
            remote.REMOVE_OLDER: self._remove_older,
            remote.ELECT: lambda _, *arguments: self._elect(*arguments),
            remote.FILL: lambda _, *arguments: self._fill(*arguments),
            remote.RELEASE: lambda _, *arguments: self._release(*arguments),
            remote.DELETE: self._delete,
            remote.EXPIRE: lambda _, *arguments: self._expire(*arguments),
        }
        self._changed: list[bytes] = []
        self._evicted: list[bytes] = []
        forget_in_children(self)

    def forget_in_child(self) -> None:
        """After a fork: a copy, from now on one of its own. Another thread may have been in the middle of a write."""
        self._lock = threading.RLock()
        self._changed, self._evicted = [], []
        self._eviction = Eviction(*self._bounds)
        for stored in list(self._entries.values()):
            stored.filed = 0
            for gone in self._eviction.add(stored):
                self._entries.pop(gone.key, None)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def wall_offset(self) -> float:
        """What to add to the monotonic clock to get the wall clock, in seconds."""
        return self._clock.wall() - self._clock.monotonic()

    def attach(self, link: MemoryLink) -> None:
        """Tell a link of what others write."""
        with self._lock:
            self._links.add(link)

    def execute(self, command: Command, origin: MemoryLink | None = None) -> Any:
        """Carry out one command; its reply, errors included."""
        return self.execute_all([command], None, origin)[0]

    def execute_all(
        self, commands: Sequence[Command], hook: Hook | None, origin: MemoryLink | None = None
    ) -> list[Any]:
        """Carry out commands and show the replies to ``hook``, with nothing in between."""
        with self._lock:
            replies = [self._run(command) for command in commands]
            if hook is not None:
                hook(replies)
            if self._changed or self._evicted:
                self._tell(origin)
            return replies

    def _run(self, command: Command) -> Any:
        name, *arguments = command
        if name == "EVAL":
            name, *arguments = arguments
        run = self._commands.get(name)
        return CommandRefused(f"ERR memory:// does not know {name!r}") if run is None else run(*arguments)

    def _tell(self, origin: MemoryLink | None) -> None:
        changed, self._changed = self._changed, []
        evicted, self._evicted = self._evicted, []
        for link in list(self._links):
            keys = evicted if link is origin else changed + evicted
            if keys and link.listener is not None:
                link.listener.revoked(keys)

    # -- keys

    def _table(self, key: bytes) -> dict[bytes, _Stored]:
        # Only our own side keys have a ~ that is not followed by a digest.
        side = key.endswith((b"~version", b"~lease")) or b"~tag:" in key or b"~alive:" in key
        return self._side if side else self._entries

    def _get(self, key: bytes) -> _Bytes:
        stored = self._table(key).get(key)
        if stored is None:
            return None
        if stored.expires is not None and stored.expires <= self._clock.monotonic():
            self._remove(stored)
            self._evicted.append(key)
            return None
        stored.used = self._eviction.now
        return stored.value

    def _set(self, key: bytes, value: bytes, px: str = "", ms: int | None = None) -> bytes:
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            for other in [*self._entries, *self._side]:
                self._get(other)
        before = self._table(key).get(key)
        if before is not None:
            self._remove(before)
        expires = None if ms is None else self._clock.monotonic() + int(ms) / 1000
        stored = _Stored(key, value, expires)
        table = self._table(key)
        table[key] = stored
        self._changed.append(key)
        if table is self._entries:
            for gone in self._eviction.add(stored):
                self._entries.pop(gone.key, None)
                self._evicted.append(gone.key)
        return b"OK"

    def _remove(self, stored: _Stored) -> None:
        table = self._table(stored.key)
        del table[stored.key]
        if table is self._entries:
            self._eviction.remove(stored)

    def _pop(self, key: bytes) -> int:
        if self._get(key) is None:
            return 0
        self._remove(self._table(key)[key])
        self._changed.append(key)
        return 1

    def _pttl(self, key: bytes) -> int:
        if self._get(key) is None:
            return -2
        expires = self._table(key)[key].expires
        return -1 if expires is None else max(0, round((expires - self._clock.monotonic()) * 1000))

    def _matching(self, head: bytes) -> list[bytes]:
        return [key for key in list(self._entries) if key.startswith(head) and self._get(key) is not None]

    # -- scripts, as in tiers/lua

    def _now_us(self) -> int:
        return int(self._clock.wall() * 1e6)

    def _live(self, key: bytes, version: int | bytes | None) -> tuple[bool, int]:
        value = self._get(key)
        if not value:
            return False, 0
        if value[:1] != b"\xc1":
            return True, 0
        if value[1] != 1 or len(value) < _ENVELOPE:
            return False, 0
        grace, left = int.from_bytes(value[16:24], "big"), self._pttl(key)
        same = version != b"" and version is not None and int.from_bytes(value[24:32], "big") == int(version)
        return same and (left < 0 or left > grace), grace

    @staticmethod
    def _identity(value: _Bytes) -> bytes:
        return (value or b"")[:_ENVELOPE] if (value or b"")[:1] == b"\xc1" else value or b""

    def _counter(self, counter: bytes, start: bytes | str = b"") -> bytes:
        value = self._get(counter) or b""
        if not _halves(value):
            value = bytes(start) if start else b"%d" % self._now_us()  # type: ignore[arg-type]
            self._set(counter, value)
        return value

    def _raise_counter(self, counter: bytes, half: str) -> list[bytes]:
        before = self._get(counter) or b""
        parts = _halves(before)
        raised = max(self._now_us(), max(parts, default=0) + 1)
        value = b"%d %d" % (parts[0], raised) if half == "soft" and parts else b"%d" % raised
        self._set(counter, value)
        return [before if parts else b"", value]

    def _remove_older(self, count: int, *arguments: Any) -> int:
        keys, (before, now) = arguments[:count], arguments[count:]
        counted = 0
        for key in keys:
            head = (self._get(key) or b"")[:_ENVELOPE]
            has_version = head[:2] == b"\xc1\x01" and len(head) == _ENVELOPE
            version = int.from_bytes(head[24:32], "big") if has_version else None
            if head and (version is None or version < int(now)):
                counted += self._live(key, before)[0]
                self._pop(key)
        return counted

    def _elect(self, key: bytes, lease: bytes, identity: bytes, token: bytes, ms: int, dead: bytes) -> list[Any]:
        value, holder = self._get(key), self._get(lease)
        other = value is not None and self._identity(value) != identity
        won = not other and (holder is None or holder == dead)
        if won:
            self._set(lease, token, "PX", ms)
            holder = token
        clock_us = b"%d" % self._now_us()
        exists = int(value is not None)
        return [int(won), value if other else None, self._pttl(key), holder or b"", exists, clock_us]

    def _fill(self, key: bytes, lease: bytes, token: bytes, identity: bytes, ms: Any, data: bytes) -> int | None:
        if token:
            if self._get(lease) != token:
                return None
            if self._identity(self._get(key)) != identity:
                self._pop(lease)
                return None
        self._set(key, data, "PX", None if ms == "" else ms)
        self._pop(lease)
        return self._pttl(key)

    def _release(self, lease: bytes, token: bytes, ms: Any, retry: bytes) -> int:
        if self._get(lease) == token:
            if ms == "":
                self._pop(lease)
            else:
                self._set(lease, retry, "PX", ms)
        return 1

    def _delete(self, count: int, *arguments: Any) -> int:
        keys, version = arguments[:count], arguments[count]
        counted = 0
        for key, lease in zip(keys[::2], keys[1::2], strict=True):
            counted += self._live(key, version)[0]
            self._pop(key)
            self._pop(lease)
        return counted

    def _expire(self, key: bytes, lease: bytes, version: int, ms: Any) -> int:
        self._pop(lease)
        there, grace = self._live(key, version)
        if not there:
            return 0
        expires = None if ms == "" else self._clock.monotonic() + (ms + grace) / 1000
        self._entries[key].expires = expires
        self._changed.append(key)
        return 1


class MemoryLink:
    """A store, looked at as plans and shells look at a lane. Replies are there before the call returns."""

    server = "memory"
    connected = True
    in_flight = 0
    connects = 1
    tracks = True

    def __init__(self, store: MemoryStore, listener: Listener | None = None, *, track_all: bool = False) -> None:
        self._store = store
        self.listener = listener
        self.track_all = track_all
        self.counters: dict[bytes, tuple[int, int]] = {}
        store.attach(self)

    @property
    def clock(self) -> float:
        return self._store.wall_offset

    def post(self, command: Command, waiter: Waiter) -> None:
        waiter.set_result(self._store.execute(command, self))

    def post_many(self, commands: Sequence[Command], waiter: Waiter, hook: Hook | None = None) -> None:
        waiter.set_result(self._store.execute_all(commands, hook, self))

    def request(self, command: Command) -> Any:
        return self._store.execute(command, self)

    def request_many(self, commands: Sequence[Command], hook: Hook | None = None) -> list[Any]:
        return self._store.execute_all(commands, hook, self)

    def histories(self, name: bytes | None = None) -> tuple[()]:
        """Nothing can take its place."""
        return ()

    def watch(self) -> None:
        """What others write is told at once."""


_stores: dict[tuple[str, int, Clock], MemoryStore] = {}


def get_store(name: str, db: int, entries: int, size: int) -> MemoryStore:
    """The store of that name and database in this process; the bounds are those it was first asked for with.

    Under another clock it is another store: its values could not end in time for both.
    """
    place = (name, db, clock())
    store = _stores.get(place)
    return _stores.setdefault(place, MemoryStore(clock(), entries, size)) if store is None else store


def _halves(counter: bytes) -> list[int]:
    """A version counter's halves; nothing for what is none, as in ``counter.lua``."""
    match = _COUNTER.fullmatch(counter)
    halves = [int(half or 0) for half in match.groups()] if match else []
    return halves if all(half < 2**53 for half in halves) else []
