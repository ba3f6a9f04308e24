"""The lane against a real server: who gets which reply, deadlines, loss, back-pressure, the end."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections import Counter
from typing import Any

import pytest

from nearcache.errors import CommandRefused, CommandTimeout, ConnectionFailed, NotInitialized
from nearcache.transport.handshake import open_wire
from nearcache.transport.lane import Lane
from nearcache.transport.wire import Wire

from .. import lanes
from ..lanes import (
    RecordingBreaker,
    Versions,
    eventually,
    fake_server,
    greet,
    lane_to,
    make_lane,
    on_both_loops,
    read_command,
    send,
    send_many,
)
from ..servers import Client, ValkeyServer

MEGABYTE = 1_000_000
CACHED_READ = ("CLIENT", "CACHING", "YES")


def connections(server: ValkeyServer) -> list[bytes]:
    """Ids of the lane's connections, as the server knows them."""
    lines = server.command("CLIENT", "LIST").splitlines()
    return [line.split()[0].removeprefix(b"id=") for line in lines if b" name=lane-test" in line]


# -- replies


@on_both_loops
async def test_replies_reach_their_callers_under_10_000_cancellations(url: str) -> None:
    chance = random.Random(1)
    seen: Counter[str] = Counter()

    async def cancelled_soon(waiter: asyncio.Future[Any]) -> bool:
        for _ in range(chance.randrange(10)):
            await asyncio.sleep(0)
        return waiter.cancel()

    async def caller(lane: Any, name: int) -> None:
        number = 0
        while seen["cancelled"] < 10_000:
            number += 1
            words = [f"{name}.{number}.{part}".encode() for part in range(chance.choice([1, 1, 1, 2, 5]))]
            hooked: list[Any] = []
            if len(words) == 1:
                waiter = send(lane, "ECHO", words[0])
            else:
                waiter = send_many(lane, [("ECHO", word) for word in words], hooked.extend)
            if await cancelled_soon(waiter):
                seen["cancelled"] += 1
            else:
                reply = await waiter
                assert reply == (words[0] if len(words) == 1 else words)
                assert hooked in ([], words)
                seen["answered"] += 1
            if hooked:
                assert hooked == words
                seen["hooked"] += 1
                seen["hooked, caller gone"] += waiter.cancelled()

    async with lane_to(url) as lane:
        async with asyncio.TaskGroup() as group:
            for name in range(300):
                group.create_task(caller(lane, name))
        assert lane.connects == 1
    assert seen["answered"] > 1_000
    assert seen["hooked"] > 100


@on_both_loops
async def test_a_hook_sees_the_replies_of_a_caller_that_left(url: str) -> None:
    async with lane_to(url) as lane:
        seen: list[Any] = []
        waiter = send_many(lane, [("ECHO", b"1"), ("ECHO", b"2")], seen.extend)
        waiter.cancel()
        await send(lane, "PING")
        assert seen == [b"1", b"2"]


@on_both_loops
async def test_a_hook_that_raises_fails_its_own_caller_only(url: str) -> None:
    async with lane_to(url) as lane:
        broken = send_many(lane, [("PING",)], lambda replies: int(replies[0]))
        whole = send(lane, "ECHO", b"whole")
        with pytest.raises(ValueError, match="invalid literal"):
            await broken
        assert await whole == b"whole"
        assert lane.connects == 1


@on_both_loops
async def test_errors_of_the_server_are_replies(url: str) -> None:
    async with lane_to(url) as lane:
        single, batch = send(lane, "NOSUCH"), send_many(lane, [("PING",), ("INCR",), ("PING",)])
        assert isinstance(await single, CommandRefused)
        first, error, last = await batch
        assert (first, last) == (b"PONG", b"PONG")
        assert isinstance(error, CommandRefused)


