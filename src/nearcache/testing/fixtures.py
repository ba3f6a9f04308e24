"""pytest fixtures: ``pytest_plugins = ["nearcache.testing.fixtures"]`` in the topmost ``conftest.py`` enables them.

None of them is asynchronous, so that any plugin for asynchronous tests will do, and none is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest

from ..aio import AsyncCache
from ..cache import Cache
from ..connections import get_multi_redis_connection_manager
from ..settings import Settings
from .clock import FakeClock
from .faults import Faults

__all__ = ["async_cache", "fake_clock", "faults", "memory_settings", "sync_cache"]


@pytest.fixture
def fake_clock() -> Iterator[FakeClock]:
    """A ``FakeClock``, in force for this test and everything the other fixtures of nearcache make for it."""
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def memory_settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings whose clients share an empty ``memory://`` store; after the test every client is closed."""
    if "fake_clock" in request.fixturenames:
        request.getfixturevalue("fake_clock")  # before any client is made, whichever was asked for first
    url = f"memory://{uuid4().hex}"
    yield Settings(redis_url=url, queue_redis_url=url, _env_file=None)
    # In a thread: this one has perhaps an event loop of the test's.
    closing = threading.Thread(target=get_multi_redis_connection_manager().close)
    closing.start()
    closing.join()


@pytest.fixture
def async_cache(memory_settings: Settings) -> AsyncCache:
    """A connected ``AsyncCache`` on ``memory_settings``: cache client, namespace ``test``, 3600 s."""
    cache = AsyncCache(3600, "test")
    cache.sync().initialize(memory_settings)
    return cache


@pytest.fixture
def sync_cache(async_cache: AsyncCache) -> Cache:
    """The same cache as ``async_cache``, for synchronous code."""
    return async_cache.sync()


@pytest.fixture
def faults(async_cache: AsyncCache) -> Iterator[Faults]:
    """``Faults`` of the client that ``async_cache`` and ``sync_cache`` are on."""
    with Faults(async_cache) as injected:
        yield injected
