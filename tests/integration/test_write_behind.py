"""Both write-behind shells against a real server: readable at once, written soon, drained at shutdown."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from nearcache import (
    AsyncCache,
    Cache,
    CodecError,
    InvalidTTL,
    MultiRedisConnectionManager,
    NotInitialized,
    Settings,
    get_multi_redis_connection_manager,
)
from nearcache.write_behind import AsyncWriteBehind, WriteBehind, buffer, queue

from ..servers import ValkeyServer, wait_until


class Database:
    """What the writer writes to: it can be down, and it can take its time."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {}
        self.down = False
        self.attempts = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def write(self, key: str, value: Any) -> None:
        self.attempts += 1
        self.entered.set()
        assert self.open.wait(30)
        if self.down:
            raise ConnectionRefusedError("the database is down")
        self.rows.setdefault(key, []).append(value)

    async def write_async(self, key: str, value: Any) -> None:
        self.attempts += 1
        self.entered.set()
        assert await asyncio.to_thread(self.open.wait, 30)
        if self.down:
            raise ConnectionRefusedError("the database is down")
        self.rows.setdefault(key, []).append(value)


class Subject:
    """Either shell, called from a coroutine."""

    def __init__(self, behind: AsyncWriteBehind | WriteBehind, cache: AsyncCache) -> None:
        self.behind = behind
        self.cache = cache

    async def set(self, key: str, value: Any) -> bool:
        if isinstance(self.behind, AsyncWriteBehind):
            return await self.behind.set(key, value)
        return await asyncio.to_thread(self.behind.set, key, value)

    async def drain(self) -> int:
        if isinstance(self.behind, AsyncWriteBehind):
            return await self.behind.drain()
        return await asyncio.to_thread(self.behind.drain)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await asyncio.to_thread(wait_until, condition, what)


@pytest.fixture
async def manager() -> AsyncIterator[MultiRedisConnectionManager]:
    manager = get_multi_redis_connection_manager()
    yield manager
    await manager.disconnect_all()


@pytest.fixture
async def cache(manager: MultiRedisConnectionManager, url: str) -> AsyncCache:
    cache = AsyncCache(3600, "behind")
    await cache.initialize(Settings(redis_url=url, _env_file=None))
    return cache


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture(params=["async", "async with a plain writer", "sync"])
def subject(request: pytest.FixtureRequest, cache: AsyncCache, database: Database) -> Subject:
    return make_subject(request.param, cache, database)


@pytest.fixture(params=["async", "sync"])
def hanging(request: pytest.FixtureRequest, cache: AsyncCache, database: Database) -> Subject:
    """One whose writer may hang; a plain one that hangs on a loop hangs the loop."""
    return make_subject(request.param, cache, database)


