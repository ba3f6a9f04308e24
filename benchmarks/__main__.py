"""``python -m benchmarks remote|sync``: see ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from . import remote, sync
from .report import Report


class Benchmark(NamedTuple):
    about: str
    run: Callable[[argparse.Namespace], Report]
    choices: dict[str, tuple[str, ...]]
    seconds: float


BENCHMARKS = {
    "remote": Benchmark("GET and SET on an event loop, 1 to 128 tasks", remote.run, remote.CHOICES, 0.15),
    "sync": Benchmark("GET and SET from 1 to 16 threads", sync.run, sync.CHOICES, 0.25),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name, help=benchmark.about, description=benchmark.about)
        command.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
        # Many short rounds: a median of them forgets the ones in which the machine did something else.
        command.add_argument("--rounds", type=_positive(int), default=7, help="default %(default)s")
        command.add_argument(
            "--seconds",
            type=_positive(float),
            default=benchmark.seconds,
            help="per cell and round, default %(default)s",
        )
        command.add_argument(
            "--only",
            type=lambda words: words.split(","),
            default=[],
            metavar="WORD,…",
            help="of each kind what is named: " + "; ".join(map(" ".join, benchmark.choices.values())),
        )
        command.add_argument("--anywhere", action="store_true", help="let server and clients share the processors")
    arguments = parser.parse_args(argv)
    try:
        report = BENCHMARKS[arguments.benchmark].run(arguments)
    except ValueError as error:
        parser.error(str(error))
    report.print()
    if arguments.json:
        report.write_json(arguments.json)
    return 0


def _positive(kind: type[int | float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not (number := kind(text)) > 0:
            raise ValueError
        return number

    parse.__name__ = f"positive {kind.__name__}"
    return parse


if __name__ == "__main__":
    sys.exit(main())
