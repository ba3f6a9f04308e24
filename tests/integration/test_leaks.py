"""Nothing is left behind: tasks, threads, descriptors, timers, objects. Whatever happened between connect and close."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from nearcache import AsyncCache, Cache, LoadTimeout, Settings, get_multi_redis_connection_manager
from nearcache.client import Client
from nearcache.core.flights import Flight
from nearcache.tiers.memory import NearTier
from nearcache.transport.lane import Lane
from nearcache.transport.thread_lane import ThreadLane
from nearcache.transport.thread_wire import ThreadWire
from nearcache.transport.wire import Wire

from ..lanes import each_new_loop
from ..servers import ValkeyServer, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
CYCLES = 4
OURS = (Client, NearTier, Lane, Wire, ThreadLane, ThreadWire, Flight)


@pytest.fixture(autouse=True)
def unlogged(nothing_left: None) -> Iterator[None]:
    logging.disable()  # pytest keeps what is logged, and with an error the frames it was raised through
    yield
    logging.disable(logging.NOTSET)


def settings(url: str) -> Settings:
    return Settings(
        redis_url=url,
        queue_redis_url=url,
        command_timeout=0.2,
        connect_timeout=0.5,
        load_timeout=0.1,
        grace=60,
        _env_file=None,
    )


def descriptors() -> Counter[str]:
    """What is open, by kind."""
    kinds: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            kinds[os.readlink(f"/proc/self/fd/{number}").partition(":")[0]] += 1
        except FileNotFoundError:  # what the list was read with
            continue
    return kinds


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("nearcache"))


def objects() -> dict[str, int]:
    """How many there are of what has connections or waits for them."""
    gc.collect()
    counts = Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, OURS))
    return dict(counts)


def no_more(held: dict[str, int], *, most: int = 0) -> None:
    """At most so many more of each than there were."""
    after = objects()
    assert all(after[name] <= held.get(name, 0) + most for name in after), (held, after)


def fail() -> Any:
    raise LookupError("the loader fails")


# -- on a loop

Story = Callable[[AsyncCache, ValkeyServer], Awaitable[None]]


async def use(cache: AsyncCache, server: ValkeyServer) -> None:
    await cache.set("k", [1], tags=["t"])
    assert await cache.get("k") == [1]
    assert await cache.get_or_set("load", lambda: 1) == 1
    assert await cache.get_or_set_many(["a", "b"], lambda keys: dict.fromkeys(keys, 2)) == {"a": 2, "b": 2}
    await cache.invalidate_tags("t")
    await cache.delete("load")
    await cache.clear()
    await get_multi_redis_connection_manager().get_client().ping()


async def lose_the_server(cache: AsyncCache, server: ValkeyServer) -> None:
    await cache.get_or_set("k", lambda: 1)
    server.kill()
    assert not await cache.set("k", 2)
    assert await cache.get_or_set("other", lambda: 3) == 3
    assert not await cache.delete("k")


async def find_no_server(cache: AsyncCache, server: ValkeyServer) -> None:
    """The writes still wait for being made good when the end comes."""
    server.kill()
    for number in range(20):
        await cache.set(f"k{number}", number)
    server.start()


async def wait_in_vain(cache: AsyncCache, server: ValkeyServer) -> None:
    server.pause()
    try:
        await asyncio.gather(*(cache.get(f"k{number}") for number in range(20)), cache.get_or_set("k", lambda: 1))
    finally:
        server.resume()


async def fail_to_load(cache: AsyncCache, server: ValkeyServer) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    loads = [cache.get_or_set("k", fail) for _ in range(5)]
    assert all(isinstance(error, LookupError) for error in await asyncio.gather(*loads, return_exceptions=True))
    slow = [cache.get_or_set("slow", never) for _ in range(5)]
    assert all(isinstance(error, LoadTimeout) for error in await asyncio.gather(*slow, return_exceptions=True))
    await cache.get_or_set("stale", lambda: 1, ttl=0.001)
    await asyncio.sleep(0.01)
    assert await cache.get_or_set("stale", never, soft_timeout=0.01) == 1  # and the load goes on


async def leave(cache: AsyncCache, server: ValkeyServer) -> None:
    """Callers that are cancelled at every point they can be."""
    started = asyncio.Event()

    async def load() -> int:
        started.set()
        await asyncio.sleep(0.05)
        return 1

    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: cache.get("k"),
        lambda: cache.set("k", 1),
        lambda: cache.get_or_set("load", load),
        lambda: cache.delete("k"),
        cache.clear,
        lambda: cache.get_many(["a", "b"]),
    ]
    for call in calls:
        for turns in range(6):
            task = asyncio.ensure_future(call())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])


async def write_behind(cache: AsyncCache, server: ValkeyServer) -> None:
    written = []
    behind = cache.write_behind(lambda key, value: written.append(key))
    for number in range(10):
        await behind.set(f"k{number}", number)
    await behind.drain()
    await behind.set("last", 1)


STORIES: list[Story] = [use, lose_the_server, find_no_server, wait_in_vain, fail_to_load, leave, write_behind]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
@each_new_loop
def test_a_loop_s_cycles_leave_nothing(
    new_loop: Callable[[], asyncio.AbstractEventLoop], story: Story, fresh_server: ValkeyServer
) -> None:
    manager = get_multi_redis_connection_manager()

    async def cycle() -> Any:
        cache = AsyncCache(60, "leaks")
        await cache.initialize(settings(fresh_server.url))
        try:
            await story(cache, fresh_server)
        finally:
            await manager.disconnect_all()
        await left_on_loop()
        return weakref.ref(cache), weakref.ref(manager._clients["cache"])

    async def main() -> None:
        await cycle()  # what is made once: imports, the default executor
        if not fresh_server.running:
            fresh_server.start()
        fresh_server.command("PING")
        before, held = descriptors(), objects()
        made = []
        for _ in range(CYCLES):
            made.append(await cycle())
            if not fresh_server.running:
                fresh_server.start()
            fresh_server.command("PING")
        await asyncio.to_thread(wait_until, lambda: descriptors() <= before, "descriptors to be as before")
        no_more(held)
        caches, clients = zip(*made, strict=True)
        assert [cache() for cache in caches] == [None] * CYCLES
        assert [client() for client in clients[:-1]] == [None] * (CYCLES - 1), "the manager has the last one"

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def left_on_loop() -> None:
    """After ``disconnect_all``: no task, but for loads under way, which end by themselves; no timer; no thread."""
    loop = asyncio.get_running_loop()
    if loads := asyncio.all_tasks() - {asyncio.current_task()}:
        assert {task.get_coro().__qualname__ for task in loads} == {"drive"}
        await asyncio.wait(loads, timeout=10)
        await asyncio.sleep(0)
    assert asyncio.all_tasks() - {asyncio.current_task()} == set()
    timers = [timer for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()]
    assert timers == []
    await asyncio.to_thread(wait_until, lambda: not threads(), "threads to have ended")


# Without write-behind: a queue is the manager's, and its loop the queue's, until it is drained.
@pytest.mark.parametrize("story", STORIES[:-1], ids=lambda story: story.__name__)
def test_loops_that_end_around_a_client_leave_nothing(story: Story, fresh_server: ValkeyServer) -> None:
    """``asyncio.run`` again and again on the same client, which nobody disconnects."""
    cache = AsyncCache(60, "leaks")

    async def cycle() -> weakref.ref[Any]:
        await cache.initialize(settings(fresh_server.url))
        await story(cache, fresh_server)
        await get_multi_redis_connection_manager().client("cache").topology.aclose()  # redis-py's warns otherwise
        return weakref.ref(asyncio.get_running_loop())

    def cycles(times: int) -> list[weakref.ref[Any]]:
        loops = []
        for _ in range(times):
            if not fresh_server.running:
                fresh_server.start()
            loops.append(asyncio.run(cycle()))
        return loops

    cycles(2)
    if not fresh_server.running:
        fresh_server.start()
    fresh_server.command("PING")
    before, held = descriptors(), objects()
    loops = cycles(CYCLES)
    if not fresh_server.running:
        fresh_server.start()
    fresh_server.command("PING")
    wait_until(lambda: descriptors() <= before, "descriptors to be as before")
    no_more(held, most=1)
    # The last one on which the breaker let it connect.
    assert sum(loop() is not None for loop in loops) <= 1, "the client has more than one"
    get_multi_redis_connection_manager().close()
    wait_until(lambda: not threads(), "threads to have ended")


# -- in threads

ThreadStory = Callable[[Cache, ValkeyServer], None]


def use_in_threads(cache: Cache, server: ValkeyServer) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            cache.set(f"k{turn}", number)
            cache.get(f"k{turn}")
            cache.get_or_set(f"load{turn}", lambda: 1, ttl=0.01)
            cache.delete(f"k{turn}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def lose_the_server_in_threads(cache: Cache, server: ValkeyServer) -> None:
    cache.get_or_set("k", lambda: 1)
    server.kill()
    assert not cache.set("k", 2)
    assert not cache.delete("k")
    assert cache.get_or_set("other", lambda: 3) == 3


def wait_in_vain_in_threads(cache: Cache, server: ValkeyServer) -> None:
    server.pause()
    try:
        assert cache.get("k") is None
        assert not cache.set("k", 1)
    finally:
        server.resume()


def fail_to_load_in_threads(cache: Cache, server: ValkeyServer) -> None:
    with pytest.raises(LookupError):
        cache.get_or_set("k", fail)
    cache.get_or_set("stale", lambda: 1, ttl=0.001)
    let_go = threading.Event()
    assert cache.get_or_set("stale", let_go.wait, soft_timeout=0.01) == 1
    let_go.set()


def write_behind_in_threads(cache: Cache, server: ValkeyServer) -> None:
    written: list[str] = []
    behind = cache.write_behind(lambda key, value: written.append(key))
    for number in range(10):
        behind.set(f"k{number}", number)


THREAD_STORIES: list[ThreadStory] = [
    use_in_threads,
    lose_the_server_in_threads,
    wait_in_vain_in_threads,
    fail_to_load_in_threads,
    write_behind_in_threads,
]


@pytest.mark.parametrize("story", THREAD_STORIES, ids=lambda story: story.__name__)
def test_the_cycles_of_threads_leave_nothing(story: ThreadStory, fresh_server: ValkeyServer) -> None:
    manager = get_multi_redis_connection_manager()

    def cycle() -> Any:
        if not fresh_server.running:
            fresh_server.start()
        cache = Cache(60, "leaks")
        cache.initialize(settings(fresh_server.url))
        try:
            story(cache, fresh_server)
        finally:
            manager.close()
        wait_until(lambda: not threads(), "threads to have ended")
        assert manager._clients["cache"].near._links == [], "a client that is closed has no connections"
        return weakref.ref(cache), weakref.ref(manager._clients["cache"])

    cycle()
    fresh_server.running or fresh_server.start()
    fresh_server.command("PING")
    before, held = descriptors(), objects()
    made = [cycle() for _ in range(CYCLES)]
    fresh_server.running or fresh_server.start()
    fresh_server.command("PING")
    wait_until(lambda: descriptors() <= before, "descriptors to be as before")
    no_more(held)
    caches, clients = zip(*made, strict=True)
    assert [cache() for cache in caches] == [None] * CYCLES
    assert [client() for client in clients[:-1]] == [None] * (CYCLES - 1), "the manager has the last one"
