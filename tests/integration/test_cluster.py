"""A cluster: every operation on it, slots that move, primaries that die, and what the near tier keeps meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from itertools import count

import pytest

from nearcache import (
    AsyncCache,
    Cache,
    ConnectionFailed,
    NotInitialized,
    ServerError,
    get_multi_redis_connection_manager,
)
from nearcache.transport.cluster_lane import ClusterLane
from nearcache.transport.cluster_threads import ClusterThreads
from nearcache.transport.slots import SLOTS, Node, SlotMap, slot_of
from nearcache.transport.topology import Topology

from ..lanes import eventually, until_read
from ..servers import Client, ClusterServers, ValkeyServer, wait_until
from ..shells import SHELLS, Load, Shell, cache_at, last_error, names, settings, status, stored, under_load

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("closing")]


@pytest.fixture(scope="module")
def shared() -> Iterator[ClusterServers]:
    with ClusterServers() as servers:
        yield servers


@pytest.fixture
def cluster(shared: ClusterServers) -> ClusterServers:
    """An empty cluster, whose nodes all stay."""
    for server in shared.primaries:
        server.command("FLUSHALL")
    return shared


@pytest.fixture
def fresh() -> Iterator[ClusterServers]:
    """A cluster of the test's own: to kill nodes, which are replaced after a second."""
    with ClusterServers(node_timeout=1000) as servers:
        yield servers


@pytest.fixture(params=["async", "sync", "async without near", "sync without near"])
async def shell(request: pytest.FixtureRequest, cluster: ClusterServers) -> Shell:
    cache = AsyncCache(60, "app", strict=True)
    await cache.initialize(settings(cluster.url, near_enabled="without" not in request.param))
    return Shell(cache, threads="sync" in request.param.split())


# -- operations


async def test_values_are_spread_and_found(shell: Shell, cluster: ClusterServers) -> None:
    values = {name: number for number, name in enumerate(names(60))}
    assert await shell.set_many(values)
    assert all(len(server.command("KEYS", "cache:app:*")) > 5 for server in cluster.primaries)
    assert await shell.get_many([*values, "nothing"]) == values
    assert await shell.get("key7") == 7
    assert await shell.ttl("key8") == 60
    assert await shell.expire("key8", 30)
    assert await shell.ttl("key8") == 30
    assert await shell.delete_many([*names(10), "nothing"]) == 10
    assert await shell.get_many(names(12)) == {"key10": 10, "key11": 11}
    assert await shell.get_or_set("key0", lambda: "loaded") == "loaded"
    assert await shell.get_or_set_many(names(11), lambda keys: dict.fromkeys(keys, "more")) == {
        "key0": "loaded",
        **dict.fromkeys(names(10)[1:], "more"),
        "key10": 10,
    }


async def test_clear_reaches_every_node(shell: Shell, cluster: ClusterServers) -> None:
    await shell.set_many(dict.fromkeys(names(700), 1))
    await shell.cache.set_many({"other": 2}, namespace="other")
    assert await shell.clear() == 700
    assert [server.command("KEYS", "cache:app:*") for server in cluster.primaries] == [[], [], []]
    assert await shell.get_many(names(700)) == {}
    assert await shell.cache.get("other", namespace="other") == 2
    assert await shell.set("key1", "new")
    assert await shell.get("key1") == "new"


async def test_tags(shell: Shell) -> None:
    for name in names(20):
        await shell.cache.set(name, name, tags=["even" if int(name[3:]) % 2 else "odd"])
    assert len(await shell.get_many(names(20))) == 20
    assert await shell.invalidate_tags("even")
    assert await shell.get_many(names(20)) == {name: name for name in names(20)[::2]}


async def test_clients_keep_apart_though_there_is_one_database(cluster: ClusterServers) -> None:
    cache = await cache_at(cluster.url)
    queue = AsyncCache(60, "app", client_type="queue")
    await queue.initialize(settings(cluster.url))
    await cache.set("key", "cache's")
    await queue.set("key", "queue's")
    assert (await cache.get("key"), await queue.get("key")) == ("cache's", "queue's")
    assert await queue.clear() == 1
    assert (await cache.get("key"), await queue.get("key")) == ("cache's", None)
    assert [status.db for status in get_multi_redis_connection_manager().get_all_connection_status().values()] == [0, 0]


async def test_the_driver(cluster: ClusterServers) -> None:
    await cache_at(cluster.url)
    driver = get_multi_redis_connection_manager().get_client()
    for name in names(9):
        assert await driver.set(name, "1")
    assert cluster.owner(slot_of("key3")).command("GET", "key3") == b"1"


