"""Several event loops and threads in one process: one after the other, and at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.from_thread
import pytest

from nearcache import AsyncCache, Settings, get_multi_redis_connection_manager

from ..lanes import each_new_loop
from ..servers import ValkeyServer, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def cache(url: str) -> AsyncCache:
    """Not connected on any loop."""
    cache = AsyncCache(60, "loops")
    cache.sync().initialize(Settings(redis_url=url, queue_redis_url=url, _env_file=None))
    return cache


def connections(server: ValkeyServer) -> int:
    return server.command("CLIENT", "LIST").count(b"name=nearcache-cache-")


@each_new_loop
def test_one_loop_after_the_other(
    new_loop: Callable[[], asyncio.AbstractEventLoop], cache: AsyncCache, server: ValkeyServer
) -> None:
    async def story(number: int) -> Any:
        assert await cache.get("k") == (number - 1 if number else None)
        await cache.set("k", number)
        return await cache.get_or_set("load", lambda: "once")

    for number in range(5):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            assert runner.run(story(number)) == "once"
        wait_until(lambda: connections(server) == 1, "the loop's connection to end with it; the threads' stays")
    assert cache.get_stats().loads == 1
    assert len(cache._core.client._lanes) <= 1, "of loops that have ended the last may be remembered"


@each_new_loop
def test_a_loop_that_ends_drops_what_only_it_was_told_of(
    new_loop: Callable[[], asyncio.AbstractEventLoop], cache: AsyncCache, server: ValkeyServer
) -> None:
    """Near values that a loop has read are not near any more: nobody hears of their changes."""

    async def fill() -> None:
        await cache.set("k", "old")
        assert (await cache.lookup("k")).tier == "near"

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(fill())
    server.command("DEL", "loops:k")
    assert cache.sync().get("k") is None

    async def read() -> Any:
        return await cache.get("k")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(read()) is None


@each_new_loop
def test_loops_and_threads_at_the_same_time(
    new_loop: Callable[[], asyncio.AbstractEventLoop], cache: AsyncCache, server: ValkeyServer
) -> None:
    """Four loops and four threads; what one has written no other reads an older value of."""
    together = threading.Barrier(8)
    written = [0]  # the latest that was acknowledged
    loads: list[int] = []

    def load() -> str:
        loads.append(1)
        return "one"

    async def on_loop(writes: bool) -> None:
        async with asyncio.timeout(40):
            await cache.get("k")
            await asyncio.to_thread(together.wait)
            assert await cache.get_or_set("load", load) == "one"
            for number in range(1, 101):
                if writes:
                    await cache.set("k", number)
                    written[0] = number
                else:
                    least = written[0]
                    assert (await cache.get("k") or 0) >= least
                    await asyncio.sleep(0)

    def run_loop(writes: bool) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(on_loop(writes))

    def in_thread() -> None:
        threads = cache.sync()
        threads.get("k")
        together.wait()
        assert threads.get_or_set("load", load) == "one"
        for _ in range(100):
            least = written[0]
            assert (threads.get("k") or 0) >= least

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(run_loop, number == 0) for number in range(4)]
        calls += [pool.submit(in_thread) for _ in range(4)]
        for call in calls:
            call.result()
    assert len(loads) == 1, "one load in the process, whoever asks"
    wait_until(lambda: connections(server) == 1, "the loops' connections to have ended")


def test_a_load_whose_loop_ends_is_another_s(cache: AsyncCache) -> None:
    started = threading.Event()

    async def never() -> str:
        started.set()
        await asyncio.Event().wait()
        return "never"

    async def give_up() -> None:
        task = asyncio.create_task(cache.get_or_set("k", never))
        await asyncio.to_thread(started.wait)
        task.cancel()

    async def wait() -> Any:
        await asyncio.to_thread(started.wait)
        return await cache.get_or_set("k", lambda: "mine")

    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(asyncio.run, wait())
        pool.submit(asyncio.run, give_up()).result(30)
        assert waiting.result(30) == "mine"


def test_anyio_runs_and_its_portals(cache: AsyncCache) -> None:
    async def story() -> Any:
        async with anyio.create_task_group() as group:
            group.start_soon(cache.set, "k", 1)
        with anyio.move_on_after(0):
            await cache.get("other")
        return await cache.get("k")

    for backend_options in ({}, {"use_uvloop": True}):
        assert anyio.run(story, backend="asyncio", backend_options=backend_options) == 1
        with anyio.from_thread.start_blocking_portal("asyncio", backend_options) as portal:
            assert portal.call(story) == 1
            assert cache.sync().get("k") == 1


async def test_close_on_one_loop_what_others_use(cache: AsyncCache, server: ValkeyServer) -> None:
    """A loop that runs elsewhere closes its own connection; one that does not is closed for."""
    ready, done = threading.Event(), threading.Event()

    async def use() -> None:
        await cache.get("k")
        ready.set()
        await asyncio.to_thread(done.wait)

    resting = asyncio.new_event_loop()
    await asyncio.to_thread(resting.run_until_complete, cache.get("k"))
    running = threading.Thread(target=asyncio.run, args=(use(),))
    running.start()
    await asyncio.to_thread(ready.wait)
    await cache.get("k")
    assert connections(server) == 4
    await get_multi_redis_connection_manager().disconnect_all()
    await asyncio.to_thread(wait_until, lambda: connections(server) == 0, "every connection to end")
    done.set()
    await asyncio.to_thread(running.join)
    await asyncio.to_thread(_end, resting)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """As ``asyncio.run`` ends a loop."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
