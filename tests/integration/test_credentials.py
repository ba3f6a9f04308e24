"""Credentials that are asked for: each connection has its own, and a password that changes is noticed by no caller."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import redis.exceptions

from nearcache import (
    AsyncCache,
    Cache,
    ConfigurationError,
    ConnectionFailed,
    RedisClientType,
    SettingsConflict,
    get_multi_redis_connection_manager,
)

from ..lanes import eventually
from ..servers import ClusterServers, SentinelServer, ValkeyServer
from ..shells import BOTH, Shell, settings

pytestmark = pytest.mark.timeout(60)

manager = get_multi_redis_connection_manager()


class Locked:
    """Servers that let in nobody but ``app``, with the password of the day."""

    def __init__(self, url: str, servers: list[ValkeyServer]) -> None:
        self.url = url
        self.password = ""
        self.asked = 0
        self._servers = servers

    def rotate(self, password: str) -> None:
        """Another password from now on; who logged in with the old one is thrown out."""
        for server in self._servers:
            server.command("ACL", "SETUSER", "app", "reset", "on", f">{password}", "~*", "&*", "+@all")
        self.password = password
        for server in self._servers:
            server.command("CLIENT", "KILL", "USER", "app")

    def ask(self) -> tuple[str, str]:
        self.asked += 1
        return "app", self.password


@pytest.fixture(params=["standalone", "unix", "sentinel", "cluster"])
def locked(request: pytest.FixtureRequest) -> Iterator[Locked]:
    with ExitStack() as stack:
        if request.param == "cluster":
            cluster = stack.enter_context(ClusterServers(password="root"))
            place = Locked(cluster.url.replace(":root@", ""), cluster.servers)
        else:
            server = stack.enter_context(ValkeyServer(password="root"))
            urls = {"standalone": f"redis://{server.host}:{server.port}", "unix": f"unix://{server.socket_path}"}
            servers = [server]
            if request.param == "sentinel":
                sentinel = stack.enter_context(SentinelServer(server, password="root"))
                urls["sentinel"] = f"redis+sentinel://{sentinel.host}:{sentinel.port}/main"
                servers.append(sentinel)
            place = Locked(urls[request.param], servers)
        place.rotate("first")
        yield place


@pytest.fixture(autouse=True)
async def closing() -> AsyncIterator[None]:
    yield
    await manager.disconnect_all()
    manager.use_credentials("cache", None)


async def shell_at(place: Locked, source: Any, kind: str) -> Shell:
    manager.use_credentials(RedisClientType.CACHE, source)
    shell = Shell(AsyncCache(60, "app"), threads=kind == "sync")
    await shell.initialize(settings(place.url))
    return shell


class Load:
    """Reads, writes and loads until it is told to stop; what is raised ends it."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._stopped = False
        self.written = 0  # since the last write that failed
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        number = 0
        while not self._stopped:
            number += 1
            self.written = self.written + 1 if await self._shell.set(f"key{number % 20}", number) else 0
            assert await self._shell.get_or_set(f"load{number % 20}", lambda: "loaded") == "loaded"
            assert await self._shell.get(f"key{number % 20}") in (number, None)

    async def stop(self) -> None:
        self._stopped = True
        await self._task


@BOTH
async def test_nobody_notices_a_new_password(locked: Locked, kind: str) -> None:
    shell = await shell_at(locked, locked.ask, kind)
    driver = manager.get_client()
    assert await driver.set("mine", 1)
    load = Load(shell)
    await eventually(lambda: load.written > 5, "writes to succeed")
    for password in ("second", "third"):
        before = manager.get_connection_status("cache").reconnects
        locked.rotate(password)
        await eventually(lambda: manager.get_connection_status("cache").reconnects > before, "to be thrown out")  # noqa: B023
        load.written = 0
        await eventually(lambda: load.written > 5, "writes to succeed with the new password")
        assert await driver.set("mine", 1)
    await load.stop()


@pytest.fixture
def one() -> Iterator[Locked]:
    """A server that lets in ``app`` alone."""
    with ValkeyServer(password="root") as server:
        place = Locked(f"redis://app@{server.host}:{server.port}", [server])
        place.rotate("first")
        yield place


class Provider:
    """What redis-py asks, too."""

    def __init__(self, place: Locked) -> None:
        self._place = place

    def get_credentials(self) -> tuple[str, str]:
        return self._place.ask()


class Called:
    """An object that is called, and awaited."""

    def __init__(self, place: Locked) -> None:
        self._place = place

    async def __call__(self) -> tuple[str, str]:
        return self._place.ask()


SOURCES: dict[str, Callable[[Locked], Any]] = {
    "function": lambda place: place.ask,
    "coroutine function": lambda place: Called(place).__call__,
    "object with an async call": Called,
    "function that returns an awaitable": lambda place: partial(Called(place)),
    "provider": Provider,
    "password alone": lambda place: lambda: place.ask()[1],
    "tuple of a password alone": lambda place: lambda: place.ask()[1:],
    "no user name": lambda place: lambda: ("", place.ask()[1]),
}


@BOTH
@pytest.mark.parametrize("name", SOURCES)
async def test_sources(one: Locked, name: str, kind: str) -> None:
    shell = await shell_at(one, SOURCES[name](one), kind)
    assert await shell.set("key", 1) is True
    assert one.asked == 1
    assert await manager.get_client().get("nothing") is None
    assert one.asked == 2, "for each connection anew"