async def test_any_node_is_enough_to_find_the_others(cluster: ClusterServers) -> None:
    last = cluster.servers[-1]
    await cache_at(f"redis+cluster://127.0.0.1:1,127.0.0.1:{last.port}", strict=True)
    await get_multi_redis_connection_manager().disconnect_all()
    manager = get_multi_redis_connection_manager()
    with pytest.raises(ConnectionFailed, match=r"no node of 127\.0\.0\.1:1 knows the cluster's slots"):
        await manager.initialize("cache", settings("redis+cluster://127.0.0.1:1"), strict=True)
    cache = await cache_at("redis+cluster://127.0.0.1:1")
    assert not await cache.set("key", 1)
    assert await cache.get_or_set("key", lambda: 2) == 2
    assert cache.sync().get_or_set("key", lambda: 2) == 2


async def test_a_server_that_is_no_cluster_is_told_apart(server: ValkeyServer) -> None:
    manager = get_multi_redis_connection_manager()
    with pytest.raises(ConnectionFailed, match="knows the cluster's slots"):
        await manager.initialize("cache", settings(f"redis+cluster://{server.host}:{server.port}"), strict=True)


async def test_passwords() -> None:
    with ClusterServers(password="sesame") as servers:
        cache = await cache_at(servers.url, strict=True)
        assert await cache.set_many(dict.fromkeys(names(20), 1))
        assert len(await asyncio.to_thread(cache.sync().get_many, names(20))) == 20
        assert await get_multi_redis_connection_manager().get_client().ping()


# -- the near tier


async def test_what_another_writes_on_any_node_is_heard(shell: Shell, cluster: ClusterServers) -> None:
    await shell.set_many(dict.fromkeys(names(20), "old"))
    assert await shell.get_many(names(20)) == dict.fromkeys(names(20), "old")
    for name in names(20):
        cluster.owner(slot_of(stored(name))).command("SET", stored(name), '"new"')
    # No command goes to these nodes meanwhile: near values are replaced because it is pushed.
    await until_read(lambda: shell.get_many(names(20)), dict.fromkeys(names(20), "new"))


@pytest.mark.parametrize("near_enabled", [True, False])
async def test_what_is_cleared_from_elsewhere_is_gone_here(cluster: ClusterServers, near_enabled: bool) -> None:
    cache = await cache_at(cluster.url, near_enabled=near_enabled)
    threads = cache.sync()
    for clears, reads in ((cache.clear, threads), (threads.clear, cache.sync())):
        await cache.set_many(dict.fromkeys(names(20), 1))
        assert len(await asyncio.to_thread(reads.get_many, names(20))) == 20
        assert await (clears() if asyncio.iscoroutinefunction(clears) else asyncio.to_thread(clears)) == 20
        await eventually(lambda reads=reads: reads.get_many(names(20)) == {}, "the push to be heard")
        assert await cache.get_many(names(20)) == {}


def link_of(cache: AsyncCache) -> ClusterLane:
    link = cache._core.client.link()
    assert isinstance(link, ClusterLane)
    return link


async def test_a_push_between_the_parts_of_a_batch_keeps_what_it_revokes_from_being_kept(
    cluster: ClusterServers,
) -> None:
    cache = await cache_at(cluster.url, command_timeout=10)
    await cache.set("warm", 1)
    link = link_of(cache)
    counter_owner = cluster.owner(slot_of(b"cache:app~version"))
    name = next(n for n in names(50) if cluster.owner(slot_of(stored(n))) is not counter_owner)
    owner = cluster.owner(slot_of(stored(name)))
    owner.command("SET", stored(name), '"old"')
    link.counters.clear()  # so that the counter is read along
    counter_owner.pause()
    try:
        wire = link.lane((owner.host, owner.port))._wire
        assert wire is not None
        heard = wire.heard
        reading = asyncio.create_task(cache.get(name))
        await eventually(lambda: wire.heard > heard and not wire.waiting, "the key's node to have answered")
        heard = wire.heard
        owner.command("SET", stored(name), '"new"')
        await eventually(lambda: wire.heard > heard, "the push")
        assert not reading.done()
    finally:
        counter_owner.resume()
    assert await reading == "old"
    assert await cache.get(name) == "new"


async def test_when_a_node_is_lost_nothing_stays_near(cluster: ClusterServers) -> None:
    cache = await cache_at(cluster.url)
    await cache.set_many(dict.fromkeys(names(30), 1))
    assert len(await cache.get_many(names(30))) == 30
    tier = cache._core.tier
    for server in cluster.primaries:
        connects = link_of(cache).lane((server.host, server.port)).connects
        server.command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
        lane = link_of(cache).lane((server.host, server.port))
        await eventually(lambda lane=lane, connects=connects: lane.connects > connects, "the lane to be back")
        assert all(tier.find(stored(name), cache._core.namespace) is None for name in names(30))
        assert len(await cache.get_many(names(30))) == 30
        assert tier.find(stored("key1"), cache._core.namespace) is not None


