"""``python -m tests.fuzz [--count N] [--seed S] [target …]``: so many inputs, shared out among the targets.

Guided by coverage with Atheris (libFuzzer) where that is installed: ``pip install atheris``. It counts the branches of
nearcache's own Python, not those of msgspec, hiredis or zstd, which are not built for it. Without it the inputs are
the mutated seeds that the tests use. Prints inputs per second and what was found, with the input; ends with 1 then.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

_LONGEST = 5  # seconds for one input
_MOST_MEMORY = 768  # MiB for the process
_MOST_BYTES = 4096  # of an input


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="all unless named")
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same inputs (default: 1)")
    parser.add_argument("--corpus", type=Path, help="keep what reached something new here, and begin from it")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # run here and now: what each child does
    asked = parser.parse_args()
    if asked.only:
        return _child(asked.only, asked.count, asked.seed, asked.corpus)
    from .targets import TARGETS

    if strangers := set(asked.targets) - TARGETS.keys():
        parser.error(f"no target {', '.join(sorted(strangers))}; there are {', '.join(TARGETS)}")
    chosen = asked.targets or list(TARGETS)
    shares = sum(TARGETS[name].share for name in chosen)
    guided = importlib.util.find_spec("atheris") is not None
    print(
        f"{asked.count:,} inputs, seed {asked.seed}, " + ("guided by Atheris" if guided else "not guided"), flush=True
    )
    began, ran, finds = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="nc-fuzz-") as temporary:
        for name in chosen:
            count = -(-asked.count * TARGETS[name].share // shares)
            corpus = (asked.corpus or Path(temporary)) / name
            done, found = _run(name, count, asked.seed, corpus)
            ran += done
            finds += found
    took = time.monotonic() - began
    print(f"{ran:,} inputs in {took:.0f} s, {ran / took:,.0f} a second, {finds} finds")
    return 1 if finds else 0


def _run(name: str, count: int, seed: int, corpus: Path) -> tuple[int, int]:
    """Fuzz one target in a process of its own, which it may kill; inputs it took, and finds: it ends with the first."""
    corpus.mkdir(parents=True, exist_ok=True)
    words = ["-m", __package__, "--only", name, "--count", count, "--seed", seed, "--corpus", corpus]
    began = time.monotonic()
    child = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, errors="replace")
    took = time.monotonic() - began
    told = re.findall(r"^(?:#|Done )(\d+)", child.stderr, re.MULTILINE)
    done = int(told[-1]) if told else 0
    peak = re.findall(r"rss: (\d+)Mb", child.stderr)
    memory = f", {peak[-1]} MiB" if peak else ""
    verdict = "ok" if child.returncode == 0 else "FOUND"
    print(f"{name:12} {done:>9,} inputs {done / took:>8,.0f} a second{memory}: {verdict}", flush=True)
    if child.returncode:
        lines = [line for line in child.stderr.splitlines() if not line.startswith(("INFO:", "WARNING:", "#"))]
        print("\n".join(lines[-60:]))
    return done, int(child.returncode != 0)


def _child(name: str, count: int, seed: int, corpus: Path) -> int:
    if importlib.util.find_spec("atheris") is None:
        return _unguided(name, count, seed)
    import atheris

    with atheris.instrument_imports(include=["nearcache"]):
        from .targets import TARGETS
    target = TARGETS[name]
    begin = corpus / "seeds"
    begin.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds):
        (begin / f"seed{number}").write_bytes(data)
    limits = [f"-runs={count}", f"-seed={seed}", f"-timeout={_LONGEST}", f"-rss_limit_mb={_MOST_MEMORY}"]
    places = [f"-max_len={_MOST_BYTES}", f"-artifact_prefix={Path.cwd()}/fuzz-{name}-", str(corpus), str(begin)]

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except BaseException:
            traceback.print_exc()
            print(f"input: {data!r}", file=sys.stderr)
            raise

    atheris.Setup([sys.argv[0], *limits, *places], run)
    atheris.Fuzz()  # does not come back
    return 0


def _unguided(name: str, count: int, seed: int) -> int:
    from .mutate import inputs
    from .targets import TARGETS

    target: Any = TARGETS[name]
    done = 0
    for done, data in enumerate(inputs(target.seeds, count, seed), 1):
        began = time.monotonic()
        try:
            target.run(data)
            assert time.monotonic() - began < _LONGEST, "too slow"
        except BaseException:
            traceback.print_exc()
            print(f"input: {data!r}\n#{done}", file=sys.stderr)
            return 1
    print(f"Done {done} inputs", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
