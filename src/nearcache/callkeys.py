"""Keys from the arguments of a call.

Keys never come from ``repr``: without a template an argument takes part as the codec encodes it, which tells ``1`` from
``"1"`` and refuses what has no stable form.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Collection, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import Any
from urllib.parse import quote
from uuid import UUID

from .codec.classes import take_apart
from .codec.failures import Refused
from .codec.values import dumps, is_immutable
from .errors import CodecError, ConfigurationError, InvalidKey

__all__ = ["Arguments", "MakeKey", "default_key", "is_async", "render", "template_key"]

MakeKey = Callable[..., str]


def name_of(function: Any) -> str:
    """What to call a function in an error."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def is_async(function: Any) -> bool:
    """Its colour. What cannot be cached, or only wrongly, is refused."""
    if type(function) in (staticmethod, classmethod) or not callable(function):
        raise ConfigurationError(
            f"cached() decorates functions, not a {type(function).__name__}: put it under @staticmethod and "
            "@classmethod, and give options by name, as in cached(key=...)"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{name_of(function)} is a generator, which is used up once read: return a list")
    return any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004


class Arguments:
    """The arguments of a function by name, defaults included."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = inspect.signature(function)
        parameters = list(self.signature.parameters.values())
        plain = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
        # The usual function needs no binding by inspect, which costs ten times as much.
        self._names = tuple(self.signature.parameters) if all(p.kind in plain for p in parameters) else ()
        self._defaults = tuple(p.default for p in parameters)

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        names = self._names
        if names and not kwargs and len(args) <= len(names):
            values = (*args, *self._defaults[len(args) :])
            if inspect.Parameter.empty not in values[len(args) :]:
                return dict(zip(names, values, strict=True))
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments


def template_key(function: Callable[..., Any], template: str) -> MakeKey:
    """What makes keys from a template over a function's parameters."""
    arguments = Arguments(function)
    names, escapes = _parse(template, arguments.signature, name_of(function))

    def make_key(*args: Any, **kwargs: Any) -> str:
        bound = arguments(args, kwargs)
        return template.format_map({name: _text(bound[name], name, function, escapes) for name in names})

    return make_key


def render(function: Callable[..., Any], templates: Collection[str]) -> Callable[..., list[str]]:
    """What makes tags from templates over a function's parameters. An argument takes part as its text, as it is."""
    arguments = Arguments(function)
    if isinstance(templates, str):
        raise ConfigurationError(f"tags={templates!r}: several tags are a list of str: write [{templates!r}]")
    templates = list(templates)
    names: set[str] = set()
    for template in templates:
        parsed = _fields(template, arguments.signature, f"tag {template!r} of {name_of(function)}: ")
        names.update(name for _, name in parsed if name is not None)

    def make_tags(*args: Any, **kwargs: Any) -> list[str]:
        bound = arguments(args, kwargs)
        plain = {name: _plain(bound[name], name, function) for name in names}
        return [template.format_map(plain) for template in templates]

    return make_tags


# What ``quote`` leaves as it is, besides letters and digits.
_UNQUOTED = " _.-~"


def _parse(template: str, signature: inspect.Signature, function: str) -> tuple[list[str], dict[str, str]]:
    """The parameters a template names, and what has to be escaped in arguments, so that they stay apart.

    Between two fields there has to be a character that no argument's text contains.
    """
    wrong = f"key={template!r} of {function}: "
    names: list[str] = []
    escapes: dict[str, str] = {}
    between = ""
    for literal, name in _fields(template, signature, wrong):
        between += literal
        if name is None:  # an escaped brace ends here
            continue
        if names and all((char.isalnum() and char.isascii()) or char in _UNQUOTED + "%" for char in between):
            separator = next((char for char in between if char in _UNQUOTED), None)
            if separator is None:
                raise ConfigurationError(f"{wrong}{names[-1]!r} and {name!r} run into each other: put a ':' between")
            escapes[separator] = f"%{ord(separator):02X}"
        names.append(name)
        between = ""
    return names, escapes


def _fields(template: str, signature: inspect.Signature, wrong: str) -> list[tuple[str, str | None]]:
    """A template's literals, each with the parameter that follows it."""
    try:
        parsed = list(string.Formatter().parse(template))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{wrong}{error}; a template looks like 'user:{{user_id}}'") from None
    for _, name, form, conversion in parsed:
        if name is not None and name not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise ConfigurationError(f"{wrong}{name!r} is no parameter; it has {known}")
        if form or conversion:
            raise ConfigurationError(f"{wrong}{name!r} has a format or a conversion: a field is a parameter's name")
    return [(literal, name) for literal, name, _, _ in parsed]


def _plain(value: Any, parameter: str, function: Callable[..., Any]) -> Any:
    """An argument that has a text of its own; that of other objects is where they happen to be in memory."""
    if isinstance(value, Enum):
        value = value.value
    if value is not None and not isinstance(value, (str, int, float, UUID, Decimal, date, time)):
        raise _no_stable_key(parameter, value, function)
    return value


def _text(value: Any, parameter: str, function: Callable[..., Any], escapes: dict[str, str]) -> str:
    """An argument as part of a key: escaped, so that no two lists of arguments make the same key."""
    value = _plain(value, parameter, function)
    if value is None:
        return "%None"  # no text looks like it when it is quoted
    try:
        text = quote(str(value), safe=" ", errors="surrogatepass")
    except ValueError as error:  # an integer of more digits than Python prints
        raise _no_stable_key(parameter, value, function) from error
    for char, escape in escapes.items():
        text = text.replace(char, escape)
    return text


def default_key(function: Callable[..., Any], ignore: Collection[str]) -> MakeKey:
    """What makes keys from a function's module, name and all arguments but the ignored ones."""
    name = getattr(function, "__qualname__", "<none>")
    if name.endswith(("<lambda>", "<none>")):
        raise ConfigurationError(f"{type(function).__name__} {name} has no name to make keys from: give key='...'")
    name = f"{function.__module__}.{name}"
    arguments = Arguments(function)
    ignored = frozenset([ignore] if isinstance(ignore, str) else ignore)
    if unknown := ignored - set(arguments.signature.parameters):
        known = ", ".join(arguments.signature.parameters) or "none"
        raise ConfigurationError(f"ignore={sorted(unknown)} of {name}: no such parameter; it has {known}")

    def make_key(*args: Any, **kwargs: Any) -> str:
        digest = blake2b(digest_size=16)
        for parameter, value in arguments(args, kwargs).items():
            if parameter in ignored:
                continue
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
        return _stable_other(value)
    body = b"".join(parts)
    return b"%b%d:%b" % (kind.__name__.encode(), len(body), body)


def _stable_other(value: Any) -> bytes:
    """An instance by its parts, in which there may be sets and dicts; everything else as it is stored."""
    if not is_immutable(value):
        try:
            sort, parts = take_apart(value)
        except Refused:
            pass  # no instance of a class that can be stored
        else:
            body = _stable(parts)
            return b"instance%d,%d:%b" % (sort, len(body), body)
    encoded = dumps(value)
    return b"%d:%b" % (len(encoded), encoded)


def _no_stable_key(parameter: str, value: object, function: Callable[..., Any]) -> InvalidKey:
    return InvalidKey(
        f"argument {parameter!r} of {name_of(function)} is a {type(value).__name__}, which has no stable key: "
        f"pass an id instead, leave it out with ignore=[{parameter!r}], or give a template with key=..."
    )
