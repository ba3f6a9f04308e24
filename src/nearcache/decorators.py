"""[shell] ``@cache.cached``: results of a function, by its arguments; and ``@cache.invalidates``.

Colour, key builder and policy are chosen once, when decorating. A hit that the near tier holds is looked up by the
call's own arguments: no signature is bound and no key is built. Only arguments of a few built-in types take that way,
always of the types of the first call, because ``1``, ``1.0`` and ``True`` are one key to a dictionary.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, cast, overload

from .callkeys import MakeKey, default_key, is_async, render, template_key
from .codec import Hint
from .core.keys import Namespace
from .core.policy import LoadOptions, Policy, make_policy
from .core.ttl import TTL, milliseconds
from .errors import ConfigurationError
from .sentinels import DEFAULT, Default, Miss
from .tiers.entry import COPY, Entry

if TYPE_CHECKING:
    from .aio import AsyncCache
    from .base import Core
    from .cache import Cache

__all__ = ["Cached", "CachedFunction", "Invalidates"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

_QUICK = frozenset({str, bytes, int, bool, type(None)})  # exact types that are equal only to themselves


class _Spec:
    """What is decided when decorating."""

    def __init__(
        self,
        function: Callable[..., Any],
        cache: AsyncCache | Cache,
        make_key: MakeKey,
        make_tags: Callable[..., list[str]] | None,
        ttl: TTL | Default,
        namespace: str | None,
        options: LoadOptions,
    ) -> None:
        self.function = function
        self.asynchronous = is_async(function)
        self.cache = cache
        self.core: Core = cache._core
        self.make_key = make_key
        self.make_tags = make_tags
        self.namespace = namespace
        self._ttl = ttl
        self._given = options

    @functools.cached_property
    def hint(self) -> Hint | None:
        """The type of the function's results, by its annotation."""
        try:
            annotation = typing.get_type_hints(self.function).get("return")
        except Exception:  # noqa: BLE001  # it names what is not there, or is no type: then there is no hint
            return None
        return None if annotation in (None, Any, type(None)) or isinstance(annotation, TypeVar) else Hint(annotation)

    def options(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keywords of ``get_or_set`` for one call."""
        options: dict[str, Any] = dict(self._given)
        if self.make_tags is not None:
            options["tags"] = self.make_tags(*args, **kwargs)
        return {**options, "ttl": self._ttl, "namespace": self.namespace, "type": self.hint}

    def entry(self, key: str) -> Entry | None:
        """What the near tier holds for a key, if this cache may read it."""
        core = self.core
        # A value that may be renewed before it expires has to be looked at each time.
        eager = make_policy(core.default, core.ttl_ms, self._given).eager
        if eager or core.view is not core.namespace.near:
            return None
        return core.tier.entry(core.in_namespace(self.namespace).key(key))


class CachedFunction(Generic[P, T]):
    """A function whose results are cached; call it as before.

    Attributes:
        uncached: the function itself.
    """

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
            """The result for these arguments: the cached one, or a new one, which is cached."""
    else:
        # In a slot, a call goes straight to the closure, without a method in between.
        __slots__ = ("__call__", "__dict__", "__weakref__", "_instance", "_spec", "uncached")

    def __init__(self, function: Callable[P, T], spec: _Spec, instance: tuple[Any, ...] = ()) -> None:
        self.uncached = function
        self._spec = spec
        self._instance = instance
        self.__call__ = (_asynchronous if spec.asynchronous else _synchronous)(self, spec, spec.core)  # type: ignore[method-assign]
        functools.update_wrapper(self, spec.function)
        self.__wrapped__ = function  # what ``inspect.signature`` asks: bound, it has no ``self``

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        return self._spec.make_key(*self._instance, *args, **kwargs)

    def _load(self, args: tuple[Any, ...], kwargs: dict[str, Any], key: str, method: Callable[..., Any]) -> Any:
        call = functools.partial(self.uncached, *args, **kwargs)
        return method(key, call, **self._spec.options((*self._instance, *args), kwargs))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key the result for these arguments has."""
        return self._key(args, kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Remove the result for these arguments; for an ``async`` function, to be awaited. Whether it was there."""
        return self._spec.cache.delete(self._key(args, kwargs), namespace=self._spec.namespace)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function now and cache what it returns, whatever is cached."""
        refreshed: T = self._load(args, kwargs, self._key(args, kwargs), self._spec.cache.refresh)
        return refreshed

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, Q], R], instance: S, owner: type | None = None
    ) -> CachedFunction[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: bound to the instance, like a function."""
        if instance is None:
            return self
        bound = functools.partial(cast("Callable[..., Any]", self.uncached), instance)
        return CachedFunction(bound, self._spec, (instance,))


class _Hits:
    """The near entries of one function by the arguments of its calls.

    Attributes:
        near: by positional arguments; the near tier removes what it drops.
        kinds: the types of the arguments of all of them.
        first: the type of the only argument, where there is one; then the quicker look at it is enough.
    """

    __slots__ = ("_spec", "first", "kinds", "near")

    def __init__(self, spec: _Spec) -> None:
        self._spec = spec
        self.near: dict[Any, Entry] = {}
        self.kinds: tuple[type, ...] | None = None
        self.first: type | None = None

    def remember(self, args: tuple[Any, ...], key: str) -> None:
        """Let the next call with the same arguments find what the near tier holds."""
        kinds = tuple(map(type, args))
        if not _QUICK.issuperset(kinds):
            return
        if self.kinds is None:
            self.kinds = kinds
            self.first = kinds[0] if len(kinds) == 1 else None
        entry = self._spec.entry(key) if kinds == self.kinds else None
        if entry is None:
            return
        value = entry.read()
        if value.__class__ is not Miss and Hint.suits(self._spec.hint, value, is_json=entry.envelope is None):
            self._spec.core.tier.adopt(entry, self.near, args)


def _synchronous(self: CachedFunction[..., Any], spec: _Spec, core: Core) -> Callable[..., Any]:
    hits = _Hits(spec)
    near_entry, counters = hits.near.get, core.counters
    # As of the last call that took the long way: when a cache is bound anew, nothing is near until there was another.
    tier, now, first, kinds = core.tier, core.now, hits.first, hits.kinds

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal tier, now, first, kinds
        try:
            entry = near_entry(args)
        except TypeError:  # not hashable
            entry = None
        if (
            entry is not None
            and (args[0].__class__ is first if first else tuple(map(type, args)) == kinds)
            and not kwargs
            and entry.epoch == tier.epoch
            and now() < entry.quick_until
        ):
            value = entry.value
            if value is not COPY or (value := entry.copy()).__class__ is not Miss:
                counters.hits += 1
                entry.used = tier.stamp
                return value
        key = self._key(args, kwargs)
        value = self._load(args, kwargs, key, spec.cache.get_or_set)
        if not kwargs and not self._instance:
            hits.remember(args, key)
            tier, now, first, kinds = core.tier, core.now, hits.first, hits.kinds
        return value

    return call


def _asynchronous(self: CachedFunction[..., Any], spec: _Spec, core: Core) -> Callable[..., Any]:
    """The same as a coroutine: one, from call to hit."""
    hits = _Hits(spec)
    near_entry, counters = hits.near.get, core.counters
    # As of the last call that took the long way: when a cache is bound anew, nothing is near until there was another.
    tier, now, first, kinds = core.tier, core.now, hits.first, hits.kinds

    async def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal tier, now, first, kinds
        try:
            entry = near_entry(args)
        except TypeError:
            entry = None
        if (
            entry is not None
            and (args[0].__class__ is first if first else tuple(map(type, args)) == kinds)
            and not kwargs
            and entry.epoch == tier.epoch
            and now() < entry.quick_until
        ):
            value = entry.value
            if value is not COPY or (value := entry.copy()).__class__ is not Miss:
                counters.hits += 1
                entry.used = tier.stamp
                return value
        key = self._key(args, kwargs)
        value = await self._load(args, kwargs, key, spec.cache.get_or_set)
        if not kwargs and not self._instance:
            hits.remember(args, key)
            tier, now, first, kinds = core.tier, core.now, hits.first, hits.kinds
        return value

    return call


class Cached:
    """What ``cache.cached`` is: a decorator, with or without options."""

    def __init__(self, asynchronous: AsyncCache, synchronous: Cache) -> None:
        self._asynchronous = asynchronous
        self._synchronous = synchronous

    @overload
    def __call__(self, function: Callable[P, T], /) -> CachedFunction[P, T]: ...
    @overload
    def __call__(
        self,
        function: None = ...,
        /,
        *,
        ttl: TTL | Default = ...,
        key: str | None = ...,
        namespace: str | None = ...,
        ignore: Collection[str] = ...,
        **options: Unpack[LoadOptions],
    ) -> Callable[[Callable[P, T]], CachedFunction[P, T]]: ...
    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        ttl: TTL | Default = DEFAULT,
        key: str | None = None,
        namespace: str | None = None,
        ignore: Collection[str] = (),
        **options: Unpack[LoadOptions],
    ) -> Any:
        """Cache the results of a synchronous or asynchronous function.

        Args:
            function: the function, when used without options.
            ttl: seconds, a ``timedelta``, or ``None`` for no expiry; the cache's own when left out.
            key: a template over the function's parameters, such as ``"user:{user_id}"``, in which an argument takes
                part as its text (``1`` and ``"1"`` share a key); made from module, name and all arguments when left
                out. Functions that a loop or a factory makes share module and name: give each a key.
            namespace: another namespace of the same client.
            ignore: names of parameters that do not take part in the key, such as ``["self", "session"]``.
            options: those of ``get_or_set``; ``tags`` are templates like ``key``.

        Raises:
            ConfigurationError: the template names what is no parameter, or could give two lists of arguments one key;
                or there is no template and the function has no name of its own.
            InvalidKey: at a call, an argument has no stable key; names it, and the remedy.
            InvalidTTL, InvalidNamespace, InvalidArgument: as for ``get_or_set``.
        """

        def decorate(function: Callable[..., Any]) -> CachedFunction[..., Any]:
            if not isinstance(ttl, Default):
                milliseconds(ttl)
            if namespace is not None:
                Namespace(namespace)
            if key is not None and ignore:
                raise ConfigurationError("a key template names what takes part in the key: leave out ignore=")
            rest, tags = _split(options)
            make_policy(Policy(None), None, rest)
            cache = self._asynchronous if is_async(function) else self._synchronous
            make_key = default_key(function, ignore) if key is None else template_key(function, key)
            spec = _Spec(function, cache, make_key, tags and render(function, tags), ttl, namespace, rest)
            return CachedFunction(function, spec)

        return decorate if function is None else decorate(function)


def _split(options: LoadOptions) -> tuple[LoadOptions, Any]:
    """The options without the tags, and the tags."""
    rest = cast("dict[str, Any]", {**options})
    return cast("LoadOptions", rest), rest.pop("tags", None)


class Invalidates:
    """What ``cache.invalidates`` is: a decorator for functions that change what cached values were made from."""

    def __init__(self, asynchronous: AsyncCache, synchronous: Cache) -> None:
        self._asynchronous = asynchronous
        self._synchronous = synchronous

    def __call__(
        self, *, tags: Collection[str], namespace: str | None = None
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Invalidate tags when the function has returned; when it raises, nothing is invalidated.

        Args:
            tags: templates over the function's parameters, such as ``["user:{user_id}"]``.
            namespace: another namespace of the same client.

        Raises:
            ConfigurationError: a template names what is no parameter.
            InvalidKey: at a call, before it is made, an argument has no stable text.
        """

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            make_tags = render(function, tags)
            if is_async(function):

                @functools.wraps(function)
                async def awaited(*args: Any, **kwargs: Any) -> Any:
                    made = make_tags(*args, **kwargs)  # what raises has to do so before anything is changed
                    result = await function(*args, **kwargs)
                    await self._asynchronous.invalidate_tags(*made, namespace=namespace)
                    return result

                return awaited

            @functools.wraps(function)
            def called(*args: Any, **kwargs: Any) -> Any:
                made = make_tags(*args, **kwargs)
                result = function(*args, **kwargs)
                self._synchronous.invalidate_tags(*made, namespace=namespace)
                return result

            return called

        return decorate
