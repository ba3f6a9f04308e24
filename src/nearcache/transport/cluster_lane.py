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
``MOVED`` and ``ASK`` are followed; ``TRYAGAIN`` (keys of one command are on two nodes) and ``CLUSTERDOWN`` are the
caller's, as failures.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from ..core.ring import UNKNOWN, History
from ..errors import CommandTimeout, ConnectionFailed, NearcacheError, NotInitialized
from .hello import local_clock
from .lane import Lane
from .slots import Node, Part, Scatter, SlotMap, slot_of
from .tasks import start_keeper
from .wire import Command, Hook, LaneListener, Waiter, afresh

__all__ = ["REPLACED", "ClusterLane", "MakeLane", "NodeListener", "OnState", "at_node"]

_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 0.25  # seconds between two questions for the map
REPLACED = "another node has taken the place of this one"
_CLOSED = "the connection is closed: call initialize() again"

OnState = Callable[[Any, Exception | None], None]


class MakeLane(Protocol):
    """Makes the lane to one node."""

    def __call__(self, node: Node, *, on_state: OnState, listener: LaneListener) -> Lane: ...


class NodeListener(LaneListener):
    """Passes on what the lane to one node hears, in the name of the link to all."""

    def __init__(self, link: object, listener: LaneListener) -> None:
        self._link = link
        self._listener = listener

    def revoked(self, keys: list[bytes] | None) -> None:
        self._listener.revoked(keys)

    def lost(self, link: object) -> None:
        self._listener.lost(self._link)

    def turned(self, link: object, *, first: bool) -> None:
        self._listener.turned(self._link, first=first)


def at_node(node: Node, error: Exception | None) -> Exception | None:
    """The error of a lane, with the node it goes to."""
    return None if error is None else ConnectionFailed(f"{node[0]}:{node[1]}: {error}")


class ClusterLane:
    """The connections of a (process, event loop) to the primaries of a cluster; a ``Lane`` to its users.

    Args:
        loop: the loop it lives on.
        find: asks for the map of slots, first of the nodes it is given.
        make_lane: makes the lane to a node.
        connect_timeout: seconds for one attempt to get the map.
        on_state: told of every change of a lane, and of attempts to get the map that failed.
        listener: told what any node revokes, of every connection that is lost, and of nodes that are others now.
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
    ) -> None:
        self._loop = loop
        self._find = find
        self._make_lane = make_lane
        self._connect_timeout = connect_timeout
        self._on_state = on_state
        self._listener = listener
        self._lanes: dict[Node, Lane] = {}
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
            scatter = Scatter(commands, self._slots)
            _Gathering(self, scatter, waiter, hook, single=single).send(scatter.parts)
        elif self._closed:
            waiter.set_exception(NotInitialized(_CLOSED))
        elif self._down is not None:
            waiter.set_exception(ConnectionFailed(str(self._down)))
        else:
            self._early.append(partial(self._post, commands, waiter, hook, single=single))
            self._early_waiters.append(waiter)

    def flush(self) -> None:
        """Write now instead of at the end of this turn of the loop."""
        for lane in self._lanes.values():
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
                node, on_state=partial(self._node_changed, node), listener=NodeListener(self, self._listener)
            )
        return lane

    def outdated(self, *, moved: bool) -> None:
        """A node has said that the map is not right any more."""
        if moved:
            self._moved()
        self._wanted.set()

    def _moved(self) -> None:
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
                        slots = await self._find(self._known_nodes())
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

    def _known_nodes(self) -> list[Node]:
        return sorted(self._lanes, key=lambda node: not self._lanes[node].connected)

    def _came_up(self, slots: SlotMap) -> None:
        before, self._slots, self._down = self._slots, slots, None
        for node in slots.nodes:
            self.lane(node)
        for node in self._lanes.keys() - set(slots.nodes):
            closing = self._loop.create_task(self._lanes.pop(node).aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        if before is not None and not before.agrees(slots):
            self._moved()
        if not self._first.done():
            self._first.set_result(None)
        self._early_waiters.clear()
        while self._early:
            self._early.popleft()()

    @property
    def closed(self) -> bool:
        return self._closed

    def _went_down(self, error: Exception) -> None:
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
        await asyncio.gather(*self._closing, *(lane.aclose() for lane in self._lanes.values()))

    def drop(self) -> None:
        """Close at once, for a loop that does not turn any more."""
        self._shut()
        for lane in self._lanes.values():
            lane.drop()

    def _shut(self) -> None:
        self._closed = True
        if not self._loop.is_closed():
            self._fail_early(NotInitialized(_CLOSED))


class _Gathering:
    """Waits for the replies of several nodes and hands them to one waiter."""

    __slots__ = ("_hook", "_link", "_scatter", "_single", "_waiter")

    def __init__(self, link: ClusterLane, scatter: Scatter, waiter: Waiter, hook: Hook | None, *, single: bool) -> None:
        self._link = link
        self._scatter = scatter
        self._waiter = waiter
        self._hook = hook
        self._single = single

    def send(self, parts: Sequence[Part]) -> None:
        for part in parts:
            self._link.lane(part.node).post_many(self._scatter.commands(part), _PartWaiter(self, part))

    def took(self, part: Part, replies: list[Any]) -> None:
        """Called where the replies of one node are parsed."""
        scatter = self._scatter
        again = scatter.take(part, replies)
        if scatter.outdated:
            self._link.outdated(moved=scatter.moved)
            scatter.outdated = scatter.moved = False
        if again:
            # Not from within the parser of a wire, which this may go to.
            asyncio.get_running_loop().call_soon(self.send, again)
        elif scatter.complete:
            self._finish(scatter.replies())

    def _finish(self, replies: list[Any]) -> None:
        try:
            if self._hook is not None:
                self._hook(replies)
        except Exception as error:  # noqa: BLE001  # the caller's, not the connection's
            self.failed(error)
        else:
            if not self._waiter.done():
                self._waiter.set_result(replies[0] if self._single else replies)

    def failed(self, error: Exception) -> None:
        if isinstance(error, CommandTimeout):
            self._link.outdated(moved=False)  # another may have the node's place before its connection is given up
        elif isinstance(error, NotInitialized) and not self._link.closed:
            error = ConnectionFailed(REPLACED)
        if not self._waiter.done():
            self._waiter.set_exception(error)


class _PartWaiter:
    """Takes what one node answers."""

    __slots__ = ("_done", "_gathering", "_part")

    def __init__(self, gathering: _Gathering, part: Part) -> None:
        self._gathering = gathering
        self._part = part
        self._done = False

    def done(self) -> bool:
        # Not when only the caller has left, or a deadline has passed: a hook has to see its replies.
        return self._done

    def set_result(self, result: Any, /) -> None:
        self._done = True
        self._gathering.took(self._part, result)

    def set_exception(self, exception: Exception, /) -> None:
        self._done = not isinstance(exception, CommandTimeout)
        self._gathering.failed(exception)
