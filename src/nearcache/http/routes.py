"""[shell] What routes say of their responses: ``@cached_response(...)``, and how it reaches the middleware.

The middleware puts an empty ``Said`` into a context variable before it calls the application; the route, wherever it
runs, fills it in. Functions that tell responses apart are known by name in every process, so that a request can be
answered before it is routed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, overload

from ..core.ttl import TTL, milliseconds
from ..errors import InvalidArgument
from ..sentinels import DEFAULT, Default
from .fields import is_name
from .requests import CREDENTIALS
from .storing import USER, Rules

__all__ = ["CacheRules", "Said", "cached_response", "keyed_values", "said"]

P = ParamSpec("P")
R = TypeVar("R")

Scope = Mapping[str, Any]
KeyFunction = Callable[[Any], str | None]

_FUNCTIONS: dict[str, KeyFunction] = {}


class Said:
    """What the route of a request said, if it has been asked.

    Attributes:
        rules: of the route.
        over: it has answered; tasks that it leaves behind still see this.
    """

    __slots__ = ("over", "rules")

    def __init__(self) -> None:
        self.rules: Rules | None = None
        self.over = False


said: ContextVar[Said | None] = ContextVar("nearcache_http_said", default=None)


class CacheRules:
    """What a route says of its responses; ``cached_response`` and the FastAPI dependency are made of it.

    Args:
        ttl: seconds (or a ``timedelta``) responses are fresh in this cache, whatever their ``Cache-Control`` tells
            clients; left out, what that says. ``no-store`` and ``private`` are honoured all the same.
        stale_while_revalidate: seconds after it in which a response is served while it is fetched anew behind.
        stale_if_error: seconds after it in which a response is served instead of an error of the application.
        tags: names by which responses are purged together.
        vary: names of request fields that tell responses apart; they are added to ``Vary``.
        key: a function of the ASGI scope that gives text that tells responses apart, or None for a request that is
            not cached.
        per_user: ``True``: told apart by the credentials of the request (all of ``Authorization``, ``Cookie``,
            ``X-API-Key`` …), ``private`` to everybody else; a function of the ASGI scope that names the user, or None
            for a request that is not cached; ``False``: the same for all users, credentials do not matter.
        etag: answer conditional requests with 304, even where nothing is stored. Such a response is held back until
            it is complete, unless it is streamed.

    Raises:
        InvalidTTL: a time that is zero, negative, or none.
        InvalidArgument: what is given is of another kind.
    """

    def __init__(
        self,
        ttl: TTL | Default = DEFAULT,
        *,
        stale_while_revalidate: float | timedelta | None = None,
        stale_if_error: float | timedelta | None = None,
        tags: Collection[str] = (),
        vary: Collection[str] = (),
        key: KeyFunction | None = None,
        per_user: bool | KeyFunction | None = None,
        etag: bool = False,
    ) -> None:
        for name, texts in (("tags", tags), ("vary", vary)):
            if isinstance(texts, str):
                raise InvalidArgument(f"{name}={texts!r:.60}: a list of str: write [{texts!r:.60}]")
        for name in vary:
            if not is_name(name) or name == "*":
                raise InvalidArgument(f"vary={name!r:.60}: the name of a request field, such as 'Accept-Language'")
        keyed = [] if key is None or not callable(key) else [_register(key, "key:")]
        if per_user is True or callable(per_user):
            keyed.append(_register(_credentials if per_user is True else per_user, USER))
        for name, value in (("key", key), ("per_user", per_user)):
            if value is not None and not callable(value) and not (name == "per_user" and isinstance(value, bool)):
                raise InvalidArgument(f"{name}={value!r:.60}: a function of the ASGI scope")
        self.rules = Rules(
            ttl=None if ttl is DEFAULT or ttl is None else (milliseconds(ttl) or 0) / 1000,
            while_revalidate=_seconds(stale_while_revalidate),
            if_error=_seconds(stale_if_error),
            tags=tuple(tags),
            vary=tuple(name.lower().encode("ascii") for name in vary),
            keyed=tuple(keyed),
            per_user=None if per_user is None else bool(per_user),
            etag=etag,
        )

    def apply(self) -> None:
        """Say it, of the response to the request that is being handled here."""
        current = said.get()
        if current is not None:
            current.rules = self.rules if current.rules is None else _merged(current.rules, self.rules)


def _merged(outer: Rules, inner: Rules) -> Rules:
    """What is said closer to the route counts; tags and what tells responses apart add up."""
    return Rules(
        ttl=outer.ttl if inner.ttl is None else inner.ttl,
        while_revalidate=outer.while_revalidate if inner.while_revalidate is None else inner.while_revalidate,
        if_error=outer.if_error if inner.if_error is None else inner.if_error,
        tags=tuple(dict.fromkeys(outer.tags + inner.tags)),
        vary=tuple(dict.fromkeys(outer.vary + inner.vary)),
        keyed=tuple(dict.fromkeys(outer.keyed + inner.keyed)),
        per_user=outer.per_user if inner.per_user is None else inner.per_user,
        etag=outer.etag or inner.etag,
    )


@overload
def cached_response(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def cached_response(
    *,
    ttl: TTL | Default = DEFAULT,
    stale_while_revalidate: float | timedelta | None = None,
    stale_if_error: float | timedelta | None = None,
    tags: Collection[str] = (),
    vary: Collection[str] = (),
    key: KeyFunction | None = None,
    per_user: bool | KeyFunction | None = None,
    etag: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def cached_response(function: Any = None, /, **options: Any) -> Any:
    """Say how the responses of a route are cached; ``CacheRules`` has the words.

    Goes below the line that makes it a route, and works with any framework: what is decorated keeps its signature. It
    needs ``HTTPCacheMiddleware`` (or ``cache_plugin``) around the application; without it nothing happens.

    @app.get("/reports/{number}")
    @cached_response(ttl=60, stale_while_revalidate=300, tags=["reports"])
    async def report(number: int) -> Report: ...
    """
    if function is not None:
        return _wrap(function, CacheRules(**options))
    rules = CacheRules(**options)
    return lambda function: _wrap(function, rules)


def _wrap(function: Callable[..., Any], rules: CacheRules) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            rules.apply()
            return await function(*args, **kwargs)

        return asynchronous

    @functools.wraps(function)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        rules.apply()
        return function(*args, **kwargs)

    return synchronous


def _register(function: KeyFunction, kind: str) -> str:
    """A name that means this function in every process of the application.

    Raises:
        InvalidArgument: another function has it.
    """
    name = f"{kind}{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(type(function)))}"
    known = _FUNCTIONS.get(name, function)
    same = getattr(known, "__code__", None) == getattr(function, "__code__", known)
    if known is not function and (not same or getattr(function, "__closure__", None)):
        raise InvalidArgument(f"{name}: two functions of this name tell responses apart: give them names of their own")
    _FUNCTIONS[name] = function
    return name


def _credentials(scope: Scope) -> str:
    """All that says who is asking."""
    found = sorted((name.lower(), value) for name, value in scope["headers"] if name.lower() in CREDENTIALS)
    return "\n".join(f"{name.decode('latin-1')}:{len(value)}:{value.decode('latin-1')}" for name, value in found)


def keyed_values(names: Collection[str], scope: Scope) -> list[str] | None:
    """What the functions of these names say of a request; None when it is not cached, or one is not known here."""
    values: list[str] = []
    for name in names:
        function = _FUNCTIONS.get(name)
        value = function(scope) if function is not None else None
        if value is None:
            return None
        values.append(str(value))
    return values


def _seconds(value: float | timedelta | None) -> float | None:
    return None if value is None else 0.0 if value == 0 else (milliseconds(value) or 0) / 1000
