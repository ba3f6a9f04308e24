"""Python values to msgpack bytes and back, with type and value intact.

msgspec alone is fast and forgetful: it writes a tuple, a set, a date or a dataclass as something plainer
without asking. So ``dumps`` first looks at the types. Values made only of what msgpack has (None, bool, int,
float, str, bytes, list, dict) are handed to msgspec as they are. Only when something else turns up, or when
msgspec refuses (an int over 64 bits, a lone surrogate), is the value rebuilt with the special parts replaced
by msgpack extensions, whose payload is a few bytes or msgpack again.

The codes below are stored: one is never given another meaning.
"""

from __future__ import annotations

import re
import sys
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec
from msgspec.msgpack import Decoder, Encoder, Ext

from nearcache.codec.classes import (
    DATACLASS,
    ENUM,
    MODEL,
    NAMED_TUPLE,
    STRUCT,
    class_of,
    put_together,
    take_apart,
    to_builtins,
)
from nearcache.codec.convert import NATURAL, convert
from nearcache.codec.failures import MAX_DEPTH, Refused, Undecodable, subscript, too_deep
from nearcache.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    _Unpacker = Callable[[memoryview, Callable[[Any], Any]], Any]

__all__ = ["decode", "dumps", "is_immutable", "loads"]

INT: Final = 1
STR: Final = 2
TUPLE: Final = 3
SET: Final = 4
FROZENSET: Final = 5
DICT: Final = 6
BYTEARRAY: Final = 7
DATETIME: Final = 8
DATE: Final = 9
TIME: Final = 10
TIMEDELTA: Final = 11
DECIMAL: Final = 12
UUID_: Final = 13
PATTERN: Final = 14
UNSET: Final = 15

_encode: Final = Encoder().encode
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_DEEPEST: Final = MAX_DEPTH - 1
_all_scalars: Final = _SCALARS.issuperset


