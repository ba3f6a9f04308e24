"""What the tests of the lane share: a lane to a server, both kinds of loop, and servers that misbehave."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from nearcache.transport.endpoint import parse_url
from nearcache.transport.handshake import open_wire
from nearcache.transport.lane import Lane
from nearcache.transport.thread_lane import ThreadLane
from nearcache.transport.wire import Command, Hook

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
each_new_loop = pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
"""For a test that makes its loops itself, with ``new_loop()``; ``on_both_loops`` is for one that runs on a loop."""

GREETING = b"*4\r\n$6\r\nserver\r\n$4\r\nfake\r\n$2\r\nid\r\n:7\r\n"
"""What a fake server answers to HELLO; answers to PING, TIME, INFO and CLIENT TRACKING must follow."""

TIME = b"*2\r\n$10\r\n1700000000\r\n$6\r\n250000\r\n"
"""And to TIME."""

INFO = b"$0\r\n\r\n"
"""And to INFO."""

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def on_both_loops(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run an async test on asyncio's loop and on uvloop's; the loop's end is part of the test."""

    def run(loop: str, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(**fixtures))

    signature = inspect.signature(test)
    wrapped = functools.wraps(test)(run)
    parameters = [inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)]
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    wrapped.__signature__ = signature.replace(parameters=[*keyword, *parameters])  # type: ignore[attr-defined]
    del wrapped.__wrapped__  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop", LOOPS)(wrapped)


class Versions:
    """Forgets what it is told to in the lanes that were added to it, and writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[list[bytes] | str | None] = []
        self.lanes: list[Lane | ThreadLane] = []

    def revoked(self, keys: list[bytes] | None) -> None:
        self.heard.append(keys)
        for lane in self.lanes:
            for key in list(lane.counters) if keys is None else keys:
                lane.counters.pop(key, None)

    def lost(self, link: object) -> None:
        assert link in self.lanes
        assert isinstance(link, Lane | ThreadLane)
        self.heard.append("lost")
        link.counters.clear()

    def turned(self, link: object, *, first: bool) -> None:
        assert link in self.lanes or first


class RecordingBreaker:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.failing = False
        self.failures = 0
        self.successes = 0

    def failed(self) -> None:
        self.failing = True
        self.failures += 1

    def succeeded(self) -> None:
        self.failing = False
        self.successes += 1


def make_lane(
    url: str,
    *,
    command_timeout: float = 10.0,
    connect_timeout: float = 5.0,
    max_in_flight: int = 100_000,
    breaker: RecordingBreaker | None = None,
    on_state: Callable[[Lane, Exception | None], None] = lambda lane, error: None,
    listener: Versions | None = None,
    track_all: bool = False,
) -> Lane:
    endpoint = parse_url(url, variable="the test's URL")
    listener = listener or Versions()
    lane = Lane(
        asyncio.get_running_loop(),
        lambda kill: open_wire(
            endpoint, command_timeout=command_timeout, client_name="lane-test", kill=kill, track_all=track_all
        ),
        command_timeout=command_timeout,
        connect_timeout=connect_timeout,
        max_in_flight=max_in_flight,
        breaker=breaker or RecordingBreaker(),
        on_state=on_state,
        listener=listener,
        track_all=track_all,
    )
    listener.lanes.append(lane)
    return lane


@asynccontextmanager
async def lane_to(url: str, **options: Any) -> AsyncIterator[Lane]:
    """A lane that is connected; closed afterwards, without leaving a task."""
    before = asyncio.all_tasks()
    lane = make_lane(url, **options)
    try:
        await lane.connected_or_raise()
        yield lane
    finally:
        await lane.aclose()
    assert asyncio.all_tasks() <= before


def send(lane: Lane, *command: Any) -> asyncio.Future[Any]:
    """Post one command now; the future of its reply."""
    waiter = asyncio.get_running_loop().create_future()
    lane.post(command, waiter)
    return waiter


def send_many(lane: Lane, commands: Sequence[Command], hook: Hook | None = None) -> asyncio.Future[Any]:
    waiter = asyncio.get_running_loop().create_future()
    lane.post_many(list(commands), waiter, hook)
    return waiter


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> None:
    """Let the loop turn until ``condition()`` is true."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  # anything may be waited for
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None


async def until_read(read: Callable[[], Awaitable[Any]], value: object, seconds: float = 15.0) -> None:
    """Read again and again until it is ``value``: for what a push, replication or the time that passes changes."""
    found: object = "nothing yet"
    try:
        async with asyncio.timeout(seconds) as limit:
            while (found := await read()) != value:  # noqa: ASYNC110  # nobody is told of it
                await asyncio.sleep(0.005)
    except TimeoutError:
        if not limit.expired():  # the read's own
            raise
        raise AssertionError(f"not {value!r} within {seconds} s, but {found!r}") from None


@asynccontextmanager
async def fake_server(talk: Talk) -> AsyncIterator[str]:
    """A server that says what ``talk`` writes; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """The next command a client sent; raises ``ConnectionError`` at the end."""
    try:
        count = int((await reader.readuntil(b"\r\n"))[1:])
        words = []
        for _ in range(count):
            length = int((await reader.readuntil(b"\r\n"))[1:])
            words.append((await reader.readexactly(length + 2))[:-2])
    except asyncio.IncompleteReadError as error:
        raise ConnectionError from error
    return words


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server's part of a handshake, done well."""
    for answer in (GREETING, b"+PONG\r\n", TIME, INFO, b"+OK\r\n"):
        await read_command(reader)
        writer.write(answer)
