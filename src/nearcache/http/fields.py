"""Header fields as values: directives, numbers, dates, entity tags, ranges. Pure, and tolerant where the RFCs ask.

Nothing here raises for what a field says: garbage has a meaning of its own, or none.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

__all__ = [
    "MOST",
    "Directives",
    "Headers",
    "directives",
    "elements",
    "entity_tags",
    "first_of",
    "http_date",
    "is_name",
    "lines",
    "names",
    "seconds",
    "targeted",
    "weakly_equal",
]

Headers = Iterable[tuple[bytes, bytes]]
Directives = Mapping[bytes, bytes]
"""Directives by their names in lower case; an empty value for none. Values are not unquoted further."""

MOST = 2**31
"""Seconds. RFC 9111, section 1.2.2: what overflows counts as this."""

# A quoted string (RFC 9110, section 5.6.4). One that is never closed reaches to the end, and its group is empty.
# Possessive, so that no garbage takes more than linear time.
_QUOTED = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
_MARK = re.compile(rb"," + b"|" + _QUOTED.pattern, re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_WORDS = re.compile(rb"[A-Za-z0-9_-]+")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ENTITY_TAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')

# Whatever stands around these, be it not even a comma, they are meant.
_FORBIDDING = frozenset([b"private", b"no-store", b"no-cache"])


def lines(headers: Headers, wanted: bytes) -> list[bytes]:
    """The values of all lines of a field; ``wanted`` in lower case."""
    return [value for name, value in headers if name.lower() == wanted]


def first_of(headers: Headers, wanted: bytes) -> bytes | None:
    """The value of a field's first line."""
    return next((value for name, value in headers if name.lower() == wanted), None)


def elements(values: Iterable[bytes]) -> Iterator[bytes]:
    """The members of a list that may be spread over several lines (RFC 9110, sections 5.3 and 5.6.1)."""
    for value in values:
        for element in _split(value):
            if stripped := element.strip(b" \t"):
                yield stripped


def _split(value: bytes) -> Iterator[bytes]:
    """At the commas outside of quoted strings; a quote that is never closed is no quote."""
    begin = 0
    for mark in _MARK.finditer(value):
        if mark[0] == b",":
            yield value[begin : mark.start()]
            begin = mark.end()
        elif not mark[1]:
            yield from value[begin:].split(b",")
            return
    yield value[begin:]


def names(values: Iterable[bytes]) -> list[bytes]:
    """A list of field names, in lower case, each once and in alphabetical order; what is no name counts as ``*``."""
    found = {element.lower() if _TOKEN.fullmatch(element) else b"*" for element in elements(values)}
    return sorted(found)


def is_name(text: str) -> bool:
    """Whether this is the name of a field (RFC 9110, section 5.1)."""
    return text.isascii() and _TOKEN.fullmatch(text.encode()) is not None


def directives(values: Iterable[bytes]) -> dict[bytes, bytes]:
    """``Cache-Control`` (RFC 9111, section 5.2).

    Names in any case, values as tokens or quoted strings. Of a directive that comes twice the first one counts
    (section 4.2.1), but of what forbids, the one that forbids more; that is found wherever it stands outside of a
    quoted string, however odd the rest.
    """
    said: dict[bytes, bytes] = {}
    for element in elements(values):
        name, equals, argument = element.partition(b"=")
        lower = name.strip(b" \t").lower()
        given = _argument(argument) if lower == name.lower() else _GARBAGE
        if lower in _FORBIDDING:
            _forbid(said, lower, given if argument.startswith(b'"') else b"")
        else:
            said.setdefault(lower, given if equals else b"")
        odd = argument if lower in _FORBIDDING else element
        for word in _WORDS.findall(_QUOTED.sub(_without_quoted, odd)):
            if word.lower() in _FORBIDDING:
                said[word.lower()] = b""
    return said


_GARBAGE = b"?"


def _argument(text: bytes) -> bytes:
    if not text.startswith(b'"'):
        return text or _GARBAGE
    quoted = _QUOTED.fullmatch(text)
    return _ESCAPED.sub(rb"\1", text[1:-1]) if quoted and quoted[1] else _GARBAGE


def _without_quoted(match: re.Match[bytes]) -> bytes:
    return b'""' if match[1] else match[0]


def _listed(argument: bytes) -> bytes:
    """The names of fields that a directive is about; empty, for everything, where it is no list of names."""
    found = list(elements([argument]))
    return b",".join(found) if b"*" not in found and all(map(_TOKEN.fullmatch, found)) else b""


def _forbid(said: dict[bytes, bytes], name: bytes, argument: bytes) -> None:
    """A list of names forbids less than no list."""
    listed, known = _listed(argument), said.get(name)
    said[name] = listed if known is None else b",".join([known, listed]) if known and listed else b""


