"""[shell] ``Cache``: the twin of ``AsyncCache`` (``aio.py``) for threads. Same methods, same defaults."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .base import CacheBase, Core, Wire
from .core.effects import Effect, Lead, Load, Outcome, Plan, Send, Spawn, Wait
from .core.flights import Flight, loading
from .core.ttl import TTL
from .errors import InvalidArgument, LoadTimeout, ServerError, WouldDeadlock
from .sentinels import DEFAULT, Default, Miss
from .transport.bridge import ThreadWaiter, get_bridge

if TYPE_CHECKING:
    from .aio import AsyncCache
    from .client import AnyLink
    from .decorators import Cached
    from .settings import Settings
    from .write_behind import WriteBehind

__all__ = ["Cache"]

T = TypeVar("T")
D = TypeVar("D")

_NET = 5.0  # seconds a thread waits past the lane's own deadlines before it gives the background loop up
_STRANDED_CHECK = 1.0  # seconds between looks at whether the loop that leads a flight is still there


class Cache(CacheBase):
    """A cache for synchronous code; see ``AsyncCache`` for what each method does.

    Commands travel over a connection on a background thread, shared by every thread of the process; loaders and
    writers run in the calling thread. It blocks: on an event loop use ``AsyncCache``.
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
    ) -> None:
        self._core = _core or Core(ttl, namespace, client_type, near, wire, strict)

    def initialize(self, settings: Settings | None = None) -> None:
        """Connect the client this cache uses, unless it is connected. Idempotent."""
        from .services import initialized

        get_bridge().run(initialized(self._core, settings))

    def _async(self) -> AsyncCache:
        from .aio import AsyncCache

        return AsyncCache(_core=self._core)

    # -- reads

    @overload
    def get(self, key: str, default: None = None, *, namespace: str | None = None) -> Any: ...
    @overload
    def get(self, key: str, default: D = ..., *, namespace: str | None = None, type: type[T]) -> T | D: ...
    @overload
    def get(self, key: str, default: D, *, namespace: str | None = None) -> Any | D: ...
    def get(self, key: str, default: Any = None, *, namespace: str | None = None, type: Any = None) -> Any:
        """The value, or ``default`` when there is none."""
        core = self._core
        link = core.client.thread_link()
        site = core.namespace if namespace is None else core.client.namespace(namespace)
        value = _drive(link, core.plans.get(link, site, site.key(key), type))
        return default if value.__class__ is Miss else value

    def get_many(self, keys: Iterable[str], *, namespace: str | None = None, type: Any = None) -> dict[str, Any]:
        """The values that were found, by key, in the asked order; one round trip."""
        core = self._core
        link = core.client.thread_link()
        site = core.in_namespace(namespace)
        return _drive(link, core.plans.get_many(link, site, core.keys(site, keys), type))

    def exists(self, key: str, *, namespace: str | None = None) -> bool:
        """Whether there is a valid value."""
        return self.ttl(key, namespace=namespace) != -2

    def ttl(self, key: str, *, namespace: str | None = None) -> int:
        """Whole seconds left, rounded up; -1 without expiry, -2 without a value."""
        core = self._core
        link = core.client.thread_link()
        site = core.in_namespace(namespace)
        return _drive(link, core.plans.ttl(link, site, site.key(key)))

    # -- writes

    def set(self, key: str, value: Any, *, ttl: TTL | Default = DEFAULT, namespace: str | None = None) -> bool:
        """Store a value; whether the server has it."""
        core = self._core
        link = core.client.thread_link()
        site = core.in_namespace(namespace)
        return _drive(link, core.plans.set_many(link, site, {site.key(key): value}, core.milliseconds(ttl)))

    def set_many(
        self, values: Mapping[str, Any], *, ttl: TTL | Default = DEFAULT, namespace: str | None = None
    ) -> bool:
        """Store several values in one round trip; whether the server has them all."""
        core = self._core
        link = core.client.thread_link()
        site = core.in_namespace(namespace)
        stored = core.values(site, values)
        return _drive(link, core.plans.set_many(link, site, stored, core.milliseconds(ttl)))

    def delete(self, key: str, *, namespace: str | None = None) -> bool:
        """Remove a value; whether it was there."""
        return self.delete_many([key], namespace=namespace) == 1

    def delete_many(self, keys: Iterable[str], *, namespace: str | None = None) -> int:
        """Remove several values in one round trip; how many were there."""
        core = self._core
        link = core.client.thread_link()
        site = core.in_namespace(namespace)
        return _drive(link, core.plans.delete(link, list(core.keys(site, keys).values())))

    def expire(self, key: str, ttl: TTL | Default = DEFAULT, *, namespace: str | None = None) -> bool:
        """Give a value a new time to live, from now; whether it was there."""
        core = self._core
        link = core.client.thread_link()
        site = core.in_namespace(namespace)
        return _drive(link, core.plans.expire(link, site.key(key), core.milliseconds(ttl)))

    @overload
    def clear(self, namespace: str | None = None) -> int: ...
    @overload
    def clear(self, namespace: str | None = None, *, wait: bool) -> int | None: ...
    def clear(self, namespace: str | None = None, *, wait: bool = True) -> int | None:
        """Make every value of a namespace invalid at once, for every process, then remove them; how many went."""
        core = self._core
        link = core.client.thread_link()
        return _drive(link, core.plans.clear(link, core.in_namespace(namespace), wait), core)

    def ping(self) -> str:
        """``PONG``."""
        link = self._core.client.thread_link()
        return _drive(link, self._core.plans.ping(link))

    # -- loading

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], T],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        type: Any = None,
    ) -> T:
        """The value; when there is none, what ``loader()`` gives, which is stored."""
        core = self._core
        link = core.client.thread_link()
        site = core.in_namespace(namespace)
        plan = core.loads.get_or_set(link, site, site.key(key), loader, core.milliseconds(ttl), type)
        return _result(_drive(link, plan, core))

    def get_or_set_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Mapping[str, T]],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
        type: Any = None,
    ) -> dict[str, T]:
        """Values by key, in the asked order; ``loader(missing)`` is called once, with only the missing keys."""
        core = self._core
        link = core.client.thread_link()
        site = core.in_namespace(namespace)
        stored = core.keys(site, keys)
        plan = core.loads.get_or_set_many(link, site, stored, loader, core.milliseconds(ttl), type)
        return _result(_drive(link, plan, core))

    def write_through(
        self,
        key: str,
        writer: Callable[[], T],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
    ) -> T:
        """Run ``writer()`` first; what it returns is stored and returned. If it raises, nothing is stored."""
        core = self._core
        link = core.client.thread_link()
        site = core.in_namespace(namespace)
        plan = core.loads.write_through(link, site, site.key(key), writer, core.milliseconds(ttl))
        return _result(_drive(link, plan, core))

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


