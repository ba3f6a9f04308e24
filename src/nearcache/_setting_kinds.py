"""How each kind of setting is read from text or a keyword, described when wrong, and shown to people."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nearcache.codec.sealing import parse_keys
from nearcache.errors import ConfigurationError
from nearcache.transport.endpoint import MAX_DB, parse_host, parse_url, redact_url

MASK: Final = "********"
_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_ONES = {"": Decimal(1)}
_SECONDS = _ONES | {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_BYTES = {"": Decimal(1), "b": Decimal(1)} | {
    unit: Decimal(base**power)
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in ((f"{prefix}b", 1000), (f"{prefix}ib", 1024))
}
_QUANTITY = re.compile(r"((?:[0-9][0-9_]*)?\.?[0-9]+(?:e[+-]?[0-9]+)?) ?([a-z]*)", re.ASCII | re.IGNORECASE)
_LONGEST: Final = 3650 * 86400  # seconds; far inside what timers and PEXPIRE take


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of value is read, described and shown. ``parse`` refuses with a ``ValueError``."""

    accepted: str
    parse: Callable[[object], object]
    show: Callable[[Any], str] = str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def _check(self, value: object) -> object:
        try:
            return self.parse(value)
        except ConfigurationError as error:
            raise PydanticCustomError("complete", "{text}", {"text": str(error)}) from None
        except (ValueError, ArithmeticError):
            raise PydanticCustomError("expected", "{text}", {"text": self.accepted}) from None


def _quantity(value: object, units: Mapping[str, Decimal]) -> Decimal:
    if isinstance(value, timedelta) and units is _SECONDS:
        return Decimal(str(value.total_seconds()))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Decimal(value) if isinstance(value, int) else Decimal(repr(float(value)))
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units or (units is _ONES and not re.fullmatch("[0-9_]+", match[1])):
        raise ValueError
    return Decimal(match[1].replace("_", "")) * units[match[2].lower()]


def duration(*, zero: bool = False) -> Kind:
    def parse(value: object) -> float:
        seconds = _quantity(value, _SECONDS)
        if not 0 <= seconds <= _LONGEST or (not zero and float(seconds) == 0):
            raise ValueError
        return float(seconds)

    start = "from 0 s" if zero else "over 0 s"
    accepted = f"a duration {start} to 3650 d: seconds, or text such as '20 ms', '60s', '5m', '1h'"
    return Kind(accepted, parse, lambda s: f"{s * 1000:.10g} ms" if 0 < s < 1 else f"{s:.10g} s")


def _whole(low: int, high: int, accepted: str, show: Callable[[int], str], units: Mapping[str, Decimal]) -> Kind:
    def parse(value: object) -> int:
        number = _quantity(value, units)
        # The range first: making an int of 1e999999999 would take all memory.
        if isinstance(value, float) or not low <= number <= high or number != int(number):
            raise ValueError
        return int(number)

    return Kind(accepted, parse, show)


def _number(low: int, high: int) -> Kind:
    return _whole(low, high, f"a whole number from {low} to {high}", str, _ONES)


def count() -> Kind:
    return _whole(1, 10**9, "a whole number from 1 to 1_000_000_000", "{:_}".format, _ONES)


def size(low: int, high: int) -> Kind:
    accepted = f"a size from {low} B to {_show_size(high)}: bytes, or text such as '64 MiB', '16KiB', '5 MB'"
    return _whole(low, high, accepted, _show_size, _BYTES)


def _show_size(size: int) -> str:
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power} {unit}"
    return f"{size} B"


def _parse_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.strip().lower() not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[value.strip().lower()]


def _choice(*names: str) -> Kind:
    def parse(value: object) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return Kind(" or ".join(names), parse)


def _parse_prefix(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9:._-]*", value):
        raise ValueError
    return value


def _parse_host(value: object) -> str:
    host = parse_host(value) if isinstance(value, str) else None
    if host is None:
        raise ValueError
    return host


def _parse_text(value: object) -> str | None:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text is not None and (not isinstance(text, str) or "\0" in text):
        raise ValueError
    return text or None


def url(variable: str) -> Kind:
    def parse(value: object) -> str | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is None or text == "":
            return None
        parse_url(text, variable=variable)  # type: ignore[arg-type]  # it refuses what is no text
        return str(text)

    return Kind("a URL", parse, lambda url: redact_url(url.get_secret_value()))


def keys(sizes: Sequence[int]) -> Kind:
    def parse(value: object) -> str | None:
        text = _parse_text(value)
        if text is not None:
            parse_keys(text, sizes)
        return text

    accepted = (
        f"base64 of {' or '.join(map(str, sizes))} random bytes, or several with commas between, the newest first"
    )
    return Kind(accepted, parse, lambda _: MASK)


HOST = Kind("a host name or an IP address, without a port (that has its own variable)", _parse_host)
TEXT = Kind("text without NUL characters", _parse_text)
PASSWORD = Kind("text without NUL characters", _parse_text, lambda _: MASK)
PORT = _number(1, 65535)
DB = _number(0, MAX_DB)
PREFIX = Kind("characters of A-Z a-z 0-9 : . _ -", _parse_prefix)
FLAG = Kind("true or false", _parse_flag, lambda flag: "true" if flag else "false")
READ_FROM = _choice("primary", "prefer_replica")