def seconds(value: bytes) -> int | None:
    """delta-seconds (RFC 9111, section 1.2.2); None for what is none."""
    if not value.isdigit():
        return None
    digits = value.lstrip(b"0") or b"0"
    return min(int(digits), MOST) if len(digits) < 20 else MOST


_SF_KEY = re.compile(rb"[a-z*][a-z0-9_.*-]*")
_ITEM = (
    rb'(?:\?[01]|-?\d{1,12}\.\d{1,3}|-?\d{1,15}|"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
    rb"|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*|:[A-Za-z0-9+/=]*:"
    rb'|@-?\d{1,15}|%"(?:[\x20\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*")'
)
_PARAMETERS = rb"(?:; *[a-z*][a-z0-9_.*-]*(?:=" + _ITEM + rb")?)*+"
_LIST = rb"\( *+(?:" + _ITEM + _PARAMETERS + rb"(?: +|(?=\))))*+\)"
_SF_VALUE = re.compile(_ITEM + b"|" + _LIST)
_SF_PARAMETERS = re.compile(_PARAMETERS)


def targeted(values: list[bytes]) -> dict[bytes, bytes] | None:
    """A targeted field (RFC 9213): a Dictionary (RFC 9651). None where it must be ignored: empty, or not one.

    Of a key that comes twice the last one counts. A value of the wrong type makes the directive count as given with
    none that is valid.
    """
    text = b", ".join(values).strip(b" ")
    said: dict[bytes, bytes] = {}
    place = 0
    while place < len(text):
        key = _SF_KEY.match(text, place)
        if key is None:
            return None
        place, value = key.end(), b""
        if text[place : place + 1] == b"=":
            item = _SF_VALUE.match(text, place + 1)
            if item is None:
                return None
            place, value = item.end(), item[0]
        said.pop(key[0], None)
        if value == b"?0":
            pass  # false
        elif key[0] in _FORBIDDING:
            said[key[0]] = _listed(value[1:-1]) if value.startswith(b'"') else b""
        else:
            said[key[0]] = b"" if value == b"?1" else _GARBAGE if value.startswith(b"(") else value
        place = _SF_PARAMETERS.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
        rest = text[place:].lstrip(b" \t")
        if not rest:
            break
        if not rest.startswith(b",") or not rest[1:].strip(b" \t"):
            return None
        place = len(text) - len(rest[1:].lstrip(b" \t"))
    return said if place else None


# -- dates

_MONTHS = {month: number for number, month in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_FIXDATE = re.compile(rb"[a-z]{3}, (\d{2}) ([a-z]{3}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) gmt")
_RFC850 = re.compile(rb"[a-z]{6,9}, (\d{2})-([a-z]{3})-(\d{2}) (\d{2}):(\d{2}):(\d{2}) gmt")
_ASCTIME = re.compile(rb"[a-z]{3} ([a-z]{3}) ([ \d]\d) (\d{2}):(\d{2}):(\d{2}) (\d{4})")


@lru_cache(maxsize=1024)
def http_date(value: bytes) -> float | None:
    """Seconds since the epoch of a date in any of the three formats (RFC 9110, section 5.6.7); None for what is none.

    Case-insensitive, as RFC 9111, section 4.2, asks of caches.
    """
    text = value.strip(b" \t").lower()
    if match := _ASCTIME.fullmatch(text):
        month, day, hour, minute, second, year = match.groups()
    elif match := _FIXDATE.fullmatch(text) or _RFC850.fullmatch(text):
        day, month, year, hour, minute, second = match.groups()
    else:
        return None
    number = _MONTHS.get(month)
    if number is None or not 1 <= int(day) <= 31 or int(hour) > 23 or int(minute) > 59 or int(second) > 60:
        return None
    full_year = int(year)
    if full_year == 0 and len(year) == 4:
        return None  # there was none
    if len(year) == 2:  # section 5.6.7: more than 50 years in the future is the past
        full_year += 1900 if full_year >= 77 else 2000
    return float(timegm((full_year, number, int(day), int(hour), int(minute), int(second))))


# -- entity tags


def entity_tags(values: Iterable[bytes]) -> list[bytes]:
    """A list of entity tags, or ``[b"*"]`` (RFC 9110, section 13.1.2). What is not quoted is compared as it stands."""
    found: list[bytes] = []
    for value in values:
        found += _ENTITY_TAG.findall(value)
        found += (part for each in _ENTITY_TAG.sub(b"", value).split(b",") if (part := each.strip(b" \t")))
    return found


def weakly_equal(one: bytes, other: bytes) -> bool:
    """RFC 9110, section 8.8.3.2."""
    return one.removeprefix(b"W/") == other.removeprefix(b"W/")
