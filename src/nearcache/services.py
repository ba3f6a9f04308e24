"""[shell] Ready-made caches: what each is for, on which client, in which namespace, for how long.

Factories and getters are memoised: the same client, namespace and TTL (and the same options) give the same object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Unpack

from .aio import AsyncCache
from .base import Core, Wire
from .connections import RedisClientType, get_multi_redis_connection_manager
from .core.policy import LoadOptions
from .core.ttl import TTL, milliseconds
from .sentinels import DEFAULT, Default

if TYPE_CHECKING:
    from .client import Client
    from .settings import Settings

__all__ = [
    "CacheServiceFactory",
    "get_cache_cache_manager",
    "get_cache_manager",
    "get_default_cache",
    "get_queue_cache_manager",
    "get_session_cache",
    "get_temp_cache",
]


class _Kind(NamedTuple):
    """One ready-made cache."""

    ttl: TTL
    namespace: str
    client_type: str


_CACHE, _QUEUE = RedisClientType.CACHE, RedisClientType.QUEUE

_APP = _Kind(3600, "app", _CACHE)
_SESSION = _Kind(86400, "session", _CACHE)
_TEMP = _Kind(300, "temp", _CACHE)
_QUEUE_CACHE = _Kind(1800, "queue-cache", _QUEUE)
_QUEUE_WORKER = _Kind(900, "queue-worker", _QUEUE)
_PLAIN_CACHE = _Kind(3600, "cache", _CACHE)

_Identity = tuple[str, str, int | None, bool | None, Wire, bool, tuple[tuple[str, object], ...]]
_caches: dict[_Identity, AsyncCache] = {}
_first_initialized: dict[str, AsyncCache] = {}


def _get(
    kind: _Kind,
    near: bool | None = None,
    wire: Wire = "native",
    strict: bool = False,
    options: LoadOptions | None = None,
) -> AsyncCache:
    options = options or {}
    chosen = tuple(sorted((name, tuple(value) if name == "tags" else value) for name, value in options.items()))  # type: ignore[arg-type]
    identity = (str(kind.client_type), kind.namespace, milliseconds(kind.ttl), near, wire, strict, chosen)
    cache = _caches.get(identity)
    if cache is None:
        # One step, whatever other threads do.
        cache = _caches.setdefault(identity, AsyncCache(*kind, near=near, wire=wire, strict=strict, **options))
    return cache


async def initialize(core: Core, settings: Settings | None) -> None:
    """Connect the client of a cache and bind the cache to it."""
    _bind(core, await get_multi_redis_connection_manager().initialize(core.client_type, settings))


def initialize_for_threads(core: Core, settings: Settings | None) -> None:
    """The same for a program without an event loop."""
    _bind(core, get_multi_redis_connection_manager().initialize_for_threads(core.client_type, settings))


def _bind(core: Core, client: Client) -> None:
    core.bind(client)
    first = _first_initialized.get(core.client_type)
    if first is None or not first._core.client.open:
        for cache in list(_caches.values()):
            if cache._core is core:
                _first_initialized[core.client_type] = cache


async def _create(
    kind: _Kind,
    settings: Settings | None,
    near: bool | None = None,
    wire: Wire = "native",
    strict: bool = False,
    options: LoadOptions | None = None,
) -> AsyncCache:
    cache = _get(kind, near, wire, strict, options)
    await cache.initialize(settings)
    return cache


class CacheServiceFactory:
    """Makes connected caches. ``settings`` left out means the environment's."""

    @staticmethod
    async def create_default_cache_service(settings: Settings | None = None) -> AsyncCache:
        """Application data: cache client, namespace ``app``, 3600 s."""
        return await _create(_APP, settings)

    @staticmethod
    async def create_session_cache_service(settings: Settings | None = None) -> AsyncCache:
        """Sessions: cache client, namespace ``session``, 86400 s."""
        return await _create(_SESSION, settings)

    @staticmethod
    async def create_temp_cache_service(settings: Settings | None = None) -> AsyncCache:
        """Short-lived data: cache client, namespace ``temp``, 300 s."""
        return await _create(_TEMP, settings)

    @staticmethod
    async def create_queue_cache_service(settings: Settings | None = None) -> AsyncCache:
        """Jobs and queue metadata: queue client, namespace ``queue-cache``, 1800 s."""
        return await _create(_QUEUE_CACHE, settings)

    @staticmethod
    async def create_queue_worker_service(settings: Settings | None = None) -> AsyncCache:
        """Worker coordination: queue client, namespace ``queue-worker``, 900 s."""
        return await _create(_QUEUE_WORKER, settings)

    @staticmethod
    async def create_custom_cache_service(
        settings: Settings | None,
        ttl: TTL,
        namespace: str,
        client_type: str = RedisClientType.CACHE,
        *,
        near: bool | None = None,
        wire: Wire = "native",
        strict: bool = False,
        **options: Unpack[LoadOptions],
    ) -> AsyncCache:
        """A cache of your own: TTL in seconds, namespace, client; options as for ``AsyncCache``."""
        return await _create(_Kind(ttl, namespace, client_type), settings, near, wire, strict, options)


def get_cache_manager() -> AsyncCache:
    """``get_cache_cache_manager()``."""
    return get_cache_cache_manager()


def get_cache_cache_manager(ttl: TTL | Default = DEFAULT, namespace: str | Default = DEFAULT) -> AsyncCache:
    """A cache on the cache client, not yet connected.

    Without arguments: the one on this client that was initialised first, else 3600 s and namespace ``cache``.
    """
    return _get_manager(_PLAIN_CACHE, ttl, namespace)


def get_queue_cache_manager(ttl: TTL | Default = DEFAULT, namespace: str | Default = DEFAULT) -> AsyncCache:
    """A cache on the queue client, not yet connected.

    Without arguments: the one on this client that was initialised first, else 1800 s and namespace ``queue-cache``.
    """
    return _get_manager(_QUEUE_CACHE, ttl, namespace)


def _get_manager(kind: _Kind, ttl: TTL | Default, namespace: str | Default) -> AsyncCache:
    if ttl is DEFAULT and namespace is DEFAULT:
        first = _first_initialized.get(kind.client_type)
        if first is not None and first._core.client.open:
            return first
    ttl = kind.ttl if isinstance(ttl, Default) else ttl
    return _get(_Kind(ttl, kind.namespace if isinstance(namespace, Default) else namespace, kind.client_type))


def get_default_cache() -> AsyncCache:
    """What ``create_default_cache_service`` makes, not yet connected."""
    return _get(_APP)


def get_session_cache() -> AsyncCache:
    """What ``create_session_cache_service`` makes, not yet connected."""
    return _get(_SESSION)


def get_temp_cache() -> AsyncCache:
    """What ``create_temp_cache_service`` makes, not yet connected."""
    return _get(_TEMP)
