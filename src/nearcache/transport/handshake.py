"""Opening a wire on an event loop: connect by TCP, TLS or a unix socket, then shake hands (``hello.py``)."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConnectionFailed
from .hello import Conversation, refusal_of, shake_hands, tls_context
from .wire import Command, Wire, pack

if TYPE_CHECKING:
    from .endpoint import Endpoint

__all__ = ["ask", "connect", "converse", "open_wire"]

T = TypeVar("T")


async def open_wire(
    endpoint: Endpoint,
    *,
    command_timeout: float,
    client_name: str,
    kill: int | None = None,
    track_all: bool = False,
) -> Wire:
    """Connect to ``endpoint`` and return a wire that is ready for commands.

    Args:
        endpoint: where to, with credentials and database.
        command_timeout: seconds from a command's write to its reply, for the life of the wire.
        client_name: ``CLIENT LIST`` shows it, followed by marks of this process.
        kill: id of an earlier connection whose commands must not be carried out any more.
        track_all: track every key that is read, not only those asked for after ``CLIENT CACHING YES``.

    Raises:
        ConnectionFailed: the server refused: wrong password, no such database.
        OSError: no way to the server.
    """
    wire = await connect(endpoint, command_timeout)
    try:
        greeting = await converse(wire, shake_hands(endpoint, client_name, kill, track_all=track_all))
    except BaseException:
        wire.abort(ConnectionFailed("the handshake did not finish"))
        raise
    wire.client_id, wire.server, wire.tracks, wire.clock, wire.history = greeting
    return wire


async def connect(endpoint: Endpoint, command_timeout: float) -> Wire:
    """A bare wire, before the handshake."""
    loop = asyncio.get_running_loop()
    wire = Wire(loop, command_timeout, refusal_of(endpoint))
    if endpoint.kind == "unix":
        await loop.create_unix_connection(lambda: wire, endpoint.path)
        return wire
    context = tls_context(endpoint) if endpoint.tls else None
    transport, _ = await loop.create_connection(lambda: wire, endpoint.host, endpoint.port, ssl=context)
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
