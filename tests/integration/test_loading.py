"""One load per key and process, across tasks, threads and loops; and nobody is left waiting, whoever leaves."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from nearcache import (
    AsyncCache,
    Cache,
    LoadError,
    LoadTimeout,
    Settings,
    WouldDeadlock,
    get_multi_redis_connection_manager,
)

from ..servers import ValkeyServer, wait_until


@pytest.fixture
def settings(url: str) -> Settings:
    return Settings(redis_url=url, _env_file=None)


@pytest.fixture
async def cache(settings: Settings) -> AsyncIterator[AsyncCache]:
    cache = AsyncCache(60, "app")
    await cache.initialize(settings)
    yield cache
    await get_multi_redis_connection_manager().disconnect_all()


class Gate:
    """A loader that says when it runs, and waits to be let go; usable from any thread or loop."""

    def __init__(self, value: Any = "loaded") -> None:
        self.value = value
        self.calls = 0
        self.began = threading.Event()
        self.open = threading.Event()

    async def __call__(self) -> Any:
        self.calls += 1
        self.began.set()
        await asyncio.to_thread(self.open.wait, 20)
        return self.value

    def blocking(self) -> Any:
        self.calls += 1
        self.began.set()
        assert self.open.wait(20)
        return self.value


def joined(cache: AsyncCache | Cache, callers: int) -> Callable[[], bool]:
    return lambda: cache.get_stats().joins >= callers


async def test_a_thousand_tasks_one_load(cache: AsyncCache) -> None:
    gate = Gate({"a": [1]})
    tasks = [asyncio.create_task(cache.get_or_set("key", gate)) for _ in range(1_000)]
    await asyncio.to_thread(wait_until, joined(cache, 999), "everybody to wait")
    gate.open.set()
    values = await asyncio.gather(*tasks)
    assert gate.calls == 1
    assert all(value == {"a": [1]} for value in values)
    values[0]["a"].append(2)
    assert values[1] == {"a": [1]}, "everybody has a copy"


async def test_tasks_and_threads_share_a_load(cache: AsyncCache) -> None:
    gate = Gate()
    leader = asyncio.create_task(cache.get_or_set("key", gate))
    await asyncio.to_thread(gate.began.wait, 10)
    twin = cache.sync()
    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(twin.get_or_set, "key", lambda: "own") for _ in range(8)]
        await asyncio.to_thread(wait_until, joined(cache, 8), "the threads to wait")
        gate.open.set()
        assert [await asyncio.wrap_future(thread) for thread in threads] == ["loaded"] * 8
    assert await leader == "loaded"
    assert gate.calls == 1


async def test_tasks_wait_for_a_thread(cache: AsyncCache) -> None:
    gate = Gate()
    leader = asyncio.create_task(asyncio.to_thread(cache.sync().get_or_set, "key", gate.blocking))
    await asyncio.to_thread(gate.began.wait, 10)
    followers = [asyncio.create_task(cache.get_or_set("key", lambda: "own")) for _ in range(5)]
    await asyncio.to_thread(wait_until, joined(cache, 5), "the tasks to wait")
    gate.open.set()
    assert await asyncio.gather(leader, *followers) == ["loaded"] * 6
    assert gate.calls == 1


async def test_a_cancelled_caller_cancels_nobody_else(cache: AsyncCache) -> None:
    gate = Gate()
    leader = asyncio.create_task(cache.get_or_set("key", gate))
    await asyncio.to_thread(gate.began.wait, 10)
    follower = asyncio.create_task(cache.get_or_set("key", gate))
    await asyncio.to_thread(wait_until, joined(cache, 1), "the follower to wait")
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    gate.open.set()
    assert await follower == "loaded"
    assert gate.calls == 1


async def test_a_load_goes_on_when_every_caller_has_left(cache: AsyncCache) -> None:
    gate = Gate()
    caller = asyncio.create_task(cache.get_or_set("key", gate))
    await asyncio.to_thread(gate.began.wait, 10)
    caller.cancel()
    await asyncio.wait([caller])
    gate.open.set()
    assert await cache.get_or_set("key", lambda: "again") == "loaded"


async def test_when_the_leading_loop_ends_a_waiter_leads(cache: AsyncCache, settings: Settings) -> None:
    began = threading.Event()

    async def never() -> None:
        began.set()
        await asyncio.Event().wait()

    async def lead_and_leave() -> None:
        task = asyncio.create_task(cache.get_or_set("key", never))
        await asyncio.to_thread(left.wait, 20)
        task.cancel()

    left = threading.Event()
    other = threading.Thread(target=lambda: asyncio.run(lead_and_leave()))
    other.start()
    await asyncio.to_thread(began.wait, 10)
    follower = asyncio.create_task(cache.get_or_set("key", lambda: "led here"))
    await asyncio.to_thread(wait_until, joined(cache, 1), "the follower to wait")
    left.set()
    assert await follower == "led here"
    await asyncio.to_thread(other.join, 10)


_RUDE_END = """
import asyncio, sys, threading
from nearcache import AsyncCache, Settings

