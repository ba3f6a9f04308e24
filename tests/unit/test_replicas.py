"""Which replica may be asked for which key: by notes, and by proofs that are newer than they."""

from __future__ import annotations

from typing import Any

import pytest

from nearcache.errors import CommandRefused
from nearcache.transport import replicas as module
from nearcache.transport.replicas import Replicas
from nearcache.transport.wire import Hook

P, R, S = ("p", 1), ("r", 2), ("s", 3)


class Setup:
    """A primary and replicas that answer when they are told to, and a clock."""

    def __init__(self, *nodes: tuple[str, int]) -> None:
        self.time = 100.0
        self.replicas = Replicas("cache", lambda: self.time)
        self.replicas.follow({P: list(nodes)})
        self.asked: list[tuple[tuple[str, int], Hook]] = []
        self.offset = 10

    def pass_time(self, seconds: float = 0.001) -> None:
        self.time += seconds

    def note(self, *keys: bytes) -> None:
        self.replicas.note(keys)
        self.pass_time()

    def ask(self) -> None:
        self.replicas.prove(P, lambda node, hook: self.asked.append((node, hook)))
        self.pass_time()

    def answer(self, reply: Any) -> None:
        _, hook = self.asked.pop(0)
        hook([reply])
        self.pass_time()

    def primary_says(self, offset: int, identity: str = "id", role: str = "master") -> None:
        assert self.asked[0][0] == P
        text = f"# Replication\r\nrole:{role}\r\nmaster_replid:{identity}\r\nmaster_repl_offset:{offset}\r\n"
        self.answer(text.encode())

    def replica_says(self, offset: int, identity: str = "id", link: str = "up", role: str = "slave") -> None:
        assert self.asked[0][0] != P
        lines = [f"role:{role}", f"master_link_status:{link}", f"slave_repl_offset:{offset}"]
        self.answer("\r\n".join([*lines, f"master_replid:{identity}", ""]).encode())

    def prove(self) -> None:
        self.ask()
        self.primary_says(10)
        self.replica_says(10)

    def covers(self, key: bytes) -> bool:
        return self.replicas.covers(P, key)


def test_nothing_is_covered_before_the_first_proof() -> None:
    setup = Setup(R)
    assert not setup.covers(b"key")
    setup.prove()
    assert setup.covers(b"key")


def test_a_note_needs_a_proof_that_was_asked_for_later() -> None:
    setup = Setup(R)
    setup.ask()
    setup.note(b"key")
    setup.primary_says(10)
    setup.replica_says(10)
    assert setup.covers(b"other")
    assert not setup.covers(b"key")
    setup.prove()
    assert setup.covers(b"key")


def test_a_replica_that_is_behind_is_asked_again_until_it_has_come_so_far() -> None:
    setup = Setup(R)
    setup.ask()
    setup.primary_says(10)
    setup.replica_says(9)
    assert not setup.covers(b"key")
    setup.ask()
    setup.replica_says(10)
    assert setup.covers(b"key")


def test_an_offset_of_another_history_proves_nothing() -> None:
    setup = Setup(R)
    setup.ask()
    setup.primary_says(10)
    setup.replica_says(99, identity="other")
    assert not setup.covers(b"key")
    setup.ask()
    setup.primary_says(10, identity="other")
    setup.replica_says(99, identity="other")
    assert setup.covers(b"key")


@pytest.mark.parametrize("reply", [CommandRefused("NOPERM"), b"role:slave\r\n", b""])
def test_without_a_word_of_the_primary_nothing_is_covered(reply: Any) -> None:
    setup = Setup(R)
    setup.ask()
    setup.answer(reply)
    assert setup.asked == []
    assert not setup.covers(b"key")


@pytest.mark.parametrize("wrong", [{"link": "down"}, {"role": "master"}])
def test_a_replica_that_is_none_or_has_no_primary_is_left(wrong: dict[str, str]) -> None:
    setup = Setup(R, S)
    first = setup.replicas.replica(P)
    setup.prove()
    setup.ask()
    setup.primary_says(10)
    setup.replica_says(10, **wrong)
    assert setup.replicas.replica(P) == (S if first == R else R)
    assert not setup.covers(b"key")


def test_the_next_replica_has_to_be_proven_anew_and_the_proof_of_the_last_is_not_its() -> None:
    setup = Setup(R, S)
    first = setup.replicas.replica(P)
    assert first is not None
    setup.ask()
    setup.primary_says(10)
    setup.replicas.left(first, "away")
    setup.replica_says(10)
    assert not setup.covers(b"key")
    setup.prove()
    assert setup.covers(b"key")
    assert setup.replicas.replica(P) != first


def test_a_choice_stays_as_long_as_it_is_named() -> None:
    setup = Setup(R)
    setup.prove()
    for _ in range(20):
        setup.replicas.follow({P: [R, S]})
        assert setup.replicas.replica(P) == R
    assert setup.covers(b"key")
    setup.replicas.follow({P: [S]})
    assert setup.replicas.replica(P) == S
    assert not setup.covers(b"key")
    setup.replicas.follow({P: []})
    assert setup.replicas.replica(P) is None
    setup.replicas.follow({})
    assert not setup.covers(b"key")


def test_doubt_covers_every_key() -> None:
    setup = Setup(R)
    setup.prove()
    setup.replicas.note(None)
    setup.pass_time()
    assert not setup.covers(b"key")
    setup.prove()
    assert setup.covers(b"key")


def test_too_many_notes_are_one_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_NOTES", 3)
    setup = Setup(R)
    setup.note(b"a", b"b", b"c")
    setup.prove()
    assert setup.covers(b"other")
    setup.note(b"d")
    assert not setup.covers(b"other")
    assert setup.replicas._noted == {}
    setup.prove()
    assert setup.covers(b"a")
    assert setup.covers(b"other")


def test_a_proof_gets_old() -> None:
    setup = Setup(R)
    setup.prove()
    setup.pass_time(9.9)
    assert setup.covers(b"key")
    setup.pass_time(0.2)
    assert not setup.covers(b"key")


def test_a_proof_is_due_once_in_a_while() -> None:
    setup = Setup(R)
    assert setup.replicas.due(P, 1.0)
    assert not setup.replicas.due(P, 1.0)
    setup.pass_time(0.5)
    assert not setup.replicas.due(P, 1.0)
    assert setup.replicas.due(P, 0.1)
    assert not setup.replicas.due(("nobody", 1), 0.0)
