"""What nobody says by itself: nodes that come and go, and a primary that was replaced while it is up."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nearcache import AsyncCache, get_multi_redis_connection_manager
from nearcache.transport import lookout
from nearcache.transport.cluster_lane import ClusterLane
from nearcache.transport.cluster_threads import ClusterThreads
from nearcache.transport.lookout import Lookout
from nearcache.transport.slots import slot_of

from ..lanes import eventually
from ..servers import ClusterServers, SentinelServer, ValkeyServer, WatchedServers, wait_until
from ..shells import SHELLS, Shell, names, settings, status, stored

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("closing")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers() as servers:
        yield servers


async def shell_at(url: str, *, threads: bool = False, **more: Any) -> Shell:
    cache = AsyncCache(60, "app", near=False)
    await cache.initialize(settings(url, **more))
    return Shell(cache, threads=threads)


def lookout_of(shell: Shell) -> Lookout:
    found = shell.cache._core.client._lookout
    assert isinstance(found, Lookout)
    return found


async def turned_to(shell: Shell, server: ValkeyServer) -> None:
    """All connections lead there. A write that is under way while its own is replaced would be removed again."""
    facts = server.command("INFO", "replication").decode()
    identity = next(line.partition(":")[2] for line in facts.splitlines() if line.startswith("master_replid:"))
    links = shell.cache._core.client._links()
    await eventually(
        lambda: (
            all([history.id.decode() for history in link.histories()] == [identity] for link in links)
            and all(link.connected for link in links)
        ),
        "the new primary to be followed",
    )
    assert status().port == server.port


# -- a cluster


def questions(cluster: ClusterServers) -> int:
    texts = [server.command("INFO", "commandstats").decode() for server in cluster.servers]
    return sum(int(calls) for text in texts for calls in re.findall(r"cmdstat_cluster\|slots:calls=(\d+)", text))


async def test_one_question_is_for_all_connections_of_the_process(cluster: ClusterServers) -> None:
    shell = await shell_at(cluster.url)
    threads = Shell(shell.cache, threads=True)
    assert await threads.set("key", 1)
    links = shell.cache._core.client._links()
    assert {type(link) for link in links} == {ClusterLane, ClusterThreads}
    slot = slot_of(stored("key"))
    source = cluster.owner(slot)
    target = next(server for server in cluster.primaries if server is not source)
    await asyncio.to_thread(cluster.move, slot, target)
    wait_until(lambda: all(server.command("CLUSTER", "MYID") for server in cluster.servers), "all to answer")
    before = questions(cluster)
    await asyncio.to_thread(lookout_of(shell).look)
    assert questions(cluster) == before + 1
    # Nobody has asked for the key, so no MOVED has come.
    await eventually(
        lambda: all(link._slots.owner(slot) == (target.host, target.port) for link in links), "both to know"
    )
    links[0]._slots.move(slot, (source.host, source.port))
    assert links[1]._slots.owner(slot) == (target.host, target.port), "each has a map of its own"


@SHELLS
async def test_it_is_looked_again_soon_after_a_replica_was_lost(
    threads: bool, cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    monkeypatch.setattr(Lookout, "look", lambda self: looked.set())
    shell = await shell_at(cluster.url, threads=threads, read_from="prefer_replica")
    assert await shell.set("key", 1)
    replicas = [server for server in cluster.servers if server not in cluster.primaries]
    async with asyncio.timeout(20):
        while not looked.is_set():
            assert await shell.get("key") == 1
            for server in replicas:
                server.command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
            await asyncio.sleep(0.02)


async def test_it_is_looked_in_quiet_times_too(cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "_MOST", 0.02)
    before = questions(cluster)
    await shell_at(cluster.url)
    await eventually(lambda: questions(cluster) > before + 5, "several looks")


async def test_a_client_that_is_dropped_leaves_no_thread(
    cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "_MOST", 0.02)
    shell = await shell_at(cluster.url)
    thread = lookout_of(shell)._thread
    assert thread is not None
    assert thread.is_alive()
    await get_multi_redis_connection_manager().disconnect_all()
    assert not thread.is_alive()


# -- sentinels


@SHELLS
@pytest.mark.parametrize("read_from", ["primary", "prefer_replica"])
async def test_a_failover_that_was_ordered_is_followed_while_the_old_primary_still_is_one(
    threads: bool, read_from: str
) -> None:
    """It goes on as a primary for ten seconds: what it takes then is lost."""
    with WatchedServers() as watched:
        shell = await shell_at(watched.url, threads=threads, read_from=read_from)
        first = watched.primary
        assert await shell.set("key", 1)
        wait_until(lambda: first.command("WAIT", 2, 0) == 2, "the replicas to have it")
        watched.sentinels[0].command("SENTINEL", "FAILOVER", watched.sentinels[0].service)
        second = await asyncio.to_thread(watched.wait_for_primary, first)
        await eventually(lambda: second.command("ROLE")[0] == b"master", "the new one to be ready")
        await turned_to(shell, second)
        assert first.command("ROLE")[0] == b"master"
        assert await shell.set("key", 2)
        assert second.command("GET", "app:key") != first.command("GET", "app:key")
        assert await shell.get("key") == 2


@SHELLS
async def test_a_primary_that_no_sentinel_names_any_more_is_left(threads: bool) -> None:
    with ValkeyServer() as old, ValkeyServer() as new, SentinelServer(old, quorum=5) as sentinel:
        shell = await shell_at(f"redis+sentinel://{sentinel.host}:{sentinel.port}/main", threads=threads)
        assert await shell.set("key", 1)
        sentinel.watch(new)
        await asyncio.to_thread(lookout_of(shell).look)
        await turned_to(shell, new)
        assert await shell.set("key", 2)
        assert new.command("EXISTS", "app:key") == 1


@SHELLS
async def test_a_server_that_is_none_is_not_followed(threads: bool) -> None:
    """A sentinel that was cut off names what no longer is."""
    with ValkeyServer() as primary, ValkeyServer("--replicaof", f"{primary.host} {primary.port}") as replica:
        wait_until(lambda: replica.command("ROLE")[3] == b"connected", "the replica to have connected")
        with SentinelServer(primary, quorum=5) as sentinel:
            shell = await shell_at(f"redis+sentinel://{sentinel.host}:{sentinel.port}/main", threads=threads)
            assert await shell.set("key", 1)
            reconnects = status().reconnects
            sentinel.watch(replica)
            with pytest.raises(Exception, match="it is a replica"):
                await asyncio.to_thread(lookout_of(shell).look)
            assert await shell.set("key", 2)
            assert (status().port, status().reconnects) == (primary.port, reconnects)


async def test_a_client_says_once_that_it_is_connected(
    cluster: ClusterServers, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="nearcache.connections"):
        shell = await shell_at(cluster.url)
        assert await shell.set_many(dict.fromkeys(names(20), 1))
        assert await asyncio.to_thread(shell.cache.sync().set_many, dict.fromkeys(names(20), 1))
    lines = [record.message for record in caplog.records if ": connected" in record.message]
    assert [line.partition(":")[0] for line in lines] == ["cache client"]
