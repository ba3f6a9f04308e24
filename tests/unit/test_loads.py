"""Loads on ``memory://``, where time stands still: what is served meanwhile, and that nobody is left waiting."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from nearcache import AsyncCache, Cache, InvalidArgument, Settings, WouldDeadlock, current_load
from nearcache.client import Client
from nearcache.testing import FakeClock, Faults


@pytest.fixture
async def other(async_cache: AsyncCache, memory_settings: Settings) -> AsyncIterator[AsyncCache]:
    """Another client of the same store, as another process has one."""
    client = Client("other", async_cache._core.client.endpoint, memory_settings)  # type: ignore[union-attr]
    cache = AsyncCache(3600, "test")
    cache._core.bind(client)
    yield cache
    await client.aclose()


async def settle() -> None:
    """Let every task run until it waits for something; on ``memory://`` replies are there at once."""
    for _ in range(50):
        await asyncio.sleep(0)


class Gate:
    """A loader that waits to be let go."""

    def __init__(self, value: Any = "new") -> None:
        self.value = value
        self.calls = 0
        self.open = asyncio.Event()

    async def __call__(self, keys: list[str] | None = None) -> Any:
        self.calls += 1
        await self.open.wait()
        if isinstance(self.value, Exception):
            raise self.value
        return self.value if keys is None else dict.fromkeys(keys, self.value)


def fail(keys: list[str] | None = None) -> Any:
    raise OSError("the origin is away")


@dataclass
class User:
    name: str


# -- values of another type


async def test_a_near_copy_of_another_type_is_replaced(async_cache: AsyncCache) -> None:
    await async_cache.set("key", {"old": 1})
    assert await async_cache.get("key") == {"old": 1}, "it is near"
    assert await async_cache.get_or_set("key", lambda: User("Ada"), type=User) == User("Ada")
    await async_cache.set("key", {"old": 1})
    loaded = await async_cache.get_or_set_many(["key"], lambda keys: {"key": User("Bob")}, type=User)
    assert loaded == {"key": User("Bob")}
    assert await async_cache.get("key") == User("Bob")


async def test_a_fresh_value_of_another_type_is_no_answer_to_a_load_that_fails(async_cache: AsyncCache) -> None:
    await async_cache.set("key", {"old": 1})
    with pytest.raises(OSError, match="the origin"):
        await async_cache.get_or_set("key", fail, type=User)
    with pytest.raises(OSError, match="the origin"):
        await async_cache.get_or_set_many(["key"], fail, type=User)


async def test_a_stale_value_of_another_type_is_not_served(fake_clock: FakeClock, async_cache: AsyncCache) -> None:
    await async_cache.set("key", {"old": 1}, ttl=1, grace=60)
    fake_clock.advance(2)
    gate = Gate(User("Ada"))
    loading = asyncio.create_task(async_cache.get_or_set("key", gate, type=User))
    await settle()
    fake_clock.advance(1)
    await settle()
    assert not loading.done(), "there is nothing to be had after the soft timeout"
    gate.open.set()
    assert await loading == User("Ada")


# -- stale values


@pytest.mark.parametrize("shell", ["async", "sync"])
async def test_who_waits_for_anothers_refresh_is_served_the_stale_value_when_it_fails(
    fake_clock: FakeClock, async_cache: AsyncCache, shell: str
) -> None:
    await async_cache.set("key", "old", ttl=1, grace=60)
    fake_clock.advance(2)
    gate = Gate(OSError("the origin is away"))
    refreshing = asyncio.create_task(async_cache.refresh("key", gate))
    await settle()
    options: dict[str, Any] = {"soft_timeout": 3600}
    if shell == "async":
        waiting: Any = asyncio.create_task(async_cache.get_or_set("key", gate, **options))
    else:
        call = asyncio.to_thread(async_cache.sync().get_or_set, "key", lambda: "own", **options)
        waiting = asyncio.create_task(call)
    async with asyncio.timeout(10):
        while not async_cache.get_stats().joins:  # noqa: ASYNC110 - until it waits
            await asyncio.sleep(0.001)
    gate.open.set()
    with pytest.raises(OSError, match="the origin"):
        await refreshing
    assert await waiting == "old"


async def test_the_soft_timeout_is_for_all_keys_together(fake_clock: FakeClock, async_cache: AsyncCache) -> None:
    keys = [f"key-{number}" for number in range(20)]
    await async_cache.set_many(dict.fromkeys(keys, "old"), ttl=1, grace=60)
    fake_clock.advance(2)
    gate = Gate()
    asking = asyncio.create_task(async_cache.get_or_set_many(keys, gate, soft_timeout=1))
    await settle()
    fake_clock.advance(1)
    await settle()
    assert asking.done()
    assert await asking == dict.fromkeys(keys, "old")
    gate.open.set()
    await settle()
    assert await async_cache.get_many(keys) == dict.fromkeys(keys, "new")


