"""The near tier alone: replies, pushes and time are handed to it by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from nearcache.codec import Codec
from nearcache.core.found import Found, judge
from nearcache.core.keys import Namespace
from nearcache.core.ports import Mark
from nearcache.sentinels import Miss
from nearcache.tiers.entry import COPY, Entry
from nearcache.tiers.memory import NearTier

SITE = Namespace("app")
KEY = SITE.key("key")
RED, BLUE = SITE.tag_counter(b"red"), SITE.tag_counter(b"blue")
CODEC = Codec()


class Link:
    """A connection, as the tier sees it."""

    tracks = True
    clock = 0.0

    def __init__(self, near: NearTier, *, track_all: bool = True) -> None:
        self.track_all = track_all
        self.counters: dict[bytes, tuple[int, int]] = {}
        self.watched = 0
        near.attach(self)

    def watch(self) -> None:
        self.watched += 1


class Bench:
    """A tier, a clock, and two connections that know the namespace's version."""

    def __init__(self, entries: int = 100, size: int = 10**6, ttl: float = 60.0) -> None:
        self.time = 1_000.0
        self.near = NearTier(entries, size, ttl, now=lambda: self.time)
        self.link, self.other = Link(self.near), Link(self.near)
        for link in (self.link, self.other):
            self.learn(SITE.counter, (7, 0), link)

    def learn(self, counter: bytes, version: tuple[int, int], link: Link | None = None) -> None:
        self.near.learn(link or self.link, counter, self.near.mark(counter), version)

    def found(self, value: Any, pttl: int = -1, key: bytes = KEY, wire: Any = "native", **options: Any) -> Found:
        raw = Codec(wire=wire).encode(value, key, 7, **options)
        known = {SITE.counter: (7, 0)} | {SITE.tag_counter(tag): (n, 0) for tag, n in options.get("tags", ())}
        verdict = judge(CODEC, SITE, key, raw, pttl, known)
        assert isinstance(verdict, Found)
        return verdict

    def arrive(self, found: Found, mark: Mark | None = None, link: Link | None = None, name: str = "key") -> None:
        key = SITE.key(name)
        mark = mark or self.near.mark(key)
        self.near.arrived(key, mark, link or self.link, SITE, name, found, self.time, self.near.epoch)

    def keep(self, value: Any = "value", pttl: int = -1, name: str = "key", **options: Any) -> Entry:
        self.arrive(self.found(value, pttl, SITE.key(name), **options), name=name)
        entry = self.near.entry(SITE.key(name))
        assert entry is not None
        return entry

    def hit(self, name: str = "key") -> Any:
        """The path of a hit, as the caches take it; ``COPY`` when it does not answer."""
        entry = SITE.near.get(name)
        if entry is None or entry.epoch != self.near.epoch or self.time >= entry.quick_until:
            return COPY
        return entry.read() if entry.value is COPY else entry.value

    def find(self, name: str = "key") -> Found | None:
        return self.near.find(SITE.key(name), SITE)

    def fresh(self, name: str = "key") -> bool:
        found = self.find(name)
        return found is not None and found.fresh


@pytest.fixture
def bench() -> Any:
    bench = Bench()
    yield bench
    assert not bench.near._marks, "a mark was left behind"
    assert not bench.near._watches, "a watch was left behind"
    bench.near.revoked(None)
    assert (len(bench.near), SITE.near) == (0, {})
    SITE.near.clear()


# -- time


def test_what_was_kept_is_a_hit(bench: Bench) -> None:
    bench.keep("value", 5_000)
    assert bench.hit() == "value"
    found = bench.find()
    assert found is not None
    assert (found.fresh, found.tier, found.remaining_ms) == (True, "near", 5_000)
    assert CODEC.load(found.payload, is_json=False) == "value"
    assert bench.link.watched == 1, "its pushes are read from now on"


