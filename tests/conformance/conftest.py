"""One suite for both shells and every kind of server: a test takes ``cache`` and runs against all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest

from nearcache import AsyncCache, Cache, Settings, get_multi_redis_connection_manager

from ..servers import ValkeyServer, acl_lines


class Shell:
    """Calls either shell's methods from a coroutine: ``await shell.get("key")``."""

    def __init__(self, cache: AsyncCache | Cache) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.cache, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if isinstance(self.cache, AsyncCache):
                return await method(*args, **kwargs)
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


@pytest.fixture(scope="session")
def resp2_server() -> Iterator[ValkeyServer]:
    """A server as old ones are: no HELLO, so no RESP3 and no tracking."""
    with ValkeyServer("--rename-command", "HELLO", "") as server:
        yield server


@pytest.fixture(scope="session")
def least_server() -> Iterator[ValkeyServer]:
    """A server with the user that docs/operations.md describes."""
    with ValkeyServer() as server:
        server.command(*acl_lines()[0])
        yield server


@pytest.fixture
def least(least_server: ValkeyServer) -> Iterator[Settings]:
    """Settings for that user, to whom nothing may be refused."""
    least_server.command("FLUSHALL")
    least_server.command("ACL", "LOG", "RESET")
    url = f"redis://nearcache:secret@{least_server.host}:{least_server.port}"
    yield Settings(redis_url=url, prefix="shop:", _env_file=None)
    assert least_server.command("ACL", "LOG") == []


KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="


@pytest.fixture(params=["server", "least rights", "sealed", "resp2", "memory"])
def settings(request: pytest.FixtureRequest) -> Settings:
    if request.param == "least rights":
        least: Settings = request.getfixturevalue("least")
        return least
    if request.param == "memory":
        return Settings(redis_url=f"memory://{uuid4().hex}", _env_file=None)
    server: ValkeyServer = request.getfixturevalue("resp2_server" if request.param == "resp2" else "server")
    server.command("FLUSHALL")
    keys = KEY if request.param == "sealed" else None
    return Settings(redis_url=server.url, encryption_keys=keys, signing_keys=keys, _env_file=None)


@pytest.fixture(params=["async", "sync"])
async def cache(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Shell]:
    cache = AsyncCache(3600, "app")
    await cache.initialize(settings)
    if request.param == "sync":
        twin = Cache(3600, "app")
        await asyncio.to_thread(twin.initialize, settings)
        yield Shell(twin)
    else:
        yield Shell(cache)
    await get_multi_redis_connection_manager().disconnect_all()