# -- renewing early


@pytest.mark.parametrize("another_process", [False, True])
async def test_a_renewal_that_fails_is_not_tried_again_at_once(
    fake_clock: FakeClock, async_cache: AsyncCache, another_process: bool
) -> None:
    gate = Gate(OSError("the origin is away"))
    gate.open.set()
    await async_cache.set("key", "old")
    for calls, wait in ((1, 0), (1, 4), (2, 1), (2, 4.9)):
        fake_clock.advance(wait)
        if another_process:  # it knows of the failure by the lease alone
            async_cache._core.flights.retry_at.clear()
        assert await async_cache.get_or_set("key", gate, refresh_at=0, retry_after=5) == "old"
        if wait > 1 and not another_process:
            assert not async_cache._core.tasks, "nothing is even begun"
        await settle()
        assert gate.calls == calls


async def test_a_renewal_that_cannot_reach_the_server_raises_for_nobody(
    fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults
) -> None:
    """Not for who waits for it either, because he has no use for what is there."""
    await async_cache.set("key", "old")
    faults.delay(0.5, match="GET", times=1)
    assert await async_cache.get_or_set("key", lambda: "never", refresh_at=0) == "old"
    await settle()
    waiting = asyncio.create_task(async_cache.get_or_set("key", lambda: User("Ada"), type=User))
    await settle()
    assert async_cache.get_stats().joins == 1
    faults.disconnect()
    assert await waiting == User("Ada")
    assert async_cache.get_stats().errors == 1


async def test_while_the_server_is_away_not_every_read_tries_to_renew(
    fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults
) -> None:
    await async_cache.set("key", "old")
    faults.fail()
    for errors, wait in ((1, 0), (1, 4), (2, 1)):
        fake_clock.advance(wait)
        assert await async_cache.get_or_set("key", fail, refresh_at=0, retry_after=5) == "old"
        await settle()
        assert async_cache.get_stats().errors == errors


# -- retrying


async def test_a_value_that_was_set_since_a_load_failed_is_loaded_when_its_time_has_come(
    fake_clock: FakeClock, async_cache: AsyncCache
) -> None:
    await async_cache.set("key", "old", ttl=1, grace=600)
    fake_clock.advance(2)
    assert await async_cache.get_or_set("key", fail, retry_after=60, soft_timeout=10) == "old"
    await async_cache.set("key", "newer", ttl=1, grace=600)
    fake_clock.advance(2)
    assert await async_cache.get_or_set("key", lambda: "newest", soft_timeout=10) == "newest"


@pytest.mark.parametrize("by", ["negative_ttl", "the loader"])
async def test_a_value_with_a_time_of_its_own_is_renewed_by_that(
    fake_clock: FakeClock, async_cache: AsyncCache, by: str
) -> None:
    calls = 0

    def load() -> str | None:
        nonlocal calls
        calls += 1
        if by == "the loader":
            current_load().ttl = 5
        return None if by == "negative_ttl" else "value"

    for passed, expected in ((0, 1), (0, 1), (3.9, 1), (0.2, 2), (0, 2)):
        fake_clock.advance(passed)
        await async_cache.get_or_set("key", load, refresh_at=0.8, negative_ttl=5)
        await settle()
        assert calls == expected


# -- nobody is left waiting


async def test_a_load_that_was_cancelled_before_it_began_is_led_by_who_waits(async_cache: AsyncCache) -> None:
    """As when a program cancels every task and goes on."""
    asking = asyncio.create_task(async_cache.get_or_set("key", lambda: "loaded"))
    async with asyncio.timeout(10):
        while not (leading := list(async_cache._core.tasks)):  # noqa: ASYNC110
            await asyncio.sleep(0)
        leading[0].cancel()
        assert await asking == "loaded"
    assert len(async_cache._core.flights) == 0


