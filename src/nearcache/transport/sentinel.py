"""Asking sentinels which server is the primary.

A client of Sentinel (https://redis.io/docs/latest/develop/reference/sentinel-clients/) asks one sentinel after the
other for the primary's address, connects to it, and asks the server itself whether it is one: a sentinel that was cut
off may name a server that no longer is. Whenever a connection is lost, or a write is refused because the server has
become a replica, that begins anew, so a lane finds the new primary by itself.

Who answered is asked first the next time, unless the server it named could not be used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import CommandRefused, ConnectionFailed, NearcacheError
from .handshake import connect, converse
from .thread_wire import ThreadWire, open_socket
from .wire import Listener

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .hello import Conversation

__all__ = ["Sentinels"]

_LOCKED = frozenset(["NOAUTH", "NOPERM"])


class Sentinels:
    """The sentinels that watch one service.

    Args:
        endpoint: names them and the service. Its credentials are the servers'; a sentinel gets them when it asks.
        timeout: seconds to find the primary and connect to it; each sentinel is given its share.
    """

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._endpoint = endpoint
        self._nodes = endpoint.nodes
        self._share = timeout / (len(endpoint.nodes) + 1)
        self._doubtful = False

    def confirm(self) -> None:
        """The server that was named last is the primary."""
        self._doubtful = False

    async def find(self) -> Endpoint:
        """The primary.

        Raises:
            ConnectionFailed: no sentinel knows one.
        """
        error: Exception | None = None
        for sentinel in self._in_turn():
            try:
                async with asyncio.timeout(self._share):
                    wire = await connect(sentinel, self._share)
                    try:
                        return self._found(sentinel, await converse(wire, self._ask()))
                    finally:
                        wire.abort(ConnectionFailed("the sentinel has answered"))
            except (OSError, NearcacheError) as problem:
                error = problem
        raise self._unknown(error)

    def find_in_thread(self) -> Endpoint:
        """``find`` for a thread."""
        error: Exception | None = None
        for sentinel in self._in_turn():
            try:
                wire = ThreadWire(open_socket(sentinel, self._share), _Nobody())
                try:
                    wire.set_timeout(self._share)
                    return self._found(sentinel, wire.talk(self._ask()))
                finally:
                    wire.sock.close()
            except (OSError, NearcacheError) as problem:
                error = problem
        raise self._unknown(error)

    def _in_turn(self) -> Iterator[Endpoint]:
        nodes = self._nodes
        if self._doubtful:
            nodes = self._nodes = (*nodes[1:], nodes[0])
        self._doubtful = True
        return (replace(self._endpoint, kind="tcp", host=host, port=port, nodes=()) for host, port in nodes)

    def _ask(self) -> Conversation[Endpoint]:
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._endpoint.service)
        (answer,) = yield [question]
        if isinstance(answer, CommandRefused) and str(answer).split(" ", 1)[0] in _LOCKED and self._endpoint.password:
            user = (self._endpoint.username,) if self._endpoint.username else ()
            _, answer = yield [("AUTH", *user, self._endpoint.password), question]
        return self._primary(answer)

    def _primary(self, answer: Any) -> Endpoint:
        if isinstance(answer, CommandRefused):
            raise ConnectionFailed(str(answer).split(" ", 1)[0])  # the rest may quote what it was sent
        if answer is None:
            raise ConnectionFailed(f"there is no primary of the name {self._endpoint.service!r}")
        try:
            host, port = answer
            return replace(self._endpoint, kind="tcp", host=host.decode("ascii"), port=int(port), nodes=())
        except (AttributeError, TypeError, ValueError):
            raise ConnectionFailed(f"this is no sentinel: it answered {answer!r:.40}") from None

    def _found(self, sentinel: Endpoint, primary: Endpoint) -> Endpoint:
        node = (sentinel.host, sentinel.port)
        self._nodes = (node, *(other for other in self._nodes if other != node))
        return primary

    def _unknown(self, error: Exception | None) -> ConnectionFailed:
        why = str(error) or repr(error)
        return ConnectionFailed(f"no sentinel of {self._endpoint.address} names the primary; the last: {why}")


class _Nobody(Listener):
    """A sentinel revokes nothing."""

    def revoked(self, keys: list[bytes] | None) -> None: ...
    def lost(self, link: object) -> None: ...
