"""Opening a wire on an event loop: connect by TCP, TLS or a unix socket, then shake hands (``hello.py``)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConnectionFailed
from .hello import Conversation, refusal_of, shake_hands
from .tls import explained, tls_context
from .wire import Command, Wire, pack

if TYPE_CHECKING:
    from .endpoint import Endpoint

__all__ = ["ask", "connect", "converse", "open_wire"]

T = TypeVar("T")

_TLS_SHARE = 0.8  # of the time there is to connect


async def open_wire(
    endpoint: Endpoint,
    *,
    command_timeout: float,
    connect_timeout: float | None = None,
    client_name: str,
    kill: int | None = None,
    track_all: bool = False,
    read_only: bool = False,
    note: Callable[[str], None] | None = None,
) -> Wire:
    """Connect to ``endpoint`` and return a wire that is ready for commands.

    Args:
        endpoint: where to, with credentials and database.
        command_timeout: seconds from a command's write to its reply, for the life of the wire.
        connect_timeout: seconds the caller waits for this; TLS is given up a little before, to say so.
        client_name: ``CLIENT LIST`` shows it, followed by marks of this process.
        kill: id of an earlier connection whose commands must not be carried out any more.
        track_all: track every key that is read, not only those asked for after ``CLIENT CACHING YES``.
        read_only: a cluster's replica, which is to be read from.
        note: shown the text of each error that the server answers, for the life of the wire.

    Raises:
        ConnectionFailed: the server refused: wrong password, no such database; or its certificate was refused.
        OSError: no way to the server.
    """
    try:
        wire = await connect(endpoint, command_timeout, connect_timeout, note)
        try:
            greeting = await converse(
                wire, shake_hands(endpoint, client_name, kill, track_all=track_all, read_only=read_only)
            )
        except BaseException:
            wire.abort(ConnectionFailed("the handshake did not finish"))
            raise
    except (OSError, ConnectionFailed) as error:
        reason = explained(endpoint, error)
        if reason is error:
            raise
        raise reason from error
    wire.client_id, wire.server, wire.tracks, wire.clock, wire.history = greeting
    return wire


async def connect(
    endpoint: Endpoint,
    command_timeout: float,
    connect_timeout: float | None = None,
    note: Callable[[str], None] | None = None,
) -> Wire:
    """A bare wire, before the handshake."""
    loop = asyncio.get_running_loop()
    wire = Wire(loop, command_timeout, refusal_of(endpoint, note))
    if endpoint.kind == "unix":
        await loop.create_unix_connection(lambda: wire, endpoint.path)
        return wire
    secure: dict[str, Any] = {}
    if endpoint.tls:
        patience = None if connect_timeout is None else _TLS_SHARE * connect_timeout
        secure = {"ssl": tls_context(endpoint), "ssl_handshake_timeout": patience}
    transport, _ = await loop.create_connection(lambda: wire, endpoint.host, endpoint.port, **secure)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return wire


async def ask(wire: Wire, *commands: Command) -> list[Any]:
    """Send commands on a bare wire and return their replies."""
    if wire.error is not None:
        raise wire.error
    loop = asyncio.get_running_loop()
    waiters = [loop.create_future() for _ in commands]
    for command, waiter in zip(commands, waiters, strict=True):
        wire.send(pack(command), waiter)
    return list(await asyncio.gather(*waiters))


async def converse(wire: Wire, conversation: Conversation[T]) -> T:
    """Carry out a conversation on a bare wire."""
    try:
        commands = next(conversation)
        while True:
            commands = conversation.send(await ask(wire, *commands))
    except StopIteration as stop:
        result: T = stop.value
        return result
