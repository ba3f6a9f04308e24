"""Slots: where keys belong, and batches that are taken apart and put together again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from nearcache.errors import CommandRefused, ConnectionFailed
from nearcache.tiers import remote
from nearcache.transport.slots import SLOTS, Node, Part, Scatter, SlotMap, slot_of

A, B = ("10.0.0.1", 7000), ("10.0.0.2", 7001)
HALF = SLOTS // 2


def two_nodes() -> SlotMap:
    """The lower half of the slots is A's, the upper half B's."""
    answer = [[0, HALF - 1, [b"10.0.0.1", 7000, b"a", []]], [HALF, SLOTS - 1, [b"10.0.0.2", 7001, b"b", []]]]
    return SlotMap(answer, A)


def keys_of(node: Node, count: int) -> list[bytes]:
    slots = two_nodes()
    keys = (b"key%d" % number for number in range(1000))
    return [key for key in keys if slots.owner(slot_of(key)) == node][:count]


KA1, KA2 = keys_of(A, 2)
KB1, KB2 = keys_of(B, 2)


@given(st.text("ab{}\xe9", max_size=12))
def test_slots_are_those_of_the_specification(key: str) -> None:
    assert slot_of(key) == slot_of(key.encode()) == key_slot(key.encode())


def test_a_key_and_its_lease_have_one_slot() -> None:
    assert slot_of(remote.lease(b"prefix.app:user:1")) == slot_of(b"prefix.app:user:1")


def answer(scatter: Scatter, **replies: Any) -> Any:
    """Let each node answer what the dictionary says, by what it was asked last."""
    parts = list(scatter.parts)
    while parts:
        part = parts.pop(0)
        parts += scatter.take(part, [replies[str(command[1], "ascii")] for command in scatter.commands(part)])
    assert scatter.complete
    return scatter.replies()


def test_replies_are_put_in_the_order_of_the_commands() -> None:
    commands = [("GET", KB1), ("PTTL", KA1), ("GET", KA2), ("PTTL", KB2)]
    scatter = Scatter(commands, two_nodes())
    assert {part.node: scatter.commands(part) for part in scatter.parts} == {
        B: [("GET", KB1), ("PTTL", KB2)],
        A: [("PTTL", KA1), ("GET", KA2)],
    }
    replies = {KB1.decode(): 1, KA1.decode(): 2, KA2.decode(): 3, KB2.decode(): 4}
    assert answer(scatter, **replies) == [1, 2, 3, 4]


def test_mget_is_taken_apart_and_another_type_is_no_value() -> None:
    scatter = Scatter([("MGET", KA1, KB1, KA2), ("PTTL", KA1)], two_nodes())
    replies = {KA1.decode(): b"a", KB1.decode(): CommandRefused("WRONGTYPE x"), KA2.decode(): None}
    assert answer(scatter, **replies) == [[b"a", None, None], b"a"]
    refused = CommandRefused("NOPERM x")
    scatter = Scatter([("MGET", KA1, KB1)], two_nodes())
    assert answer(scatter, **{KA1.decode(): b"a", KB1.decode(): refused}) == [refused]


@pytest.mark.parametrize(
    "command", [remote.delete([KA1, KB1, KA2], 7), remote.remove_older([KA1, KB1, KA2], b"1", b"2")]
)
def test_scripts_for_many_keys_are_sent_once_for_each(command: tuple[Any, ...]) -> None:
    scatter = Scatter([command], two_nodes())
    sent = [piece for part in scatter.parts for piece in scatter.commands(part)]
    each = 2 if command[1] is remote.DELETE else 1
    assert [piece[:4] for piece in sent] == [("EVAL", command[1], each, key) for key in (KA1, KA2, KB1)]
    assert {piece[3 + each :] for piece in sent} == {command[3 + 3 * each :]}
    for part in scatter.parts:
        assert scatter.take(part, [2] * len(part.places)) == []
    assert scatter.replies() == [6]


def test_a_refusal_of_one_is_the_refusal_of_all() -> None:
    scatter = Scatter([remote.delete([KA1, KB1], 7)], two_nodes())
    refused = CommandRefused("OOM x")
    for part in scatter.parts:
        scatter.take(part, [refused if part.node == B else 1])
    assert scatter.replies() == [refused]


def test_other_scripts_stay_whole() -> None:
    command = remote.elect(KB1, b"", b"token", 1, b"")
    scatter = Scatter([command], two_nodes())
    assert [(part.node, scatter.commands(part)) for part in scatter.parts] == [(B, [command])]


def test_a_scan_goes_through_all_primaries() -> None:
    keys: list[bytes] = []
    cursor, asked = b"0", []
    answers = {(A, b"0"): [b"17", [b"a1"]], (A, b"17"): [b"0", []], (B, b"0"): [b"0", [b"b1"]]}
    while True:
        scatter = Scatter([remote.scan(cursor, b"app:")], two_nodes())
        (part,) = scatter.parts
        (command,) = scatter.commands(part)
        asked.append((part.node, command[1]))
        scatter.take(part, [answers[part.node, command[1]]])  # type: ignore[index]
        ((cursor, found),) = scatter.replies()
        keys += found
        if cursor == b"0":
            break
    assert keys == [b"a1", b"b1"]
    assert asked == list(answers)


def test_what_has_moved_is_asked_again_where_it_is() -> None:
    slots = two_nodes()
    scatter = Scatter([("GET", KA1), ("GET", KA2), ("SET", KA1, b"x")], slots)
    (part,) = scatter.parts
    moved = CommandRefused(f"MOVED {slot_of(KA1)} 10.0.0.2:7001")
    assert scatter.take(part, [moved, b"a2", moved]) == [Part(B, [0, 2], False, 1)]
    assert scatter.outdated
    assert scatter.moved
    assert slots.owner(slot_of(KA1)) == B
    assert slots.owner(slot_of(KA2)) == A
    scatter.take(Part(B, [0, 2], False, 1), [b"a1", b"OK"])
    assert scatter.replies() == [b"a1", b"a2", b"OK"]


def test_what_is_about_to_move_is_asked_for_and_the_map_stays() -> None:
    slots = two_nodes()
    scatter = Scatter([("GET", KA1)], slots)
    (again,) = scatter.take(scatter.parts[0], [CommandRefused(f"ASK {slot_of(KA1)} :7009")])
    assert again == Part((A[0], 7009), [0], True, 1), "no host: the one that answered"
    assert scatter.commands(again) == [("ASKING",), ("GET", KA1)]
    assert scatter.take(again, [b"OK", b"a1"]) == []
    assert scatter.replies() == [b"a1"]
    assert not scatter.outdated
    assert slots.owner(slot_of(KA1)) == A


def test_nodes_that_point_at_each_other_end_in_a_refusal() -> None:
    scatter = Scatter([("GET", KA1)], two_nodes())
    part, turns = scatter.parts[0], 0
    while True:
        other = B if part.node == A else A
        again = scatter.take(part, [CommandRefused(f"MOVED {slot_of(KA1)} {other[0]}:{other[1]}")])
        if not again:
            break
        (part,), turns = again, turns + 1
    assert turns == 5
    assert scatter.replies()[0].args[0].startswith("MOVED")


@pytest.mark.parametrize("text", ["MOVED", "MOVED x y:z", "MOVED 99999 10.0.0.1:1", "ASK 1", "ASK 1 host:"])
def test_a_redirection_that_makes_no_sense_is_a_refusal(text: str) -> None:
    scatter = Scatter([("GET", KA1)], two_nodes())
    refused = CommandRefused(text)
    assert scatter.take(scatter.parts[0], [refused]) == []
    assert scatter.replies() == [refused]


def test_a_cluster_that_is_down_is_a_refusal_and_the_map_is_asked_for() -> None:
    scatter = Scatter([("GET", KA1)], two_nodes())
    scatter.take(scatter.parts[0], [CommandRefused("CLUSTERDOWN The cluster is down")])
    assert scatter.complete
    assert scatter.outdated
    assert not scatter.moved


FAR = [[[first, last, [b"h", 1]]] for first, last in ((0, SLOTS), (-1, 5), (5, 4), (0, 10**15), (b"0", b"5"))]
"""Slots that there are not."""


@pytest.mark.parametrize("answer", [None, [], [[1]], b"x", CommandRefused("ERR"), [[0, 1, [b"h", b"x"]]], *FAR])
def test_an_answer_that_is_no_map_is_refused(answer: Any) -> None:
    with pytest.raises(ConnectionFailed):
        SlotMap(answer, A)


def test_a_node_without_a_host_is_where_it_was_asked() -> None:
    slots = SlotMap([[0, 10, [b"", 7000]], [11, 20, [None, 7001]]], ("seed", 1))
    assert slots.nodes == [("seed", 7000), ("seed", 7001)]


def test_keys_in_two_places_are_asked_for_again_and_again_and_then_no_more() -> None:
    refused = CommandRefused("TRYAGAIN multiple keys request during rehashing of slot")
    scatter = Scatter([("GET", KA1), ("GET", KA2)], two_nodes())
    (part,) = scatter.parts
    pauses = []
    replies: list[Any] = [refused, b"value"]
    while again := scatter.take(part, replies):
        (part,), replies = again, [refused]
        assert (part.node, part.places) == (A, [0])
        pauses.append(part.pause)
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16]
    assert scatter.replies() == [refused, b"value"]


# -- replicas


def test_reads_of_values_go_where_the_readers_say_and_back_when_they_are_refused() -> None:
    replica = ("10.0.0.3", 7002)
    commands = [("GET", KA1), ("PTTL", KA1), ("SET", KA1, b"1"), ("MGET", KA2, KB1), ("EVAL", "return 1", 1, KA1)]
    scatter = Scatter(commands, two_nodes(), lambda primary, key: replica if key == KA1 else None)
    asked = {part.node: (part.primary, scatter.commands(part)) for part in scatter.parts}
    assert asked == {
        replica: (A, [("GET", KA1), ("PTTL", KA1)]),
        A: (None, [("SET", KA1, b"1"), ("GET", KA2), ("EVAL", "return 1", 1, KA1)]),
        B: (None, [("GET", KB1)]),
    }
    (part,) = (part for part in scatter.parts if part.node == replica)
    (again,) = scatter.take(part, [b"half", CommandRefused("MASTERDOWN Link with MASTER is down")])
    assert (again.node, again.primary, scatter.commands(again)) == (A, None, [("GET", KA1), ("PTTL", KA1)])
    assert scatter.refused.startswith("MASTERDOWN")


def test_a_map_of_one_takes_scripts_as_they_are() -> None:
    slots = SlotMap.of_one(A, [B])
    scatter = Scatter([remote.delete([KA1, KB1], 7), ("MGET", KA1, KB1)], slots)
    (part,) = scatter.parts
    assert scatter.commands(part) == [remote.delete([KA1, KB1], 7), ("GET", KA1), ("GET", KB1)]
    assert slots.replicas == {A: [B]}


def test_a_map_knows_replicas_and_its_copy_moves_by_itself() -> None:
    rows = [[0, SLOTS - 1, [b"10.0.0.1", 7000, b"a", []], [b"10.0.0.2", 7001, b"b", []], [b"", 7002, b"c", []]]]
    slots = SlotMap(rows, A)
    assert slots.replicas == {A: [B, (A[0], 7002)]}
    other = slots.copy()
    assert other.move(7, B)
    assert slots.owner(7) == A
