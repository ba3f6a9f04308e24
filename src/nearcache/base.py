"""What the two shells of a cache share: who it is, what it counted, and its plans once it is connected."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from .client import RedisClientType
from .codec.sealed import make_codec
from .core.clock import Clock
from .core.effects import Link, Outcome, Plan
from .core.flights import Flights
from .core.found import Lookup
from .core.keys import Namespace
from .core.loads import Loads
from .core.parts import Parts
from .core.policy import LoadOptions, Policy, WriteOptions, make_policy
from .core.reads import Reads
from .core.stats import CacheStats, Counters
from .core.ttl import TTL, milliseconds
from .core.writes import Item, Writes
from .errors import ConfigurationError, InvalidKey, NotInitialized
from .sentinels import ABSENT, DEFAULT, Default, Miss
from .tiers import remote
from .tiers.entry import COPY
from .tiers.memory import NearTier

if TYPE_CHECKING:
    from pydantic import SecretStr

    from .client import AsyncLink, Client, ThreadLink

__all__ = ["CacheBase", "Core", "Wire"]

_log = logging.getLogger("nearcache.cache")
_NO_TIER = NearTier(1, 1, 1.0, keeps=False)

Wire = Literal["native", "json"]


class Core:
    """One cache, whichever shell looks at it: identity, counters, and what ``bind`` connects it to."""

    def __init__(
        self,
        ttl: TTL,
        namespace: str,
        client_type: str,
        near: bool | None,
        wire: Wire,
        strict: bool,
        options: LoadOptions,
    ) -> None:
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
        self.options = options
        self.default = make_policy(Policy(self.ttl_ms), self.ttl_ms, options)
        self.counters = Counters()
        self.client: Client | _Unbound = _Unbound(namespace)
        self.namespace: Namespace
        self.reads: Reads
        self.writes: Writes
        self.loads: Loads
        self.flights: Flights
        self.tier = _NO_TIER
        self.now = _NO_TIER.now
        self.view: dict[Any, Any] = {}  # what the hit path looks into: near entries by the caller's keys
        self.near_reads = False
        self.owed: dict[Any, Any] = {}  # what the server has to be told before it is asked
        self.tasks: set[Any] = set()  # loads that must outlive their callers

    def bind(self, client: Client) -> None:
        """Work on this client from now on."""
        if self.client is client:
            return
        settings = client.settings
        codec = make_codec(
            wire=self.wire,
            compress_min=settings.compress_min,
            max_value=settings.max_value,
            encryption_keys=_revealed(settings.encryption_keys),
            signing_keys=_revealed(settings.signing_keys),
            pickle=settings.pickle,
        )
        defaults = Policy(
            self.ttl_ms,
            grace_ms=0 if self.wire == "json" else int(settings.grace * 1000),
            soft_timeout=settings.soft_timeout,
            load_timeout=settings.load_timeout,
        )
        self.default = make_policy(defaults, self.ttl_ms, self.options)
        self.namespace = client.namespace(self.namespace_name)
        self.flights = client.flights
        self.tier, self.now = client.near, client.near.now
        self.owed = client.replay.recovery.owed
        parts = Parts(
            codec=codec,
            remote=remote,
            near=client.near,
            flights=client.flights,
            replay=client.replay,
            counters=self.counters,
            strict=self.strict,
            patience=self.default.soft_timeout,
        )
        self.reads, self.writes = Reads(parts), Writes(parts)
        self.loads = Loads(parts, self.reads, self.writes, client.holder)
        self.near_reads = self.near is not False and settings.near_enabled
        # While hits are logged, all of them take the long way.
        if self.near_reads and not _log.isEnabledFor(logging.DEBUG):
            self.view = self.namespace.near
        self.client = client

    # What a shell needs to start a plan.

    def milliseconds(self, ttl: TTL | Default) -> int | None:
        return self.ttl_ms if ttl is DEFAULT else milliseconds(ttl)

    def policy(self, ttl: TTL | Default, options: LoadOptions) -> Policy:
        if ttl is DEFAULT and not options:
            return self.default
        return make_policy(self.default, self.milliseconds(ttl), options)

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

    def hit(self, key: str) -> Any:
        """The value when the near tier holds it, else ``ABSENT``: what ``get`` does, for other operations."""
        entry = self.view.get(key) if key.__class__ is str else None
        if entry is None or entry.epoch != self.tier.epoch or self.now() >= entry.quick_until:
            return ABSENT
        value = entry.value
        if value is COPY:
            value = entry.copy()
            if value.__class__ is Miss:
                return ABSENT
        self.counters.hits += 1
        entry.used = self.tier.stamp
        return value

    # The operations, from what a caller says to a plan.

    def get_many(self, link: Link, keys: Iterable[str], namespace: str | None, type: Any) -> Plan[dict[str, Any]]:
        site = self.in_namespace(namespace)
        return self.reads.get_many(link, site, self.keys(site, keys), type, self.near_reads)

    def remaining(self, link: Link, key: str, namespace: str | None) -> Plan[int]:
        site = self.in_namespace(namespace)
        return self.reads.ttl(link, site, key, site.key(key), self.near_reads)

    def lookup(self, link: Link, key: str, namespace: str | None, type: Any) -> Plan[Lookup]:
        site = self.in_namespace(namespace)
        return self.reads.lookup(link, site, key, site.key(key), type, self.near_reads)

    def set_many(
        self,
        link: Link,
        values: Iterable[tuple[str, Any]],
        ttl: TTL | Default,
        namespace: str | None,
        options: WriteOptions,
        compress_min: int = 0,
    ) -> Plan[bool]:
        site = self.in_namespace(namespace)
        policy = self.policy(ttl, cast("LoadOptions", options))
        tags = [site.tag(tag) for tag in policy.tags]
        items = {site.key(key): Item(key, value, compress_min) for key, value in values}
        return self.writes.set_many(link, site, items, policy.ttl_ms, policy.grace_ms, tags)

    def delete(self, link: Link, keys: Iterable[str], namespace: str | None) -> Plan[int]:
        site = self.in_namespace(namespace)
        return self.writes.delete(link, site, list(self.keys(site, keys).values()))

    def delete_prefix(self, link: Link, prefix: str) -> Plan[int]:
        """``Writes.delete_prefix``, of keys that need no sanitising."""
        return self.writes.delete_prefix(link, self.namespace, self.namespace.head + prefix.encode("ascii"))

    def expire(self, link: Link, key: str, ttl: TTL | Default, namespace: str | None) -> Plan[bool]:
        site = self.in_namespace(namespace)
        return self.writes.expire(link, site, site.key(key), self.milliseconds(ttl))

    def clear(self, link: Link, namespace: str | None, wait: bool) -> Plan[int | None]:
        return self.writes.clear(link, self.in_namespace(namespace), wait)

    def raise_tags(self, link: Link, tags: Iterable[str], namespace: str | None, *, soft: bool) -> Plan[bool]:
        site = self.in_namespace(namespace)
        return self.writes.raise_tags(link, site, [site.tag(tag) for tag in tags], soft=soft)

    def get_or_set(
        self,
        link: Link,
        key: str,
        loader: Callable[[], Any],
        ttl: TTL | Default,
        namespace: str | None,
        type: Any,
        options: LoadOptions,
    ) -> Plan[Outcome]:
        site, policy = self.in_namespace(namespace), self.policy(ttl, options)
        return self.loads.get_or_set(link, site, key, site.key(key), loader, policy, type, self.near_reads)

    def get_or_set_many(
        self,
        link: Link,
        keys: Iterable[str],
        loader: Callable[[list[str]], Any],
        ttl: TTL | Default,
        namespace: str | None,
        type: Any,
        options: LoadOptions,
    ) -> Plan[Outcome]:
        site, policy = self.in_namespace(namespace), self.policy(ttl, options)
        return self.loads.get_or_set_many(link, site, self.keys(site, keys), loader, policy, type, self.near_reads)

    def refresh(
        self,
        link: Link,
        key: str,
        loader: Callable[[], Any],
        ttl: TTL | Default,
        namespace: str | None,
        type: Any,
        options: LoadOptions,
    ) -> Plan[Outcome]:
        site, policy = self.in_namespace(namespace), self.policy(ttl, options)
        return self.loads.refresh(link, site, key, site.key(key), loader, policy, type)

    def replace(
        self,
        link: Link,
        key: str,
        loader: Callable[[], Any],
        outdated: Callable[[Any], bool] | None,
        options: LoadOptions,
    ) -> Plan[Outcome]:
        """``Loads.replace``, for rooms that have rules of their own for what is good enough."""
        site, policy = self.namespace, self.policy(DEFAULT, options)
        return self.loads.replace(link, site, key, site.key(key), loader, policy, outdated)

    def write_through(
        self,
        link: Link,
        key: str,
        writer: Callable[[], Any],
        ttl: TTL | Default,
        namespace: str | None,
        options: WriteOptions,
    ) -> Plan[Outcome]:
        site, policy = self.in_namespace(namespace), self.policy(ttl, cast("LoadOptions", options))
        return self.loads.write_through(link, site, key, site.key(key), writer, policy)


def _revealed(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()


class _Unbound:
    """Stands in for the client before ``initialize``."""

    open = False
    clock = Clock()

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