# -- slots that move


def slot_and_target(cluster: ClusterServers, key: str) -> tuple[int, ValkeyServer, ValkeyServer]:
    """A key's slot, who has it, and another primary."""
    slot = slot_of(stored(key))
    source = cluster.owner(slot)
    return slot, source, next(server for server in cluster.primaries if server is not source)


async def test_a_slot_that_has_moved_is_followed(shell: Shell, cluster: ClusterServers) -> None:
    await shell.set_many(dict.fromkeys(names(10), "old"))
    slot, _, target = slot_and_target(cluster, "key1")
    await asyncio.to_thread(cluster.move, slot, target)
    assert await shell.get_many(names(10)) == dict.fromkeys(names(10), "old")
    assert await shell.set("key1", "new")
    assert await shell.get("key1") == "new"
    assert target.command("EXISTS", stored("key1")) == 1
    target.command("SET", stored("key1"), '"newest"')
    await until_read(lambda: shell.get("key1"), "newest")  # near: what the new owner pushes counts


@pytest.mark.parametrize("how", ["move", "move_at_once"])
async def test_what_is_near_is_revoked_when_its_slot_moves(how: str, shell: Shell, cluster: ClusterServers) -> None:
    await shell.set("key5", "old")
    assert await shell.get("key5") == "old"
    slot, _, target = slot_and_target(cluster, "key5")
    await asyncio.to_thread(getattr(cluster, how), slot, target)
    target.command("SET", stored("key5"), '"new"')
    # Only near reads: no node is asked anything that it could answer with MOVED.
    await until_read(lambda: shell.get("key5"), "new")


@pytest.mark.parametrize("how", ["move", "move_at_once"])
async def test_a_namespace_can_be_cleared_after_its_counter_has_moved(
    how: str, shell: Shell, cluster: ClusterServers
) -> None:
    await shell.set_many(dict.fromkeys(names(20), 1))
    assert len(await shell.get_many(names(20))) == 20
    slot = slot_of(b"cache:app~version")
    source = cluster.owner(slot)
    target = next(server for server in cluster.primaries if server is not source)
    await asyncio.to_thread(getattr(cluster, how), slot, target)
    before = target.command("GET", "cache:app~version")
    target.command("SET", "cache:app~version", int(before.split()[0]) + 1)  # what another process's clear() does
    await until_read(lambda: shell.get_many(names(20)), {})
    assert await shell.set("key1", 2)
    assert await shell.get("key1") == 2


async def test_a_slot_that_is_moving_is_asked_for_in_both_places(shell: Shell, cluster: ClusterServers) -> None:
    slot, source, target = slot_and_target(cluster, "key2")
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.command("CLUSTER", "MYID"))
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.command("CLUSTER", "MYID"))
    try:
        with Client((target.host, target.port)) as other:
            # The source has nothing of it any more, so everything is asked of the target.
            for value in ("there", "later"):
                other.command("ASKING")
                other.command("SET", stored("key2"), f'"{value}"')
                await until_read(lambda: shell.get("key2"), value)  # near: what the target pushes counts
        assert await shell.get_many(["key2", "key4"]) == {"key2": "later"}
    finally:
        for server in (source, target):
            server.command("CLUSTER", "SETSLOT", slot, "STABLE")


async def test_keys_of_one_command_in_two_places_are_a_failure_of_the_server(cluster: ClusterServers) -> None:
    cache = await cache_at(cluster.url)
    strict = await cache_at(cluster.url, strict=True)
    slot, source, target = slot_and_target(cluster, "key3")
    source.command("SET", stored("key3"), '"here"')  # its lease is nowhere
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.command("CLUSTER", "MYID"))
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.command("CLUSTER", "MYID"))
    try:
        assert not await cache.set("key3", 1)
        with pytest.raises(ServerError, match="TRYAGAIN"):
            await strict.set("key3", 1)
        assert await cache.get_or_set("key3", lambda: 2) == 2, "what could not be replaced is not trusted"
        assert await cache.refresh("key3", lambda: 2) == 2
    finally:
        for server in (source, target):
            server.command("CLUSTER", "SETSLOT", slot, "STABLE")


