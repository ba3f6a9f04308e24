"""The link of threads to a cluster: one ``ThreadLane`` to each primary, used as one.

``cluster_lane.py`` says what holds for both. Here the parts of a batch go out one after the other, on the lanes that
all threads share. Every lane is watched from its first connection: a push on one must not wait for somebody to use it.
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
from .cluster_lane import REPLACED, NodeListener, OnState, at_node
from .hello import local_clock
from .slots import Node, Part, Scatter, SlotMap, slot_of
from .tasks import start_thread
from .thread_lane import ThreadLane
from .wire import Command, Hook, LaneListener

__all__ = ["ClusterThreads", "MakeThreadLane"]

_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 0.25  # seconds between two questions for the map
_CLOSED = "the connection is closed: call initialize() again"


class MakeThreadLane(Protocol):
    """Makes the lane to one node."""

    def __call__(self, node: Node, *, on_state: OnState, listener: LaneListener) -> ThreadLane: ...


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
    ) -> None:
        self._find = find
        self._make_lane = make_lane
        self._on_state = on_state
        self._listener = listener
        self._lock = threading.Lock()
        self._finding = threading.Lock()
        self._lanes: dict[Node, ThreadLane] = {}
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
        scatter = Scatter(commands, self._slots or self._first_slots())
        parts = list(scatter.parts)
        while parts:
            part = parts.pop(0)
            parts += self._ask(scatter, part, hook)
            if scatter.outdated:
                self._outdated(moved=scatter.moved)
                scatter.outdated = scatter.moved = False
        return scatter.replies()

    def _ask(self, scatter: Scatter, part: Part, hook: Hook | None) -> list[Part]:
        again: list[Part] = []

        def parse(replies: list[Any]) -> None:
            again.extend(scatter.take(part, replies))
            if hook is not None and scatter.complete:
                hook(scatter.replies())

        try:
            self._lane(part.node).request_many(scatter.commands(part), parse)
        except CommandTimeout:
            self._refresh_soon()  # another may have the node's place before its connection is given up
            raise
        except NotInitialized:
            if self._closed.is_set():
                raise
            raise ConnectionFailed(REPLACED) from None
        return again

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

    def _lane(self, node: Node) -> ThreadLane:
        lane = self._lanes.get(node)
        if lane is not None:
            return lane
        with self._lock:
            if self._closed.is_set():
                raise NotInitialized(_CLOSED)
            if node not in self._lanes:
                lane = self._make_lane(
                    node, on_state=partial(self._node_changed, node), listener=NodeListener(self, self._listener)
                )
                lane.watch()
                self._lanes[node] = lane
            return self._lanes[node]

    def _node_changed(self, node: Node, lane: Any, error: Exception | None) -> None:
        if self._lanes.get(node) is not lane:
            return  # it is being closed: another node has its place
        self._on_state(lane, at_node(node, error))
        if error is not None:
            self._refresh_soon()

    def _outdated(self, *, moved: bool) -> None:
        if moved:
            self._moved()
        self._refresh_soon()

    def _moved(self) -> None:
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
                    self._slots = self._find([])
                except NearcacheError as error:
                    self._down = error
                    self._on_state(self, error)
                    self._refresh_soon()
                    raise
            return self._slots

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
                self._install(self._find(self._known_nodes()))
            except NearcacheError as error:
                self._on_state(self, error)
                continue
            with self._lock:
                if not any(lane.down for lane in self._lanes.values()):
                    self._refreshing = False
                    return

    def _known_nodes(self) -> list[Node]:
        with self._lock:
            return sorted(self._lanes, key=lambda node: self._lanes[node].down)

    def _install(self, slots: SlotMap) -> None:
        with self._lock:
            before, self._slots, self._down = self._slots, slots, None
            gone = [self._lanes.pop(node) for node in self._lanes.keys() - set(slots.nodes)]
        if before is not None and not before.agrees(slots):
            self._moved()
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
            lanes = list(self._lanes.values())
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
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            lane.forget_in_child()
