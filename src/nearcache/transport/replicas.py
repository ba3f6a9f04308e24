"""Reads from replicas: of which one, and of which keys it may be asked. No I/O: the links of a client drive this.

Theory of operation
-------------------
A replica carries out its primary's writes later, by as much as replication lags. A value that is old for that reason is
what who reads from replicas asks for. What must not happen is that a process is shown less than it has seen: its own
write undone, or a value from before one that it has read.

*Notes.* Whatever a primary answers or pushes is noted: the keys concerned, and when.

*Proofs.* A replica is asked for a key only when it is proven to have all that the process can have noted of it. The
primary is asked for its replication id and offset at a time t; when the replica says that it has the same id, and an
offset that is no less, it has all that was answered before t. So it may be asked for any key whose note is older than
t; others are read from the primary, which is a note, too: so a proof is asked for when such a read has been answered.
Nobody waits for it.

*One replica* for each primary is read by all loops and threads of a client: what it has shown once it does not take
back. When another takes its place, that one is not asked before it is proven anew, and what the first one answers still
is noted as if a primary had said so.

*Doubt.* When a connection is lost, slots have moved, or there are too many notes, everything counts as noted now. A
proof is good for ``_OLDEST`` seconds, so a replica that is cut off from its primary is not read for longer. One that
refuses, is late, loads its data, or has lost its primary is left for another.

What is read from a replica is kept near as what is read from a primary: the replica tracks it, and pushes when it
carries out the next write.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from time import monotonic
from typing import Any, Protocol

from .hello import facts_of
from .slots import Node
from .wire import Hook

__all__ = ["NO_BREAKER", "Readers", "Replicas"]

_log = logging.getLogger("nearcache.connections")

_SOON, _CALM = 0.02, 1.0  # seconds between two proofs: while a key waits for one, and while none does
_OLDEST = 10.0  # seconds a proof is good for
_MOST_NOTES = 10_000  # keys; about 1.5 MB


class _Standing:
    """One primary's replicas, and how the one stands that is read."""

    def __init__(self) -> None:
        self.nodes: Sequence[Node] = ()
        self.replica: Node | None = None
        self.proven = -inf  # it has all that was answered before
        self.target: tuple[float, bytes, int] | None = None  # what would prove it: time, replication id, offset
        self.asked = -inf

    def choose(self) -> None:
        others = [node for node in self.nodes if node != self.replica] or list(self.nodes)
        self.replica = random.choice(others) if others else None
        self.proven, self.target = -inf, None


