"""Writes that a server has acknowledged and that are lost with it: nobody reads afterwards what they had ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from itertools import count
from typing import Any, NamedTuple, Self

import pytest

from nearcache import AsyncCache, Settings
from nearcache.client import Client
from nearcache.core.keys import Namespace
from nearcache.transport.slots import slot_of

from ..lanes import eventually
from ..servers import ClusterServers, ValkeyServer, WatchedServers, wait_until
from ..shells import SHELLS, Caller

pytestmark = pytest.mark.timeout(120)

KEYS = ("set", "many", "delete", "expire", "through", "refresh", "tagged", "softly")


class Names:
    """Keys, tags and namespaces whose stored keys and counters are all on the server that is going to be lost."""

    def __init__(self, prefix: str, lost: Callable[[bytes], bool]) -> None:
        def choose(stored: Callable[[str], bytes]) -> str:
            return next(name for name in (f"n{number}" for number in numbers) if lost(stored(name)))

        numbers = count()
        site = Namespace("app", prefix)
        self.keys = {what: choose(site.key) for what in KEYS}
        self.again = choose(site.key)
        self.hard, self.soft = (choose(lambda tag: site.tag_counter(site.tag(tag))) for _ in "12")
        self.cleared, self.json = (choose(lambda name: Namespace(name, prefix).counter) for _ in "12")
        self.of_json = choose(Namespace(self.json, prefix).key)
        tags = [site.tag_counter(site.tag(tag)) for tag in (self.hard, self.soft)]
        self.stored = [
            *(site.key(key) for key in self.keys.values()),
            *tags,
            Namespace(self.cleared, prefix).counter,
            Namespace(self.json, prefix).key(self.of_json),
        ]
        self.stay = [site.key(self.keys[what]) for what in ("expire", "tagged", "softly")]


class Process:
    """What another process would have: a client of its own, and caches on it."""

    def __init__(self, settings: Settings, names: Names, *, threads: bool = False) -> None:
        self.names = names
        self.client = Client("cache", settings.endpoint("cache"), settings)
        namespaces = {"app": "native", names.cleared: "native", names.json: "json"}
        self.caches: list[Caller] = []
        for namespace, wire in namespaces.items():
            cache = AsyncCache(3600, namespace, wire=wire)  # type: ignore[arg-type]
            cache._core.bind(self.client)
            self.caches.append(Caller(cache, threads=threads))
        self.app, self.cleared, self.json = self.caches

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.client.aclose()

    async def begin(self) -> None:
        """Set what is going to be old."""
        names, app = self.names, self.app.cache
        for what, key in names.keys.items():
            tags = {"tagged": [names.hard], "softly": [names.soft]}.get(what, [])
            assert await app.set(key, "old", tags=tags, grace=3600)
        assert await app.invalidate_tags(names.hard)  # so that there is a counter
        assert await app.expire_tags(names.soft)
        for what, tag in (("tagged", names.hard), ("softly", names.soft)):
            assert await app.set(names.keys[what], "old", tags=[tag], grace=3600)
        assert await self.cleared.set("key", "old")
        assert await self.json.set(names.of_json, "old")

    async def write(self) -> None:
        """End all of that; every write is acknowledged."""
        app, names, keys = self.app, self.names, self.names.keys
        assert await app.set(keys["set"], "new") is True
        assert await app.set_many({keys["many"]: "new"}) is True
        assert await app.delete(keys["delete"]) is True
        assert await app.expire(keys["expire"], 1000) is True
        assert await app.write_through(keys["through"], app.make(lambda: "new")) == "new"
        assert await app.refresh(keys["refresh"], app.make(lambda: "new")) == "new"
        assert await app.invalidate_tags(names.hard) is True
        assert await app.expire_tags(names.soft) is True
        assert await self.cleared.clear() == 1
        assert await self.json.clear() == 1
        assert not self.client.status().owed

    async def read(self) -> dict[str, Any]:
        found = {what: await self.app.get(key) for what, key in self.names.keys.items()}
        return found | {
            "cleared": await self.cleared.get("key"),
            "json": await self.json.get(self.names.of_json),
        }

    async def reads_old(self) -> list[str]:
        """What is read that was ended. That of ``expire`` was not, but may be."""
        return [what for what, value in (await self.read()).items() if value == "old" and what != "expire"]


class Place(NamedTuple):
    """Servers, one of which is going to be lost with what it has acknowledged last.

    Attributes:
        primary: that one.
        replicas: who is told of its writes until then.
        part: from now on nobody is.
        lose: it is lost; returns the server that took its place.
        has: whether a stored key is on it.
        prefix: of every key.
    """

    url: str
    primary: ValkeyServer
    replicas: list[ValkeyServer]
    part: Callable[[], None]
    lose: Callable[[], ValkeyServer]
    has: Callable[[bytes], bool] = lambda _: True
    prefix: str = ""

    def replicated(self) -> None:
        wait_until(lambda: self.primary.command("WAIT", len(self.replicas), 0) == len(self.replicas), "the replicas")


@contextmanager
def watched() -> Iterator[Place]:
    """Killed, and replaced by sentinels."""
    with WatchedServers() as servers:
        first = servers.primary

        def lose() -> ValkeyServer:
            servers.kill_primary()
            return servers.wait_for_primary(first)

        yield Place(servers.url, first, servers.servers[1:], first.stop_replicating, lose)


@contextmanager
def clustered(how: str) -> Iterator[Place]:
    with ClusterServers(node_timeout=1000) as servers:
        first, replica = servers.servers[0], servers.servers[3]
        replica.command("READONLY")  # so that it can be asked what it has
        rows = first.command("CLUSTER", "SLOTS")
        start, end = next(row[:2] for row in rows if row[2][1] == first.port)

        def lose() -> ValkeyServer:
            if how == "killed":
                first.kill()
            else:  # the old one lives on, as a replica
                replica.command("CLUSTER", "FAILOVER", "TAKEOVER")
            return servers.wait_for_owner(start, first)

        def has(key: bytes) -> bool:
            return bool(start <= slot_of(key) <= end)

        yield Place(servers.url, first, [replica], first.stop_replicating, lose, has, "cache:")


@contextmanager
def restored() -> Iterator[Place]:
    """Started anew with what it had a while ago."""
    with ValkeyServer() as server:

        def lose() -> ValkeyServer:
            server.restart()
            return server

        yield Place(server.url, server, [], lambda: server.command("SAVE"), lose)


PLACES = {
    "sentinel": watched,
    "cluster, killed": partial(clustered, "killed"),
    "cluster, taken over": partial(clustered, "taken over"),
    "restored": restored,
}
CASES = [
    *(("sentinel", shell, near) for shell in ("async", "sync") for near in ("near", "far")),
    *(("restored", shell, near) for shell in ("async", "sync") for near in ("near", "far")),
    ("cluster, killed", "async", "near"),
    ("cluster, killed", "sync", "far"),
    ("cluster, taken over", "async", "far"),
    ("cluster, taken over", "sync", "near"),
]


@pytest.mark.parametrize(("where", "shell", "near"), CASES, ids=[", ".join(case) for case in CASES])
async def test_what_was_ended_stays_so_though_that_is_lost(where: str, shell: str, near: str) -> None:
    with PLACES[where]() as place:
        names = Names(place.prefix, place.has)
        settings = Settings(redis_url=place.url, near_enabled=near == "near", _env_file=None)
        async with Process(settings, names) as before:
            await before.begin()
        async with (
            Process(settings, names, threads=shell == "sync") as writer,
            Process(settings, names) as reader,
        ):
            for process in (writer, reader):
                assert set((await process.read()).values()) == {"old"}
            place.replicated()
            old = {key: place.primary.command("GET", key) for key in names.stored}
            assert None not in old.values()
            place.part()
            await writer.write()
            assert await reader.reads_old() == []
            assert [key for key, value in old.items() if place.primary.command("GET", key) == value] == names.stay
            for replica in place.replicas:
                assert {key: replica.command("GET", key) for key in names.stored} == old

            losing = asyncio.create_task(asyncio.to_thread(place.lose))
            while not losing.done():
                assert set(await writer.reads_old()) <= {"softly"}, "which is served as stale while nobody answers"
                await asyncio.sleep(0.01)
            server = await losing
            await eventually(lambda: writer.client.status().connected, "a connection to the other server")
            async with asyncio.timeout(10):
                while not await reader.app.set(names.again, 1) or await reader.reads_old():
                    assert await writer.reads_old() == []
                    await asyncio.sleep(0.01)
            assert server.command("GET", names.stored[0]) is None
            assert await writer.reads_old() == await reader.reads_old() == []
            assert await writer.app.set(names.again, 2)


@SHELLS
async def test_a_process_that_asks_for_nothing_more_makes_it_good_as_well(*, threads: bool) -> None:
    with restored() as place:
        names = Names("", place.has)
        settings = Settings(redis_url=place.url, near_enabled=False, _env_file=None)
        async with Process(settings, names, threads=threads) as writer, Process(settings, names) as reader:
            place.primary.command("MSET", "app:key", '"old"', "app:others", '"old"')
            place.part()
            assert await writer.app.delete("key") is True
            place.primary.command("DEL", "app:others")
            place.lose()
            assert place.primary.command("EXISTS", "app:others") == 1, "for nobody tells it again"
            await eventually(lambda: not place.primary.command("EXISTS", "app:key"), "it is removed again")
            assert await reader.app.get("key") is None


@pytest.mark.parametrize("near_enabled", [True, False], ids=["near", "far"])
def test_a_loop_that_begins_afterwards_makes_good_what_one_before_it_wrote(*, near_enabled: bool) -> None:
    with restored() as place, asyncio.Runner() as last:
        settings = Settings(redis_url=place.url, near_enabled=near_enabled, _env_file=None)
        writer = Process(settings, Names("", place.has))
        place.primary.command("SET", "app:key", '"old"')
        place.part()
        assert asyncio.run(writer.app.delete("key")) is True
        place.lose()
        assert last.run(writer.app.get("key")) is None
        assert place.primary.command("EXISTS", "app:key") == 0
        last.run(writer.client.aclose())


# -- under load

LOADED = [f"loaded-{number}" for number in range(100)]


class Work:
    """Several workers of several processes that read through the cache, until told to stop."""

    def __init__(self) -> None:
        self.stopped = False
        self.loads: Counter[str] = Counter()
        self.wrong: list[Any] = []
        self.rounds = 0

    async def run(self, cache: Caller) -> None:
        while not self.stopped:
            for key in LOADED:
                value = await cache.get_or_set(key, cache.make(lambda key=key: self.load(key)))
                if value != f"of {key}":
                    self.wrong.append(value)
            self.rounds += 1
            await asyncio.sleep(0)

    def load(self, key: str) -> str:
        self.loads[key] += 1
        return f"of {key}"


@pytest.mark.parametrize("where", ["sentinel", "cluster, killed"])
async def test_under_load_nothing_is_raised_and_little_is_loaded(where: str) -> None:
    with PLACES[where]() as place:
        settings = Settings(redis_url=place.url, _env_file=None)
        names = Names(place.prefix, place.has)
        work = Work()
        async with AsyncExitStack() as stack:
            processes = [
                await stack.enter_async_context(Process(settings, names, threads=threads))
                for threads in (False, False, True)
            ]
            async with asyncio.TaskGroup() as tasks:
                for process in processes * 2:
                    tasks.create_task(work.run(process.app))
                await eventually(lambda: work.rounds > 20, "the load to run")
                server = await asyncio.to_thread(place.lose)
                await eventually(lambda: all(p.client.status().connected for p in processes), "connections to it")
                hits, rounds = [p.app.cache.get_stats().hits for p in processes], work.rounds
                await eventually(lambda: work.rounds > rounds + 20, "the load to go on")
                work.stopped = True
            assert work.wrong == []
            assert sum(work.loads.values()) <= 2 * len(LOADED)
            # Everybody hits again, near and on the server that took over.
            loads = work.loads.total()
            for process, before in zip(processes, hits, strict=True):
                assert process.app.cache.get_stats().hits > before
                assert len(await process.app.get_many(LOADED)) == len(LOADED)
            assert work.loads.total() == loads
            stored = [key for key in map(Namespace("app", place.prefix).key, LOADED) if place.has(key)]
            assert any(server.command("EXISTS", key) for key in stored)
