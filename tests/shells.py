"""Caches of the tests, called through either shell from a coroutine: how they are connected, and a load on them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest

from nearcache import AsyncCache, ConnectionStatus, Settings, get_multi_redis_connection_manager

from .lanes import eventually

BOTH = pytest.mark.parametrize("kind", ["async", "sync"])
"""For a test that connects with ``shell_at``: through either shell."""

SHELLS = pytest.mark.parametrize("threads", [False, True], ids=["async", "sync"])
"""For a test that makes a ``Shell`` of a cache that is connected."""


class Shell:
    """A cache, and its methods from either shell, awaited."""

    def __init__(self, cache: AsyncCache, *, threads: bool) -> None:
        self.cache = cache
        self._threads = threads

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if self._threads:
            method = getattr(self.cache.sync(), name)
            return lambda *arguments: asyncio.to_thread(method, *arguments)
        return getattr(self.cache, name)


class Caller(Shell):
    """A shell that knows what kind of functions it calls."""

    def make(self, function: Callable[[], Any]) -> Callable[[], Any]:
        async def coroutine() -> Any:
            return function()

        return function if self._threads else coroutine


def settings(url: str, **more: Any) -> Settings:
    """For that server, and otherwise what is given: no file is read."""
    return Settings(redis_url=url, _env_file=None, **more)


async def cache_at(url: str, *, strict: bool = False, **more: Any) -> AsyncCache:
    """A cache that is connected on this loop; ``more`` are settings."""
    cache = AsyncCache(60, "app", strict=strict)
    await cache.initialize(settings(url, **more))
    return cache


async def shell_at(url: str, kind: str, **more: Any) -> Shell:
    """A cache that was connected through the shell it is called through; ``more`` are settings."""
    shell = Shell(AsyncCache(60, "app"), threads=kind == "sync")
    await shell.initialize(settings(url, **more))
    return shell


def status() -> ConnectionStatus:
    """What the manager says of the cache's client."""
    return get_multi_redis_connection_manager().get_connection_status("cache")


def last_error() -> str:
    """The last error of the cache's client; nothing where it had none."""
    return status().last_error or ""


def names(count: int) -> list[str]:
    """So many keys, in slots all over a cluster."""
    return [f"key{number}" for number in range(count)]


def stored(key: str) -> bytes:
    """What a key of those caches is called in a cluster."""
    return f"cache:app:{key}".encode()


KEYS = 50
"""Of each owner, under a load."""


class Load:
    """Reads, writes and loads by one owner of its keys, until told to stop. Whatever is raised or wrong is kept."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.raised: list[BaseException] = []
        self.wrong: list[Any] = []
        self.refused = 0
        self.good = 0  # rounds since the last one in which something was refused or missed

    def note(self, number: int, written: bool, read: Any, loaded: Any) -> None:
        self.refused += not written
        self.good = self.good + 1 if written and read is not None else 0
        if loaded != "loaded" or (written and read not in (None, number)):
            self.wrong.append((number, written, read, loaded))

    async def run(self, shell: Any, name: str) -> None:
        try:
            for number in count():
                if self.stopped.is_set():
                    return
                key = f"{name}-{number % KEYS}"
                written, read = await shell.set(key, number), await shell.get(key)
                self.note(number, written, read, await shell.get_or_set(f"{key}-loaded", lambda: "loaded"))
                await asyncio.sleep(0)
        except BaseException as error:
            self.raised.append(error)
            raise


async def under_load(shell: Shell, during: Callable[[Load], Any]) -> Load:
    """Let three run through that shell while ``during`` is awaited; nothing may have been raised or wrong."""
    load = Load()
    async with asyncio.TaskGroup() as tasks:
        for name in ("a", "b", "c"):
            tasks.create_task(load.run(shell, name))
        try:
            await eventually(lambda: load.good > 200, "the load to run")
            await during(load)
        finally:
            load.stopped.set()
    assert not load.raised, load.raised
    assert not load.wrong, load.wrong
    return load
