"""What a cache counts. Plain integers on the hit path; collectors pull snapshots."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .records import Record

__all__ = ["CacheStats", "Counters"]


@dataclass(frozen=True)
class CacheStats(Record):
    """What one cache counted since it was made or ``reset_stats()`` was called.

    Attributes:
        hits: values found by ``get``, ``get_many``, ``get_or_set``; one per key.
        misses: values those did not find.
        sets: values the server took.
        deletes: values the server removed.
        errors: operations the server, or the way to it, failed.
        loads: loaders called by ``get_or_set``, ``get_or_set_many`` and decorated functions.
        load_errors: loaders that raised or ran out of time.
        joins: callers that waited for a load somebody else had begun.
        stale: values served after their end, because the server or a loader failed or was slow; hits, too.
        undecodable: values found and not readable: another format, another type, another key; misses, too.
    """

    hits: int = 0
    misses: int = 0
    sets: int = 0
    deletes: int = 0
    errors: int = 0
    loads: int = 0
    load_errors: int = 0
    joins: int = 0
    stale: int = 0
    undecodable: int = 0

    @property
    def hit_ratio(self) -> float:
        """Hits among reads, in percent; 0.0 before any read."""
        reads = self.hits + self.misses
        return 100.0 * self.hits / reads if reads else 0.0


_NAMES = tuple(field.name for field in fields(CacheStats))


class Counters:
    """The live counters. ``+= 1`` on them is one uninterrupted step under CPython's interpreter lock."""

    __slots__ = _NAMES

    hits: int
    misses: int
    sets: int
    deletes: int
    errors: int
    loads: int
    load_errors: int
    joins: int
    stale: int
    undecodable: int

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        for name in _NAMES:
            setattr(self, name, 0)

    def snapshot(self) -> CacheStats:
        return CacheStats(*(getattr(self, name) for name in _NAMES))
