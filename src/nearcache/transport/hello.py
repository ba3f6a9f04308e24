"""The first words on a connection, as a plan: HELLO, AUTH, SELECT, tracking. Both kinds of lane drive it.

It speaks RESP3 where the server does, RESP2 otherwise, and turns on ``CLIENT TRACKING``: either of every key that is
read, or in OPTIN mode, where the server tracks only what is asked for after ``CLIENT CACHING YES``.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..core.ring import History
from ..errors import CommandRefused, ConnectionFailed

if TYPE_CHECKING:
    from .endpoint import Endpoint

__all__ = ["INFO", "Conversation", "Greeting", "facts_of", "local_clock", "refusal_of", "shake_hands"]

T = TypeVar("T")

Command = tuple[str | bytes | int | float, ...]
Conversation = Generator[list[Command], list[Any], T]
"""Yields commands to send back to back, is resumed with their replies."""

INFO: Command = ("INFO", "REPLICATION")
"""Asks for what ``facts_of`` reads."""

_TOKEN = secrets.token_hex(4)  # with the process's id, its connections' names are nobody else's
_CREDENTIALS = frozenset(["WRONGPASS", "NOAUTH"])


class Greeting(NamedTuple):
    """What the server said of itself.

    Attributes:
        client_id: the connection's, where the server gives one.
        server: name and version.
        tracks: it will tell when what was read changes.
        clock: seconds to add to ``time.monotonic()`` for its unix time; right to half a round trip.
        history: its data set's.
    """

    client_id: int | None
    server: str
    tracks: bool
    clock: float
    history: History


def local_clock() -> float:
    """The clock of a server that was not asked: this machine's."""
    return time.time() - time.monotonic()


def shake_hands(
    endpoint: Endpoint, client_name: str, kill: int | None, *, track_all: bool, read_only: bool = False
) -> Conversation[Greeting]:
    """Introduce a new connection.

    Args:
        endpoint: with credentials and database. With a ``service`` it has to be a primary.
        client_name: ``CLIENT LIST`` shows it, followed by marks of this process.
        kill: id of an earlier connection whose commands must not be carried out any more.
        track_all: track every key that is read, not only those asked for after ``CLIENT CACHING YES``.
        read_only: a cluster's replica, which sends readers away until they say that they take what it has.

    Raises:
        ConnectionFailed: the server refused: wrong password, no such database; or it is a replica.
    """
    name = f"{client_name}-{os.getpid():x}-{_TOKEN}"
    hello: list[str] = ["HELLO", "3"]
    if endpoint.password:
        hello += ["AUTH", endpoint.username or "default", endpoint.password]
    (answer,) = yield [(*hello, "SETNAME", name)]
    resp3 = isinstance(answer, dict | list)
    if resp3:
        client_id, server, role = _facts(answer)
    elif not isinstance(answer, CommandRefused):
        raise ConnectionFailed(f"this is no Redis or Valkey server: it answered HELLO with {answer!r:.40}")
    elif _code(answer) == "WRONGPASS" or (_code(answer) == "NOAUTH" and not endpoint.password):
        raise ConnectionFailed(f"the server refused the credentials: {_code(answer)}")
    else:
        # A locked server that does not know HELLO says NOAUTH, too.
        client_id, server, role = yield from _resp2(endpoint, name)
    if endpoint.service and role not in {b"master", None}:
        raise ConnectionFailed(f"{endpoint.address} is not the primary any more")

    commands: list[Command] = [("SELECT", endpoint.db) if endpoint.db else ("PING",), ("TIME",), INFO]
    if read_only:
        commands.append(("READONLY",))
    if resp3:
        commands.append(("CLIENT", "TRACKING", "ON", *(() if track_all else ("OPTIN",)), "NOLOOP"))
    asked = time.monotonic()
    first, now, replication, *rest = yield commands
    clock = _clock(now, (asked + time.monotonic()) / 2)
    if isinstance(first, CommandRefused) and (endpoint.db or _code(first) != "NOPERM"):
        if _code(first) in _CREDENTIALS:
            raise ConnectionFailed(f"the server refused the credentials: {_code(first)}")
        if _code(first) == "NOPERM":
            raise ConnectionFailed(f"database {endpoint.db}: the user lacks +select")
        raise ConnectionFailed(f"database {endpoint.db}: {first}")
    if read_only and isinstance(refused := rest.pop(0), CommandRefused):
        raise ConnectionFailed(f"it is not to be read from: {refused}")
    if kill is not None:
        yield from _kill(kill, name)
    # Without tracking (an old server, a proxy, an ACL without it) versions are read with every read instead.
    return Greeting(client_id, server, rest == [b"OK"], clock, _history(replication, endpoint))


