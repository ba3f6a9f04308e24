"""``python -m benchmarks sync``: GET and SET from threads, nearcache's ``Cache`` beside redis-py's client.

Once with uvloop and once without, each in a process of its own: ``Cache`` needs no event loop, so both should come out
alike; redis-py is measured beside it in both.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter, sleep
from typing import Any

from . import values
from .report import Cell, Report, environment, select
from .server import Server, running_server

__all__ = ["CHOICES", "run"]

_TTL = 3600  # seconds
_PACKAGES = ("nearcache", "redis", "hiredis", "msgspec", "uvloop")


@dataclass(frozen=True)
class Store:
    get: Callable[[str], Any]
    set: Callable[[str, bytes], Any]


@contextmanager
def _nearcache(server: Server) -> Iterator[Store]:
    from nearcache import Cache, Settings, get_multi_redis_connection_manager

    cache = Cache(ttl=_TTL, namespace="bench", near=False)
    cache.initialize(Settings(redis_url=server.url, near_enabled=False))
    yield Store(cache.get, cache.set)
    get_multi_redis_connection_manager().close()


@contextmanager
def _redis_py(server: Server) -> Iterator[Store]:
    import redis

    # One client for all threads: its pool has a connection for each.
    with redis.Redis(port=server.port) as client:
        yield Store(client.get, partial(client.set, ex=_TTL))


_CONTENDERS = {"nearcache": _nearcache, "redis-py": _redis_py}

CHOICES: dict[str, tuple[str, ...]] = {
    "loop": ("uvloop", "asyncio"),
    "op": ("GET", "SET"),
    "size": tuple(map(str, values.SIZES)),
    "callers": ("1", "4", "16"),
    "contender": tuple(_CONTENDERS),
}


def run(arguments: argparse.Namespace) -> Report:
    """Measure what was asked for. Takes about (cells x rounds x seconds)."""
    chosen = select(arguments.only, CHOICES)
    with running_server(apart=not arguments.anywhere) as server:
        report = Report(
            "sync",
            "thread",
            "redis-py",
            arguments.rounds,
            arguments.seconds,
            environment(server, _PACKAGES),
        )
        for loop in chosen["loop"]:
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                try:
                    process.submit(_choose_loop, loop).result()
                except ImportError as error:
                    report.missing[loop] = str(error)
                    continue
                cells = _cells(loop, chosen)
                measured = process.submit(_measure_all, server, cells, report.rounds, report.seconds).result()
                report.samples |= dict(zip(cells, measured, strict=True))
    return report


def _cells(loop: str, chosen: dict[str, tuple[str, ...]]) -> list[Cell]:
    return [
        Cell(loop, op, int(size), int(count), contender)
        for op in chosen["op"]
        for size in chosen["size"]
        for count in chosen["callers"]
        for contender in chosen["contender"]
    ]


# -- in the process of the variant


def _choose_loop(loop: str) -> None:
    if loop == "uvloop":
        import uvloop  # noqa: F401  # to say so when it is not there
    else:
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # importing it raises ImportError


def _measure_all(server: Server, cells: list[Cell], rounds: int, seconds: float) -> list[list[float]]:
    with ExitStack() as stack:
        names = dict.fromkeys(cell.contender for cell in cells)
        stores = {name: stack.enter_context(_CONTENDERS[name](server)) for name in names}
        for cell in cells:
            _fill(cell, stores[cell.contender])
        rates: list[list[float]] = [[] for _ in cells]
        for _ in range(rounds):
            for cell, taken in zip(cells, rates, strict=True):
                taken.append(_measure(cell, stores[cell.contender], seconds))
        return rates


def _fill(cell: Cell, store: Store) -> None:
    """Store what will be read, and see that it is read as it was."""
    for caller in range(cell.callers):
        key, value = values.key(cell.contender, cell.size, caller), values.value(cell.size)
        store.set(key, value)
        if (found := store.get(key)) != value:
            raise RuntimeError(f"{cell.contender} reads {found!r:.60} for {key}, not what it was given")


def _measure(cell: Cell, store: Store, seconds: float) -> float:
    """Operations per second of ``cell.callers`` threads that each do one operation after the other."""
    value = values.value(cell.size)
    put, get = store.set, store.get
    done = [0] * cell.callers
    running = True
    start = threading.Barrier(cell.callers + 1)

    def work(caller: int) -> None:
        key = values.key(cell.contender, cell.size, caller)
        get(key)  # the pool opens the connection
        count = 0
        start.wait()
        if cell.op == "GET":
            while running:
                get(key)
                count += 1
        else:
            while running:
                put(key, value)
                count += 1
        done[caller] = count

    threads = [threading.Thread(target=work, args=(caller,)) for caller in range(cell.callers)]
    gc.collect()
    for thread in threads:
        thread.start()
    start.wait()
    began = perf_counter()
    sleep(seconds)
    running = False
    for thread in threads:
        thread.join()
    return sum(done) / (perf_counter() - began)
