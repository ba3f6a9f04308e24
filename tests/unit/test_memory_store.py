"""``memory://`` answers what the plans send as a real server does: the same commands to both, the same replies."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from tests.servers import ValkeyServer

from nearcache.codec import Codec
from nearcache.core.clock import Clock
from nearcache.errors import CommandRefused
from nearcache.tiers import remote
from nearcache.transport.memory import MemoryLink, MemoryStore, get_store

KEYS = [b"app:%d" % n for n in range(6)] + [b"other:1", b"app2:1"]
COUNTERS = [b"app~version", b"app~tag:a"]
TOKENS = [b"one.1", b"two.1", remote.RETRY]
COMMANDS = (
    ["SET"] * 3
    + ["GET", "MGET", "GETRANGE", "UNLINK", "EXISTS", "PTTL", "PING", "SCAN", "ALIVE", "FORGET"]
    + ["READ_COUNTER", "RAISE_COUNTER", "REMOVE_OLDER", "REMOVE_OLDER", "DELETE", "DELETE", "EXPIRE", "EXPIRE"]
    + ["ELECT"] * 4
    + ["FILL"] * 3
    + ["RELEASE"] * 2
)
FAR = 10_000_000  # milliseconds: no reply depends on how long the test takes

Pair = tuple[Any, Any]
"""What belongs together: ours and theirs."""


class Twins:
    """A store and a server that are sent the same.

    Counters follow each one's own clock, so the twins' are compared by their place in ``versions``, and the values that
    carry them through ``theirs``.
    """

    def __init__(self, server: ValkeyServer, chance: random.Random) -> None:
        self.server = server
        self.store = MemoryStore()
        self.chance = chance
        self.versions: dict[bytes, list[tuple[bytes, bytes]]] = {counter: [(b"", b"")] for counter in COUNTERS}
        self.theirs: dict[bytes | None, bytes | None] = {None: None, b"": b""}
        self.values: list[Pair] = [(b"", b"")]
        self.writes = 0

    # -- asking both

    def both(self, ours: Any, theirs: Any = None) -> Pair:
        return self.store.execute(ours), self.server.command(*(theirs or ours))

    def same(self, ours: Any, theirs: Any = None) -> Any:
        replies = self.both(ours, theirs)
        assert replies[0] == replies[1], ours
        return replies[0]

    def same_time(self, ours: Any, theirs: Any = None) -> None:
        replies = self.both(ours, theirs)
        assert replies[0] == replies[1] or min(replies) > FAR / 2, ours
        assert abs(replies[0] - replies[1]) < 60_000

    def step(self) -> None:
        name = self.chance.choice(COMMANDS)
        getattr(self, name.lower())()

    # -- what is asked for

    def value(self) -> Pair:
        """A value for each: with the version of some moment, too short for one, of another release, or JSON."""
        kind = self.chance.randrange(10)
        if kind == 0:
            pair = (b'{"a":%d}' % self.chance.randrange(3),) * 2
        elif kind == 1:
            pair = (b"",) * 2
        else:
            self.writes += 1
            release = 2 if kind == 2 else 1
            # No grace, one that is over before the shortest time to live, one that begins after the longest.
            grace = self.chance.choice([0, FAR // 2, 5 * FAR])
            front = bytes([193, release, 0, 1]) + self.writes.to_bytes(8, "big") + bytes(4) + grace.to_bytes(8, "big")
            length = self.chance.randrange(1, 40) if kind == 3 else None
            pair = tuple((front + n.to_bytes(8, "big") + b"made....value")[:length] for n in self.version())  # type: ignore[assignment]
        self.theirs[pair[0]] = pair[1]
        self.values.append(pair)
        return pair

    def version(self) -> tuple[int, int]:
        """The namespace's, at some moment."""
        ours, theirs = self.chance.choice(self.versions[COUNTERS[0]])
        return int(ours or 0), int(theirs or 0)

    def identity(self, key: bytes) -> tuple[bytes, bytes]:
        """Of what is held for a key, mostly."""
        held = self.store.execute(("GET", key))
        pair = (held, self.theirs[held]) if self.chance.random() < 0.7 else self.chance.choice(self.values)
        return Codec.identity(pair[0]), Codec.identity(pair[1])

    def key(self) -> bytes:
        return self.chance.choice(KEYS)

    def keys(self) -> list[bytes]:
        return self.chance.choices(KEYS, k=self.chance.randint(1, 4))

    def any_key(self) -> bytes:
        return self.chance.choice([*KEYS, *map(remote.lease, KEYS)])

    def ttl(self) -> int | None:
        return self.chance.choice([None, self.chance.randint(FAR, 2 * FAR)])

    # -- commands

    def set(self) -> None:
        key, ttl, (ours, theirs) = self.key(), self.ttl(), self.value()
        for mine, other in zip(
            remote.store(key, ours, ttl, read_back=False), remote.store(key, theirs, ttl, read_back=False), strict=True
        ):
            self.same(mine, other)

    def get(self) -> None:
        ours, theirs = self.both(("GET", self.any_key()))
        assert ours in TOKENS or self.theirs[ours] == theirs
        assert ours not in TOKENS or ours == theirs

    def mget(self) -> None:
        ours, theirs = self.both(("MGET", *self.keys()))
        assert [self.theirs[value] for value in ours] == theirs

    def getrange(self) -> None:
        key = self.key()
        first, last = sorted(self.chance.choices(range(60), k=2))
        ours, theirs = self.both(("GETRANGE", key, first, last))
        held = self.theirs[self.store.execute(("GET", key))] or b""
        assert theirs == held[first : last + 1]
        assert len(ours) == len(theirs)

    def unlink(self) -> None:
        self.same(("UNLINK", *self.keys(), self.any_key()))

    def exists(self) -> None:
        self.same(("EXISTS", self.any_key()))

    def pttl(self) -> None:
        self.same_time(("PTTL", self.any_key()))

    def ping(self) -> None:
        assert self.same(("PING",)) == b"PONG"

    def scan(self) -> None:
        def found(execute: Any) -> list[bytes]:
            cursor, keys = b"0", set[bytes]()
            while True:
                cursor, some = execute(remote.scan(cursor, b"app:"))
                keys.update(some)
                if cursor == b"0":
                    return sorted(keys)

        assert found(self.store.execute) == found(lambda command: self.server.command(*command))

    def alive(self) -> None:
        self.same(remote.is_alive(b"~alive:one"))
        self.same(remote.alive(b"~alive:one", FAR))
        assert self.same(remote.is_alive(b"~alive:one")) == 1

    def forget(self) -> None:
        """A counter is lost."""
        counter = self.chance.choice(COUNTERS)
        self.same(("UNLINK", counter))
        if self.versions[counter][-1] != (b"", b""):
            self.versions[counter].append((b"", b""))

    def read_counter(self) -> None:
        counter = self.chance.choice(COUNTERS)
        start = self.chance.choice([b"", b"12345"])
        pair = self.both(remote.read_counter(counter, start))
        if pair != self.versions[counter][-1]:
            assert self.versions[counter][-1] == (b"", b""), "a counter that is there is only read"
            assert not start or pair == (start, start)
            self.versions[counter].append(pair)

    def raise_counter(self) -> None:
        counter = self.chance.choice(COUNTERS)
        soft = counter == COUNTERS[1] and self.chance.random() < 0.6
        ours, theirs = self.both(remote.raise_counter(counter, soft=soft))
        assert (ours[0], theirs[0]) == self.versions[counter][-1]
        for before, now in (ours, theirs):
            old, new = remote.version(before or b"0"), remote.version(now)
            assert max(new) > max(old)
            if soft and before:
                assert new[0] == old[0]
                assert new[1] > max(old)
            else:
                assert new[1] == 0
        self.versions[counter].append((ours[1], theirs[1]))

    def remove_older(self) -> None:
        known = [pair for pair in self.versions[COUNTERS[0]] if pair[0]]
        if len(known) > 1:
            now = self.chance.randrange(1, len(known))
            before = self.chance.choice([(b"", b""), *known[:now]])
            keys = self.keys()
            self.same(
                remote.remove_older(keys, before[0], known[now][0]), remote.remove_older(keys, before[1], known[now][1])
            )

    def delete(self) -> None:
        keys, (ours, theirs) = self.keys(), self.version()
        self.same(remote.delete(keys, ours), remote.delete(keys, theirs))

    def expire(self) -> None:
        key, ttl, (ours, theirs) = self.key(), self.ttl(), self.version()
        self.same(remote.expire(key, ours, ttl), remote.expire(key, theirs, ttl))
        self.same_time(("PTTL", key))

    def elect(self) -> None:
        key, token, dead = self.key(), self.chance.choice(TOKENS[:2]), self.chance.choice([b"", *TOKENS[:2]])
        commands = [remote.elect(key, identity, token, FAR, dead) for identity in self.identity(key)]
        (won, value, pttl, holder, exists, clock), other = self.both(*commands)
        assert [won, self.theirs[value], holder, exists] == [*other[:2], *other[3:5]]
        assert pttl == other[2] or min(pttl, other[2]) > FAR / 2
        assert abs(int(clock) - int(other[5])) < 60_000_000
        self.same_time(("PTTL", remote.lease(key)))

    def fill(self) -> None:
        key, ttl, token = self.key(), self.ttl(), self.chance.choice([b"", *TOKENS[:2]])
        held = self.store.execute(("GET", remote.lease(key)))
        if self.chance.random() < 0.5 and held:
            token = held
        identities, values = self.identity(key), self.value()
        commands = [
            remote.fill(key, identity, token, value, ttl) for identity, value in zip(identities, values, strict=True)
        ]
        ours, theirs = self.both(*commands)
        assert ours == theirs or min(ours, theirs) > FAR / 2
        self.same(("EXISTS", remote.lease(key)))

    def release(self) -> None:
        key, token, retry = self.key(), self.chance.choice(TOKENS[:2]), self.ttl()
        self.same(remote.release(key, token, retry))
        self.same_time(("PTTL", remote.lease(key)))

    def check_all(self) -> None:
        """Nothing differs that no reply has shown yet."""
        for key in [*KEYS, *map(remote.lease, KEYS)]:
            ours, theirs = self.both(("GET", key))
            assert ours == theirs if ours in TOKENS else self.theirs[ours] == theirs
            self.same_time(("PTTL", key))
        assert len(self.store) == sum(self.server.command("EXISTS", key) for key in KEYS)


