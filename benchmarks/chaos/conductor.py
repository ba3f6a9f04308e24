"""Starts everything for one fault after the other, says when what happens, and reports."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from demo import data

from ..processes import Process
from ..report import environment, select
from ..tables import Table, TableReport, percentile
from . import flights
from .faults import FAULTS, Fault
from .items import HELD_ITEMS, Versions
from .load import RATE, Answer, Kind, Load, Round
from .site import SABOTAGES, Site, State

__all__ = ["CHOICES", "add_arguments", "run"]

CHOICES: dict[str, tuple[str, ...]] = {"fault": tuple(FAULTS)}

_PROCESSES = 2
_WARM = 1.0  # seconds of load that do not count
_SETTLED = 1.0  # seconds after which a change counts everywhere
_REST = 1.5  # seconds until everything is looked at once more
_SHOWN = 10
_PACKAGES = ("nearcache", "hiredis", "uvicorn", "fastapi", "uvloop", "httptools")
_COLUMNS = (
    *("requests", "errors", "p99 before", "during", "after", "outage", "recovered"),
    *("stale", "at most", "wrong", "late", "made good", "forgotten", "loads"),
)


class Course(NamedTuple):
    """What happened. Attributes: ``began`` and ``back`` are when the fault did, and the server was."""

    fails_over: bool
    began: float
    back: float
    asked: Round
    reviewed: list[Answer]
    loads: int
    states: list[State]


class Report(TableReport):
    """A run that found what must never be has an exit code of 1."""

    exit_code = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=1, help="decides what is asked for, default %(default)s")
    parser.add_argument("--break", dest="sabotage", choices=SABOTAGES, help="switch off a safety: this must be noticed")


def run(arguments: argparse.Namespace) -> Report:
    """One fault after the other.

    Raises:
        ValueError: there is no fault of that name.
    """
    names = select(arguments.only, CHOICES)["fault"]
    seconds = arguments.seconds
    about = f"{_PROCESSES} processes, {RATE} requests/s, {seconds:g} s before, during and after each fault; p99 in ms"
    report = Report("chaos", about, environment(None, _PACKAGES))
    rows, found = [], []
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        files = Path(directory)
        (files / "csv").mkdir()
        flights.write(files / "csv")
        data.load(files / "csv", files / "flights.sqlite", lambda *_: None)
        for name in names:
            fault = FAULTS[name](arguments.seed)
            try:
                course = _suffer(fault, files, seconds, arguments.seed, arguments.sabotage)
            finally:
                fault.close()
            cell = {"fault": name, **_judge(course)}
            report.cells.append(cell)
            rows.append((name, _row(cell)))
            found += [(f"{name}, {each}", ()) for each in cell["found"][:_SHOWN]]
            report.exit_code |= any(cell[name] for name in ("errors", "wrong", "late", "forgotten"))
    report.tables.append(Table("fault", _COLUMNS, rows))
    if found:
        report.tables.append(Table("found", (), found))
    return report


def _suffer(fault: Fault, files: Path, seconds: float, seed: int, sabotage: str | None) -> Course:
    """One fault, from a warm start to the end."""
    versions, end = files / "versions", files / "end"
    Versions.create(versions)
    end.unlink(missing_ok=True)
    sites = [
        Process(f"process {number}", Site, fault.url, str(versions), str(files / "flights.sqlite"), sabotage)
        for number in range(_PROCESSES)
    ]
    processes = list(sites)
    try:
        for site in sites:
            site.answer()
        load = Process("the load", Load, str(versions), [site.ask("port") for site in sites], seed, str(end))
        processes.append(load)
        load.answer()
        if failed := load.ask("warm"):
            raise RuntimeError(f"before any fault: {failed}")
        loads = sum(site.ask("state").loads for site in sites)
        load.tell("ask")
        time.sleep(_WARM + seconds)
        began = time.monotonic()
        fault.begin()
        if not fault.fails_over:
            time.sleep(seconds)
        fault.end()
        back = time.monotonic()
        time.sleep(seconds)
        end.touch()
        asked = load.answer()
        time.sleep(_REST)
        states = [site.ask("state") for site in sites]
        loaded = sum(state.loads for state in states) - loads
        reviewed = load.ask("review", False) + load.ask("review", True)
        return Course(fault.fails_over, began, back, asked, reviewed, loaded, [site.ask("state") for site in sites])
    finally:
        for each in reversed(processes):
            each.end()


def _judge(course: Course) -> dict[str, Any]:
    """The numbers of one fault."""
    answers = course.asked.answers
    errors = [answer for answer in (*answers, *course.reviewed) if answer.error]
    wrong = [answer for answer in answers if answer.wrong or (answer.own and not _may_be_lost(answer, course))]
    late = [answer for answer in answers if answer.age > _SETTLED and not _away(answer, course) and answer not in wrong]
    stale = [answer for answer in answers if answer.age and _away(answer, course) and answer not in wrong]
    forgotten = [answer for answer in course.reviewed if answer.wrong or answer.age]
    phases = (answers[0].due + _WARM, course.began, course.back, float("inf"))
    during = [[each for each in answers if first <= each.due < last] for first, last in pairwise(phases)]
    return {
        "requests": len(answers),
        "errors": len(errors),
        "p99_ms": [_p99_ms(phase, Kind.HELD) for phase in during],
        "p99_ms_others": [_p99_ms(phase, Kind.CHANGING, Kind.WRITE) for phase in during],
        "outage": course.back - course.began,
        "recovered": max(_recovered(course, process) for process in range(_PROCESSES)),
        "stale": len(stale),
        "stalest": max((answer.age for answer in stale), default=0.0),
        "wrong": len(wrong),
        "late": len(late),
        "made_good": sum(state.made_good for state in course.states),
        "forgotten": len(forgotten) + sum(state.forgotten + state.owed for state in course.states),
        "loads": course.loads / HELD_ITEMS,
        "found": [_told(answer, course) for answer in (*errors, *wrong, *late, *forgotten)],
        "log": [state.log for state in course.states],
    }


def _p99_ms(answers: Iterable[Answer], *kinds: str) -> float | None:
    times = [answer.ended - answer.due for answer in answers if answer.kind in kinds]
    return percentile(times, 99) * 1000 if times else None


def _away(answer: Answer, course: Course) -> bool:
    """Whether it was asked for while there was no server, or just after."""
    return course.began <= answer.sent <= course.back + _SETTLED


def _may_be_lost(answer: Answer, course: Course) -> bool:
    """A new primary may lack what the old one had acknowledged."""
    return course.fails_over and _away(answer, course)


def _recovered(course: Course, process: int) -> float:
    """Seconds from when the server could work until this process worked, for good."""
    probes = [(when, works) for when, which, works in course.asked.probes if which == process and when > course.back]
    failed = max((when for when, works in probes if not works), default=0.0)
    return min((when for when, works in probes if works and when > failed), default=float("inf")) - course.back


def _told(answer: Answer, course: Course) -> str:
    what = answer.error or answer.wrong or f"item {answer.item}: {answer.version} is {answer.age:.3f} s too old"
    whose = ", of its own" if answer.own else ""
    return f"{answer.sent - course.began:+.3f} s, process {answer.process}, {answer.kind}: {what}{whose}"


def _row(cell: dict[str, Any]) -> Sequence[str]:
    before, during, after = ("-" if each is None else f"{each:.1f}" for each in cell["p99_ms"])
    return (
        *(f"{cell['requests']:,}", f"{cell['errors']}", before, during, after),
        *(f"{cell['outage']:.2f} s", f"{cell['recovered']:.2f} s", f"{cell['stale']}", f"{cell['stalest']:.2f} s"),
        *(f"{cell[name]}" for name in ("wrong", "late", "made_good", "forgotten")),
        f"{cell['loads']:.2f}",
    )
