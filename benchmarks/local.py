"""``python -m benchmarks local``: nanoseconds of a hit that needs no server.

A call is repeated in a tight loop, of asynchronous ones ``await call(argument)`` in one coroutine; the loop itself is
part of every number, some 15 ns. The contenders take turns within each round; garbage collection stays on. nearcache
is there twice: on a real server, where the value is in the near tier, and on ``memory://``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from contextlib import AsyncExitStack
from itertools import repeat
from statistics import median
from time import perf_counter
from typing import Any

from nearcache import get_multi_redis_connection_manager

from .near_contenders import ARGUMENT, CONTENDERS, KEY, KINDS, MEMORY, OURS, VALUES, Calls
from .report import environment, select
from .server import Server, running_server
from .tables import Table, TableReport

__all__ = ["CHOICES", "run"]

_PACKAGES = ("nearcache", "msgspec", *(package for contender in CONTENDERS for package in contender.packages))

CHOICES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "value": tuple(VALUES),
    "contender": tuple(contender.name for contender in CONTENDERS),
}

_Cell = tuple[str, str, str]  # kind, value, contender
_Samples = dict[_Cell, list[float]]


def run(arguments: argparse.Namespace) -> TableReport:
    """Measure what was asked for. Takes about (cells x rounds x seconds)."""
    chosen = select(arguments.only, CHOICES)
    with running_server(apart=not arguments.anywhere) as server:
        report = TableReport(
            "local",
            f"{arguments.rounds} interleaved rounds of {arguments.seconds:g} s; median nanoseconds of a hit",
            environment(server, _PACKAGES),
        )
        samples: _Samples = {}
        for name in chosen["value"]:
            asyncio.run(_measure_value(server, report, chosen, name, arguments, samples))
    for kind in chosen["kind"]:
        _tabulate(report, kind, chosen, samples)
    report.cells = [
        {"kind": kind, "value": value, "contender": contender, "median_ns": median(taken), "ns": taken}
        for (kind, value, contender), taken in samples.items()
    ]
    return report


async def _measure_value(
    server: Server,
    report: TableReport,
    chosen: dict[str, tuple[str, ...]],
    name: str,
    arguments: argparse.Namespace,
    samples: _Samples,
) -> None:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(get_multi_redis_connection_manager().disconnect_all)
        opened: dict[str, Calls] = {}
        for contender in CONTENDERS:
            if contender.name in chosen["contender"]:
                try:
                    calls = await stack.enter_async_context(contender.open(server, VALUES[name]))
                except ImportError as error:
                    report.missing[contender.name] = str(error)
                    continue
                opened[contender.name] = calls
        cells = [
            (kind, name, contender) for kind in chosen["kind"] for contender, calls in opened.items() if kind in calls
        ]
        counts = {cell: await _calibrate(cell, opened[cell[2]][cell[0]], arguments.seconds) for cell in cells}
        for turn in range(arguments.rounds):
            gc.collect()
            for cell in cells[turn % len(cells) :] + cells[: turn % len(cells)]:
                taken = await _time(cell[0], opened[cell[2]][cell[0]], counts[cell])
                samples.setdefault(cell, []).append(taken / counts[cell] * 1e9)


async def _calibrate(cell: _Cell, call: Any, seconds: float) -> int:
    """See that it returns what it should, and how many calls take about so many seconds."""
    kind, value, contender = cell
    argument = KEY if kind.endswith("get") else ARGUMENT
    for _ in range(2):
        found = await call(argument) if kind.startswith("async") else call(argument)
    if contender == "theine" and kind == "get":
        found = found[0]  # with whether it was there
    if found != VALUES[value]:
        raise RuntimeError(f"{contender}'s {kind} gives {found!r:.60}, not what it was given")
    count = 1
    while (taken := await _time(kind, call, count)) < seconds / 10:
        count *= 4
    return max(1, round(count * seconds / taken))


async def _time(kind: str, call: Any, count: int) -> float:
    """Seconds of so many calls."""
    argument = KEY if kind.endswith("get") else ARGUMENT
    times = repeat(None, count)
    began = perf_counter()
    if kind.startswith("async"):
        for _ in times:
            await call(argument)
    else:
        for _ in times:
            call(argument)
    return perf_counter() - began


def _tabulate(report: TableReport, kind: str, chosen: dict[str, tuple[str, ...]], samples: _Samples) -> None:
    """One table: each contender's time, and how often its time ours is."""
    columns = [f"{value}{what}" for value in chosen["value"] for what in (" ns", f": {OURS}/it", f": {MEMORY}/it")]
    rows: list[tuple[str, list[str]]] = []
    for contender in chosen["contender"]:
        cells: list[str] = []
        for value in chosen["value"]:
            if taken := samples.get((kind, value, contender)):
                cells.append(f"{median(taken):,.0f}")
                for ours in (OURS, MEMORY):
                    own = samples.get((kind, value, ours))
                    cells.append(f"{median(own) / median(taken):.3f}" if own else "-")
            else:
                cells += ["-"] * 3
        if any(cell != "-" for cell in cells):
            rows.append((contender, cells))
    if rows:
        report.tables.append(Table(kind, columns, rows))
