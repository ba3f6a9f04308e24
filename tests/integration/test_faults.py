"""Faults on the lanes of a real server; ``tests/unit/test_testing.py`` has what does not depend on the link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from nearcache import AsyncCache, ConnectionFailed, Settings, get_multi_redis_connection_manager
from nearcache.testing import FakeClock, Faults, sabotage

from ..lanes import eventually
from ..servers import ValkeyServer
from ..shells import Shell


@pytest.fixture(params=["async", "sync"])
async def shell(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Shell]:
    shell = Shell(AsyncCache(3600, "app"), threads=request.param == "sync")
    await shell.initialize(Settings(redis_url=url, _env_file=None))
    yield shell
    await get_multi_redis_connection_manager().disconnect_all()


@pytest.fixture
def other(server: ValkeyServer) -> Callable[[str], None]:
    """Writes a key as somebody else does."""
    return lambda key: server.command("SET", f"app:{key}", '"other"')


async def test_fail(shell: Shell) -> None:
    with Faults(shell.cache) as faults:
        faults.fail(times=1)
        assert [await shell.set("key", number) for number in range(2)] == [False, True]
        faults.fail(match="PING")
        with pytest.raises(ConnectionFailed, match="injected"):
            await shell.ping()
    assert await shell.ping() == "PONG"


async def test_delay(shell: Shell) -> None:
    began = asyncio.get_running_loop().time()
    with Faults(shell.cache) as faults:
        faults.delay(0.05, match="PING")
        assert await shell.ping() == "PONG"
    assert asyncio.get_running_loop().time() - began > 0.04


async def test_delay_on_a_fake_clock(url: str) -> None:
    with FakeClock() as clock:
        cache = AsyncCache(3600, "app")
        await cache.initialize(Settings(redis_url=url, _env_file=None))
        with Faults(cache) as faults:
            faults.delay(0.5)
            asking = asyncio.create_task(cache.ping())
            await asyncio.to_thread(clock.wait_for_timer, 0.5)
            assert not asking.done()
            clock.advance(0.5)
            assert await asking == "PONG"
        await get_multi_redis_connection_manager().disconnect_all()


async def test_a_hook_sees_the_late_reply_to_a_caller_that_has_left(url: str) -> None:
    cache = AsyncCache(3600, "app")
    await cache.initialize(Settings(redis_url=url, _env_file=None))
    seen: list[Any] = []
    with Faults(cache) as faults:
        faults.delay(0.01)
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        cache._core.client.link().post_many([("PING",)], waiter, seen.append)
        waiter.cancel()
        await eventually(lambda: seen in ([["PONG"]], [[b"PONG"]]), "the hook is called")
    await get_multi_redis_connection_manager().disconnect_all()


async def test_disconnect(shell: Shell) -> None:
    await shell.set("key", "value")
    entry = shell.cache._core.tier.entry(b"app:key")
    assert entry is not None
    assert entry.known
    with Faults(shell.cache) as faults:
        faults.drop_pushes()  # a lost connection is noticed all the same
        faults.disconnect()
        assert not entry.known, "nobody vouches for it any more"
    client = shell.cache._core.client
    await eventually(lambda: client.status().reconnects and client.connected, "the connection comes back")
    assert await shell.get("key") == "value"


async def test_dropped_pushes(shell: Shell, other: Callable[[str], None]) -> None:
    await shell.set("key", "own")
    with Faults(shell.cache) as faults:
        faults.drop_pushes()
        other("key")
        await shell.ping()  # what was pushed has come before the answer
        assert await shell.get("key") == "own"
        await shell.set("key", "own again")
        assert await shell.get("key") == "own again"
    other("key")
    await shell.ping()
    assert await shell.get("key") == "other"


async def test_pushes_are_dropped_on_a_connection_that_is_new(url: str, other: Callable[[str], None]) -> None:
    cache = AsyncCache(3600, "app")
    cache.sync().initialize(Settings(redis_url=url, _env_file=None))
    with Faults(cache) as faults:
        faults.drop_pushes()
        await cache.set("key", "own")  # on the loop's lane, which is made now
        other("key")
        await cache.ping()
        assert await cache.get("key") == "own"
    await get_multi_redis_connection_manager().disconnect_all()


@pytest.mark.parametrize("during", [True, False])
async def test_another_server_is_told_what_the_one_before_had_acknowledged(*, during: bool) -> None:
    with ValkeyServer() as server:
        cache = AsyncCache(3600, "app")
        await cache.initialize(Settings(redis_url=server.url, _env_file=None))
        with Faults(cache) as faults:
            faults.drop_pushes()
            if not during:
                faults.heal()
            await cache.set("key", "old")
            server.command("SAVE")
            assert await cache.delete("key")
            server.restart()
            await eventually(lambda: not server.command("EXISTS", "app:key"), "it is removed again")
        await get_multi_redis_connection_manager().disconnect_all()


async def test_sabotaged_pushes(shell: Shell, other: Callable[[str], None]) -> None:
    await shell.set("key", "own")
    with sabotage("pushes"):
        other("key")
        await shell.ping()
        assert await shell.get("key") == "own"
