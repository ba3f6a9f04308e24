"""One batch on its way through a cluster: what is sent to several nodes comes back as one list of replies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import CommandTimeout, ConnectionFailed, NotInitialized
from .lane import Lane
from .replicas import Replicas
from .slots import Node, Part, Scatter
from .wire import Hook, LaneListener, Waiter

__all__ = ["REPLACED", "Gathering", "Nobody", "NodeListener", "at_node"]

REPLACED = "another node has taken the place of this one"


class NodeListener(LaneListener):
    """Passes on what the lane to one node hears, in the name of the link to all.

    Args:
        replicas: of the node, if it is a primary whose replicas are read.
        writes: whether the node is a primary.
    """

    def __init__(
        self, link: object, listener: LaneListener, replicas: Replicas | None = None, *, writes: bool = True
    ) -> None:
        self._link = link
        self._listener = listener
        self._replicas = replicas
        self._writes = writes

    def revoked(self, keys: list[bytes] | None) -> None:
        if self._replicas is not None:
            self._replicas.note(keys)
        self._listener.revoked(keys)

    def lost(self, link: object) -> None:
        if self._replicas is not None:
            self._replicas.note(None)
        self._listener.lost(self._link)

    def turned(self, link: object, *, first: bool) -> None:
        if self._writes:
            self._listener.turned(self._link, first=first)


def at_node(node: Node, error: Exception | None) -> Exception | None:
    """The error of a lane, with the node it goes to."""
    return None if error is None else ConnectionFailed(f"{node[0]}:{node[1]}: {error}")


class Link(Protocol):
    """The link to all nodes, as far as a batch looks at it."""

    replicas: Replicas | None

    def lane(self, node: Node) -> Lane: ...
    def reader(self, node: Node) -> Lane: ...
    def answered(self, node: Node) -> None: ...
    def outdated(self, *, moved: bool) -> None: ...
    @property
    def closed(self) -> bool: ...


class Nobody:
    """Waits for a reply that only a hook is to see."""

    def done(self) -> bool:
        return True

    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: Exception, /) -> None: ...


class Gathering:
    """Waits for the replies of several nodes and hands them to one waiter."""

    __slots__ = ("_hook", "_link", "_scatter", "_single", "_waiter")

    def __init__(self, link: Link, scatter: Scatter, waiter: Waiter, hook: Hook | None, *, single: bool) -> None:
        self._link = link
        self._scatter = scatter
        self._waiter = waiter
        self._hook = hook
        self._single = single

    def send(self, parts: Sequence[Part]) -> None:
        for part in parts:
            lane = self._link.lane(part.node) if part.primary is None else self._link.reader(part.node)
            lane.post_many(self._scatter.commands(part), _PartWaiter(self, part))

    def took(self, part: Part, replies: list[Any]) -> None:
        """Called where the replies of one node are parsed."""
        scatter = self._scatter
        again = scatter.take(part, replies)
        self._note(part)
        if scatter.refused and self._link.replicas is not None:
            self._link.replicas.left(part.node, scatter.refused)
            scatter.refused = ""
        if scatter.outdated:
            self._link.outdated(moved=scatter.moved)
            scatter.outdated = scatter.moved = False
        if again:
            # Not from within the parser of a wire, which this may go to.
            for each in again:
                asyncio.get_running_loop().call_later(each.pause, self.send, [each])
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

    def _note(self, part: Part) -> None:
        """Before anybody else can see it."""
        replicas = self._link.replicas
        if replicas is not None and (part.primary is None or replicas.replica(part.primary) != part.node):
            replicas.note(self._scatter.keys(part))
            self._link.answered(part.node)

    def lost(self, part: Part, error: Exception) -> None:
        """A node does not answer; its primary is asked instead, if it is a replica."""
        self._note(part)
        if part.primary is None or self._link.closed or self._link.replicas is None:
            self.failed(error)
        else:
            self._link.replicas.left(part.node, error)
            asyncio.get_running_loop().call_soon(self.send, [part.instead()])

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

    def __init__(self, gathering: Gathering, part: Part) -> None:
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
        self._done = self._part.primary is not None or not isinstance(exception, CommandTimeout)
        self._gathering.lost(self._part, exception)
