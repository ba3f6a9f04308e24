"""Opening a wire: connect by TCP, TLS or a unix socket, then HELLO, AUTH, SELECT and tracking."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from typing import TYPE_CHECKING, Any

from ..errors import CommandRefused, ConfigurationError, ConnectionFailed
from .wire import Command, Wire, pack

if TYPE_CHECKING:
    import ssl

    from .endpoint import Endpoint

__all__ = ["ask", "open_wire"]

_TOKEN = secrets.token_hex(4)  # with the process's id, its connections' names are nobody else's


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
        client_name: ``CLIENT LIST`` shows it, followed by marks of this process.
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
        transport, _ = await loop.create_connection(lambda: wire, endpoint.host, endpoint.port, ssl=context)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        await _shake_hands(wire, endpoint, client_name, kill)
    except BaseException:
        wire.abort(ConnectionFailed("the handshake did not finish"))
        raise
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


async def _shake_hands(wire: Wire, endpoint: Endpoint, client_name: str, kill: int | None) -> None:
    name = f"{client_name}-{os.getpid():x}-{_TOKEN}"
    hello: list[str] = ["HELLO", "3"]
    if endpoint.password:
        hello += ["AUTH", endpoint.username or "default", endpoint.password]
    (answer,) = await ask(wire, (*hello, "SETNAME", name))
    resp3 = isinstance(answer, dict | list)
    if resp3:
        _read_facts(wire, answer)
    elif not isinstance(answer, CommandRefused):
        raise ConnectionFailed(f"this is no Redis or Valkey server: it answered HELLO with {answer!r:.40}")
    elif _is_credentials_error(answer):
        raise ConnectionFailed(f"the server refused the credentials: {_first_word(answer)}")
    else:
        await _shake_hands_resp2(wire, endpoint, name)

    commands: list[Command] = [("SELECT", endpoint.db) if endpoint.db else ("PING",)]
    if resp3:
        commands.append(("CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP"))
    first, *rest = await ask(wire, *commands)
    if isinstance(first, CommandRefused) and (endpoint.db or _first_word(first) != "NOPERM"):
        if _is_credentials_error(first):
            raise ConnectionFailed(f"the server refused the credentials: {_first_word(first)}")
        raise ConnectionFailed(f"database {endpoint.db}: {first}")
    # Without tracking (an old server, a proxy, an ACL without it) versions are read with every read instead.
    wire.tracks = rest == [b"OK"]
    if kill is not None:
        await _kill(wire, kill, name)


async def _shake_hands_resp2(wire: Wire, endpoint: Endpoint, name: str) -> None:
    if endpoint.password:
        user = (endpoint.username,) if endpoint.username else ()
        (reply,) = await ask(wire, ("AUTH", *user, endpoint.password))
        if isinstance(reply, CommandRefused):
            raise ConnectionFailed(f"the server refused the credentials: {_first_word(reply)}")
    # Both are conveniences: a server without them is served all the same.
    _, identity = await ask(wire, ("CLIENT", "SETNAME", name), ("CLIENT", "ID"))
    wire.client_id = identity if isinstance(identity, int) else None
    wire.server = "resp2"


async def _kill(wire: Wire, kill: int, name: str) -> None:
    """End an earlier connection of ours, if this server still has it; back when it is gone.

    A server that was started anew counts its connections from one again: the name tells ours from a stranger's.
    """
    (line,) = await ask(wire, ("CLIENT", "LIST", "ID", kill))
    if isinstance(line, bytes) and f"name={name}".encode() in line.split():
        await ask(wire, ("CLIENT", "KILL", "ID", kill))


def _read_facts(wire: Wire, answer: dict[Any, Any] | list[Any]) -> None:
    # A map in RESP3, a flat list when a proxy answers HELLO 3 in RESP2.
    facts = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=False))
    identity, server, version = (facts.get(name) for name in (b"id", b"server", b"version"))
    wire.client_id = identity if isinstance(identity, int) else None
    known = [word.decode("ascii", "replace") for word in (server, version) if isinstance(word, bytes)]
    wire.server = " ".join(known) or "?"


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
