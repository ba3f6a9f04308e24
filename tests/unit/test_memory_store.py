"""``memory://`` answers what the plans send as a real server does: the same commands to both, the same replies."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from tests.servers import ValkeyServer

from nearcache.errors import CommandRefused
from nearcache.tiers import remote
from nearcache.transport.memory import MemoryLink, MemoryStore, get_store

KEYS = [b"app:%d" % n for n in range(6)] + [b"other:1", b"app2:1"]
COUNTERS = [b"~n:app", b"~n:other"]
COMMANDS = (
    ["SET"] * 5
    + ["GET", "MGET", "HEAD", "UNLINK", "UNLINK", "EXISTS", "PTTL", "EXPIRE", "EXPIRE", "PERSIST", "PING", "SCAN"]
    + ["READ_COUNTER", "RAISE_COUNTER", "REMOVE_OLDER", "REMOVE_OLDER"]
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Twins:
    """A store and a server that are sent the same, and what each says of the version counters."""

    def __init__(self, server: ValkeyServer, chance: random.Random) -> None:
        self.server = server
        self.store = MemoryStore()
        self.chance = chance
        # Counters follow each one's own clock: the twins' are compared by their place in this list.
        self.versions: dict[bytes, list[tuple[bytes, bytes]]] = {counter: [(b"", b"")] for counter in COUNTERS}

    def both(self, *command: Any) -> tuple[Any, Any]:
        return self.store.execute(command), self.server.command(*command)

    def same(self, *command: Any) -> None:
        ours, theirs = self.both(*command)
        assert ours == theirs, command

    def step(self) -> None:
        chance = self.chance
        key, keys = chance.choice(KEYS), chance.choices(KEYS, k=chance.randint(1, 4))
        far = chance.randint(10_000_000, 20_000_000)  # no reply depends on how long the test takes
        match chance.choice(COMMANDS):
            case "SET":
                ours, theirs = self.values()
                ttl = chance.choice([None, far])
                assert self.store.execute(remote.write(key, ours, ttl)) == self.server.command(
                    *remote.write(key, theirs, ttl)
                )
            case "GET":
                self.same_length("GET", key)
            case "MGET":
                ours, theirs = self.both("MGET", *keys)
                assert [value is None for value in ours] == [value is None for value in theirs]
            case "HEAD":
                self.same_length("GETRANGE", key, 0, remote.HEADER - 1)
            case "UNLINK":
                self.same("UNLINK", *keys)
            case "PTTL":
                ours, theirs = self.both("PTTL", key)
                assert ours == theirs if min(ours, theirs) < 0 else abs(ours - theirs) < 60_000
            case "EXPIRE":
                for command in remote.expire(key, chance.choice([None, far])):
                    self.same(*command)
            case "PING":
                assert self.both("PING") == (b"PONG", b"PONG")
            case "SCAN":
                assert self.scan(b"app:") == self.scan(b"app:", self.server)
            case "READ_COUNTER":
                counter = chance.choice(COUNTERS)
                pair = self.both(*remote.read_counter(counter))
                if pair != self.versions[counter][-1]:
                    assert self.versions[counter] == [(b"", b"")], "a counter that is there is only read"
                    self.versions[counter].append(pair)
            case "RAISE_COUNTER":
                counter = chance.choice(COUNTERS)
                (our_before, our_now), (their_before, their_now) = self.both(*remote.raise_counter(counter))
                assert (our_before, their_before) == self.versions[counter][-1]
                assert int(our_now) > int(our_before or 0)
                assert int(their_now) > int(their_before or 0)
                self.versions[counter].append((our_now, their_now))
            case "REMOVE_OLDER":
                known = self.versions[COUNTERS[0]]
                if len(known) > 1:
                    now = chance.randrange(1, len(known))
                    before = chance.randrange(now)
                    ours = remote.remove_older(keys, known[before][0], known[now][0])
                    theirs = remote.remove_older(keys, known[before][1], known[now][1])
                    assert self.store.execute(ours) == self.server.command(*theirs)
            case name:
                self.same(name, key)

    def same_length(self, *command: Any) -> None:
        """Values carry versions, so the twins' differ in these eight bytes."""
        ours, theirs = self.both(*command)
        assert (ours if ours is None else len(ours)) == (theirs if theirs is None else len(theirs))

    def values(self) -> tuple[bytes, bytes]:
        """A value for each: with the version of some moment, too short for one, or another program's."""
        kind = self.chance.randrange(8)
        if kind == 0:
            return (b'{"a":1}',) * 2
        if kind == 1:
            return (b"",) * 2
        ours, theirs = self.chance.choice(self.versions[COUNTERS[0]])
        first, second = (
            b"\xc1\x01" + bytes(22) + int(version or 0).to_bytes(8, "big") + b"value" for version in (ours, theirs)
        )
        if kind == 2:
            length = self.chance.randrange(1, 33)
            return first[:length], second[:length]
        return first, second

    def scan(self, head: bytes, server: ValkeyServer | None = None) -> list[bytes]:
        cursor, found = b"0", set[bytes]()
        while True:
            command = remote.scan(cursor, head)
            cursor, keys = server.command(*command) if server else self.store.execute(command)
            found.update(keys)
            if cursor == b"0":
                return sorted(found)