def test_a_value_ends_with_its_own_time_to_live(bench: Bench) -> None:
    bench.keep("value", 5_000)
    bench.time += 4.875
    assert bench.hit() == "value"
    bench.time += 0.125
    assert bench.hit() is COPY
    assert not bench.fresh()
    assert bench.near.left_over(KEY) is None


def test_time_counts_from_when_the_read_was_sent(bench: Bench) -> None:
    sent, mark = bench.time, bench.near.mark(KEY)
    bench.time += 3.0
    bench.near.arrived(KEY, mark, bench.link, SITE, "key", bench.found("value", 5_000), sent, bench.near.epoch)
    bench.time = sent + 4.875
    assert bench.fresh()
    bench.time = sent + 5.0
    assert not bench.fresh()


@pytest.mark.parametrize("pttl", [-1, 1_000_000])
def test_the_cap_bounds_how_long_nobody_asks_the_server(bench: Bench, pttl: int) -> None:
    bench.keep("value", pttl)
    bench.time += 59.875
    assert bench.hit() == "value"
    bench.time += 0.125
    assert bench.hit() is COPY
    assert bench.find() is None, "not stale: it is the server that has to be asked"
    left = bench.near.left_over(KEY)
    assert left is not None
    assert left.stale


def test_within_its_grace_a_value_is_stale_and_no_hit(bench: Bench) -> None:
    bench.keep("value", 1_500, grace_ms=500)
    bench.time += 1.0
    assert bench.hit() is COPY
    found = bench.find()
    assert found is not None
    assert found.stale
    assert found.remaining_ms == 0
    bench.time += 0.375
    left = bench.near.left_over(KEY)
    assert left is not None
    assert left.stale
    bench.time += 0.125
    assert (bench.find(), bench.near.left_over(KEY)) == (None, None)


# -- who vouches


def test_a_push_takes_a_value_away(bench: Bench) -> None:
    bench.keep("value", grace_ms=10)
    bench.near.revoked([KEY])
    assert (bench.hit(), bench.find(), bench.near.left_over(KEY)) == (COPY, None, None)


def test_another_keys_push_raises_no_epoch(bench: Bench) -> None:
    bench.keep()
    epoch = bench.near.epoch
    bench.near.revoked([SITE.key("other"), RED])
    assert bench.near.epoch == epoch
    assert bench.hit() == "value"


def test_a_pushed_counter_makes_hits_look_closely_and_only_once(bench: Bench) -> None:
    bench.learn(RED, (3, 0))
    bench.keep()
    bench.near.revoked([RED])
    assert bench.hit() is COPY
    assert bench.fresh(), "it has no such tag"
    assert bench.hit() == "value"


def test_a_cleared_namespace_is_unknown_then_invalid(bench: Bench) -> None:
    bench.keep(grace_ms=10)
    bench.near.revoked([SITE.counter])
    assert (bench.hit(), bench.find()) == (COPY, None)
    assert bench.near.left_over(KEY) is None, "pushed, so it was raised"
    bench.learn(SITE.counter, (8, 0))
    assert (bench.hit(), bench.find(), bench.near.left_over(KEY)) == (COPY, None, None)


def test_a_counter_that_was_pushed_and_is_the_same_again_makes_the_value_fresh_again(bench: Bench) -> None:
    bench.keep()
    bench.near.revoked([SITE.counter])
    bench.learn(SITE.counter, (7, 0))
    assert bench.hit() is COPY
    assert bench.fresh()
    assert bench.hit() == "value"


@pytest.mark.parametrize(
    ("version", "outcome"),
    [
        ((3, 0), "fresh"),
        ((4, 0), "nothing"),
        ((3, 4), "stale"),
        ((2, 3), "fresh"),  # it was made after the expiry
        ((2, 4), "stale"),
        ((4, 5), "nothing"),
        ((2, 0), "nothing"),  # the server lost what it had
    ],
)
def test_a_raised_tag(bench: Bench, version: tuple[int, int], outcome: str) -> None:
    for counter in (RED, BLUE):
        bench.learn(counter, (3, 0))
    bench.keep(pttl=1_500, grace_ms=500, tags=[(b"blue", 3), (b"red", 3)])
    assert bench.hit() == "value"
    bench.near.revoked([RED])
    assert (bench.hit(), bench.find()) == (COPY, None), "unknown is not fresh"
    bench.learn(RED, version)
    found = bench.find()
    assert {None: "nothing", True: "fresh", False: "stale"}[found and found.fresh] == outcome
    assert (bench.hit() == "value") == (outcome == "fresh")
    assert (bench.near.left_over(KEY) is None) == (outcome == "nothing")


