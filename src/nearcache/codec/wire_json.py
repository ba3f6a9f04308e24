"""JSON as JavaScript writes it: byte for byte what ``JSON.stringify`` gives, for keys shared with Node.

ECMA-262 sections: 25.5.2 (JSON.stringify), 6.1.6.1.20 (Number::toString), 10.1.11.1 (the order of property
names: array indices first, ascending), 21.4.4.36 (Date.prototype.toISOString).
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from enum import Enum
from math import isfinite
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from nearcache.codec.classes import class_of, is_pydantic
from nearcache.codec.convert import NATURAL, json_decoder
from nearcache.codec.failures import MAX_DEPTH, Refused, Undecodable, subscript, too_deep
from nearcache.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["decode", "dumps", "loads"]

MAX_SAFE_INTEGER: Final = 2**53 - 1
_MAX_ARRAY_INDEX: Final = 2**32 - 2

_NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

decode: Final = msgspec.json.decode
_quote: Final = msgspec.json.Encoder().encode
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def dumps(value: Any) -> bytes:
    """Encode a value as JavaScript would. Naive datetimes and dates are taken as UTC.

    Raises:
        CodecError: JSON cannot carry a part of it; the error's ``path`` names the part.
    """
    try:
        return _write(value, 0)
    except Refused as refused:
        raise CodecError(refused.message, refused.path) from None
    except RecursionError:
        raise CodecError(too_deep().message) from None
    except RuntimeError as error:  # a container that another thread changes meanwhile
        raise CodecError(f"could not be encoded: {error}") from error


def loads(raw: bytes | memoryview, type: Any = NATURAL) -> Any:
    """Decode any JSON, as it is or to ``type``: then ISO strings become datetimes, and so on.

    Raises:
        Undecodable: it is not JSON, or not of that type.
    """
    try:
        return decode(raw) if type is NATURAL else json_decoder(type)(bytes(raw))
    except Exception as error:  # conversion runs the user's classes
        raise Undecodable(str(error)) from error


def _write(value: object, depth: int) -> bytes:
    return _WRITERS.get(type(value), _write_instance)(value, depth)


def _write_str(value: str, depth: int) -> bytes:
    try:
        return _quote(value)
    except UnicodeEncodeError:
        # JavaScript's strings are UTF-16: two surrogates in a row are one character, a lone one is escaped.
        parts = _LONE_SURROGATE.split(_utf16(value))
        lone = [f"\\u{ord(match):04x}".encode() for match in _LONE_SURROGATE.findall(_utf16(value))]
        inner = [_quote(part)[1:-1] for part in parts]
        return b'"' + b"".join(map(bytes.__add__, inner, [*lone, b""])) + b'"'


def _utf16(value: str) -> str:
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _write_int(value: int, depth: int) -> bytes:
    if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        raise Refused("is an integer beyond 2**53 - 1, which JavaScript would round; store str(...) of it")
    return b"%d" % value


def _number(value: float) -> str:
    """Number::toString of a finite number: ``repr`` finds the shortest digits, the layout is JavaScript's."""
    text = repr(value)
    if "e" not in text:
        whole = text.removesuffix(".0")
        if 1e-4 <= abs(value) < 1e16:
            return whole
        return "0" if value == 0 else whole
    mantissa, _, exponent = text.removeprefix("-").partition("e")
    digits = mantissa.replace(".", "")
    point = int(exponent) + 1  # the decimal point stands after so many digits
    sign = "-" if value < 0 else ""
    if len(digits) <= point <= 21:
        return sign + digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{digits.rjust(len(digits) - point, '0')}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


def _write_float(value: float, depth: int) -> bytes:
    return _number(value).encode() if isfinite(value) else b"null"


def _write_datetime(value: datetime, depth: int) -> bytes:
    try:
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise Refused("is a datetime outside the years 1 to 9999 once it is in UTC") from None
    return f'"{moment.replace(tzinfo=None).isoformat(timespec="milliseconds")}Z"'.encode()


