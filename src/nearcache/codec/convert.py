# ``type`` is the public name of the option
"""Decoded data to a ``type`` that the caller names: msgspec's types by msgspec, pydantic's by pydantic.

Converters are built once per type. pydantic is only used when the program has imported it.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from nearcache.codec.failures import Undecodable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NATURAL", "convert", "json_decoder"]

NATURAL: Final = None
"""The value as it was stored, in its own type."""


def convert(value: Any, type: Any) -> Any:
    """Convert a decoded value. Raises whatever msgspec, pydantic or the type itself raises."""
    return _cached(_converter, type)(value)


def json_decoder(type: Any) -> Callable[[bytes], Any]:
    """The function that decodes JSON to a type."""
    return _cached(_json_decoder, type)


def _cached(build: Any, type: Any) -> Callable[[Any], Any]:
    try:
        built = build(type)
    except TypeError:  # not hashable, such as Annotated[int, []]
        built = build.__wrapped__(type)
    return built


@lru_cache(512)
def _converter(type: Any) -> Callable[[Any], Any]:
    if (adapter := _adapter(type)) is not None:
        return _python_validator(adapter)
    return lambda value: msgspec.convert(value, type, dec_hook=_other)


@lru_cache(512)
def _json_decoder(type: Any) -> Callable[[bytes], Any]:
    if (adapter := _adapter(type)) is not None:
        validate = _python_validator(adapter)
        return lambda raw: validate(msgspec.json.decode(raw))
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(type, dec_hook=_other).decode
    return decode


def _adapter(type: Any) -> Any:
    """pydantic's adapter where the type is pydantic's, or is one that msgspec does not know."""
    pydantic = sys.modules.get("pydantic")
    if not hasattr(type, "__pydantic_validator__"):
        try:
            msgspec.msgpack.Decoder(type, dec_hook=_other)
        except TypeError as error:
            if pydantic is None:
                raise Undecodable(str(error)) from error
        else:
            return None
    return pydantic.TypeAdapter(type) if pydantic is not None else None


def _python_validator(adapter: Any) -> Callable[[Any], Any]:
    # Stored fields go by their names, whatever their aliases; pydantic has the option since 2.11.
    named = {"by_alias": True, "by_name": True} if "by_name" in adapter.validate_python.__kwdefaults__ else {}
    return lambda value: adapter.validate_python(value, **named)


def _other(type: Any, value: Any) -> Any:
    """msgspec asks here for types it does not know: pydantic's, or right or wrong as they are."""
    if hasattr(type, "__pydantic_validator__"):
        return convert(value, type)
    if isinstance(value, type):
        return value
    raise TypeError(f"{value.__class__.__name__} is no {type}")