def test_a_value_whose_tag_was_expired_when_it_arrived_is_never_a_hit(bench: Bench) -> None:
    bench.learn(RED, (3, 4))
    bench.arrive(bench.found("value", tags=[(b"red", 3)])._replace(soft=True))
    assert bench.hit() is COPY
    assert not bench.fresh()
    bench.near.lost(bench.link)
    left = bench.near.left_over(KEY)
    assert left is not None
    assert left.remaining_ms is not None
    assert left.remaining_ms <= 0, "what is left over of it is not within its time"


def test_a_value_that_was_judged_before_a_counter_was_pushed_is_looked_at_closely(bench: Bench) -> None:
    """The push may be of another connection, and be read in another thread between the verdict and this."""
    epoch, found, mark = bench.near.epoch, bench.found("value"), bench.near.mark(KEY)
    bench.near.revoked([SITE.counter])
    bench.near.arrived(KEY, mark, bench.link, SITE, "key", found, bench.time, epoch)
    assert bench.hit() is COPY
    assert bench.find() is None


@pytest.mark.parametrize("wire", ["native", "json"])
def test_what_a_lost_connection_vouched_for_is_never_fresh_again(bench: Bench, wire: Any) -> None:
    bench.keep(wire=wire)
    bench.near.lost(bench.link)
    assert (bench.hit(), bench.find()) == (COPY, None)
    for link in (bench.link, bench.other):
        bench.learn(SITE.counter, (7, 0), link)
    assert (bench.hit(), bench.find()) == (COPY, None)
    left = bench.near.left_over(KEY)
    assert left is not None
    assert left.stale
    bench.time += 1.0
    bench.keep("new", wire=wire)
    assert bench.hit() == "new"


@pytest.mark.parametrize("wire", ["native", "json"])
def test_a_connection_that_is_lost_takes_no_other_ones_values(bench: Bench, wire: Any) -> None:
    bench.keep(wire=wire)
    bench.near.lost(bench.other)
    assert bench.hit() is COPY
    assert bench.fresh()
    assert bench.hit() == "value"


def test_what_was_known_to_be_invalid_is_not_left_over(bench: Bench) -> None:
    bench.keep(grace_ms=10)
    bench.near.revoked([SITE.counter])
    bench.learn(SITE.counter, (8, 0))
    assert bench.near.left_over(KEY) is None


def test_everything_may_have_changed(bench: Bench) -> None:
    bench.keep()
    mark = bench.near.mark(KEY)
    watch = bench.near.watch([KEY])
    bench.near.revoked(None)
    assert (bench.hit(), bench.find(), bench.near.left_over(KEY)) == (COPY, None, None)
    assert mark.tainted
    assert watch.fired
    assert (bench.link.counters, bench.other.counters) == ({}, {})


# -- marks


def test_a_push_before_the_reply_taints_it(bench: Bench) -> None:
    mark = bench.near.mark(KEY)
    bench.near.revoked([KEY])
    bench.arrive(bench.found("old"), mark)
    assert bench.find() is None


def test_an_own_write_before_the_reply_taints_it(bench: Bench) -> None:
    for write in (bench.near.drop, lambda keys: bench.near.wrote(keys, keys)):
        mark = bench.near.mark(KEY)
        write([KEY])
        bench.arrive(bench.found("old"), mark)
        assert bench.find() is None


