"""The link of threads to a cluster: one ``ThreadLane`` to each primary, used as one.

``cluster_lane.py`` says what holds for both. Here all parts of a batch are sent, on the lanes that all threads share,
before the first reply is waited for. Every lane is watched from its first connection: a push on one must not wait for
somebody to use it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from ..core.ring import UNKNOWN, History
from ..errors import CommandTimeout, ConnectionFailed, NearcacheError, NotInitialized
from .cluster_lane import OnState
from .gathering import REPLACED, NodeListener, at_node
from .hello import INFO, local_clock
from .replicas import Readers, Replicas
from .slots import Node, Part, Scatter, SlotMap, slot_of
from .tasks import start_thread
from .thread_ahead import Begun, ThreadAheadLane
from .wire import Command, Hook, LaneListener

__all__ = ["ClusterThreads", "MakeThreadLane"]

_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 0.25  # seconds between two questions for the map
_CLOSED = "the connection is closed: call initialize() again"


class MakeThreadLane(Protocol):
    """Makes the lane to one node, which may be read as a replica."""

    def __call__(
        self, node: Node, on_state: OnState, listener: LaneListener, replica: bool = False
    ) -> ThreadAheadLane: ...


class ClusterThreads:
    """The connections of a process's threads to the primaries of a cluster; a ``ThreadLane`` to its users.

    The arguments are those of ``ClusterLane``.
    """

    def __init__(
        self,
        find: Callable[[Sequence[Node]], SlotMap],
        make_lane: MakeThreadLane,
        *,
        on_state: OnState,
        listener: LaneListener,
        replicas: Replicas | None = None,
    ) -> None:
        self._find = find
        self._make_lane = make_lane
        self._on_state = on_state
        self._listener = listener
        self._lock = threading.Lock()
        self._finding = threading.Lock()
        self._replicas = replicas
        self._readers = None if replicas is None else Readers(replicas, self._reader, self._ask_aside)
        self._lanes: dict[Node, ThreadAheadLane] = {}
        self._reading: dict[Node, ThreadAheadLane] = {}  # to replicas
        self._slots: SlotMap | None = None
        self._down: Exception | None = None
        self._refreshing = False
        self._closed = threading.Event()
        self.counters: dict[bytes, tuple[int, int]] = {}

    # -- asking

    def request(self, command: Command) -> Any:
        """Send one command; its reply, which may be a ``CommandRefused``.

        Raises:
            CommandTimeout: no reply within the deadline.
            ConnectionFailed: no connection, or it was lost meanwhile.
        """
        return self.request_many([command])[0]

    def request_many(self, commands: Sequence[Command], hook: Hook | None = None) -> list[Any]:
        """Send commands, node by node; their replies, after ``hook`` has seen them."""
        scatter = Scatter(commands, self._slots or self._first_slots(), self._readers)
        batch = _Batch(scatter, hook, self._replicas)
        parts = scatter.parts
        while parts:
            # The last is waited for at once: most batches have one part.
            begun = [self._begin(batch, part) for part in parts[:-1]]
            batch.again = []
            for part, sent in zip(reversed(parts), (None, *reversed(begun)), strict=True):
                self._ask(batch, part, sent)
                if self._readers is not None:
                    self._readers.answered(part.node)
            parts = batch.again
            if pause := max((part.pause for part in parts), default=0.0):
                self._closed.wait(pause)
            if scatter.outdated:
                self._outdated(moved=scatter.moved)
                scatter.outdated = scatter.moved = False
        return scatter.replies()

    def _begin(self, batch: _Batch, part: Part) -> Begun | NearcacheError:
        try:
            return self._lane_for(part).begin(batch.scatter.commands(part), partial(batch.parse, part))
        except NearcacheError as error:
            return error

    def _ask(self, batch: _Batch, part: Part, begun: Begun | NearcacheError | None) -> None:
        try:
            if isinstance(begun, NearcacheError):
                raise begun
            lane = self._lane_for(part)
            if begun is not None:
                lane.finish(begun)
            else:
                lane.request_many(batch.scatter.commands(part), partial(batch.parse, part))
        except NearcacheError as error:
            batch.note(part)
            if self._closed.is_set():
                raise
            if part.primary is not None:
                batch.lost(part, error)
                return
            if isinstance(error, NotInitialized):
                raise ConnectionFailed(REPLACED) from None
            if isinstance(error, CommandTimeout):
                self._refresh_soon()  # another may have the node's place before its connection is given up
            raise

    def _lane_for(self, part: Part) -> ThreadAheadLane:
        return self._lane(part.node) if part.primary is None else self._reader(part.node)

    def _ask_aside(self, node: Node, hook: Hook) -> None:
        lane = self._lanes.get(node) or self._reading.get(node)
        if lane is not None and lane.connected:
            with suppress(NearcacheError):
                lane.begin([INFO], hook)

    def open(self) -> None:
        """Connect to every primary, if that was never tried.

        Raises:
            ConnectionFailed: it failed. Attempts go on in the background.
        """
        for node in (self._slots or self._first_slots()).nodes:
            self._lane(node).open()

    def watch(self) -> None:
        """Every lane is watched from the start."""

    def histories(self, name: bytes | None = None) -> Sequence[History]:
        """That of the node with the slot of a key, or those of all nodes."""
        slots = self._slots
        if name is None or slots is None:
            return [lane.history for lane in list(self._lanes.values())]
        lane = self._lanes.get(slots.owner(slot_of(name)))
        return (UNKNOWN if lane is None else lane.history,)

    @property
    def tracks(self) -> bool:
        """Every node revokes what was read."""
        return all(lane.tracks for lane in list(self._lanes.values()))

    @property
    def track_all(self) -> bool:
        """It does so for every key that is read."""
        return all(lane.track_all for lane in list(self._lanes.values()))

    @property
    def clock(self) -> float:
        """Seconds to add to ``time.monotonic()`` for the unix time of one of the nodes."""
        return next((lane.clock for lane in list(self._lanes.values()) if lane.connected), None) or local_clock()

    @property
    def connected(self) -> bool:
        """There is a connection to each primary that was used."""
        lanes = list(self._lanes.values())
        return bool(lanes) and all(lane.connected for lane in lanes)

    # -- nodes

    def _lane(self, node: Node) -> ThreadAheadLane:
        lane = self._lanes.get(node)
        if lane is not None:
            return lane
        with self._lock:
            if self._closed.is_set():
                raise NotInitialized(_CLOSED)
            if node not in self._lanes:
                listener = NodeListener(self, self._listener, self._replicas)
                lane = self._make_lane(node, partial(self._node_changed, node), listener)
                lane.watch()
                self._lanes[node] = lane
            return self._lanes[node]

    def _reader(self, node: Node) -> ThreadAheadLane:
        """The lane to a replica. Nobody waits for its first connection: its primary is read meanwhile."""
        lane = self._reading.get(node)
        if lane is not None:
            return lane
        with self._lock:
            if self._closed.is_set():
                raise NotInitialized(_CLOSED)
            if node not in self._reading:
                listener = NodeListener(self, self._listener, writes=False)
                lane = self._make_lane(node, partial(self._replica_changed, node), listener, replica=True)
                lane.watch()
                self._reading[node] = lane
                start_thread("nearcache-connect", _open, lane)
            return self._reading[node]

    def _replica_changed(self, node: Node, lane: Any, error: Exception | None) -> None:
        if error is not None and self._reading.get(node) is lane and self._replicas is not None:
            self._replicas.left(node, error)

    def _node_changed(self, node: Node, lane: Any, error: Exception | None) -> None:
        if self._lanes.get(node) is not lane:
            return  # it is being closed: another node has its place
        self._on_state(lane, at_node(node, error))
        if error is not None:
            self._refresh_soon()

    def _outdated(self, *, moved: bool) -> None:
        if moved:
            self._doubt()
        self._refresh_soon()

    def _doubt(self) -> None:
        """What is tracked, what replicas have, and who has which slot is not known."""
        if self._replicas is not None:
            self._replicas.note(None)
        self._listener.lost(self)
        self._listener.turned(self, first=False)

    def _first_slots(self) -> SlotMap:
        with self._finding:
            if self._closed.is_set():
                raise NotInitialized(_CLOSED)
            if self._slots is None:
                if self._down is not None:
                    raise ConnectionFailed(str(self._down))
                try:
                    self._slots = self._ask_for_map([])
                except NearcacheError as error:
                    self._down = error
                    self._on_state(self, error)
                    self._refresh_soon()
                    raise
            return self._slots

    def _ask_for_map(self, nodes: Sequence[Node]) -> SlotMap:
        try:
            return self._find(nodes)
        except NearcacheError:
            raise
        except Exception as error:  # whatever it is, the next attempt may succeed
            raise ConnectionFailed(str(error) or repr(error)) from error

    def _refresh_soon(self) -> None:
        with self._lock:
            if self._refreshing or self._closed.is_set():
                return
            self._refreshing = True
        if start_thread("nearcache-cluster", self._refresh) is None:
            self._refreshing, self._down = False, None

    def _refresh(self) -> None:
        """Ask for the map until somebody tells it and every node in it is there."""
        attempt = 0
        while not self._closed.wait(random.uniform(0, min(_BACKOFF_MOST, _BACKOFF_FIRST * 2 ** min(attempt, 10)))):
            attempt += 1
            try:
                self.learn(self._ask_for_map(self.known_nodes()))
            except NearcacheError as error:
                if not self.connected:
                    self._on_state(self, error)
                continue
            with self._lock:
                if not any(lane.down for lane in self._lanes.values()):
                    self._refreshing = False
                    return

    def known_nodes(self) -> list[Node]:
        """Those that are not down first."""
        with self._lock:
            return sorted(self._lanes, key=lambda node: self._lanes[node].down)

    def learn(self, slots: SlotMap) -> None:
        """Take a map, whoever asked for it."""
        with self._lock:
            before, self._slots, self._down = self._slots, slots, None
            replicas = {node for nodes in slots.replicas.values() for node in nodes}
            gone = [self._lanes.pop(node) for node in self._lanes.keys() - set(slots.nodes)]
            gone += [self._reading.pop(node) for node in self._reading.keys() - replicas]
        if before is not None and not before.agrees(slots):
            self._doubt()
        for lane in gone:
            lane.close()
        for node in slots.nodes if gone else ():  # who took over may lack something, whether or not it is asked
            with suppress(NearcacheError):
                self._lane(node).open()

    # -- the end

    def close(self) -> None:
        """Let what is in flight finish (at most one command timeout), then close. Idempotent."""
        with self._lock:
            self._closed.set()
            lanes = [*self._lanes.values(), *self._reading.values()]
        for lane in lanes:
            lane.close()

    def rest(self) -> None:
        """``close``, but the next command connects again."""
        for lane in list(self._lanes.values()):
            lane.rest()

    def forget_in_child(self) -> None:
        """After a fork: the connections, and the thread that asks for the map, are the parent's."""
        closed = self._closed.is_set()
        self._lock, self._finding, self._closed = threading.Lock(), threading.Lock(), threading.Event()
        if closed:
            self._closed.set()
        self._refreshing, self._down = False, None
        lanes = [*self._lanes.values(), *self._reading.values()]
        self._lanes, self._reading = {}, {}
        for lane in lanes:
            lane.forget_in_child()


