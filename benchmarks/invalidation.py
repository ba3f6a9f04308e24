"""``python -m benchmarks invalidation``: from a write in one process to the first fresh read in another.

The reader has the value in its near tier and asks for it again and again, with 50 microseconds of sleep between, which
is what bounds how finely this measures; it does nothing else. The time is taken from before the call that writes to
after the read that no longer returns the old value, on ``CLOCK_MONOTONIC``, which all processes share; so the write's
own round trip is in it. Each operation is tried once per sample, and the rounds of readers take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from .processes import Process
from .report import environment, select
from .server import running_server
from .tables import Table, TableReport, percentile
from .words import Words, shared_file

__all__ = ["CHOICES", "add_arguments", "run"]

_PACKAGES = ("nearcache", "hiredis", "uvloop")
_POLL = 50e-6  # seconds
_LIMIT = 5.0  # seconds until a read counts as never fresh
_TAG = "tag"
_PREPARED, _READY, _BEGAN, _FRESH, _SEEN = range(5)  # the words

CHOICES: dict[str, tuple[str, ...]] = {
    "reader": ("async", "sync"),
    "operation": ("set", "delete", "clear", "invalidate_tags"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=1000, help="per reader and operation, default %(default)s")


def run(arguments: argparse.Namespace) -> TableReport:
    """So many samples of each operation, in so many rounds."""
    from .coherence.fronts import TAGS

    chosen = select(arguments.only, CHOICES)
    with running_server(apart=not arguments.anywhere) as server, shared_file(5) as path:
        about = f"{arguments.samples} samples each; from the call of a write to the first fresh read, in ms"
        report = TableReport("invalidation", about, environment(server, _PACKAGES))
        if not TAGS and "invalidate_tags" in chosen["operation"]:
            report.missing["invalidate_tags"] = "this version has no tags"
        operations = [name for name in chosen["operation"] if name not in report.missing]
        writer = Process("the writer", _Writer, server.url, path)
        readers = {reader: Process(f"the {reader} reader", _READERS[reader], server.url, path) for reader in _READERS}
        taken: dict[tuple[str, str], list[float]] = {}
        number = 0
        try:
            for process in (writer, *readers.values()):
                process.answer()
            per_round = max(1, arguments.samples // arguments.rounds)
            for _ in range(arguments.rounds):
                for reader in chosen["reader"]:
                    for operation in operations:
                        # Numbers go on, so that no value is ever written twice.
                        readers[reader].tell("follow", operation == "set", number, per_round)
                        times = writer.ask("write", operation, number, per_round)
                        readers[reader].answer()
                        taken.setdefault((operation, reader), []).extend(times)
                        number += per_round
        finally:
            for process in (writer, *readers.values()):
                process.end()
    _tabulate(report, taken)
    return report


def _tabulate(report: TableReport, taken: dict[tuple[str, str], list[float]]) -> None:
    rows: list[tuple[str, list[str]]] = []
    for (operation, reader), times in taken.items():
        late = sum(seconds >= _LIMIT for seconds in times)
        ms = [seconds * 1000 for seconds in times]
        numbers = {"p50_ms": median(ms), "p99_ms": percentile(ms, 99), "longest_ms": max(ms)}
        report.cells.append({"operation": operation, "reader": reader, "never": late, "samples_ms": ms} | numbers)
        rows.append((f"{operation}, {reader} reader", [*(f"{number:.3f}" for number in numbers.values()), f"{late}"]))
    report.tables.append(Table("write", ["p50", "p99", "longest", "never"], rows))


# -- in the processes


def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 4 * _LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the other process does not go on")
        time.sleep(_POLL)


class _Writer:
    """Prepares a value, waits until the reader has it near, writes, and waits until the reader has seen that."""

    def __init__(self, url: str, path: str) -> None:
        from nearcache import Cache, Settings

        self._words = Words(path)
        self._cache: Any = Cache(3600, "invalidation")
        self._cache.initialize(Settings(redis_url=url, _env_file=None))

    def write(self, operation: str, first: int, samples: int) -> list[float]:
        from .coherence.fronts import TAGS

        words, cache = self._words, self._cache
        tags = {"tags": [_TAG]} if TAGS else {}
        write: Callable[[int], object] = {
            "set": lambda number: cache.set("key", f"{number} fresh", **tags),
            "delete": lambda number: cache.delete("key"),
            "clear": lambda number: cache.clear(),
            "invalidate_tags": lambda number: cache.invalidate_tags(_TAG),
        }[operation]
        times: list[float] = []
        for number in range(first + 1, first + samples + 1):
            cache.set("key", f"{number} old", **tags)
            words[_PREPARED] = number
            _until(lambda number=number: words[_READY] == number)  # type: ignore[misc]
            time.sleep(0.001)  # the reader is idle, and its value settled
            words[_BEGAN] = time.monotonic_ns()
            write(number)
            _until(lambda number=number: words[_SEEN] == number)  # type: ignore[misc]
            times.append(max(0, words[_FRESH] - words[_BEGAN]) / 1e9)
        return times

    def close(self) -> None:
        from nearcache import get_multi_redis_connection_manager

        get_multi_redis_connection_manager().close()


class _AsyncReader:
    """Reads on an event loop."""

    def __init__(self, url: str, path: str) -> None:
        from nearcache import AsyncCache, Settings

        self._words = Words(path)
        self._runner = asyncio.Runner()
        self._cache = AsyncCache(3600, "invalidation")
        self._runner.run(self._cache.initialize(Settings(redis_url=url, _env_file=None)))

    def follow(self, is_set: bool, first: int, samples: int) -> None:
        self._runner.run(self._follow(is_set, first, samples))

    async def _follow(self, is_set: bool, first: int, samples: int) -> None:
        words, cache = self._words, self._cache
        for number in range(first + 1, first + samples + 1):
            deadline = time.monotonic() + 4 * _LIMIT
            while words[_PREPARED] != number or await cache.get("key") != f"{number} old":
                if time.monotonic() > deadline:
                    raise TimeoutError("the writer does not go on")
                await asyncio.sleep(_POLL)
            words[_READY] = number
            fresh = f"{number} fresh" if is_set else None
            deadline = time.monotonic() + _LIMIT
            while await cache.get("key") != fresh and time.monotonic() < deadline:  # noqa: ASYNC110  # it is the load
                await asyncio.sleep(_POLL)
            words[_FRESH] = time.monotonic_ns()
            words[_SEEN] = number

    def close(self) -> None:
        from nearcache import get_multi_redis_connection_manager

        self._runner.run(get_multi_redis_connection_manager().disconnect_all())
        self._runner.close()


class _SyncReader:
    """Reads in a thread."""

    def __init__(self, url: str, path: str) -> None:
        from nearcache import Cache, Settings

        self._words = Words(path)
        self._cache = Cache(3600, "invalidation")
        self._cache.initialize(Settings(redis_url=url, _env_file=None))

    def follow(self, is_set: bool, first: int, samples: int) -> None:
        words, cache = self._words, self._cache
        for number in range(first + 1, first + samples + 1):
            old = f"{number} old"
            _until(lambda number=number, old=old: words[_PREPARED] == number and cache.get("key") == old)  # type: ignore[misc]
            words[_READY] = number
            fresh = f"{number} fresh" if is_set else None
            deadline = time.monotonic() + _LIMIT
            while cache.get("key") != fresh and time.monotonic() < deadline:
                time.sleep(_POLL)
            words[_FRESH] = time.monotonic_ns()
            words[_SEEN] = number

    def close(self) -> None:
        from nearcache import get_multi_redis_connection_manager

        get_multi_redis_connection_manager().close()


_READERS: dict[str, type[_AsyncReader | _SyncReader]] = {"async": _AsyncReader, "sync": _SyncReader}
