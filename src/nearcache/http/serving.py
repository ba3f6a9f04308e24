"""What a stored response answers to a request: RFC 9111, section 4, and RFC 9110, sections 13 and 14. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from . import fields
from .records import MADE_ETAG, STRICT, VALIDATE, Pairs, Stored
from .requests import Request

__all__ = [
    "Answer",
    "Use",
    "answer",
    "conditions",
    "confirms",
    "freshened",
    "may_stand_in",
    "same_content",
    "unconditional",
    "use",
]

# Of the representation, which a 304 or 416 does not carry (RFC 9110, section 15.4.5).
_OF_CONTENT: Final = frozenset(
    [b"content-length", b"content-type", b"content-encoding", b"content-language", b"content-range", b"content-md5"]
)
# What a 304 does not change of a stored response (RFC 9111, section 3.2): its content is not touched.
_NOT_FRESHENED: Final = frozenset(
    [b"content-length", b"content-encoding", b"content-range", b"content-md5", b"etag", b"transfer-encoding"]
)
_OWN_CONDITIONS: Final = frozenset(
    [b"if-none-match", b"if-modified-since", b"if-range", b"range", b"if-match", b"if-unmodified-since"]
)


class Use(Enum):
    """What to do with a stored response."""

    SERVE = "serve"
    REFRESH = "serve, and fetch it anew behind"
    VALIDATE = "ask the application whether it still holds"


def use(stored: Stored, request: Request, age: float) -> Use:
    """Section 4.2.4 and 5.2.1, and RFC 5861, section 3."""
    left = stored.lifetime - age
    strict = stored.flags & (STRICT | VALIDATE)
    if not request.fields:
        if left > 0 and not stored.flags & VALIDATE:
            return Use.SERVE
        return Use.REFRESH if not strict and -left < stored.while_revalidate else Use.VALIDATE
    said = request.directives
    if stored.flags & VALIDATE or b"no-cache" in said:
        return Use.VALIDATE
    most = fields.seconds(said[b"max-age"]) if b"max-age" in said else None
    tolerance = _tolerance(said)
    least = (fields.seconds(said[b"min-fresh"]) or 0) if b"min-fresh" in said else 0
    # max-age=0 asks for a validation, however new the stored response is.
    if most is not None and (age > most or most == 0) and tolerance is None:
        return Use.VALIDATE
    if left > 0 and left >= least:
        return Use.SERVE
    if strict or least:
        return Use.VALIDATE
    if tolerance is not None and -left <= tolerance:
        return Use.SERVE
    return Use.REFRESH if most is None and -left < stored.while_revalidate else Use.VALIDATE


def _tolerance(said: dict[bytes, bytes]) -> float | None:
    """``max-stale``: seconds by which a response may be stale; without a number, any; None when it may not."""
    if b"max-stale" not in said:
        return None
    if not said[b"max-stale"]:
        return float("inf")
    return fields.seconds(said[b"max-stale"]) or 0


def may_stand_in(stored: Stored, request: Request, age: float) -> bool:
    """Whether a stale response may be served instead of an error (RFC 5861, section 4)."""
    if stored.flags & (STRICT | VALIDATE):
        return False
    allowed = stored.if_error
    said = request.directives
    if b"no-cache" in said:
        return False
    if b"stale-if-error" in said:
        allowed = max(allowed, fields.seconds(said[b"stale-if-error"]) or 0)
    return age - stored.lifetime < allowed


class Answer(NamedTuple):
    """A response to be sent."""

    status: int
    headers: Pairs
    body: bytes


def answer(stored: Stored, request: Request) -> Answer:
    """The stored response, or as much of it as the request asks for; without ``Age``."""
    if stored.status == 200 and request.conditional:
        if _not_modified(stored, request):
            return Answer(304, tuple(pair for pair in stored.headers if pair[0].lower() not in _OF_CONTENT), b"")
        if not request.head and (wanted := request.one(b"range")) is not None and _in_range(stored, request):
            return _part(stored, wanted)
    return Answer(stored.status, stored.headers, b"" if request.head else stored.body)


def _not_modified(stored: Stored, request: Request) -> bool:
    """RFC 9110, section 13.2.2, as far as it concerns caches (RFC 9111, section 4.3.2)."""
    asked = request.fields.get(b"if-none-match")
    if asked is not None:
        tags = fields.entity_tags(asked)
        return tags == [b"*"] or (bool(stored.etag) and any(fields.weakly_equal(stored.etag, tag) for tag in tags))
    since = fields.http_date(request.one(b"if-modified-since") or b"")
    if since is None:
        return False
    changed = fields.http_date(stored.modified) if stored.modified else _made(stored)
    return changed is not None and changed <= since


def _made(stored: Stored) -> float:
    """Its ``Date``; without one, when it was received."""
    date = fields.http_date(fields.first_of(stored.headers, b"date") or b"")
    return stored.born if date is None else date


def _in_range(stored: Stored, request: Request) -> bool:
    """Section 13.1.5: strong comparison, and no date but the very same."""
    if b"if-range" not in request.fields:
        return True
    validator = request.one(b"if-range") or b""
    if validator.startswith((b'"', b"W/")):
        return validator == stored.etag and not validator.startswith(b"W/")
    modified = fields.http_date(stored.modified) if validator == stored.modified else None
    # A change within the same second would go unseen (section 8.8.2.2).
    return modified is not None and _made(stored) - modified >= 1


_RANGE = re.compile(rb"bytes=[ \t]*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))[ \t]*", re.IGNORECASE)


def _part(stored: Stored, wanted: bytes) -> Answer:
    """One range of the content (section 14); all of it when several are asked for, or what is no range."""
    match = _RANGE.fullmatch(wanted)
    size = len(stored.body)
    if match is None:
        return Answer(stored.status, stored.headers, stored.body)
    first, last, suffix = match.groups()
    if suffix is not None:
        if not size and int(suffix):
            return Answer(stored.status, stored.headers, stored.body)  # all there is, and no range can tell it
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return Answer(stored.status, stored.headers, stored.body)  # not a range at all
    if start >= size or start >= end:
        headers = [pair for pair in stored.headers if pair[0].lower() not in _OF_CONTENT]
        headers += [(b"content-range", b"bytes */%d" % size), (b"content-length", b"0")]
        return Answer(416, tuple(headers), b"")
    headers = [pair for pair in stored.headers if pair[0].lower() != b"content-length"]
    headers += [
        (b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size)),
        (b"content-length", b"%d" % (end - start)),
    ]
    return Answer(206, tuple(headers), stored.body[start:end])


# -- validation


def conditions(stored: Stored, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]] | None:
    """A request's fields with the stored response's validators instead of its own (section 4.3.1); None without any."""
    own = []
    if stored.etag and not stored.flags & MADE_ETAG:
        own.append((b"if-none-match", stored.etag))
    if stored.modified:
        own.append((b"if-modified-since", stored.modified))
    return [*unconditional(headers), *own] if own else None


def unconditional(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """A request's fields as of one for the whole response."""
    return [pair for pair in headers if pair[0].lower() not in _OWN_CONDITIONS]


def confirms(stored: Stored, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a 304 is about what is stored: not when it has another strong tag (section 4.3.4)."""
    tag = (fields.first_of(headers, b"etag") or b"").strip()
    return not tag.startswith(b'"') or tag == stored.etag


def same_content(stored: Stored, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the answer to a HEAD request speaks of what is stored (section 4.3.5)."""
    told = {name.lower(): value.strip() for name, value in headers}
    held = {name.lower(): value for name, value in stored.headers}
    names = [b"last-modified", b"content-length"]
    if not stored.flags & MADE_ETAG:
        names.append(b"etag")
    return all(told[name] == held.get(name, b"").strip() for name in names if name in told)


def freshened(stored: Pairs, news: Pairs) -> Pairs:
    """The stored fields with those of a 304 in the place of their namesakes (sections 3.2 and 4.3.4).

    Without a ``Date`` of its own a 304 was made just now: the old one goes in any case.
    """
    replaced = {b"date", *(name.lower() for name, _ in news)} - _NOT_FRESHENED
    return (
        *(pair for pair in stored if pair[0].lower() not in replaced),
        *((bytes(name), bytes(value)) for name, value in news if name.lower() in replaced),
    )