@pytest.mark.parametrize("seed", range(10))
def test_the_same_replies_as_a_server(server: ValkeyServer, seed: int) -> None:
    server.command("FLUSHALL")
    twins = Twins(server, random.Random(seed))
    for _ in range(400):
        twins.step()
    assert len(twins.store) == sum(server.command("EXISTS", key) for key in KEYS)


def test_an_unknown_command_is_refused() -> None:
    assert isinstance(MemoryStore().execute(("LPUSH", b"k", b"v")), CommandRefused)
    assert isinstance(MemoryStore().execute(("EVAL", "return 1", 0)), CommandRefused)


# -- time


def test_a_value_ends_with_its_time_to_live() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    store.execute(("SET", b"k", b"v", "PX", 1_500))
    clock.now += 1.25
    assert store.execute(("PTTL", b"k")) == 250
    assert store.execute(("GET", b"k")) == b"v"
    clock.now += 0.25
    for command, gone in (
        (("GET", b"k"), None),
        (("MGET", b"k"), [None]),
        (("GETRANGE", b"k", 0, 31), b""),
        (("EXISTS", b"k"), 0),
        (("PTTL", b"k"), -2),
        (("PEXPIRE", b"k", 1_000), 0),
        (("PERSIST", b"k"), 0),
        (("UNLINK", b"k"), 0),
        (remote.scan(b"0", b"k"), [b"0", []]),
        (remote.remove_older([b"k"], b"1", b"2"), 0),
    ):
        store.execute(("SET", b"k", b"v", "PX", 100))
        clock.now += 0.1
        assert store.execute(command) == gone, command


def test_a_new_time_to_live_counts_from_now() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    store.execute(("SET", b"k", b"v", "PX", 1_000))
    clock.now += 0.75
    assert store.execute(("PEXPIRE", b"k", 1_000)) == 1
    clock.now += 0.75
    assert store.execute(("GET", b"k")) == b"v"
    assert store.execute(("PERSIST", b"k")) == 1
    clock.now += 1e9
    assert store.execute(("PTTL", b"k")) == -1
    store.execute(("SET", b"k", b"v", "PX", 1_000))
    store.execute(("SET", b"k", b"v"))
    assert store.execute(("PTTL", b"k")) == -1


def test_what_has_ended_does_not_pile_up() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    for number in range(10_000):
        store.execute(("SET", b"%d" % number, b"v", "PX", 1_000))
        clock.now += 0.01
    assert len(store) < 1_200  # a hundred are alive; a sweep comes with every thousandth write


def test_counters_never_go_back_with_the_clock() -> None:
    wall = Clock()
    store = MemoryStore(Clock(), wall)
    first = int(store.execute(remote.read_counter(b"c")))
    assert first == 1_000_000_000
    wall.now = 1.0
    assert store.execute(remote.raise_counter(b"c")) == [b"%d" % first, b"%d" % (first + 1)]
    wall.now = 2_000.0
    assert store.execute(remote.raise_counter(b"c")) == [b"%d" % (first + 1), b"2000000000"]
    assert store.execute(remote.raise_counter(b"new")) == [b"", b"2000000000"]


# -- links


def test_the_same_name_and_database_are_the_same_store() -> None:
    assert get_store("a", 0) is get_store("a", 0)
    assert len({id(get_store("a", 0)), id(get_store("a", 1)), id(get_store("b", 0))}) == 3


def test_nothing_happens_between_a_read_and_its_hook() -> None:
    """Otherwise a version that a hook remembers could undo a clear by another thread."""
    link = MemoryLink(MemoryStore())
    clearing = threading.Thread(target=link.request, args=(remote.raise_counter(b"c"),))

    def remember(replies: list[Any]) -> None:
        clearing.start()
        clearing.join(0.2)
        assert clearing.is_alive(), "it was carried out before the hook was done"
        link.counters[b"c"] = int(replies[-1])

    (read,) = link.request_many([remote.read_counter(b"c")], remember)
    clearing.join()
    assert link.counters[b"c"] > int(read)
