"""Opening a wire: credentials, databases, old servers, TLS, servers that are none."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nearcache.core.breaker import Breaker
from nearcache.errors import ConfigurationError, ConnectionFailed
from nearcache.transport.endpoint import parse_url
from nearcache.transport.handshake import ask, open_wire
from nearcache.transport.thread_lane import ThreadLane
from nearcache.transport.thread_wire import open_thread_wire
from nearcache.transport.topology import Topology
from nearcache.transport.wire import Wire

from ..lanes import (
    GREETING,
    INFO,
    TIME,
    Talk,
    Versions,
    eventually,
    fake_server,
    greet,
    lane_to,
    make_lane,
    on_both_loops,
    read_command,
    send,
)
from ..servers import Client, ValkeyServer, wait_until

SECRET = "s3cr3t-pa55"


async def connect(url: str, *, kill: int | None = None) -> Wire:
    endpoint = parse_url(url, variable="the test's URL")
    return await open_wire(endpoint, command_timeout=5.0, client_name="shaken", kill=kill)


async def close(wire: Wire) -> None:
    wire.abort(ConnectionFailed("the test is over"))
    await wire.closed


async def refusal(url: str) -> str:
    """What is said when the server refuses; the password is never part of it."""
    with pytest.raises(ConnectionFailed) as refused:
        await connect(url)
    assert SECRET not in repr(refused.value)
    return str(refused.value)


def line_of(server: ValkeyServer, wire: Wire) -> dict[str, str]:
    """What CLIENT LIST says of a connection."""
    line: bytes = server.command("CLIENT", "LIST", "ID", wire.client_id or 0)
    return dict(pair.split("=", 1) for pair in line.decode().split())


# -- who we are


@on_both_loops
async def test_a_connection_introduces_itself(server: ValkeyServer, url: str) -> None:
    wire = await connect(url.replace("/0", "/3"))
    line = line_of(server, wire)
    assert line["name"].startswith("shaken-")
    assert (line["db"], line["resp"]) == ("3", "3")
    assert "t" in line["flags"]  # tracking
    assert wire.tracks
    assert wire.server.startswith("valkey 9.")
    await close(wire)


@pytest.fixture(scope="module")
def locked() -> Iterator[ValkeyServer]:
    """A server with a password, and users with less than all rights."""
    with ValkeyServer(password=SECRET) as server:
        server.command("ACL", "SETUSER", "app", "on", f">{SECRET}", "~*", "+@all")
        server.command("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~app:*", "+get", "+hello", "+auth")
        yield server


async def test_the_default_users_password(locked: ValkeyServer) -> None:
    wire = await connect(locked.url)
    assert line_of(locked, wire)["user"] == "default"
    await close(wire)


async def test_an_acl_user(locked: ValkeyServer) -> None:
    wire = await connect(f"redis://app:{SECRET}@127.0.0.1:{locked.port}/2")
    line = line_of(locked, wire)
    assert (line["user"], line["db"]) == ("app", "2")
    await close(wire)


async def test_a_user_who_may_only_read_is_served_without_tracking(locked: ValkeyServer) -> None:
    wire = await connect(f"redis://reader:{SECRET}@127.0.0.1:{locked.port}")
    assert not wire.tracks
    assert await ask(wire, ("GET", "app:k")) == [None]
    await close(wire)


async def test_a_wrong_password(locked: ValkeyServer) -> None:
    assert (
        await refusal(f"redis://:{SECRET}x@127.0.0.1:{locked.port}") == "the server refused the credentials: WRONGPASS"
    )
    assert "WRONGPASS" in await refusal(f"redis://nobody:{SECRET}@127.0.0.1:{locked.port}")


async def test_a_missing_password(locked: ValkeyServer) -> None:
    assert await refusal(f"redis://127.0.0.1:{locked.port}") == "the server refused the credentials: NOAUTH"


async def test_a_database_that_is_not_there(url: str) -> None:
    assert "database 99" in await refusal(url.replace("/0", "/99"))


async def test_a_lane_says_why_and_keeps_trying(fresh_server: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fresh_server.command("CONFIG", "SET", "requirepass", SECRET)
    lane = make_lane(f"redis://:{SECRET}@127.0.0.1:{fresh_server.port}/0")
    await lane.connected_or_raise()
    await lane.aclose()
    wrong = make_lane(f"redis://:{SECRET}2@127.0.0.1:{fresh_server.port}/0")
    with pytest.raises(ConnectionFailed, match="WRONGPASS"):
        await wrong.connected_or_raise()
    with pytest.raises(ConnectionFailed, match="WRONGPASS"):
        await send(wrong, "PING")
    with Client(fresh_server.socket_path) as admin:
        admin.command("AUTH", SECRET)
        admin.command("CONFIG", "SET", "requirepass", f"{SECRET}2")
    await eventually(lambda: wrong.connected, "the right password is found right")
    await wrong.aclose()
    assert SECRET not in caplog.text


# -- old and crippled servers


@pytest.fixture(scope="module", params=["", SECRET], ids=["open", "locked"])
def resp2(request: pytest.FixtureRequest) -> Iterator[ValkeyServer]:
    with ValkeyServer("--rename-command", "HELLO", "", password=request.param or None) as server:
        yield server


@on_both_loops
async def test_a_resp2_server_works_without_tracking(resp2: ValkeyServer) -> None:
    async with lane_to(resp2.url.replace("/0", "/4")) as lane:
        assert not lane.tracks
        assert lane.server == "resp2"
        assert await send(lane, "SET", "k", "v") == b"OK"
        assert await send(lane, "GET", "k") == b"v"
        assert await send(lane, "GET", "absent") is None
        wire = lane._wire
        assert wire is not None
        line = line_of(resp2, wire)
        assert line["name"].startswith("lane-test-")
        assert (line["db"], line["resp"]) == ("4", "2")


async def test_a_resp2_server_refuses_too(resp2: ValkeyServer) -> None:
    wrong = f"redis://:{SECRET}x@127.0.0.1:{resp2.port}"
    if resp2.password:
        assert await refusal(wrong) == "the server refused the credentials: WRONGPASS"
        assert await refusal(f"redis://127.0.0.1:{resp2.port}") == "the server refused the credentials: NOAUTH"
    else:
        assert "refused the credentials" in await refusal(wrong)
    assert "database 99" in await refusal(resp2.url.replace("/0", "/99"))


async def test_a_server_without_client_commands_works_without_tracking() -> None:
    with ValkeyServer("--rename-command", "CLIENT", "") as server:
        async with lane_to(server.url) as lane:
            assert not lane.tracks
            assert await send(lane, "PING") == b"PONG"


# -- the connection before


@on_both_loops
async def test_the_connection_before_is_gone_first(server: ValkeyServer, url: str) -> None:
    old = await connect(url)
    new = await connect(url, kill=old.client_id)
    assert server.command("CLIENT", "LIST", "ID", old.client_id or 0) == b""
    await old.closed
    newer = await connect(url, kill=old.client_id)  # no longer there: fine
    await close(new)
    await close(newer)


async def test_a_stranger_with_the_same_id_stays(server: ValkeyServer, url: str) -> None:
    """A server that was started anew counts from one: the old id may be anybody's."""
    with Client(server.socket_path) as stranger:
        for name in ("stranger", "shaken", "shaken-1-00000000"):
            stranger.command("CLIENT", "SETNAME", name)
            wire = await connect(url, kill=stranger.command("CLIENT", "ID"))
            assert stranger.command("PING") == b"PONG"
            await close(wire)


