"""The first words on a connection, as a plan: HELLO, AUTH, SELECT, tracking. Both kinds of lane drive it.

It speaks RESP3 where the server does, RESP2 otherwise, and turns on ``CLIENT TRACKING`` in OPTIN mode, so that the
server tracks only what is asked for after ``CLIENT CACHING YES``.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CommandRefused, ConfigurationError, ConnectionFailed

if TYPE_CHECKING:
    import ssl

    from .endpoint import Endpoint

__all__ = ["Conversation", "Greeting", "shake_hands", "tls_context"]

Command = tuple[str | bytes | int | float, ...]


class Greeting(NamedTuple):
    """What the server said of itself."""

    client_id: int | None
    server: str
    tracks: bool


Conversation = Generator[list[Command], list[Any], Greeting]
"""Yields commands to send back to back, is resumed with their replies."""


def shake_hands(endpoint: Endpoint, client_name: str, kill: int | None) -> Conversation:
    """Introduce a new connection.

    Args:
        endpoint: with credentials and database.
        client_name: shown by ``CLIENT LIST``.
        kill: id of an earlier connection whose commands must not be carried out any more.

    Raises:
        ConnectionFailed: the server refused: wrong password, no such database.
    """
    hello: list[str] = ["HELLO", "3"]
    if endpoint.password:
        hello += ["AUTH", endpoint.username or "default", endpoint.password]
    (answer,) = yield [(*hello, "SETNAME", client_name)]
    resp3 = not isinstance(answer, CommandRefused)
    if resp3:
        # A map in RESP3, a flat list when a proxy answers HELLO 3 in RESP2.
        facts = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=False))
        client_id = int(facts.get(b"id", 0)) or None
        server = f"{facts.get(b'server', b'?').decode()} {facts.get(b'version', b'?').decode()}"
    elif _first_word(answer) in _CREDENTIALS:
        raise ConnectionFailed(f"the server refused the credentials: {_first_word(answer)}")
    else:
        client_id, server = yield from _resp2(endpoint, client_name)

    commands: list[Command] = [("SELECT", endpoint.db)] if endpoint.db else [("PING",)]
    if kill is not None:
        commands.append(("CLIENT", "KILL", "ID", kill))
    if resp3:
        commands.append(("CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP"))
    replies = yield commands
    if isinstance(replies[0], CommandRefused):
        raise ConnectionFailed(f"database {endpoint.db}: {replies[0]}")
    # Without tracking (an old server, a proxy, an ACL without it) versions are read with every read instead.
    return Greeting(client_id, server, resp3 and not isinstance(replies[-1], CommandRefused))


def _resp2(endpoint: Endpoint, client_name: str) -> Generator[list[Command], list[Any], tuple[int | None, str]]:
    if endpoint.password:
        user = (endpoint.username,) if endpoint.username else ()
        (reply,) = yield [("AUTH", *user, endpoint.password)]
        if isinstance(reply, CommandRefused):
            raise ConnectionFailed(f"the server refused the credentials: {_first_word(reply)}")
    # Both are conveniences: a server without them is served all the same.
    _, identity = yield [("CLIENT", "SETNAME", client_name), ("CLIENT", "ID")]
    return (identity if isinstance(identity, int) else None), "resp2"


_CREDENTIALS = frozenset(["WRONGPASS", "NOAUTH", "NOPERM"])


def _first_word(error: CommandRefused) -> str:
    # Only the error's code: the rest is the server's text, and some servers quote what they were sent.
    return str(error).split(" ", 1)[0]


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """Certificates and host name are checked unless the URL says otherwise.

    Raises:
        ConfigurationError: a certificate or key cannot be read.
    """
    import ssl

    try:
        context = ssl.create_default_context(cafile=endpoint.ssl_ca_certs)
        if endpoint.ssl_certfile:
            context.load_cert_chain(endpoint.ssl_certfile, endpoint.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"TLS for {endpoint.address}: {error}") from error
    context.check_hostname = endpoint.ssl_check_hostname
    return context