def _resp2(endpoint: Endpoint, name: str) -> Conversation[tuple[int | None, str, Any]]:
    if endpoint.password:
        user = (endpoint.username,) if endpoint.username else ()
        (reply,) = yield [("AUTH", *user, endpoint.password)]
        if isinstance(reply, CommandRefused):
            raise ConnectionFailed(f"the server refused the credentials: {_code(reply)}")
    # These are conveniences: a server without them is served all the same.
    asked: list[Command] = [("CLIENT", "SETNAME", name), ("CLIENT", "ID")]
    _, identity, *role = yield [*asked, ("ROLE",)] if endpoint.service else asked
    known = role[0][0] if role and isinstance(role[0], list) else None
    return (identity if isinstance(identity, int) else None), "resp2", known


def _kill(kill: int, name: str) -> Conversation[None]:
    """End an earlier connection of ours, if this server still has it; back when it is gone.

    A server that was started anew counts its connections from one again: the name tells ours from a stranger's.
    """
    (line,) = yield [("CLIENT", "LIST", "ID", kill)]
    if isinstance(line, bytes) and f"name={name}".encode() in line.split():
        yield [("CLIENT", "KILL", "ID", kill)]


def _facts(answer: dict[Any, Any] | list[Any]) -> tuple[int | None, str, Any]:
    # A map in RESP3, a flat list when a proxy answers HELLO 3 in RESP2.
    pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=False)
    facts = {name: fact for name, fact in pairs if isinstance(name, bytes)}
    identity, server, version = (facts.get(name) for name in (b"id", b"server", b"version"))
    known = [word.decode("ascii", "replace") for word in (server, version) if isinstance(word, bytes)]
    return (identity if isinstance(identity, int) else None), " ".join(known) or "?", facts.get(b"role")


def _clock(answer: Any, asked: float) -> float:
    try:
        seconds, microseconds = map(int, answer)
        return seconds + microseconds / 1e6 - asked
    except (TypeError, ValueError, OverflowError):
        return local_clock()  # an ACL without TIME, a proxy


def _history(answer: Any, endpoint: Endpoint) -> History:
    facts = facts_of(answer)
    # An ACL without INFO, a proxy: another server is then one at another address.
    identity = facts.get(b"master_replid") or endpoint.address.encode()
    return History(identity, facts.get(b"master_replid2", b""))


def facts_of(answer: Any) -> dict[bytes, bytes]:
    """The lines of what ``INFO`` answered; none when it was refused."""
    text = answer.encode() if isinstance(answer, str) else answer
    if not isinstance(text, bytes):
        return {}
    pairs = (line.partition(b":") for line in text.split(b"\r\n"))
    return {name: fact for name, colon, fact in pairs if colon}


def _code(error: CommandRefused) -> str:
    # Only the error's code: the rest is the server's text, and some servers quote what they were sent.
    return str(error).split(" ", 1)[0]


def refusal_of(endpoint: Endpoint, note: Callable[[str], None] | None = None) -> Callable[[str], CommandRefused]:
    """What makes an exception of an error that the server answers.

    Where a primary is asked for, a server that refuses writes is not to be used any more: then it raises
    ``ConnectionFailed``, which ends the connection.

    Args:
        endpoint: with a ``service`` it has to be a primary.
        note: shown the text of each error.
    """

    def refused(text: str) -> CommandRefused:
        if note is not None:
            note(text)
        if endpoint.service and text.startswith("READONLY"):
            raise ConnectionFailed("it is not the primary any more: READONLY")
        return CommandRefused(text)

    return refused