# -- ways


@on_both_loops
async def test_a_unix_socket() -> None:
    with ValkeyServer(tcp=False) as server:
        async with lane_to(f"{server.url}?db=5") as lane:
            assert lane.tracks
            await send(lane, "SET", "k", "v")
        assert server.command("GET", "k", db=5) == b"v"


@on_both_loops
async def test_tls(tls_port: tuple[int, Path]) -> None:
    port, directory = tls_port
    ca = directory / "ca.crt"
    async with lane_to(f"rediss://localhost:{port}/0?ssl_ca_certs={ca}") as lane:
        value = bytes(3_000_000)
        await send(lane, "SET", "k", value)
        assert await asyncio.gather(*(send(lane, "GET", "k") for _ in range(5))) == [value] * 5
        assert lane.tracks
    with pytest.raises(ConnectionFailed, match="certificate verify failed"):
        await connect(f"rediss://localhost:{port}")
    with pytest.raises(ConnectionFailed, match=r"(?i)mismatch|not valid for"):
        await connect(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}")
    await close(await connect(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}&ssl_check_hostname=false"))


def thread_lane(url: str) -> ThreadLane:
    listener, endpoint = Versions(), parse_url(url, variable="url")
    lane = ThreadLane(
        lambda kill: open_thread_wire(
            endpoint, listener, command_timeout=5.0, connect_timeout=5.0, client_name="threads", kill=kill
        ),
        command_timeout=5.0,
        breaker=Breaker(5, 1.0, lambda: 0.0),
        on_state=lambda lane, error: None,
        listener=listener,
    )
    listener.lanes.append(lane)
    return lane


def in_threads_of_their_own(lane: ThreadLane, value: bytes) -> bool:
    with ThreadPoolExecutor(4) as pool:
        return all(pool.map(lambda _: lane.request(("GET", "k")) == value, range(40)))


def test_threads_speak_tls_too(tls_port: tuple[int, Path]) -> None:
    port, directory = tls_port
    ca = directory / "ca.crt"
    lane = thread_lane(f"rediss://localhost:{port}/0?ssl_ca_certs={ca}")
    value = bytes(3_000_000)
    assert lane.request_many([("SET", "k", value), ("GET", "k"), ("PING",)])[1:] == [value, b"PONG"]
    assert lane.tracks
    lane.watch()
    lane.request_many([("CLIENT", "CACHING", "YES"), ("GET", "k")], lambda _: lane.counters.update({b"k": 1}))
    assert lane.counters
    other = thread_lane(f"rediss://localhost:{port}/0?ssl_ca_certs={ca}")
    other.request(("SET", "k", value))
    wait_until(lambda: not lane.counters, "the push to be heard, though nobody asks for anything")
    assert in_threads_of_their_own(lane, value)
    assert (lane.connects, other.connects) == (1, 1)
    other.close()
    lane.close()
    for wrong in (f"rediss://localhost:{port}", f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}"):
        refused = thread_lane(wrong)
        with pytest.raises(ConnectionFailed, match=r"(?i)verify failed|mismatch|not valid for"):
            refused.open()
        refused.close()


@pytest.mark.parametrize("config", [(), ("--rename-command", "HELLO", "")], ids=["resp3", "resp2"])
def test_threads_shake_hands_as_loops_do(config: tuple[str, ...]) -> None:
    with ValkeyServer(*config, password="right") as server:
        for url in (server.url, server.unix_url):
            lane = thread_lane(url)
            assert lane.request(("PING",)) == b"PONG"
            assert lane.tracks is not bool(config)
            assert abs(lane.clock + time.monotonic() - time.time()) < 60  # the server is on this machine
            lane.close()
            wrong = thread_lane(url.replace("right", "wrong"))
            with pytest.raises(ConnectionFailed, match="refused the credentials"):
                wrong.open()
            wrong.close()


async def test_a_certificate_file_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="TLS for"):
        await connect("rediss://localhost:1/0?ssl_ca_certs=/nowhere/ca.crt")


