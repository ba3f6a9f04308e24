"""Opening a wire: connect by TCP, TLS or a unix socket, then HELLO, AUTH, SELECT and tracking."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import hiredis

from ..errors import CommandRefused, ConfigurationError, ConnectionFailed
from .lane import Command, Wire

if TYPE_CHECKING:
    import ssl

    from .endpoint import Endpoint

__all__ = ["ask", "open_wire"]


async def open_wire(
    endpoint: Endpoint,
    *,
    command_timeout: float,
    client_name: str,
    kill: int | None = None,
    socket_path: str | None = None,
) -> Wire:
    """Connect to ``endpoint`` and return a wire that is ready for commands.

    Speaks RESP3 where the server does, RESP2 otherwise. Turns on ``CLIENT TRACKING`` in OPTIN mode, so that the
    server tracks only what is asked for after ``CLIENT CACHING YES``.

    Args:
        endpoint: where to, with credentials and database.
        command_timeout: seconds from a command's write to its reply, for the life of the wire.
        client_name: shown by ``CLIENT LIST``.
        kill: id of an earlier connection whose commands must not be carried out any more.
        socket_path: the unix socket, where it is not the endpoint's own (an embedded server's).

    Raises:
        ConnectionFailed: the server refused: wrong password, no such database.
        OSError: no way to the server.
    """
    loop = asyncio.get_running_loop()
    wire = Wire(loop, command_timeout)
    path = socket_path or (endpoint.path if endpoint.kind == "unix" else None)
    if path is not None:
        await loop.create_unix_connection(lambda: wire, path)
    else:
        context = _tls_context(endpoint) if endpoint.tls else None
        transport, _ = await loop.create_connection(
            lambda: wire, endpoint.host, endpoint.port, ssl=context
        )
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        await _shake_hands(wire, endpoint, client_name, kill)
    except BaseException:
        wire.abort(ConnectionFailed("the handshake did not finish"))
        raise
    return wire


async def ask(wire: Wire, *commands: Command) -> list[Any]:
    """Send commands on a bare wire and return their replies."""
    loop = asyncio.get_running_loop()
    waiters = [loop.create_future() for _ in commands]
    for command, waiter in zip(commands, waiters, strict=True):
        wire.send(hiredis.pack_command(command), waiter)
    return list(await asyncio.gather(*waiters))


async def _shake_hands(wire: Wire, endpoint: Endpoint, client_name: str, kill: int | None) -> None:
    hello: list[str] = ["HELLO", "3"]
    if endpoint.password:
        hello += ["AUTH", endpoint.username or "default", endpoint.password]
    (answer,) = await ask(wire, (*hello, "SETNAME", client_name))
    resp3 = not isinstance(answer, CommandRefused)
    if resp3:
        # A map in RESP3, a flat list when a proxy answers HELLO 3 in RESP2.
        facts = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=False))
        wire.client_id = int(facts.get(b"id", 0)) or None
        wire.server = f"{facts.get(b'server', b'?').decode()} {facts.get(b'version', b'?').decode()}"
    elif _is_credentials_error(answer):
        raise ConnectionFailed(f"the server refused the credentials: {_first_word(answer)}")
    else:
        await _shake_hands_resp2(wire, endpoint, client_name)

    commands: list[Command] = [("SELECT", endpoint.db)] if endpoint.db else [("PING",)]
    if kill is not None:
        commands.append(("CLIENT", "KILL", "ID", kill))
    if resp3:
        commands.append(("CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP"))
    replies = await ask(wire, *commands)
    if isinstance(replies[0], CommandRefused):
        raise ConnectionFailed(f"database {endpoint.db}: {replies[0]}")
    # Without tracking (an old server, a proxy, an ACL without it) versions are read with every read instead.
    wire.tracks = resp3 and not isinstance(replies[-1], CommandRefused)


async def _shake_hands_resp2(wire: Wire, endpoint: Endpoint, client_name: str) -> None:
    if endpoint.password:
        user = (endpoint.username,) if endpoint.username else ()
        (reply,) = await ask(wire, ("AUTH", *user, endpoint.password))
        if isinstance(reply, CommandRefused):
            raise ConnectionFailed(f"the server refused the credentials: {_first_word(reply)}")
    # Both are conveniences: a server without them is served all the same.
    name, identity = await ask(wire, ("CLIENT", "SETNAME", client_name), ("CLIENT", "ID"))
    del name
    wire.client_id = identity if isinstance(identity, int) else None
    wire.server = "resp2"


def _is_credentials_error(error: CommandRefused) -> bool:
    return _first_word(error) in {"WRONGPASS", "NOAUTH", "NOPERM"}


def _first_word(error: CommandRefused) -> str:
    # Only the error's code: the rest is the server's text, and some servers quote what they were sent.
    return str(error).split(" ", 1)[0]


def _tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    import ssl

    try:
        context = ssl.create_default_context(cafile=endpoint.ssl_ca_certs)
        if endpoint.ssl_certfile:
            context.load_cert_chain(endpoint.ssl_certfile, endpoint.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"TLS for {endpoint.address}: {error}") from error
    context.check_hostname = endpoint.ssl_check_hostname
    return context
