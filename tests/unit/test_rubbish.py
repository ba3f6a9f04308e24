"""What a server should never say: an error of ours, whoever reads it."""

from __future__ import annotations

import math
import socket

import pytest

from nearcache.errors import ConnectionFailed
from nearcache.transport.endpoint import Endpoint
from nearcache.transport.hello import shake_hands
from nearcache.transport.thread_wire import ThreadWaiter, ThreadWire

UNHASHABLE = b"%1\r\n*0\r\n:1\r\n"


class Deaf:
    """A listener that nobody should call."""

    def revoked(self, keys: list[bytes] | None) -> None:
        raise AssertionError

    lost = revoked


@pytest.mark.parametrize(
    "rubbish",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$-5\r\n",
        UNHASHABLE,
        b">0\r\n",
        b"\0",
        b"+1\r\n+2\r\n",
        b">1\r\n" + UNHASHABLE,
    ],
)
def test_a_thread_that_reads_rubbish_finds_the_connection_lost(rubbish: bytes) -> None:
    wire = ThreadWire(None, Deaf())  # type: ignore[arg-type]
    waiters = [ThreadWaiter(b"?", 1, None, math.inf) for _ in range(2)]
    wire.waiting.extend(waiters)
    with pytest.raises(ConnectionFailed):
        wire.take(b"+fine\r\n" + rubbish)
    assert waiters[0].done
    assert waiters[0].replies == [b"fine"]


def test_a_reply_without_an_end_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearcache.transport.thread_wire.LONGEST", 5000)
    wire = ThreadWire(None, Deaf())  # type: ignore[arg-type]
    wire.waiting.append(ThreadWaiter(b"?", 2, None, math.inf))
    wire.take(b"$4000\r\n" + bytes(3990))
    wire.take(bytes(10) + b"\r\n+" + bytes(4900))
    with pytest.raises(ConnectionFailed):
        wire.take(bytes(100))


def test_a_reply_that_trickles_in_is_late_some_time() -> None:
    wire = ThreadWire(None, Deaf())  # type: ignore[arg-type]
    early, late = (ThreadWaiter(b"?", 1, None, due) for due in (math.inf, -math.inf))
    wire.waiting.extend([early, late])
    wire.leader = early
    wire.take(b"$5\r\nab")
    wire.take(b"cde\r\n+f")
    wire.leader = late
    with pytest.raises(TimeoutError):
        wire.take(b"i")
    wire.take(b"ne\r\n")  # what comes late and whole is taken
    assert late.replies == [b"fine"]


@pytest.mark.parametrize("rubbish", [UNHASHABLE, b"*2\r\n*0\r\n:1\r\n" + UNHASHABLE, b"\0"])
def test_a_handshake_with_rubbish_fails(rubbish: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(rubbish)
        wire = ThreadWire(ours, Deaf())
        with pytest.raises(ConnectionFailed):
            wire.talk(shake_hands(Endpoint(kind="tcp", host="h"), "name", None, track_all=True))


def test_facts_and_times_that_are_none_are_not_known() -> None:
    for answer in ([[], 1, b"id", 5], {None: 1, b"id": 5}, [b"id", 5, b"server"]):
        conversation = shake_hands(Endpoint(kind="tcp", host="h"), "name", None, track_all=True)
        next(conversation)
        conversation.send([answer])
        with pytest.raises(StopIteration) as stop:
            conversation.send([b"PONG", [b"9" * 400, b"1"], 7, b"OK"])
        assert stop.value.value.client_id == 5
        assert abs(stop.value.value.clock) < 10**12
