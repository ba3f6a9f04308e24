"""``python -m benchmarks remote``: GET and SET on an event loop, by how many tasks at once.

The contenders take turns within each cell of each round, and each round opens them anew, so that whatever
else the machine does meanwhile hits all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

from . import values
from .contenders import BASELINE, CONTENDERS, Contender, Store
from .report import Cell, Report, environment, select
from .server import Server, running_server

__all__ = ["CHOICES", "run"]

_TIMED = 1000  # operations whose latency is taken, per round
_PACKAGES = (
    *("nearcache", "msgspec", "hiredis", "uvloop"),
    *(package for contender in CONTENDERS for package in contender.packages),
)

CHOICES: dict[str, tuple[str, ...]] = {
    "loop": ("asyncio", "uvloop"),
    "op": ("GET", "SET"),
    "size": tuple(map(str, values.SIZES)),
    "callers": ("1", "16", "128"),
    "contender": tuple(contender.name for contender in CONTENDERS),
}

Chosen = dict[str, tuple[str, ...]]


def run(arguments: argparse.Namespace) -> Report:
    """Measure what was asked for. Takes about (cells x rounds x seconds)."""
    chosen = select(arguments.only, CHOICES)
    with running_server(apart=not arguments.anywhere) as server:
        report = Report(
            "remote",
            "task",
            BASELINE,
            arguments.rounds,
            arguments.seconds,
            environment(server, _PACKAGES),
        )
        for turn in range(arguments.rounds):
            for loop in chosen["loop"]:
                try:
                    factory = _loop_factory(loop)
                except ImportError as error:
                    report.missing[loop] = str(error)
                    continue
                with asyncio.Runner(loop_factory=factory) as runner:
                    runner.run(_round(server, report, chosen, loop, turn))
    return report


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


async def _round(server: Server, report: Report, chosen: Chosen, loop: str, turn: int) -> None:
    sizes, tasks = [int(size) for size in chosen["size"]], [int(count) for count in chosen["callers"]]
    async with AsyncExitStack() as stack:
        stores: dict[str, Store] = {}
        for contender in CONTENDERS:
            if contender.name in chosen["contender"]:
                try:
                    store = await stack.enter_async_context(contender.open(server))
                except ImportError as error:
                    report.missing[contender.name] = str(error)
                    continue
                await _fill(contender, store, sizes, max(tasks))
                stores[contender.name] = store
        # Nobody is always the first, or always after the same one.
        names = list(stores)
        order = names[turn % len(names) :] + names[: turn % len(names)] if names else []
        for op in chosen["op"]:
            for size in sizes:
                for count in tasks:
                    cells = {name: Cell(loop, op, size, count, name) for name in names}
                    rates: dict[str, float] = {}
                    for name in order:
                        rates[name] = await _measure(cells[name], stores[name], report.seconds)
                    for name in names:
                        report.add(cells[name], rates[name])
        if "nearcache" in stores:
            for op in chosen["op"]:
                times = await _latency(op, stores["nearcache"])
                report.latency_ms.setdefault((loop, op), []).extend(times)


def _value(store: Store, size: int) -> bytes | str:
    return values.text(size) if store.text else values.value(size)


async def _fill(contender: Contender, store: Store, sizes: list[int], tasks: int) -> None:
    """Store what will be read, and see that it is read as it was."""
    for size in sizes:
        value = _value(store, size)
        keys = [values.key(contender.name, size, task) for task in range(tasks)]
        await _all(store.set(key, value) for key in keys)
        for key, found in zip(keys, await _all(store.get(key) for key in keys), strict=True):
            if found != value:
                raise RuntimeError(f"{contender.name} reads {found!r:.60} for {key}, not what it was given")


async def _all(awaitables: Any) -> list[Any]:
    return await asyncio.gather(*awaitables)


async def _measure(cell: Cell, store: Store, seconds: float) -> float:
    """Operations per second of ``cell.callers`` tasks that each do one operation after the other."""
    keys = [values.key(cell.contender, cell.size, task) for task in range(cell.callers)]
    value = _value(store, cell.size)
    running, done = True, 0

    async def read(key: str) -> None:
        nonlocal done
        get = store.get
        while running:
            await get(key)
            done += 1

    async def write(key: str) -> None:
        nonlocal done
        put = store.set
        while running:
            await put(key, value)
            done += 1

    def stop() -> None:
        nonlocal running
        running = False

    # A pool opens the connections it will need.
    await _all(store.get(key) for key in keys)
    gc.collect()
    asyncio.get_running_loop().call_later(seconds, stop)
    began = perf_counter()
    await _all((read if cell.op == "GET" else write)(key) for key in keys)
    return done / (perf_counter() - began)


async def _latency(op: str, store: Store) -> list[float]:
    """Milliseconds of single operations, one after the other, of 200 bytes."""
    size = values.SIZES[0]
    key, value = values.key("nearcache", size, 0), values.value(size)
    await store.set(key, value)
    times: list[float] = []
    for _ in range(_TIMED):
        began = perf_counter()
        await (store.get(key) if op == "GET" else store.set(key, value))
        times.append((perf_counter() - began) * 1000)
    return times
