"""Writes and invalidations that fail against real servers, and what readers get afterwards, in whatever process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nearcache import AsyncCache, ServerError, Settings, get_multi_redis_connection_manager
from nearcache.client import Client

from ..lanes import eventually
from ..servers import ValkeyServer
from ..shells import Caller, Shell

KEYS = ["key", "key2"]

Write = Callable[[Shell], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "set": lambda cache: cache.set("key", "new"),
    "set_many": lambda cache: cache.set_many(dict.fromkeys(KEYS, "new")),
    "delete": lambda cache: cache.delete("key"),
    "expire": lambda cache: cache.expire("key", 1000),
    "invalidate_tags": lambda cache: cache.invalidate_tags("tag", "unused"),
    "expire_tags": lambda cache: cache.expire_tags("tag"),
    "clear": lambda cache: cache.clear(),
    "write_through": lambda cache: cache.write_through("key", cache.make(lambda: "new")),
}


class Fleet:
    """A process that fails to write, and another one that reads."""

    def __init__(self, server: ValkeyServer, shell: Shell, other: AsyncCache) -> None:
        self.server = server
        self.shell = shell
        self.other = other

    @property
    def client(self) -> Client:
        client = self.shell.cache._core.client
        assert isinstance(client, Client)
        return client

    @property
    def owed(self) -> int:
        return self.client.status().owed

    async def others_get(self, key: str) -> Any:
        """What the other process reads, as soon as it reaches the server."""
        async with asyncio.timeout(15):
            while True:
                try:
                    await self.other.ping()  # what was pushed has come before the answer
                    return await self.other.get(key)
                except ServerError:
                    await asyncio.sleep(0.01)


@pytest.fixture(params=["async", "sync"])
def threads(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "sync")


@pytest.fixture(params=["near", "far"])
async def fleet(request: pytest.FixtureRequest, threads: bool) -> AsyncIterator[Fleet]:
    manager = get_multi_redis_connection_manager()
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "always") as server:
        settings = Settings(
            redis_url=server.url, command_timeout=0.2, near_enabled=request.param == "near", _env_file=None
        )
        manager.register("other", server.url)
        shell, other = Caller(AsyncCache(3600, "app"), threads=threads), AsyncCache(3600, "app", "other", strict=True)
        await shell.initialize(settings)
        await other.initialize(settings)
        for key in KEYS:
            await other.set(key, "old", tags=["tag"], grace=3600)
            assert await shell.get(key) == await other.get(key) == "old"
        yield Fleet(server, shell, other)
        await manager.disconnect_all()
        manager._registered.clear()


# -- what may happen to a server


@asynccontextmanager
async def killed(server: ValkeyServer) -> AsyncIterator[None]:
    """Killed; when it comes back it has what it had."""
    server.kill()
    yield
    server.start()


@asynccontextmanager
async def frozen(server: ValkeyServer) -> AsyncIterator[None]:
    server.pause()
    yield
    server.resume()


@asynccontextmanager
async def read_only(server: ValkeyServer) -> AsyncIterator[None]:
    """It was made the replica of another one."""
    server.command("REPLICAOF", "127.0.0.1", 1)
    yield
    server.command("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def full(server: ValkeyServer) -> AsyncIterator[None]:
    server.command("CONFIG", "SET", "maxmemory", 1)
    yield
    server.command("CONFIG", "SET", "maxmemory", 0)


FAULTS = {"killed": killed, "frozen": frozen, "read_only": read_only, "full": full}
FULL_TAKES = {"delete", "expire"}  # without memory the rest is refused
CASES = [(fault, name) for fault in FAULTS for name in WRITES if (fault, name) != ("full", "expire")]


@pytest.mark.parametrize(("fault", "name"), CASES)
async def test_nobody_reads_what_a_failed_write_was_to_end(fleet: Fleet, fault: str, name: str) -> None:
    shell = fleet.shell
    async with FAULTS[fault](fleet.server):
        done = await WRITES[name](shell)
        if name != "write_through":
            assert done == (name in FULL_TAKES if fault == "full" else 0)
        if not (fault == "full" and name in FULL_TAKES):
            assert await shell.get("key") is None, "nor does this process hold it"
    ended = KEYS if name in {"set_many", "invalidate_tags", "expire_tags", "clear"} else ["key"]
    async with asyncio.timeout(15):
        while fleet.owed:
            for key in ended:
                assert await shell.get(key) is None
            await asyncio.sleep(0)
    for key in KEYS:
        # What a server had acknowledged shortly before it was started anew may be lost: it is removed, too.
        kept = [None, "old"] if fault == "killed" else ["old"]
        assert await fleet.others_get(key) in ([None] if key in ended else kept)
        assert await shell.get(key) is None or key not in ended
    # And all is as it was.
    assert await shell.set("key", "newest") is True
    assert await fleet.others_get("key") == await shell.get("key") == "newest"


@pytest.mark.parametrize("name", ["delete", "clear"])
@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_it_is_made_good_though_nobody_reads(
    fleet: Fleet, fault: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = get_multi_redis_connection_manager()
    with caplog.at_level(logging.INFO, "nearcache.connections"):
        async with FAULTS[fault](fleet.server):
            await WRITES[name](fleet.shell)
            assert fleet.owed == 1
            assert "cache: 1 writes or invalidations are still to be made good" in manager.health().reasons
            assert manager.health().status == "degraded"
            await eventually(lambda: "to be made good" in caplog.text, "it is said")
        await eventually(lambda: not fleet.owed, "it is made good")
        assert await fleet.others_get("key") is None
        await eventually(lambda: "1 were made good, 0 forgotten" in caplog.text, "that is said, too")
    lines = [record.message for record in caplog.records if "made good" in record.message]
    assert len(lines) == 2, "one when it begins and one when it ends"
    await eventually(lambda: manager.health().status == "up", "the breaker closes")


async def test_a_connection_that_is_killed_under_a_write(fleet: Fleet) -> None:
    """Nobody knows whether the server has carried it out."""
    server = fleet.server
    server.command("CLIENT", "PAUSE", 60_000, "WRITE")
    deleting = asyncio.create_task(fleet.shell.delete("key"))
    await eventually(lambda: b"blocked_clients:1" in server.command("INFO", "clients"), "it is under way")
    server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await deleting is False
    server.command("CLIENT", "UNPAUSE")
    await eventually(lambda: not fleet.owed, "it is made good")
    assert await fleet.others_get("key") is None


async def test_a_caller_that_leaves(fleet: Fleet, threads: bool) -> None:
    """What it wanted is wanted all the same."""
    if threads:
        pytest.skip("a thread cannot be cancelled")
    fleet.server.pause()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await fleet.shell.delete("key")
    assert fleet.owed == 1
    fleet.server.restart()  # what was in its sockets is lost
    await eventually(lambda: not fleet.owed, "it is made good")
    assert await fleet.others_get("key") is None


async def test_strict_raises(fleet: Fleet, threads: bool) -> None:
    strict = Shell(AsyncCache(3600, "app", strict=True), threads=threads)
    await strict.initialize()
    async with read_only(fleet.server):
        with pytest.raises(ServerError, match="READONLY"):
            await strict.delete("key")
        with pytest.raises(ServerError, match="READONLY"):
            await strict.get("key")
        assert await fleet.shell.get("key") is None, "nor is what others ask on that client trusted"
    assert await strict.get("key") is None
    assert fleet.owed == 0


async def test_a_load_that_began_before_stores_nothing(fleet: Fleet) -> None:
    """Its lease goes with what is removed."""
    shell, other = fleet.shell, fleet.other
    await other.delete("key")
    loading, go_on = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        loading.set()
        await go_on.wait()
        return "old"

    loaded = asyncio.create_task(other.get_or_set("key", load))
    await loading.wait()
    async with read_only(fleet.server):
        assert await shell.delete("key") is False
    await eventually(lambda: not fleet.owed, "it is made good")
    go_on.set()
    assert await loaded == "old"
    assert await shell.get("key") is None


async def test_a_thousand_readers_replay_once(fleet: Fleet, threads: bool) -> None:
    if threads:
        pytest.skip("a thousand threads")
    server, shell = fleet.server, fleet.shell
    async with read_only(server):
        assert await shell.delete_many([f"many:{number}" for number in range(1_200)]) == 0
    server.command("CONFIG", "RESETSTAT")
    assert set(await asyncio.gather(*(shell.get("nothing") for _ in range(1_000)))) == {None}
    unlinked = server.command("INFO", "commandstats").partition(b"cmdstat_unlink:calls=")[2]
    assert int(unlinked.partition(b",")[0]) == 1_200
