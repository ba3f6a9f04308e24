"""What a server has acknowledged of late: the ring of it, and what becomes of it when another server is there."""

from __future__ import annotations

from typing import Any

import pytest
from test_plans import (
    KEY,
    MINUTE,
    READ,
    SITE,
    TAG,
    Bench,
    Link,
    Plan,
    commands,
    elected,
    end,
    finish,
    lead,
    load_until_fill,
    reply,
)

from nearcache.core.effects import Load, Outcome
from nearcache.core.ring import SECONDS, UNKNOWN, History, Kind, Ring
from nearcache.core.writes import Item
from nearcache.errors import ConnectionFailed
from nearcache.sentinels import Miss
from nearcache.tiers import remote

FIRST, SECOND = History(b"first"), History(b"second", continues=b"first")
REPLAY = [remote.delete([KEY], 0)]


class Cluster(Link):
    """Keys that begin with one letter are on one server."""

    def __init__(self, **servers: History) -> None:
        super().__init__(version=7)
        self.servers = servers

    def histories(self, name: bytes | None = None) -> tuple[History, ...]:
        return tuple(self.servers.values()) if name is None else (self.servers[chr(name[0])],)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def ring(most: int = 10) -> Ring:
    return Ring(most, Clock())


# -- the ring


def test_what_another_server_has_acknowledged_is_lost_once() -> None:
    link, kept = Link(), ring()
    kept.note(Kind.KEY, [b"a", b"b"], link)
    kept.note(Kind.COUNTER, [b"c"], link)
    kept.note(Kind.COUNTER, [b"d"], link, soft=True)
    kept.note(Kind.HEAD, [b"e"], link)
    assert kept.lost(link) == {}
    link.history = SECOND
    assert kept.lost(link) == {
        (Kind.KEY, False): [b"a", b"b"],
        (Kind.COUNTER, False): [b"c"],
        (Kind.COUNTER, True): [b"d"],
        (Kind.HEAD, False): [b"e"],
    }
    assert kept.lost(link) == {}
    assert not len(kept)


def test_what_this_server_has_acknowledged_is_kept() -> None:
    old, new, kept = Link(), Link(), ring()
    new.history = SECOND
    kept.note(Kind.KEY, [b"a"], new)
    kept.note(Kind.KEY, [b"b"], old)  # a connection that has not heard of it yet
    assert kept.lost(new) == {(Kind.KEY, False): [b"b"]}
    new.history = History(b"third")
    assert kept.lost(new) == {(Kind.KEY, False): [b"a"]}


def test_the_last_ten_seconds_by_the_clients_clock() -> None:
    clock, link = Clock(), Link()
    kept = Ring(10, clock)
    kept.note(Kind.KEY, [b"a"], link)
    clock.now += SECONDS / 2
    kept.note(Kind.KEY, [b"b"], link)
    clock.now += SECONDS / 2 + 0.1
    link.history = SECOND
    assert kept.lost(link) == {(Kind.KEY, False): [b"b"]}
    assert not len(kept)


def test_and_no_more_than_so_many() -> None:
    link, kept = Link(), ring(3)
    for number in range(9):
        kept.note(Kind.KEY, [b"%d" % number], link)
    assert len(kept) == 3
    link.history = SECOND
    assert kept.lost(link) == {(Kind.KEY, False): [b"6", b"7", b"8"]}


def test_where_nothing_can_take_the_servers_place_nothing_is_kept() -> None:
    class Memory(Link):
        def histories(self, name: bytes | None = None) -> tuple[History, ...]:
            return ()

    kept = ring()
    kept.note(Kind.KEY, [b"a"], Memory())
    assert not len(kept)


def noted(link: Link) -> Ring:
    """A key and a counter on server a, a key on server b, all keys with one head."""
    kept = ring()
    kept.note(Kind.KEY, [b"a1"], link)
    kept.note(Kind.COUNTER, [b"a2"], link)
    kept.note(Kind.KEY, [b"b1"], link)
    kept.note(Kind.HEAD, [b"head"], link)
    return kept


A_IS_LOST = {(Kind.KEY, False): [b"a1"], (Kind.COUNTER, False): [b"a2"], (Kind.HEAD, False): [b"head"]}


def test_in_a_cluster_only_the_keys_of_the_server_that_was_replaced_are_lost() -> None:
    link = Cluster(a=FIRST, b=History(b"other"))
    kept = noted(link)
    assert kept.lost(link) == {}
    link.servers["a"] = UNKNOWN
    assert kept.lost(link) == {}, "not before there is a connection to be told on"
    link.servers["a"] = SECOND
    assert kept.lost(link) == A_IS_LOST
    assert kept.lost(link) == {}


def test_a_server_that_was_replaced_and_lives_on_is_known_by_who_continues_it() -> None:
    link = Cluster(a=FIRST, b=History(b"other"))
    kept = noted(link)
    link.servers |= {"a": SECOND, "c": FIRST}
    assert kept.lost(link) == A_IS_LOST