@pytest.mark.parametrize("seed", range(10))
def test_the_same_replies_as_a_server(server: ValkeyServer, seed: int) -> None:
    server.command("FLUSHALL")
    twins = Twins(server, random.Random(seed))
    for _ in range(600):
        twins.step()
    twins.check_all()


def test_an_unknown_command_is_refused() -> None:
    assert isinstance(MemoryStore().execute(("LPUSH", b"k", b"v")), CommandRefused)
    assert isinstance(MemoryStore().execute(("EVAL", "return 1", 0)), CommandRefused)


# -- time


class Time:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def store_at(time: Time) -> MemoryStore:
    return MemoryStore(Clock(time, time))


def test_a_value_ends_with_its_time_to_live() -> None:
    time = Time()
    store = store_at(time)
    store.execute(("SET", b"k", b"v", "PX", 1_500))
    time.now += 1.25
    assert store.execute(("PTTL", b"k")) == 250
    assert store.execute(("GET", b"k")) == b"v"
    time.now += 0.25
    for command, gone in (
        (("GET", b"k"), None),
        (("MGET", b"k"), [None]),
        (("GETRANGE", b"k", 0, 31), b""),
        (("EXISTS", b"k"), 0),
        (("PTTL", b"k"), -2),
        (("UNLINK", b"k"), 0),
        (remote.scan(b"0", b"k"), [b"0", []]),
        (remote.remove_older([b"k"], b"1", b"2"), 0),
        (remote.delete([b"k"], 1), 0),
        (remote.expire(b"k", 1, 1_000), 0),
        (remote.elect(b"k", b"", b"t", 1, b""), [1, None, -2, b"t", 0, b"%d" % (time.now * 1e6 + 100_000)]),
    ):
        store.execute(("SET", b"k", b"v", "PX", 100))
        time.now += 0.1
        assert store.execute(command) == gone, command
        time.now = 1_001.5


