"""Asking sentinels which server is the primary.

A client of Sentinel (https://redis.io/docs/latest/develop/reference/sentinel-clients/) asks one sentinel after the
other for the primary's address, connects to it, and asks the server itself whether it is one: a sentinel that was cut
off may name a server that no longer is. Whenever a connection is lost, or a write is refused because the server has
become a replica, that begins anew, so a lane finds the new primary by itself.

Who answered is asked first the next time, unless the server it named could not be used.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionFailed, NearcacheError
from .inquiry import inquire, inquire_in_thread, subscribe

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .slots import Node
    from .wire import Command

__all__ = ["Sentinels"]

_AWAY = frozenset([b"s_down", b"o_down", b"disconnected"])


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
        self._question: Command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", endpoint.service)
        self._failure = f"no sentinel of {endpoint.address} names the primary"
        self._doubtful = False
        self._asked: Command = ("SENTINEL", "REPLICAS", endpoint.service)

    def confirm(self) -> None:
        """The server that was named last is the primary."""
        self._doubtful = False

    async def find(self, given: Endpoint | None = None) -> Endpoint:
        """The primary.

        Args:
            given: the endpoint with other credentials.

        Raises:
            ConnectionFailed: no sentinel knows one.
        """
        given = given or self._endpoint
        read = partial(self._read, given)
        return await inquire(self._in_turn(given), self._question, read, self._share, self._failure)

    def find_in_thread(self, given: Endpoint | None = None) -> Endpoint:
        """``find`` for a thread."""
        given = given or self._endpoint
        read = partial(self._read, given)
        return inquire_in_thread(self._in_turn(given), self._question, read, self._share, self._failure)

    async def find_replicas(self, given: Endpoint | None = None) -> list[Node]:
        """Those of the primary that are up, by the word of a sentinel; none, when none says so."""
        try:
            return await inquire(self._each(given), self._asked, _read_replicas, self._share, self._failure)
        except ConnectionFailed:
            return []

    def find_replicas_in_thread(self, given: Endpoint | None = None) -> list[Node]:
        """``find_replicas`` for a thread."""
        try:
            return inquire_in_thread(self._each(given), self._asked, _read_replicas, self._share, self._failure)
        except ConnectionFailed:
            return []

    def listen_in_thread(self, given: Endpoint | None = None) -> socket.socket:
        """A connection on which one says what happens to the servers; it is the first to be asked then.

        Raises:
            ConnectionFailed: there is none.
        """
        for sentinel in self._each(given):
            with suppress(OSError, NearcacheError):
                sock = subscribe(sentinel, "[-+]*", self._share)
                self._prefer((sentinel.host, sentinel.port))
                return sock
        raise ConnectionFailed(self._failure)

    def _prefer(self, node: Node) -> None:
        self._nodes = (node, *(other for other in self._nodes if other != node))

    def _in_turn(self, given: Endpoint) -> list[Endpoint]:
        if self._doubtful:
            self._nodes = (*self._nodes[1:], self._nodes[0])
        self._doubtful = True
        return self._each(given)

    def _each(self, given: Endpoint | None) -> list[Endpoint]:
        given = given or self._endpoint
        return [replace(given, kind="tcp", host=host, port=port, nodes=()) for host, port in self._nodes]

    def _read(self, given: Endpoint, sentinel: Endpoint, answer: Any) -> Endpoint:
        if answer is None:
            raise ConnectionFailed(f"there is no primary of the name {self._endpoint.service!r}")
        try:
            host, port = answer
            primary = replace(given, kind="tcp", host=host.decode("ascii"), port=int(port), nodes=())
        except (AttributeError, TypeError, ValueError):
            raise ConnectionFailed(f"this is no sentinel: it answered {answer!r:.40}") from None
        self._prefer((sentinel.host, sentinel.port))
        return primary


def _read_replicas(sentinel: Endpoint, answer: Any) -> list[Node]:
    try:
        each = [dict(zip(facts[::2], facts[1::2], strict=True)) for facts in answer]
        up = (facts for facts in each if not _AWAY & set(facts[b"flags"].split(b",")))
        return sorted((facts[b"ip"].decode("ascii"), int(facts[b"port"])) for facts in up)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConnectionFailed(f"this is no sentinel: it answered {answer!r:.40}") from None
