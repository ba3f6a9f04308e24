"""A near copy answers for a server that is slow or away, and what was loaded meanwhile is not loaded again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from nearcache import AsyncCache, Cache, Settings, current_load
from nearcache.client import Client
from nearcache.errors import CommandTimeout, ConnectionFailed
from nearcache.testing import FakeClock, Faults
from nearcache.transport.endpoint import parse_url

SOFT = Settings(_env_file=None).soft_timeout
NEAR_TTL = Settings(_env_file=None).near_ttl


class Loads:
    def __init__(self, *values: Any) -> None:
        self.values = list(values)
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


def behind(cache: AsyncCache) -> bool:
    """Whether a read goes on whose caller was not to wait for it."""
    return cache._core.tier.trouble.slow


async def after_soft_timeout(fake_clock: FakeClock, reading: asyncio.Task[Any]) -> Any:
    await asyncio.to_thread(fake_clock.wait_for_timer, SOFT)
    assert not reading.done()
    fake_clock.advance(SOFT)
    return await reading


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def asked_again(fake_clock: FakeClock, cache: AsyncCache) -> None:
    """Let a value be near, and of an age at which the server is asked again."""
    assert await cache.set("key", "value")
    assert await cache.get("key") == "value"
    fake_clock.advance(NEAR_TTL)


# -- a server that is slow


async def test_a_near_copy_answers_for_a_slow_server(
    fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults
) -> None:
    await asked_again(fake_clock, async_cache)
    faults.delay(0.9, match="GET", times=1)
    reading = asyncio.create_task(async_cache.get("key"))
    assert await after_soft_timeout(fake_clock, reading) == "value"
    assert behind(async_cache)
    # While it is known to be slow nobody else waits.
    assert await async_cache.get("key") == "value"
    assert async_cache.get_stats().stale == 2
    fake_clock.advance(0.9)
    await settle()
    assert not behind(async_cache)
    # The reply that was late is what is near now.
    assert (await async_cache.lookup("key")).remaining == pytest.approx(3600 - NEAR_TTL - SOFT, abs=1)
    faults.fail()
    assert await async_cache.get("key") == "value"
    assert async_cache.get_stats().stale == 2


def test_a_near_copy_answers_for_a_slow_server_in_a_thread(
    fake_clock: FakeClock, sync_cache: Cache, faults: Faults
) -> None:
    assert sync_cache.set("key", "value")
    fake_clock.advance(NEAR_TTL)
    faults.delay(0.9, match="GET", times=1)
    got: list[Any] = []
    reading = threading.Thread(target=lambda: got.append(sync_cache.get("key")))
    reading.start()
    fake_clock.wait_for_timer(SOFT)
    assert not got
    fake_clock.advance(SOFT)
    reading.join(20)
    assert got == ["value"]
    assert sync_cache.get("key") == "value"
    late: Any = next(iter(sync_cache._core.tier.trouble._late))
    landed = threading.Event()
    late.when_landed(landed.set)
    fake_clock.advance(0.9)
    assert landed.wait(20)
    assert not sync_cache._core.tier.trouble.slow


async def test_a_read_whose_loop_is_gone_is_not_late_for_ever(fake_clock: FakeClock, async_cache: AsyncCache) -> None:
    trouble = async_cache._core.tier.trouble
    trouble.late(object())
    fake_clock.advance(4.9)
    assert trouble.slow
    fake_clock.advance(0.1)
    assert not trouble.slow
    trouble.late(read := object())
    assert len(trouble._late) == 1
    trouble.ended(read)
    assert not trouble.slow


async def test_trouble_ends_though_nobody_says_so(fake_clock: FakeClock, async_cache: AsyncCache) -> None:
    """A node that was lost may be replaced by one whose connection was never lost."""
    trouble = async_cache._core.tier.trouble
    trouble.connection_lost()
    fake_clock.advance(3.4)
    assert trouble.lasts
    fake_clock.advance(0.2)
    assert not trouble.lasts


async def test_what_has_expired_is_waited_for_though_others_found_the_server_slow(
    fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults
) -> None:
    """Another read's slow reply is no reason to take what is stale for a hit."""
    await async_cache.set("short", "old", ttl=NEAR_TTL, grace=600)
    await async_cache.set("tagged", "old", tags=["tag"], grace=600)
    await asked_again(fake_clock, async_cache)
    await async_cache.expire_tags("tag")
    await async_cache.get("tagged")  # its version is read
    faults.delay(0.9, match=lambda command: async_cache._core.namespace.key("key") in command)
    reading = asyncio.create_task(async_cache.get("key"))
    assert await after_soft_timeout(fake_clock, reading) == "value"
    assert behind(async_cache)
    assert await async_cache.get("short") is None
    assert await async_cache.get("tagged") is None
    assert await async_cache.get("key") == "value"


