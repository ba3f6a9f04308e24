"""The near tier under every order of events: several connections to one server, each with its own queues.

A command waits in its connection's outbox until the server carries it out, and its reply, like each push, in the inbox
until it is delivered. When each of these happens is for Hypothesis to choose. The plans are the real ones; the server
is the store of ``memory://`` with a tracking table such as Valkey's.

A server may be lost with what it has acknowledged after it was last replicated. What others had written meanwhile is
made good by themselves, at once; what this process had written is its own affair, and must hold as ever.

A write that fails, or that its caller leaves, promises as much as one that got through: what is read from then on is no
older than the write's beginning; and when all is made good, the server holds nothing older, nor what came late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nearcache.codec import Codec
from nearcache.core.clock import Clock
from nearcache.core.effects import Lead, Plan, Send, Spawn, Wait
from nearcache.core.flights import Flights
from nearcache.core.found import Found, judge
from nearcache.core.keys import Namespace
from nearcache.core.parts import Parts
from nearcache.core.reads import Reads
from nearcache.core.recovery import Debt, Kind, Recovery, Replay
from nearcache.core.ring import SECONDS, History, Ring
from nearcache.core.stats import Counters
from nearcache.core.writes import Item, Writes
from nearcache.errors import CommandTimeout, ConnectionFailed, ServerError
from nearcache.tiers import remote
from nearcache.tiers.memory import NearTier
from nearcache.transport.memory import MemoryStore

NAMES = ["a", "b"]
TAG = b"red"
CONNECTIONS = 2
NAME = st.sampled_from(NAMES)
CONNECTION = st.integers(0, CONNECTIONS - 1)
CHANGE = st.sampled_from(["delete", "soft", "hard", "clear"])


class Connection:
    """One connection of the client; also the link that its plans see."""

    tracks = track_all = True
    clock = 0.0

    def __init__(self) -> None:
        self.history = History(b"0")
        self.counters: dict[bytes, tuple[int, int]] = {}
        self.tracked: set[bytes] = set()
        self.outbox: deque[tuple[Batch, Any]] = deque()
        self.inbox: deque[tuple[Batch, Any] | list[bytes]] = deque()

    def histories(self, name: bytes | None = None) -> tuple[History, ...]:
        return (self.history,)

    def watch(self) -> None:
        """What is pushed is read, sooner or later."""


class Batch:
    """Commands sent back to back, and who waits for their replies."""

    def __init__(self, task: Task, commands: list[Any], hook: Callable[[list[Any]], None] | None, single: bool) -> None:
        self.task: Task | None = task
        self.left = len(commands)
        self.hook = hook
        self.single = single
        self.replies: list[Any] = []


class Task:
    """A plan under way.

    Attributes:
        floor: what had been returned for each key before it began.
        seen: of a read, the last change of each key when the server carried it out; of a write, its own changes.
        unheard: when the values were written that a write made invalid without writing them itself.
        meant: of a write, the keys of the values that it wanted to end, or the tag.
        began: the server's last change before.
        waiting: for a flight, with or without patience.
        behind: it reads for another one.
    """

    def __init__(
        self, plan: Plan[Any], connection: Connection, floor: dict[bytes, int], meant: list[bytes] | None, began: int
    ) -> None:
        self.plan = plan
        self.connection = connection
        self.floor = dict(floor)
        self.reads = meant is None
        self.meant = meant or []
        self.began = began
        self.seen: dict[bytes, int] = {}
        self.unheard: dict[bytes, int] = {}
        self.waiting: Wait | None = None
        self.behind = False


Copy = tuple[dict[bytes, tuple[bytes, float | None]], dict[bytes, int]]
"""What a server held, and when the meaning of each key had changed."""


class Server(MemoryStore):
    """A store that numbers the changes of each key's meaning, and tracks what connections read."""

    def __init__(self, site: Namespace, now: Callable[[], float]) -> None:
        super().__init__(Clock(now, now))
        self.site = site
        self.keys = [site.key(name) for name in NAMES]
        self.connections = [Connection() for _ in range(CONNECTIONS)]
        self.changes = 0
        self.changed_at = dict.fromkeys(self.keys, 0)
        self.written_at: dict[int, int] = {}
        self.own: list[bytes] = []

    def run(self, command: Any, connection: Connection | None = None) -> Any:
        """Carry out a command; pushes for the connection that sent it are left in ``own``, behind its reply."""
        reply = self.execute(command, connection)  # type: ignore[arg-type]
        if connection is not None:
            connection.tracked |= {key for key in _read(command) if key in self.keys or b"~" in key}
        return reply

    def _tell(self, origin: Any) -> None:
        changed, evicted = set(self._changed), set(self._evicted)
        self._changed, self._evicted = [], []
        for connection in self.connections:
            keys = ((changed if connection is not origin else set()) | evicted) & connection.tracked
            connection.tracked -= changed | evicted
            if keys:
                (self.own.extend if connection is origin else connection.inbox.append)(sorted(keys))
        for key in self.keys:
            envelope = self.envelope(key)
            counters = set()
            if envelope is not None:
                counters = {self.site.counter, *(self.site.tag_counter(tag) for tag, _ in envelope.tags)}
            if key in changed | evicted or counters & changed:
                self.changes += 1
                self.changed_at[key] = self.changes
                if key in changed and envelope is not None:
                    self.written_at[envelope.write_id] = self.changes

    def copy(self) -> Copy:
        stored = {key: (stored.value, stored.expires) for key, stored in (self._entries | self._side).items()}
        return stored, dict(self.changed_at)

    def restore(self, copy: Copy) -> None:
        """Hold what a copy holds; its values are as old as they were."""
        written_at, (before, _), (stored, changed_at) = dict(self.written_at), self.copy(), copy
        for key in before.keys() - stored.keys():
            self.run(("UNLINK", key))
        for key, (value, expires) in stored.items():
            if expires is None or expires > self._clock.monotonic():
                left = () if expires is None else ("PX", round((expires - self._clock.monotonic()) * 1000))
                self.run(("SET", key, value, *left))
            else:
                self.run(("UNLINK", key))
        self.written_at |= written_at
        self.changed_at = dict(changed_at)

    def envelope(self, key: bytes) -> Any:
        stored = self._entries.get(key)
        return None if stored is None else Codec.open(stored.value, key)

    def known(self) -> dict[bytes, tuple[int, int]]:
        return {key: remote.version(stored.value) for key, stored in self._side.items() if not key.endswith(b"lease")}

    def holds(self, key: bytes) -> Found:
        """What a reader would be told who sees everything."""
        stored = self._entries.get(key)
        left = self._pttl(key)
        found = judge(Codec(), self.site, key, stored.value if stored and left != -2 else None, left, self.known())
        assert isinstance(found, Found)
        return found


