"""``python -m benchmarks http``: a cached GET behind uvicorn, beside an application that does nothing but send bytes.

Every contender has a uvicorn of its own, one worker, with a processor to itself where there are two: the server and
who asks share the other one. First it is made sure that a contender answers what it should, and out of its cache. Then
they take turns within each round. Ratios are medians of the rounds' own ratios, so that what slows a whole round down
counts for nothing. The processor time of uvicorn's process is there because it is the least noisy.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from statistics import median

import redis

from .processes import Process
from .report import environment, select
from .server import Server, running_server
from .tables import Table, TableReport
from .web import CONNECTIONS, Asked, Load, WebServer
from .web_contenders import BASELINE, BODY, CONTENDERS, NEAR, PATH, REMOTE

__all__ = ["CHOICES", "run"]

_PACKAGES = (
    *("uvicorn", "httptools", "uvloop", "nearcache", "hiredis"),
    *(package for contender in CONTENDERS for package in contender.packages),
)

CHOICES: dict[str, tuple[str, ...]] = {"contender": tuple(contender.name for contender in CONTENDERS)}


@dataclass
class _Taken:
    """One contender's rounds."""

    asked: list[Asked] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # seconds of uvicorn's process
    commands: list[int] = field(default_factory=list)  # that the server carried out

    def rates(self) -> list[float]:
        return [asked.requests / asked.seconds for asked in self.asked]

    def costs(self) -> list[float]:
        """Microseconds of processor time per request."""
        return [taken / asked.requests * 1e6 for taken, asked in zip(self.processor, self.asked, strict=True)]


def run(arguments: argparse.Namespace) -> TableReport:
    """Measure what was asked for, and always the baseline. Takes about (contenders x rounds x seconds)."""
    chosen = select(arguments.only, CHOICES)["contender"]
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else set[int]()
    with running_server(apart=not arguments.anywhere) as server, ExitStack() as stack:
        report = TableReport(
            "http",
            f"{arguments.rounds} interleaved rounds of {arguments.seconds:g} s; {CONNECTIONS} connections, "
            f"GET of {len(BODY):,} bytes of JSON",
            environment(server, _PACKAGES),
        )
        own = os.sched_getaffinity(0) if sys.platform == "linux" else set[int]()
        load = Process("who asks", Load, allowed - own)
        stack.callback(load.end)
        load.answer()
        running = _start(chosen, server, report, stack)
        for contender in CONTENDERS:
            if contender.name in running:
                _check(contender.name, running[contender.name], caches=contender.caches)
        taken = _measure(server, load, running, arguments)
        for contender in CONTENDERS:
            if contender.caches and contender.name in running and running[contender.name].ask("usage")[0] != 1:
                raise RuntimeError(f"{contender.name} has asked the application again while it was measured")
    _tabulate(report, taken)
    return report


def _start(chosen: Iterable[str], server: Server, report: TableReport, stack: ExitStack) -> dict[str, Process]:
    """The contenders' processes; whoever is not installed is reported."""
    running: dict[str, Process] = {}
    for contender in CONTENDERS:
        if contender.name in (BASELINE, *chosen):
            running[contender.name] = Process(contender.name, WebServer, contender.name, server.url)
            stack.callback(running[contender.name].end)
    for name, process in list(running.items()):
        try:
            process.answer()
        except ImportError as error:
            report.missing[name] = str(error)
            del running[name]
    return running


def _check(name: str, process: Process, *, caches: bool) -> None:
    """It gives the right answer, and a cache has asked the application for the first one only."""
    with closing(HTTPConnection("127.0.0.1", process.ask("where"))) as connection:
        for count in (1, 2, 3):
            connection.request("GET", PATH)
            response = connection.getresponse()
            if response.status != 200 or response.read() != BODY:
                raise RuntimeError(f"{name} does not answer what it should: status {response.status}")
            calls, _ = process.ask("usage")
            if calls != (1 if caches else count):
                raise RuntimeError(f"{name} has asked the application {calls} times for {count} answers")


def _measure(
    server: Server, load: Process, running: dict[str, Process], arguments: argparse.Namespace
) -> dict[str, _Taken]:
    taken = {name: _Taken() for name in running}
    names = list(running)
    with redis.Redis(port=server.port) as client:
        for turn in range(arguments.rounds):
            for name in _rotated(names, turn):
                load.ask("connect", running[name].ask("where"))
                commands, (_, before) = _commands(client), running[name].ask("usage")
                taken[name].asked.append(load.ask("ask", arguments.seconds))
                taken[name].processor.append(running[name].ask("usage")[1] - before)
                taken[name].commands.append(_commands(client) - commands - 1)  # the one that asks
    return taken


def _rotated(names: list[str], by: int) -> Iterable[str]:
    by %= len(names)
    return names[by:] + names[:by]


def _commands(client: redis.Redis) -> int:
    statistics = client.info("stats")
    assert isinstance(statistics, dict)
    return int(statistics["total_commands_processed"])


def _tabulate(report: TableReport, taken: dict[str, _Taken]) -> None:
    rows: list[tuple[str, list[str]]] = []
    rates = {name: one.rates() for name, one in taken.items()}
    bare = taken[BASELINE].costs()
    for name, one in taken.items():
        costs = one.costs()
        seconds = sum(asked.seconds for asked in one.asked)
        cell = {
            "requests_per_second": median(rates[name]),
            "of_bare": _ratio(rates[name], rates[BASELINE]),
            "near_to_it": _ratio(rates[NEAR], rates[name]) if NEAR in rates else None,
            "remote_to_it": _ratio(rates[REMOTE], rates[name]) if REMOTE in rates else None,
            "cpu_us": median(costs),
            "cpu_of_bare": _ratio(costs, bare),
            "server_busy": sum(one.processor) / seconds,
            "load_busy": sum(asked.processor for asked in one.asked) / seconds,
            "commands": sum(one.commands) / sum(asked.requests for asked in one.asked),
        }
        report.cells.append({"contender": name, **cell, "rates": rates[name], "costs_us": costs})
        formats = (",.0f", ".3f", ".2f", ".2f", ",.1f", ".2f", ".0%", ".0%", ".1f")
        rows.append(
            (
                name,
                [
                    "-" if value is None else format(value, how)
                    for value, how in zip(cell.values(), formats, strict=True)
                ],
            )
        )
    columns = ["per s", "of bare", "near/it", "remote/it", "CPU us", "of bare", "uvicorn", "asking", "commands"]
    report.tables.append(Table("GET", columns, rows))


def _ratio(these: list[float], those: list[float]) -> float:
    """The median of the rounds' ratios."""
    return median(one / other for one, other in zip(these, those, strict=True))