def test_a_thread_that_cannot_be_started_is_no_error(
    fake_clock: FakeClock, sync_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sync_cache.set("key", "value")
    fake_clock.advance(NEAR_TTL)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert sync_cache.get("key") == "value"


async def test_several_keys(fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults) -> None:
    await asked_again(fake_clock, async_cache)
    await async_cache.set("young", 1)
    faults.delay(0.9)
    reading = asyncio.create_task(async_cache.get_many(["key", "young"]))
    assert await after_soft_timeout(fake_clock, reading) == {"key": "value", "young": 1}


async def test_what_is_not_near_is_waited_for(fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults) -> None:
    await asked_again(fake_clock, async_cache)
    faults.delay(0.9)
    reading = asyncio.create_task(async_cache.get_many(["key", "absent"]))
    await settle()
    fake_clock.advance(0.9)
    assert await reading == {"key": "value"}
    assert async_cache.get_stats().stale == 0


@pytest.mark.parametrize("options", [{"near": False}, {"strict": True}])
async def test_who_wants_the_servers_word_waits(
    fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults, options: dict[str, bool], memory_settings: Settings
) -> None:
    await asked_again(fake_clock, async_cache)
    exact = AsyncCache(3600, "test", **options)  # type: ignore[arg-type]
    await exact.initialize(memory_settings)
    faults.delay(0.9)
    reading = asyncio.create_task(exact.get("key"))
    await settle()
    fake_clock.advance(0.89)
    await settle()
    assert not reading.done()
    fake_clock.advance(0.01)
    assert await reading == "value"


async def test_a_reply_in_time_counts(
    fake_clock: FakeClock, async_cache: AsyncCache, other: AsyncCache, faults: Faults
) -> None:
    await asked_again(fake_clock, async_cache)
    faults.drop_pushes()
    await other.set("key", "new")
    faults.delay(SOFT / 2)
    reading = asyncio.create_task(async_cache.get("key"))
    await settle()
    fake_clock.advance(SOFT / 2)
    assert await reading == "new"


async def test_what_was_invalidated_does_not_answer(
    fake_clock: FakeClock, async_cache: AsyncCache, other: AsyncCache, faults: Faults
) -> None:
    await asked_again(fake_clock, async_cache)
    await other.clear(wait=False)
    faults.delay(0.9)
    reading = asyncio.create_task(async_cache.get("key"))
    for _ in range(4):  # the counter, and the value
        await settle()
        fake_clock.advance(0.9)
    assert await reading is None


@pytest.mark.parametrize(("seconds", "answer"), [(0.9, "value"), (1.1, "new")])
async def test_after_a_connection_came_back_an_unheard_change_is_soon_seen(
    fake_clock: FakeClock, async_cache: AsyncCache, other: AsyncCache, faults: Faults, seconds: float, answer: str
) -> None:
    """A copy that no connection vouches for may stand in for a second; then the server's word is waited for."""
    await async_cache.set("key", "value")
    faults.drop_pushes()
    await other.set("key", "new")
    faults.disconnect()
    async_cache._core.tier.trouble.connected()  # memory:// comes back at once, and nobody is told
    fake_clock.advance(seconds)
    faults.delay(0.5)
    reading = asyncio.create_task(async_cache.get("key"))
    await settle()
    fake_clock.advance(SOFT)
    await settle()
    assert reading.done() == (answer == "value")
    fake_clock.advance(0.5)
    assert await reading == answer
    await settle()
    assert await async_cache.get("key") == "new"


async def test_as_long_as_commands_fail_it_stands_in(
    fake_clock: FakeClock, async_cache: AsyncCache, other: AsyncCache, faults: Faults
) -> None:
    await async_cache.set("key", "value")
    faults.disconnect()
    fake_clock.advance(100)
    faults.fail(CommandTimeout, times=1)
    assert not await async_cache.exists("another")
    fake_clock.advance(0.9)
    faults.delay(0.5)
    reading = asyncio.create_task(async_cache.get("key"))
    assert await after_soft_timeout(fake_clock, reading) == "value"


async def test_a_read_that_gets_no_further_than_the_value_leaves_the_same_copy(
    async_cache: AsyncCache, faults: Faults
) -> None:
    """After a connection was lost the versions of tags have to be read again, after the value."""
    await async_cache.set("key", "value", tags=["tag"])
    faults.disconnect()
    tag = async_cache._core.namespace.tag_counter(b"tag")
    faults.fail(match=lambda command: tag in command)
    assert await async_cache.get("key") == "value"
    assert await async_cache.get("key") == "value"
    assert async_cache.get_stats().stale == 2


async def test_but_not_an_older_one(async_cache: AsyncCache, other: AsyncCache, faults: Faults) -> None:
    await async_cache.set("key", "value", tags=["tag"])
    faults.drop_pushes()
    await other.set("key", "newer", tags=["tag"])
    faults.disconnect()
    tag = async_cache._core.namespace.tag_counter(b"tag")
    faults.fail(match=lambda command: tag in command)
    assert await async_cache.get("key") is None, "somebody may have been told of the newer one"
    faults.heal()
    assert await async_cache.get("key") == "newer"


# -- a server that is away


async def test_what_was_loaded_without_a_server_is_not_loaded_again(async_cache: AsyncCache, faults: Faults) -> None:
    load = Loads("one", "two")
    faults.fail()
    assert [await async_cache.get_or_set("key", load) for _ in range(3)] == ["one"] * 3
    assert load.calls == 1
    assert await async_cache.get("key") is None, "reads that load nothing do not see it"
    assert (await async_cache.lookup("key")).state == "absent"
    assert await async_cache.get_or_set_many(["key"], lambda keys: {}) == {"key": "one"}
    faults.heal()
    assert await async_cache.get("key") is None
    assert await async_cache.get_or_set("key", load) == "two"


def test_nor_in_a_thread(sync_cache: Cache, faults: Faults) -> None:
    load = Loads("one", "two")
    faults.fail()
    assert [sync_cache.get_or_set("key", load) for _ in range(3)] == ["one"] * 3
    faults.heal()
    assert sync_cache.get_or_set("key", load) == "two"


async def test_it_ends_with_its_time_to_live(fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults) -> None:
    load = Loads("one", "two")
    faults.fail()
    assert await async_cache.get_or_set("key", load, ttl=60) == "one"
    fake_clock.advance(59)
    assert await async_cache.get_or_set("key", load, ttl=60) == "one"
    fake_clock.advance(1)
    assert await async_cache.get_or_set("key", load, ttl=60) == "two"


Change = Callable[[AsyncCache], Any]
CHANGES: dict[str, Change] = {
    "set": lambda cache: cache.set("key", "other"),
    "delete": lambda cache: cache.delete("key"),
    "expire": lambda cache: cache.expire("key", 60),
    "clear": lambda cache: cache.clear(),
    "tags": lambda cache: cache.invalidate_tags("tag"),
    "expire_tags": lambda cache: cache.expire_tags("tag"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_own_changes_end_it(async_cache: AsyncCache, faults: Faults, change: Change) -> None:
    load = Loads("one", "two")
    faults.fail()
    assert await async_cache.get_or_set("key", load, tags=["tag"]) == "one"
    await change(async_cache)
    assert await async_cache.get_or_set("key", load, tags=["tag"]) == "two"
    assert await async_cache.get_or_set("key", load, tags=["tag"]) == "two"
    assert load.calls == 2


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_during_the_load_keeps_it_out(async_cache: AsyncCache, faults: Faults, change: Change) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        began.set()
        await go_on.wait()
        return "old"

    faults.fail()
    loading = asyncio.create_task(async_cache.get_or_set("key", load, tags=["tag"]))
    await began.wait()
    await change(async_cache)
    go_on.set()
    assert await loading == "old"
    assert await async_cache.get_or_set("key", Loads("new"), tags=["tag"]) == "new"


async def test_a_lost_connection_ends_it(async_cache: AsyncCache, faults: Faults) -> None:
    """While it was there, somebody may have changed the value, and nobody would have told."""
    load = Loads("one", "two")
    faults.fail()
    assert await async_cache.get_or_set("key", load) == "one"
    faults.disconnect()
    assert await async_cache.get_or_set("key", load) == "two"


async def test_what_is_heard_of_a_tag_ends_it(async_cache: AsyncCache, other: AsyncCache, faults: Faults) -> None:
    """One connection may fail while another one hears what the server pushes."""
    load = Loads("one", "two")
    await async_cache.set("another", 1, tags=["tag"])
    await async_cache.get("another")
    faults.fail()
    assert await async_cache.get_or_set("key", load, tags=["tag"]) == "one"
    await other.invalidate_tags("tag")
    assert await async_cache.get_or_set("key", load, tags=["tag"]) == "two"


async def test_not_what_is_loaded_without_a_lease_for_another_reason(async_cache: AsyncCache, faults: Faults) -> None:
    """The value of a newer release is nothing to this one, and is not replaced."""
    load = Loads("one", "two")
    key = async_cache._core.namespace.key("key")
    async_cache._core.client._memory._store.execute(("SET", key, b"\xc1\x63" + bytes(60)))  # type: ignore[union-attr]
    assert await async_cache.get_or_set("key", load) == "one"
    faults.fail()
    assert await async_cache.get_or_set("key", load) == "two"


async def test_not_what_is_not_to_be_stored(async_cache: AsyncCache, faults: Faults) -> None:
    def load() -> str:
        current_load().do_not_store()
        return "private"

    faults.fail()
    assert await async_cache.get_or_set("key", load) == "private"
    assert await async_cache.get_or_set("key", Loads("new")) == "new"


async def test_not_without_a_near_tier(memory_settings: Settings) -> None:
    cache = AsyncCache(3600, "test")
    url = memory_settings.redis_url.get_secret_value()  # type: ignore[union-attr]
    settings = Settings(redis_url=url, near_enabled=False, _env_file=None)
    cache._core.bind(Client("plain", parse_url(url, variable="REDIS_URL"), settings))
    load = Loads("one", "two")
    with Faults(cache) as faults:
        faults.fail()
        assert [await cache.get_or_set("key", load) for _ in range(2)] == ["one", "two"]


async def test_a_server_that_did_not_answer_in_time_is_asked_once_per_call(
    fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults
) -> None:
    """Its deadline is waited for once: the load needs no lease then, and what it gives is kept in this process."""
    asked: list[str] = []
    faults.fail(CommandTimeout, match=lambda command: not asked.append(str(command[0])))  # type: ignore[func-returns-value]
    assert await async_cache.get_or_set("key", Loads("one")) == "one"
    assert asked == ["GET", "PTTL", "EVAL"], "the value, and the namespace's version"
    assert await async_cache.get_or_set("key", Loads("two")) == "one"


async def test_one_whose_connection_was_lost_is(async_cache: AsyncCache, faults: Faults) -> None:
    """That costs no time, and other processes may have one."""
    asked: list[str] = []
    faults.fail(ConnectionFailed, match=lambda command: not asked.append(str(command[0])))  # type: ignore[func-returns-value]
    assert await async_cache.get_or_set("key", Loads("one")) == "one"
    assert asked[3:], "a lease"