def _read(command: Any) -> list[bytes]:
    """The keys that a command leaves tracked: those it reads and does not write afterwards."""
    name, *arguments = command
    if name in ("GET", "MGET"):
        return arguments
    if name in ("PTTL", "GETRANGE"):
        return arguments[:1]
    if name == "EVAL" and arguments[0] in (remote.READ_COUNTER, remote.RAISE_COUNTER, remote.FILL):
        return arguments[2:3]
    return []


class Machine(RuleBasedStateMachine):
    """What one process does, and what others do to the server meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1_000.0
        self.site = Namespace("app")
        self.server = Server(self.site, self.now)
        self.near = NearTier(10, 10**6, 2.0, now=self.now)
        for connection in self.server.connections:
            self.near.attach(connection)
        self.recovery = Recovery(100)
        flights = Flights()
        self.replay = Replay(self.recovery, remote, self.near, flights, 60.0, Ring(1_000, self.now))
        self.reads, self.writes = (
            made(
                Parts(
                    codec=Codec(),
                    remote=remote,
                    near=self.near,
                    flights=flights,
                    replay=self.replay,
                    counters=Counters(),
                    strict=made is Writes,
                )
            )
            for made in (Reads, Writes)
        )
        self.floor = dict.fromkeys([*self.server.keys, TAG], 0)
        self.late: dict[int, int] = {}  # of values whose write had failed before the server carried it out: when
        self.running: list[Task] = []
        self.values = self.failovers = 0
        self.replicate()

    def now(self) -> float:
        return self.time

    # -- plans

    def start(self, connection: Connection, plan: Plan[Any], meant: list[bytes] | None = None) -> None:
        """``meant`` is None for a read."""
        task = Task(plan, connection, self.floor, meant, self.server.changes)
        self.running.append(task)
        self.resume(task, plan.send, None)

    def resume(self, task: Task, how: Callable[[Any], Any], value: Any) -> None:
        try:
            effect = how(value)
            while isinstance(effect, Spawn | Lead):
                if isinstance(effect, Spawn):
                    self.start(task.connection, effect.plan, [])
                else:
                    self.start_behind(task, effect.plan)
                effect = task.plan.send(None)
        except StopIteration as stop:
            self.running.remove(task)
            self.finished(task, stop.value)
            return
        except ServerError:
            self.running.remove(task)
            self.failed(task)
            return
        if isinstance(effect, Wait):
            task.waiting = effect
            effect.flight.when_landed(lambda: self.stop_waiting(task, effect))
            return
        single = isinstance(effect, tuple) and not isinstance(effect, Send)
        commands = [effect] if single else effect.commands if isinstance(effect, Send) else effect
        batch = Batch(task, commands, effect.hook if isinstance(effect, Send) else None, single)
        task.connection.outbox.extend((batch, command) for command in commands)

    def start_behind(self, task: Task, plan: Plan[Any]) -> None:
        """A read that another one waits for, perhaps not to its end."""
        behind = Task(plan, task.connection, self.floor, None, self.server.changes)
        behind.behind, behind.seen = True, task.seen
        self.running.append(behind)
        self.resume(behind, plan.send, None)

    def stop_waiting(self, task: Task, effect: Wait) -> None:
        if task.waiting is effect:
            task.waiting = None
            self.resume(task, task.plan.send, None)

    @rule()
    def lose_patience(self) -> None:
        """Whoever waits with patience for a slow server takes what is there."""
        for task in list(self.running):
            if task.reads and task.waiting is not None and task.waiting.flight.key == b"~read":
                self.stop_waiting(task, task.waiting)

    def finished(self, task: Task, result: Any) -> None:
        if task.behind:
            return
        if task.reads:
            for key, found in result.items():
                if not found.rescued:
                    self.returned(key, found, task)
        elif result is not False:
            for key, change in task.seen.items():
                # What raises a counter promises nothing of values whose writing nobody here has heard of yet.
                if self.floor[key] >= task.unheard.get(key, 0):
                    self.floor[key] = max(self.floor[key], change)

    def failed(self, task: Task) -> None:
        for what in task.meant:
            self.floor[what] = max(self.floor[what], task.began + 1)

    def returned(self, key: bytes, found: Found, task: Task) -> None:
        at = task.seen.get(key, 0) if found.tier == "server" else 0
        if found.fresh and found.envelope is not None:
            written = self.server.written_at[found.envelope.write_id]
            floor = max(task.floor[key], task.floor[TAG] if found.envelope.tags else 0)
            assert written >= floor, f"{key!r} went back: {written} after {floor}"
            at = max(at, written)
        self.floor[key] = max(self.floor[key], at)

    # -- the process

    @invariant()
    def hit(self) -> None:
        """The path of a hit, as the caches take it."""
        for key, entry in [(self.site.key(name), entry) for name, entry in self.site.near.items()]:
            if entry.epoch == self.near.epoch and self.time < entry.quick_until:
                written = self.server.written_at[entry.envelope.write_id]
                floor = max(self.floor[key], self.floor[TAG] if entry.envelope.tags else 0)
                assert written >= floor, f"{key!r} went back: {written} after {floor}"
                self.floor[key] = max(self.floor[key], written)

    @rule(connection=CONNECTION, names=st.sets(NAME, min_size=1), near=st.booleans(), at_once=st.booleans())
    def read(self, connection: int, names: set[str], near: bool, at_once: bool) -> None:
        link = self.server.connections[connection]
        keys = {name: self.site.key(name) for name in sorted(names)}
        self.start(link, self.reads.look(link, self.site, keys, near))
        if at_once:
            self.catch_up(link)

    @rule(connection=CONNECTION, name=NAME, ttl=st.sampled_from([None, 1_000, 3_000]), tagged=st.booleans())
    def set(self, connection: int, name: str, ttl: int | None, tagged: bool) -> None:
        link = self.server.connections[connection]
        self.values += 1
        items = {self.site.key(name): Item(name, self.values)}
        tags = [TAG] if tagged else []
        self.start(link, self.writes.set_many(link, self.site, items, ttl, 500 if ttl else 0, tags), list(items))

    @rule(connection=CONNECTION, name=NAME, what=CHANGE | st.just("expire"), at_once=st.booleans())
    def change(self, connection: int, name: str, what: str, at_once: bool) -> None:
        link, site, key = self.server.connections[connection], self.site, self.site.key(name)
        writes = self.writes
        plans: dict[str, Callable[[], Plan[Any]]] = {
            "delete": lambda: writes.delete(link, site, [key]),
            "expire": lambda: writes.expire(link, site, key, 1_000),
            "soft": lambda: writes.raise_tags(link, site, [TAG], soft=True),
            "hard": lambda: writes.raise_tags(link, site, [TAG], soft=False),
            "clear": lambda: writes.clear(link, site, wait=False),
        }
        meant = {"soft": [TAG], "hard": [TAG], "clear": list(self.server.keys)}
        self.start(link, plans[what](), meant.get(what, [key]))
        if at_once:
            self.catch_up(link)

    # -- others

    @rule(name=NAME, ttl=st.sampled_from([None, 1_000, 3_000]), tagged=st.booleans())
    def others_set(self, name: str, ttl: int | None, tagged: bool) -> None:
        key, site = self.site.key(name), self.site
        version = remote.version(self.server.run(remote.read_counter(site.counter)))[0]
        made = max(remote.version(self.server.run(remote.read_counter(site.tag_counter(TAG)))))
        self.values += 1
        data = Codec().encode(self.values, key, version, 500 if ttl else 0, tags=[(TAG, made)] if tagged else [])
        for command in remote.store(key, data, ttl and ttl + 500, read_back=False):
            self.server.run(command)
        self.by_others.append(("UNLINK", key))

    @rule(name=NAME, what=CHANGE)
    def others_change(self, name: str, what: str) -> None:
        counter = self.site.counter if what == "clear" else self.site.tag_counter(TAG)
        raising = remote.raise_counter(counter, soft=what == "soft")
        self.by_others.append(("UNLINK", self.site.key(name)) if what == "delete" else raising)
        self.server.run(self.by_others[-1])

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.0]))
    def advance(self, seconds: float) -> None:
        self.time += seconds

    # -- the wires

    @rule(connection=CONNECTION, count=st.sampled_from([1, 2, 99]))
    def carry_out(self, connection: int, count: int) -> None:
        link = self.server.connections[connection]
        for _ in range(min(count, len(link.outbox))):
            self.carry_out_next(link)

    def carry_out_next(self, connection: Connection) -> None:
        batch, command = connection.outbox.popleft()
        before = dict(self.server.changed_at)
        reply = self.server.run(command, connection)
        connection.inbox.append((batch, reply))
        if self.server.own:
            connection.inbox.append(self.server.own)
            self.server.own = []
        if batch.task is not None:
            after = self.server.changed_at.items()
            batch.task.seen |= {key: n for key, n in after if batch.task.reads or n != before[key]}
            for key in self.server.keys:
                envelope = self.server.envelope(key)
                if envelope is not None and self.server.changed_at[key] != before[key]:
                    batch.task.unheard[key] = min(self.server.written_at[envelope.write_id], before[key])

    @rule(connection=CONNECTION, all=st.booleans())
    def deliver(self, connection: int, all: bool) -> None:
        link = self.server.connections[connection]
        while self.deliver_next(link) and all:
            pass

    def deliver_next(self, connection: Connection) -> bool:
        """Deliver a push, or replies until somebody is told; whether there was anything."""
        while connection.inbox:
            item = connection.inbox.popleft()
            if isinstance(item, list):
                self.near.revoked(item)
                return True
            batch, reply = item
            batch.replies.append(reply)
            batch.left -= 1
            if batch.left:
                continue
            if batch.hook is not None:
                batch.hook(batch.replies)
            if batch.task is not None:
                self.resume(batch.task, batch.task.plan.send, batch.replies[0] if batch.single else batch.replies)
            return True
        return False

    def catch_up(self, connection: Connection) -> None:
        """Carry out and deliver whatever is under way."""
        while connection.outbox or connection.inbox:
            while connection.outbox:
                self.carry_out_next(connection)
            while self.deliver_next(connection):
                pass

    def fail(self, batches: list[Batch], error: Callable[[], ServerError]) -> None:
        for batch in dict.fromkeys(batches):
            task, batch.task = batch.task, None
            if task is not None:
                self.note_late(batch)
                self.resume(task, task.plan.throw, error())

    def note_late(self, batch: Batch) -> None:
        """What the server carries out of it from now on is older than what is asked for from now on."""
        for waiting, command in (item for link in self.server.connections for item in link.outbox):
            if waiting is batch and command[0] == "EVAL" and command[1] == remote.FILL:
                self.late[Codec.open(command[-1], command[3]).write_id] = self.server.changes  # type: ignore[union-attr]

    @rule(connection=CONNECTION)
    def leave(self, connection: int) -> None:
        """A caller waits no longer."""
        for batch in self.waiting(connection)[:1]:
            task, batch.task = batch.task, None
            if task is not None:
                self.note_late(batch)
                task.plan.close()
                self.running.remove(task)
                self.failed(task)

    @rule(connection=CONNECTION)
    def time_out(self, connection: int) -> None:
        """Whoever waits longest gives up; the reply still comes."""
        self.fail(self.waiting(connection)[:1], lambda: CommandTimeout("late"))

    @rule(connection=CONNECTION)
    def lose(self, connection: int) -> None:
        link, waiting = self.server.connections[connection], self.waiting(connection)
        link.inbox.clear()
        link.outbox.clear()
        link.tracked.clear()
        self.near.lost(link)
        self.fail(waiting, lambda: ConnectionFailed("gone"))

    # -- the server that takes its place

    @rule()
    def replicate(self) -> None:
        """From now on nothing is, until the next time."""
        self.replica, self.replicated = self.server.copy(), self.time
        self.by_others: list[Any] = []

    @rule()
    def fail_over(self) -> None:
        if self.time - self.replicated >= SECONDS:
            self.replicate()
        for connection in range(CONNECTIONS):
            self.lose(connection)
        self.server.restore(self.replica)
        for command in self.by_others:
            self.server.run(command)
        self.failovers += 1
        for link in self.server.connections:
            link.history = History(b"%d" % self.failovers)
            self.replay.turned(link, first=False)
        self.replicate()

    def waiting(self, connection: int) -> list[Batch]:
        link = self.server.connections[connection]
        return [item[0] for item in (*link.inbox, *link.outbox) if isinstance(item, tuple)]

    # -- when all has been said

    @rule()
    def settle(self) -> None:
        self.catch_up_all()
        for _ in range(2):  # one connection may have to wait for the other
            for connection in self.server.connections:
                self.start(connection, self.replay.settled(connection, wait=False), [])
            self.catch_up_all()
        assert not self.recovery.owed
        assert not self.running
        assert not self.near._marks
        assert not self.near._watches
        assert self.site.near == {entry.name: entry for entry in self.near._entries.values()}
        for key in self.server.keys:
            held, right = self.near.find(key, self.site), self.server.holds(key)
            if right.fresh and right.envelope is not None:
                written = self.server.written_at[right.envelope.write_id]
                written = min(written, self.late.get(right.envelope.write_id, written))
                assert written >= max(self.floor[key], self.floor[TAG] if right.envelope.tags else 0)
            if held is None or not held.fresh:
                continue
            assert right.fresh
            assert held.envelope == right.envelope
            if held.remaining_ms is None or right.remaining_ms is None:
                assert held.remaining_ms == right.remaining_ms
            else:
                assert held.remaining_ms <= right.remaining_ms

    def catch_up_all(self) -> None:
        while any(connection.outbox or connection.inbox for connection in self.server.connections):
            for connection in self.server.connections:
                self.catch_up(connection)

    def teardown(self) -> None:
        self.settle()


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
test_whatever_happens_in_whatever_order = Machine.TestCase


# -- that it notices: each story is told as the tier is, and with a piece of it broken


def always_settled(self: Any, key: bytes, mark: Any) -> bool:
    """What is tainted is kept all the same."""
    if not mark.tainted:
        mark.tainted = True
        del self._marks[key]
    return True


def lose_nothing(self: Any, link: Any) -> None:
    """A connection is lost, and what it vouched for stays."""
    with self._lock:
        self._taint_all()


def settled_anywhere(self: Any, what: tuple[Kind, bytes], debt: Debt, link: Any) -> None:
    """What may still be in the socket of another connection counts as settled."""
    del self.owed[what]


def told_and_forgotten(self: Any, kind: Kind, names: list[bytes], link: Any, upto: int, *, soft: bool = False) -> None:
    """What was made good is not kept for the next server."""
    self.recovery.replayed(kind, names, link, upto, soft=soft)


arrived = NearTier.arrived


def leave_what_is_kept(self: Any, key: bytes, mark: Any, *rest: Any) -> None:
    """A tainted reply that differs takes nothing away."""
    if not mark.tainted:
        arrived(self, key, mark, *rest)


def two_replies(machine: Machine) -> None:
    """A read is overtaken by a write of others and by a read on another connection, which tells of it."""
    read(machine, 0)
    machine.carry_out(connection=0, count=99)
    others_set(machine)
    read(machine, 1)
    machine.carry_out(connection=1, count=99)


def late_old_reply(machine: Machine) -> None:
    two_replies(machine)
    machine.deliver(connection=1, all=False)
    machine.deliver(connection=0, all=False)


def early_old_reply(machine: Machine) -> None:
    two_replies(machine)
    machine.deliver(connection=0, all=False)
    machine.deliver(connection=1, all=False)


def pushed(machine: Machine) -> None:
    read(machine, 0, at_once=True)
    others_set(machine)


def read_before_an_own_delete(machine: Machine) -> None:
    machine.change(connection=0, name="a", what="delete", at_once=False)
    read(machine, 1, at_once=True)
    machine.carry_out(connection=0, count=99)
    machine.deliver(connection=0, all=False)


def lost(machine: Machine) -> None:
    read(machine, 0, at_once=True)
    machine.lose(connection=0)
    others_set(machine)


def delete_that_fails(machine: Machine) -> None:
    """Somebody reads on another connection before the failure: what he got is not kept."""
    machine.change(connection=0, name="a", what="delete", at_once=False)
    read(machine, 1, at_once=True)
    machine.time_out(connection=0)


def late_set(machine: Machine) -> None:
    """A write that has failed is carried out after it was made good on another connection."""
    machine.set(connection=0, name="a", ttl=None, tagged=False)
    machine.time_out(connection=0)
    read(machine, 1, at_once=True)


def acknowledged_delete(machine: Machine) -> None:
    """It is lost with the server that has acknowledged it."""
    machine.replicate()
    machine.change(connection=0, name="a", what="delete", at_once=True)
    machine.fail_over()
    read(machine, 1, at_once=True)


def delete_that_was_made_good(machine: Machine) -> None:
    """The server that was told of it is lost, too."""
    acknowledged_delete(machine)
    for _ in range(2):
        read(machine, 0, at_once=True)
        machine.fail_over()


def read(machine: Machine, connection: int, *, at_once: bool = False) -> None:
    machine.read(connection=connection, names={"a"}, near=False, at_once=at_once)


def others_set(machine: Machine) -> None:
    machine.others_set(name="a", ttl=None, tagged=False)


STORIES: list[tuple[Callable[[Machine], None], type, str, Callable[..., Any]]] = [
    (late_old_reply, NearTier, "_settle", always_settled),
    (early_old_reply, NearTier, "arrived", leave_what_is_kept),
    (pushed, NearTier, "revoked", lambda self, keys: None),
    (read_before_an_own_delete, NearTier, "wrote", lambda self, keys, watched: None),
    (lost, NearTier, "lost", lose_nothing),
    (delete_that_fails, Replay, "owe", lambda self, *what, soft=False: self.recovery.owe(*what, soft=soft)),
    (late_set, Recovery, "_settle", settled_anywhere),
    (acknowledged_delete, Ring, "lost", lambda self, link: {}),
    (delete_that_was_made_good, Replay, "_told", told_and_forgotten),
]


def tell(story: Callable[[Machine], None]) -> None:
    machine = Machine()
    others_set(machine)
    for connection in range(CONNECTIONS):  # the versions are known on each
        machine.read(connection=connection, names={"b"}, near=False, at_once=True)
    story(machine)
    machine.hit()
    machine.settle()


@pytest.mark.parametrize(("story", "owner", "name", "instead"), STORIES, ids=[story.__name__ for story, *_ in STORIES])
def test_it_notices(
    monkeypatch: pytest.MonkeyPatch,
    story: Callable[[Machine], None],
    owner: type,
    name: str,
    instead: Callable[..., Any],
) -> None:
    tell(story)
    monkeypatch.setattr(owner, name, instead)
    with pytest.raises(AssertionError):
        tell(story)
