"""[shell] ``Cache``: the twin of ``AsyncCache`` (``aio.py``) for threads. Same methods, same defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from .base import CacheBase, Core, Wire
from .core.found import Lookup
from .core.policy import LoadOptions, WriteOptions
from .core.ttl import TTL
from .driving import drive_in_thread, result
from .errors import ServerError
from .sentinels import ABSENT, DEFAULT, Default, Miss
from .tiers.entry import COPY

if TYPE_CHECKING:
    from .aio import AsyncCache
    from .decorators import Cached, Invalidates
    from .settings import Settings
    from .write_behind import WriteBehind

__all__ = ["Cache"]

T = TypeVar("T")
D = TypeVar("D")


class Cache(CacheBase):
    """A cache for synchronous code; see ``AsyncCache`` for what each method does.

    Commands travel over one connection that all threads of the process share; loaders and writers run in the calling
    thread. It blocks: on an event loop use ``AsyncCache``.
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

    def initialize(self, settings: Settings | None = None) -> None:
        """Connect the client this cache uses, unless it is connected. Idempotent."""
        from .services import initialize_for_threads

        initialize_for_threads(self._core, settings)

    def _async(self) -> AsyncCache:
        from .aio import AsyncCache

        return AsyncCache(_core=self._core)

    # -- reads

    @overload
    def get(self, key: str, default: None = None, *, namespace: str | None = None) -> Any: ...
    @overload
    def get(self, key: str, default: D, *, namespace: str | None = None) -> Any | D: ...
    @overload
    def get(self, key: str, default: None = None, *, namespace: str | None = None, type: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, namespace: str | None = None, type: type[T]) -> T | D: ...
    def get(self, key: str, default: Any = None, *, namespace: str | None = None, type: Any = None) -> Any:
        """The value, or ``default`` when there is none."""
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
        link = core.client.thread_link()
        site = core.namespace if namespace is None else core.client.namespace(namespace)
        stored = site.key(key)
        if not link.track_all:
            counters = link.counters  # others once it leads to another server
            version = counters.get(site.counter)
            if version is not None and not core.owed:
                raw: Any
                try:
                    raw = link.request(("GET", stored))
                except ServerError as error:
                    raw = error
                if counters.get(site.counter) == version:
                    value = core.reads.got(raw, stored, version[0], type)
                    if value is not Miss.UNSETTLED:
                        return default if value.__class__ is Miss else value
        value = drive_in_thread(link, core.reads.get(link, site, key, stored, type, core.near_reads), core)
        return default if value.__class__ is Miss else value

    def get_many(self, keys: Iterable[str], *, namespace: str | None = None, type: Any = None) -> dict[str, Any]:
        """The values that were found, by key, in the asked order; one round trip."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.get_many(link, keys, namespace, type), core)

    def exists(self, key: str, *, namespace: str | None = None) -> bool:
        """Whether there is a valid value."""
        return self.ttl(key, namespace=namespace) != -2

    def ttl(self, key: str, *, namespace: str | None = None) -> int:
        """Whole seconds left, rounded up; -1 without expiry, -2 without a value."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.remaining(link, key, namespace), core)

    def lookup(self, key: str, *, namespace: str | None = None, type: Any = None) -> Lookup:
        """The value, fresh or stale, with its state, age, remaining time, tier, and why. Counts as no read."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.lookup(link, key, namespace, type), core)

    # -- writes

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> bool:
        """Store a value; whether the server has it."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.set_many(link, [(key, value)], ttl, namespace, options), core)

    def set_many(
        self,
        values: Mapping[str, Any],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> bool:
        """Store several values in one round trip; whether the server has them all."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.set_many(link, values.items(), ttl, namespace, options), core)

    def delete(self, key: str, *, namespace: str | None = None) -> bool:
        """Remove a value; whether it was there."""
        return self.delete_many([key], namespace=namespace) == 1

    def delete_many(self, keys: Iterable[str], *, namespace: str | None = None) -> int:
        """Remove several values in one round trip; how many were there."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.delete(link, keys, namespace), core)

    def expire(self, key: str, ttl: TTL | Default = DEFAULT, *, namespace: str | None = None) -> bool:
        """Give a value a new time to live, from now; whether it was there."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.expire(link, key, ttl, namespace), core)

    @overload
    def clear(self, namespace: str | None = None) -> int: ...
    @overload
    def clear(self, namespace: str | None = None, *, wait: bool) -> int | None: ...
    def clear(self, namespace: str | None = None, *, wait: bool = True) -> int | None:
        """Make every value of a namespace invalid at once, for every process, then remove them; how many went."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.clear(link, namespace, wait), core)

    def invalidate_tags(self, *tags: str, namespace: str | None = None) -> bool:
        """Make every value that has any of these tags invalid at once, for every process; whether the server has it."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.raise_tags(link, tags, namespace, soft=False), core)

    def expire_tags(self, *tags: str, namespace: str | None = None) -> bool:
        """Make every value that has any of these tags expired: within its grace it may serve as stale."""
        core = self._core
        link = core.client.thread_link()
        return drive_in_thread(link, core.raise_tags(link, tags, namespace, soft=True), core)

    def ping(self) -> str:
        """``PONG``."""
        link = self._core.client.thread_link()
        return drive_in_thread(link, self._core.writes.ping(), self._core)

    # -- loading

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], T],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        type: Any = None,
        **options: Unpack[LoadOptions],
    ) -> T:
        """The value; when there is none, what ``loader()`` gives, which is stored."""
        core = self._core
        if not options and namespace is None and type is None and not core.default.eager:
            value = core.hit(key)
            if value is not ABSENT:
                return value
        link = core.client.thread_link()
        plan = core.get_or_set(link, key, loader, ttl, namespace, type, options)
        return result(drive_in_thread(link, plan, core))

    def get_or_set_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Mapping[str, T]],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        type: Any = None,
        **options: Unpack[LoadOptions],
    ) -> dict[str, T]:
        """Values by key, in the asked order; ``loader(missing)`` is called once, with only the missing keys."""
        core = self._core
        link = core.client.thread_link()
        plan = core.get_or_set_many(link, keys, loader, ttl, namespace, type, options)
        return result(drive_in_thread(link, plan, core))

    def refresh(
        self,
        key: str,
        loader: Callable[[], T],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        type: Any = None,
        **options: Unpack[LoadOptions],
    ) -> T:
        """Load now, whatever is stored, and store it; the new value. Otherwise like ``get_or_set``."""
        core = self._core
        link = core.client.thread_link()
        plan = core.refresh(link, key, loader, ttl, namespace, type, options)
        return result(drive_in_thread(link, plan, core))

    def write_through(
        self,
        key: str,
        writer: Callable[[], T],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> T:
        """Run ``writer()`` first; what it returns is stored and returned. If it raises, nothing is stored."""
        core = self._core
        link = core.client.thread_link()
        plan = core.write_through(link, key, writer, ttl, namespace, options)
        return result(drive_in_thread(link, plan, core))

    def write_behind(
        self,
        writer: Callable[[str, Any], object],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
    ) -> WriteBehind:
        """An object whose ``set(key, value)`` is readable at once and reaches ``writer(key, value)`` soon."""
        from .write_behind import WriteBehind

        return WriteBehind(self, writer, ttl=ttl, namespace=namespace)

    @property
    def cached(self) -> Cached:
        """Decorate a function so that its results are cached: ``@cache.cached`` or ``@cache.cached(ttl=60)``."""
        from .decorators import Cached

        return Cached(self._async(), self)

    @property
    def invalidates(self) -> Invalidates:
        """Decorate a function so that tags are invalidated when it has returned: ``@cache.invalidates(tags=[...])``."""
        from .decorators import Invalidates

        return Invalidates(self._async(), self)
