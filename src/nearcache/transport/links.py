"""The links of a client: a lane to its one server, or one to each of several."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from .cluster_lane import ClusterLane
from .cluster_threads import ClusterThreads
from .lane import Lane
from .replicas import NO_BREAKER
from .thread_ahead import ThreadAheadLane
from .thread_lane import ThreadLane

if TYPE_CHECKING:
    from ..client import Client
    from .cluster_lane import OnState
    from .slots import Node
    from .wire import LaneListener

__all__ = ["make_link", "make_thread_link"]

L = TypeVar("L", bound=ThreadLane)


def make_link(client: Client, loop: asyncio.AbstractEventLoop) -> Lane | ClusterLane:
    """The link of an event loop."""
    topology, settings = client.topology, client.settings

    def make(node: Node | None = None, *, on_state: OnState, listener: LaneListener, replica: bool = False) -> Lane:
        return Lane(
            loop,
            topology.opener(node, replica=replica),
            command_timeout=settings.command_timeout,
            connect_timeout=settings.connect_timeout,
            max_in_flight=settings.max_in_flight,
            breaker=NO_BREAKER if replica else client.breaker,
            on_state=on_state,
            listener=listener,
            track_all=client.track_all,
        )

    if not client.spread:
        return make(on_state=client.changed, listener=client.listener)
    return ClusterLane(
        loop,
        topology.find_slots,
        make,
        connect_timeout=settings.connect_timeout,
        on_state=client.changed,
        listener=client.listener,
        replicas=topology.replicas,
    )


def make_thread_link(client: Client) -> ThreadLane | ClusterThreads:
    """The link that the threads of a process share."""
    topology, settings = client.topology, client.settings

    def make(kind: type[L], node: Node | None, on_state: OnState, listener: LaneListener, replica: bool = False) -> L:
        return kind(
            topology.thread_opener(listener, node, replica=replica),
            command_timeout=settings.command_timeout,
            breaker=NO_BREAKER if replica else client.breaker,
            on_state=on_state,
            listener=listener,
            track_all=client.track_all,
        )

    if not client.spread:
        return make(ThreadLane, None, client.changed, client.listener)
    return ClusterThreads(
        topology.find_slots_in_thread,
        partial(make, ThreadAheadLane),
        on_state=client.changed,
        listener=client.listener,
        replicas=topology.replicas,
    )
