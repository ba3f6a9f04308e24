"""``python -m benchmarks stampede``: 1,000 tasks in each of 4 processes want one cold key at the same instant.

The loader takes 50 ms. Reported are, for the whole fleet, how often it was called, how long the tasks waited, and which
commands the server carried out (``INFO commandstats`` after less before). ``killed`` does the same and ends the process
that calls the loader first with SIGKILL, in the middle of it; the tasks of the others are counted. Every round takes a
new key, and the contenders take turns. redis-py is the get, load and set that needs no library.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import redis

from .processes import Process
from .report import environment, select
from .server import Server, running_server
from .tables import Table, TableReport, percentile
from .words import Words, shared_file

__all__ = ["CHOICES", "run"]

_PROCESSES = 4
_TASKS = 1000
_LOAD = 0.05  # seconds
_TTL = 3600  # seconds
_LEAD = 0.3  # seconds until the instant, for the tasks to be made
_LIMIT = 30.0  # seconds a task waits at most
_PACKAGES = ("nearcache", "redis", "hiredis", "uvloop")

CHOICES: dict[str, tuple[str, ...]] = {
    "scenario": ("cold", "killed"),
    "contender": ("nearcache", "redis-py"),
}


@dataclass
class _Taken:
    """What the rounds of one scenario gave; the lists have one entry per round."""

    loads: list[int] = field(default_factory=list)
    waits: list[list[float]] = field(default_factory=list)
    failed: int = 0
    commands: list[Counter[str]] = field(default_factory=list)


def run(arguments: argparse.Namespace) -> TableReport:
    """So many rounds of each scenario."""
    chosen = select(arguments.only, CHOICES)
    with running_server(apart=not arguments.anywhere) as server, shared_file(2 * _PROCESSES) as path:
        report = TableReport(
            "stampede",
            f"{_TASKS:,} tasks x {_PROCESSES} processes on one cold key, a load of {_LOAD * 1000:g} ms, "
            f"{arguments.rounds} rounds",
            environment(server, _PACKAGES),
        )
        taken: dict[tuple[str, str], _Taken] = {}
        fleet = _Fleet(server, path)
        try:
            for turn in range(arguments.rounds):
                for contender in chosen["contender"]:
                    for scenario in chosen["scenario"]:
                        # Without leases nobody holds anything.
                        if scenario == "cold" or contender == "nearcache":
                            into = taken.setdefault((scenario, contender), _Taken())
                            fleet.round(contender, f"{scenario}-{turn}", into, kill=scenario == "killed")
        finally:
            fleet.end()
    _tabulate(report, taken)
    return report


class _Fleet:
    """The processes, and the one that watches them."""

    def __init__(self, server: Server, path: str) -> None:
        self._arguments = (server.url, path)
        self._words = Words(path)
        self._client = redis.Redis(port=server.port)
        self._processes = [self._start(number) for number in range(_PROCESSES)]
        for process in self._processes:
            process.answer()

    def _start(self, number: int) -> Process:
        return Process(f"process {number}", _Worker, *self._arguments, number)

    def round(self, contender: str, key: str, into: _Taken, *, kill: bool) -> None:
        for process in self._processes:
            process.tell("open", contender)
        for process in self._processes:
            process.answer()
        for at in range(2 * _PROCESSES):
            self._words[at] = 0
        before = self._commands()
        instant = time.monotonic() + _LEAD
        for process in self._processes:
            process.tell("storm", contender, f"{contender}-{key}", instant)
        killed = self._kill_holder() if kill else None
        waits: list[float] = []
        for number, process in enumerate(self._processes):
            if number != killed:
                some, failed = process.answer()
                waits += some
                into.failed += failed
        into.waits.append(waits)
        into.loads.append(sum(self._words[2 * number] for number in range(_PROCESSES)))
        into.commands.append(self._commands() - before)
        if killed is not None:
            self._processes[killed].end()
            self._processes[killed] = self._start(killed)
            self._processes[killed].answer()

    def _kill_holder(self) -> int:
        """End the process that loads first, half-way through; its number."""
        deadline = time.monotonic() + _LIMIT
        while time.monotonic() < deadline:
            began = {self._words[2 * number + 1]: number for number in range(_PROCESSES)}
            began.pop(0, None)
            if began:
                holder = began[min(began)]
                time.sleep(_LOAD / 2)
                self._processes[holder].kill()
                return holder
            time.sleep(0.001)
        raise RuntimeError("nobody has called the loader")

    def _commands(self) -> Counter[str]:
        stats: dict[str, Any] = self._client.info("commandstats")
        return Counter({name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()})

    def end(self) -> None:
        for process in self._processes:
            process.end()
        self._client.close()


def _tabulate(report: TableReport, taken: dict[tuple[str, str], _Taken]) -> None:
    rows: list[tuple[str, list[str]]] = []
    for (scenario, contender), each in taken.items():
        waits = [wait * 1000 for waits in each.waits for wait in waits] or [float("nan")]
        names = set().union(*each.commands) - {"info"}
        commands = {name: median(count[name] for count in each.commands) for name in names}
        total = sum(commands.values())
        often = sorted(((count, name) for name, count in commands.items() if count), reverse=True)
        numbers = {
            "loads_most": max(each.loads),
            "loads_median": median(each.loads),
            "wait_ms_p50": median(waits),
            "wait_ms_p99": percentile(waits, 99),
            "wait_ms_longest": max(waits),
            "failed": each.failed,
            "commands": total,
        }
        report.cells.append(
            {"scenario": scenario, "contender": contender, "loads": each.loads, "commands_by_name": commands} | numbers
        )
        rows.append(
            (
                f"{scenario}, {contender}",
                [
                    *(f"{number:,.0f}" for number in numbers.values()),
                    " ".join(f"{count:,.0f} {name}" for count, name in often[:6]),
                ],
            )
        )
    columns = ["loads, most", "median", "wait ms, p50", "p99", "longest", "failed", "commands", "of them, most often"]
    report.tables.append(Table("scenario", columns, rows))


# -- in the processes

_GetOrLoad = Callable[[str, Callable[[], Awaitable[str]]], Awaitable[str]]
_Start = Callable[[], Coroutine[Any, Any, _GetOrLoad]]


def _nearcache(url: str) -> _Start:
    from nearcache import AsyncCache, Settings

    async def start() -> _GetOrLoad:
        cache = AsyncCache(_TTL, "stampede")
        await cache.initialize(Settings(redis_url=url, _env_file=None))
        return cache.get_or_set

    return start


def _redis_py(url: str) -> _Start:
    import redis.asyncio

    async def start() -> _GetOrLoad:
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=50, decode_responses=True)
        client = redis.asyncio.Redis(connection_pool=pool)

        async def get_or_load(key: str, loader: Callable[[], Awaitable[str]]) -> str:
            value = await client.get(key)
            if value is None:
                value = await loader()
                await client.set(key, value, ex=_TTL)
            return str(value)

        return get_or_load

    return start


_OPEN = {"nearcache": _nearcache, "redis-py": _redis_py}


class _Worker:
    """One process of the fleet."""

    def __init__(self, url: str, path: str, number: int) -> None:
        self._url = url
        self._words = Words(path)
        self._loads, self._began = 2 * number, 2 * number + 1
        self._runner = asyncio.Runner()
        self._opened: dict[str, _GetOrLoad] = {}

    def open(self, contender: str) -> None:
        """Connect, unless it is, and have what is slow the first time behind us."""
        if contender not in self._opened:
            get_or_load = self._opened[contender] = self._runner.run(_OPEN[contender](self._url)())
            self._runner.run(self._one(get_or_load, f"warm-up-{self._loads}", 0.0, 0.0))

    def storm(self, contender: str, key: str, instant: float) -> tuple[list[float], int]:
        """How long each task waited, and how many got nothing."""
        return self._runner.run(self._storm(self._opened[contender], key, instant))

    async def _storm(self, get_or_load: _GetOrLoad, key: str, instant: float) -> tuple[list[float], int]:
        tasks = [asyncio.create_task(self._one(get_or_load, key, instant, _LOAD)) for _ in range(_TASKS)]
        waits = [wait for wait in await asyncio.gather(*tasks) if wait is not None]
        return waits, _TASKS - len(waits)

    async def _one(self, get_or_load: _GetOrLoad, key: str, instant: float, seconds: float) -> float | None:
        async def load() -> str:
            self._words[self._began] = self._words[self._began] or time.monotonic_ns()
            self._words[self._loads] += 1
            await asyncio.sleep(seconds)
            return f"value of {key}"

        await asyncio.sleep(max(0.0, instant - time.monotonic()))
        # All want it at that instant, also those whose turn on the loop comes later.
        began = instant or time.monotonic()
        with suppress(Exception):
            if await asyncio.wait_for(get_or_load(key, load), _LIMIT) == f"value of {key}":
                return time.monotonic() - began
        return None

    def close(self) -> None:
        self._runner.close()
