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
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload
from urllib.parse import quote
from uuid import UUID

from .codec.values import dumps
from .core.keys import Namespace
from .core.ttl import TTL, milliseconds
from .errors import CodecError, ConfigurationError, InvalidKey
from .sentinels import DEFAULT, Default

if TYPE_CHECKING:
    from .aio import AsyncCache
    from .cache import Cache

__all__ = ["Cached", "CachedFunction"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
_MakeKey = Callable[..., str]


class CachedFunction(Generic[P, T]):
    """A function whose results are cached; call it as before.

    Attributes:
        uncached: the function itself.
    """

    def __init__(
        self,
        function: Callable[P, T],
        make_key: _MakeKey,
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
        return CachedFunction(bound, functools.partial(self._make_key, instance), self._call, self._delete)


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
            key: a template over the function's parameters, such as ``"user:{user_id}"``, in which an argument takes
                part as its text (``1`` and ``"1"`` share a key); made from module, name and all arguments when left
                out. Functions that a loop or a factory makes share module and name: give each a key.
            namespace: another namespace of the same client.

        Raises:
            ConfigurationError: the template names what is no parameter, or could give two lists of arguments one key;
                or there is no template and the function has no name of its own.
            InvalidKey: at a call, an argument has no stable key; names it, and the remedy.
            InvalidTTL, InvalidNamespace: as for ``set``.
        """
        if function is None:
            return functools.partial(self._decorate, ttl, key, namespace)
        return self._decorate(ttl, key, namespace, function)

    def _decorate(
        self, ttl: TTL | Default, key: str | None, namespace: str | None, function: Callable[..., Any], /
    ) -> CachedFunction[..., Any]:
        if not isinstance(ttl, Default):
            milliseconds(ttl)
        if namespace is not None:
            Namespace(namespace)
        cache = self._asynchronous if _is_async(function) else self._synchronous
        make_key = _default_key(function) if key is None else _template_key(function, key)
        get_or_set = functools.partial(cache.get_or_set, ttl=ttl, namespace=namespace)
        delete = functools.partial(cache.delete, namespace=namespace)
        return CachedFunction(function, make_key, get_or_set, delete)


def _is_async(function: Any) -> bool:
    """Its colour. What cannot be cached, or only wrongly, is refused."""
    if type(function) in (staticmethod, classmethod) or not callable(function):
        raise ConfigurationError(
            f"cached() decorates functions, not a {type(function).__name__}: put it under @staticmethod and "
            "@classmethod, and give options by name, as in cached(key=...)"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{_name(function)} is a generator, which is used up once read: return a list")
    return any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def _template_key(function: Callable[..., Any], template: str) -> _MakeKey:
    signature = inspect.signature(function)
    names, escapes = _parse(template, signature, _name(function))

    def make_key(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return template.format_map({name: _text(bound.arguments[name], name, function, escapes) for name in names})

    return make_key


# What ``quote`` leaves as it is, besides letters and digits.
_UNQUOTED = " _.-~"


def _parse(template: str, signature: inspect.Signature, function: str) -> tuple[list[str], dict[str, str]]:
    """The parameters a template names, and what has to be escaped in arguments, so that they stay apart.

    Between two fields there has to be a character that no argument's text contains.
    """
    wrong = f"key={template!r} of {function}: "
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigurationError(f"{wrong}{error}; a template looks like 'user:{{user_id}}'") from None
    names: list[str] = []
    escapes: dict[str, str] = {}
    between = ""
    for literal, name, form, conversion in fields:
        between += literal
        if name is None:  # an escaped brace ends here
            continue
        if name not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise ConfigurationError(f"{wrong}{name!r} is no parameter; it has {known}")
        if form or conversion:
            raise ConfigurationError(f"{wrong}{name!r} has a format or a conversion: a field is a parameter's name")
        if names and all((char.isalnum() and char.isascii()) or char in _UNQUOTED + "%" for char in between):
            separator = next((char for char in between if char in _UNQUOTED), None)
            if separator is None:
                raise ConfigurationError(f"{wrong}{names[-1]!r} and {name!r} run into each other: put a ':' between")
            escapes[separator] = f"%{ord(separator):02X}"
        names.append(name)
        between = ""
    return names, escapes


def _text(value: Any, parameter: str, function: Callable[..., Any], escapes: dict[str, str]) -> str:
    """An argument as part of a key: escaped, so that no two lists of arguments make the same key."""
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return "%None"  # no text looks like it when it is quoted
    if not isinstance(value, (str, int, float, UUID, Decimal, date, time)):
        raise _no_stable_key(parameter, value, function)
    try:
        text = quote(str(value), safe=" ", errors="surrogatepass")
    except ValueError as error:  # an integer of more digits than Python prints
        raise _no_stable_key(parameter, value, function) from error
    for char, escape in escapes.items():
        text = text.replace(char, escape)
    return text


def _default_key(function: Callable[..., Any]) -> _MakeKey:
    name = getattr(function, "__qualname__", "<none>")
    if name.endswith(("<lambda>", "<none>")):
        raise ConfigurationError(f"{type(function).__name__} {name} has no name to make keys from: give key='...'")
    name = f"{function.__module__}.{name}"
    signature = inspect.signature(function)

    def make_key(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        digest = blake2b(digest_size=16)
        for parameter, value in bound.arguments.items():
            try:
                encoded = _stable(value)
            except (CodecError, RecursionError) as error:
                raise _no_stable_key(parameter, value, function) from error
            digest.update(b"%d:%b%b" % (len(parameter), parameter.encode(), encoded))
        return f"{name}:{digest.hexdigest()}"

    return make_key


def _stable(value: Any) -> bytes:
    """Equal values give equal bytes, in every process: sets and dicts have no order. Tells its own length."""
    kind = value.__class__
    if kind is set or kind is frozenset:
        parts = sorted(map(_stable, value))
    elif kind is dict:
        parts = sorted(_stable(key) + _stable(part) for key, part in value.items())
    elif kind is list or kind is tuple:
        parts = list(map(_stable, value))
    else:
        encoded = dumps(value)
        return b"%d:%b" % (len(encoded), encoded)
    body = b"".join(parts)
    return b"%b%d:%b" % (kind.__name__.encode(), len(body), body)


def _no_stable_key(parameter: str, value: object, function: Callable[..., Any]) -> InvalidKey:
    return InvalidKey(
        f"argument {parameter!r} of {_name(function)} is a {type(value).__name__}, which has no stable key: "
        "pass an id instead, or give a template with key=..."
    )