async def test_the_password_is_shown_nowhere(one: Locked, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    one.rotate("very-secret")
    shell = await shell_at(one, one.ask, "async")
    for wrong in (lambda: "wrong-secret", lambda: ("app", "two", "secret"), lambda: b"secret"):
        await manager.disconnect_all()
        manager.use_credentials("cache", wrong)
        await shell.initialize(settings(one.url))
    client = manager.client("cache")
    shown = [caplog.text, repr(client.topology.at), repr(manager.health()), repr(client.status())]
    assert "credentials" in shown[0]
    assert "secret" not in "".join(shown)


def raises(error: Exception) -> Callable[[], Any]:
    def source() -> Any:
        raise error

    async def awaited() -> Any:
        raise error

    source.awaited = awaited  # type: ignore[attr-defined]
    return source


WRONG = {
    "raises": (raises(RuntimeError("the vault is sealed")), "RuntimeError: the vault is sealed"),
    "raises on the loop": (raises(OSError("no route")).awaited, "OSError: no route"),  # type: ignore[attr-defined]
    "times out by itself": (raises(TimeoutError("the vault is slow")), "TimeoutError: the vault is slow"),
    "ends in a way of its own": (raises(StopIteration()), "StopIteration"),  # type: ignore[arg-type]
    "gives nothing": (lambda: None, "it gave a NoneType, not a password"),
    "gives bytes": (lambda: b"first", "it gave a bytes, not a password"),
    "gives three": (lambda: ("app", "first", "more"), "it gave a tuple, not a password"),
    "gives an empty password": (lambda: ("app", ""), "it gave an empty password"),
    "gives a wrong password": (lambda: "wrong", "the server refused the credentials: WRONGPASS"),
}


@BOTH
@pytest.mark.parametrize("what", WRONG)
async def test_what_is_wrong_is_said(one: Locked, what: str, kind: str) -> None:
    source, message = WRONG[what]
    shell = await shell_at(one, source, kind)
    assert message in (manager.get_connection_status("cache").last_error or "")
    assert message in manager.health().reasons[0]
    assert await shell.get_or_set("key", lambda: 1) == 1


async def test_the_driver_says_so_too(one: Locked) -> None:
    await shell_at(one, raises(RuntimeError("the vault is sealed")), "async")
    with pytest.raises(redis.exceptions.ConnectionError, match="the vault is sealed"):
        await manager.get_client().ping()


@BOTH
async def test_a_source_that_recovers_is_asked_again(one: Locked, kind: str) -> None:
    answers = iter(["wrong", None])
    shell = await shell_at(one, lambda: next(answers, one.password), kind)
    assert await shell.set("key", 1) is False
    await eventually(lambda: manager.get_connection_status("cache").connected, "a connection")
    assert await shell.set("key", 1) is True


@BOTH
async def test_a_slow_source_holds_up_nobody_and_is_asked_once(one: Locked, kind: str) -> None:
    go = threading.Event()

    def slow() -> str:
        one.asked += 1
        go.wait(30)
        return one.password

    manager.use_credentials("cache", slow)
    shell = Shell(AsyncCache(60, "app"), threads=kind == "sync")
    await shell.initialize(settings(one.url, connect_timeout=0.1))  # the loop turns, or this would not return
    assert "did not answer within 0.09 s" in (manager.get_connection_status("cache").last_error or "")
    go.set()
    await eventually(lambda: manager.get_connection_status("cache").connected, "a connection")
    assert one.asked == 1, "what came too late for one attempt is there for the next"
    assert await shell.set("key", 1) is True


def test_a_forked_child_asks_for_itself(one: Locked) -> None:
    """The parent's call may be under way: its thread is not the child's."""
    asked, go = threading.Event(), threading.Event()
    parent = os.getpid()

    def source() -> str:
        if os.getpid() == parent:
            asked.set()
            go.wait(30)
        return one.password

    manager.use_credentials("cache", source)
    cache = Cache(60, "app")
    opening = threading.Thread(target=cache.initialize, args=(settings(one.url),))
    opening.start()
    assert asked.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends it, whatever it waits for
        code = 1
        try:
            cache.initialize(settings(one.url))
            code = 0 if cache.set("key", "child's") else 2
        finally:
            os._exit(code)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        go.set()
        opening.join()
    assert cache.get("key") == "child's"


async def test_a_slow_coroutine_is_cancelled(one: Locked) -> None:
    cancelled = []

    async def slow() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)
        return ""

    manager.use_credentials("cache", slow)
    await AsyncCache(60, "app").initialize(settings(one.url, connect_timeout=0.1))
    assert cancelled
    assert "did not answer" in (manager.get_connection_status("cache").last_error or "")


async def test_whom_it_can_be_set_for(one: Locked) -> None:
    with pytest.raises(ConfigurationError, match="no client is named 'reports'"):
        manager.use_credentials("reports", one.ask)
    with pytest.raises(ConfigurationError, match="not from a str"):
        manager.use_credentials("cache", "password")  # type: ignore[arg-type]
    await shell_at(one, one.ask, "async")
    with pytest.raises(SettingsConflict, match="before it is initialised"):
        manager.use_credentials("cache", one.ask)
    await manager.disconnect_all()
    manager.use_credentials("cache", None)
    with pytest.raises(ConnectionFailed, match="refused the credentials"):
        await manager.initialize("cache", settings(one.url), strict=True)
