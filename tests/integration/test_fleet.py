"""Loads between processes: one of them loads, the others are woken; nobody waits for a dead one, or the server."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest

from nearcache import AsyncCache, Cache, Settings, get_multi_redis_connection_manager
from nearcache.client import Client
from nearcache.core import loads
from nearcache.core.effects import Command
from nearcache.testing import Faults
from nearcache.tiers import remote

from ..lanes import eventually, until_read
from ..servers import Client as Raw
from ..servers import ValkeyServer, wait_until

KINDS = ("async", "sync")


def _worker(url: str, port: int, kind: str, pipe: Connection) -> None:
    """Loads ``key`` when told to; the loader counts its calls on the server and takes until ``go`` is there."""
    raw = Raw(("127.0.0.1", port))

    def begin() -> None:
        raw.command("INCR", "test-calls")
        raw.command("SADD", "test-loading", str(os.getpid()))

    def blocking() -> str:
        begin()
        wait_until(lambda: raw.command("EXISTS", "test-go") == 1, "the word to go on")
        return f"loaded by {os.getpid()}"

    async def loader() -> str:
        begin()
        await eventually(lambda: raw.command("EXISTS", "test-go") == 1, "the word to go on", seconds=60)
        return f"loaded by {os.getpid()}"

    async def many(cache: AsyncCache) -> list[str]:
        await cache.initialize(Settings(redis_url=url, _env_file=None))
        pipe.send("ready")
        assert pipe.recv() == "load"
        values = await asyncio.gather(*(cache.get_or_set("key", loader) for _ in range(50)))
        await get_multi_redis_connection_manager().disconnect_all()
        return values

    if kind == "async":
        values = asyncio.run(many(AsyncCache(60, "app")))
    else:
        cache = Cache(60, "app")
        cache.initialize(Settings(redis_url=url, _env_file=None))
        pipe.send("ready")
        assert pipe.recv() == "load"
        with ThreadPoolExecutor(8) as pool:
            values = list(pool.map(lambda _: cache.get_or_set("key", blocking), range(8)))
        get_multi_redis_connection_manager().close()
    pipe.send(values)
    raw.close()


@contextmanager
def fleet(server: ValkeyServer, kinds: tuple[str, ...]) -> Iterator[list[tuple[Any, Connection]]]:
    context = multiprocessing.get_context("spawn")
    workers = []
    for kind in kinds:
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(server.url, server.port, kind, theirs), daemon=True)
        process.start()
        theirs.close()
        workers.append((process, ours))
    try:
        for _, pipe in workers:
            assert pipe.recv() == "ready"
        for _, pipe in workers:
            pipe.send("load")
        yield workers
    finally:
        for process, pipe in workers:
            process.kill()
            process.join()
            pipe.close()


def test_one_load_in_four_processes(server: ValkeyServer, url: str) -> None:
    with fleet(server, KINDS * 2) as workers:
        wait_until(lambda: server.command("SCARD", "test-loading") == 1, "somebody to load")
        # Whoever has lost reads the lease and looks whether its holder lives.
        wait_until(lambda: server.command("EXISTS", "{app:key}~lease") == 1, "the lease")
        server.command("SET", "test-go", "1")
        values = {value for _, pipe in workers for value in pipe.recv()}
        assert len(values) == 1
        assert server.command("GET", "test-calls") == b"1"


@pytest.mark.parametrize("kind", KINDS)
def test_when_the_holder_is_killed_another_one_takes_over(server: ValkeyServer, url: str, kind: str) -> None:
    with fleet(server, (kind,) * 3) as workers:
        wait_until(lambda: server.command("SCARD", "test-loading") == 1, "somebody to load")
        (holder,) = server.command("SMEMBERS", "test-loading")
        os.kill(int(holder), signal.SIGKILL)
        wait_until(lambda: server.command("SCARD", "test-loading") == 2, "another one to load")
        server.command("SET", "test-go", "1")
        survivors = [pipe for process, pipe in workers if process.pid != int(holder)]
        values = {value for pipe in survivors for value in pipe.recv()}
        assert len(values) == 1
        assert server.command("GET", "test-calls") == b"2"


# -- two clients in one process are two processes to the server


@asynccontextmanager
async def two_clients(settings: Settings) -> AsyncIterator[tuple[AsyncCache, AsyncCache]]:
    one, other = AsyncCache(60, "app"), AsyncCache(60, "app")
    await one.initialize(settings)
    client = Client("other", one._core.client.endpoint, settings)  # type: ignore[union-attr]
    other._core.bind(client)
    await client.connect()
    yield one, other
    await client.aclose()
    await get_multi_redis_connection_manager().disconnect_all()


@pytest.fixture
async def caches(url: str) -> AsyncIterator[tuple[AsyncCache, AsyncCache]]:
    async with two_clients(Settings(redis_url=url, _env_file=None)) as caches:
        yield caches


class Gate:
    """A loader that waits to be let go."""

    def __init__(self, value: str) -> None:
        self.value = value
        self.calls = 0
        self.began = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self) -> str:
        self.calls += 1
        self.began.set()
        await self.open.wait()
        return self.value


Write = Callable[[AsyncCache], Any]


@pytest.mark.parametrize(
    ("write", "left"),
    [
        (lambda cache: cache.set("key", "newer"), "newer"),
        (lambda cache: cache.delete("key"), None),
        (lambda cache: cache.expire("key", 5), None),
        (lambda cache: cache.clear(), None),
        (lambda cache: cache.invalidate_tags("tag"), None),
    ],
    ids=["set", "delete", "expire", "clear", "invalidate_tags"],
)
async def test_what_another_process_writes_during_a_load_wins(
    caches: tuple[AsyncCache, AsyncCache], write: Write, left: str | None
) -> None:
    one, other = caches
    gate = Gate("slow")
    loading = asyncio.create_task(one.get_or_set("key", gate, tags=["tag"]))
    await gate.began.wait()
    await write(other)
    gate.open.set()
    assert await loading == "slow", "whoever waited gets it"
    for cache in caches:
        assert await cache.get("key") == left


@pytest.mark.parametrize("near", [True, False])
async def test_a_loser_is_woken_by_the_fill(url: str, monkeypatch: pytest.MonkeyPatch, *, near: bool) -> None:
    """By the server's push, with and without a near tier: the net under it is out of reach here."""
    monkeypatch.setattr(loads, "_POLL", 3600)
    async with two_clients(Settings(redis_url=url, near_enabled=near, _env_file=None)) as (one, other):
        gate = Gate("first")
        first = asyncio.create_task(one.get_or_set("key", gate))
        await gate.began.wait()
        second = asyncio.create_task(other.get_or_set("key", Gate("never")))
        watches = other._core.tier._watches
        await eventually(lambda: any(watch._wakers for found in watches.values() for watch in found), "it to sleep")
        gate.open.set()
        async with asyncio.timeout(10):
            assert [await first, await second] == ["first", "first"]
        assert not watches