class Replicas:
    """The replicas of one client's servers. Thread-safe.

    Args:
        name: the client's, for the log.
        now: seconds, monotonic.

    Attributes:
        on_left: called when another replica is to be read: there may be others by now.
    """

    def __init__(self, name: str, now: Callable[[], float] = monotonic) -> None:
        self.on_left: Callable[[], None] = lambda: None
        self._name = name
        self._now = now
        self._lock = threading.Lock()
        self._standings: dict[Node, _Standing] = {}
        self._noted: dict[bytes, float] = {}
        self._doubted = -inf

    def follow(self, replicas: Mapping[Node, Sequence[Node]]) -> None:
        """These are the replicas of each primary."""
        with self._lock:
            for primary in self._standings.keys() - replicas.keys():
                del self._standings[primary]
            for primary, nodes in replicas.items():
                standing = self._standings.setdefault(primary, _Standing())
                standing.nodes = nodes
                if standing.replica not in nodes:
                    standing.choose()

    def note(self, keys: Iterable[bytes] | None) -> None:
        """A primary has said something of these keys; ``None``: of any."""
        now = self._now()
        noted = self._noted
        if keys is not None:
            for key in keys:
                noted[key] = now
        if keys is None or len(noted) > _MOST_NOTES:
            self._doubted = now  # first: another thread looks at both
            noted.clear()

    def replica(self, primary: Node) -> Node | None:
        """Which replica of a primary is read."""
        standing = self._standings.get(primary)
        return standing.replica if standing is not None else None

    def covers(self, primary: Node, key: bytes) -> bool:
        """Whether the replica has all that can be known of a key here."""
        standing = self._standings.get(primary)
        if standing is None:
            return False
        return standing.proven > max(self._doubted, self._noted.get(key, -inf), self._now() - _OLDEST)

    def left(self, replica: Node, why: object) -> None:
        """It is away, late, or refuses: another one is to be read, or the same after a new proof."""
        with self._lock:
            for standing in self._standings.values():
                if standing.replica == replica:
                    if standing.proven > -inf:
                        _log.warning("%s client: replica %s:%d is not read any more: %s", self._name, *replica, why)
                    standing.choose()
                    self.on_left()

    # -- proofs

    def due(self, primary: Node, pause: float) -> bool:
        """Whether a proof was asked for so many seconds ago; says so once."""
        standing, now = self._standings.get(primary), self._now()
        if standing is None or now - standing.asked < pause:
            return False
        standing.asked = now
        return True

    def prove(self, primary: Node, ask: Callable[[Node, Hook], None]) -> None:
        """Find out what the replica has.

        Args:
            ask: sends ``INFO`` to one of the two, and has the hook see the reply; nothing, if none comes.
        """
        standing, now = self._standings.get(primary), self._now()
        replica = standing.replica if standing is not None else None
        if standing is None or replica is None:
            return

        def replica_said(replies: list[Any]) -> None:
            self._judge(standing, replica, replies[0])

        def primary_said(replies: list[Any]) -> None:
            facts = facts_of(replies[0])
            if facts.get(b"role") == b"master":
                standing.target = (now, facts[b"master_replid"], int(facts[b"master_repl_offset"]))
                ask(replica, replica_said)

        if standing.target is not None and now - standing.target[0] < _OLDEST:
            ask(replica, replica_said)  # it had not come so far when it was asked last
        else:
            ask(primary, primary_said)

    def _judge(self, standing: _Standing, replica: Node, reply: Any) -> None:
        facts = facts_of(reply)
        linked = facts.get(b"role") == b"slave" and facts.get(b"master_link_status") == b"up"
        if not linked:
            self.left(replica, "it has no link to its primary")
            return
        with self._lock:
            if standing.replica != replica or standing.target is None:
                return
            proves, identity, offset = standing.target
            if facts.get(b"master_replid") != identity:
                standing.target = None
            elif int(facts[b"slave_repl_offset"]) >= offset:
                if standing.proven == -inf:
                    _log.info("%s client: replica %s:%d is read", self._name, *replica)
                standing.proven, standing.target = max(standing.proven, proves), None

    def forget_in_child(self) -> None:
        """After a fork: the connections are the parent's."""
        self._lock = threading.Lock()
        self.note(None)


class _NoBreaker:
    """A replica that fails says nothing of its primary, which is asked instead."""

    failing = False

    def failed(self) -> None: ...
    def succeeded(self) -> None: ...


NO_BREAKER = _NoBreaker()


class _Reader(Protocol):
    """The lane to a replica."""

    @property
    def connected(self) -> bool: ...
    @property
    def track_all(self) -> bool: ...


class Readers:
    """What one link does to read from replicas.

    Args:
        lane: gives the link's lane to a replica, and makes it if need be.
        ask: sends ``INFO`` to a primary or a replica, and does not wait.
    """

    def __init__(self, replicas: Replicas, lane: Callable[[Node], _Reader], ask: Callable[[Node, Hook], None]) -> None:
        self.replicas = replicas
        self._lane = lane
        self._ask = ask
        self._waited: set[Node] = set()  # primaries that were read because their replicas could not be

    def __call__(self, primary: Node, key: bytes) -> Node | None:
        """The replica to read a key from, which has to track it; None for the primary."""
        replica = self.replicas.replica(primary)
        if replica is None:
            return None
        lane = self._lane(replica)
        if not lane.connected or not lane.track_all:
            return None
        if not self.replicas.covers(primary, key):
            self._waited.add(primary)
            return None
        if self.replicas.due(primary, _CALM):
            self.replicas.prove(primary, self._ask)
        return replica

    def answered(self, primary: Node) -> None:
        """A primary has answered, and that is noted: the next proof will cover it."""
        if primary in self._waited and self.replicas.due(primary, _SOON):
            self._waited.discard(primary)
            self.replicas.prove(primary, self._ask)
