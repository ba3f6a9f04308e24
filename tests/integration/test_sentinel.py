"""Sentinel: which server is found, when it is left, and that no caller notices a failover."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from nearcache import Cache, ConnectionFailed, get_multi_redis_connection_manager
from nearcache.transport.endpoint import parse_url
from nearcache.transport.sentinel import Sentinels

from .. import shells
from ..lanes import eventually, until_read
from ..servers import SentinelServer, ValkeyServer, WatchedServers, wait_until
from ..shells import KEYS, cache_at, settings, status

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("closing")]


@pytest.fixture
def watched() -> Iterator[WatchedServers]:
    with WatchedServers() as servers:
        yield servers


@pytest.fixture
def pair() -> Iterator[tuple[ValkeyServer, ValkeyServer]]:
    """A primary and its replica."""
    with ValkeyServer() as primary, ValkeyServer("--replicaof", f"{primary.host} {primary.port}") as replica:
        wait_until(lambda: replica.command("ROLE")[3] == b"connected", "the replica to have connected")
        yield primary, replica


def url_of(*sentinels: SentinelServer, password: str | None = None) -> str:
    nodes = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in sentinels)
    return f"redis+sentinel://{f':{password}@' if password else ''}{nodes}/main"


# -- a failover under load


class Load(shells.Load):
    """Where a write failed, what was there before has to be right, too."""

    def __init__(self) -> None:
        super().__init__()
        self.missed = 0

    def note(self, number: int, written: bool, read: Any, loaded: Any) -> None:
        super().note(number, written, read, loaded)
        self.missed += read is None
        # The value of a round before may still be there.
        if not written and read is not None and read not in range(number % KEYS, number + 1, KEYS):
            self.wrong.append((number, written, read, loaded))

    def run_in_thread(self, cache: Cache, name: str) -> None:
        for number in count():
            if self.stopped.is_set():
                return
            try:
                key = f"{name}-{number % KEYS}"
                written, read = cache.set(key, number), cache.get(key)
                self.note(number, written, read, cache.get_or_set(f"{key}-loaded", lambda: "loaded"))
            except BaseException as error:
                self.raised.append(error)
                raise


async def fail_over(watched: WatchedServers, load: Load) -> ValkeyServer:
    """Kill the primary while ``load`` runs; the next one, once the load hits on it."""
    await eventually(lambda: load.good > 200, "the load to hit")
    first = watched.primary
    watched.kill_primary()
    await eventually(lambda: load.refused and load.missed, "the load to notice")
    second = await asyncio.to_thread(watched.wait_for_primary, first)
    # The back-off is half a second at most, so this is soon; the bound is for busy machines.
    await eventually(lambda: load.good > 200, "the load to hit again", seconds=20)
    assert status().connected
    assert (status().host, status().port) == (second.host, second.port)
    return second


def check(load: Load) -> None:
    assert load.raised == []
    assert load.wrong == []


async def test_a_failover_under_load_on_a_loop(watched: WatchedServers) -> None:
    cache = await cache_at(watched.url)
    first = watched.primary
    assert (status().host, status().port) == (first.host, first.port)
    await cache.set("kept", "before")
    await eventually(lambda: first.command("WAIT", 2, 0) == 2, "the replicas to have it")
    assert await cache.get("kept") == "before"
    load = Load()
    async with asyncio.TaskGroup() as tasks:
        for name in ("a", "b", "c"):
            tasks.create_task(load.run(cache, name))
        second = await fail_over(watched, load)
        load.stopped.set()
    check(load)
    assert status().reconnects == 1
    # What was near was dropped, and what is near now is kept coherent by the new primary.
    second.command("SET", "app:kept", '"after"')
    await until_read(lambda: cache.get("kept"), "after")
    second.command("SET", "app:kept", '"later"')
    await until_read(lambda: cache.get("kept"), "later")


async def test_a_failover_under_load_in_threads(watched: WatchedServers) -> None:
    cache = Cache(60, "app")
    cache.initialize(settings(watched.url))
    load = Load()
    threads = [threading.Thread(target=load.run_in_thread, args=(cache, f"t{number}")) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        second = await fail_over(watched, load)
    finally:
        load.stopped.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    check(load)
    cache.set("kept", "before")
    assert cache.get("kept") == "before"
    second.command("SET", "app:kept", '"after"')
    await eventually(lambda: cache.get("kept") == "after", "the new primary's pushes to arrive")


async def test_the_driver_follows_a_failover(watched: WatchedServers) -> None:
    await cache_at(watched.url)
    driver = get_multi_redis_connection_manager().get_client()
    assert await driver.set("mine", "1")
    first = watched.primary
    watched.kill_primary()
    second = await asyncio.to_thread(watched.wait_for_primary, first)
    assert await driver.set("mine", "2")
    assert second.command("GET", "mine") == b"2"


# -- which server


def in_both_ways(url: str) -> Iterator[Callable[[], Any]]:
    """Find the primary from a loop and from a thread."""
    endpoint = parse_url(url, variable="url")
    yield lambda: asyncio.run(Sentinels(endpoint, 4.0).find())
    yield Sentinels(endpoint, 4.0).find_in_thread


def found(url: str) -> list[Any]:
    return [(where.host, where.port) for where in (find() for find in in_both_ways(url))]


async def test_a_frozen_sentinel_leaves_time_for_the_others(server: ValkeyServer) -> None:
    manager = get_multi_redis_connection_manager()
    with SentinelServer(server) as frozen, SentinelServer(server) as up:
        frozen.pause()
        await manager.initialize("cache", settings(url_of(frozen, up)), strict=True)
        assert (status().host, status().port) == (server.host, server.port)


def test_a_sentinel_that_is_gone_or_frozen_is_passed_over(pair: tuple[ValkeyServer, ValkeyServer]) -> None:
    primary, _ = pair
    with SentinelServer(primary) as gone, SentinelServer(primary) as frozen, SentinelServer(primary) as up:
        gone.kill()
        frozen.pause()
        assert found(url_of(gone, frozen, up)) == [(primary.host, primary.port)] * 2


async def test_who_answered_is_asked_first(pair: tuple[ValkeyServer, ValkeyServer]) -> None:
    primary, replica = pair
    with SentinelServer(primary) as gone, SentinelServer(primary) as first, SentinelServer(primary) as second:
        gone.kill()
        sentinels = Sentinels(parse_url(url_of(gone, first, second), variable="url"), 4.0)
        assert (await sentinels.find()).port == primary.port
        sentinels.confirm()
        second.watch(replica)
        assert (await sentinels.find()).port == primary.port, "again the one that answered"
        assert (await sentinels.find()).port == replica.port, "another one, since nobody could use what it named"


@pytest.mark.parametrize("sentinels", [0, 1], ids=["nobody answers", "nobody knows"])
def test_when_there_is_no_primary_the_reason_is_told(sentinels: int, server: ValkeyServer) -> None:
    with SentinelServer(server) as sentinel:
        url = url_of(sentinel)
        if sentinels:
            url = url.replace("/main", "/other")
        else:
            sentinel.kill()
        for find in in_both_ways(url):
            why = "no primary of the name 'other'" if sentinels else "Connect|refused"
            with pytest.raises(ConnectionFailed, match=rf"no sentinel of 127\.0\.0\.1:\d+/\w+ names .*({why})"):
                find()


def test_a_server_that_is_no_sentinel_is_told_apart(server: ValkeyServer) -> None:
    for find in in_both_ways(f"redis+sentinel://{server.host}:{server.port}/main"):
        with pytest.raises(ConnectionFailed, match="names the primary; the last: ERR"):
            find()


@pytest.mark.parametrize("shell", ["async", "sync"])
async def test_a_replica_is_refused_and_the_next_sentinel_asked(
    shell: str, pair: tuple[ValkeyServer, ValkeyServer]
) -> None:
    primary, replica = pair
    with SentinelServer(replica, quorum=5) as stale, SentinelServer(primary, quorum=5) as right:
        manager = get_multi_redis_connection_manager()
        with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{replica.port}/main is not the primary any more"):
            await manager.initialize("cache", settings(url_of(stale)), strict=True)
        await manager.disconnect_all()
        if shell == "async":
            await cache_at(url_of(stale, right))
        else:
            Cache(60, "app").initialize(settings(url_of(stale, right)))
        await eventually(lambda: status().connected, "the primary to be found")
        assert status().port == primary.port


@pytest.mark.parametrize("shell", ["async", "sync"])
async def test_a_primary_that_was_demoted_is_left_when_it_refuses_a_write(
    shell: str, pair: tuple[ValkeyServer, ValkeyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearcache.transport.lookout.Lookout.listen", lambda _: None)  # it would be left sooner
    old, new = pair
    with SentinelServer(old, quorum=5) as sentinel:
        if shell == "async":
            cache = await cache_at(url_of(sentinel))
            write = cache.set
        else:
            threaded = Cache(60, "app")
            threaded.initialize(settings(url_of(sentinel)))
            write = lambda *pair: asyncio.to_thread(threaded.set, *pair)  # noqa: E731
        assert await write("key", 1)
        new.command("REPLICAOF", "NO", "ONE")
        old.command("REPLICAOF", new.host, new.port)
        sentinel.watch(new)
        assert not await write("key", 2), "the connection is still to the old one"
        await eventually(lambda: status().connected and status().port == new.port, "the new primary to be found")
        assert await write("key", 3)
        assert "READONLY" in status().last_error
        assert new.command("EXISTS", "app:key") == 1


@pytest.mark.parametrize("locked", [True, False], ids=["sentinels with the password", "sentinels without"])
async def test_passwords(locked: bool) -> None:
    with (
        ValkeyServer(password="sesame") as primary,
        SentinelServer(primary, password="sesame" if locked else None) as sentinel,
    ):
        cache = await cache_at(url_of(sentinel, password="sesame"))
        assert await cache.set("key", 1)
        threaded = Cache(60, "app")
        threaded.initialize()
        assert threaded.get("key") == 1
        assert await get_multi_redis_connection_manager().get_client().ping()
        await get_multi_redis_connection_manager().disconnect_all()
        with pytest.raises(ConnectionFailed, match=("NOAUTH" if locked else "credentials")):
            await get_multi_redis_connection_manager().initialize("cache", settings(url_of(sentinel)), strict=True)
