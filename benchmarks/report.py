"""What was measured, as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from .server import Server

__all__ = ["Cell", "Report", "environment", "select"]


class Cell(NamedTuple):
    """One thing that is measured.

    Attributes:
        loop: the event loop, ``asyncio`` or ``uvloop``.
        op: ``GET`` or ``SET``.
        size: bytes of the value.
        callers: tasks or threads.
    """

    loop: str
    op: str
    size: int
    callers: int
    contender: str


@dataclass
class Report:
    """Attributes: ``samples`` are operations per second, one per round; ``latency_ms`` one per operation."""

    title: str
    unit: str  # what a caller is: task or thread
    baseline: str
    rounds: int
    seconds: float
    environment: dict[str, str]
    samples: dict[Cell, list[float]] = field(default_factory=dict)
    latency_ms: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, cell: Cell, rate: float) -> None:
        self.samples.setdefault(cell, []).append(rate)

    def rate(self, cell: Cell) -> float | None:
        """Operations per second, the median of the rounds."""
        return median(self.samples[cell]) if cell in self.samples else None

    def ratio(self, cell: Cell) -> float | None:
        """How often the baseline's rate that is; both are medians of the same rounds."""
        own, baseline = self.rate(cell), self.rate(cell._replace(contender=self.baseline))
        return own / baseline if own is not None and baseline else None

    def print(self, write: Callable[[str], object] = print) -> None:
        write(
            f"{self.title}: {self.rounds} rounds of {self.seconds:g} s per cell, interleaved; "
            f"medians of operations per second, and how often {self.baseline}'s"
        )
        for name, what in self.environment.items():
            write(f"  {name:12} {what}")
        for name, reason in self.missing.items():
            write(f"  {name:12} not measured: {reason}")
        for loop, op, size in dict.fromkeys((cell.loop, cell.op, cell.size) for cell in self.samples):
            write("")
            for line in self._table(loop, op, size):
                write(line)
        if self.latency_ms:
            write("\nnearcache, one task, 200 bytes, p50:")
            for (loop, op), times in self.latency_ms.items():
                write(f"  {op} {median(times):.3f} ms ({loop}, {len(times)} operations)")

    def _table(self, loop: str, op: str, size: int) -> Iterable[str]:
        cells = [cell for cell in self.samples if cell[:3] == (loop, op, size)]
        callers = sorted({cell.callers for cell in cells})
        counts = (f"{count} {self.unit}{'s' * (count != 1)}" for count in callers)
        yield f"{f'{op} {size} bytes, {loop}':28}" + "".join(f"{count:>18}" for count in counts)
        for contender in dict.fromkeys(cell.contender for cell in cells):
            row = (self._entry(Cell(loop, op, size, count, contender)) for count in callers)
            yield f"  {contender:26}" + "".join(f"{entry:>18}" for entry in row)

    def _entry(self, cell: Cell) -> str:
        rate, ratio = self.rate(cell), self.ratio(cell)
        if rate is None:
            return "-"
        return f"{rate:,.0f}" + (f" {ratio:6.2f}x" if ratio is not None else " " * 8)

    def write_json(self, path: Path) -> None:
        """Every sample, with the medians and ratios of the tables."""
        document: dict[str, Any] = {
            "title": self.title,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "baseline": self.baseline,
            "environment": self.environment,
            "missing": self.missing,
            "cells": [
                cell._asdict() | {"rates": rates, "median": self.rate(cell), "ratio": self.ratio(cell)}
                for cell, rates in self.samples.items()
            ],
            "latency_ms": [
                {"loop": loop, "op": op, "p50": median(times), "operations": len(times)}
                for (loop, op), times in self.latency_ms.items()
            ],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


def environment(server: Server | None, packages: Iterable[str]) -> dict[str, str]:
    """What the numbers depend on: versions, processor, server if any, and who else is at work."""
    load = " ".join(f"{minutes:.2f}" for minutes in os.getloadavg())
    versions = (f"{package} {_version(package)}" for package in dict.fromkeys(packages))
    running = f"{server.version}, started for this run, on 127.0.0.1, {server.placement}" if server else None
    return {
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}",
        "cpu": f"{os.cpu_count()} x {_processor()}; load {load}",
        **({"server": running} if running else {}),
        "packages": ", ".join(versions),
    }


def _version(package: str) -> str:
    if package == "nearcache":  # it may run from its sources
        from nearcache import __version__

        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def select(words: Iterable[str], choices: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Of each kind of choice those that are named, or all where none is.

    Raises:
        ValueError: a word names nothing.
    """
    words = set(words)
    known = {name for names in choices.values() for name in names}
    if unknown := words - known:
        raise ValueError(f"{', '.join(sorted(unknown))}: not among {', '.join(sorted(known))}")
    return {kind: tuple(name for name in names if name in words) or names for kind, names in choices.items()}