def make_subject(kind: str, cache: AsyncCache, database: Database) -> Subject:
    if kind == "sync":
        return Subject(cache.sync().write_behind(database.write), cache)
    return Subject(cache.write_behind(database.write_async if kind == "async" else database.write), cache)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off and bounds in milliseconds; the buffer's own tests have the real ones."""
    monkeypatch.setattr(buffer, "_BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(buffer, "_BACKOFF_MOST", 0.01)
    monkeypatch.setattr(buffer, "_BACKOFF_HASTENED", 0.01)
    monkeypatch.setattr(queue, "_DRAIN", 0.2)
    monkeypatch.setattr(queue, "_CANCEL", 0.1)


async def test_a_value_is_readable_at_once_and_written_soon(subject: Subject, database: Database) -> None:
    assert await subject.set("user:1", {"name": "Ada"}) is True
    assert await subject.cache.get("user:1") == {"name": "Ada"}
    await subject.until(lambda: database.rows == {"user:1": [{"name": "Ada"}]}, "the value to be written")
    await subject.until(lambda: subject.behind.pending == 0, "nothing to be pending")


async def test_values_of_a_key_are_written_in_order(subject: Subject, database: Database) -> None:
    for number in range(30):
        for key in ("a", "b", "c"):
            await subject.set(key, number)
    assert await subject.drain() == 0
    assert database.rows == {key: list(range(30)) for key in ("a", "b", "c")}


async def test_a_writer_that_fails_is_tried_again_until_it_recovers(
    subject: Subject, database: Database, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nearcache.write_behind")
    monkeypatch.setattr(subject.behind._buffer, "_attempts", 1_000_000)
    database.down = True
    for number in range(3):
        await subject.set("key", number)
        await subject.set(f"other {number}", number)
    await subject.until(lambda: database.attempts >= 30, "more attempts")
    assert subject.behind.pending == 6
    database.down = False
    await subject.until(lambda: subject.behind.pending == 0, "everything to be written")
    assert database.rows == {"key": [0, 1, 2], "other 0": [0], "other 1": [1], "other 2": [2]}
    first, *_ = lines = [record.getMessage() for record in caplog.records]
    assert "the database is down" in first
    assert any("works again" in line for line in lines)
    assert len(lines) < 6, "one line for each change, not for each attempt"


async def test_a_value_nobody_can_write_is_given_up_by_name(
    subject: Subject, database: Database, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    database.down = True
    await subject.set("poison", 1)
    await subject.until(lambda: subject.behind.pending == 0, "it to be given up")
    assert database.attempts == 10
    (error,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert error.startswith("write-behind of 'poison' given up after 10 attempts: ConnectionRefusedError(")


async def test_disconnecting_drains_first(
    subject: Subject, database: Database, manager: MultiRedisConnectionManager
) -> None:
    for number in range(100):
        await subject.set(f"key {number}", number)
    await manager.disconnect_all()
    assert sorted(database.rows) == sorted(f"key {number}" for number in range(100))
    with pytest.raises(NotInitialized):
        await subject.set("late", 1)
    assert subject.behind.pending == 0


async def test_draining_does_not_wait_for_back_off(
    subject: Subject, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_BACKOFF_FIRST", "_BACKOFF_MOST"):
        monkeypatch.setattr(buffer, name, 3600.0)
    database.down = True
    subject.behind._buffer.relax()
    await subject.set("key", 1)
    await subject.until(subject.behind._buffer.next_due, "the first attempt to fail")
    database.down = False
    assert await subject.drain() == 0
    assert database.rows == {"key": [1]}


async def test_a_drain_is_bounded(
    hanging: Subject, database: Database, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    database.open.clear()
    for number in range(10):
        await hanging.set(f"key {number}", number)
    await hanging.until(database.entered.is_set, "a writer to hang")
    assert await hanging.drain() == 10
    assert "10 values did not reach the writer" in caplog.text
    database.open.set()


async def test_what_a_drain_left_is_written_when_it_goes_on(hanging: Subject, database: Database, quick: None) -> None:
    database.open.clear()
    await hanging.set("a", 1)
    await hanging.set("a", 2)
    await hanging.until(database.entered.is_set, "a writer to hang")
    await hanging.drain()
    database.open.set()
    await hanging.set("b", 1)
    await hanging.until(lambda: hanging.behind.pending == 0, "everything to be written")
    assert database.rows == {"a": [1, 2], "b": [1]}


async def test_set_during_a_drain_is_drained_too(hanging: Subject, database: Database) -> None:
    database.open.clear()
    await hanging.set("a", 1)
    await hanging.until(database.entered.is_set, "a writer to hang")
    draining = asyncio.create_task(hanging.drain())
    await hanging.until(lambda: hanging.behind._buffer._backoff_most == 1.0, "the drain to have begun")
    await hanging.set("a", 2)
    database.open.set()
    assert await draining == 0
    assert database.rows == {"a": [1, 2]}


async def test_it_works_again_after_a_drain(subject: Subject, database: Database) -> None:
    for number in range(3):
        await subject.set("key", number)
        assert await subject.drain() == 0
    assert database.rows == {"key": [0, 1, 2]}


async def test_draining_often_costs_nothing_at_shutdown(subject: Subject, manager: MultiRedisConnectionManager) -> None:
    for number in range(5):
        await subject.set("key", number)
        await subject.drain()
    assert len(manager._at_close) == 1


@pytest.mark.parametrize(("value", "error"), [(object(), CodecError), ({1: {2: object()}}, CodecError)])
async def test_what_cannot_be_cached_is_not_written(
    subject: Subject, database: Database, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await subject.set("key", value)
    assert await subject.drain() == 0
    assert database.rows == {}


async def test_a_wrong_ttl_is_an_error_of_set(cache: AsyncCache, database: Database) -> None:
    behind = cache.write_behind(database.write, ttl=0)
    with pytest.raises(InvalidTTL):
        await behind.set("key", 1)
    assert behind.pending == 0


async def test_ttl_and_namespace(cache: AsyncCache, database: Database, server: ValkeyServer) -> None:
    await cache.write_behind(database.write, ttl=60, namespace="elsewhere").set("key", 1)
    assert server.command("PTTL", "elsewhere:key") in range(55_000, 60_001)


async def test_many_more_than_are_kept(hanging: Subject, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """``set`` waits for room, and whoever waits gets it."""
    monkeypatch.setattr(queue, "_MAX_PENDING", 3)
    database.open.clear()
    setting = [asyncio.create_task(hanging.set(f"key {number}", number)) for number in range(8)]
    await hanging.until(lambda: hanging.behind.pending >= 3, "the buffer to be full")
    assert not all(task.done() for task in setting)
    database.open.set()
    assert await asyncio.gather(*setting) == [True] * 8
    assert await hanging.drain() == 0
    assert len(database.rows) == 8


async def test_the_writer_gets_it_while_the_cache_is_away(
    manager: MultiRedisConnectionManager, fresh_server: ValkeyServer, database: Database
) -> None:
    cache = AsyncCache(3600, "behind")
    await cache.initialize(Settings(redis_url=fresh_server.url, _env_file=None))
    behind = cache.write_behind(database.write_async)
    fresh_server.kill()
    assert await behind.set("key", 1) is False
    assert await behind.drain() == 0
    assert database.rows == {"key": [1]}


async def test_a_caller_that_is_cancelled_does_not_part_cache_and_writer(
    cache: AsyncCache, database: Database, server: ValkeyServer
) -> None:
    behind = cache.write_behind(database.write_async)
    await behind.set("key", "old")
    setting = asyncio.create_task(behind.set("key", "new"))
    await asyncio.sleep(0)  # the command is on its way
    setting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await setting
    assert await behind.drain() == 0
    # Whether the server has it is not known, so it is removed: nobody may read "old" beside the writer's "new".
    assert database.rows["key"][-1] == "new"
    assert await cache.get("key") in {None, "new"}


async def test_a_writer_that_cancels_what_it_waits_for_is_a_writer_that_fails(cache: AsyncCache, quick: None) -> None:
    """A ``CancelledError`` from inside must not end the worker and leave the key taken for ever."""
    rows: list[Any] = []

    async def writer(key: str, value: Any) -> None:
        if len(rows) < 6:
            rows.append("cancelled")
            inner = asyncio.create_task(asyncio.sleep(60))
            inner.cancel()
            await inner
        rows.append(value)

    behind = cache.write_behind(writer)
    for number in range(3):
        await behind.set(f"key {number}", number)
    assert await behind.drain() == 0
    assert sorted(rows[6:]) == [0, 1, 2]


async def test_a_thread_survives_a_writer_that_exits(cache: AsyncCache, quick: None) -> None:
    rows: list[Any] = []

    def writer(key: str, value: Any) -> None:
        if len(rows) < 5:
            rows.append("exit")
            sys.exit(1)
        rows.append(value)

    behind = cache.sync().write_behind(writer)
    await asyncio.to_thread(behind.set, "key", 7)
    await asyncio.to_thread(wait_until, lambda: behind.pending == 0, "it to be written")
    assert rows[5:] == [7]


def test_threads_that_set_the_same_key_agree_with_the_writer(url: str, database: Database) -> None:
    """What is written last is what the cache has."""
    cache = Cache(3600, "behind")
    cache.initialize(Settings(redis_url=url, _env_file=None))
    try:
        for round_number in range(5):
            behind = cache.write_behind(database.write)
            barrier = threading.Barrier(8)

            def work(number: int, behind: WriteBehind = behind, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                for step in range(20):
                    behind.set("key", (number, step))

            threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert behind.drain() == 0
            assert database.rows["key"][-1] == cache.get("key"), f"in round {round_number}"
            assert len(database.rows.pop("key")) == 160
    finally:
        get_multi_redis_connection_manager().close()


def test_a_program_without_a_loop_drains_when_it_closes(url: str, database: Database) -> None:
    cache = Cache(3600, "behind")
    cache.initialize(Settings(redis_url=url, _env_file=None))
    behind = cache.write_behind(database.write)
    behind.set("key", 1)
    get_multi_redis_connection_manager().close()
    assert database.rows == {"key": [1]}


def test_the_next_loop_takes_over_from_one_that_has_ended(url: str) -> None:
    """``asyncio.run`` cancels the workers: what they had in hand is written by the loop that disconnects."""
    settings = Settings(redis_url=url, _env_file=None)
    cache = AsyncCache(3600, "behind")
    rows: list[Any] = []
    hang = True

    async def writer(key: str, value: Any) -> None:
        if hang:
            entered.set()
            await asyncio.Event().wait()
        rows.append(value)

    async def first() -> None:
        await cache.initialize(settings)
        for number in range(3):
            await behind.set("key", number)
        await entered.wait()

    entered = asyncio.Event()
    behind = cache.write_behind(writer)
    asyncio.run(first())
    assert behind.pending == 3
    hang = False
    get_multi_redis_connection_manager().close()
    assert rows == [0, 1, 2]


async def test_another_loop_that_runs_hands_its_values_over(cache: AsyncCache, database: Database) -> None:
    behind = cache.write_behind(database.write_async)
    await behind.set("key", 1)
    assert await asyncio.to_thread(lambda: asyncio.run(behind.set("key", 2))) is True
    assert await asyncio.to_thread(lambda: asyncio.run(behind.drain())) == 0
    assert database.rows == {"key": [1, 2]}
