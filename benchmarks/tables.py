"""A report that is a few small tables, each with rows and columns of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

__all__ = ["Table", "TableReport", "percentile"]


class Table(NamedTuple):
    """Attributes: a row is its name and what stands in each column, ready to print."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]

    def lines(self) -> Iterable[str]:
        names = max(len(name) for name in (self.title, *(f"  {name}" for name, _ in self.rows)))
        widths = [
            max(len(column), *(len(cells[at]) for _, cells in self.rows)) if self.rows else len(column)
            for at, column in enumerate(self.columns)
        ]
        for name, cells in ((self.title, self.columns), *((f"  {name}", cells) for name, cells in self.rows)):
            yield f"{name:{names}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


@dataclass
class TableReport:
    """Attributes: ``cells`` are the numbers behind the tables, for programs."""

    title: str
    about: str
    environment: dict[str, str]
    missing: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)

    def print(self, write: Callable[[str], object] = print) -> None:
        write(f"{self.title}: {self.about}")
        for name, what in self.environment.items():
            write(f"  {name:12} {what}")
        for name, reason in self.missing.items():
            write(f"  {name:12} not measured: {reason}")
        for table in self.tables:
            write("")
            for line in table.lines():
                write(line)

    def write_json(self, path: Path) -> None:
        document = {
            "title": self.title,
            "environment": self.environment,
            "missing": self.missing,
            "cells": self.cells,
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


def percentile(samples: Sequence[float], percent: int) -> float:
    """The value that so many percent of the samples do not exceed."""
    if len(samples) < 2:
        return samples[0]
    return quantiles(samples, n=100, method="inclusive")[percent - 1]
