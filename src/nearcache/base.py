"""What the two shells of a cache share: who it is, what it counted, and its plans once it is connected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from .client import RedisClientType
from .codec import Codec
from .core.flights import Flights
from .core.keys import Namespace
from .core.loads import Loads
from .core.plans import Plans
from .core.stats import CacheStats, Counters
from .core.ttl import TTL, milliseconds
from .errors import ConfigurationError, InvalidKey, NotInitialized
from .sentinels import DEFAULT, Default
from .tiers import remote

if TYPE_CHECKING:
    from .client import AsyncLink, Client, ThreadLink

__all__ = ["CacheBase", "Core", "Wire"]

Wire = Literal["native", "json"]


class Core:
    """One cache, whichever shell looks at it: identity, counters, and what ``bind`` connects it to."""

    def __init__(self, ttl: TTL, namespace: str, client_type: str, near: bool | None, wire: Wire, strict: bool) -> None:
        if wire not in ("native", "json"):
            raise ConfigurationError(f"wire={wire!r}: accepted are 'native' and 'json'")
        Namespace(namespace)  # raises for what is none, here and not at the first use
        self.ttl_ms = milliseconds(ttl)
        self.ttl = ttl
        self.namespace_name = namespace
        self.client_type = str(client_type)
        self.near = near
        self.wire = wire
        self.strict = strict
        self.counters = Counters()
        self.client: Client | _Unbound = _Unbound(namespace)
        self.namespace: Namespace
        self.plans: Plans
        self.loads: Loads
        self.flights: Flights
        self.load_timeout: float
        self.tasks: set[Any] = set()  # loads that must outlive their callers

    def bind(self, client: Client) -> None:
        """Work on this client from now on."""
        if self.client is client:
            return
        settings = client.settings
        codec = Codec(wire=self.wire, compress_min=settings.compress_min, max_value=settings.max_value)
        self.namespace = client.namespace(self.namespace_name)
        self.flights = client.flights
        self.load_timeout = settings.load_timeout
        self.plans = Plans(
            codec=codec, remote=remote, flights=client.flights, counters=self.counters, strict=self.strict
        )
        self.loads = Loads(self.plans, codec, client.flights, self.counters)
        self.client = client

    # What a shell needs to start a plan.

    def milliseconds(self, ttl: TTL | Default) -> int | None:
        return self.ttl_ms if ttl is DEFAULT else milliseconds(ttl)

    def in_namespace(self, namespace: str | None) -> Namespace:
        client = self.client
        if namespace is None:
            return self.namespace if not isinstance(client, _Unbound) else client.namespace("")
        return client.namespace(namespace)

    def keys(self, namespace: Namespace, keys: Iterable[str]) -> dict[str, bytes]:
        """Stored keys by the caller's, each once, in the asked order."""
        if isinstance(keys, str):
            raise InvalidKey(f"several keys are a list of str, not one str: write [{keys!r:.60}]")
        return {key: namespace.key(key) for key in keys}

    def values(self, namespace: Namespace, values: Mapping[str, Any]) -> dict[bytes, Any]:
        return {namespace.key(key): value for key, value in values.items()}


class _Unbound:
    """Stands in for the client before ``initialize``."""

    open = False

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def _raise(self) -> NoReturn:
        raise NotInitialized(
            f"the cache of namespace {self._namespace!r} is not initialised: call await cache.initialize(settings) "
            "first (cache.initialize(settings) on a synchronous Cache), or get it from CacheServiceFactory"
        )

    def link(self) -> AsyncLink:
        self._raise()

    def thread_link(self) -> ThreadLink:
        self._raise()

    def namespace(self, name: str) -> Namespace:
        self._raise()


class CacheBase:
    """Everything about a cache that needs no server."""

    _core: Core

    @property
    def namespace(self) -> str:
        """The namespace its keys are in unless a call names another."""
        return self._core.namespace_name

    @property
    def default_ttl(self) -> int | float | timedelta | None:
        """The time to live of a value unless a call gives another: seconds, a ``timedelta``, or None for ever."""
        return self._core.ttl

    def get_stats(self) -> CacheStats:
        """What this cache counted: ``stats.hits`` and ``stats["hits"]`` alike."""
        return self._core.counters.snapshot()

    def get_hit_ratio(self) -> float:
        """Hits among reads, in percent; 0.0 before any read."""
        return self._core.counters.snapshot().hit_ratio

    def reset_stats(self) -> None:
        """Count from zero again."""
        self._core.counters.reset()

    def is_ready(self) -> bool:
        """Whether it is initialised and has a connection."""
        client = self._core.client
        return not isinstance(client, _Unbound) and client.open and client.connected

    def get_client_type(self) -> str:
        """The name of the client it uses: ``RedisClientType.CACHE``, ``RedisClientType.QUEUE``, or a registered one."""
        name = self._core.client_type
        return RedisClientType(name) if name in set(RedisClientType) else name

    def __repr__(self) -> str:
        core = self._core
        return f"<{type(self).__name__} {core.namespace_name!r} on {core.client_type}, ttl={core.ttl!r}>"