@SHELLS
async def test_a_command_waits_until_its_keys_are_in_one_place(
    threads: bool, cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearcache.transport.slots._PAUSE", 1.0)
    shell = Shell(await cache_at(cluster.url, strict=True), threads=threads)
    slot, source, target = slot_and_target(cluster, "key3")
    assert await shell.set("key3", 0)
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.command("CLUSTER", "MYID"))
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.command("CLUSTER", "MYID"))
    asking = asyncio.create_task(shell.set("key3", 1))
    await eventually(lambda: b"errorstat_TRYAGAIN" in source.command("INFO", "errorstats"), "it to be refused")
    for server in (source, target):
        server.command("CLUSTER", "SETSLOT", slot, "STABLE")
    assert await asking
    assert await shell.get("key3") == 1
    source.command("CONFIG", "RESETSTAT")


# -- load


@pytest.mark.parametrize("end", ["kill", "pause"])
@SHELLS
async def test_a_failover_under_load(threads: bool, end: str, fresh: ClusterServers) -> None:
    shell = Shell(await cache_at(fresh.url), threads=threads)
    slot, first, _ = slot_and_target(fresh, "a-1")

    async def fail_over(load: Load) -> None:
        refused = load.refused
        getattr(first, end)()
        await eventually(lambda: load.refused > refused, "the load to notice")
        await asyncio.to_thread(fresh.wait_for_owner, slot, first)
        # A quarter of a second at most between two questions for the map: soon. The bound is for busy machines.
        await eventually(lambda: load.good > 300, "the load to be served by all again", seconds=20)

    await under_load(shell, fail_over)
    owner = fresh.owner(slot)
    assert await shell.set("a-1", "mine")
    assert await shell.get("a-1") == "mine"
    owner.command("SET", stored("a-1"), '"theirs"')
    await until_read(lambda: shell.get("a-1"), "theirs")


@SHELLS
async def test_slots_move_under_load(threads: bool, cluster: ClusterServers) -> None:
    shell = Shell(await cache_at(cluster.url), threads=threads)

    async def move(load: Load) -> None:
        for name in ("a-1", "b-2", "c-3"):
            slot, source, target = slot_and_target(cluster, name)
            await asyncio.to_thread(cluster.move, slot, target)
            wait_until(lambda slot=slot, source=source: cluster.owner(slot) is not source, "all to know")
            await eventually(lambda good=load.good: load.good > 200, "the load to run on")

    await under_load(shell, move)


# -- life


async def test_a_frozen_node_costs_its_own_keys_a_deadline(cluster: ClusterServers) -> None:
    cache = await cache_at(cluster.url, command_timeout=0.1)
    await cache.set_many(dict.fromkeys(names(20), 1))
    tier = cache._core.tier
    frozen = cluster.owner(slot_of(stored("key1")))
    others = [name for name in names(20) if cluster.owner(slot_of(stored(name))) is not frozen]
    assert others
    frozen.pause()
    try:
        tier.drop([stored(name) for name in names(20)])
        assert await cache.get("key1") is None
        assert await cache.get_or_set("key1", lambda: "loaded") == "loaded"
    finally:
        frozen.resume()
    assert cache.get_stats().errors
    await eventually(lambda: status().connected and status().breaker != "open", "the node to be back")
    await until_read(lambda: cache.get("key1"), 1)  # late replies reach nobody


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_a_frozen_node_keeps_a_threads_batch_from_no_other_node(first: bool, cluster: ClusterServers) -> None:
    cache = AsyncCache(60, "app", near=False)
    await cache.initialize(settings(cluster.url, command_timeout=30))
    shell = Shell(cache, threads=True)
    await shell.set_many(dict.fromkeys(names(20), "old"))
    for frozen in cluster.primaries:
        here = next(name for name in names(20) if cluster.owner(slot_of(stored(name))) is frozen)
        there = next(name for name in names(20) if cluster.owner(slot_of(stored(name))) is not frozen)
        other = cluster.owner(slot_of(stored(there)))
        before = other.command("GET", stored(there))
        frozen.pause()
        try:
            both = (here, there) if first else (there, here)
            writing = asyncio.create_task(shell.set_many(dict.fromkeys(both, "new")))
            await eventually(lambda: other.command("GET", stored(there)) != before, "the other node to have it")  # noqa: B023
            # Nor is the lead of the other's lane left with a thread that waits elsewhere.
            async with asyncio.timeout(15):
                assert await asyncio.gather(*(shell.get(there) for _ in range(4))) == ["new"] * 4
            assert not writing.done()
        finally:
            frozen.resume()
        assert await writing


