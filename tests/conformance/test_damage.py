"""Rubbish where the server keeps what the cache needs: nothing raises, and the cache mends it."""

from __future__ import annotations

from typing import Any

import pytest

from nearcache import Settings
from nearcache.transport.memory import get_store

from ..servers import Client
from .conftest import Shell


class Server:
    """Writes to the server behind everybody's back."""

    def __init__(self, settings: Settings) -> None:
        endpoint = settings.endpoint("cache")
        self._memory = get_store(endpoint.name, 0, 1, 1) if endpoint.kind == "memory" else None
        self._address = (endpoint.host, endpoint.port)
        self._prefix = settings.prefix.encode()

    def set(self, key: bytes, value: bytes) -> None:
        if self._memory is not None:
            self._memory.execute(("SET", key, value))
            return
        with Client(self._address) as client:
            client.command("SET", self._prefix + key, value)


RUBBISH = [b"x", b"", b"7 x", b"-5", b"1.5", b"9" * 16, b"9" * 30, b"9" * 5000, b"5 " + b"9" * 30, b"\xff\0", b"1 2 3"]


@pytest.mark.parametrize("rubbish", RUBBISH, ids=lambda rubbish: repr(rubbish[:10]))
async def test_a_version_counter_that_is_none_is_begun_anew(cache: Shell, settings: Settings, rubbish: bytes) -> None:
    server = Server(settings)
    await cache.set("key", "old", tags=["tag"])
    for counter in (b"app~version", b"app~tag:tag"):
        server.set(counter, rubbish)
        await cache.ping()  # behind the push that tells of it
        assert await cache.get("key") is None
        assert await cache.ttl("key") == -2
        assert await cache.get_or_set("key", lambda: "new", tags=["tag"]) == "new"
        assert await cache.get("key") == "new"
        server.set(counter, rubbish)
        await cache.ping()
        assert await cache.set("key", "newer", tags=["tag"]) is True
        assert await cache.get("key") == "newer"
    assert cache.cache.get_stats().errors == 0


@pytest.mark.parametrize("rubbish", RUBBISH, ids=lambda rubbish: repr(rubbish[:10]))
async def test_raising_a_counter_that_is_none(cache: Shell, settings: Settings, rubbish: bytes) -> None:
    server = Server(settings)
    raises: list[tuple[bytes, Any, tuple[str, ...]]] = [
        (b"app~tag:tag", cache.invalidate_tags, ("tag",)),
        (b"app~tag:tag", cache.expire_tags, ("tag",)),
        (b"app~version", cache.clear, ()),
    ]
    for counter, invalidate, arguments in raises:
        await cache.set("key", "old", tags=["tag"])
        server.set(counter, rubbish)
        await cache.ping()
        await invalidate(*arguments)
        assert await cache.get("key") is None
        await cache.set("key", "new", tags=["tag"])
        assert await cache.get("key") == "new"
    assert cache.cache.get_stats().errors == 0
