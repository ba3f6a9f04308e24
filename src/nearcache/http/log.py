"""[shell] ``RequestLogMiddleware``: one line for every request, with what the cache counted."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..services import get_default_cache
from .exchange import START, App, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from ..aio import AsyncCache

__all__ = ["RequestLogMiddleware"]

_log = logging.getLogger("nearcache.http")


class RequestLogMiddleware:
    """Logs url, method, status, duration and the cache's hit ratio and statistics of every request.

    One INFO line to the logger ``nearcache.http``; the fields are also on the record (``extra``), for structured logs.

    Args:
        app: the application.
        cache: whose statistics; the default cache's when left out.
    """

    def __init__(self, app: App, cache: AsyncCache | None = None) -> None:
        self.app = app
        self.cache = cache if cache is not None else get_default_cache()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500  # what servers answer when an application ends without a word

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == START:
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            duration = (time.perf_counter() - began) * 1000
            query = scope.get("query_string", b"").decode("latin-1")
            url = scope["path"] + (f"?{query}" if query else "")
            stats = self.cache.get_stats()
            _log.info(
                "%s %s %d %.1f ms, hit ratio %.1f %%",
                scope["method"],
                # Quoted: a path may hold line breaks, and a log line is one line.
                quote(url, safe="/?&=%:,+~!*'();@$[]", errors="surrogatepass"),
                status,
                duration,
                stats.hit_ratio,
                extra={
                    "url": url,
                    "method": scope["method"],
                    "status": status,
                    "duration": duration,
                    "cache_hit_ratio": stats.hit_ratio,
                    "cache_stats": dict(stats),
                },
            )
