"""What every operation returns and does, as the specification has it."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nearcache import (
    AsyncCache,
    ConfigurationError,
    InvalidArgument,
    InvalidKey,
    InvalidNamespace,
    InvalidTTL,
    Settings,
    WouldDeadlock,
    get_multi_redis_connection_manager,
)
from nearcache.errors import CodecError

from .conftest import Shell


async def test_get_returns_what_was_set_with_its_type(cache: Shell) -> None:
    value = {"when": datetime(2026, 1, 2, tzinfo=UTC), "tuple": (1, 2), "none": None}
    assert await cache.set("key", value) is True
    assert await cache.get("key") == value
    assert type((await cache.get("key"))["tuple"]) is tuple


async def test_miss_gives_default(cache: Shell) -> None:
    missing = object()
    assert await cache.get("nothing") is None
    assert await cache.get("nothing", missing) is missing


async def test_cached_none_is_not_a_miss(cache: Shell) -> None:
    await cache.set("none", None)
    assert await cache.get("none", "default") is None
    assert await cache.exists("none") is True


async def test_values_are_copies(cache: Shell) -> None:
    await cache.set("list", [1])
    (await cache.get("list")).append(2)
    assert await cache.get("list") == [1]


async def test_exists_and_delete(cache: Shell) -> None:
    assert await cache.exists("key") is False
    assert await cache.delete("key") is False
    await cache.set("key", 1)
    assert await cache.exists("key") is True
    assert await cache.delete("key") is True
    assert await cache.get("key") is None


async def test_ttl(cache: Shell) -> None:
    assert await cache.ttl("key") == -2
    await cache.set("key", 1)
    assert await cache.ttl("key") in (3599, 3600)
    await cache.set("key", 1, ttl=1.5)
    assert await cache.ttl("key") in (1, 2)
    await cache.set("key", 1, ttl=timedelta(minutes=2))
    assert await cache.ttl("key") in (119, 120)
    await cache.set("key", 1, ttl=None)
    assert await cache.ttl("key") == -1


async def test_expire(cache: Shell) -> None:
    assert await cache.expire("key", 10) is False
    assert await cache.expire("key", None) is False
    await cache.set("key", 1)
    assert await cache.expire("key", 10) is True
    assert await cache.ttl("key") in (9, 10)
    assert await cache.expire("key", None) is True
    assert await cache.ttl("key") == -1
    assert await cache.expire("key", None) is True
    assert await cache.expire("key") is True
    assert await cache.ttl("key") in (3599, 3600)


async def test_get_many_keeps_the_asked_order_and_leaves_out_what_is_missing(cache: Shell) -> None:
    assert await cache.set_many({"a": 1, "b/c": 2, "d": None}) is True
    found = await cache.get_many(["d", "nothing", "b/c", "a", "d"])
    assert list(found.items()) == [("d", None), ("b/c", 2), ("a", 1)]
    assert await cache.get_many([]) == {}


async def test_one_text_is_not_several_keys(cache: Shell) -> None:
    for call in (cache.get_many("abc"), cache.delete_many("abc"), cache.get_or_set_many("abc", lambda keys: {})):
        with pytest.raises(InvalidKey, match="list"):
            await call


async def test_delete_many_counts(cache: Shell) -> None:
    await cache.set_many({"a": 1, "b": 2})
    assert await cache.delete_many(["a", "nothing", "b"]) == 2
    assert await cache.delete_many([]) == 0


async def test_set_many_of_nothing(cache: Shell) -> None:
    assert await cache.set_many({}) is True


async def test_namespace_of_a_call(cache: Shell) -> None:
    await cache.set("key", "own")
    await cache.set("key", "other", namespace="other")
    assert await cache.get("key") == "own"
    assert await cache.get("key", namespace="other") == "other"
    assert await cache.get_many(["key"], namespace="other") == {"key": "other"}
    assert await cache.delete("key", namespace="other") is True
    assert await cache.get("key") == "own"


async def test_clear_counts_and_touches_no_other_namespace(cache: Shell) -> None:
    await cache.set_many({f"key:{n}": n for n in range(1_234)})
    await cache.set("key", 1, namespace="app2")
    await cache.set("key", 1, namespace="ap")
    assert await cache.clear() == 1_234
    assert await cache.get("key:0") is None
    assert await cache.exists("key:0") is False
    assert await cache.ttl("key:0") == -2
    assert await cache.clear() == 0
    assert await cache.get("key", namespace="app2") == 1
    assert await cache.clear("ap") == 1
    assert await cache.clear("never used") == 0


async def test_clear_without_waiting_is_valid_at_once(cache: Shell) -> None:
    await cache.set("old", 1)
    assert await cache.clear(wait=False) is None
    assert await cache.get("old") is None
    await cache.set("new", 2)
    assert await cache.get("new") == 2


async def test_clear_removes_json_which_has_no_version(settings: Settings) -> None:
    cache = AsyncCache(3600, "app", wire="json")
    try:
        if settings.encryption_keys:
            with pytest.raises(ConfigurationError, match="json"):
                await cache.initialize(settings)
            return
        await cache.initialize(settings)
        await cache.set("key", [1])
        assert await cache.get("key") == [1]
        assert await cache.clear() == 1
        assert await cache.get("key") is None, "nor is it kept in this process, whom the server tells nothing"
    finally:
        await get_multi_redis_connection_manager().disconnect_all()


@pytest.mark.parametrize("key", ["\n", "a\x00b", "*", "{tag}", "ключ", "x" * 1_000_000, "\ud800", "a b", "~", "a~b"])
async def test_unusual_keys_are_keys_like_others(cache: Shell, key: str) -> None:
    await cache.set(key, "value")
    await cache.set(key + "2", "neighbour")
    assert await cache.get(key) == "value"
    assert await cache.get_many([key]) == {key: "value"}
    assert await cache.delete(key) is True
    assert await cache.get(key + "2") == "neighbour"


@pytest.mark.parametrize("key", ["", 1, None, b"bytes", ["list"]])
async def test_keys_that_are_none(cache: Shell, key: Any) -> None:
    for call in (
        cache.get(key),
        cache.set(key, 1),
        cache.delete(key),
        cache.ttl(key),
        cache.exists(key),
        cache.expire(key, 1),
    ):
        with pytest.raises(InvalidKey):
            await call


@pytest.mark.parametrize("namespace", ["", 1, b"bytes"])
async def test_namespaces_that_are_none(cache: Shell, namespace: Any) -> None:
    for call in (
        cache.get("key", namespace=namespace),
        cache.set("key", 1, namespace=namespace),
        cache.clear(namespace),
    ):
        with pytest.raises(InvalidNamespace):
            await call


@pytest.mark.parametrize("namespace", ["a:b", "a~b", "*", "\n", "нс", "x" * 10_000])
async def test_unusual_namespaces_stay_apart(cache: Shell, namespace: str) -> None:
    await cache.set("key", "theirs", namespace=namespace)
    await cache.set("b:key", "a's", namespace="a")
    assert await cache.get("key", namespace=namespace) == "theirs"
    assert await cache.clear(namespace) == 1
    assert await cache.get("b:key", namespace="a") == "a's"


@pytest.mark.parametrize(
    "ttl", [0, -1, 0.0, float("nan"), float("inf"), 10**30, True, "60", timedelta(0), timedelta(days=-1), [1]]
)
async def test_times_that_are_none(cache: Shell, ttl: Any) -> None:
    await cache.set("key", "before")
    with pytest.raises(InvalidTTL):
        await cache.set("key", "after", ttl=ttl)
    with pytest.raises(InvalidTTL):
        await cache.expire("key", ttl)
    assert await cache.get("key") == "before"


@pytest.mark.parametrize("ttl", [0.0001, 1e-9, 86400 * 365.25 * 100, timedelta(microseconds=1)])
async def test_very_short_and_very_long_times(cache: Shell, ttl: Any) -> None:
    assert await cache.set("key", 1, ttl=ttl) is True


async def test_nothing_is_written_when_one_value_cannot_be_encoded(cache: Shell) -> None:
    with pytest.raises(CodecError, match=r"value\['x'\]"):
        await cache.set_many({"good": 1, "bad": {"x": object()}})
    assert await cache.get("good") is None


async def test_unknown_and_impossible_options(cache: Shell) -> None:
    for call in (lambda **options: cache.set("key", 1, **options), lambda **o: cache.get_or_set("key", int, **o)):
        with pytest.raises(TypeError, match="unknown option 'colour'; there are early, grace"):
            await call(colour="red")
        for option, value in (("tags", "one"), ("tags", None), ("grace", -1), ("grace", "1"), ("grace", float("nan"))):
            with pytest.raises(InvalidArgument, match=option):
                await call(**{option: value})
    for option, value in (("load_timeout", 0), ("refresh_at", 1.1), ("jitter", -0.1), ("negative_ttl", 0)):
        with pytest.raises(InvalidArgument):
            await cache.get_or_set("key", int, **{option: value})
    assert await cache.get("key") is None


async def test_statistics(cache: Shell) -> None:
    assert cache.cache.get_hit_ratio() == 0.0
    await cache.set("key", 1)
    await cache.get("key")
    await cache.get("nothing")
    await cache.get_many(["key", "nothing", "key2"])
    await cache.delete("key")
    stats = cache.cache.get_stats()
    assert (stats.hits, stats.misses, stats.sets, stats.deletes, stats.errors) == (2, 3, 1, 1, 0)
    assert stats["hits"] == 2
    assert dict(stats)["misses"] == 3
    assert cache.cache.get_hit_ratio() == pytest.approx(40.0)
    cache.cache.reset_stats()
    assert cache.cache.get_stats().hits == 0


async def test_ping_and_readiness(cache: Shell) -> None:
    assert await cache.ping() == "PONG"
    assert cache.cache.is_ready() is True
    assert cache.cache.get_client_type() == "cache"


# -- loading


async def test_get_or_set_loads_once_and_stores(cache: Shell) -> None:
    calls: list[int] = []
    assert await cache.get_or_set("key", lambda: calls.append(1) or {"a": 1}, ttl=60) == {"a": 1}
    assert await cache.get_or_set("key", lambda: calls.append(1) or {"a": 2}) == {"a": 1}
    assert len(calls) == 1
    assert await cache.ttl("key") in (59, 60)
    stats = cache.cache.get_stats()
    assert (stats.hits, stats.misses, stats.loads) == (1, 1, 1)


async def test_none_is_loaded_once(cache: Shell) -> None:
    assert await cache.get_or_set("key", lambda: None) is None
    assert await cache.get_or_set("key", lambda: "again") is None


async def test_what_the_loader_raises_passes_through_and_nothing_is_stored(cache: Shell) -> None:
    error = KeyError("the loader's own")

    def fail() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        await cache.get_or_set("key", fail)
    assert caught.value is error
    assert await cache.exists("key") is False
    assert await cache.get_or_set("key", lambda: 5) == 5


async def test_get_or_set_many_asks_only_for_what_is_missing(cache: Shell) -> None:
    await cache.set("b", "there")
    asked: list[list[str]] = []

    def load(keys: list[str]) -> dict[str, str]:
        asked.append(keys)
        return {key: key.upper() for key in keys if key != "none"}

    result = await cache.get_or_set_many(["c/c", "b", "none", "a"], load)
    assert list(result.items()) == [("c/c", "C/C"), ("b", "there"), ("a", "A")]
    assert asked == [["c/c", "none", "a"]]
    assert await cache.get("a") == "A"


async def test_get_or_set_many_needs_a_mapping(cache: Shell) -> None:
    with pytest.raises(ValueError, match="mapping"):
        await cache.get_or_set_many(["a"], lambda keys: [1])


async def test_loader_that_asks_for_its_own_key(cache: Shell) -> None:
    def load() -> Any:
        return cache.cache.get_or_set("key", lambda: 1)

    with pytest.raises(WouldDeadlock):
        await cache.get_or_set("key", load)


async def test_own_write_during_a_load_is_not_overwritten(cache: Shell) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        assert go_on.wait(10)
        return "old"

    twin = cache.cache.sync() if hasattr(cache.cache, "sync") else cache.cache
    loading = asyncio.create_task(asyncio.to_thread(twin.get_or_set, "key", slow))
    await asyncio.to_thread(began.wait, 10)
    await cache.set("key", "new")
    go_on.set()
    assert await loading == "old"
    assert await cache.get("key") == "new"


async def test_clear_during_a_load_makes_the_loaded_value_invalid(cache: Shell) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        assert go_on.wait(10)
        return "old"

    twin = cache.cache.sync() if hasattr(cache.cache, "sync") else cache.cache
    loading = asyncio.create_task(asyncio.to_thread(twin.get_or_set, "key", slow))
    await asyncio.to_thread(began.wait, 10)
    await cache.clear()
    go_on.set()
    assert await loading == "old"
    assert await cache.get("key") is None


async def test_write_through(cache: Shell) -> None:
    assert await cache.write_through("key", lambda: {"saved": True}, ttl=60) == {"saved": True}
    assert await cache.get("key") == {"saved": True}

    def fail() -> None:
        raise ValueError("not saved")

    with pytest.raises(ValueError, match="not saved"):
        await cache.write_through("key2", fail)
    assert await cache.exists("key2") is False


async def test_write_through_that_cannot_be_cached_leaves_no_old_value(cache: Shell) -> None:
    await cache.set("key", "old")
    with pytest.raises(CodecError):
        await cache.write_through("key", object)
    assert await cache.get("key") is None
