"""What is known: the table of all processes, and the ledger of one, which judges every read."""

from __future__ import annotations

import mmap
import threading
from collections import Counter, deque
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Any

from .keys import Key, version_of

__all__ = ["MISS", "Ledger", "Table", "Violation"]

MISS = object()
_KEPT = 8  # violations of a kind in full, per process, and of them
_KEPT_PER_KEY = 2
_EVENTS = 24  # per key and process
_WRITES = 8  # per key, for all processes
_ROW = 2 + 3 * _WRITES  # words per key: origin, acknowledged, and (when, version, what) of each write
_STEPS = ("begins", "failed", "is acknowledged", "is acknowledged, and counts from the end of its time")


class Table:
    """One row of 8-byte words per key, in a file. Each row has one writer.

    Args:
        operations: the names of the writes, for the time lines.
    """

    def __init__(self, path: str, keys: int, operations: tuple[str, ...] = ()) -> None:
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), keys * _ROW * 8)
        self._words = memoryview(self._map).cast("Q")
        self._operations = operations

    @staticmethod
    def create(path: str, keys: int) -> None:
        """All origins at 1, and acknowledged: nothing was ever stored."""
        one, zero = (1).to_bytes(8, "little"), bytes(8 * _ROW - 16)
        Path(path).write_bytes((one + one + zero) * keys)

    def origin(self, key: Key) -> int:
        return self._words[key.index * _ROW]

    def acknowledged(self, key: Key) -> int:
        return self._words[key.index * _ROW + 1]

    def raise_origin(self, key: Key) -> int:
        self._words[key.index * _ROW] += 1
        return self._words[key.index * _ROW]

    def acknowledge(self, key: Key, version: int) -> None:
        at = key.index * _ROW + 1
        self._words[at] = max(self._words[at], version)

    def note(self, key: Key, version: int, operation: str, step: int) -> None:
        """Write down a step of a write: 0 begun, 1 failed, 2 acknowledged, 3 acknowledged, but true only later."""
        now = monotonic_ns()
        first = key.index * _ROW + 2
        slot = min(range(_WRITES), key=lambda slot: self._words[first + 3 * slot])
        at = first + 3 * slot
        self._words[at] = now
        self._words[at + 1] = version
        self._words[at + 2] = self._operations.index(operation) * len(_STEPS) + step

    def writes(self, key: Key) -> list[tuple[int, str]]:
        """The last steps, with when they were."""
        first = key.index * _ROW + 2
        rows = [self._words[first + 3 * slot : first + 3 * slot + 3].tolist() for slot in range(_WRITES)]
        return [(when, self._write(version, code)) for when, version, code in rows if when]

    def _write(self, version: int, code: int) -> str:
        operation, step = divmod(code, len(_STEPS))
        return f"writer: {self._operations[operation]} {version} {_STEPS[step]}"

    def close(self) -> None:
        self._words.release()
        self._map.close()


@dataclass(frozen=True)
class Violation:
    """Attributes: ``timeline`` has what this process did with the key, and the steps of its writer, in order."""

    kind: str
    process: int
    actor: str
    operation: str
    key: str
    returned: str
    floor: int
    origin: int
    acknowledged: int
    timeline: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Ledger:
    """What one process knows of every key, and what it found wrong."""

    def __init__(self, process: int, table: Table, keys: list[Key]) -> None:
        self.table = table
        self.floors = [0] * len(keys)
        self.found = Counter[str]()
        self.violations: list[Violation] = []
        self._process = process
        self._lock = threading.Lock()
        self._events: list[deque[tuple[int, str, str, str]]] = [deque(maxlen=_EVENTS) for _ in keys]
        self._loaded: list[deque[int]] = [deque(maxlen=64) for _ in keys]

    # -- reads

    def begin(self, key: Key, actor: str, operation: str) -> int:
        """The floor of a read that begins now."""
        self._events[key.index].append((monotonic_ns(), actor, operation, "begins"))
        return self.floors[key.index]

    def end(self, key: Key, actor: str, operation: str, floor: int, value: Any, *, loads: bool = False) -> int | None:
        """Judge what a read returned; its version, None for a miss and for no value of the key.

        ``loads``: it may have called a loader, or waited for one.
        """
        if value is MISS:
            self._events[key.index].append((monotonic_ns(), actor, operation, "misses"))
            return None
        version = version_of(key, value)
        self._events[key.index].append((monotonic_ns(), actor, operation, f"returns {version}"))
        if version is None:
            self.violate("wrong value", key, actor, operation, floor, value)
        elif version > self.table.origin(key):
            self.violate("from the future", key, actor, operation, floor, version)
        elif version < floor:
            self.violate("went back", key, actor, operation, floor, version)
        elif not loads or version not in self._loaded[key.index].copy():
            self.raise_floor(key, version)
        return version

    def raise_floor(self, key: Key, version: int) -> None:
        with self._lock:
            self.floors[key.index] = max(self.floors[key.index], version)

    def loaded(self, key: Key, version: int) -> None:
        """A loader here gave this version: who gets it from a load does not have it from the cache."""
        self._loaded[key.index].append(version)
        self._events[key.index].append((monotonic_ns(), "a loader", "load", f"reads {version} from the origin"))

    # -- writes

    def acknowledged(self, key: Key, version: int, *, firm: bool = True) -> None:
        """The server has it; ``firm``, nobody may get an older version any more, not even as stale."""
        self.table.acknowledge(key, version)
        if firm:
            self.raise_floor(key, version)

    # -- what is wrong

    def violate(self, kind: str, key: Key, actor: str, operation: str, floor: int, returned: Any) -> None:
        self.found[kind] += 1
        name = f"{key.namespace}:{key.name.rstrip('x')}{' (near only)' if key.near_only else ''}"
        similar = [each.key for each in self.violations if each.kind == kind]
        if len(similar) < _KEPT and similar.count(name) < _KEPT_PER_KEY:
            self.violations.append(
                Violation(
                    kind,
                    self._process,
                    actor,
                    operation,
                    name,
                    f"{returned!r:.200}",
                    floor,
                    self.table.origin(key),
                    self.table.acknowledged(key),
                    tuple(self._timeline(key)),
                )
            )

    def _timeline(self, key: Key) -> list[str]:
        now = monotonic_ns()
        events = [(when, f"{actor}: {operation} {what}") for when, actor, operation, what in [*self._events[key.index]]]
        oldest = min((when for when, _ in events), default=0)
        writes = [event for event in self.table.writes(key) if event[0] >= oldest - 50_000_000]
        return [f"{(when - now) / 1e6:9.3f} ms  {text}" for when, text in sorted(events + writes)]
