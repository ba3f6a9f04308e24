"""Reads from replicas: which server answers what, that nobody sees less than he has seen, and failures."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nearcache import AsyncCache, Cache, get_multi_redis_connection_manager
from nearcache.transport.slots import slot_of

from ..lagging import LaggingServers
from ..lanes import eventually, until_read
from ..servers import ClusterServers, ValkeyServer, WatchedServers, wait_until
from ..shells import SHELLS, Load, Shell, names, settings, status, stored, under_load

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("closing")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers() as servers:
        yield servers


@pytest.fixture(scope="module")
def watched() -> Iterator[WatchedServers]:
    with WatchedServers() as servers:
        yield servers


@pytest.fixture
def lagging() -> Iterator[LaggingServers]:
    with LaggingServers() as servers:
        yield servers


async def shell_at(url: str, *, threads: bool, near: bool = True, **more: Any) -> Shell:
    cache = AsyncCache(60, "app", near=near)
    await cache.initialize(settings(url, read_from="prefer_replica", **more))
    return Shell(cache, threads=threads)


def calls(server: ValkeyServer, *commands: str) -> int:
    """How often these were called there, by whomever."""
    text = server.command("INFO", "commandstats").decode()
    return sum(int(n) for name, n in re.findall(r"cmdstat_(\w+):calls=(\d+)", text) if name in commands)


def reads(server: ValkeyServer) -> int:
    return calls(server, "get", "pttl", "getrange", "mget")


async def until_replicas_answer(shell: Shell, primaries: list[ValkeyServer], keys: list[str]) -> None:
    """Until not one read of these keys reaches a primary."""
    async with asyncio.timeout(15):
        while True:
            before = [reads(server) for server in primaries]
            await shell.get_many(keys)
            if [reads(server) for server in primaries] == before:
                return
            await asyncio.sleep(0.03)


# -- who answers


@pytest.fixture(params=["cluster", "sentinel"])
def servers(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("cluster" if request.param == "cluster" else "watched")


def primaries_of(servers: ClusterServers | WatchedServers) -> list[ValkeyServer]:
    return servers.primaries if isinstance(servers, ClusterServers) else [servers.primary]


@SHELLS
async def test_values_are_read_from_replicas_and_all_else_from_primaries(threads: bool, servers: Any) -> None:
    shell = await shell_at(servers.url, threads=threads, near=False)
    primaries = primaries_of(servers)
    replicas = [server for server in servers.servers if server not in primaries]
    values = {name: number for number, name in enumerate(names(30))}
    assert await shell.clear() is not None
    assert await shell.set_many(values)
    await until_replicas_answer(shell, primaries, [*values, "nothing"])
    before = [reads(server) for server in primaries]
    asked = sum(map(reads, replicas))
    assert await shell.get_many([*values, "nothing"]) == values
    assert await shell.get("key7") == 7
    assert await shell.ttl("key8") in (59, 60)
    assert await shell.exists("key9")
    assert (await shell.lookup("key10")).value == 10
    assert await shell.get_or_set("key11", lambda: "loaded") == 11
    assert [reads(server) for server in primaries] == before
    # A GET and a PTTL each; GETRANGE instead of GET where only the time is asked for.
    assert sum(map(reads, replicas)) - asked == 2 * (31 + 5)
    assert [calls(server, "eval") for server in replicas] == [0] * len(replicas), "scripts are for primaries"


@SHELLS
async def test_what_is_read_from_a_replica_is_kept_near_and_revoked(threads: bool, servers: Any) -> None:
    shell = await shell_at(servers.url, threads=threads)
    primaries = primaries_of(servers)
    head = "cache:app:" if isinstance(servers, ClusterServers) else "app:"

    def write(name: str, value: str) -> None:
        key = f"{head}{name}"
        owner = servers.owner(slot_of(key)) if isinstance(servers, ClusterServers) else servers.primary
        owner.command("SET", key, value)

    keys = [f"near{number}" for number in range(12)]
    for name in keys:
        write(name, '"old"')
    await until_replicas_answer(shell, primaries, keys)
    # A value of somebody else's that no command of ours has touched: it can only have been read from a replica.
    assert await shell.get_many(keys) == dict.fromkeys(keys, "old")
    asked = sum(map(reads, servers.servers))
    assert await shell.get_many(keys) == dict.fromkeys(keys, "old")
    assert sum(map(reads, servers.servers)) == asked, "all of them are near"
    for name in keys:
        write(name, '"new"')
    await until_read(lambda: shell.get_many(keys), dict.fromkeys(keys, "new"))


async def test_loops_and_threads_read_the_same_replica(watched: WatchedServers) -> None:
    """What one of them has been shown, another must not be shown less."""
    shell = await shell_at(watched.url, threads=False, near=False)
    threads = Shell(shell.cache, threads=True)
    await shell.set_many(dict.fromkeys(names(10), 1))
    for each in (shell, threads):
        await until_replicas_answer(each, [watched.primary], names(10))
    before = [reads(server) for server in watched.servers]
    for each in (shell, threads):
        await each.get_many(names(10))
    asked = sorted(reads(server) - count for server, count in zip(watched.servers, before, strict=True))
    assert asked == [0, 0, 40]


# -- nobody sees less than he has seen


@SHELLS
@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_what_others_write_may_be_read_late(threads: bool, near: bool, lagging: LaggingServers) -> None:
    shell = await shell_at(lagging.url, threads=threads, near=near)
    lagging.write("key", '"old"')
    await until_replicas_answer(shell, [lagging.primary], ["warm"])
    assert await shell.get("key") == "old", "the replica's: the primary was never asked, and will push nothing"
    lagging.hold()
    lagging.primary.command("SET", "app:key", '"new"')
    for _ in range(10):
        assert await shell.get("key") == "old"
    lagging.release()
    await until_read(lambda: shell.get("key"), "new")


@SHELLS
async def test_own_writes_are_never_undone(threads: bool, lagging: LaggingServers) -> None:
    shell = await shell_at(lagging.url, threads=threads, near=False)
    other = Shell(shell.cache, threads=not threads)
    await shell.set_many(dict.fromkeys(names(6), "old"))
    for each in (shell, other):
        await until_replicas_answer(each, [lagging.primary], names(6))
    lagging.hold()
    assert await shell.set("key0", "new")
    assert await shell.delete("key1")
    assert await shell.expire("key2", 7)
    assert await shell.get_or_set("key1", lambda: "loaded") == "loaded"
    for _ in range(20):  # more proofs are asked for meanwhile, and the replica cannot give one
        for each in (shell, other):
            assert await each.get("key0") == "new"
            assert await each.get("key1") == "loaded"
            assert await each.ttl("key2") <= 7
            assert await each.get("key3") == "old"
        await asyncio.sleep(0.01)
    assert lagging.replica.command("GET", "app:key0") != lagging.primary.command("GET", "app:key0")
    lagging.release()
    await until_replicas_answer(shell, [lagging.primary], names(6))
    assert await shell.get_many(names(3)) == {"key0": "new", "key1": "loaded", "key2": "old"}


@SHELLS
async def test_what_was_read_from_the_primary_is_not_taken_back(threads: bool, lagging: LaggingServers) -> None:
    shell = await shell_at(lagging.url, threads=threads, near=False)
    other = Shell(shell.cache, threads=not threads)
    lagging.write("key", '"old"')
    for each in (shell, other):
        await until_replicas_answer(each, [lagging.primary], ["warm"])
    lagging.hold()
    lagging.primary.command("SET", "app:key", '"new"')
    assert await shell.get("key") == "old"
    # Who is to load asks the primary, where the value is another one by now.
    assert await shell.refresh("key", lambda: "newer") == "newer"
    lagging.primary.command("SET", "app:key", '"newest"')
    await until_read(lambda: shell.get("key"), "newest")
    for _ in range(20):
        for each in (shell, other):
            assert await each.get("key") == "newest"
        await asyncio.sleep(0.005)


@SHELLS
async def test_what_the_primary_has_pushed_is_not_read_from_a_replica_without_it(
    threads: bool, lagging: LaggingServers
) -> None:
    shell = await shell_at(lagging.url, threads=threads)
    await shell.set("key", "old")
    assert await shell.get("key") == "old", "kept near from the primary, which tracks it"
    await until_replicas_answer(shell, [lagging.primary], ["warm", "warmer"])
    tier, site = shell.cache._core.tier, shell.cache._core.namespace
    assert tier.find(b"app:key", site) is not None
    lagging.hold()
    lagging.primary.command("SET", "app:key", '"new"')
    await eventually(lambda: tier.find(b"app:key", site) is None, "the push")
    assert await shell.get("key") == "new"


@SHELLS
async def test_what_the_replica_has_not_got_yet_is_not_loaded_again(threads: bool, lagging: LaggingServers) -> None:
    shell = await shell_at(lagging.url, threads=threads, near=False)
    await until_replicas_answer(shell, [lagging.primary], ["warm"])
    lagging.hold()
    lagging.primary.command("SET", "app:key", '"filled"')
    assert await shell.get("key") is None
    assert await shell.get_or_set("key", lambda: "loaded") == "filled"
    assert await shell.get("key") == "filled"


@SHELLS
async def test_invalidations_hold_at_once_however_much_the_replica_lags(threads: bool, lagging: LaggingServers) -> None:
    shell = await shell_at(lagging.url, threads=threads, near=False)
    for name in names(6):
        await shell.cache.set(name, name, tags=["even" if int(name[3:]) % 2 else "odd"])
    await until_replicas_answer(shell, [lagging.primary], names(6))
    assert len(await shell.get_many(names(6))) == 6
    lagging.hold()
    asked = reads(lagging.replica)
    assert await shell.invalidate_tags("even")
    assert await shell.get_many(names(6)) == {name: name for name in names(6)[::2]}
    assert reads(lagging.replica) > asked, "it is the replica's old value that is not valid"
    version = int(lagging.primary.command("GET", "app~version").split()[0])
    lagging.primary.command("SET", "app~version", version + 1)  # what another process's clear() does first
    await until_read(lambda: shell.get_many(names(6)), {})
    assert await shell.clear() is not None
    assert await shell.get_many(names(6)) == {}


@SHELLS
async def test_what_is_cleared_here_is_gone_though_json_has_no_version(threads: bool, lagging: LaggingServers) -> None:
    cache = AsyncCache(60, "app", wire="json")
    await cache.initialize(settings(lagging.url, read_from="prefer_replica"))
    shell = Shell(cache, threads=threads)
    await shell.set_many(dict.fromkeys(names(6), 1))
    await until_replicas_answer(shell, [lagging.primary], names(6))
    assert len(await shell.get_many(names(6))) == 6
    lagging.hold()
    await shell.clear()
    assert await shell.get_many(names(6)) == {}


# -- when a replica fails


@SHELLS
@pytest.mark.parametrize("end", ["kill", "pause"])
async def test_the_primary_is_read_while_the_replica_is_away(threads: bool, end: str, lagging: LaggingServers) -> None:
    shell = await shell_at(lagging.url, threads=threads, near=False, command_timeout=2.0)
    values = dict.fromkeys(names(6), 1)
    await shell.set_many(values)
    await until_replicas_answer(shell, [lagging.primary], names(6))
    getattr(lagging.replica, end)()
    for _ in range(5):
        assert await shell.get_many(names(6)) == values
        assert await shell.get("key1") == 1
    assert status().connected
    assert status().breaker == "closed"
    assert shell.cache.get_stats().errors == 0
    if end == "kill":
        lagging.replica.start()
    else:
        lagging.replica.resume()
    await until_replicas_answer(shell, [lagging.primary], names(6))
    assert await shell.get_many(names(6)) == values


@SHELLS
async def test_a_replica_that_lost_its_primary_is_not_read(threads: bool, caplog: pytest.LogCaptureFixture) -> None:
    with LaggingServers("--replica-serve-stale-data", "yes") as lagging:
        shell = await shell_at(lagging.url, threads=threads, near=False)
        lagging.write("key", '"old"')
        await until_replicas_answer(shell, [lagging.primary], ["warm"])
        lagging.hold()
        lagging.primary.command("SET", "app:key", '"new"')
        assert await shell.get("key") == "old"
        lagging.replica.command("CLIENT", "KILL", "TYPE", "PRIMARY")
        await until_read(lambda: shell.get("key"), "new")
        assert lagging.replica.command("GET", "app:key") == b'"old"'
        assert "is not read any more: it has no link to its primary" in caplog.text


@SHELLS
async def test_a_replica_that_refuses_is_passed_over(threads: bool) -> None:
    with LaggingServers("--replica-serve-stale-data", "no") as lagging:
        shell = await shell_at(lagging.url, threads=threads, near=False)
        await shell.set_many(dict.fromkeys(names(6), 1))
        await until_replicas_answer(shell, [lagging.primary], names(6))
        lagging.hold()
        lagging.replica.command("CLIENT", "KILL", "TYPE", "PRIMARY")
        wait_until(lambda: b"master_link_status:down" in lagging.replica.command("INFO"), "the link to be down")
        assert await shell.get_many(names(6)) == dict.fromkeys(names(6), 1), "MASTERDOWN is nobody's answer"
        assert shell.cache.get_stats().errors == 0
        lagging.release()
        await until_replicas_answer(shell, [lagging.primary], names(6))


async def test_whoever_may_not_ask_how_far_a_replica_is_reads_the_primary(lagging: LaggingServers) -> None:
    lagging.primary.command("ACL", "SETUSER", "somebody", "on", ">sesame", "~*", "&*", "+@all", "-info")
    lagging.replica.command("ACL", "SETUSER", "somebody", "on", ">sesame", "~*", "&*", "+@all", "-info")
    url = lagging.url.replace("//", "//somebody:sesame@")
    shell = await shell_at(url, threads=False, near=False)
    await shell.set("key", 1)
    asked = reads(lagging.replica)
    for _ in range(10):
        assert await shell.get("key") == 1
        await asyncio.sleep(0.03)
    assert reads(lagging.replica) == asked
    assert "info" in str(lagging.primary.command("ACL", "LOG")), "it was asked for"


# -- failovers


@SHELLS
async def test_a_failover_of_a_cluster_under_load(threads: bool) -> None:
    with ClusterServers(node_timeout=1000) as servers:
        shell = await shell_at(servers.url, threads=threads)
        slot = slot_of(stored("a-1"))
        first = servers.owner(slot)

        async def fail_over(load: Load) -> None:
            refused = load.refused
            first.kill()
            await eventually(lambda: load.refused > refused, "the load to notice")
            await asyncio.to_thread(servers.wait_for_owner, slot, first)
            await eventually(lambda: load.good > 300, "the load to be served by all again", seconds=20)
            first.start()

        await under_load(shell, fail_over)
        await until_replicas_answer(shell, servers.primaries, ["a-1", "b-2", "c-3"])


@SHELLS
async def test_a_failover_of_a_sentinel_setup_under_load(threads: bool) -> None:
    with WatchedServers() as servers:
        shell = await shell_at(servers.url, threads=threads)
        first = servers.primary

        async def fail_over(load: Load) -> None:
            refused = load.refused
            first.kill()
            await eventually(lambda: load.refused > refused, "the load to notice")
            second = await asyncio.to_thread(servers.wait_for_primary, first)
            await eventually(lambda: load.good > 300, "the load to run on", seconds=20)
            assert (status().host, status().port) == (second.host, second.port)

        await under_load(shell, fail_over)
        await until_replicas_answer(shell, [servers.primary], ["a-1", "b-2", "c-3"])


@SHELLS
@pytest.mark.parametrize("how", ["move", "move_at_once"])
async def test_a_slot_that_moves(how: str, threads: bool, cluster: ClusterServers) -> None:
    shell = await shell_at(cluster.url, threads=threads)
    await shell.set_many(dict.fromkeys(names(10), "old"))
    await until_replicas_answer(shell, cluster.primaries, names(10))
    slot = slot_of(stored("key5"))
    source = cluster.owner(slot)
    target = next(server for server in cluster.primaries if server is not source)
    await asyncio.to_thread(getattr(cluster, how), slot, target)
    target.command("SET", stored("key5"), '"new"')
    await until_read(lambda: shell.get("key5"), "new")
    assert await shell.set("key5", "own")
    for _ in range(10):
        assert await shell.get("key5") == "own"
    await until_replicas_answer(shell, cluster.primaries, names(10))


# -- life


async def test_nothing_is_left_after_the_end(servers: Any) -> None:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    shell = await shell_at(servers.url, threads=False, near=False)
    await shell.set_many(dict.fromkeys(names(20), 1))
    for each in (shell, Shell(shell.cache, threads=True)):
        await until_replicas_answer(each, primaries_of(servers), names(20))
    await get_multi_redis_connection_manager().disconnect_all()
    assert asyncio.all_tasks() <= tasks
    wait_until(
        lambda: not [t for t in set(threading.enumerate()) - threads if t.name.startswith("nearcache")], "all to end"
    )
    for server in servers.servers:
        wait_until(lambda server=server: b"nearcache" not in server.command("CLIENT", "LIST"), "all to have gone")


def test_the_near_tier_switched_off(watched: WatchedServers) -> None:
    cache = Cache(60, "app")
    cache.initialize(settings(watched.url, read_from="prefer_replica", near_enabled=False))
    cache.clear()
    assert cache.set_many(dict.fromkeys(names(10), 1))
    for _ in range(20):
        assert cache.get_many(names(10)) == dict.fromkeys(names(10), 1)
    assert cache.clear() == 10
    assert cache.get_many(names(10)) == {}
