"""What loaders may say, and the options of loads, on every kind of server and in both shells."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import pytest

from nearcache import AsyncCache, InvalidArgument, InvalidTTL, current_load

from ..lanes import eventually, until_read
from .conftest import Shell


async def test_a_loader_changes_the_time_to_live_and_the_tags(cache: Shell) -> None:
    def load() -> str:
        load = current_load()
        assert load.keys == ["key"]
        assert load.ttl == 3600
        load.ttl = 60
        load.tags.append("added")
        return "value"

    await cache.set("other", "value", tags=["added"])
    assert await cache.get_or_set("key", load, tags=["given"]) == "value"
    assert await cache.ttl("key") == 60
    assert await cache.get("key") == "value"
    await cache.invalidate_tags("added")
    assert await cache.get("key") is None
    await cache.get_or_set("key", load, tags=["given"])
    await cache.invalidate_tags("given")
    assert await cache.get("key") is None


async def test_a_tag_that_is_invalidated_while_its_value_loads_keeps_the_value_out(cache: Shell) -> None:
    """Also a tag that only the loader names, of which nothing was known before."""
    inner = cache.cache.sync() if isinstance(cache.cache, AsyncCache) else cache.cache

    def load(tag: str, *, names_it: bool) -> str:
        if names_it:
            current_load().tags.append(tag)
        assert inner.invalidate_tags(tag) is True
        return "loaded before"

    for names_it in (True, False):
        tag = f"tag-{names_it}"
        options: dict[str, Any] = {} if names_it else {"tags": [tag]}
        if isinstance(cache.cache, AsyncCache):

            async def loader(tag: str = tag, names_it: bool = names_it) -> str:
                if names_it:
                    current_load().tags.append(tag)
                await cache.invalidate_tags(tag)
                return "loaded before"

        else:

            def loader(tag: str = tag, names_it: bool = names_it) -> str:  # type: ignore[misc]
                return load(tag, names_it=names_it)

        assert await cache.get_or_set(f"key-{names_it}", loader, **options) == "loaded before"
        assert await cache.get(f"key-{names_it}") is None


@pytest.mark.parametrize("named_by", ["the call", "the loader"])
async def test_a_load_that_began_before_a_tag_was_invalidated_is_joined_by_nobody_since(
    cache: Shell, named_by: str
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def load() -> str:
        if named_by == "the loader":
            current_load().tags.append("tag")
        began.set()
        assert go_on.wait(10)
        return "before"

    loader = (lambda: asyncio.to_thread(load)) if isinstance(cache.cache, AsyncCache) else load
    options: dict[str, Any] = {"tags": ["tag"]} if named_by == "the call" else {}
    loading = asyncio.create_task(cache.get_or_set("key", loader, **options))
    await asyncio.to_thread(began.wait, 10)
    flying = cache.cache._core.flights._flying
    (key,) = flying
    first = flying[key]
    assert await cache.invalidate_tags("tag") is True
    since = asyncio.create_task(cache.get_or_set("key", lambda: "since", **options))
    await eventually(lambda: flying[key] is not first or cache.cache.get_stats().joins, "it to wait")
    go_on.set()
    assert [await loading, await since, await cache.get("key")] == ["before", "since", "since"]


async def test_a_loader_says_do_not_store(cache: Shell) -> None:
    def load() -> int:
        current_load().do_not_store()
        return 1

    assert [await cache.get_or_set("key", load) for _ in range(2)] == [1, 1]
    assert await cache.exists("key") is False
    assert cache.cache.get_stats().loads == 2
    assert await cache.get_or_set("key", lambda: 2) == 2, "the lease was given back"


async def test_a_loader_sees_the_stale_value_and_says_not_modified(cache: Shell) -> None:
    seen: list[Any] = []

    def load() -> Any:
        load = current_load()
        seen.append(load.stale)
        return load.not_modified() if load.stale is not None else {"n": 1}

    assert await cache.get_or_set("key", load, tags=["tag"], soft_timeout=10) == {"n": 1}
    await cache.expire_tags("tag")
    assert await cache.get("key") is None
    assert await cache.get_or_set("key", load, tags=["tag"], soft_timeout=10) == {"n": 1}
    assert await cache.get("key") == {"n": 1}
    assert seen == [None, {"n": 1}]


async def test_nothing_unmodified_without_a_stale_value(cache: Shell) -> None:
    with pytest.raises(InvalidArgument, match="no stale value of 'key'"):
        await cache.get_or_set("key", lambda: current_load().not_modified())
    with pytest.raises(InvalidArgument, match="for loaders"):
        current_load()


async def test_a_loader_gives_an_impossible_time(cache: Shell) -> None:
    def load() -> int:
        current_load().ttl = 0
        return 1

    with pytest.raises(InvalidTTL):
        await cache.get_or_set("key", load)
    assert await cache.exists("key") is False


async def test_nested_loads_have_loads_of_their_own(cache: Shell) -> None:
    inner = cache.cache

    if isinstance(inner, AsyncCache):

        async def outer() -> list[str]:
            value = await inner.get_or_set("inner", lambda: current_load().keys[0])
            return [value, current_load().keys[0]]

    else:

        def outer() -> list[str]:  # type: ignore[misc]
            value = inner.get_or_set("inner", lambda: current_load().keys[0])
            return [value, current_load().keys[0]]

    assert await cache.get_or_set("outer", outer) == ["inner", "outer"]


async def test_none_has_a_time_of_its_own(cache: Shell) -> None:
    assert await cache.get_or_set("none", lambda: None, negative_ttl=5) is None
    assert await cache.ttl("none") == 5
    assert await cache.get_or_set("some", lambda: 1, negative_ttl=5) == 1
    assert await cache.ttl("some") == 3600
    assert await cache.get_or_set("forever", lambda: None, negative_ttl=None) is None
    assert await cache.ttl("forever") == -1
    assert await cache.get_or_set("none", lambda: 1) is None, "it is a value"


async def test_jitter_shortens_and_never_lengthens(cache: Shell) -> None:
    for n in range(30):
        await cache.get_or_set(f"key-{n}", lambda: 1, ttl=1000, jitter=0.5)
    left = [await cache.ttl(f"key-{n}") for n in range(30)]
    assert all(499 <= seconds <= 1000 for seconds in left)
    assert len(set(left)) > 10


async def test_a_value_is_renewed_in_the_background_when_its_share_is_over(cache: Shell) -> None:
    numbers = itertools.count()
    options: dict[str, Any] = {"refresh_at": 0.001}
    assert await cache.get_or_set("key", lambda: next(numbers), ttl=60, **options) == 0
    async with asyncio.timeout(10):
        while (value := await cache.get_or_set("key", lambda: next(numbers), **options)) == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert value == 1
    assert await cache.ttl("key") == 3600


async def test_many_keys_share_one_load_and_its_options(cache: Shell) -> None:
    def load(keys: list[str]) -> dict[str, int | None]:
        current_load().tags.append("added")
        return {key: None if key == "none" else len(key) for key in keys if key != "unknown"}

    await cache.set("cached", 0)
    keys = ["a", "cached", "bb", "none", "unknown"]
    found = await cache.get_or_set_many(keys, load, tags=["given"], negative_ttl=7)
    assert list(found.items()) == [("a", 1), ("cached", 0), ("bb", 2), ("none", None)]
    assert [await cache.ttl(key) for key in ("a", "none", "unknown")] == [3600, 7, -2]
    await cache.invalidate_tags("added")
    assert await cache.get_many(keys) == {"cached": 0}


async def test_many_keys_of_which_some_are_stale(cache: Shell) -> None:
    def fail(keys: list[str]) -> dict[str, int]:
        assert sorted(keys) == ["a", "b"]
        raise OSError

    await cache.set_many({"a": 1, "b": 2}, tags=["tag"])
    await cache.set("c", 3)
    await cache.expire_tags("tag")
    assert await cache.get_or_set_many(["a", "b", "c"], fail, soft_timeout=10) == {"a": 1, "b": 2, "c": 3}


async def test_defaults_of_a_cache_hold_for_its_calls(cache: Shell) -> None:
    made = type(cache.cache)(60, "defaults", tags=["always"], grace=30)
    other = Shell(made)
    result = made.initialize(cache.cache._core.client.settings)  # type: ignore[union-attr]
    if asyncio.iscoroutine(result):
        await result
    await other.set("set", 1)
    await other.get_or_set("loaded", lambda: 2)
    await other.set("own", 3, tags=["mine"])
    await other.invalidate_tags("always")
    assert await other.get_many(["set", "loaded", "own"]) == {"own": 3}


async def test_a_near_copy_is_renewed_as_well(cache: Shell) -> None:
    await cache.set("key", "old")
    assert [await cache.get("key") for _ in range(2)] == ["old", "old"]
    assert await cache.get_or_set("key", lambda: "new", refresh_at=0) == "old", "it is fresh, nobody waits"
    await until_read(lambda: cache.get("key"), "new")