def test_the_first_reply_uses_the_mark_up(bench: Bench) -> None:
    first, second = bench.near.mark(KEY), bench.near.mark(KEY)
    assert first is second
    bench.arrive(bench.found("one"), first)
    assert second.tainted
    assert bench.near.mark(KEY) is not first
    assert bench.near.settle(KEY, bench.near.mark(KEY))
    assert not bench.near.settle(KEY, first)


@pytest.mark.parametrize("wire", ["native", "json"])
def test_a_tainted_reply_that_differs_takes_away_what_is_kept(bench: Bench, wire: Any) -> None:
    """Which of the two is newer cannot be told: they came on two connections."""
    mark = bench.near.mark(KEY)
    bench.arrive(bench.found("one", wire=wire), mark)
    bench.arrive(bench.found("two", wire=wire), mark, bench.other)
    assert bench.find() is None


def test_a_tainted_reply_that_there_is_nothing_takes_away_what_is_kept(bench: Bench) -> None:
    mark = bench.near.mark(KEY)
    bench.arrive(bench.found("one"), mark)
    bench.arrive(Found(Miss.ABSENT), mark, bench.other)
    assert bench.find() is None


@pytest.mark.parametrize("wire", ["native", "json"])
def test_a_tainted_reply_that_is_the_same_leaves_what_is_kept(bench: Bench, wire: Any) -> None:
    mark, found = bench.near.mark(KEY), bench.found("one", wire=wire)
    bench.arrive(found, mark)
    bench.arrive(found, mark, bench.other)
    assert bench.hit() == "one"
    assert bench.near.entry(KEY) is not None
    bench.near.lost(bench.other)
    assert bench.fresh(), "it is still vouched for by the first"


def test_a_reply_that_is_not_kept_taints_those_still_on_their_way(bench: Bench) -> None:
    """One that comes later, on another connection, may have been read before."""
    tainted = bench.near.mark(KEY)
    bench.near.revoked([KEY])
    on_its_way = bench.near.mark(KEY)
    bench.arrive(bench.found("newer"), tainted)
    bench.arrive(bench.found("older"), on_its_way, bench.other)
    assert bench.near.entry(KEY) is None


def test_equal_values_of_two_writes_are_not_the_same(bench: Bench) -> None:
    mark = bench.near.mark(KEY)
    bench.arrive(bench.found("one"), mark)
    bench.arrive(bench.found("one"), mark, bench.other)
    assert bench.find() is None


def test_an_untainted_reply_replaces_what_is_kept(bench: Bench) -> None:
    before = bench.keep("one")
    bench.arrive(bench.found("two"), link=bench.other)
    assert bench.hit() == "two"
    assert before.epoch == -1
    assert before.quick_until == 0.0
    bench.arrive(Found(Miss.ABSENT))
    assert bench.find() is None


def test_a_version_is_learnt_only_if_its_mark_is_untainted(bench: Bench) -> None:
    for taint in (bench.near.revoked, lambda counters: bench.near.lost(bench.link)):
        mark = bench.near.mark(RED)
        taint([RED])
        bench.near.learn(bench.link, RED, mark, (3, 0))
        assert RED not in bench.link.counters


def test_a_lost_connection_taints_all_marks(bench: Bench) -> None:
    mark = bench.near.mark(KEY)
    bench.near.lost(bench.other)
    bench.arrive(bench.found("old"), mark)
    assert bench.find() is None


def test_where_not_everything_is_tracked_nothing_is_kept(bench: Bench) -> None:
    link = Link(bench.near, track_all=False)
    bench.learn(SITE.counter, (7, 0), link)
    bench.arrive(bench.found("one"), link=link)
    assert bench.find() is None
    bench.keep("one")
    bench.arrive(bench.found("two"), link=link)
    assert bench.find() is None, "what is kept is not what the server holds"


def test_a_closed_tier_keeps_nothing(bench: Bench) -> None:
    bench.keep()
    bench.near.close()
    assert (bench.hit(), bench.find(), bench.near.left_over(KEY)) == (COPY, None, None)
    bench.arrive(bench.found("late"))
    assert bench.find() is None


