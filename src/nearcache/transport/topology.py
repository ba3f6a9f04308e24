"""Where the server of one client is at present, and how to get there.

As it was given, or a private server's socket, or the primary that sentinels name. That is found out for each
connection anew, so whoever reconnects, a lane or redis-py's client, arrives where the server is by then.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionFailed
from .credentials import Credentials
from .driver import forget_driver, make_driver
from .handshake import open_wire
from .inquiry import inquire, inquire_in_thread
from .sentinel import Sentinels
from .slots import Node, SlotMap
from .tasks import in_thread
from .thread_wire import ThreadWire, open_thread_wire

if TYPE_CHECKING:
    import redis.asyncio

    from .credentials import CredentialSource
    from .embedded import EmbeddedServer
    from .endpoint import Endpoint
    from .replicas import Replicas
    from .wire import Listener, Wire

__all__ = ["Topology"]


class Topology:
    """The way to the server of one client.

    Args:
        endpoint: as the client was given it.
        command_timeout: seconds from a command's write to its reply.
        connect_timeout: seconds for one attempt to connect.
        client_name: ``CLIENT LIST`` shows it, followed by marks of this process.
        track_all: track every key that is read.
        credentials: asked for user name and password before each connection; None: the endpoint's.
        note: shown the text of each error that the server answers.
        replicas: told which there are, if values are to be read from them.

    Attributes:
        at: where the latest connection went; ``endpoint`` before the first.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        command_timeout: float,
        connect_timeout: float,
        client_name: str,
        track_all: bool,
        credentials: CredentialSource | None = None,
        note: Callable[[str], None] | None = None,
        replicas: Replicas | None = None,
    ) -> None:
        self.replicas = replicas
        self.at = replace(endpoint, db=0) if endpoint.kind == "cluster" else endpoint
        self._endpoint = endpoint
        self._command_timeout = command_timeout
        self._connect_timeout = connect_timeout
        self._client_name = client_name
        self._track_all = track_all
        self._note = note
        self._credentials = Credentials(endpoint, credentials, connect_timeout)
        self._sentinels = Sentinels(endpoint, connect_timeout) if endpoint.kind == "sentinel" else None
        self._embedded: EmbeddedServer | None = None
        self._driver: redis.asyncio.Redis | None = None
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """For people: the address as it was given, and where it led."""
        given = self._endpoint.address
        return given if self.at.nodes == self._endpoint.nodes else f"{self.at.host}:{self.at.port} of {given}"

    # -- connections

    def opener(self, node: Node | None = None, *, replica: bool = False) -> Callable[[int | None], Awaitable[Wire]]:
        """What opens the wires of one lane, of several to that node; it is given the id of the connection to kill."""
        last: Endpoint | None = None

        async def open_next(kill: int | None) -> Wire:
            nonlocal last
            given = await self._credentials.endpoint()
            endpoint = await self._find(given) if node is None else _at_node(given, node, replica=replica)
            wire = await open_wire(
                endpoint,
                command_timeout=self._command_timeout,
                connect_timeout=self._connect_timeout,
                client_name=self._client_name,
                kill=kill
                if _is_same_server(endpoint, last)
                else None,  # another one numbers its connections for itself
                track_all=self._track_all,
                read_only=replica and self._endpoint.kind == "cluster",
                note=None if replica else self._note,
            )
            last, wire.node = endpoint, (endpoint.host, endpoint.port)
            if not replica:
                self._arrived(endpoint)
            return wire

        return open_next

    def thread_opener(
        self, listener: Listener, node: Node | None = None, *, replica: bool = False
    ) -> Callable[[int | None], ThreadWire]:
        """The same for the lane of threads."""
        last: Endpoint | None = None

        def open_next(kill: int | None) -> ThreadWire:
            nonlocal last
            given = self._credentials.endpoint_in_thread()
            endpoint = self._find_in_thread(given) if node is None else _at_node(given, node, replica=replica)
            wire = open_thread_wire(
                endpoint,
                listener,
                command_timeout=self._command_timeout,
                connect_timeout=self._connect_timeout,
                client_name=self._client_name,
                kill=kill if _is_same_server(endpoint, last) else None,
                track_all=self._track_all,
                read_only=replica and self._endpoint.kind == "cluster",
                note=None if replica else self._note,
            )
            last, wire.node = endpoint, (endpoint.host, endpoint.port)
            if not replica:
                self._arrived(endpoint)
            return wire

        return open_next

    async def _find(self, given: Endpoint) -> Endpoint:
        if self._sentinels is not None:
            return await self._sentinels.find(given)
        return await in_thread(self._start) if given.kind == "embedded" else given

    def _find_in_thread(self, given: Endpoint) -> Endpoint:
        if self._sentinels is not None:
            return self._sentinels.find_in_thread(given)
        return self._start() if given.kind == "embedded" else given

    def find_primary_in_thread(self) -> Node:
        """The server that a sentinel names and that agrees.

        Raises:
            ConnectionFailed: there is none.
        """
        assert self._sentinels is not None
        primary = self._sentinels.find_in_thread(self._credentials.endpoint_in_thread())
        asked = [replace(primary, service="")]
        node = inquire_in_thread(asked, ("ROLE",), _read_role, self._connect_timeout, "the primary does not say so")
        self._sentinels.confirm()
        return node

    def listen_in_thread(self) -> socket.socket | None:
        """What becomes readable when a sentinel has something to say.

        Raises:
            ConnectionFailed: there is none to be listened to.
        """
        if self._sentinels is None:
            return None
        return self._sentinels.listen_in_thread(self._credentials.endpoint_in_thread())

    async def find_slots(self, nodes: Sequence[Node]) -> SlotMap:
        """Which node of the cluster has which slot, asked of these nodes and then of those in the URL; or of sentinels.

        Raises:
            ConnectionFailed: no node says so.
        """
        given = await self._credentials.endpoint()
        if self._sentinels is not None:
            primary = await self._sentinels.find(given)
            slots = _whole(primary, await self._sentinels.find_replicas(given))
        else:
            asked = self._nodes(given, nodes)
            slots = await inquire(asked, ("CLUSTER", "SLOTS"), _read_slots, self._share(asked), self._nobody)
        return self._found(slots)

    def find_slots_in_thread(self, nodes: Sequence[Node]) -> SlotMap:
        """``find_slots`` for a thread."""
        given = self._credentials.endpoint_in_thread()
        if self._sentinels is not None:
            primary = self._sentinels.find_in_thread(given)
            slots = _whole(primary, self._sentinels.find_replicas_in_thread(given))
        else:
            asked = self._nodes(given, nodes)
            slots = inquire_in_thread(asked, ("CLUSTER", "SLOTS"), _read_slots, self._share(asked), self._nobody)
        return self._found(slots)

    def _found(self, slots: SlotMap) -> SlotMap:
        if self.replicas is not None:
            self.replicas.follow(slots.replicas)
        return slots

    def _nodes(self, given: Endpoint, nodes: Sequence[Node]) -> list[Endpoint]:
        return [_at_node(given, node) for node in dict.fromkeys((*nodes, *given.nodes))]

    def _share(self, nodes: Sequence[Endpoint]) -> float:
        return self._connect_timeout / len(nodes)

    @property
    def _nobody(self) -> str:
        return f"no node of {self._endpoint.address} knows the cluster's slots"

    def _start(self) -> Endpoint:
        """An embedded server's socket."""
        from .embedded import acquire

        with self._lock:
            if self._embedded is None:
                self._embedded = acquire(self._endpoint.path)
        try:
            return replace(self._endpoint, kind="unix", path=self._embedded.ensure())
        except OSError as error:
            raise ConnectionFailed(str(error) or repr(error)) from error

    def _arrived(self, endpoint: Endpoint) -> None:
        if self._sentinels is not None:
            self._sentinels.confirm()
            self.at = endpoint

    # -- redis-py's client

    def driver(self) -> redis.asyncio.Redis:
        """redis-py's client, with connections of its own; one per client."""
        if self._driver is None:
            self._driver = make_driver(
                self._start() if self._endpoint.kind == "embedded" else self._endpoint,
                self._find_primary if self._sentinels is not None else None,
                self._credentials,
                command_timeout=self._command_timeout,
                connect_timeout=self._connect_timeout,
            )
        return self._driver

    async def _find_primary(self) -> Endpoint:
        return await self._find(await self._credentials.endpoint())

    # -- the end

    async def aclose(self) -> None:
        """Close redis-py's client and let go of an embedded server. Idempotent."""
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.aclose()
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            await in_thread(embedded.release)

    def forget_in_child(self) -> None:
        """After a fork: the driver's connections are the parent's."""
        self._lock = threading.Lock()
        driver, self._driver = self._driver, None
        if driver is not None:
            forget_driver(driver)
        self._credentials.forget_in_child()
        if self.replicas is not None:
            self.replicas.forget_in_child()


def _read_role(node: Endpoint, answer: Any) -> Node:
    if not isinstance(answer, list) or answer[:1] != [b"master"]:
        raise ConnectionFailed("it is a replica")
    return node.host, node.port


def _whole(primary: Endpoint, replicas: list[Node]) -> SlotMap:
    return SlotMap.of_one((primary.host, primary.port), replicas)


def _read_slots(node: Endpoint, answer: Any) -> SlotMap:
    return SlotMap(answer, (node.host, node.port))


def _at_node(given: Endpoint, node: Node, *, replica: bool = False) -> Endpoint:
    db, service = given.db if given.service else 0, "" if replica else given.service
    return replace(given, kind="tcp", host=node[0], port=node[1], db=db, service=service, nodes=())


def _is_same_server(endpoint: Endpoint, last: Endpoint | None) -> bool:
    """Whoever logs in there."""
    return last is not None and (endpoint.host, endpoint.port, endpoint.path) == (last.host, last.port, last.path)
