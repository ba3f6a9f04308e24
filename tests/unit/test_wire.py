"""The wire without a server: whatever the network's pieces look like, each waiter gets its own reply."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearcache.errors import CommandRefused, CommandTimeout, ConnectionFailed
from nearcache.transport.wire import Batch, Wire, afresh, pack


class Transport:
    """Takes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False

    def get_extra_info(self, name: str) -> None:
        """It has no socket."""

    def write(self, data: bytes) -> None:
        assert not self.aborted
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Loop() as wire:
        yield wire


class Loop:
    """A wire on a loop that a test turns by hand: ``turn``."""

    def __enter__(self) -> Wire:
        self.loop = asyncio.new_event_loop()
        wire = Wire(self.loop, 1.0)
        wire.connection_made(Transport())  # type: ignore[arg-type]
        return wire

    def __exit__(self, *_: object) -> None:
        self.loop.close()


def turn(wire: Wire) -> None:
    wire._loop.call_soon(wire._loop.stop)
    wire._loop.run_forever()


def ask(wire: Wire, count: int = 1) -> list[asyncio.Future[Any]]:
    waiters = [wire._loop.create_future() for _ in range(count)]
    for waiter in waiters:
        wire.send(b"?", waiter)
    return waiters


def written(wire: Wire) -> list[bytes]:
    transport = wire._transport
    assert isinstance(transport, Transport)
    return transport.written


# -- replies in pieces