# -- watches


def test_a_watch_fires_once_for_any_of_its_keys(bench: Bench) -> None:
    woken: list[int] = []
    watch = bench.near.watch([KEY, RED])
    watch.when_fired(lambda: woken.append(1))
    bench.near.revoked([BLUE])
    assert not watch.fired
    bench.near.revoked([RED])
    bench.near.revoked([KEY])
    assert (watch.fired, woken) == (True, [1])
    watch.when_fired(lambda: woken.append(2))
    assert woken == [1, 2], "at once, when it has fired"
    watch.close()
    watch.close()


@pytest.mark.parametrize(
    "happens",
    [
        lambda bench: bench.near.wrote([], [KEY]),
        lambda bench: bench.near.lost(bench.other),
        lambda bench: bench.near.revoked(None),
    ],
)
def test_what_else_fires_a_watch(bench: Bench, happens: Callable[[Bench], None]) -> None:
    watches = [bench.near.watch([KEY]), bench.near.watch([KEY])]
    happens(bench)
    assert [watch.fired for watch in watches] == [True, True]
    for watch in watches:
        watch.close()


def test_a_closed_watch_is_silent(bench: Bench) -> None:
    woken: list[int] = []
    closed, open_ = bench.near.watch([KEY]), bench.near.watch([KEY])
    closed.when_fired(lambda: woken.append(1))
    closed.close()
    bench.near.revoked([KEY])
    assert (closed.fired, open_.fired, woken) == (False, True, [])
    bench.near.watch([KEY, RED]).close()
    assert bench.near._watches == {}


def test_wakers_may_use_the_tier(bench: Bench) -> None:
    """They are called outside its lock."""
    watch = bench.near.watch([KEY])
    watch.when_fired(lambda: bench.near.drop([KEY]))
    caller = threading.Thread(target=bench.near.revoked, args=([KEY],), daemon=True)
    caller.start()
    caller.join(10)
    assert not caller.is_alive()


# -- what is handed out


@pytest.mark.parametrize("wire", ["native", "json"])
def test_a_value_that_cannot_change_is_handed_out_as_it_is(bench: Bench, wire: Any) -> None:
    entry = bench.keep("text", wire=wire)
    assert bench.hit() is bench.hit() is entry.value


@pytest.mark.parametrize("wire", ["native", "json"])
@pytest.mark.parametrize("value", [{"a": [1]}, [1]])
def test_a_value_that_can_change_is_a_copy_for_each(bench: Bench, value: Any, wire: Any) -> None:
    bench.keep(value, wire=wire)
    mine, yours = bench.hit(), bench.hit()
    assert mine == yours == value
    assert mine is not yours
    mine.clear()
    assert bench.hit() == value


def test_a_tuple_is_only_as_immutable_as_what_is_in_it(bench: Bench) -> None:
    bench.keep((1, [2]))
    bench.hit()[1].append(3)
    assert bench.hit() == (1, [2])
    bench.keep((1, (2,)))
    assert bench.hit() is bench.hit()


def test_a_value_handed_out_as_it_is_can_still_be_read_as_bytes_and_as_a_type(bench: Bench) -> None:
    entry = bench.keep((1, 2))
    assert bench.hit() == (1, 2)
    found = bench.find()
    assert found is not None
    assert CODEC.load(found.payload, is_json=False) == (1, 2)
    assert entry.read(list[int]) == [1, 2]
    assert entry.read(dict) is Miss.UNDECODABLE
    assert entry.read(tuple) == (1, 2)


# -- where entries are found