def _result(outcome: Outcome) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _drive(link: AnyLink, plan: Plan[T], core: Core | None = None) -> T:
    """Carry out a plan in this thread."""
    bridge = get_bridge()
    if bridge.is_this_thread:
        raise WouldDeadlock("a synchronous Cache was used on nearcache's own loop: use AsyncCache there")
    resume: Callable[[Any], Effect] = plan.send
    value: Any = None
    try:
        while True:
            effect = resume(value)
            resume = plan.send
            kind = effect.__class__
            try:
                if kind is tuple:
                    waiter = ThreadWaiter()
                    bridge.call(link, link.post, effect, waiter)
                    value = waiter.wait(_NET)
                elif kind is list:
                    waiter = ThreadWaiter()
                    bridge.call(link, link.post_many, effect, waiter)
                    value = waiter.wait(_NET)
                elif isinstance(effect, Send):
                    waiter = ThreadWaiter()
                    bridge.call(link, link.post_many, effect.commands, waiter, effect.hook)
                    value = waiter.wait(_NET)
                else:
                    assert core is not None
                    value = _carry_out(effect, link, core)
            except ServerError as error:
                resume, value = plan.throw, error
    except StopIteration as stop:
        return stop.value
    finally:
        plan.close()


def _carry_out(effect: Effect, link: AnyLink, core: Core) -> Any:
    """The rarer effects."""
    if isinstance(effect, Load):
        return _load(effect)
    if isinstance(effect, Wait):
        return _wait(effect.flight, core)
    if isinstance(effect, Lead):
        return _drive(link, effect.plan, core)
    assert isinstance(effect, Spawn)
    threading.Thread(target=_drive, args=(link, effect.plan, core), daemon=True).start()
    return None


def _load(effect: Load) -> Outcome:
    token = loading.set((*loading.get(), *effect.flights))
    try:
        value = effect.call()
    except Exception as error:
        return Outcome(error=error)
    finally:
        loading.reset(token)
    if inspect.iscoroutine(value):
        value.close()
        return Outcome(error=InvalidArgument("a synchronous Cache calls synchronous functions: use AsyncCache"))
    return Outcome(value)


def _wait(flight: Flight, core: Core) -> None:
    if flight.landed:
        return
    if flight.loop is not None and flight.loop is asyncio._get_running_loop():
        raise WouldDeadlock(
            f"the load of {flight.key.decode()!r} runs on this thread's event loop, which would be blocked: "
            "use AsyncCache here"
        )
    landed = threading.Event()
    flight.when_landed(landed.set)
    waited = 0.0
    while not landed.wait(_STRANDED_CHECK):
        waited += _STRANDED_CHECK
        if flight.loop is not None and flight.loop.is_closed():
            core.flights.abandon(flight)
        elif waited > core.load_timeout + _STRANDED_CHECK:
            raise LoadTimeout(f"waited {core.load_timeout:g} s for a load that another thread or loop began")