WORDS = st.binary(max_size=40)
REPLIES = st.recursive(
    WORDS | st.none() | st.integers(-(2**63), 2**63 - 1) | st.just(CommandRefused("ERR no")),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
PUSHES = st.lists(WORDS, max_size=3).map(lambda keys: [b"invalidate", keys])


def encode(reply: Any, kind: bytes = b"*") -> bytes:
    match reply:
        case None:
            return b"_\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case CommandRefused():
            return b"-%b\r\n" % str(reply).encode()
        case _:
            return kind + b"%d\r\n" % len(reply) + b"".join(map(encode, reply))


def comparable(reply: Any) -> Any:
    """Errors compare by what they say."""
    if isinstance(reply, list):
        return [comparable(item) for item in reply]
    return repr(reply)


class Recorder:
    """A waiter that writes its reply down the moment it comes."""

    def __init__(self, heard: list[Any], name: int) -> None:
        self.heard = heard
        self.name = name

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        self.heard.append((self.name, comparable(result)))

    def set_exception(self, exception: Exception, /) -> None:
        self.heard.append((self.name, repr(exception)))


@given(st.lists(st.tuples(REPLIES, st.lists(PUSHES, max_size=2)), min_size=1, max_size=12), st.randoms())
def test_chunks_do_not_matter(conversation: list[tuple[Any, list[Any]]], chance: random.Random) -> None:
    """Replies and pushes come out whole and in the order they were sent, however the network cuts them."""
    with Loop() as wire:
        heard: list[Any] = []
        wire.on_push = lambda push: heard.append(("push", comparable(list(push))))
        expected, data = [], b""
        for number, (reply, pushes) in enumerate(conversation):
            wire.send(b"?", Recorder(heard, number))
            expected += [(number, comparable(reply)), *(("push", comparable(push)) for push in pushes)]
            data += encode(reply) + b"".join(encode(push, b">") for push in pushes)
        while data:
            cut = chance.randint(1, len(data))
            wire.data_received(data[:cut])
            data = data[cut:]
        assert heard == expected
        assert wire.error is None


@given(st.lists(st.integers(1, 5), min_size=1, max_size=10), st.randoms())
def test_batches_and_single_commands_share_a_wire(counts: list[int], chance: random.Random) -> None:
    """Numbered replies: a batch of n takes the next n, whoever has left."""
    with Loop() as wire:
        number, expected, data = 0, [], b""
        for count in counts:
            waiter, hooked = wire._loop.create_future(), list[Any]()
            numbers = list(range(number, number + count))
            number += count
            if count == 1:
                wire.send(b"?", waiter)
            else:
                wire.send_many([b"?"] * count, Batch(waiter, count, hooked.extend))
            if chance.random() < 0.5:
                waiter.cancel()
            expected.append((waiter, numbers, hooked))
            data += b"".join(map(encode, numbers))
        while data:
            cut = chance.randint(1, len(data))
            wire.data_received(data[:cut])
            data = data[cut:]
        for waiter, numbers, hooked in expected:
            if len(numbers) > 1:
                assert hooked == numbers
            if not waiter.cancelled():
                assert waiter.result() == (numbers if len(numbers) > 1 else numbers[0])
        assert not wire.waiting


# -- writing


def test_a_turn_is_one_write(wire: Wire) -> None:
    ask(wire, 3)
    wire.send_many([b"!", b"!"], Batch(wire._loop.create_future(), 2, None))
    assert written(wire) == []
    turn(wire)
    assert written(wire) == [b"???!!"]
    turn(wire)
    assert len(written(wire)) == 1


def test_a_large_command_does_not_pile_up_with_others(wire: Wire) -> None:
    ask(wire)
    wire.send(bytes(20_000), wire._loop.create_future())
    ask(wire)
    assert written(wire) == [b"?" + bytes(20_000)]
    turn(wire)
    assert written(wire)[1:] == [b"?"]


def test_pack_writes_resp() -> None:
    assert pack(("SET", b"k", 1)) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n1\r\n"


# -- the end


@pytest.mark.parametrize(
    "rubbish",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$-5\r\n", b"%1\r\n*0\r\n:1\r\n", b">0\r\n", b"\0"],
)
def test_rubbish_ends_the_wire(wire: Wire, rubbish: bytes) -> None:
    wire.on_push = lambda push: push[0]
    first, second = ask(wire, 2)
    turn(wire)
    wire.data_received(b"+fine\r\n" + rubbish)
    assert first.result() == b"fine"
    assert isinstance(second.exception(), ConnectionFailed)
    assert isinstance(wire.error, ConnectionFailed)


def test_a_reply_without_an_end_ends_the_wire(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise all that comes would be kept until the end is there."""
    monkeypatch.setattr("nearcache.transport.wire.LONGEST", 5000)
    first, second = ask(wire, 2)
    wire.data_received(b"$4000\r\n" + bytes(3990))
    wire.data_received(bytes(10) + b"\r\n+" + bytes(4900))
    assert first.result() == bytes(4000)
    assert wire.error is None
    wire.data_received(bytes(100))
    assert isinstance(second.exception(), ConnectionFailed)
    assert isinstance(wire.error, ConnectionFailed)


def test_a_reply_nobody_asked_for_ends_the_wire(wire: Wire) -> None:
    """Whose was it? Whatever came next could be off by one."""
    (asked,) = ask(wire)
    wire.data_received(b"+1\r\n+2\r\n")
    assert asked.result() == b"1"
    assert isinstance(wire.error, ConnectionFailed)


def test_the_end_fails_everybody_with_an_error_of_his_own(wire: Wire) -> None:
    waiters = ask(wire, 3)
    lost = []
    wire.on_lost = lambda: lost.append([waiter.done() for waiter in waiters])
    wire.connection_lost(OSError("reset"))
    wire.abort(ConnectionFailed("again"))
    assert lost == [[False] * 3]  # the lane knows before anybody who waits
    errors = [waiter.exception() for waiter in waiters]
    assert len(set(map(id, errors))) == 3
    assert {str(error) for error in errors} == {"the connection was lost: reset"}
    assert wire.closed.done()


def test_afresh_keeps_type_and_words() -> None:
    error = CommandTimeout("late")
    copy = afresh(error)
    assert copy is not error
    assert type(copy) is CommandTimeout
    assert str(copy) == "late"


def test_a_batch_that_is_cut_short_runs_no_hook(wire: Wire) -> None:
    hooked: list[Any] = []
    waiter = wire._loop.create_future()
    wire.send_many([b"?", b"?"], Batch(waiter, 2, hooked.extend))
    wire.data_received(b"+1\r\n")
    wire.abort(ConnectionFailed("cut"))
    assert isinstance(waiter.exception(), ConnectionFailed)
    assert hooked == []


# -- deadlines


def test_only_what_was_due_expires_and_its_replies_are_dropped(wire: Wire) -> None:
    early = ask(wire, 2)
    turn(wire)
    due = wire.next_due()
    assert due is not None
    early[0].cancel()
    hooked: list[Any] = []
    batch = wire._loop.create_future()
    wire.send_many([b"?", b"?"], Batch(batch, 2, hooked.extend))
    (last,) = ask(wire)
    wire._due += [(4, due + 10), (5, due + 20)]  # as if they had been written ten and twenty seconds later
    wire._asked = 5
    wire._out.clear()
    assert wire.expire(due - 0.001) == 0
    assert wire.expire(due) == 1  # who has left is nobody's failure
    assert isinstance(early[1].exception(), CommandTimeout)
    assert wire.expire(due) == 0
    assert wire.expire(due + 10) == 1
    assert isinstance(batch.exception(), CommandTimeout)
    assert not last.done()
    assert wire.expire(due + 20) == 1  # the batch is not counted again
    assert isinstance(last.exception(), CommandTimeout)
    new = wire._loop.create_future()
    wire.send(b"?", new)
    wire.data_received(b"".join(b":%d\r\n" % n for n in range(6)))
    assert new.result() == 5
    assert hooked == [2, 3]


def test_nothing_is_due_when_nothing_is_asked(wire: Wire) -> None:
    assert wire.next_due() is None
    ask(wire)
    turn(wire)
    assert wire.next_due() is not None
    wire.data_received(b"+1\r\n")
    assert wire.next_due() is None
    assert not wire._due