def dumps(value: Any) -> bytes:
    """Encode a value so that ``loads`` gives back an equal one of the same type.

    Raises:
        CodecError: a part of it cannot be stored; the error's ``path`` names the part.
    """
    try:
        try:
            if _is_plain(value, 0):
                return _encode(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # an int over 64 bits, a lone surrogate
        return _encode(_pack(value, 0))
    except Refused as refused:
        raise CodecError(refused.message, refused.path) from None
    except RecursionError:
        raise CodecError(too_deep().message) from None
    except (RuntimeError, ValueError, OverflowError) as error:
        # A container that another thread changes meanwhile; a part over the 4 GiB of msgpack.
        raise CodecError(f"could not be encoded: {error}") from error


def loads(payload: bytes | memoryview, type: Any = NATURAL) -> Any:
    """Decode what ``dumps`` wrote, as it was or converted to ``type``.

    Raises:
        Undecodable: for whatever is wrong with the bytes, and nothing else.
    """
    # Everything: the bytes may be anyone's, and hashing or converting what they say runs the user's classes.
    try:
        natural = decode(payload)
    except Exception as error:
        if type is NATURAL:
            raise Undecodable(str(error)) from error
    else:
        if type is NATURAL or natural.__class__ is type:
            return natural
        try:
            return convert(natural, type)
        except Exception:  # noqa: BLE001, S110  # its plain form may fit where the instance does not
            pass
    try:
        return convert(_decode_plain(payload), type)
    except Exception as error:
        raise Undecodable(str(error)) from error


_IMMUTABLE: Final = frozenset(
    {*(type(None), bool, int, float, str, bytes), *(datetime, date, time, timedelta, Decimal, UUID, re.Pattern)}
)


def is_immutable(value: object) -> bool:
    """Whether nobody can change a value or a part of it, so that it may be handed out as it is."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(is_immutable, value))  # type: ignore[call-overload]
    return kind in _IMMUTABLE


def _is_plain(value: Any, depth: int) -> bool:
    """Whether msgspec keeps every type in the value. This is most of what encoding costs: keep it flat."""
    kind = class_of(value)
    if kind is dict:
        for key, part in value.items():
            if type(key) is not str and type(key) not in _SCALARS:
                return False
            if type(part) not in _SCALARS and (depth >= _DEEPEST or not _is_plain(part, depth + 1)):
                return False
        return True
    if kind is list:
        if _all_scalars(map(type, value)):
            return True
        for part in value:
            if type(part) not in _SCALARS and (depth >= _DEEPEST or not _is_plain(part, depth + 1)):
                return False
        return True
    return kind in _SCALARS


def _pack(value: object, depth: int) -> Any:
    """The value with everything that msgpack does not have replaced by extensions."""
    return _PACKERS.get(type(value), _pack_instance)(value, depth)


def _pack_all(values: Iterable[Any], depth: int) -> list[Any]:
    if depth >= MAX_DEPTH:
        raise too_deep()
    packed: list[Any] = []
    try:
        for value in values:
            packed.append(_pack(value, depth + 1))  # noqa: PERF401  # its length is the place of a refusal
    except Refused as refused:
        hashed = isinstance(values, (set, frozenset))
        refused.segments.append("{...}" if hashed else f"[{len(packed)}]")
        raise
    return packed


def _pack_dict(value: Mapping[Any, Any], depth: int, segment: Callable[[Any], str] = subscript) -> Any:
    try:
        keys = _pack_all(value, depth)
    except Refused as refused:
        refused.segments.append(".keys()")
        raise
    packed: list[Any] = []
    try:
        for content in value.values():
            packed.append(_pack(content, depth + 1))  # noqa: PERF401
    except Refused as refused:
        refused.segments.append(segment(next(islice(value, len(packed), None))))
        raise
    if any(type(key) is Ext for key in keys):
        return Ext(DICT, _encode([keys, packed]))
    return dict(zip(keys, packed, strict=True))


def _pack_instance(value: Any, depth: int) -> Any:
    if value is msgspec.UNSET:
        return Ext(UNSET, b"")
    if depth >= MAX_DEPTH:
        raise too_deep()
    code, parts = take_apart(value)
    return Ext(code, _encode([_pack_part(part, depth + 1) for part in parts]))


def _pack_part(part: Any, depth: int) -> Any:
    return _pack_dict(part, depth, ".{}".format) if class_of(part) is dict else _pack(part, depth)


def _pack_int(value: int, depth: int) -> Any:
    if -(2**63) <= value < 2**64:
        return value
    return Ext(INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _pack_str(value: str, depth: int) -> Any:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return Ext(STR, value.encode("utf-8", "surrogatepass"))
    return value


def _pack_pattern(value: re.Pattern[Any], depth: int) -> Any:
    if value.flags & re.DEBUG:
        raise Refused("is compiled with re.DEBUG, which prints whenever it is read; compile it without")
    return Ext(PATTERN, _encode([_pack(value.pattern, depth), value.flags]))


# year, month, day, hour, minute, second, microsecond, fold; then the zone in msgpack, or nothing.
_MOMENT: Final = Struct(">HBBBBBIB")
_CLOCK: Final = Struct(">BBBIB")
_DAY: Final = Struct(">HBB")
_SPAN: Final = Struct(">iII")
_MICROSECOND: Final = timedelta(microseconds=1)


def _pack_datetime(value: datetime, depth: int) -> Any:
    day = (value.year, value.month, value.day)
    clock = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    return Ext(DATETIME, _MOMENT.pack(*day, *clock) + _pack_zone(value.tzinfo))


def _pack_time(value: time, depth: int) -> Any:
    clock = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    return Ext(TIME, _CLOCK.pack(*clock) + _pack_zone(value.tzinfo))


def _pack_zone(zone: Any) -> bytes:
    """A zone's key, a fixed offset in microseconds, that with its name, or pydantic's kind of offset."""
    if zone is None:
        return b""
    if type(zone) is timezone:
        offset, name = zone.utcoffset(None), zone.tzname(None)
        microseconds = offset // _MICROSECOND
        named = name != timezone(offset).tzname(None)
        return _encode([microseconds, _pack_str(name, 0)] if named else microseconds)
    zoneinfo, pydantic = sys.modules.get("zoneinfo"), sys.modules.get("pydantic_core")
    if zoneinfo is not None and type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        return _encode(zone.key)
    if pydantic is not None and type(zone) is pydantic.TzInfo:
        return _encode({"pydantic": zone.utcoffset(None) // _MICROSECOND})
    refused = Refused(
        f"is a {type(zone).__module__}.{type(zone).__qualname__}, a time zone that cannot be stored; "
        "use zoneinfo.ZoneInfo(key) or datetime.timezone"
    )
    refused.segments.append(".tzinfo")
    raise refused


def _unpack_zone(data: memoryview, decode: Callable[[Any], Any]) -> Any:
    if not data:
        return None
    match decode(data):
        case str(key):
            from zoneinfo import ZoneInfo

            return ZoneInfo(key)
        case int(microseconds):
            return timezone(timedelta(microseconds=microseconds))
        case [int(microseconds), str(name)]:
            return timezone(timedelta(microseconds=microseconds), name)
        case {"pydantic": int(microseconds)}:
            return sys.modules["pydantic_core"].TzInfo(microseconds / 1_000_000)
        case _:
            raise Undecodable("an unknown kind of time zone")


def _keep(value: Any, depth: int) -> Any:
    return value


_PACKERS: Final[dict[type, Callable[[Any, int], Any]]] = {
    **dict.fromkeys((type(None), bool, float, bytes), _keep),
    int: _pack_int,
    str: _pack_str,
    list: _pack_all,
    tuple: lambda value, depth: Ext(TUPLE, _encode(_pack_all(value, depth))),
    set: lambda value, depth: Ext(SET, _encode(_pack_all(value, depth))),
    frozenset: lambda value, depth: Ext(FROZENSET, _encode(_pack_all(value, depth))),
    dict: _pack_dict,
    bytearray: lambda value, depth: Ext(BYTEARRAY, bytes(value)),
    datetime: _pack_datetime,
    date: lambda value, depth: Ext(DATE, _DAY.pack(value.year, value.month, value.day)),
    time: _pack_time,
    timedelta: lambda value, depth: Ext(TIMEDELTA, _SPAN.pack(value.days, value.seconds, value.microseconds)),
    Decimal: lambda value, depth: Ext(DECIMAL, str(value).encode()),
    UUID: lambda value, depth: Ext(UUID_, value.bytes),
    re.Pattern: _pack_pattern,
}


def _unpack_dict(data: memoryview, decode: Callable[[Any], Any]) -> Any:
    keys, content = decode(data)
    return dict(zip(keys, content, strict=True))


def _unpack_datetime(data: memoryview, decode: Callable[[Any], Any]) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold = _MOMENT.unpack_from(data)
    zone = _unpack_zone(data[_MOMENT.size :], decode)
    return datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _unpack_time(data: memoryview, decode: Callable[[Any], Any]) -> time:
    hour, minute, second, microsecond, fold = _CLOCK.unpack_from(data)
    zone = _unpack_zone(data[_CLOCK.size :], decode)
    return time(hour, minute, second, microsecond, zone, fold=fold)


def _unpack_timedelta(data: memoryview, decode: Callable[[Any], Any]) -> timedelta:
    days, seconds, microseconds = _SPAN.unpack(data)
    return timedelta(days, seconds, microseconds)


def _unpack_pattern(data: memoryview, decode: Callable[[Any], Any]) -> Any:
    pattern, flags = decode(data)
    return re.compile(pattern, flags & ~re.DEBUG)


def _unpack_plain_set(data: memoryview, decode: Callable[[Any], Any]) -> Any:
    """Instances in a set become dicts, which cannot be in a set: then it becomes a list."""
    content = decode(data)
    try:
        return set(content)
    except TypeError:
        return content


_UNPACKERS: Final[dict[int, _Unpacker]] = {
    INT: lambda data, decode: int.from_bytes(data, "big", signed=True),
    STR: lambda data, decode: str(data, "utf-8", "surrogatepass"),
    TUPLE: lambda data, decode: tuple(decode(data)),
    SET: lambda data, decode: set(decode(data)),
    FROZENSET: lambda data, decode: frozenset(decode(data)),
    DICT: _unpack_dict,
    BYTEARRAY: lambda data, decode: bytearray(data),
    DATETIME: _unpack_datetime,
    DATE: lambda data, decode: date(*_DAY.unpack(data)),
    TIME: _unpack_time,
    TIMEDELTA: _unpack_timedelta,
    DECIMAL: lambda data, decode: Decimal(str(data, "ascii")),
    UUID_: lambda data, decode: UUID(bytes=bytes(data)),
    PATTERN: _unpack_pattern,
    UNSET: lambda data, decode: msgspec.UNSET,
}
_SORTS: Final = (ENUM, DATACLASS, STRUCT, MODEL, NAMED_TUPLE)


def _instance_unpacker(sort: int, build: Callable[[int, list[Any]], Any]) -> _Unpacker:
    return lambda data, decode: build(sort, decode(data))


def _decoder(unpackers: dict[int, _Unpacker]) -> Callable[[Any], Any]:
    def unpack(code: int, data: memoryview) -> Any:
        return unpackers[code](data, decode)

    decode = Decoder(ext_hook=unpack).decode
    return decode


decode: Final = _decoder({**_UNPACKERS, **{sort: _instance_unpacker(sort, put_together) for sort in _SORTS}})
_decode_plain: Final = _decoder(
    {
        **_UNPACKERS,
        SET: _unpack_plain_set,
        FROZENSET: _unpack_plain_set,
        **{sort: _instance_unpacker(sort, to_builtins) for sort in _SORTS},
    }
)
