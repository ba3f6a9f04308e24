"""Starts the processes, says when what happens, and reports."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..processes import Process
from ..report import environment, select
from ..server import running_server
from .actors import READS, WRITES
from .faults import Faults
from .fronts import TAGS
from .keys import FAULTS, PROCESSES, SABOTAGES, Config
from .ledger import Table, Violation
from .worker import Worker

__all__ = ["CHOICES", "Findings", "add_arguments", "run"]

CHOICES: dict[str, tuple[str, ...]] = {"read": tuple(READS), "write": tuple(WRITES)}

_ROUND = 1.0  # seconds
_PATIENCE = (2.0, 0.2)  # seconds; a second look finds what arrives after the first
_SHOWN = 20
_ENOUGH = 300  # violations after which looking for more would only take time; one, where something is broken
_NOTES = ("load", "cancelled", "retry", "miss", "behind")
_PACKAGES = ("nearcache", "hiredis", "msgspec", "uvloop")


@dataclass
class Findings:
    """What a run did and found."""

    seconds: float
    seed: int
    faults: tuple[str, ...]
    sabotage: str | None
    environment: dict[str, str]
    operations: list[Counter[str]] = field(default_factory=lambda: [Counter() for _ in range(PROCESSES)])
    injected: Counter[str] = field(default_factory=Counter)
    found: list[dict[str, int]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    commands: int = 0
    rounds: int = 0

    @property
    def total(self) -> int:
        """Violations found."""
        return sum(sum(each.values()) for each in self.found)

    @property
    def exit_code(self) -> int:
        return 1 if self.total else 0

    def print(self, write: Callable[[str], object] = print) -> None:
        broken = f", without {self.sabotage}" if self.sabotage else ""
        write(f"coherence: {self.rounds} rounds, {self.seconds:g} s, seed {self.seed}{broken}")
        for name, what in self.environment.items():
            write(f"  {name:12} {what}")
        if not TAGS:
            write(f"  {'tags':12} not checked: this version has none")
        columns = [*(f"process {each}" for each in range(PROCESSES)), "all"]
        write(f"\n{'operations':18}" + "".join(f"{column:>12}" for column in columns))
        for name in (*READS, *WRITES, *_NOTES):
            row = [counts[name] for counts in self.operations]
            write(f"  {name:16}" + "".join(f"{count:12,}" for count in (*row, sum(row))))
        reads, writes = (sum(each[name] for each in self.operations for name in names) for names in (READS, WRITES))
        rate = (reads + writes) / (self.rounds * _ROUND)
        write(f"\n{reads:,} reads and {writes:,} writes, {rate:,.0f}/s between rests")
        write(f"the server carried out {self.commands:,} commands, those of the checks at rest included")
        write("faults: " + (", ".join(f"{count} {kind}" for kind, count in self.injected.items()) or "none"))
        write(f"violations: {self.total:,}" + "".join(f"; {n:,} {kind}" for kind, n in sorted(self._kinds().items())))
        for violation in self.violations[:_SHOWN]:
            write(
                f"\n{violation.kind}: {violation.key} in process {violation.process}: {violation.operation} of "
                f"{violation.actor} returned {violation.returned}, floor {violation.floor}; "
                f"now acknowledged {violation.acknowledged}, origin {violation.origin}"
            )
            for line in violation.timeline:
                write(f"  {line}")

    def _kinds(self) -> Counter[str]:
        return sum((Counter(each) for each in self.found), Counter[str]())

    def write_json(self, path: Path) -> None:
        document = {
            "title": "coherence",
            "seconds": self.seconds,
            "rounds": self.rounds,
            "seed": self.seed,
            "faults": self.faults,
            "sabotage": self.sabotage,
            "environment": self.environment,
            "tags": TAGS,
            "operations": self.operations,
            "injected": self.injected,
            "commands": self.commands,
            "found": self._kinds(),
            "violations": [violation.as_dict() for violation in self.violations],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=1, help="decides what each actor does, default %(default)s")
    parser.add_argument(
        "--faults",
        type=lambda text: tuple(text.split(",")) if text else (),
        default=FAULTS,
        metavar="WORD,…",
        help=f"of {' '.join(FAULTS)}; default all, '' for none",
    )
    parser.add_argument("--break", dest="sabotage", choices=SABOTAGES, help="switch off a safety: this must be noticed")


def run(arguments: argparse.Namespace) -> Findings:
    """Look for violations for so many seconds, rests included.

    Raises:
        ValueError: what is to be broken cannot be, or there is no operation or fault of that name.
    """
    if unknown := set(arguments.faults) - set(FAULTS):
        raise ValueError(f"{', '.join(sorted(unknown))}: not among {', '.join(FAULTS)}")
    operations = tuple(name for names in select(arguments.only, CHOICES).values() for name in names)
    with running_server(apart=False) as server, tempfile.TemporaryDirectory(prefix="coherence-") as directory:
        table = str(Path(directory) / "table")
        config = Config(server.url, table, arguments.seed, arguments.faults, operations, arguments.sabotage)
        Table.create(table, config.keys)
        described = environment(server, _PACKAGES)
        findings = Findings(arguments.seconds, config.seed, config.faults, config.sabotage, described)
        faults = Faults(server.port, config.faults, config.seed)
        workers: list[Process] = []
        try:
            workers.extend(Process(f"process {number}", Worker, config, number) for number in range(PROCESSES))
            for each in workers:
                try:
                    each.answer()
                except LookupError as error:
                    raise ValueError(str(error)) from None
            _conduct(workers, faults, findings)
        finally:
            for each in workers:
                each.end()
            faults.close()
    return findings


def _conduct(workers: list[Process], faults: Faults, findings: Findings) -> None:
    end = time.monotonic() + findings.seconds
    enough = 1 if findings.sabotage else _ENOUGH
    while time.monotonic() < end and findings.total < enough:
        for each in workers:
            each.tell("run", _ROUND, findings.rounds)
        faults.inject(_ROUND)
        for each, counts in zip(workers, findings.operations, strict=True):
            counts.update(each.answer())
        for patience in _PATIENCE:
            for each in workers:
                each.tell("check", patience)
            answers = [each.answer() for each in workers]
            findings.found = [found for found, _ in answers]
            findings.violations = [violation for _, violations in answers for violation in violations]
        findings.rounds += 1
    findings.commands = faults.commands()
    findings.injected = faults.injected
    findings.injected["block"] = sum(counts["block"] for counts in findings.operations)