class _Batch:
    """What several threads at once may do with the parts of a batch: whoever leads a lane parses its replies."""

    def __init__(self, scatter: Scatter, hook: Hook | None, replicas: Replicas | None) -> None:
        self.scatter = scatter
        self.again: list[Part] = []
        self._hook = hook
        self._replicas = replicas
        self._heard: list[Part] = []
        self._lock = threading.Lock()

    def parse(self, part: Part, replies: list[Any]) -> None:
        """Called where the replies of one node are parsed."""
        with self._lock:
            self.note(part)
            if not self._first(part):
                return
            self.again += self.scatter.take(part, replies)
            if self.scatter.refused and self._replicas is not None:
                self._replicas.left(part.node, self.scatter.refused)
                self.scatter.refused = ""
            if self._hook is not None and self.scatter.complete:
                self._hook(self.scatter.replies())

    def lost(self, part: Part, error: Exception) -> None:
        """A replica does not answer: its primary is to be asked, unless the reply has just come."""
        with self._lock:
            if self._first(part) and self._replicas is not None:
                self._replicas.left(part.node, error)
                self.again.append(part.instead())

    def _first(self, part: Part) -> bool:
        """Whether this is the first one hears of it: a reply may come after its deadline."""
        first = all(other is not part for other in self._heard)
        self._heard.append(part)
        return first

    def note(self, part: Part) -> None:
        """Before anybody else can see it."""
        replicas = self._replicas
        if replicas is not None and (part.primary is None or replicas.replica(part.primary) != part.node):
            replicas.note(self.scatter.keys(part))


def _open(lane: ThreadAheadLane) -> None:
    with suppress(NearcacheError):
        lane.open()