def _write_date(value: date, depth: int) -> bytes:
    return f'"{value.isoformat()}T00:00:00.000Z"'.encode()


def _write_array(value: Iterable[Any], depth: int) -> bytes:
    if depth >= MAX_DEPTH:
        raise too_deep()
    written: list[bytes] = []
    try:
        for part in value:
            written.append(_write(part, depth + 1))  # noqa: PERF401  # its length is the place of a refusal
    except Refused as refused:
        refused.segments.append(f"[{len(written)}]")
        raise
    return b"[" + b",".join(written) + b"]"


def _write_object(value: dict[Any, Any], depth: int, segment: Callable[[Any], str] = subscript) -> bytes:
    if depth >= MAX_DEPTH:
        raise too_deep()
    written: dict[str, bytes] = {}
    indices: list[str] = []
    for key, content in value.items():
        try:
            name = key if type(key) is str and key.isascii() else _property_name(key)
            if name in written:
                raise Refused(f"has the same name in JSON as another key, {name!r}; keep one of them")
            written[name] = _write(content, depth + 1)
        except Refused as refused:
            refused.segments.append(segment(key))
            raise
        if name[:1].isdecimal() and _is_array_index(name):
            indices.append(name)
    if indices:
        written = {name: written[name] for name in sorted(indices, key=int)} | written
    return b"{" + b",".join([_write_str(name, depth) + b":" + text for name, text in written.items()]) + b"}"


def _property_name(key: Any) -> str:
    match key:
        case None:
            return "null"
        case bool():
            return "true" if key else "false"
        case str() if type(key) is str:
            return _utf16(key)
        case int() if type(key) is int:
            return _write_int(key, 0).decode()
        case float() if type(key) is float:
            return _number(key) if isfinite(key) else _NOT_FINITE[repr(key)]
        case _:
            raise Refused(f"is a key of type {type(key).__name__}; use text, such as str(...) of it")


def _is_array_index(name: str) -> bool:
    return (
        name.isascii()
        and name.isdecimal()
        and len(name) <= 10
        and (name == "0" or name[0] != "0")
        and int(name) <= _MAX_ARRAY_INDEX
    )


_WRITERS: Final[dict[type, Callable[[Any, int], bytes]]] = {
    type(None): lambda value, depth: b"null",
    bool: lambda value, depth: b"true" if value else b"false",
    int: _write_int,
    float: _write_float,
    str: _write_str,
    list: _write_array,
    tuple: _write_array,
    dict: _write_object,
    datetime: _write_datetime,
    date: _write_date,
    UUID: lambda value, depth: f'"{value}"'.encode(),
}


def _write_instance(value: Any, depth: int) -> bytes:
    """Objects by the names of their fields, enum members as their values, named tuples as arrays."""
    cls = class_of(value)
    if isinstance(value, Enum):
        return _write(value.value, depth + 1)
    if isinstance(value, msgspec.Struct):
        return _write_object(_struct_members(value), depth, ".{}".format)
    if is_pydantic(cls):
        members = {name: getattr(value, name) for name in cls.model_fields}
        return _write_object({**members, **(value.model_extra or {})}, depth, ".{}".format)
    if is_dataclass(value):
        members = {field.name: getattr(value, field.name) for field in fields(value)}
        return _write_object(members, depth, ".{}".format)
    if hasattr(cls, "_fields") and issubclass(cls, tuple):
        return _write_array(value, depth)
    raise Refused(
        f"is a {cls.__module__}.{cls.__qualname__}, which JSON cannot carry; store text, numbers or a list, "
        'such as str(...) or list(...) of it, or use wire="native"'
    )


def _struct_members(value: msgspec.Struct) -> dict[str, Any]:
    """A Struct's JSON is msgspec's: renamed fields, the tag, nothing for UNSET."""
    config = value.__struct_config__
    names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
    members = {encoded: getattr(value, name) for encoded, name in names}
    tag = {} if config.tag_field is None else {config.tag_field: config.tag}
    return tag | {name: part for name, part in members.items() if part is not msgspec.UNSET}