cache = AsyncCache(60, "app")
began = threading.Event()

async def never():
    began.set()
    await asyncio.Event().wait()

async def lead():
    await cache.initialize(Settings(redis_url=sys.argv[1], _env_file=None))
    await cache.get_or_set("key", never)

loop = asyncio.new_event_loop()
task = loop.create_task(lead())
threading.Thread(target=loop.run_forever, daemon=True).start()
began.wait()
results = []
follower = threading.Thread(target=lambda: results.append(cache.sync().get_or_set("key", lambda: "led here")))
follower.start()
while not cache.get_stats().joins:
    threading.Event().wait(0.001)
loop.call_soon_threadsafe(loop.stop)
while loop.is_running():
    threading.Event().wait(0.001)
loop.close()
follower.join()
print(results)
"""


def test_when_the_leading_loop_is_just_closed_a_waiter_leads(url: str) -> None:
    """In a process of its own: a loop that is closed with work on it leaves warnings behind."""
    done = subprocess.run([sys.executable, "-c", _RUDE_END, url], capture_output=True, text=True, timeout=30)
    assert done.stdout == "['led here']\n", done.stderr


async def test_a_blocking_wait_on_the_leading_loop_raises_instead_of_hanging(cache: AsyncCache) -> None:
    gate = Gate()
    leader = asyncio.create_task(cache.get_or_set("key", gate))
    await asyncio.to_thread(gate.began.wait, 10)
    with pytest.raises(WouldDeadlock, match="AsyncCache"):
        cache.sync().get_or_set("key", lambda: 1)
    gate.open.set()
    assert await leader == "loaded"


async def test_a_load_that_takes_too_long(url: str) -> None:
    await get_multi_redis_connection_manager().disconnect_all()
    cache = AsyncCache(60, "slow")
    await cache.initialize(Settings(redis_url=url, load_timeout=0.05, _env_file=None))
    with pytest.raises(LoadTimeout, match=r"0\.05"):
        await cache.get_or_set("key", asyncio.Event().wait)
    assert await cache.get_or_set("key", lambda: "next") == "next"
    with pytest.raises(TimeoutError, match="the loader's own"):
        await cache.get_or_set("other", _raise(TimeoutError("the loader's own")))
    await get_multi_redis_connection_manager().disconnect_all()


def _raise(error: BaseException) -> Callable[[], Any]:
    def loader() -> Any:
        raise error

    return loader


async def test_a_loader_that_is_cancelled_from_within(cache: AsyncCache) -> None:
    with pytest.raises(LoadError, match="cancelled"):
        await cache.get_or_set("key", _raise(asyncio.CancelledError()))


async def test_a_synchronous_cache_gives_stop_iteration_as_it_is(cache: AsyncCache) -> None:
    def use() -> None:
        with pytest.raises(StopIteration, match="the loader's own"):
            cache.sync().get_or_set("key", _raise(StopIteration("the loader's own")))

    await asyncio.to_thread(use)


async def test_a_synchronous_cache_refuses_an_asynchronous_loader(cache: AsyncCache) -> None:
    async def loader() -> int:
        return 1

    with pytest.raises(ValueError, match="AsyncCache"):
        await asyncio.to_thread(cache.sync().get_or_set, "key", loader)


async def test_many_joins_what_others_are_loading(cache: AsyncCache) -> None:
    gate = Gate("theirs")
    single = asyncio.create_task(cache.get_or_set("a", gate))
    await asyncio.to_thread(gate.began.wait, 10)
    asked: list[list[str]] = []

    async def load(keys: list[str]) -> dict[str, str]:
        asked.append(keys)
        return dict.fromkeys(keys, "ours")

    many = asyncio.create_task(cache.get_or_set_many(["a", "b"], load))
    await asyncio.to_thread(wait_until, joined(cache, 1), "it to wait")
    gate.open.set()
    assert await many == {"a": "theirs", "b": "ours"}
    assert asked == [["b"]]
    await single


async def test_values_loaded_while_the_server_is_away(fresh_server: ValkeyServer) -> None:
    await get_multi_redis_connection_manager().disconnect_all()
    cache = AsyncCache(60, "away")
    await cache.initialize(Settings(redis_url=fresh_server.url, _env_file=None))
    fresh_server.kill()
    gate = Gate()
    tasks = [asyncio.create_task(cache.get_or_set("key", gate)) for _ in range(50)]
    await asyncio.to_thread(wait_until, joined(cache, 49), "everybody to wait")
    gate.open.set()
    assert await asyncio.gather(*tasks) == ["loaded"] * 50
    assert gate.calls == 1
    await get_multi_redis_connection_manager().disconnect_all()


async def test_wire_json_is_what_other_languages_read_and_write(
    settings: Settings, cache: AsyncCache, server: ValkeyServer
) -> None:
    shared = AsyncCache(60, "shared", wire="json")
    await shared.initialize(settings)
    await shared.set("key", {"n": 1.0, "at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), "ü": ["x", None]})
    raw = server.command("GET", "shared:key")
    assert raw == '{"n":1,"at":"2026-01-02T03:04:05.678Z","ü":["x",null]}'.encode()
    server.command("SET", "shared:theirs", json.dumps({"a": [1, 2]}), "PX", 60_000)
    assert await shared.get("theirs") == {"a": [1, 2]}
    assert await cache.get("theirs", namespace="shared") == {"a": [1, 2]}, "readable in every mode"
    assert await shared.get("theirs", type=dict[str, list[int]]) == {"a": [1, 2]}
    assert await shared.exists("theirs")
    assert await shared.ttl("theirs") in (59, 60)
    assert await shared.get_or_set("loaded", lambda: (1, 2)) == [1, 2], "everybody gets what is stored"
    assert await shared.clear() == 3
    assert server.command("KEYS", "shared:*") == []


async def test_what_is_not_ours_is_a_miss_and_stays(cache: AsyncCache, server: ValkeyServer) -> None:
    server.command("SET", "app:bytes", b"\x00\xff garbage")
    server.command("RPUSH", "app:list", "x")
    assert await cache.get("bytes") is None
    assert await cache.get("list") is None
    assert await cache.get_many(["bytes", "list"]) == {}
    assert cache.get_stats().undecodable == 2
    assert await cache.clear() == 1, "strings in the namespace go, other types are not ours"
    assert server.command("TYPE", "app:list") == b"list"


async def test_a_reply_that_belongs_to_another_key_is_a_miss(cache: AsyncCache, server: ValkeyServer) -> None:
    await cache.set("a", "a's")
    server.command("SET", "app:b", server.command("GET", "app:a"))
    assert await cache.get("b") is None


async def test_clear_in_one_process_is_seen_by_another(cache: AsyncCache, url: str) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    other = context.Process(target=_other_process, args=(url, theirs))
    other.start()
    try:
        await cache.set("key", "old")
        ours.send(("get", "key"))
        assert await asyncio.to_thread(ours.recv) == "old"
        await cache.clear(wait=False)
        ours.send(("ask the server", "key"))
        assert await asyncio.to_thread(ours.recv) is None, "invalid at once"
        await asyncio.to_thread(wait_until, lambda: _asked(ours, "get", "key") is None, "the push to be read")
        ours.send(("set", "key"))
        assert await asyncio.to_thread(ours.recv) is True
        assert await cache.get("key") == "theirs"
    finally:
        ours.send(("end", ""))
        await asyncio.to_thread(other.join, 10)
        ours.close()
        theirs.close()


def _asked(pipe: Any, what: str, key: str) -> Any:
    pipe.send((what, key))
    return pipe.recv()


def _other_process(url: str, pipe: Any) -> None:
    cache, plain = Cache(60, "app"), Cache(60, "app", near=False)
    for each in (cache, plain):
        each.initialize(Settings(redis_url=url, _env_file=None))
    while (request := pipe.recv())[0] != "end":
        what, key = request
        if what == "set":
            pipe.send(cache.set(key, "theirs"))
        else:
            pipe.send((cache if what == "get" else plain).get(key))
    get_multi_redis_connection_manager().close()


def test_a_forked_child_has_connections_of_its_own(url: str) -> None:
    """In a subprocess without other threads of ours, as a preforking server forks."""
    cache = Cache(60, "fork")
    cache.initialize(Settings(redis_url=url, _env_file=None))
    cache.set("parent", 1)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(cache, theirs))
    child.start()
    assert ours.recv() == (1, True)
    child.join(10)
    assert child.exitcode == 0
    assert [cache.get(key) for key in ("parent", "child")] == [1, 2]
    get_multi_redis_connection_manager().close()
    ours.close()
    theirs.close()


def _child(cache: Cache, pipe: Any) -> None:
    pipe.send((cache.get("parent"), cache.set("child", 2)))
    get_multi_redis_connection_manager().close()