# -- servers that are none


def saying(*answers: bytes) -> Talk:
    """Answers each command with the next of ``answers``, then closes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_command(reader)
            writer.write(answer)
            await writer.drain()

    return talk


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


IMPOSTORS = {
    "closes at once": saying(),
    "speaks HTTP": saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "answers HELLO with a number": saying(b":1\r\n"),
    "answers HELLO with a word": saying(b"+OK\r\n"),
    "answers HELLO with nothing": saying(b"_\r\n"),
    "answers half of HELLO": saying(GREETING[:20]),
    "closes after HELLO": saying(GREETING),
    "knows no command": saying(b"-ERR\r\n", b"-ERR\r\n", b"-ERR\r\n", b"-ERR\r\n", b"-ERR\r\n"),
    "greets twice": saying(GREETING * 2),
    "says nothing": silence,
}


@pytest.mark.parametrize("impostor", IMPOSTORS)
@on_both_loops
async def test_an_impostor_is_no_connection(impostor: str) -> None:
    async with fake_server(IMPOSTORS[impostor]) as url:
        # Only who says nothing is waited for.
        lane = make_lane(url, connect_timeout=0.5 if impostor == "says nothing" else 30.0)
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionFailed):
                await lane.connected_or_raise()
            with pytest.raises(ConnectionFailed):
                await send(lane, "PING")
        await lane.aclose()
    assert "nearcache-lane" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_another_kind_of_server_is_called_that() -> None:
    async with fake_server(IMPOSTORS["answers HELLO with a number"]) as url:
        assert "no Redis or Valkey server" in await refusal(url)


@pytest.mark.parametrize("answer", [TIME, b"-NOPERM no TIME\r\n"], ids=["told", "refused"])
@on_both_loops
async def test_the_servers_clock(answer: bytes) -> None:
    async with fake_server(saying(GREETING, b"+PONG\r\n", answer, INFO, b"+OK\r\n", b":1\r\n")) as url:
        asked, wall = time.monotonic(), time.time()
        async with lane_to(url) as lane:
            taken, later = time.monotonic(), time.time()
            if answer == TIME:
                assert 1_700_000_000.25 - taken <= lane.clock <= 1_700_000_000.25 - asked
            else:
                assert wall - taken <= lane.clock <= later - asked  # this machine's
            assert lane.tracks
            assert await send(lane, "GET", "k") == 1


@on_both_loops
async def test_odd_facts_in_a_greeting_do_no_harm() -> None:
    odd = b"%4\r\n+server\r\n:5\r\n+version\r\n$2\r\n\xff\xfe\r\n+id\r\n+seven\r\n+x\r\n*0\r\n"
    async with (
        fake_server(saying(odd, b"+PONG\r\n", b"*1\r\n:1\r\n", INFO, b"+OK\r\n", b":1\r\n")) as url,
        lane_to(url) as lane,
    ):
        assert lane.tracks
        assert await send(lane, "GET", "k") == 1


@pytest.mark.parametrize(
    "answer", [b"$5\r\nhal", b"", b"!!\r\n", b":1\r\n$9\r\n"], ids=["half", "nothing", "rubbish", "one and a half"]
)
@on_both_loops
async def test_a_server_that_loses_its_mind_costs_a_reconnect(answer: bytes) -> None:
    visits = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        await greet(reader, writer)
        if visits == 2:
            await saying(b"+CLIENTS\r\n", b"+sane\r\n")(reader, writer)
            return
        await read_command(reader)
        writer.write(answer)

    async with fake_server(talk) as url, lane_to(url, command_timeout=5.0) as lane, asyncio.timeout(10):
        asked = [send(lane, "GET", "k") for _ in range(3)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        failed = outcomes[answer.count(b":") :]
        assert [type(outcome) for outcome in failed] == [ConnectionFailed] * len(failed)
        assert await send(lane, "GET", "k") == b"sane"


async def goes_when_it_is_to_be_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    answers = {b"HELLO": GREETING, b"PING": b"+PONG\r\n", b"TIME": TIME, b"INFO": INFO, b"CLIENT": b"+OK\r\n"}
    while (word := (await read_command(reader))[0]) in answers:
        writer.write(answers[word])
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()  # a reset, not an end


async def test_a_replica_that_goes_away_as_it_is_greeted_is_a_failed_connection_to_threads() -> None:
    """Anything else would end the thread that reconnects."""
    async with fake_server(goes_when_it_is_to_be_read) as url:
        host, _, port = url.removeprefix("redis://").partition(":")
        topology = Topology(
            parse_url(f"redis+cluster://{host}:{port}", variable="url"),
            command_timeout=5.0,
            connect_timeout=5.0,
            client_name="replica",
            track_all=True,
        )
        connect = topology.thread_opener(Versions(), (host, int(port)), replica=True)
        with pytest.raises(ConnectionFailed):
            await asyncio.to_thread(connect, None)
