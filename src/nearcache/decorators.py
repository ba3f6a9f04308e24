"""``@cache.cached``: results of a function, by its arguments.

Colour, key builder and policy are chosen once, when decorating. Keys never come from ``repr``: without a template an
argument takes part as the codec encodes it, which tells ``1`` from ``"1"`` and refuses what has no stable form.
"""

from __future__ import annotations

import functools
import inspect
import string
from collections.abc import Callable
from datetime import date, time
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload
from urllib.parse import quote
from uuid import UUID

from .codec.values import dumps
from .core.ttl import TTL
from .errors import CodecError, ConfigurationError, InvalidKey
from .sentinels import DEFAULT, Default

if TYPE_CHECKING:
    from .aio import AsyncCache
    from .cache import Cache

__all__ = ["Cached", "CachedFunction"]

P = ParamSpec("P")
T = TypeVar("T")


class CachedFunction(Generic[P, T]):
    """A function whose results are cached; call it as before.

    Attributes:
        uncached: the function itself.
    """

    def __init__(
        self,
        function: Callable[P, T],
        make_key: Callable[..., str],
        call: Callable[..., Any],
        delete: Callable[..., Any],
    ) -> None:
        self.uncached = function
        self._make_key = make_key
        self._call = call
        self._delete = delete
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        key = self._make_key(*args, **kwargs)
        return self._call(key, functools.partial(self.uncached, *args, **kwargs))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key the result for these arguments has."""
        return self._make_key(*args, **kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Remove the result for these arguments; for an ``async`` function, to be awaited. Whether it was there."""
        return self._delete(self._make_key(*args, **kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return functools.partial(cast("Callable[..., Any]", self), instance)


class Cached:
    """What ``cache.cached`` is: a decorator, with or without options."""

    def __init__(self, asynchronous: AsyncCache, synchronous: Cache) -> None:
        self._asynchronous = asynchronous
        self._synchronous = synchronous

    @overload
    def __call__(self, function: Callable[P, T], /) -> CachedFunction[P, T]: ...
    @overload
    def __call__(
        self, function: None = ..., /, *, ttl: TTL | Default = ..., key: str | None = ..., namespace: str | None = ...
    ) -> Callable[[Callable[P, T]], CachedFunction[P, T]]: ...
    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        ttl: TTL | Default = DEFAULT,
        key: str | None = None,
        namespace: str | None = None,
    ) -> Any:
        """Cache the results of a synchronous or asynchronous function.

        Args:
            function: the function, when used without options.
            ttl: seconds, a ``timedelta``, or ``None`` for no expiry; the cache's own when left out.
            key: a template over the function's parameters, such as ``"user:{user_id}"``; made from module, name and
                all arguments when left out.
            namespace: another namespace of the same client.

        Raises:
            ConfigurationError: the template names what is no parameter.
            InvalidKey: at a call, an argument has no stable key; names it, and the remedy.
        """
        if function is None:
            return lambda function: self(function, ttl=ttl, key=key, namespace=namespace)
        make_key = _template_key(function, key) if key is not None else _default_key(function)
        cache = self._asynchronous if inspect.iscoroutinefunction(function) else self._synchronous
        get_or_set = functools.partial(cache.get_or_set, ttl=ttl, namespace=namespace)
        delete = functools.partial(cache.delete, namespace=namespace)
        return CachedFunction(function, make_key, get_or_set, delete)


def _template_key(function: Callable[..., Any], template: str) -> Callable[..., str]:
    signature = inspect.signature(function)
    fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    for field in fields:
        if field not in signature.parameters:
            raise ConfigurationError(
                f"key={template!r}: {field!r} is no parameter of {function.__qualname__}; it has "
                f"{', '.join(signature.parameters) or 'none'}"
            )

    def make_key(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        parts = {name: _text(bound.arguments[name], name, function) for name in fields}
        return template.format_map(parts)

    return make_key


def _default_key(function: Callable[..., Any]) -> Callable[..., str]:
    signature = inspect.signature(function)
    name = f"{function.__module__}.{function.__qualname__}"
    variadic = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)

    def make_key(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        digest = blake2b(digest_size=16)
        for parameter, value in bound.arguments.items():
            # Keyword arguments come in the caller's order; the same call in another order is the same call.
            stable = sorted(value.items()) if parameter == variadic else value
            try:
                encoded = dumps(stable)
            except CodecError as error:
                raise _no_stable_key(parameter, value, function) from error
            digest.update(b"%d:%b%d:%b" % (len(parameter), parameter.encode(), len(encoded), encoded))
        return f"{name}:{digest.hexdigest()}"

    return make_key


def _text(value: Any, parameter: str, function: Callable[..., Any]) -> str:
    """An argument as part of a key: escaped, so that no two lists of arguments make the same key."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, (str, int, float, UUID, Decimal, date, time)):
        return quote(str(value), safe=" ")
    raise _no_stable_key(parameter, value, function)


def _no_stable_key(parameter: str, value: object, function: Callable[..., Any]) -> InvalidKey:
    return InvalidKey(
        f"argument {parameter!r} of {function.__qualname__} is a {type(value).__name__}, which has no stable key: "
        "pass an id instead, or give a template with key=..."
    )
