"""One question to whichever node answers: a sentinel, or a node of a cluster.

Each node is given a share of the time, so that one that is gone or frozen leaves some for the others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import CommandRefused, ConnectionFailed, NearcacheError
from .handshake import connect, converse
from .thread_wire import ThreadWire, open_socket
from .tls import explained
from .wire import Command, Listener

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .hello import Conversation

__all__ = ["inquire", "inquire_in_thread", "subscribe"]

T = TypeVar("T")

_LOCKED = frozenset(["NOAUTH", "NOPERM"])


async def inquire(
    nodes: Sequence[Endpoint], question: Command, read: Callable[[Endpoint, Any], T], share: float, what: str
) -> T:
    """Ask the nodes in turn.

    Args:
        nodes: with the credentials to use where they ask for some.
        question: a command.
        read: makes sense of a node's answer, or raises ``ConnectionFailed``.
        share: seconds for each node.
        what: for the error.

    Raises:
        ConnectionFailed: none has an answer.
    """
    error: Exception | None = None
    for node in nodes:
        try:
            async with asyncio.timeout(share):
                wire = await connect(node, share, share)
                try:
                    return read(node, await converse(wire, _ask(node, question)))
                finally:
                    wire.abort(ConnectionFailed("it has answered"))
        except (OSError, UnicodeError, NearcacheError) as problem:  # another server may have named any host
            error = explained(node, problem)
    raise _failure(what, error)


def inquire_in_thread(
    nodes: Sequence[Endpoint], question: Command, read: Callable[[Endpoint, Any], T], share: float, what: str
) -> T:
    """``inquire`` for a thread."""
    error: Exception | None = None
    for node in nodes:
        try:
            wire = ThreadWire(open_socket(node, share), _Nobody())
            try:
                wire.set_timeout(share)
                return read(node, wire.talk(_ask(node, question)))
            finally:
                wire.sock.close()
        except (OSError, UnicodeError, NearcacheError) as problem:
            error = explained(node, problem)
    raise _failure(what, error)


def subscribe(node: Endpoint, channels: str, timeout: float) -> socket.socket:
    """A connection that becomes readable when something is published on channels of that pattern."""
    wire = ThreadWire(open_socket(node, timeout), _Nobody())
    try:
        wire.set_timeout(timeout)
        wire.talk(_ask(node, ("PSUBSCRIBE", channels)))
    except BaseException:
        wire.sock.close()
        raise
    return wire.sock


def _ask(node: Endpoint, question: Command) -> Conversation[Any]:
    (answer,) = yield [question]
    if isinstance(answer, CommandRefused) and _code(answer) in _LOCKED and node.password:
        user = (node.username,) if node.username else ()
        login, answer = yield [("AUTH", *user, node.password), question]
        if isinstance(login, CommandRefused):
            raise ConnectionFailed(f"the credentials were refused: {_code(login)}")
    if isinstance(answer, CommandRefused):
        lacks = f", the user lacks +{'|'.join(map(str, question[:2])).lower()}" if _code(answer) == "NOPERM" else ""
        raise ConnectionFailed(f"{_code(answer)}{lacks}")
    return answer


def _code(error: CommandRefused) -> str:
    return str(error).split(" ", 1)[0]  # the rest may quote what was sent


def _failure(what: str, error: Exception | None) -> ConnectionFailed:
    return ConnectionFailed(f"{what}; the last: {str(error) or repr(error)}")


class _Nobody(Listener):
    """Nothing is revoked in an answer."""

    def revoked(self, keys: list[bytes] | None) -> None: ...
    def lost(self, link: object) -> None: ...