@on_both_loops
async def test_values_of_a_megabyte(url: str) -> None:
    values = {f"k{n}": random.Random(n).randbytes(MEGABYTE + n) for n in range(20)}
    async with lane_to(url) as lane:
        stored = [send(lane, "SET", key, value) for key, value in values.items()]
        read = [send(lane, "GET", key) for key in values]
        assert await asyncio.gather(*stored) == [b"OK"] * len(values)
        assert await asyncio.gather(*read) == list(values.values())


@on_both_loops
async def test_what_cannot_be_sent_raises_where_it_was_asked(fresh_server: ValkeyServer) -> None:
    async with lane_to(fresh_server.url, max_in_flight=1) as lane:
        with pytest.raises(TypeError):
            send(lane, "SET", "key", object())
        fresh_server.pause()
        first, unsendable, last = send(lane, "ECHO", b"1"), send(lane, "SET", "key", object()), send(lane, "PING")
        fresh_server.resume()
        assert await first == b"1"
        with pytest.raises(TypeError):
            await unsendable
        assert await last == b"PONG"


# -- loss and return


@on_both_loops
async def test_a_killed_server_fails_what_is_in_flight_and_the_lane_comes_back(fresh_server: ValkeyServer) -> None:
    states: list[Exception | None] = []
    async with lane_to(fresh_server.url, on_state=lambda _, error: states.append(error)) as lane:
        fresh_server.pause()
        in_flight = [send(lane, "INCR", "n") for _ in range(100)] + [send_many(lane, [("PING",), ("PING",)])]
        lane.flush()
        fresh_server.kill()
        outcomes = await asyncio.gather(*in_flight, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionFailed] * 101
        assert len({id(outcome) for outcome in outcomes}) == 101  # nobody shares a traceback
        await eventually(lambda: isinstance(states[-1], ConnectionFailed) and len(states) > 2, "an attempt fails")
        with pytest.raises(ConnectionFailed):
            await send(lane, "PING")  # at once: its deadline is far away
        await asyncio.to_thread(fresh_server.start)
        answering = time.monotonic()
        await eventually(lambda: lane.connected, "the lane is back")
        assert time.monotonic() - answering < 1.0
        assert states[-1] is None
        assert await send(lane, "INCR", "n") == 1


@on_both_loops
async def test_whoever_asks_between_the_loss_and_the_return_is_served(fresh_server: ValkeyServer) -> None:
    """A lost connection is opened anew at once; what was not sent yet loses nothing by waiting for it."""
    async with lane_to(fresh_server.url) as lane:
        await asyncio.to_thread(fresh_server.command, "CLIENT", "KILL", "TYPE", "normal")
        await eventually(lambda: not lane.connected or lane.connects == 2, "the loss is noticed")
        assert await send(lane, "PING") == b"PONG"
        assert lane.connects == 2


@on_both_loops
async def test_nobody_is_forgotten_when_the_wire_breaks_under_a_command(url: str) -> None:
    """Between the moment a wire breaks and the lane's next step nothing may be posted into the void."""
    async with lane_to(url) as lane:
        wire = lane._wire
        assert wire is not None
        before = send(lane, "PING")
        wire.abort(ConnectionFailed("cut"))
        after = send(lane, "PING")
        with pytest.raises(ConnectionFailed):
            await before
        assert await after == b"PONG"


@on_both_loops
async def test_a_server_that_is_away_from_the_start(fresh_server: ValkeyServer) -> None:
    fresh_server.kill()
    lane = make_lane(fresh_server.url)
    early = send(lane, "PING")
    with pytest.raises(ConnectionFailed):
        await lane.connected_or_raise()
    with pytest.raises(ConnectionFailed):
        await early
    await asyncio.to_thread(fresh_server.start)
    await eventually(lambda: lane.connected, "the lane connects when the server is there")
    assert await send(lane, "PING") == b"PONG"
    await lane.aclose()


