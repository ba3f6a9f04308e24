"""The policy of the near tier: its bounds and books, against a model; and that it beats LRU where it should."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nearcache.tiers.eviction import _EPOCH, Eviction


class Entry:
    __slots__ = ("filed", "key", "size", "used")

    def __init__(self, key: int, size: int = 1) -> None:
        self.key = b"%d" % key
        self.size = size
        self.used = self.filed = 0


def _places(eviction: Eviction) -> list[Entry]:
    """Every node, as often as it is somewhere."""
    return [node for line in eviction._lines for bucket in line.buckets.values() for node in bucket]


def _check(eviction: Eviction, held: set[Entry]) -> None:
    """The invariants that the module lists."""
    places = _places(eviction)
    assert len(places) == len(set(places)) == len(eviction)
    assert set(places) == held
    assert eviction.bytes == sum(node.size for node in held)
    assert eviction._newest is eviction._lines[0].buckets[eviction.now]
    for rank, line in enumerate(eviction._lines):
        assert sorted(line.buckets) == sorted(line.epochs)
        for filed, bucket in line.buckets.items():
            assert filed % _EPOCH == rank
            assert all(node.filed == filed for node in bucket)
        filled = sum(map(bool, line.buckets.values()))
        assert len(line.buckets) <= line.limit <= 2 * max(filled, eviction._most) + 64
    assert all(0 < node.filed < eviction.now + _EPOCH and node.used <= eviction.now for node in held)
    assert 1.0 <= eviction._weight <= 8.0
    _check_ghosts(eviction)


def _check_ghosts(eviction: Eviction) -> None:
    horizon, left = eviction._horizon, eviction._left
    longest = 64  # one epoch may pass until they are looked at again
    assert len(eviction._ghosts) <= eviction._most + longest
    assert len(eviction._forgotten) <= eviction._most + longest
    assert not eviction._ghosts.keys() & eviction._forgotten.keys()
    assert not {node.key for node in _places(eviction)} & (eviction._ghosts.keys() | eviction._forgotten.keys())
    assert horizon < eviction.now
    assert eviction._young == sum(eviction._counts.values())
    known = [ghost for ghosts in (eviction._ghosts, eviction._forgotten) for ghost in ghosts.values()]
    young = Counter(filed - filed % _EPOCH for filed in (*known, *(node.filed for node in _places(eviction))))
    young[eviction.now] += left
    for epoch, count in eviction._counts.items():
        assert epoch > horizon
        assert count >= young[epoch]  # it counts ghosts that were forgotten, too
    assert all(epoch in eviction._counts for epoch, count in young.items() if count and epoch > horizon)


class Machine(RuleBasedStateMachine):
    """Adds, hits, removals and clearing in any order; the model is the set of what is held."""

    @initialize(entries=st.integers(1, 40), size=st.integers(1, 60))
    def begin(self, entries: int, size: int) -> None:
        self.max_entries, self.max_bytes = entries, size
        self.eviction = Eviction(entries, size)
        self.held: dict[bytes, Entry] = {}
        self.gone: list[Entry] = []

    def _add(self, entry: Entry) -> None:
        victims = self.eviction.add(entry)
        assert len(victims) == len(set(victims))
        if entry.size > self.max_bytes:
            assert victims == [entry]
        else:
            assert entry not in victims
            self.held[entry.key] = entry
        for victim in victims:
            assert victim is entry or self.held.pop(victim.key) is victim
            self.gone.append(victim)

    @rule(key=st.integers(0, 60), size=st.integers(0, 70))
    def get_or_add(self, key: int, size: int) -> None:
        if entry := self.held.get(b"%d" % key):
            entry.used = self.eviction.now
        else:
            self._add(Entry(key, size))

    @rule(keys=st.lists(st.integers(0, 60), max_size=80))
    def many(self, keys: list[int]) -> None:
        for key in keys:
            self.get_or_add(key, 1)

    @rule(key=st.integers(0, 60))
    def write_again(self, key: int) -> None:
        if entry := self.held.pop(b"%d" % key, None):
            self.eviction.remove(entry)
            self._add(Entry(key, entry.size))

    @rule(key=st.integers(0, 60))
    def remove(self, key: int) -> None:
        if entry := self.held.pop(b"%d" % key, None):
            self.eviction.remove(entry)
            self.gone.append(entry)

    @rule(which=st.integers(0), late=st.integers(0, 5))
    def meddle_with_what_is_gone(self, which: int, late: int) -> None:
        """A late reader writes to it, somebody removes it once more, or it comes back itself."""
        if self.gone:
            entry = self.gone[which % len(self.gone)]
            entry.used = self.eviction.now - late * _EPOCH
            self.eviction.remove(entry)
            if entry.key not in self.held and which % 2:
                self.gone = [each for each in self.gone if each is not entry]
                self._add(entry)

    @rule(key=st.integers(0, 60), late=st.integers(0, 5))
    def late_hit(self, key: int, late: int) -> None:
        if entry := self.held.get(b"%d" % key):
            entry.used = max(0, self.eviction.now - late * _EPOCH)

    @invariant()
    def books_are_right(self) -> None:
        if hasattr(self, "eviction"):
            assert len(self.eviction) <= self.max_entries
            assert self.eviction.bytes <= self.max_bytes
            _check(self.eviction, set(self.held.values()))


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_order = Machine.TestCase


@given(st.lists(st.integers(0, 300), max_size=1500), st.integers(16, 64))
@settings(max_examples=40, deadline=None)
def test_books_are_right_over_many_epochs(keys: list[int], capacity: int) -> None:
    eviction = Eviction(capacity, 1 << 30)
    held: dict[int, Entry] = {}
    for step, key in enumerate(keys):
        _ask(eviction, held, key)
        if step % 50 == 0:
            _check(eviction, set(held.values()))
    _check(eviction, set(held.values()))


def _ask(eviction: Eviction, held: dict[int, Entry], key: int) -> bool:
    """Whether it was a hit."""
    if entry := held.get(key):
        entry.used = eviction.now
        return True
    held[key] = entry = Entry(key)
    for victim in eviction.add(entry):
        del held[int(victim.key)]
    return False


def _hits(keys: list[int], capacity: int) -> int:
    eviction, held = Eviction(capacity, 1 << 30), dict[int, Entry]()
    hits = sum(_ask(eviction, held, key) for key in keys)
    _check(eviction, set(held.values()))
    return hits


def _lru_hits(keys: list[int], capacity: int) -> int:
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in keys:
        hits += key in held
        held[key] = None
        held.move_to_end(key)
        if len(held) > capacity:
            held.popitem(last=False)
    return hits


def _zipf(count: int, skew: float, seed: int, keys: int = 5000) -> list[int]:
    weights = list(accumulate(rank**-skew for rank in range(1, keys + 1)))
    return random.Random(seed).choices(range(keys), cum_weights=weights, k=count)


def _recent(count: int, *, seed: int, mean: float, new: float) -> list[int]:
    """What was used lately is used again: nothing is better than LRU without knowing the future."""
    chance = random.Random(seed)
    unseen = iter(range(count))
    stack: list[int] = []
    keys: list[int] = []
    for _ in range(count):
        depth = int(chance.expovariate(1 / mean))
        again = depth < len(stack) and chance.random() >= new
        stack.append(stack.pop(-1 - depth) if again else next(unseen))
        keys.append(stack[-1])
    return keys


def test_capacity_of_one() -> None:
    eviction = Eviction(1, 100)
    first, second = Entry(1), Entry(2)
    assert eviction.add(first) == []
    assert eviction.add(second) == [first]
    assert (len(eviction), eviction.bytes) == (1, 1)
    eviction.remove(second)
    assert (len(eviction), eviction.bytes) == (0, 0)


def test_no_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Eviction(0, 100)


def test_what_is_too_large_goes_alone() -> None:
    eviction = Eviction(10, 100)
    kept, large = Entry(1, 100), Entry(2, 101)
    assert eviction.add(kept) == []
    assert eviction.add(large) == [large]
    eviction.remove(large)
    assert (len(eviction), eviction.bytes) == (1, 100)


def test_a_large_node_takes_the_room_of_several() -> None:
    eviction = Eviction(10, 10)
    small = [Entry(key, 2) for key in range(5)]
    assert [victim for entry in small for victim in eviction.add(entry)] == []
    assert eviction.add(Entry(9, 5)) == small[:3]
    assert (len(eviction), eviction.bytes) == (3, 9)


def test_what_was_used_stays() -> None:
    eviction = Eviction(3, 100)
    first, second, third = (Entry(key) for key in range(3))
    for entry in (first, second, third):
        eviction.add(entry)
    first.used = eviction.now
    assert eviction.add(Entry(3)) == [second]


def test_newcomers_make_room_for_each_other_where_all_others_are_proven() -> None:
    eviction = Eviction(48, 48)
    others = [Entry(key) for key in range(48)]
    for entry in others:
        eviction.add(entry)
    gone = Entry(100)
    eviction.add(gone)  # an epoch begins
    assert eviction._left > 1
    for entry in others:
        entry.used = eviction.now
    eviction.remove(gone)
    first = Entry(101, 2)
    (victim,) = eviction.add(first)  # there is no newcomer yet
    assert victim in others
    assert eviction.add(Entry(102)) == [first]


def test_what_is_removed_is_not_counted_as_what_lru_would_hold() -> None:
    eviction = Eviction(100, 1 << 30)
    entries = [Entry(key) for key in range(50)]
    for entry in entries:
        eviction.add(entry)
    for entry in entries:
        eviction.remove(entry)
    assert eviction._young == eviction._left


def test_writing_again_makes_no_newcomer() -> None:
    """What is invalidated and filled, again and again, but used between, outlives a scan."""
    eviction, held = Eviction(100, 1 << 30), dict[int, Entry]()
    for step, key in enumerate(_zipf(20_000, 1.0, seed=5, keys=1000)):
        _ask(eviction, held, key)
        if step % 10 == 0 and 0 in held:
            eviction.remove(held.pop(0))
            _ask(eviction, held, 0)
    assert held[0] in eviction._lines[3].buckets[held[0].filed]
    before = set(held)
    for key in range(10_000, 10_100):  # LRU would hold nothing else afterwards
        _ask(eviction, held, key)
    assert 0 in held
    assert len(before & set(held)) > 20


def test_ghosts_are_bounded_while_everything_is_removed_again() -> None:
    eviction = Eviction(1000, 1 << 30)
    for key in range(20_000):
        entry = Entry(key)
        eviction.add(entry)
        if key % 10:
            entry.used = eviction.now
        eviction.remove(entry)
    assert len(eviction._ghosts) + len(eviction._forgotten) <= 4
    _check(eviction, set())


def test_buckets_are_bounded_while_everything_is_written_again() -> None:
    """Never full: no eviction tidies up."""
    eviction, held = Eviction(1000, 1 << 30), dict[int, Entry]()
    for key in [*range(10)] * 2000:
        entry = held.pop(key, None)
        if entry:
            entry.used = eviction.now
            eviction.remove(entry)
        _ask(eviction, held, key)
    assert all(len(line.buckets) <= 2 * 64 for line in eviction._lines)
    _check(eviction, set(held.values()))


@pytest.mark.parametrize("capacity", [30, 100, 300])
def test_not_below_lru_where_recency_is_all(capacity: int) -> None:
    keys = _recent(40_000, seed=3, mean=capacity / 1.5, new=0.1)
    assert _hits(keys, capacity) >= _lru_hits(keys, capacity) - len(keys) * 0.001


def test_not_below_lru_where_the_popular_change() -> None:
    keys = [key + step // 10 for step, key in enumerate(_zipf(40_000, 1.0, seed=4))]
    assert _hits(keys, 500) >= _lru_hits(keys, 500) - 40


@pytest.mark.parametrize("capacity", [50, 500])
def test_better_than_lru_where_keys_are_popular(capacity: int) -> None:
    keys = _zipf(40_000, 1.0, seed=1)
    assert _hits(keys, capacity) > _lru_hits(keys, capacity) + len(keys) * 0.05


def test_better_than_lru_where_there_are_scans() -> None:
    keys = [key for step, key in enumerate(_zipf(40_000, 1.0, seed=2)) for key in _with_scan(step, key)]
    assert _hits(keys, 500) > _lru_hits(keys, 500) + len(keys) * 0.05


def _with_scan(step: int, key: int) -> list[int]:
    return [key] if step % 4000 else [key, *range(10_000 + step, 10_800 + step)]
