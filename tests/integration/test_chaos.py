"""A few seconds of ``python -m benchmarks chaos``, and whether it would notice. How quick anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.chaos.conductor import Course, _judge
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.items import Versions, value_of
from benchmarks.chaos.load import Answer, Kind, Load, Round
from benchmarks.chaos.site import State

_ROOT = Path(__file__).parents[2]


def _run(file: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the only cell, and what was printed."""
    command = [sys.executable, "-m", "benchmarks", "chaos", "--seconds", "1.5", "--json", str(file), *arguments]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=100)
    assert file.exists(), done.stderr
    (cell,) = json.loads(file.read_text())["cells"]
    return done.returncode, cell, done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_application_survives(tmp_path: Path, fault: str) -> None:
    _, cell, printed = _run(tmp_path / "chaos.json", "--only", fault)
    assert cell["requests"] > 1000
    assert (cell["errors"], cell["wrong"], cell["forgotten"]) == (0, 0, 0), printed
    assert cell["made_good"] > 0, "nothing failed: that was no fault"
    assert cell["recovered"] < float("inf")


@pytest.mark.timeout(120)
def test_it_notices_writes_that_are_forgotten(tmp_path: Path) -> None:
    code, cell, printed = _run(tmp_path / "chaos.json", "--only", "readonly", "--break", "recovery")
    assert code == 1
    assert cell["forgotten"] > 0
    assert cell["wrong"] > 0, "a process served what it had itself changed"
    assert "of its own" in printed


# -- the judge


def _answer(sent: float, **what: Any) -> Answer:
    return Answer(Kind.CHANGING, 0, sent, sent, sent + 0.01, 100, 1)._replace(**what)


def _judged(*answers: Answer, fails_over: bool = False, reviewed: tuple[Answer, ...] = ()) -> dict[str, Any]:
    """The fault lasts from 10 to 20."""
    probes = [(when, process, works) for process in (0, 1) for when, works in ((15.0, False), (20.5, True))]
    states = [State(0, 3, 0, 0, [])] * 2
    asked = Round([_answer(5), *answers], probes)
    return _judge(Course(fails_over, 10.0, 20.0, asked, list(reviewed), 60, states))


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (_answer(15), {}),
        (_answer(15, error="500"), {"errors": 1}),
        (_answer(15, wrong="of another item"), {"wrong": 1}),
        (_answer(15, age=4.0), {"stale": 1}),
        (_answer(20.9, age=4.0), {"stale": 1}),
        (_answer(21.1, age=4.0), {"late": 1}),
        (_answer(21.1, age=0.5), {}),
        (_answer(9, age=1.5), {"late": 1}),
        (_answer(15, age=0.001, own=True), {"wrong": 1}),
        (_answer(9, age=0.001, own=True), {"wrong": 1}),
    ],
)
def test_what_an_answer_counts_as(answer: Answer, counts: dict[str, int]) -> None:
    judged = _judged(answer)
    assert {name: judged[name] for name in ("errors", "wrong", "late", "stale", "forgotten") if judged[name]} == counts


def test_a_new_primary_may_lack_what_was_acknowledged_for_a_second() -> None:
    assert _judged(_answer(20.5, age=4.0, own=True), fails_over=True)["wrong"] == 0
    assert _judged(_answer(21.5, age=4.0, own=True), fails_over=True)["wrong"] == 1


def test_what_is_old_when_all_is_over_was_forgotten() -> None:
    assert _judged(reviewed=(_answer(30, age=5.0), _answer(30)))["forgotten"] == 1


def test_when_it_has_recovered() -> None:
    assert _judged()["recovered"] == 0.5
    probes = [(20.5, 0, True), (20.7, 0, False), (20.9, 0, True), (20.1, 1, True)]
    course = Course(False, 10.0, 20.0, Round([_answer(5)], probes), [], 0, [])
    assert _judge(course)["recovered"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("body", "wrong", "own"),
    [
        (value_of(100, 1), "", True),
        (value_of(100, 2), "", False),
        (value_of(100, 3), "", False),
        (value_of(100, 4), "item 100: 4 is from the future", False),
        (value_of(101, 3), "of item 100", False),
        ({"version": 3}, "of item 100", False),
        ([], "no item", False),
    ],
)
def test_an_answer_is_held_against_what_was_changed(tmp_path: Path, body: Any, wrong: str, own: bool) -> None:
    Versions.create(tmp_path / "versions")
    load = Load(str(tmp_path / "versions"), [], 1, "")
    load._versions.advance(100)
    load._versions.advance(100)
    changes = [(1.0, 0, 2), (2.0, 1, 3)]
    answer = load._judge(_answer(5), json.dumps(body).encode(), changes)
    load.close()
    assert answer.wrong.startswith(wrong)
    assert bool(answer.wrong) == bool(wrong)
    assert answer.own == own
    if not wrong:
        assert answer.age == {1: 4.0, 2: 3.0, 3: 0.0}[answer.version]