@on_both_loops
async def test_whatever_goes_wrong_in_an_attempt_there_is_another(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0

    async def unlucky(*args: Any, **options: Any) -> Wire:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("nobody thought of this")
        wire = await open_wire(*args, **options)
        if attempts == 2:
            wire.abort(ConnectionFailed("lost before it was used"))
        return wire

    monkeypatch.setattr(lanes, "open_wire", unlucky)
    states: list[Exception | None] = []
    lane = make_lane(url, on_state=lambda _, error: states.append(error))
    with pytest.raises(ConnectionFailed, match="nobody thought of this"):
        await lane.connected_or_raise()
    await eventually(lambda: lane.connected, "the third attempt")
    assert await send(lane, "PING") == b"PONG"
    assert [str(state) for state in states] == ["nobody thought of this", "lost before it was used", "None"]
    await lane.aclose()


@on_both_loops
async def test_a_server_that_drops_every_connection_is_not_stormed(url: str) -> None:
    states: list[Exception | None] = []
    async with lane_to(url, on_state=lambda _, error: states.append(error)) as lane:
        pauses: list[float] = []
        for _ in range(6):
            await eventually(lambda: lane.connected, "connected again")
            lost = time.monotonic()
            assert lane._wire is not None
            lane._wire.abort(ConnectionFailed("dropped"))
            await eventually(lambda: lane.connected, "connected again")
            pauses.append(time.monotonic() - lost)
        # The first attempt is at once; six in a row with full jitter up to 0.04, 0.08, 0.16, 0.32 and 0.5 s are not.
        assert sum(pauses) > 0.05


# -- room


@on_both_loops
async def test_more_than_may_be_in_flight_wait_their_turn(fresh_server: ValkeyServer) -> None:
    async with lane_to(fresh_server.url, max_in_flight=10) as lane:
        fresh_server.pause()
        asked = [send(lane, "INCR", "n") for _ in range(50)]
        batch = send_many(lane, [("INCR", "n"), ("INCR", "n")])
        await asyncio.sleep(0)
        assert lane.in_flight == 10
        for waiter in asked[20:30]:
            waiter.cancel()
        fresh_server.resume()
        assert await batch == [41, 42]  # in order, and what was given up while it waited was never sent
        assert [waiter.result() for waiter in asked if not waiter.cancelled()] == list(range(1, 41))


@on_both_loops
async def test_a_full_socket_makes_callers_wait(fresh_server: ValkeyServer) -> None:
    value = bytes(MEGABYTE)
    async with lane_to(fresh_server.url) as lane:
        fresh_server.pause()
        asked = [send(lane, "SET", f"k{n}", value) for n in range(64)]
        await asyncio.sleep(0)
        wire = lane._wire
        assert wire is not None
        assert wire.paused
        assert lane.in_flight < 16  # the kernel took some; the others are not even packed
        assert wire._transport is not None
        assert wire._transport.get_write_buffer_size() < 2 * MEGABYTE
        fresh_server.resume()
        assert await asyncio.gather(*asked) == [b"OK"] * 64
        assert not wire.paused


@on_both_loops
async def test_callers_go_on_when_there_is_room_without_waiting_for_a_reply() -> None:
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        while len(heard) < 8:
            heard.append((await read_command(reader))[1])
        writer.write(b"+OK\r\n" * 8)
        await reader.read()

    async with fake_server(talk) as url, lane_to(url) as lane:
        asked = [send(lane, "SET", b"k%d" % n, bytes(MEGABYTE)) for n in range(8)]
        await asyncio.sleep(0)
        assert lane.in_flight < 8
        assert await asyncio.gather(*asked) == [b"OK"] * 8
        assert heard == [b"k%d" % n for n in range(8)]


@pytest.mark.parametrize("socket", ["open", "full"])
@on_both_loops
async def test_100_000_commands_stay_within_the_documented_memory(fresh_server: ValkeyServer, socket: str) -> None:
    """The docstring's figure: 0.4 kB each, written or waiting for their turn, so 40 MB."""
    async with lane_to(fresh_server.url, command_timeout=60.0) as lane:
        fresh_server.pause()
        if socket == "full":
            send(lane, "SET", "large", bytes(16 * MEGABYTE))
        gc.collect()
        tracemalloc.start()
        try:
            waiters = []
            for number in range(100_000):
                waiters.append(send(lane, "GET", b"user:%d" % number))
                if number % 128 == 127:
                    await asyncio.sleep(0)  # as if 128 tasks asked in one turn
            used, peak = tracemalloc.get_traced_memory()
            in_flight = lane.in_flight
        finally:
            tracemalloc.stop()
            fresh_server.resume()
        assert in_flight == (100_000 if socket == "open" else 1)
        assert used < 40_000_000, used
        assert peak < 40_000_000, peak
        assert used > 10_000_000, "something is measured"
        assert await asyncio.gather(*waiters) == [None] * 100_000


# -- deadlines


@on_both_loops
async def test_a_frozen_server_times_out_and_its_late_replies_reach_nobody(fresh_server: ValkeyServer) -> None:
    breaker = RecordingBreaker()
    async with lane_to(fresh_server.url, command_timeout=0.5, breaker=breaker) as lane:
        fresh_server.pause()
        began = time.monotonic()
        hooked: list[Any] = []
        late = [send(lane, "ECHO", b"late") for _ in range(3)]
        late.append(send_many(lane, [("ECHO", b"late"), ("ECHO", b"later")], hooked.extend))
        outcomes = await asyncio.gather(*late, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [CommandTimeout] * 4
        assert time.monotonic() - began >= 0.5
        assert lane.in_flight == 5  # their places are kept
        assert breaker.failures == 4
        fresh_server.resume()
        assert await asyncio.gather(*(send(lane, "ECHO", b"%d" % n) for n in range(100))) == [
            b"%d" % n for n in range(100)
        ]
        assert hooked == [b"late", b"later"]
        assert lane.connects == 1
        assert not breaker.failing


@on_both_loops
async def test_a_blocked_loop_is_not_a_slow_server(url: str) -> None:
    async with lane_to(url, command_timeout=0.1) as lane:
        for _ in range(3):
            asked = [send(lane, "ECHO", b"%d" % n) for n in range(100)]
            lane.flush()
            time.sleep(0.3)  # noqa: ASYNC251  # blocking the loop is the point
            assert await asyncio.gather(*asked) == [b"%d" % n for n in range(100)]
        assert lane.connects == 1


@on_both_loops
async def test_a_reply_that_came_while_the_loop_was_blocked_is_read_before_the_deadline_is_judged(
    fresh_server: ValkeyServer,
) -> None:
    """The worst case: a callback blocks in the very turn in which the sweep is due, just before it."""
    loop = asyncio.get_running_loop()

    def block_and_have_the_reply_come() -> None:
        fresh_server.resume()
        time.sleep(0.3)

    async with lane_to(fresh_server.url, command_timeout=0.2) as lane:
        fresh_server.pause()
        asked = send(lane, "ECHO", b"in time")
        lane.flush()
        loop.call_later(0.15, time.sleep, 0.1)  # makes what follows due in one turn
        loop.call_later(0.18, block_and_have_the_reply_come)
        assert await asked == b"in time"


@on_both_loops
async def test_silence_is_counted_from_the_question(url: str) -> None:
    """A connection that was idle for long is not given up at the first deadline."""
    talked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await read_command(reader)
        await talked.wait()
        writer.write(b"+late\r\n")
        await read_command(reader)
        writer.write(b"+prompt\r\n")

    async with fake_server(talk) as fake, lane_to(fake, command_timeout=0.2) as lane:
        await asyncio.sleep(0.7)  # idle for more than three deadlines
        with pytest.raises(CommandTimeout):
            await send(lane, "GET", "k")
        talked.set()
        await eventually(lambda: lane.in_flight == 0, "the late reply is dropped")
        assert await send(lane, "GET", "k") == b"prompt"
        assert lane.connects == 1


@on_both_loops
async def test_a_silent_wire_is_replaced_and_its_commands_are_not_carried_out_later(fresh_server: ValkeyServer) -> None:
    async with lane_to(fresh_server.url, command_timeout=0.1, connect_timeout=10.0) as lane:
        (old,) = connections(fresh_server)
        fresh_server.pause()
        # A server takes 16 kB from a client at a time, so the last of these comes long after a new client's first.
        lost = [send(lane, "SET", f"filler{n}", bytes(10_000)) for n in range(200)] + [send(lane, "SET", "key", "old")]
        lane.flush()
        outcomes = await asyncio.gather(*lost, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {CommandTimeout, ConnectionFailed}
        await eventually(lambda: not lane.connected, "three deadlines of silence")
        fresh_server.resume()
        await eventually(lambda: lane.connected, "a new wire")
        ids, gone = await send_many(lane, [("CLIENT", "LIST"), ("DEL", "key")])
        assert b"id=" + old + b" " not in ids
        assert isinstance(gone, int)
        assert await send(lane, "CLIENT", "LIST", "ID", old) == b""
        assert await send(lane, "EXISTS", "key") == 0
        assert lane.connects == 2


# -- pushes


@on_both_loops
async def test_a_counter_goes_when_another_client_writes_it(server: ValkeyServer, url: str) -> None:
    async with lane_to(url) as lane:
        assert lane.tracks

        async def learn(*keys: bytes) -> None:
            def remember(replies: list[Any]) -> None:
                lane.counters.update(zip(keys, map(int, replies[1::2]), strict=True))

            await send_many(lane, [command for key in keys for command in (CACHED_READ, ("GET", key))], remember)

        for key in (b"one", b"two"):
            server.command("SET", key, 1)
        await learn(b"one", b"two")
        assert lane.counters == {b"one": 1, b"two": 1}
        await asyncio.to_thread(server.command, "SET", b"one", 2)
        await eventually(lambda: lane.counters == {b"two": 1}, "the push arrives")
        await learn(b"one")
        await asyncio.to_thread(server.command, "FLUSHDB")
        await eventually(lambda: not lane.counters, "FLUSHDB revokes everything")
        server.command("SET", b"one", 3)
        await learn(b"one")
        assert lane.connects == 1
        assert lane._wire is not None
        lane._wire.abort(ConnectionFailed("cut"))
        assert not lane.counters  # nobody would tell of a write now


@on_both_loops
async def test_what_a_hook_stores_is_never_older_than_a_push(server: ValkeyServer, url: str) -> None:
    stop = threading.Event()

    def write() -> None:
        with Client(server.socket_path) as client:
            while not stop.is_set():
                client.command("INCR", "n")

    server.command("SET", "n", 0)
    async with lane_to(url) as lane:
        for _ in range(20):
            stop.clear()
            writing = asyncio.create_task(asyncio.to_thread(write))
            for _ in range(20):
                await send_many(
                    lane,
                    [CACHED_READ, ("GET", "n")],
                    lambda replies: lane.counters.__setitem__(b"n", int(replies[1])),
                )
            stop.set()
            await writing
            # Whatever was pushed so far stands before this reply.
            now = int(await send(lane, "GET", "n"))
            assert lane.counters.get(b"n") in (None, now)


class Watchful(Versions):
    """Writes down, too, who could know of a loss before it did."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: asyncio.Future[Any] | None = None
        self.first: list[bool] = []

    def lost(self, link: object) -> None:
        super().lost(link)
        assert isinstance(link, Lane)
        assert self.asked is not None
        self.first.append(not self.asked.done() and not link.connected)


@on_both_loops
async def test_a_loss_is_told_once_before_anybody_else_knows(server: ValkeyServer, url: str) -> None:
    listener = Watchful()
    async with lane_to(url, listener=listener) as lane:
        listener.asked = send(lane, "BLPOP", "nothing", 0)
        lane.flush()
        await asyncio.to_thread(server.command, "CLIENT", "KILL", "TYPE", "normal")
        with pytest.raises(ConnectionFailed):
            await listener.asked
        assert listener.heard == ["lost"]
        assert listener.first == [True]
        assert await send(lane, "PING") == b"PONG"
        assert lane.connects == 2
        listener.asked = asyncio.get_running_loop().create_future()
    assert listener.heard == ["lost", "lost"], "the end is a loss, too"


@on_both_loops
async def test_every_read_is_tracked_where_that_was_asked_for(server: ValkeyServer, url: str) -> None:
    listener = Versions()
    async with lane_to(url, listener=listener, track_all=True) as lane:
        assert lane.track_all
        await send(lane, "GET", "k")
        await send(lane, "SET", "k", "its own")
        await send(lane, "GET", "k")
        await asyncio.to_thread(server.command, "SET", "k", 1)
        await eventually(lambda: listener.heard, "the push arrives")
        assert listener.heard == [[b"k"]]
    async with lane_to(url) as lane:
        assert not lane.track_all


class Broken(Versions):
    def revoked(self, keys: list[bytes] | None) -> None:
        super().revoked(keys)
        raise ZeroDivisionError


@on_both_loops
async def test_a_revocation_that_fails_costs_the_connection(server: ValkeyServer, url: str) -> None:
    listener = Broken()
    async with lane_to(url, listener=listener, track_all=True) as lane:
        await send(lane, "GET", "k")
        asked = send(lane, "BLPOP", "nothing", 0)
        lane.flush()
        await asyncio.to_thread(server.command, "SET", "k", 1)
        with pytest.raises(ConnectionFailed, match="ZeroDivisionError"):
            await asked
        assert listener.heard == [[b"k"], "lost"]
        assert await send(lane, "PING") == b"PONG"


# -- the end


@on_both_loops
async def test_closing_lets_what_is_in_flight_finish(server: ValkeyServer, url: str) -> None:
    lane = make_lane(url, max_in_flight=50)
    await lane.connected_or_raise()
    wire = lane._wire
    assert wire is not None
    assert wire._transport is not None
    socket = wire._transport.get_extra_info("socket").fileno()
    asked = [send(lane, "INCR", "n") for _ in range(200)]
    await lane.aclose()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(socket)  # closed by now, not some time later
    assert wire.closed.result() is None, "the end of the lane's task is not the socket's"
    assert [waiter.result() for waiter in asked] == list(range(1, 201))
    with pytest.raises(NotInitialized):
        await send(lane, "PING")
    await lane.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await eventually(lambda: not connections(server), "the server sees the end")


@on_both_loops
async def test_closing_waits_no_longer_than_a_deadline(fresh_server: ValkeyServer) -> None:
    states: list[Exception | None] = []
    lane = make_lane(fresh_server.url, command_timeout=0.5, on_state=lambda _, error: states.append(error))
    await lane.connected_or_raise()
    fresh_server.pause()
    asked = send(lane, "PING")
    async with asyncio.timeout(10):
        await lane.aclose()
    with pytest.raises((CommandTimeout, NotInitialized)):
        await asked
    assert states == [None]  # not given up for its silence, after three
    fresh_server.resume()


@on_both_loops
async def test_closing_while_the_server_is_away(fresh_server: ValkeyServer) -> None:
    async with lane_to(fresh_server.url) as lane:
        fresh_server.kill()
        await eventually(lambda: not lane.connected, "the loss is noticed")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("ending", ["await lane.aclose()", "asked.cancel()", "pass"])
def test_a_loop_that_ends_leaves_nothing_behind(url: str, loop: str, ending: str) -> None:
    """Not a task, not a socket, not a warning: also where the loop ends around an open lane."""
    program = f"""
        import asyncio, {loop}
        from tests.lanes import make_lane, send

        async def ask(lane):
            await send(lane, "BLPOP", "nothing", 0.05)

        async def main():
            lane = make_lane({url!r})
            await lane.connected_or_raise()
            asked = asyncio.create_task(ask(lane))
            await asyncio.sleep(0)
            {ending}

        {loop}.run(main())
    """
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (run.returncode, run.stderr) == (0, "")