def test_a_new_time_to_live_counts_from_now() -> None:
    time = Time()
    store = store_at(time)
    store.execute(("SET", b"k", b"v", "PX", 1_000))
    time.now += 0.75
    assert store.execute(remote.expire(b"k", 1, 1_000)) == 1
    time.now += 0.75
    assert store.execute(("GET", b"k")) == b"v"
    assert store.execute(remote.expire(b"k", 1, None)) == 1
    time.now += 1e9
    assert store.execute(("PTTL", b"k")) == -1
    store.execute(("SET", b"k", b"v", "PX", 1_000))
    store.execute(("SET", b"k", b"v"))
    assert store.execute(("PTTL", b"k")) == -1


def test_in_its_grace_a_value_is_held_and_does_not_count() -> None:
    time = Time()
    store = store_at(time)
    value = Codec().encode("value", b"k", 7, 500)
    for command in (remote.delete([b"k"], 7), remote.expire(b"k", 7, 1_000), remote.remove_older([b"k"], b"7", b"8")):
        for passed, counts in ((0.25, 1), (0.5, 0), (0.75, 0)):
            store.execute(("SET", b"k", value, "PX", 1_000))
            time.now += passed
            assert store.execute(("GET", b"k")) == value
            assert store.execute(command) == counts, (command, passed)
    store.execute(("SET", b"k", value, "PX", 1_000))
    store.execute(remote.expire(b"k", 7, 2_000))
    assert store.execute(("PTTL", b"k")) == 2_500


