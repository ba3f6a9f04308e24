"""The fuzzer's targets in brief: 20,000 inputs, the same every time. ``make fuzz`` runs a million, guided."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.mutate import inputs
from tests.fuzz.targets import TARGETS

from nearcache import get_multi_redis_connection_manager

COUNT = 20_000
SHARES = sum(target.share for target in TARGETS.values())
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def disconnected() -> Iterator[None]:
    """One of the targets is a whole cache, on the process's own manager."""
    yield
    get_multi_redis_connection_manager().close()


@pytest.mark.filterwarnings("ignore")  # of patterns that are compiled
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_seeds(name: str) -> None:
    run(name, -(-COUNT * TARGETS[name].share // SHARES))


def run(name: str, count: int) -> None:
    for data in inputs(TARGETS[name].seeds, count, seed=1):
        try:
            TARGETS[name].run(data)
        except BaseException as error:
            error.add_note(f"input: {data!r}")
            raise


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_what_hypothesis_makes_of_a_seed(name: str, data: st.DataObject) -> None:
    """Few, but a failing one comes out as small as can be."""
    seed = data.draw(st.sampled_from(TARGETS[name].seeds))
    cuts = data.draw(st.lists(st.integers(0, len(seed)), min_size=2, max_size=2).map(sorted))
    TARGETS[name].run(seed[: cuts[0]] + data.draw(st.binary(max_size=40)) + seed[cuts[1] :])


def test_inputs_are_the_same_for_the_same_seed() -> None:
    seeds = [b"abc", b"defg"]
    assert list(inputs(seeds, 500, 1)) == list(inputs(seeds, 500, 1)) != list(inputs(seeds, 500, 2))
    assert list(inputs(seeds, 1, 1)) == [b"abc"]
    assert len(set(inputs(seeds, 500, 1))) > 300


@pytest.mark.parametrize(
    ("target", "patched", "broken"),
    [
        ("wire", "nearcache.transport.wire.Batch.done", lambda batch: True),
        ("thread_wire", "nearcache.transport.thread_wire._senseless", lambda error: error),
        ("handshake", "nearcache.transport.hello._facts", lambda answer: (answer[b"id"], "")),
        ("envelope", "nearcache.codec.Codec.payload", lambda self, raw, envelope: raw[2:]),
        ("sealed", "nearcache.codec.sealing.Encryption.open", lambda self, header, key, sealed: b"\x01"),
        ("resealed", "nearcache.codec.sealing.compare_digest", lambda mine, yours: True),
        ("native", "nearcache.codec.values.decode", lambda payload: 1 / (len(payload) - 5)),
        ("json", "nearcache.codec.wire_json.decode", len),
        ("stored", "nearcache.transport.memory._halves", lambda counter: [1] * len(counter)),
        ("url", "nearcache.transport.endpoint._is_sound", lambda parts: True),
        ("settings", "nearcache.settings._shown", lambda value: 1 / 0),
    ],
)
def test_each_target_notices(monkeypatch: pytest.MonkeyPatch, target: str, patched: str, broken: Any) -> None:
    monkeypatch.setattr(patched, broken)
    if target == "resealed":
        monkeypatch.setattr("nearcache.codec.sealing._key_id", lambda secret: b"same")
    with pytest.raises(Exception):  # noqa: B017  # whatever it is, it is noticed
        run(target, 3000)


def test_the_program(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.fuzz", "--count", "60", "--seed", "5", "url", "json"]
    run = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 finds" in run.stdout
    assert [line.split()[0] for line in run.stdout.splitlines()[1:-1]] == ["url", "json"]
    run = subprocess.run([*words[:3], "nothing"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 2
    assert "no target nothing" in run.stderr
