"""What unit tests share."""

from __future__ import annotations

import pytest

from nearcache import AsyncCache, Settings
from nearcache.client import Client
from nearcache.transport.endpoint import parse_url


@pytest.fixture
def other(memory_settings: Settings) -> AsyncCache:
    """A cache on another client of the same store, as another process has it."""
    url = memory_settings.redis_url.get_secret_value()  # type: ignore[union-attr]
    cache = AsyncCache(3600, "test")
    cache._core.bind(Client("other", parse_url(url, variable="REDIS_URL"), memory_settings))
    return cache