def test_a_server_that_was_started_anew_is_another() -> None:
    link = Cluster(a=FIRST, b=History(b"other"))
    kept = noted(link)
    link.servers["a"] = History(b"anew")
    assert kept.lost(link) == A_IS_LOST


def test_a_slot_that_was_handed_over_loses_nothing_until_its_new_server_is_lost() -> None:
    link = Cluster(a=FIRST, b=History(b"other"))
    kept = noted(link)
    link.servers |= {"a": History(b"new home"), "c": FIRST}
    assert kept.lost(link) == {}
    link.servers["a"] = History(b"replica", continues=b"new home")
    assert kept.lost(link) == {(Kind.KEY, False): [b"a1"], (Kind.COUNTER, False): [b"a2"]}


# -- which writes


def acknowledged(bench: Bench) -> list[tuple[Kind, bytes]]:
    other = Link()
    other.history = History(b"yet another")
    return [(kind, name) for (kind, _), names in bench.ring.lost(other).items() for name in names]


def run(plan: Plan, *replies: Any) -> Any:
    """Answer the one effect of a plan."""
    return finish(plan, next(plan), *replies)


def test_every_write_that_ends_something_is_noted_once() -> None:
    bench = Bench(Link(version=7))
    other = b"app:other"
    for plan, replies, written in (
        (bench.set(), [1, b"OK"], [(Kind.KEY, KEY)]),
        (bench.set(ttl_ms=None), [1, b"OK"], [(Kind.KEY, KEY)]),
        (
            bench.writes.set_many(bench.link, SITE, {KEY: Item("key", 1), other: Item("other", 1)}, MINUTE),
            [1, b"OK", 1, b"OK"],
            [(Kind.KEY, KEY), (Kind.KEY, other)],
        ),
        (bench.delete(), [0], [(Kind.KEY, KEY)]),
        (bench.writes.expire(bench.link, SITE, KEY, MINUTE), [1], [(Kind.KEY, KEY)]),
        (bench.raise_tags(), [b"OK", [b"3", b"4"]], [(Kind.COUNTER, TAG)]),
    ):
        run(plan, *replies)
        assert acknowledged(bench) == written


def test_a_write_that_failed_is_not_but_when_it_is_made_good_it_is() -> None:
    bench = Bench(Link(version=7))
    plan = bench.delete()
    next(plan)
    with pytest.raises(StopIteration):
        plan.throw(ConnectionFailed("away"))
    assert acknowledged(bench) == []
    run(bench.replay.settled(bench.link), 1)
    assert acknowledged(bench) == [(Kind.KEY, KEY)]


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("wire", ["native", "json"])
def test_a_clear_raises_a_counter_and_json_has_to_be_removed(wire: str, *, wait: bool) -> None:
    bench = Bench(Link(version=7))
    bench.codec.wire = wire
    plan = bench.writes.clear(bench.link, SITE, wait=wait)
    effect = reply(plan, next(plan), b"OK", [b"7", b"8"])
    if not wait:
        plan, effect = effect.plan, next(effect.plan)
    end(plan, [b"0", []])
    heads = [(Kind.HEAD, SITE.head)] if wire == "json" else []
    assert acknowledged(bench) == [(Kind.COUNTER, SITE.counter), *heads]


@pytest.mark.parametrize("replaces", [True, False])
def test_a_load_is_noted_when_it_replaces_something(*, replaces: bool) -> None:
    bench = Bench(Link(version=8))
    _, loading = load_until_fill(bench, bench.raw("old") if replaces else None)
    assert finish(loading, loading.send(Outcome("loaded")), 1000) is None
    assert acknowledged(bench) == ([(Kind.KEY, KEY)] if replaces else [])


def test_whoever_notes_something_has_the_connection_watched() -> None:
    """Between commands threads hear of its end in no other way."""
    bench = Bench(Link(version=7))
    run(bench.delete(), 1)
    assert bench.link.watched == 1


# -- another server


class Turned(Bench):
    """A bench whose client has deleted a key, on a server that is lost now."""

    def __init__(self, link: Link | None = None) -> None:
        super().__init__(link or Link(version=7))
        self.turns: list[Any] = []
        self.replay.on_turned = self.turns.append
        run(self.delete(), 1)

    def turn(self, *, first: bool = False) -> None:
        self.link.history = SECOND
        self.replay.turned(self.link, first=first)


def test_the_other_server_is_told_before_anything_is_read_there() -> None:
    bench = Turned()
    bench.turn()
    assert bench.turns == [bench.link]
    plan = bench.get()
    told = next(plan)
    assert commands(told) == REPLAY
    assert commands(reply(plan, told, 1))[:2] == READ
    assert not bench.recovery.owed
    assert acknowledged_by(bench, SECOND) == [(Kind.KEY, KEY)], "for it may be lost, too"


def acknowledged_by(bench: Bench, history: History) -> list[tuple[Kind, bytes]]:
    link = Link()
    link.history = history
    assert not bench.ring.lost(link)
    return acknowledged(bench)