def homes(bench: Bench) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The dictionary of a decorated function, and another namespace object of the same name, adopted."""
    function: dict[Any, Any] = {}
    twin = Namespace("app")
    entry = bench.near.entry(KEY)
    assert entry is not None
    bench.near.adopt(entry, function, ("args", 1))
    bench.near.adopt(entry, function, ("args", 1))
    assert bench.near.find(KEY, twin) is not None
    assert (function, twin.near) == ({("args", 1): entry}, {"key": entry})
    assert len(entry.homes) == 3
    return function, twin.near


@pytest.mark.parametrize(
    "ends",
    [
        lambda bench: bench.near.revoked([KEY]),
        lambda bench: bench.near.drop([KEY]),
        lambda bench: bench.near.wrote([KEY], []),
        lambda bench: bench.near.revoked(None),
        lambda bench: bench.near.close(),
        lambda bench: bench.near.forget_in_child(),
        lambda bench: bench.arrive(Found(Miss.ABSENT)),
        lambda bench: bench.keep("another write"),
        lambda bench: [bench.keep(name=f"other{n}") for n in range(200)],
    ],
)
def test_an_entry_that_is_gone_is_gone_everywhere(bench: Bench, ends: Callable[[Bench], object]) -> None:
    entry = bench.keep()
    dictionaries = homes(bench)
    ends(bench)
    for home in dictionaries:
        assert home == {}
    assert SITE.near.get("key") is not entry
    assert entry.epoch != bench.near.epoch
    assert bench.time >= entry.quick_until
    assert len(SITE.near) == len(bench.near)


def test_what_is_gone_is_not_adopted(bench: Bench) -> None:
    entry = bench.keep()
    bench.near.drop([KEY])
    home: dict[Any, Any] = {}
    bench.near.adopt(entry, home, 1)
    assert home == {}


# -- bounds


def test_entries_are_bounded() -> None:
    bench = Bench(entries=10)
    for number in range(100):
        bench.keep(number, name=f"key{number}")
        assert len(SITE.near) == len(bench.near) <= 10
    assert len(bench.near) == 10
    bench.near.revoked(None)


def test_bytes_are_bounded() -> None:
    bench = Bench(size=50_000)
    for number in range(100):
        bench.arrive(bench.found(bytes(5_000), key=SITE.key(f"key{number}")), name=f"key{number}")
        assert len(SITE.near) == len(bench.near) <= 9
    assert len(bench.near) > 5
    bench.arrive(bench.found("x" * 60_000 + "y"), name="key")
    bench.arrive(bench.found(list(range(60_000))), name="key")
    assert bench.find() is None, "one that is larger than the tier is not kept"
    bench.near.revoked(None)


def test_the_table_of_counters_is_bounded_and_what_entries_need_stays() -> None:
    bench = Bench(entries=10)
    bench.learn(RED, (3, 0))
    bench.keep(tags=[(b"red", 3)])
    for number in range(5_000):
        bench.learn(SITE.tag_counter(b"t%d" % number), (1, 0))
        assert len(bench.link.counters) <= 1_001
    assert bench.hit() == "value"
    assert {RED, SITE.counter} <= bench.link.counters.keys()
    bench.near.revoked(None)


def test_a_counter_just_learnt_is_known_however_many_entries_need_others() -> None:
    """Whoever reads it is about to judge a value by it."""
    bench = Bench(entries=500)
    for number in range(500):
        tags = [b"%d.%d" % (number, n) for n in range(4)]
        for tag in tags:
            bench.learn(SITE.tag_counter(tag), (1, 0))
            assert bench.link.counters[SITE.tag_counter(tag)] == (1, 0)
        bench.keep(name=f"key{number}", tags=[(tag, 1) for tag in tags])
        assert bench.fresh(f"key{number}")
    scans = 0
    forget = bench.near._forget_unused

    def counting(*arguments: Any) -> None:
        nonlocal scans
        scans += 1
        forget(*arguments)

    bench.near._forget_unused = counting  # type: ignore[method-assign]
    for number in range(10_000):
        bench.learn(SITE.tag_counter(b"new%d" % number), (1, 0))
    assert 1 <= scans <= 6, "one walk over all entries for many counters"
    assert len(bench.link.counters) <= 2 * 2_001 + 1
    bench.near.revoked(None)
