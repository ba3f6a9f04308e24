"""Asking sentinels which server is the primary.

A client of Sentinel (https://redis.io/docs/latest/develop/reference/sentinel-clients/) asks one sentinel after the
other for the primary's address, connects to it, and asks the server itself whether it is one: a sentinel that was cut
off may name a server that no longer is. Whenever a connection is lost, or a write is refused because the server has
become a replica, that begins anew, so a lane finds the new primary by itself.

Who answered is asked first the next time, unless the server it named could not be used.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionFailed
from .inquiry import inquire, inquire_in_thread

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .wire import Command

__all__ = ["Sentinels"]


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

    def _in_turn(self, given: Endpoint) -> list[Endpoint]:
        nodes = self._nodes
        if self._doubtful:
            nodes = self._nodes = (*nodes[1:], nodes[0])
        self._doubtful = True
        return [replace(given, kind="tcp", host=host, port=port, nodes=()) for host, port in nodes]

    def _read(self, given: Endpoint, sentinel: Endpoint, answer: Any) -> Endpoint:
        if answer is None:
            raise ConnectionFailed(f"there is no primary of the name {self._endpoint.service!r}")
        try:
            host, port = answer
            primary = replace(given, kind="tcp", host=host.decode("ascii"), port=int(port), nodes=())
        except (AttributeError, TypeError, ValueError):
            raise ConnectionFailed(f"this is no sentinel: it answered {answer!r:.40}") from None
        node = (sentinel.host, sentinel.port)
        self._nodes = (node, *(other for other in self._nodes if other != node))
        return primary
