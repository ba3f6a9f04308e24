"""[shell] ``AsyncCache``: a cache for code on an event loop. ``cache.py`` has its twin for threads."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from .base import CacheBase, Core, Wire
from .core.found import Lookup
from .core.policy import LoadCall, LoadOptions, WriteCall, WriteOptions
from .core.ttl import TTL
from .driving import drive, result
from .errors import ServerError
from .sentinels import ABSENT, DEFAULT, Default, Miss
from .tiers.entry import COPY

if TYPE_CHECKING:
    from .cache import Cache
    from .decorators import Cached, Invalidates
    from .settings import Settings
    from .write_behind import AsyncWriteBehind

__all__ = ["AsyncCache"]

T = TypeVar("T")
D = TypeVar("D")


class AsyncCache(CacheBase):
    """A cache: values by key, in a namespace, with a time to live, on one client.

    Not connected when made: ``await cache.initialize(settings)``. Caches made by ``CacheServiceFactory`` are connected,
    and the same client, namespace and TTL give the same object.
    Reads do not raise when the server is away (they are misses), writes then return ``False`` or 0.

    Args:
        ttl: default time to live, in seconds or as a ``timedelta``; ``None`` for no expiry.
        namespace: default namespace.
        client_type: ``RedisClientType.CACHE``, ``RedisClientType.QUEUE``, or the name of a registered client.
        near: False never reads the near tier, so that every read asks the server.
        wire: ``native`` keeps types; ``json`` shares plain JSON with programs in other languages.
        strict: raise ``ServerError`` where otherwise a failed read is a miss and a failed write ``False``.
        options: defaults for loads and writes: ``grace``, ``soft_timeout`` and the other ``LoadOptions``.
    """

    def __init__(
        self,
        ttl: TTL = 3600,
        namespace: str = "cache",
        client_type: str = "cache",
        *,
        near: bool | None = None,
        wire: Wire = "native",
        strict: bool = False,
        _core: Core | None = None,
        **options: Unpack[LoadOptions],
    ) -> None:
        self._core = _core or Core(ttl, namespace, client_type, near, wire, strict, options)

    async def initialize(self, settings: Settings | None = None) -> None:
        """Connect the client this cache uses, unless it is connected. Idempotent.

        Args:
            settings: where to; the environment's when left out.

        Raises:
            SettingsConflict: the client is up with other connection fields.
        """
        from .services import initialize

        await initialize(self._core, settings)

    def sync(self) -> Cache:
        """The same cache for synchronous code: the same values, flights and statistics."""
        from .cache import Cache

        return Cache(_core=self._core)

    # -- reads

    @overload
    async def get(self, key: str, default: None = None, *, namespace: str | None = None) -> Any: ...
    @overload
    async def get(self, key: str, default: D, *, namespace: str | None = None) -> Any | D: ...
    @overload
    async def get(self, key: str, default: None = None, *, namespace: str | None = None, type: type[T]) -> T | None: ...
    @overload
    async def get(self, key: str, default: D, *, namespace: str | None = None, type: type[T]) -> T | D: ...
    async def get(self, key: str, default: Any = None, *, namespace: str | None = None, type: Any = None) -> Any:
        """The value, or ``default`` when there is none.

        Args:
            key: any text that is not empty.
            default: returned on a miss; a cached ``None`` is told from a miss by it.
            namespace: another namespace of the same client.
            type: build this type (dataclass, Struct, pydantic model, ``list[...]``) from what is stored.

        Raises:
            InvalidKey, InvalidNamespace: not text, or empty.
            NotInitialized: before ``initialize``.
        """
        core = self._core
        if namespace is None and type is None:
            try:
                entry = core.view.get(key)
            except TypeError:  # not hashable, so no key: said further down
                entry = None
            tier = core.tier
            if entry is not None and entry.epoch == tier.epoch and core.now() < entry.quick_until:
                value = entry.value
                if value is not COPY or (value := entry.copy()).__class__ is not Miss:
                    core.counters.hits += 1
                    entry.used = tier.stamp
                    return value
        link = core.client.link()
        site = core.namespace if namespace is None else core.client.namespace(namespace)
        stored = site.key(key)
        if not link.track_all:
            # Without a near tier, the plan's usual course without a generator and a second coroutine.
            counters = link.counters  # others once it leads to another server
            version = counters.get(site.counter)
            if version is not None and not core.owed:
                waiter = get_running_loop().create_future()
                link.post(("GET", stored), waiter)
                raw: Any
                try:
                    raw = await waiter
                except ServerError as error:
                    raw = error
                if counters.get(site.counter) == version:
                    value = core.reads.got(raw, stored, version[0], type)
                    if value is not Miss.UNSETTLED:
                        return default if value.__class__ is Miss else value
        value = await drive(link, core.reads.get(link, site, key, stored, type, core.near_reads), core)
        return default if value.__class__ is Miss else value

    async def get_many(self, keys: Iterable[str], *, namespace: str | None = None, type: Any = None) -> dict[str, Any]:
        """The values that were found, by key, in the asked order; one round trip."""
        core = self._core
        link = core.client.link()
        return await drive(link, core.get_many(link, keys, namespace, type), core)

    async def exists(self, key: str, *, namespace: str | None = None) -> bool:
        """Whether there is a valid value."""
        return await self.ttl(key, namespace=namespace) != -2

    async def ttl(self, key: str, *, namespace: str | None = None) -> int:
        """Whole seconds left, rounded up; -1 without expiry, -2 without a value."""
        link = self._core.client.link()
        return await drive(link, self._core.remaining(link, key, namespace), self._core)

    async def lookup(self, key: str, *, namespace: str | None = None, type: Any = None) -> Lookup:
        """The value, fresh or stale, with its state, age, remaining time, tier, and why. Counts as no read."""
        core = self._core
        link = core.client.link()
        return await drive(link, core.lookup(link, key, namespace, type), core)

    # -- writes

    async def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> bool:
        """Store a value; whether the server has it.

        Args:
            key: any text that is not empty.
            value: see the codec's page for the types that are kept.
            ttl: seconds, or a ``timedelta``; ``None`` for no expiry; the cache's own when left out.
            namespace: another namespace of the same client.
            options: ``tags``, by which it can be invalidated, and ``grace``, seconds after its time to live in which
                it may serve as stale.

        Raises:
            CodecError: the value cannot be encoded; nothing was written.
            InvalidTTL: zero, negative, or not a time.
        """
        core = self._core
        link = core.client.link()
        return await drive(link, core.set_many(link, [(key, value)], ttl, namespace, options), core)

    async def set_many(
        self,
        values: Mapping[str, Any],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> bool:
        """Store several values in one round trip; whether the server has them all."""
        core = self._core
        link = core.client.link()
        return await drive(link, core.set_many(link, values.items(), ttl, namespace, options), core)

    async def delete(self, key: str, *, namespace: str | None = None) -> bool:
        """Remove a value; whether it was there."""
        return await self.delete_many([key], namespace=namespace) == 1

    async def delete_many(self, keys: Iterable[str], *, namespace: str | None = None) -> int:
        """Remove several values in one round trip; how many were there."""
        core = self._core
        link = core.client.link()
        return await drive(link, core.delete(link, keys, namespace), core)

    async def expire(self, key: str, ttl: TTL | Default = DEFAULT, *, namespace: str | None = None) -> bool:
        """Give a value a new time to live, from now; whether it was there."""
        core = self._core
        link = core.client.link()
        return await drive(link, core.expire(link, key, ttl, namespace), core)

    @overload
    async def clear(self, namespace: str | None = None) -> int: ...
    @overload
    async def clear(self, namespace: str | None = None, *, wait: bool) -> int | None: ...
    async def clear(self, namespace: str | None = None, *, wait: bool = True) -> int | None:
        """Make every value of a namespace invalid at once, for every process, then remove them; how many went.

        Never touches another namespace, database or application. Values in JSON that other programs wrote
        carry no version: they go when they are removed.

        Args:
            namespace: the cache's own when left out.
            wait: ``False`` returns ``None`` as soon as the values are invalid.
        """
        core = self._core
        link = core.client.link()
        return await drive(link, core.clear(link, namespace, wait), core)

    async def invalidate_tags(self, *tags: str, namespace: str | None = None) -> bool:
        """Make every value that has any of these tags invalid at once, for every process; whether the server has it.

        Costs the same however many values there are. A value that is being loaded at this moment is invalid, too.
        """
        core = self._core
        link = core.client.link()
        return await drive(link, core.raise_tags(link, tags, namespace, soft=False), core)

    async def expire_tags(self, *tags: str, namespace: str | None = None) -> bool:
        """Make every value that has any of these tags expired: within its grace it may serve as stale."""
        core = self._core
        link = core.client.link()
        return await drive(link, core.raise_tags(link, tags, namespace, soft=True), core)

    async def ping(self) -> str:
        """``PONG``.

        Raises:
            ConnectionFailed: the server does not answer.
        """
        link = self._core.client.link()
        return await drive(link, self._core.writes.ping(), self._core)

    # -- loading

    @overload
    async def get_or_set(self, key: str, loader: Callable[[], Awaitable[T]], **options: Unpack[LoadCall]) -> T: ...
    @overload
    async def get_or_set(self, key: str, loader: Callable[[], T], **options: Unpack[LoadCall]) -> T: ...
    async def get_or_set(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        type: Any = None,
        **options: Unpack[LoadOptions],
    ) -> Any:
        """The value; when there is none, what ``loader()`` gives, which is stored.

        However many callers miss at the same time, in however many processes, the loader runs once. A caller that is
        cancelled cancels neither the load nor the others. ``None`` is a value. What the loader raises is raised here,
        to every caller that waited, and nothing is stored; with a stale value at hand, that is returned instead.

        Args:
            key: any text that is not empty.
            loader: a function without arguments, synchronous (it then runs on the loop) or asynchronous.
            ttl: as for ``set``.
            namespace: another namespace of the same client.
            type: as for ``get``.
            options: ``tags``, ``grace``, ``soft_timeout``, ``load_timeout``, ``negative_ttl``, ``retry_after``,
                ``early``, ``refresh_at``, ``jitter``: see ``LoadOptions``.

        Raises:
            LoadTimeout: the loader took longer than ``load_timeout``.
            WouldDeadlock: the loader asks for the very key it is loading.
        """
        core = self._core
        if not options and namespace is None and type is None and not core.default.eager:
            value = core.hit(key)
            if value is not ABSENT:
                return value
        link = core.client.link()
        plan = core.get_or_set(link, key, loader, ttl, namespace, type, options)
        return result(await drive(link, plan, core))

    @overload
    async def get_or_set_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Awaitable[Mapping[str, T]]],
        **options: Unpack[LoadCall],
    ) -> dict[str, T]: ...
    @overload
    async def get_or_set_many(
        self, keys: Iterable[str], loader: Callable[[list[str]], Mapping[str, T]], **options: Unpack[LoadCall]
    ) -> dict[str, T]: ...
    async def get_or_set_many(
        self,
        keys: Iterable[str],
        loader: Callable[..., Any],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        type: Any = None,
        **options: Unpack[LoadOptions],
    ) -> Any:
        """Values by key, in the asked order; ``loader(missing)`` is called once, with only the missing keys.

        Keys the loader does not return are left out, and not stored. Keys that others are loading are waited for.
        """
        core = self._core
        link = core.client.link()
        plan = core.get_or_set_many(link, keys, loader, ttl, namespace, type, options)
        return result(await drive(link, plan, core))

    @overload
    async def refresh(self, key: str, loader: Callable[[], Awaitable[T]], **options: Unpack[LoadCall]) -> T: ...
    @overload
    async def refresh(self, key: str, loader: Callable[[], T], **options: Unpack[LoadCall]) -> T: ...
    async def refresh(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        type: Any = None,
        **options: Unpack[LoadOptions],
    ) -> Any:
        """Load now, whatever is stored, and store it; the new value. Otherwise like ``get_or_set``."""
        core = self._core
        link = core.client.link()
        plan = core.refresh(link, key, loader, ttl, namespace, type, options)
        return result(await drive(link, plan, core))

    @overload
    async def write_through(self, key: str, writer: Callable[[], Awaitable[T]], **options: Unpack[WriteCall]) -> T: ...
    @overload
    async def write_through(self, key: str, writer: Callable[[], T], **options: Unpack[WriteCall]) -> T: ...
    async def write_through(
        self,
        key: str,
        writer: Callable[..., Any],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> Any:
        """Run ``writer()`` first; what it returns is stored and returned. If it raises, nothing is stored."""
        core = self._core
        link = core.client.link()
        plan = core.write_through(link, key, writer, ttl, namespace, options)
        return result(await drive(link, plan, core))

    def write_behind(
        self,
        writer: Callable[[str, Any], Awaitable[object] | object],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
    ) -> AsyncWriteBehind:
        """An object whose ``set(key, value)`` is readable at once and reaches ``writer(key, value)`` soon.

        In order per key, retried, drained by ``disconnect_all()``. What is pending is in this process's memory.
        """
        from .write_behind import AsyncWriteBehind

        return AsyncWriteBehind(self, writer, ttl=ttl, namespace=namespace)

    @property
    def cached(self) -> Cached:
        """Decorate a function so that its results are cached: ``@cache.cached`` or ``@cache.cached(ttl=60)``."""
        from .decorators import Cached

        return Cached(self, self.sync())

    @property
    def invalidates(self) -> Invalidates:
        """Decorate a function so that tags are invalidated when it has returned: ``@cache.invalidates(tags=[...])``."""
        from .decorators import Invalidates

        return Invalidates(self, self.sync())
