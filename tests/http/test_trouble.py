"""While the server is in trouble, URLs that are not cached are not looked for."""

from __future__ import annotations

from typing import Any

from nearcache import AsyncCache
from nearcache.errors import CommandTimeout
from nearcache.http import HTTPCacheMiddleware
from nearcache.testing import FakeClock, Faults

SCOPE = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "scheme": "http"}


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_what_was_not_cached_passes_while_there_is_trouble(
    fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults
) -> None:
    middleware = HTTPCacheMiddleware(_app, async_cache)
    asked: list[str] = []

    async def get(path: str) -> int:
        """How many commands it took."""
        before = len(asked)
        scope = {**SCOPE, "path": path, "raw_path": path.encode(), "headers": [(b"host", b"test")]}

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None: ...

        await middleware(scope, receive, send)
        return len(asked) - before

    faults.fail(CommandTimeout, match=lambda command: bool(asked.append(str(command[0]))))  # type: ignore[func-returns-value]
    for _ in range(3):
        assert await get("/page") > 0
    assert await get("/page") == 0, "three were not to be stored"
    fake_clock.advance(11)
    faults.fail(CommandTimeout, times=1)
    assert not await async_cache.exists("key")
    asked.clear()
    assert await get("/page") == 0
    assert await get("/another") > 0, "of this nothing is known"
    fake_clock.advance(1.1)
    assert await get("/page") > 0