def test_a_lease_ends_with_its_time_and_takes_the_fill_with_it() -> None:
    time = Time()
    store = store_at(time)
    assert store.execute(remote.elect(b"k", b"", b"one", 1_000, b""))[0] == 1
    time.now += 0.75
    assert store.execute(remote.elect(b"k", b"", b"two", 1_000, b""))[0] == 0
    time.now += 0.25
    assert store.execute(remote.fill(b"k", b"", b"one", b"late", None)) is None
    assert store.execute(remote.elect(b"k", b"", b"two", 1_000, b""))[0] == 1
    assert store.execute(remote.fill(b"k", b"", b"two", b"in time", 1_000)) == 1_000
    assert store.execute(("EXISTS", remote.lease(b"k"))) == 0


def test_what_has_ended_does_not_pile_up() -> None:
    time = Time()
    store = store_at(time)
    for number in range(10_000):
        store.execute(("SET", b"%d" % number, b"v", "PX", 1_000))
        time.now += 0.01
    assert len(store) < 1_200  # a hundred are alive; a sweep comes with every thousandth write


def test_counters_never_go_back_with_the_clock() -> None:
    wall = Time()
    store = MemoryStore(Clock(Time(), wall))
    first = int(store.execute(remote.read_counter(b"c~version")))
    assert first == 1_000_000_000
    wall.now = 1.0
    assert store.execute(remote.raise_counter(b"c~version")) == [b"%d" % first, b"%d" % (first + 1)]
    wall.now = 2_000.0
    assert store.execute(remote.raise_counter(b"c~version")) == [b"%d" % (first + 1), b"2000000000"]
    assert store.execute(remote.raise_counter(b"new~version")) == [b"", b"2000000000"]
    wall.now = 1.0
    soft = store.execute(remote.raise_counter(b"new~version", soft=True))
    assert soft == [b"2000000000", b"2000000000 2000000001"]
    assert store.execute(remote.raise_counter(b"new~version")) == [soft[1], b"2000000002"]


