"""The truth table of docs/staleness.md: what each operation gives after whatever happened to a value."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ..lanes import until_read
from .conftest import Shell

LONG = 3600
SHORT = 0.03  # seconds; on a real server time cannot be faked


async def fresh(cache: Shell) -> None:
    await cache.set("key", "old", tags=["tag"], grace=LONG)


async def with_a_new_time(cache: Shell) -> None:
    await cache.set("key", "old", ttl=1, tags=["tag"], grace=LONG)
    assert await cache.expire("key", LONG) is True


async def over_within_its_grace(cache: Shell) -> None:
    await cache.set("key", "old", ttl=SHORT, grace=LONG)
    await _until(cache, "stale")


async def over_without_grace(cache: Shell) -> None:
    await cache.set("key", "old", ttl=SHORT)
    await _until(cache, "absent")


async def over_and_its_grace_too(cache: Shell) -> None:
    await cache.set("key", "old", ttl=SHORT, grace=SHORT)
    await _until(cache, "absent")


async def tag_expired(cache: Shell) -> None:
    await cache.set("key", "old", tags=["other", "tag"])
    assert await cache.expire_tags("tag", "unused") is True


async def tag_invalidated(cache: Shell) -> None:
    await cache.set("key", "old", tags=["other", "tag"], grace=LONG)
    assert await cache.invalidate_tags("tag", "unused") is True


async def tag_expired_then_invalidated(cache: Shell) -> None:
    await tag_expired(cache)
    await cache.invalidate_tags("tag")


async def namespace_cleared(cache: Shell) -> None:
    await fresh(cache)
    await cache.clear(wait=False)


async def deleted(cache: Shell) -> None:
    await fresh(cache)
    assert await cache.delete("key") is True


async def _until(cache: Shell, state: str) -> None:
    async with asyncio.timeout(10):
        while (await cache.lookup("key")).state != state:  # noqa: ASYNC110 - the server's clock sends no event
            await asyncio.sleep(SHORT / 3)


# What happened; then what get, lookup, and get_or_set with a loader that fails give. None: the loader's error.
ROWS: list[tuple[Callable[[Shell], Awaitable[None]], Any, str, Any]] = [
    (fresh, "old", "fresh", "old"),
    (with_a_new_time, "old", "fresh", "old"),
    (over_within_its_grace, None, "stale", "old"),
    (over_without_grace, None, "absent", None),
    (over_and_its_grace_too, None, "absent", None),
    (tag_expired, None, "stale", "old"),
    (tag_invalidated, None, "invalidated or absent", None),
    (tag_expired_then_invalidated, None, "invalidated or absent", None),
    (namespace_cleared, None, "invalidated or absent", None),
    (deleted, None, "absent", None),
]
rows = pytest.mark.parametrize(
    ("happen", "value", "state", "on_error"), [pytest.param(*row, id=row[0].__name__) for row in ROWS]
)


@rows
async def test_reads(
    cache: Shell, happen: Callable[[Shell], Awaitable[None]], value: Any, state: str, on_error: Any
) -> None:
    await happen(cache)
    assert await cache.get("key") == value
    assert await cache.get_many(["key"]) == ({} if value is None else {"key": value})
    assert await cache.exists("key") is (value is not None)
    assert (await cache.ttl("key") == -2) is (value is None)
    looked = await cache.lookup("key")
    assert looked.state in state.split(" or ")
    assert looked.value == ("old" if state in ("fresh", "stale") else None)
    assert (looked.tier is None) is (looked.value is None)
    assert looked.why


@rows
async def test_a_load_that_works_replaces_what_is_not_fresh(
    cache: Shell, happen: Callable[[Shell], Awaitable[None]], value: Any, state: str, on_error: Any
) -> None:
    await happen(cache)
    loaded = await cache.get_or_set("key", lambda: "new", soft_timeout=10)
    assert loaded == (value or "new")
    assert await cache.get("key") == loaded
    assert (await cache.lookup("key")).state == "fresh"


@rows
async def test_a_load_that_fails_serves_what_is_stale(
    cache: Shell, happen: Callable[[Shell], Awaitable[None]], value: Any, state: str, on_error: Any
) -> None:
    def fail() -> str:
        raise OSError("the origin is away")

    await happen(cache)
    if on_error is None:
        with pytest.raises(OSError, match="the origin is away"):
            await cache.get_or_set("key", fail, soft_timeout=10)
    else:
        assert await cache.get_or_set("key", fail, soft_timeout=10) == on_error
    assert cache.cache.get_stats().stale == (state == "stale")


@rows
async def test_deleting_and_expiring_see_only_what_is_fresh(
    cache: Shell, happen: Callable[[Shell], Awaitable[None]], value: Any, state: str, on_error: Any
) -> None:
    await happen(cache)
    # Whether a tag was raised, no script on the server can see: those counters are in other cluster slots.
    there = value is not None or happen in (tag_expired, tag_invalidated, tag_expired_then_invalidated)
    assert await cache.expire("key", LONG) is there
    assert await cache.delete("key") is there
    assert await cache.delete("key") is False


async def test_a_value_that_was_set_after_its_tag_was_invalidated_is_valid(cache: Shell) -> None:
    await tag_invalidated(cache)
    await cache.set("key", "new", tags=["tag"])
    assert await cache.get("key") == "new"
    await cache.expire_tags("tag")
    await cache.set("key", "newer", tags=["tag"])
    assert await cache.get("key") == "newer"


async def test_any_of_its_tags_is_enough_and_others_do_nothing(cache: Shell) -> None:
    await cache.set_many({"a": 1, "b": 2}, tags=["even", "odd"])
    await cache.set("c", 3, tags=["third"])
    await cache.set("d", 4)
    assert await cache.invalidate_tags("none", "odd") is True
    assert await cache.get_many(["a", "b", "c", "d"]) == {"c": 3, "d": 4}
    assert await cache.invalidate_tags() is True


async def test_tags_belong_to_a_namespace(cache: Shell) -> None:
    await cache.set("key", 1, tags=["tag"])
    await cache.set("key", 2, tags=["tag"], namespace="other")
    await cache.invalidate_tags("tag", namespace="other")
    assert await cache.get("key") == 1
    assert await cache.get("key", namespace="other") is None


@pytest.mark.parametrize("tag", ["a b", "a_b", "ключ", "x" * 1000, "\ud800", "a:b", "~"])
async def test_tags_of_any_text_stay_apart(cache: Shell, tag: str) -> None:
    await cache.set("mine", 1, tags=[tag])
    await cache.set("near", 2, tags=[tag + "/"])
    await cache.invalidate_tags(tag + "/")
    assert await cache.get_many(["mine", "near"]) == {"mine": 1}


async def test_a_failed_load_is_not_tried_again_at_once(cache: Shell) -> None:
    calls = 0

    def fail() -> str:
        nonlocal calls
        calls += 1
        raise OSError

    await over_within_its_grace(cache)
    for _ in range(5):
        assert await cache.get_or_set("key", fail, retry_after=60, soft_timeout=10) == "old"
    assert calls == 1
    assert await cache.refresh("key", lambda: "asked for") == "asked for"


async def test_a_slow_load_goes_on_while_the_stale_value_is_served(cache: Shell) -> None:
    import threading

    go_on = threading.Event()

    def slow() -> str:
        assert go_on.wait(10)
        return "new"

    async def slow_async() -> str:
        return await asyncio.to_thread(slow)

    from nearcache import AsyncCache

    loader = slow_async if isinstance(cache.cache, AsyncCache) else slow
    await over_within_its_grace(cache)
    assert await cache.get_or_set("key", loader, soft_timeout=0) == "old"
    assert await cache.get_or_set("key", loader, soft_timeout=0.01) == "old"
    go_on.set()
    await until_read(lambda: cache.get("key"), "new")
    assert cache.cache.get_stats().loads == 1