def test_a_load_that_finds_no_thread_to_run_in_leaves_no_flight(
    fake_clock: FakeClock, sync_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sync_cache.set("key", "old", ttl=1, grace=60)
    fake_clock.advance(2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            sync_cache.get_or_set("key", lambda: "never")
    assert len(sync_cache._core.flights) == 0
    assert sync_cache.get_or_set("other", lambda: "new") == "new"


async def test_an_error_that_many_get_tells_of_none_of_the_others(async_cache: AsyncCache) -> None:
    gate = Gate(OSError("the origin is away"))
    asking = [asyncio.create_task(async_cache.get_or_set("key", gate)) for _ in range(100)]
    await settle()
    gate.open.set()
    errors = await asyncio.gather(*asking, return_exceptions=True)
    assert all(error is gate.value for error in errors)
    names = [frame.name for frame in traceback.extract_tb(gate.value.__traceback__)]
    assert names.count("get_or_set") == 1
    assert names.count("__call__") == 1, "the loader's own"


# -- write-through


async def test_what_cannot_be_stored_after_it_was_written_leaves_nothing_old(
    async_cache: AsyncCache, memory_settings: Settings
) -> None:
    shared = AsyncCache(60, "shared", wire="json")
    await shared.initialize(memory_settings)
    for options in ({"tags": ["tag"]}, {"grace": 1}):
        await shared.set("key", "old")
        with pytest.raises(InvalidArgument, match="native"):
            await shared.write_through("key", lambda: "written", **options)  # type: ignore[call-overload]
        assert await shared.get("key") is None


async def test_tags_that_are_none_are_refused_before_anything_is_written(async_cache: AsyncCache) -> None:
    written: list[int] = []
    with pytest.raises(InvalidArgument, match="tag"):
        await async_cache.write_through("key", lambda: written.append(1), tags=[""])
    assert written == []


async def test_a_stale_value_whose_class_is_gone_is_none_for_the_loader(
    fake_clock: FakeClock, async_cache: AsyncCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await async_cache.set("key", User("Ada"), ttl=1, grace=60)
    fake_clock.advance(2)
    monkeypatch.delattr(sys.modules[__name__], "User")

    def load() -> Any:
        load = current_load()
        assert (load.stale, load.stale_values) == (None, {})
        return "new"

    assert await async_cache.get_or_set("key", load, soft_timeout=10, type=str | dict[str, str]) == "new"


async def test_a_loader_that_refreshes_its_own_key_raises_instead_of_waiting_for_itself(
    async_cache: AsyncCache,
) -> None:
    async def load() -> Any:
        return await async_cache.refresh("key", lambda: "inner")

    async with asyncio.timeout(10):
        for ask in (async_cache.get_or_set, async_cache.refresh):
            with pytest.raises(WouldDeadlock, match="the key it is loading"):
                await ask("key", load)


async def test_many_are_renewed_early_in_one_call_of_the_loader(fake_clock: FakeClock, async_cache: AsyncCache) -> None:
    asked: list[list[str]] = []

    def load(keys: list[str]) -> dict[str, str]:
        asked.append(keys)
        return {key: f"{key} {len(asked)}" for key in keys if key != "c"}

    await async_cache.set_many({"a": "old", "b": "old", "c": "old"}, ttl=100)
    fake_clock.advance(60)
    await async_cache.set("late", "old", ttl=100)
    keys = ["late", "a", "b", "c", "missing"]
    for calls, first in ((2, "old"), (3, "a 1")):
        found = await async_cache.get_or_set_many(keys, load, refresh_at=0.5, retry_after=1000)
        assert (found["a"], found["c"], found["late"]) == (first, "old", "old")
        await settle()
        assert len(asked) == calls
    assert sorted(asked) == [["a", "b", "c"], ["c"], ["missing"]]


async def test_a_refresh_joins_no_load_that_began_before(fake_clock: FakeClock, async_cache: AsyncCache) -> None:
    """It waits for the lease, and is told that it was given back: time stands still, so there is no other way."""
    gate = Gate("before")
    loading = asyncio.create_task(async_cache.get_or_set("key", gate))
    await settle()
    refreshing = asyncio.create_task(async_cache.refresh("key", lambda: "newer"))
    await settle()
    gate.open.set()
    async with asyncio.timeout(10):
        assert [await loading, await refreshing, await async_cache.get("key")] == ["before", "newer", "newer"]


async def test_what_another_process_has_renewed_is_read_and_not_loaded(
    async_cache: AsyncCache, other: AsyncCache, faults: Faults
) -> None:
    await async_cache.set("key", "old")
    faults.drop_pushes()
    await other.set("key", "renewed")
    gate = Gate()
    assert await async_cache.get_or_set("key", gate, refresh_at=0) == "old", "nobody has told of it"
    await settle()
    assert gate.calls == 0
    assert await async_cache.get("key") == "renewed"


async def test_a_value_carries_its_namespaces_version_from_before_the_load(
    async_cache: AsyncCache, other: AsyncCache
) -> None:
    """Also when the loader names a tag, whose version is read after it."""
    gate = Gate("before the clear")

    async def load() -> Any:
        current_load().tags.append("tag")
        return await gate()

    loading = asyncio.create_task(async_cache.get_or_set("key", load))
    await settle()
    await other.clear()
    gate.open.set()
    assert await loading == "before the clear"
    assert [await async_cache.get("key"), await other.get("key")] == [None, None]


async def test_the_lease_of_a_load_that_was_cancelled_in_this_process_is_taken_over_at_once(
    fake_clock: FakeClock, async_cache: AsyncCache
) -> None:
    """Time stands still, so that the process's sign of life does not end."""
    gate = Gate()
    asking = asyncio.create_task(async_cache.get_or_set("key", gate))
    await settle()
    (leading,) = async_cache._core.tasks
    leading.cancel()
    gate.open.set()
    async with asyncio.timeout(10):
        assert await asking == "new"
    assert gate.calls == 2
