"""``python -m benchmarks memory``: bytes of this process per entry, with 10,000 entries near.

Each number comes from a process of its own, which makes the cache, then fills it. ``tracemalloc`` counts what Python
allocated for the entries, values included; ``resident`` is what the process grew by (Linux only), with what libraries
in C or Rust keep. Keys are whole numbers, or their digits where a library takes only text (nearcache, cashews); values
are text of 200 characters or dicts of five fields, each different. ``dict`` holds the same in a dictionary: no cache
that hands out the very objects it was given can be smaller. nearcache is filled through the server, by reading what was
written, and on ``memory://``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from .processes import Process
from .report import environment, select
from .server import Server, running_server
from .tables import Table, TableReport

__all__ = ["CHOICES", "run"]

_ENTRIES = 10_000
_TTL = 3600  # seconds
_PACKAGES = ("nearcache", "cachetools", "cachebox", "theine", "cashews")
_VALUES: dict[str, Callable[[int], Any]] = {
    "str": lambda number: f"{number:06}" + "x" * 194,
    "dict": lambda number: {
        "id": number,
        "name": f"name of {number}",
        "email": f"{number}@example.org",
        "active": number % 2 == 0,
        "score": number / 7,
    },
}


def run(arguments: argparse.Namespace) -> TableReport:
    """Each contender and value, so many times; the median counts."""
    chosen = select(arguments.only, CHOICES)
    with running_server(apart=not arguments.anywhere) as server:
        report = TableReport(
            "memory",
            f"bytes per entry of {_ENTRIES:,}, median of {arguments.rounds}",
            environment(server, _PACKAGES),
        )
        taken: dict[tuple[str, str, str], list[float]] = {}
        for _ in range(arguments.rounds):
            for contender in chosen["contender"]:
                for value in chosen["value"]:
                    for way in _WAYS if contender not in report.missing else ():
                        try:
                            number = _measure(server, contender, value, way)
                        except ImportError as error:
                            report.missing[contender] = str(error)
                            break
                        if number is not None:
                            taken.setdefault((contender, value, way), []).append(number)
    _tabulate(report, chosen, taken)
    return report


def _measure(server: Server, contender: str, value: str, way: str) -> float | None:
    process = Process(contender, _Holder, server.url, contender)
    try:
        process.answer()
        number: float | None = process.ask("measure", value, way)
        return number
    finally:
        process.end()


def _tabulate(
    report: TableReport, chosen: dict[str, tuple[str, ...]], taken: dict[tuple[str, str, str], list[float]]
) -> None:
    for (contender, value, way), numbers in taken.items():
        report.cells.append(
            {"contender": contender, "value": value, "way": way, "median": median(numbers), "bytes": numbers}
        )
    rows: list[tuple[str, list[str]]] = []
    for contender in chosen["contender"]:
        cells = [taken.get((contender, value, way)) for value in chosen["value"] for way in _WAYS]
        if any(cells):
            rows.append((contender, [f"{median(numbers):,.0f}" if numbers else "-" for numbers in cells]))
    columns = [f"{value}, {way}" for value in chosen["value"] for way in _WAYS]
    report.tables.append(Table("bytes per entry", columns, rows))


# -- in the processes


def _traced() -> int:
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


_WAYS: dict[str, Callable[[], int]] = {"tracemalloc": _traced, "resident": _resident}

_Fill = Callable[[Callable[[int], Any]], Any]


class _Holder:
    """A process with one cache."""

    def __init__(self, url: str, contender: str) -> None:
        self._fill = _FILLERS[contender](url)

    def measure(self, value: str, way: str) -> float | None:
        """Bytes per entry; None where the system does not say."""
        if way == "resident" and sys.platform != "linux":
            return None
        make, size = _VALUES[value], _WAYS[way]
        if way == "tracemalloc":
            tracemalloc.start()
        self._fill(lambda number: make(number + 1_000_000) if number < 100 else None)  # what is needed only once
        gc.collect()
        before = size()
        self._fill(make)
        gc.collect()
        return (size() - before) / _ENTRIES

    def close(self) -> None:
        os._exit(0)  # there is nothing to save, and theine's threads may take their time


def _nearcache(client: str) -> Callable[[str], _Fill]:
    def open_(url: str) -> _Fill:
        from nearcache import Cache, Settings, get_multi_redis_connection_manager

        get_multi_redis_connection_manager().register("memory", "memory://benchmark")
        cache = Cache(_TTL, "memory", client, near=True)
        cache.initialize(Settings(redis_url=url, near_entries=2 * _ENTRIES, _env_file=None))

        def fill(make: Callable[[int], Any]) -> None:
            for first in range(0, _ENTRIES, 500):
                numbers = range(first, first + 500)
                cache.set_many({f"{number}": made for number in numbers if (made := make(number)) is not None})
            for number in range(_ENTRIES):
                cache.get(f"{number}")

        return fill

    return open_


def _mapping(make_cache: Callable[[], Any]) -> Callable[[str], _Fill]:
    def open_(url: str) -> _Fill:
        cache = make_cache()

        def fill(make: Callable[[int], Any]) -> None:
            for number in range(_ENTRIES):
                if (made := make(number)) is not None:
                    cache[number] = made

        return fill

    return open_


def _cachetools() -> Any:
    from cachetools import TTLCache  # type: ignore[import-untyped,unused-ignore]

    return TTLCache(2 * _ENTRIES, _TTL)


def _cachebox() -> Any:
    from cachebox import TTLCache

    return TTLCache(2 * _ENTRIES, _TTL)


def _theine(url: str) -> _Fill:
    from theine import Cache

    cache: Any = Cache(2 * _ENTRIES)

    def fill(make: Callable[[int], Any]) -> None:
        for number in range(_ENTRIES):
            if (made := make(number)) is not None:
                cache.set(number, made, timedelta(seconds=_TTL))

    return fill


def _cashews(url: str) -> _Fill:
    from cashews import Cache

    cache = Cache()
    runner = asyncio.Runner()
    cache.setup("mem://", size=2 * _ENTRIES)

    async def store(make: Callable[[int], Any]) -> None:
        for number in range(_ENTRIES):
            if (made := make(number)) is not None:
                await cache.set(f"{number}", made, expire=_TTL)

    runner.run(_init(cache))
    return lambda make: runner.run(store(make))


async def _init(cache: Any) -> None:
    await cache.init()


_FILLERS: dict[str, Callable[[str], _Fill]] = {
    "nearcache": _nearcache("cache"),
    "nearcache-memory": _nearcache("memory"),
    "dict": _mapping(dict),
    "cachetools": _mapping(_cachetools),
    "cachebox": _mapping(_cachebox),
    "theine": _theine,
    "cashews": _cashews,
}

CHOICES: dict[str, tuple[str, ...]] = {"value": tuple(_VALUES), "contender": tuple(_FILLERS)}
