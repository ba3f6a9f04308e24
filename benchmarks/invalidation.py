"""``python -m benchmarks invalidation``: from a write in one process to the first fresh read in another.

The reader has the value in its near tier and asks for it again and again, with 50 microseconds of sleep between (an
asyncio loop makes that a millisecond, unless something arrives); it does nothing else. The time is taken from before
the call that writes to after the read that no longer returns the old value, on ``CLOCK_MONOTONIC``, which all processes
share; so the write's own round trip is in it, and the read's. ``old`` begins when the write returns and ends before
that read: nobody got the old value after it. Rounds are many and short, and everybody takes turns within each, with
``bare``, which is the same done without nearcache.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from itertools import product
from statistics import median
from typing import Any

from .bare import AsyncBareReader, BareReader, BareWriter
from .processes import Process
from .report import environment, select
from .server import running_server
from .tables import Table, TableReport, percentile
from .words import Words, shared_file

__all__ = ["CHOICES", "add_arguments", "run"]

_PACKAGES = ("nearcache", "hiredis", "uvloop")
_POLL = 50e-6  # seconds
_PAUSE = 0.001, 0.01  # seconds, the least and the most, from the reader's last word to the server to the write
_LIMIT = 5.0  # seconds until a read counts as never fresh
_TAG = "tag"
_PREPARED, _READY, _ASKED, _FRESH, _SEEN = range(5)  # the words

CHOICES: dict[str, tuple[str, ...]] = {
    "contender": ("nearcache", "bare"),
    "reader": ("async", "sync"),
    "operation": ("set", "delete", "clear", "invalidate_tags"),
}
_BARE = ("set", "delete")  # what a server does by itself


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
        taken: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
        number = 0
        try:
            for process in (writer, *readers.values()):
                process.answer()
            per_round = max(1, arguments.samples // arguments.rounds)
            for _ in range(arguments.rounds):
                for operation, reader, contender in product(operations, chosen["reader"], chosen["contender"]):
                    if contender == "bare" and operation not in _BARE:
                        continue
                    # Numbers go on, so that no value is ever written twice.
                    readers[reader].tell("follow", contender, operation == "set", number, per_round)
                    times = writer.ask("write", contender, operation, number, per_round)
                    readers[reader].answer()
                    taken.setdefault((operation, reader, contender), []).extend(times)
                    number += per_round
        finally:
            for process in (writer, *readers.values()):
                process.end()
    _tabulate(report, taken)
    return report


def _tabulate(report: TableReport, taken: dict[tuple[str, str, str], list[tuple[float, float]]]) -> None:
    rows: list[tuple[str, list[str]]] = []
    for (operation, reader, contender), times in taken.items():
        late = sum(seconds >= _LIMIT for seconds, _ in times)
        ms, old = ([seconds * 1000 for seconds in each] for each in zip(*times, strict=True))
        numbers = {
            "p50_ms": median(ms),
            "p99_ms": percentile(ms, 99),
            "longest_ms": max(ms),
            "old_p50_ms": median(old),
            "old_p99_ms": percentile(old, 99),
        }
        names = {"operation": operation, "reader": reader, "contender": contender}
        samples = {"never": late, "samples_ms": ms, "old_samples_ms": old}
        report.cells.append(names | samples | numbers)
        name = f"{operation}, {reader} reader{', bare sockets' * (contender == 'bare')}"
        rows.append((name, [*(f"{number:.3f}" for number in numbers.values()), f"{late}"]))
    report.tables.append(Table("write", ["p50", "p99", "longest", "old p50", "old p99", "never"], rows))


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
        cache = Cache(3600, "invalidation")
        cache.initialize(Settings(redis_url=url, _env_file=None))
        self._caches: dict[str, Any] = {"nearcache": cache, "bare": BareWriter(url)}

    def write(self, contender: str, operation: str, first: int, samples: int) -> list[tuple[float, float]]:
        """Each sample: seconds from the call until the first fresh read ends, and from the return until it begins."""
        from .coherence.fronts import TAGS

        words, cache = self._words, self._caches[contender]
        tags = {"tags": [_TAG]} if TAGS else {}
        write: Callable[[int], object] = {
            "set": lambda number: cache.set("key", f"{number} fresh", **tags),
            "delete": lambda number: cache.delete("key"),
            "clear": lambda number: cache.clear(),
            "invalidate_tags": lambda number: cache.invalidate_tags(_TAG),
        }[operation]
        times: list[tuple[float, float]] = []
        for number in range(first + 1, first + samples + 1):
            cache.set("key", f"{number} old", **tags)
            words[_PREPARED] = number
            _until(lambda number=number: words[_READY] == number)  # type: ignore[misc]
            time.sleep(random.uniform(*_PAUSE))
            began = time.monotonic_ns()
            write(number)
            returned = time.monotonic_ns()
            _until(lambda number=number: words[_SEEN] == number)  # type: ignore[misc]
            times.append((max(0, words[_FRESH] - began) / 1e9, max(0, words[_ASKED] - returned) / 1e9))
        return times

    def close(self) -> None:
        from nearcache import get_multi_redis_connection_manager

        get_multi_redis_connection_manager().close()


class _AsyncReader:
    """Reads on an event loop."""

    def __init__(self, url: str, path: str) -> None:
        self._words = Words(path)
        self._runner = asyncio.Runner()
        self._caches: dict[str, Any] = self._runner.run(self._open(url))

    async def _open(self, url: str) -> dict[str, Any]:
        from nearcache import AsyncCache, Settings

        cache = AsyncCache(3600, "invalidation")
        await cache.initialize(Settings(redis_url=url, _env_file=None))
        return {"nearcache": cache, "bare": await AsyncBareReader.connect(url)}

    def follow(self, contender: str, is_set: bool, first: int, samples: int) -> None:
        self._runner.run(self._follow(self._caches[contender].get, is_set, first, samples))

    async def _follow(self, get: Callable[[str], Awaitable[Any]], is_set: bool, first: int, samples: int) -> None:
        words = self._words
        for number in range(first + 1, first + samples + 1):
            deadline = time.monotonic() + 4 * _LIMIT
            while words[_PREPARED] != number or await get("key") != f"{number} old":
                if time.monotonic() > deadline:
                    raise TimeoutError("the writer does not go on")
                await asyncio.sleep(_POLL)
            words[_READY] = number
            fresh = f"{number} fresh" if is_set else None
            asked, deadline = time.monotonic_ns(), time.monotonic() + _LIMIT
            while await get("key") != fresh and time.monotonic() < deadline:
                await asyncio.sleep(_POLL)
                asked = time.monotonic_ns()
            words[_ASKED], words[_FRESH] = asked, time.monotonic_ns()
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
        cache = Cache(3600, "invalidation")
        cache.initialize(Settings(redis_url=url, _env_file=None))
        self._caches: dict[str, Any] = {"nearcache": cache, "bare": BareReader(url)}

    def follow(self, contender: str, is_set: bool, first: int, samples: int) -> None:
        words, get = self._words, self._caches[contender].get
        for number in range(first + 1, first + samples + 1):
            want = f"{number} old"
            _until(lambda number=number, want=want: words[_PREPARED] == number and get("key") == want)  # type: ignore[misc]
            words[_READY] = number
            fresh = f"{number} fresh" if is_set else None
            asked, deadline = time.monotonic_ns(), time.monotonic() + _LIMIT
            while get("key") != fresh and time.monotonic() < deadline:
                time.sleep(_POLL)
                asked = time.monotonic_ns()
            words[_ASKED], words[_FRESH] = asked, time.monotonic_ns()
            words[_SEEN] = number

    def close(self) -> None:
        from nearcache import get_multi_redis_connection_manager

        get_multi_redis_connection_manager().close()


_READERS: dict[str, type[_AsyncReader | _SyncReader]] = {"async": _AsyncReader, "sync": _SyncReader}
