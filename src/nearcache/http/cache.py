"""[shell] ``HTTPCache``: where responses are kept, and how they are purged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from ..core.clock import clock
from ..driving import drive, result
from ..errors import InvalidArgument, NearcacheError
from ..sentinels import ABSENT
from ..services import get_default_cache
from .requests import escape, url_key

if TYPE_CHECKING:
    from ..aio import AsyncCache
    from ..base import Core
    from ..core.policy import LoadOptions

__all__ = ["COMPRESS_MIN", "HTTPCache", "safely"]

T = TypeVar("T")
_LOAD_TIMEOUT = 30.0  # seconds an application has for a response that others wait for
_OPTIONS: Final[LoadOptions] = {"soft_timeout": 3600.0, "retry_after": 0, "load_timeout": _LOAD_TIMEOUT}

COMPRESS_MIN: Final = 8192
"""Bytes of the largest response that is stored as it is, unless the settings have a higher limit.

To unpack zstd costs a decompressor, some 20 to 50 µs however small the response is, and a response is read far more
often than it is written. What compression would spare the network of this much is the same again at 1 Gbit/s, and a
tenth of that at 10.
"""

_log = logging.getLogger("nearcache.http")


async def safely(work: Awaitable[T], what: str, *, level: int = logging.DEBUG) -> T | None:
    """Trouble with the cache is a line in the log, never trouble of the application."""
    try:
        return await work
    except NearcacheError:
        _log.log(level, what, exc_info=True)
    except Exception:  # noqa: BLE001  # a fault of the cache itself is one, too
        _log.exception(what)
    return None


class HTTPCache:
    """The responses of an application, in a cache.

    ``HTTPCacheMiddleware(app, cache)`` has one as ``http_cache``, ``cache_plugin(app)`` puts it on
    ``app.state.http_cache``; another one on the same cache sees the same responses.

    Args:
        cache: where responses are kept; the default cache when left out.
    """

    def __init__(self, cache: AsyncCache | None = None) -> None:
        self.cache = cache if cache is not None else get_default_cache()
        if self._core.wire != "native":
            raise InvalidArgument("responses need a cache with wire='native': JSON cannot carry them")
        self._clock = clock().wall() - clock().monotonic()

    @property
    def _core(self) -> Core:
        return self.cache._core

    # -- for callers

    async def purge(
        self, url: str | None = None, *, tags: Collection[str] = (), prefix: str | None = None
    ) -> int | None:
        """Make responses invalid, for every process at once.

        Args:
            url: of one resource, with scheme and host (``https://example.com/users?page=2``): all its variants, in one
                step. Without a host (``/users?page=2``): of every host; this looks through all keys of the database.
            tags: whatever has any of these tags, in one step.
            prefix: whatever path begins so (``/users/``), of every host; looks through all keys of the database.

        Returns:
            How many records were removed; None for tags, which count nothing.

        Raises:
            InvalidArgument: none or several of them; a URL that is neither absolute nor a path.
        """
        if (url is not None) + bool(tags) + (prefix is not None) != 1:
            raise InvalidArgument("purge one thing: a URL, tags=[...], or prefix='/path'")
        if tags:
            if isinstance(tags, str):
                raise InvalidArgument(f"tags={tags!r:.60}: several tags are a list of str: write [{tags!r:.60}]")
            await self.cache.invalidate_tags(*tags)
            return None
        core = self._core
        link = core.client.link()
        if url is None:
            assert prefix is not None
            _require_path(prefix)
            return await drive(link, core.delete_prefix(link, "route:" + escape(unquote(prefix))), core)
        parts = urlsplit(url)
        query = parts.query.encode("latin-1", "replace")
        if parts.scheme and parts.netloc:
            raw = (parts.path or "/").encode("ascii", "replace")
            key = url_key(unquote(parts.path or "/"), raw, query, parts.netloc.encode("ascii", "replace"), parts.scheme)
            return await self.cache.delete_many([key])
        _require_path(url)
        head = f"route:{escape(unquote(parts.path))}.-{escape(parts.query)}.-"
        return await drive(link, core.delete_prefix(link, head), core)

    # -- for the middleware

    def hit(self, key: str) -> Any:
        """What the near tier holds, or ``ABSENT``; never waits."""
        return self._core.hit(key)

    def count(self, hits: int, misses: int = 0) -> None:
        """What is found is a hit of the cache only when it is served."""
        counters = self._core.counters
        counters.hits += hits
        counters.misses += misses

    async def read(self, key: str) -> Any:
        """What is stored, or None; counted when it is None."""
        value = self._core.hit(key)
        if value is ABSENT:
            value = await self.fetch(key)
        if value is not None:
            self.count(-1)
        return value

    async def fetch(self, key: str) -> Any:
        """The same of what is not in the near tier, and counted as any read."""
        value = await safely(self.cache.get(key), "no cache for a request")
        if self._core.client.open:
            self._clock = self._core.client.link().clock
        return value

    async def fetch_soon(self, key: str) -> Any:
        """``fetch``; but when that takes longer than the soft timeout ``ABSENT``, and the server is in trouble."""
        reading = asyncio.ensure_future(self.fetch(key))
        done, _ = await asyncio.wait({reading}, timeout=self._core.default.soft_timeout)
        if done:
            return reading.result()
        trouble = self._core.tier.trouble
        trouble.late(reading)
        reading.add_done_callback(trouble.ended)
        return ABSENT

    def is_in_trouble(self) -> bool:
        """Whether a look at the server may take long: it does not answer, or has not a moment ago."""
        trouble = self._core.tier.trouble
        return trouble.slow or trouble.lasts

    def is_loading(self, key: str) -> bool:
        """Whether this process is asking the application for it."""
        core = self._core
        return core.client.open and core.namespace.key(key) in core.flights

    async def replace(
        self, key: str, loader: Callable[[], Awaitable[Any]], outdated: Callable[[Any], bool] | None
    ) -> Any:
        """Load, once per fleet, unless somebody has something that is not outdated.

        Raises:
            Exception: what the loader raised.
        """
        core = self._core
        link = core.client.link()
        self._clock = link.clock
        return result(await drive(link, core.replace(link, key, loader, outdated, _OPTIONS), core))

    async def write(self, key: str, value: Any, seconds: float, tags: Collection[str]) -> bool:
        return bool(await safely(self._write(key, value, seconds, tags), "a response was not stored"))

    async def _write(self, key: str, value: Any, seconds: float, tags: Collection[str]) -> bool:
        core = self._core
        link = core.client.link()
        plan = core.set_many(link, [(key, value)], seconds, None, {"tags": tags}, COMPRESS_MIN)
        return await drive(link, plan, core)

    async def remove(self, keys: Collection[str]) -> None:
        await safely(self.cache.delete_many(keys), "responses were not invalidated")

    def now(self) -> float:
        """Seconds since the epoch by the server's clock, as far as it is known."""
        return self._core.now() + self._clock


def _require_path(text: str) -> None:
    if not text.startswith("/"):
        raise InvalidArgument(f"{text!r:.80}: a path begins with '/', a URL with 'https://'")