async def test_a_lease_that_its_holder_could_not_give_back_is_taken_over(
    caches: tuple[AsyncCache, AsyncCache], server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder lives, and goes on with other loads."""
    monkeypatch.setattr(loads, "SILENCE", 0.2)
    one, other = caches
    with Faults(one) as faults:
        faults.fail(match=lambda command: command[1] == remote.FILL)
        assert await one.get_or_set("key", lambda: "not stored") == "not stored"
    holder = server.command("GET", "{app:key}~lease")
    server.command("SET", one._core.client.holder.alive_keys(holder)[0], 1)  # for good
    async with asyncio.timeout(10):
        assert await other.get_or_set("key", lambda: "loaded") == "loaded"
    assert await one.get("key") == "loaded"


async def test_a_load_that_goes_on_is_waited_for(
    caches: tuple[AsyncCache, AsyncCache], server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, "SILENCE", 0.2)
    monkeypatch.setattr("nearcache.driving._BEAT", 0.01)
    one, other = caches
    gate, never = Gate("first"), Gate("never")
    loading = asyncio.create_task(one.get_or_set("key", gate))
    await eventually(lambda: server.command("EXISTS", "{app:key}~lease"), "the lease")
    load = one._core.client.holder.alive_keys(server.command("GET", "{app:key}~lease"))[1]
    await eventually(lambda: server.command("EXISTS", load), "a beat")
    asked = asyncio.Event()
    is_alive = remote.is_alive

    def ask(name: bytes) -> Command:
        if name == load:
            asked.set()
        return is_alive(name)

    monkeypatch.setattr(remote, "is_alive", ask)
    waiting = asyncio.create_task(other.get_or_set("key", never))
    async with asyncio.timeout(10):
        await asked.wait()
        asked.clear()
        await asked.wait()  # so the first answer did not end it
    gate.open.set()
    assert [await loading, await waiting] == ["first", "first"]
    assert never.calls == 0


async def test_when_the_holders_loader_fails_another_one_tries(caches: tuple[AsyncCache, AsyncCache]) -> None:
    one, other = caches
    began, fail = asyncio.Event(), asyncio.Event()

    async def failing() -> str:
        began.set()
        await fail.wait()
        raise OSError("not mine")

    first = asyncio.create_task(one.get_or_set("key", failing))
    await began.wait()
    gate = Gate("second")
    gate.open.set()
    second = asyncio.create_task(other.get_or_set("key", gate))
    fail.set()
    with pytest.raises(OSError, match="not mine"):
        await first
    assert await second == "second"
    assert await one.get("key") == "second"


async def test_a_hit_sends_nothing_and_a_fill_its_script_only(
    caches: tuple[AsyncCache, AsyncCache], server: ValkeyServer
) -> None:
    cache, _ = caches
    await cache.get("warm")

    def commands() -> dict[str, int]:
        lines = server.command("INFO", "commandstats").decode().splitlines()
        stats = (line.removeprefix("cmdstat_").split(":calls=") for line in lines if line.startswith("cmdstat_"))
        return {name: int(rest.partition(",")[0]) for name, rest in stats}

    def sent(before: dict[str, int]) -> dict[str, int]:
        """Since then, but for the looking itself, and what a script does in the server."""
        after = commands()
        return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}

    before = commands()
    await cache.get_or_set("key", lambda: "value")
    loading = sent(before)
    assert loading["eval"] == 2, "who loads, and the fill"
    assert not {"publish", "spublish", "unlink|raw"} & loading.keys()
    before = commands()
    for _ in range(100):
        assert await cache.get("key") == "value"
        assert await cache.get_or_set("key", lambda: "other") == "value"
    # The looking's own, and what may be left of the connections' beginnings.
    assert sent(before).keys() <= {"info", "select"}


# -- while the server is away (docs/staleness.md, the second table)


@pytest.fixture
async def away(fresh_server: ValkeyServer) -> AsyncIterator[AsyncCache]:
    cache = AsyncCache(60, "app")
    settings = Settings(redis_url=fresh_server.url, breaker_failures=10_000, _env_file=None)
    await cache.initialize(settings)
    await cache.set("fresh", "near", tags=["tag"])
    await cache.set("stale", "near", ttl=0.02, grace=60)
    await cache.set("cleared", "near", namespace="cleared")
    await cache.set("tagged", "near", tags=["gone"])
    for key, namespace in (("fresh", None), ("stale", None), ("cleared", "cleared"), ("tagged", None)):
        await cache.get(key, namespace=namespace)
    async with asyncio.timeout(10):
        while (await cache.lookup("stale")).state != "stale":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await cache.clear("cleared", wait=False)
    await cache.invalidate_tags("gone")
    fresh_server.kill()
    await eventually(lambda: not cache.is_ready(), "the loss to be noticed")
    yield cache
    await get_multi_redis_connection_manager().disconnect_all()


def failing() -> str:
    raise OSError("the origin, too")


async def test_reads_while_the_server_is_away(away: AsyncCache) -> None:
    assert await away.get("fresh") == "near"
    assert await away.get("stale") == "near"
    assert await away.get("cleared", namespace="cleared") is None
    assert await away.get("tagged") is None
    assert await away.get("nothing") is None
    assert (await away.lookup("fresh")).tier == "near"
    assert "does not answer" in (await away.lookup("fresh")).why


async def test_loads_while_the_server_is_away(away: AsyncCache) -> None:
    assert await away.get_or_set("fresh", lambda: "loaded", soft_timeout=10) == "near"
    many = await away.get_or_set_many(["fresh"], lambda keys: dict.fromkeys(keys, "loaded"), soft_timeout=10)
    assert many == {"fresh": "near"}
    assert await away.get_or_set("stale", failing, soft_timeout=10, retry_after=0) == "near"
    assert await away.get_or_set("stale", lambda: "loaded", soft_timeout=10) == "loaded"
    for key, namespace in (("cleared", "cleared"), ("tagged", None), ("nothing", None)):
        with pytest.raises(OSError, match="the origin, too"):
            await away.get_or_set(key, failing, namespace=namespace)
        for loader in (lambda: "loaded", lambda: "again", failing):
            assert await away.get_or_set(key, loader, namespace=namespace) == "loaded"


@pytest.mark.parametrize("lost", ["tag", "namespace"])
async def test_a_counter_that_was_evicted_revives_nothing(
    caches: tuple[AsyncCache, AsyncCache], server: ValkeyServer, lost: str
) -> None:
    """Created anew it starts at the server's clock, above whatever an old entry carries."""
    one, other = caches
    await one.set("key", "old", tags=["tag"])
    assert await other.get("key") == "old"
    await one.invalidate_tags("tag") if lost == "tag" else await one.clear(wait=False)
    site = one._core.namespace
    server.command("DEL", site.tag_counter(b"tag") if lost == "tag" else site.counter)
    await until_read(lambda: other.get("key"), None)  # once the push is read
    assert await one.get("key") is None
    await one.set("key", "new", tags=["tag"])
    assert [await one.get("key"), await other.get("key")] == ["new", "new"]