def test_a_first_connection_to_it_finds_the_same() -> None:
    """That which has written may be gone, such as that of a loop that has ended."""
    bench = Turned()
    bench.link = Link(version=7)
    bench.turn(first=True)
    assert commands(next(bench.get())) == REPLAY


def test_the_same_server_is_told_nothing() -> None:
    bench = Turned()
    bench.replay.turned(Link(version=7), first=True)
    assert bench.turns == []
    assert commands(next(bench.get())) == READ


def test_what_failed_is_told_the_other_server_though_the_one_before_was_told() -> None:
    bench = Bench(Link(version=7))
    plan = bench.delete()
    next(plan)
    plan.close()
    there = Link(version=7)
    run(bench.replay.settled(there), 1)
    assert not bench.recovery.untold(there, bench.recovery.noted), "it is owed on the connection that failed"
    bench.replay.turned(there, first=False)
    assert commands(next(bench.replay.settled(there))) == REPLAY


def test_it_is_settled_by_the_connection_that_leads_there() -> None:
    """Another one may still lead to the server that is lost."""
    bench, behind = Turned(), Link(version=7)
    bench.turn()
    run(bench.replay.settled(behind), 1)
    assert bench.recovery.owed
    run(bench.replay.settled(bench.link), 1)
    assert not bench.recovery.owed


def test_a_write_that_was_under_way_may_have_been_acknowledged_by_either() -> None:
    bench = Bench(Link(version=7))
    plan = bench.delete()
    deleting = next(plan)
    bench.link.history = SECOND
    bench.replay.turned(bench.link, first=False)
    assert finish(plan, deleting, 1) == 1
    assert list(bench.recovery.owed) == [(Kind.KEY, KEY)]


@pytest.mark.parametrize("there", [True, False])
def test_when_another_connection_turns_it_depends_on_where_its_own_leads(*, there: bool) -> None:
    bench, other = Bench(Link(version=7)), Link(version=7)
    if there:
        bench.link.history = SECOND
        bench.replay.turned(bench.link, first=False)
    plan = bench.delete()
    deleting = next(plan)
    other.history = SECOND
    bench.replay.turned(other, first=False)
    assert finish(plan, deleting, 1) == 1
    assert bool(bench.recovery.owed) is not there


def test_nor_does_it_lead_where_another_one_of_a_cluster_knows_of_a_server_less() -> None:
    """That server may still have acknowledged it."""
    key = chr(KEY[0])
    bench, other = Bench(Cluster(**{key: FIRST, "z": History(b"z")})), Cluster(z=History(b"z"))
    bench.replay.turned(bench.link, first=False)
    plan = bench.delete()
    deleting = next(plan)
    bench.replay.turned(other, first=False)
    assert finish(plan, deleting, 1) == 1
    assert list(bench.recovery.owed) == [(Kind.KEY, KEY)]


def test_but_not_while_there_was_no_other() -> None:
    bench = Bench(Link(version=7))
    plan = bench.delete()
    deleting = next(plan)
    bench.replay.turned(bench.link, first=True)
    assert finish(plan, deleting, 1) == 1
    assert not bench.recovery.owed


@pytest.mark.parametrize("why", ["its version has to be read again", "without tracking", "without versions"])
def test_a_read_that_the_other_server_answered_untold_is_done_again(why: str) -> None:
    bench = Turned()
    if why == "without tracking":
        bench.link.tracks = False
        bench.link.counters.clear()
    if why == "without versions":
        bench.codec.wire = "json"
    old = b'"old"' if why == "without versions" else bench.raw("old")
    counter = [b"7"] * (why == "without tracking")
    plan = bench.get()
    read = next(plan)
    bench.turn()
    told = reply(plan, read, old, -1, *counter)
    assert commands(told) == REPLAY
    again = reply(plan, told, 1)
    assert commands(again)[:2] == READ
    counter = [*([b"OK"] * bench.link.tracks), b"7"]
    assert finish(plan, again, None, -2, *counter) is Miss.ABSENT


def test_nor_is_what_it_said_kept() -> None:
    bench = Turned(Link(track_all=True, version=7))
    plan = bench.get()
    read = next(plan)
    bench.turn()
    reply(plan, read, bench.raw("old"), -1)
    assert bench.near.left_over(KEY) is None


def test_an_election_that_the_other_server_held_untold_does_not_count() -> None:
    bench = Turned()
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), None, -2)
    election = next(loading)
    bench.turn()
    loads = reply(loading, election, *[b"OK"] * (len(election.commands) - 1), elected(bench, bench.raw("old")))
    assert isinstance(loads, Load)
    with pytest.raises(StopIteration):
        loading.send(Outcome("loaded"))
    next(plan)
    assert end(plan, None) == Outcome("loaded")


@pytest.mark.parametrize("hard", [True, False])
def test_counters_are_raised_there_too(*, hard: bool) -> None:
    bench = Bench(Link(version=7))
    run(bench.raise_tags(soft=not hard), b"OK", [b"3", b"4"])
    bench.link.history = SECOND
    bench.replay.turned(bench.link, first=False)
    assert commands(next(bench.get())) == [remote.raise_counter(TAG, soft=not hard)]