async def test_a_lost_node_is_named(cluster: ClusterServers, caplog: pytest.LogCaptureFixture) -> None:
    await cache_at(cluster.url)
    server = cluster.primaries[0]
    server.command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
    await eventually(lambda: status().last_error, "the loss to be noticed")
    assert status().last_error.startswith(f"{server.host}:{server.port}: the connection was lost")
    await eventually(lambda: status().connected, "the lane to be back")
    assert [record.message for record in caplog.records if "connection failed" in record.message]


async def test_nothing_is_left_after_the_end(cluster: ClusterServers) -> None:
    tasks = asyncio.all_tasks()
    threads = set(threading.enumerate())
    cache = await cache_at(cluster.url)
    assert await cache.set_many(dict.fromkeys(names(20), 1))
    assert len(await asyncio.to_thread(cache.sync().get_many, names(20))) == 20
    await get_multi_redis_connection_manager().disconnect_all()
    assert asyncio.all_tasks() <= tasks
    left = [t for t in set(threading.enumerate()) - threads if t.name.startswith("nearcache")]
    assert left == []
    for server in cluster.primaries:
        wait_until(lambda server=server: b"nearcache" not in server.command("CLIENT", "LIST"), "all to have gone")
    with pytest.raises(NotInitialized):
        await cache.get("key1")


def test_several_loops_and_threads_share_what_is_near(cluster: ClusterServers) -> None:
    cache = AsyncCache(60, "app")
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(cache.initialize(settings(cluster.url)))
        for number, name in enumerate(names(10)):
            assert (first, second)[number % 2].run(cache.set(name, number))
        for run in (first.run, second.run):
            assert run(cache.get_many(names(10))) == {name: number for number, name in enumerate(names(10))}
        assert second.run(cache.clear()) == 10
        assert first.run(cache.get_many(names(10))) == {}
        assert cache.sync().get_many(names(10)) == {}
        second.run(get_multi_redis_connection_manager().disconnect_all())


def test_a_forked_child_has_connections_of_its_own(cluster: ClusterServers) -> None:
    cache = Cache(60, "app")
    cache.initialize(settings(cluster.url))
    assert cache.set_many(dict.fromkeys(names(10), 1))
    child = os.fork()
    if not child:
        status = 1
        try:
            good = len(cache.get_many(names(10))) == 10 and cache.set_many(dict.fromkeys(names(5), 2))
            status = 0 if good else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    wait_until(lambda: cache.get_many(names(10)) == {n: 2 if n in names(5) else 1 for n in names(10)}, "the pushes")
    assert cache.set_many(dict.fromkeys(names(10), 3))


def test_threads_go_on_asking_for_the_map_whatever_goes_wrong(
    cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, attempts = Topology.find_slots_in_thread, count(1)

    def unlucky(topology: Topology, nodes: Sequence[Node]) -> SlotMap:
        if next(attempts) in (1, 2):  # the caller's own attempt, and one in the background
            raise RuntimeError("nobody thought of this")
        return find(topology, nodes)

    monkeypatch.setattr(Topology, "find_slots_in_thread", unlucky)
    cache = Cache(60, "app")
    cache.initialize(settings(cluster.url))
    assert last_error() == "nobody thought of this"
    wait_until(lambda: cache.set("key", 1), "the third attempt")
    assert next(attempts) == 4


async def test_what_waited_for_a_node_that_was_replaced_fails_as_the_server_does(cluster: ClusterServers) -> None:
    cache = await cache_at(cluster.url, strict=True, command_timeout=0.2)
    link, frozen = link_of(cache), cluster.owner(slot_of(stored("key1")))
    lane, node = link.lane((frozen.host, frozen.port)), (frozen.host, frozen.port)
    other = next(server for server in cluster.primaries if server is not frozen)
    slots = SlotMap([[0, SLOTS - 1, [other.host.encode(), other.port]]], node)
    frozen.pause()
    try:
        assert lane._wire is not None
        lane._wire.abort(ConnectionFailed("cut"))
        asking = asyncio.create_task(cache.get("key1"))  # waits for a connection
        await eventually(lambda: lane._backlog, "it to wait")
        link._came_up(slots)
        with pytest.raises(ServerError, match="another node has taken the place"):
            await asking
    finally:
        frozen.resume()


def test_a_thread_that_meets_a_node_that_was_replaced_is_told_as_if_it_was_down(cluster: ClusterServers) -> None:
    cache = Cache(60, "app", strict=True)
    cache.initialize(settings(cluster.url))
    link, owner = cache._core.client.thread_link(), cluster.owner(slot_of(stored("key1")))
    assert isinstance(link, ClusterThreads)
    link._lane((owner.host, owner.port)).close()
    with pytest.raises(ServerError, match="another node has taken the place"):
        cache.get("key1")
