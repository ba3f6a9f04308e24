"""``python -m benchmarks NAME``: see ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from . import capacity, chaos, coherence, eviction, http, invalidation, local, memory, remote, stampede, sync


class Result(Protocol):
    """What a benchmark returns. ``exit_code`` is there where a run can fail."""

    def print(self) -> None: ...
    def write_json(self, path: Path) -> None: ...


class Benchmark(NamedTuple):
    """Attributes: an option whose default is None is not offered; ``apart``: it may keep server and clients apart."""

    about: str
    run: Callable[[argparse.Namespace], Result]
    choices: dict[str, tuple[str, ...]]
    seconds: float | None
    # Many short rounds: a median of them forgets the ones in which the machine did something else.
    rounds: int | None = 7
    apart: bool = True
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


BENCHMARKS = {
    "remote": Benchmark("GET and SET on an event loop, 1 to 128 tasks", remote.run, remote.CHOICES, 0.15),
    "sync": Benchmark("GET and SET from 1 to 16 threads", sync.run, sync.CHOICES, 0.25),
    "local": Benchmark("a hit in the process, beside other libraries", local.run, local.CHOICES, 0.02),
    "http": Benchmark("a cached GET behind uvicorn", http.run, http.CHOICES, 0.3),
    "stampede": Benchmark("4,000 callers of one cold key", stampede.run, stampede.CHOICES, None, 5),
    "invalidation": Benchmark(
        "from a write in one process to a fresh read in another",
        invalidation.run,
        invalidation.CHOICES,
        seconds=None,
        rounds=50,
        add_arguments=invalidation.add_arguments,
    ),
    "eviction": Benchmark(
        "hit ratios of the near tier's eviction",
        eviction.run,
        eviction.CHOICES,
        seconds=None,
        rounds=3,
        apart=False,
        add_arguments=eviction.add_arguments,
    ),
    "memory": Benchmark("bytes per entry of the process", memory.run, memory.CHOICES, None, 1),
    "capacity": Benchmark("bytes of the server per entry, tracked key and connection", capacity.run, {}, None, None),
    "coherence": Benchmark(
        "a checker: no value from the past, whatever fails",
        coherence.run,
        coherence.CHOICES,
        seconds=30,
        rounds=None,
        apart=False,
        add_arguments=coherence.add_arguments,
    ),
    "chaos": Benchmark(
        "an application under load while its server fails",
        chaos.run,
        chaos.CHOICES,
        seconds=10,
        rounds=None,
        apart=False,
        add_arguments=chaos.add_arguments,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name, help=benchmark.about, description=benchmark.about)
        command.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
        if benchmark.rounds is not None:
            command.add_argument("--rounds", type=_positive(int), default=benchmark.rounds, help="default %(default)s")
        if benchmark.seconds is not None:
            command.add_argument(
                "--seconds",
                type=_positive(float),
                default=benchmark.seconds,
                help=f"{'in all' if benchmark.rounds is None else 'per cell and round'}, default %(default)s",
            )
        if benchmark.choices:
            command.add_argument(
                "--only",
                type=lambda words: words.split(","),
                default=[],
                metavar="WORD,…",
                # A % would begin a placeholder.
                help=f"of each kind what is named: {'; '.join(map(' '.join, benchmark.choices.values()))}".replace(
                    "%", "%%"
                ),
            )
        if benchmark.apart:
            command.add_argument("--anywhere", action="store_true", help="let server and clients share the processors")
        benchmark.add_arguments(command)
    arguments = parser.parse_args(argv)
    try:
        report = BENCHMARKS[arguments.benchmark].run(arguments)
    except ValueError as error:
        parser.error(str(error))
    report.print()
    if arguments.json:
        report.write_json(arguments.json)
    return getattr(report, "exit_code", 0)


def _positive(kind: type[int | float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not (number := kind(text)) > 0:
            raise ValueError
        return number

    parse.__name__ = f"positive {kind.__name__}"
    return parse


if __name__ == "__main__":
    sys.exit(main())
