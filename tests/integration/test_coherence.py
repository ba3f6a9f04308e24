"""A few seconds of ``python -m benchmarks coherence``, and whether its ledger would notice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.coherence.keys import SABOTAGES, Config, Key, keys_of, value_of, version_of
from benchmarks.coherence.ledger import MISS, Ledger, Table

_ROOT = Path(__file__).parent.parent.parent


_HANGS = 240  # seconds; a machine that is busy with something else needs several times the ten of a quiet one
pytestmark = pytest.mark.timeout(_HANGS + 20)


def check(file: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run the checker; its JSON, with its exit code as ``exit_code``."""
    command = [sys.executable, "-m", "benchmarks", "coherence", "--json", str(file), *arguments]
    path = {"PYTHONPATH": f"{_ROOT / 'src'}"}
    done = subprocess.run(command, cwd=_ROOT, env=path | environment, capture_output=True, text=True, timeout=_HANGS)
    assert file.exists(), done.stderr
    return json.loads(file.read_text()) | {"exit_code": done.returncode, "text": done.stdout}


def test_the_checker_does_not_cry_wolf(tmp_path: Path) -> None:
    """Reads and writes that the server does one by one are coherent, whatever fails."""
    report = check(
        tmp_path / "report",
        *("--seconds", "8", "--only", "get,get_many"),
        NEARCACHE_NEAR_ENABLED="false",
    )
    assert report["exit_code"] == 0, report["text"]
    assert report["violations"] == []
    assert report["injected"]["kill"] > 0
    for operations in report["operations"]:
        assert operations["get"] > 100
        assert operations["set"] > 10


def test_no_reader_sees_a_value_from_the_past(tmp_path: Path) -> None:
    report = check(tmp_path / "report", "--seconds", "8")
    assert report["exit_code"] == 0, report["text"]
    assert min(report["injected"][name] for name in ("kill", "block")) > 0
    for operations in report["operations"]:
        assert min(operations[name] for name in ("get", "get_many", "get_or_set", "cached", "set", "load")) > 0


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_it_notices_what_is_broken(sabotage: str, tmp_path: Path) -> None:
    # It ends as soon as something is found: after a few seconds, as a rule.
    report = check(tmp_path / "report", "--seconds", "150", "--break", sabotage)
    assert report["exit_code"] == 1
    assert report["found"], f"nearcache without {sabotage} is found to be right"


# -- the ledger


class Desk:
    """A ledger of process 0, with its table."""

    def __init__(self, path: Path) -> None:
        config = Config("", str(path), 1, (), ())
        Table.create(config.table, config.keys)
        self.table = Table(config.table, config.keys, ("set",))
        self.keys = keys_of(config)
        self.key = self.keys[0]
        self.ledger = Ledger(0, self.table, self.keys)

    def write(self) -> int:
        version = self.table.raise_origin(self.key)
        self.ledger.acknowledged(self.key, version)
        return version

    def read(self, version: int, *, floor: int | None = None, loads: bool = False, key: Key | None = None) -> None:
        """A read that began when the floor was ``floor``, or just now, returns this version."""
        begun = self.ledger.begin(self.key, "reader", "get")
        value = value_of(key or self.key, version)
        self.ledger.end(self.key, "reader", "get", begun if floor is None else floor, value, loads=loads)

    @property
    def kinds(self) -> list[str]:
        return [violation.kind for violation in self.ledger.violations]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "table")
    yield desk
    desk.table.close()


def test_what_was_read_before_is_the_least_that_may_be_read(desk: Desk) -> None:
    desk.table.raise_origin(desk.key)
    desk.read(1)
    desk.read(2)
    assert desk.kinds == []
    desk.read(1)
    assert desk.kinds == ["went back"]


def test_what_was_acknowledged_is_the_least_that_may_be_read(desk: Desk) -> None:
    version = desk.write()
    desk.read(version - 1)
    assert desk.kinds == ["went back"]


def test_reads_that_overlap_may_differ(desk: Desk) -> None:
    begun = desk.ledger.begin(desk.key, "reader", "get")
    desk.write()
    desk.read(1, floor=begun)
    assert desk.kinds == []
    desk.read(1)
    assert desk.kinds == ["went back"], "and do not lower what is known"


def test_a_miss_says_nothing(desk: Desk) -> None:
    desk.write()
    assert desk.ledger.end(desk.key, "reader", "get", 2, MISS) is None
    assert desk.kinds == []


def test_a_value_from_the_future_or_of_another_key_is_wrong(desk: Desk) -> None:
    desk.read(2)
    desk.read(1, key=desk.keys[1])
    assert desk.kinds == ["from the future", "wrong value"]


def test_what_was_loaded_counts_once_the_cache_has_it(desk: Desk) -> None:
    desk.table.raise_origin(desk.key)
    desk.ledger.loaded(desk.key, 2)
    desk.read(2, loads=True)
    desk.read(1)
    assert desk.kinds == [], "a load is ahead of what is stored"
    desk.read(2)
    desk.read(1)
    assert desk.kinds == ["went back"]


def test_what_another_process_loaded_comes_from_the_cache(desk: Desk) -> None:
    desk.table.raise_origin(desk.key)
    desk.read(2, loads=True)
    desk.read(1, loads=True)
    assert desk.kinds == ["went back"]


def test_a_value_is_spoilt_by_who_reads_it(desk: Desk) -> None:
    """So that a cache which hands out the same dict twice is found out."""
    record = next(key for key in desk.keys if key.record)
    value = value_of(record, 1)
    assert version_of(record, value) == 1
    assert version_of(record, value) is None


def test_all_processes_see_one_table(desk: Desk, tmp_path: Path) -> None:
    other = Table(str(tmp_path / "table"), len(desk.keys))
    desk.write()
    assert [other.origin(key) for key in desk.keys] == [2] + [1] * (len(desk.keys) - 1)
    assert other.acknowledged(desk.key) == 2
    other.close()


def test_a_violation_tells_what_happened(desk: Desk) -> None:
    desk.write()
    desk.table.note(desk.key, 2, "set", 2)
    desk.read(1)
    (violation,) = desk.ledger.violations
    assert (violation.returned, violation.floor, violation.origin, violation.acknowledged) == ("1", 2, 2, 2)
    events = [line.partition("ms  ")[2] for line in violation.timeline]
    assert events == ["writer: set 2 is acknowledged", "reader: get begins", "reader: get returns 1"]
