"""The link of an event loop to a cluster: one lane to each primary, used as one.

Theory of operation
-------------------
A batch is taken apart by the slots of its keys (``slots.py``); each node gets its part on its own lane, and the replies
are put together again. The hook runs when the last part has been parsed. Between nodes there is no order, and none is
needed for what the near tier keeps: the marks are the client's, not a lane's, so a push on any lane taints what any
other has read, up to the moment the hook runs, and a counter that is read along is learnt only if its own mark is
clean. What does get lost is that a counter's push, on one lane, comes before a later reply on another: an invalidation
by another process takes effect here when its push arrives, as it does for near hits everywhere.

All lanes share one table of ``counters``. When any of them loses its connection, or a slot has moved to another node,
the whole table goes, and with it all that is near: an entry may depend on counters of any node, and a node that has
given a slot away says no more of its keys.

The map of slots is asked for at the start, when a node says ``MOVED`` or ``CLUSTERDOWN``, when a deadline passes or a
lane is lost, and from time to time while one is down: after a failover the map names the replica that took over.
``MOVED`` and ``ASK`` are followed; on ``TRYAGAIN`` (keys of one command are on two nodes) a command is sent again for a
third of a second. After that, and at once on ``CLUSTERDOWN``, it is the caller's, as a failure.

Where values are read from replicas (``replicas.py``) there is a lane to each replica that is read, too; what a replica
does not answer is asked of its primary. With sentinels it is the same, as if their primary had all slots.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from ..core.ring import UNKNOWN, History
from ..errors import ConnectionFailed, NearcacheError, NotInitialized
from .gathering import Gathering, Nobody, NodeListener, at_node
from .hello import INFO, local_clock
from .lane import Lane
from .replicas import Readers, Replicas
from .slots import Node, Scatter, SlotMap, slot_of
from .tasks import start_keeper
from .wire import Command, Hook, LaneListener, Waiter, afresh

__all__ = ["ClusterLane", "MakeLane", "OnState"]

_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 0.25  # seconds between two questions for the map
_CLOSED = "the connection is closed: call initialize() again"

OnState = Callable[[Any, Exception | None], None]


class MakeLane(Protocol):
    """Makes the lane to one node, which may be read as a replica."""

    def __call__(self, node: Node, *, on_state: OnState, listener: LaneListener, replica: bool = False) -> Lane: ...


class ClusterLane:
    """The connections of a (process, event loop) to the primaries of a cluster; a ``Lane`` to its users.

    Args:
        loop: the loop it lives on.
        find: asks for the map of slots, first of the nodes it is given.
        make_lane: makes the lane to a node.
        connect_timeout: seconds for one attempt to get the map.
        on_state: told of every change of a lane, and of attempts to get the map that failed.
        listener: told what any node revokes, of every connection that is lost, and of nodes that are others now.
        replicas: of the client's servers, if values are to be read from them.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        find: Callable[[Sequence[Node]], Awaitable[SlotMap]],
        make_lane: MakeLane,
        *,
        connect_timeout: float,
        on_state: OnState,
        listener: LaneListener,
        replicas: Replicas | None = None,
    ) -> None:
        self._loop = loop
        self._find = find
        self._make_lane = make_lane
        self._connect_timeout = connect_timeout
        self._on_state = on_state
        self._listener = listener
        self.replicas = replicas
        self._readers = None if replicas is None else Readers(replicas, self.reader, self._ask_aside)
        self._lanes: dict[Node, Lane] = {}
        self._reading: dict[Node, Lane] = {}  # to replicas
        self._closing: set[asyncio.Task[None]] = set()
        self._slots: SlotMap | None = None
        self._down: Exception | None = None
        self._closed = False
        self._early: deque[Callable[[], None]] = deque()
        self._early_waiters: deque[Waiter] = deque()
        self._wanted = asyncio.Event()
        self._first = loop.create_future()
        self._keeper = start_keeper(loop, self._keep_up(), "nearcache-cluster")
        self.counters: dict[bytes, tuple[int, int]] = {}

    # -- asking

    def post(self, command: Command, waiter: Waiter) -> None:
        """Send one command; the waiter gets its reply, which may be a ``CommandRefused``."""
        self._post([command], waiter, None, single=True)

    def post_many(self, commands: Sequence[Command], waiter: Waiter, hook: Hook | None = None) -> None:
        """Send commands; the waiter gets the list of replies, after ``hook`` has seen it."""
        self._post(commands, waiter, hook, single=False)

    def _post(self, commands: Sequence[Command], waiter: Waiter, hook: Hook | None, *, single: bool) -> None:
        if self._slots is not None and not self._closed:
            scatter = Scatter(commands, self._slots, self._readers)
            Gathering(self, scatter, waiter, hook, single=single).send(scatter.parts)
        elif self._closed:
            waiter.set_exception(NotInitialized(_CLOSED))
        elif self._down is not None:
            waiter.set_exception(ConnectionFailed(str(self._down)))
        else:
            self._early.append(partial(self._post, commands, waiter, hook, single=single))
            self._early_waiters.append(waiter)

    def flush(self) -> None:
        """Write now instead of at the end of this turn of the loop."""
        for lane in (*self._lanes.values(), *self._reading.values()):
            lane.flush()

    def watch(self) -> None:
        """The loop reads what the servers push, whether or not somebody waits for a reply."""

    def histories(self, name: bytes | None = None) -> Sequence[History]:
        """That of the node with the slot of a key, or those of all nodes."""
        if name is None or self._slots is None:
            return [lane.history for lane in self._lanes.values()]
        lane = self._lanes.get(self._slots.owner(slot_of(name)))
        return (UNKNOWN if lane is None else lane.history,)

    @property
    def tracks(self) -> bool:
        """Every node revokes what was read."""
        return all(lane.tracks for lane in self._lanes.values())

    @property
    def track_all(self) -> bool:
        """It does so for every key that is read."""
        return all(lane.track_all for lane in self._lanes.values())

    @property
    def clock(self) -> float:
        """Seconds to add to ``time.monotonic()`` for the unix time of one of the nodes."""
        return next((lane.clock for lane in self._lanes.values() if lane.connected), None) or local_clock()

    @property
    def connected(self) -> bool:
        """There is a connection to each primary."""
        return bool(self._lanes) and all(lane.connected for lane in self._lanes.values())

    async def connected_or_raise(self) -> None:
        """Wait for the first attempt to connect to every primary; raise what made one fail."""
        if self._slots is None:
            if self._down is None:
                await asyncio.shield(self._first)
            if self._slots is None:
                raise self._down or ConnectionFailed("the lane is closed")
        for lane in list(self._lanes.values()):
            await lane.connected_or_raise()

    # -- nodes

    def lane(self, node: Node) -> Lane:
        """The lane to a node, which may be one that the map does not name yet."""
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = self._make_lane(
                node,
                on_state=partial(self._node_changed, node),
                listener=NodeListener(self, self._listener, self.replicas),
            )
        return lane

    def reader(self, node: Node) -> Lane:
        """The lane to a replica."""
        lane = self._reading.get(node)
        if lane is None:
            lane = self._reading[node] = self._make_lane(
                node,
                on_state=partial(self._replica_changed, node),
                listener=NodeListener(self, self._listener, writes=False),
                replica=True,
            )
        return lane

    def _replica_changed(self, node: Node, lane: Lane, error: Exception | None) -> None:
        if error is not None and self._reading.get(node) is lane and self.replicas is not None:
            self.replicas.left(node, error)

    def _ask_aside(self, node: Node, hook: Hook) -> None:
        lane = self._lanes.get(node) or self._reading.get(node)
        if lane is not None and lane.connected:
            # Not from within the parser of a wire, which this may go to.
            self._loop.call_soon(lane.post_many, [INFO], Nobody(), hook)

    def answered(self, node: Node) -> None:
        """What a primary said is noted."""
        if self._readers is not None:
            self._readers.answered(node)

    def outdated(self, *, moved: bool) -> None:
        """A node has said that the map is not right any more."""
        if moved:
            self._doubt()
        self._wanted.set()

    def _doubt(self) -> None:
        """What is tracked, what replicas have, and who has which slot is not known."""
        if self.replicas is not None:
            self.replicas.note(None)
        self._listener.lost(self)
        self._listener.turned(self, first=False)

    def _node_changed(self, node: Node, lane: Lane, error: Exception | None) -> None:
        if self._lanes.get(node) is not lane:
            return  # it is being closed: another node has its place
        if error is not None:
            self._wanted.set()
        self._on_state(lane, at_node(node, error))

    async def _keep_up(self) -> None:
        attempt = 0
        try:
            while True:
                self._wanted.clear()
                try:
                    async with asyncio.timeout(self._connect_timeout):
                        slots = await self._find(self.known_nodes())
                except Exception as error:  # noqa: BLE001  # whatever it is, the next attempt may succeed
                    attempt += 1
                    self._went_down(error if isinstance(error, NearcacheError) else ConnectionFailed(repr(error)))
                else:
                    attempt = 0
                    self._came_up(slots)
                    await self._until_wanted()
                most = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2 ** min(attempt, 10))
                await asyncio.sleep(random.uniform(_BACKOFF_FIRST / 2, most))
        finally:
            self._shut()

    async def _until_wanted(self) -> None:
        """While a node is away, its place may be taken at any time."""
        try:
            async with asyncio.timeout(None if self.connected else _BACKOFF_MOST):
                await self._wanted.wait()
        except TimeoutError:
            pass

    def learn(self, slots: SlotMap) -> None:
        """Take a map that was asked for elsewhere, from any thread."""
        with suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._learn, slots)

    def _learn(self, slots: SlotMap) -> None:
        if self._slots is not None and not self._closed:
            self._came_up(slots)

    def known_nodes(self) -> list[Node]:
        """Those that are connected first."""
        return [node for node, _ in sorted(self._lanes.items(), key=lambda item: not item[1].connected)]

    def _came_up(self, slots: SlotMap) -> None:
        before, self._slots, self._down = self._slots, slots, None
        for node in slots.nodes:
            self.lane(node)
        replicas = {node for nodes in slots.replicas.values() for node in nodes}
        for lanes, named in ((self._lanes, set(slots.nodes)), (self._reading, replicas)):
            for node in lanes.keys() - named:
                closing = self._loop.create_task(lanes.pop(node).aclose())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        if before is not None and not before.agrees(slots):
            self._doubt()
        if not self._first.done():
            self._first.set_result(None)
        self._early_waiters.clear()
        while self._early:
            self._early.popleft()()

    @property
    def closed(self) -> bool:
        return self._closed

    def _went_down(self, error: Exception) -> None:
        if not self.connected:
            self._on_state(self, error)
        if self._slots is None:
            self._down = error
            self._fail_early(error)

    def _fail_early(self, error: Exception) -> None:
        if not self._first.done():
            self._first.set_result(None)
        self._early.clear()
        while self._early_waiters:
            waiter = self._early_waiters.popleft()
            if not waiter.done():
                waiter.set_exception(afresh(error))

    # -- the end

    async def aclose(self) -> None:
        """Let what is in flight finish (at most one command timeout), then close. Idempotent."""
        self._closed = True
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        lanes = (*self._lanes.values(), *self._reading.values())
        await asyncio.gather(*self._closing, *(lane.aclose() for lane in lanes))

    def drop(self) -> None:
        """Close at once, for a loop that does not turn any more."""
        self._shut()
        for lane in (*self._lanes.values(), *self._reading.values()):
            lane.drop()

    def _shut(self) -> None:
        self._closed = True
        if not self._loop.is_closed():
            self._fail_early(NotInitialized(_CLOSED))