# -- bounds


def test_the_store_is_bounded_and_counters_and_leases_are_not_evicted() -> None:
    store = MemoryStore(entries=100)
    store.execute(remote.read_counter(b"app~version"))
    store.execute(remote.read_counter(b"app~tag:x"))
    store.execute(remote.elect(b"app:1", b"", b"one", 1_000_000, b""))
    for number in range(1_000):
        store.execute(("SET", b"app:%d" % number, b"v"))
        assert len(store) <= 100
    for key in (b"app~version", b"app~tag:x", remote.lease(b"app:1")):
        assert store.execute(("EXISTS", key)) == 1
    small = MemoryStore(size=10_000)
    for number in range(20):
        small.execute(("SET", b"%d" % number, bytes(1_000)))
    assert 0 < len(small) < 10


# -- links


class Listener:
    """What a link was told."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def revoked(self, keys: list[bytes] | None) -> None:
        assert keys is not None
        self.heard += keys

    def lost(self, link: Any) -> None:
        raise AssertionError("a store is never lost")


def test_the_same_name_and_database_are_the_same_store() -> None:
    assert get_store("a", 0, 10, 1000) is get_store("a", 0, 10, 1000)
    assert len({id(get_store(name, db, 10, 1000)) for name, db in (("a", 0), ("a", 1), ("b", 0))}) == 3


def test_a_link_is_told_of_what_others_write_and_all_of_what_ends() -> None:
    time = Time()
    store = MemoryStore(Clock(time, time), entries=2)
    mine, yours = Listener(), Listener()
    me, you = MemoryLink(store, mine), MemoryLink(store, yours)
    me.request(("SET", b"a", b"v", "PX", 1_000))
    assert (mine.heard, yours.heard) == ([], [b"a"])
    you.request(remote.expire(b"a", 1, 500))
    assert b"a" in mine.heard
    assert yours.heard == [b"a"]
    time.now += 0.5
    assert me.request(("GET", b"a")) is None
    assert mine.heard.count(b"a") == yours.heard.count(b"a") == 2, "it ended: nobody's write"
    for key in (b"b", b"c", b"d"):
        me.request(("SET", key, b"v"))
    assert len(mine.heard) == 3, "one was evicted"
    assert set(yours.heard) >= {b"b", b"c", b"d"}


def test_nothing_happens_between_a_read_and_its_hook() -> None:
    """Otherwise a version that a hook remembers could undo a clear by another thread."""
    link = MemoryLink(MemoryStore())
    clearing = threading.Thread(target=link.request, args=(remote.raise_counter(b"c"),))

    def remember(replies: list[Any]) -> None:
        clearing.start()
        clearing.join(0.2)
        assert clearing.is_alive(), "it was carried out before the hook was done"
        link.counters[b"c"] = remote.version(replies[-1])

    (read,) = link.request_many([remote.read_counter(b"c")], remember)
    clearing.join()
    assert link.counters[b"c"] == remote.version(read)
    assert remote.version(link.request(remote.read_counter(b"c"))) > link.counters[b"c"]


def test_a_counter_that_is_a_number_too_large_is_none() -> None:
    """As in ``counter.lua``: not a hard half of sixteen digits and a soft one of the rest."""
    store = get_store("counters", 0, 10, 10_000)
    store.execute(("SET", b"counter", b"5" * 21))
    version = store.execute(remote.read_counter(b"counter"))
    assert len(version) == 16
    assert version != b"5" * 16
