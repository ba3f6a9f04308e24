"""What of a response may be stored, for whom, and for how long: RFC 9111, sections 3 and 4.2. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from . import fields
from .records import AUTHORIZED, MADE_ETAG, SHARED, STRICT, VALIDATE, Pairs, Stored
from .requests import Request

__all__ = [
    "NO_RULES",
    "OWN_TARGET",
    "Refusal",
    "Rules",
    "Terms",
    "internal",
    "make_etag",
    "read_tags",
    "stored_fields",
    "terms",
]

OWN_TARGET: Final = b"nearcache-cache-control"
"""The targeted field (RFC 9213) that speaks to this cache alone."""

_TARGETS: Final = (OWN_TARGET, b"cdn-cache-control")
_TAGS: Final = {b"cache-tag": b",", b"surrogate-key": b" "}
INTERNAL: Final = frozenset([OWN_TARGET, *_TAGS])
"""Response fields that are meant for this cache, and go no further."""

# RFC 9110, section 15.1: these may be stored without a lifetime of their own (206 never is, here).
_HEURISTIC: Final = frozenset([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
# Whose requirements for caches are implemented here: for must-understand (RFC 9111, section 5.2.2.3).
_UNDERSTOOD: Final = _HEURISTIC | {302, 303, 307, 400, 401, 403, 406, 451, 500, 502, 503, 504}
_NEVER: Final = frozenset([206, 304])  # parts, and what is only about a response

# Section 3.1: fields of a connection are not stored; nor is what is made anew for every answer.
_OF_A_CONNECTION: Final = frozenset(
    [
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"),
    ]
)
_MADE_ANEW: Final = frozenset([b"age", *_TAGS, OWN_TARGET])

_HEURISTIC_SHARE = 0.1  # section 4.2.2, of the time since the last change
_HEURISTIC_MOST = 300.0  # seconds
_KEEP: Final = 3600.0  # seconds that a response is kept after its lifetime, where it can be validated


@dataclass(frozen=True, slots=True)
class Rules:
    """What a route says of its responses, beyond their own fields.

    Attributes:
        ttl: seconds they are fresh, whatever ``Cache-Control`` tells clients; None for what that says.
        while_revalidate: seconds after it in which they may be served while they are fetched anew.
        if_error: seconds after it in which they may be served instead of an error.
        tags: by which they can be purged.
        vary: more names of request fields that tell them apart.
        keyed: names of functions that tell them apart, of ``routes``; those that name the user begin with ``USER``.
        per_user: True when they are told apart by user, False when they are the same for all; None when not said.
        etag: answer conditional requests, even when nothing is stored.
    """

    ttl: float | None = None
    while_revalidate: float | None = None
    if_error: float | None = None
    tags: tuple[str, ...] = ()
    vary: tuple[bytes, ...] = ()
    keyed: tuple[str, ...] = ()
    per_user: bool | None = None
    etag: bool = False


NO_RULES: Final = Rules()
USER: Final = "user:"


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which a response may be stored.

    Attributes:
        lifetime: seconds it is fresh from when its age was 0.
        age: seconds it was old when it arrived.
        keep: seconds from now that it is of any use.
        names: of the request fields that tell it apart.
        dropped: names of fields that are not stored.
        flags, while_revalidate, if_error, etag, modified: as in ``Stored``.
    """

    lifetime: float
    age: float
    keep: float
    while_revalidate: float
    if_error: float
    flags: int
    etag: bytes
    modified: bytes
    names: tuple[bytes, ...]
    dropped: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a response is not stored, in words.

    Attributes:
        firm: the response says so itself, so that the next one for this URL will not be stored either.
    """

    why: str
    firm: bool = True


@dataclass(slots=True)
class _Response:
    """The fields of a response that matter, read once."""

    status: int
    values: dict[bytes, list[bytes]] = field(default_factory=dict)

    def all(self, name: bytes) -> list[bytes]:
        return self.values.get(name, [])

    def first(self, name: bytes) -> bytes:
        return self.values[name][0].strip(b" \t") if name in self.values else b""


def terms(
    request: Request,
    status: int,
    headers: Pairs,
    rules: Rules = NO_RULES,
    *,
    now: float,
    took: float = 0.0,
    default: float | None = None,
) -> Terms | Refusal:
    """Whether a response to a GET request may be stored, and how.

    Args:
        headers: the response's.
        rules: what its route says.
        now: when it arrived, in seconds since the epoch.
        took: seconds since the request was made.
        default: lifetime of a 200 that does not say (RFC 9111, section 4.2.2).
    """
    response = _Response(status)
    for name, value in headers:
        if b"\r" in value or b"\n" in value or b"\0" in value or not name:
            return Refusal("a field that could pose as two")
        response.values.setdefault(name.lower(), []).append(value)
    said, target = _directives(response)
    why = _forbidden(request, response, said, rules)
    if why is not None:
        return why
    flags = _flags(said, rules)
    names = {*fields.names(response.all(b"vary")), *rules.vary}
    if b"*" in names:
        return Refusal("Vary: *")
    uncovered = not_covered(request, flags, names, rules.keyed)
    if uncovered:
        return Refusal(f"the request has {uncovered.decode()}, and the response does not say that it may be shared")
    age = _initial_age(response, now, took)
    lifetime = _lifetime(response, said, rules, now, default, explicit_only=target)
    if lifetime is None:
        return Refusal("no lifetime")
    etag, modified = response.first(b"etag"), response.first(b"last-modified")
    if fields.http_date(modified) is None:
        modified = b""
    while_revalidate, if_error = _stale(said, rules, b"stale-while-revalidate"), _stale(said, rules, b"stale-if-error")
    left = lifetime - age
    keep = max(left, 0.0) + _KEEP if etag or modified else left + max(while_revalidate, if_error)
    if flags & VALIDATE and not (etag or modified):
        return Refusal("no-cache, and nothing to validate it by")
    if keep <= 0:
        return Refusal("stale already", firm=False)
    keep = max(keep, left + max(while_revalidate, if_error))
    dropped = set(_OF_A_CONNECTION | _MADE_ANEW)
    dropped.update(element.lower() for element in fields.elements(response.all(b"connection")))
    for directive in (b"private", b"no-cache"):
        dropped.update(element.lower() for element in fields.elements([said.get(directive, b"")]))
    return Terms(
        lifetime, age, keep, while_revalidate, if_error, flags, etag, modified, tuple(sorted(names)), frozenset(dropped)
    )


def not_covered(request: Request, flags: int, names: Iterable[bytes], keyed: Iterable[str]) -> bytes | None:
    """The credential in a request that a response is not told apart by, nor may be shared in spite of."""
    if flags & SHARED or any(name.startswith(USER) for name in keyed):
        return None
    for credential in request.credentials:
        if credential == b"authorization":
            if not flags & AUTHORIZED:
                return credential
        elif credential not in names:
            return credential
    return None


def _directives(response: _Response) -> tuple[dict[bytes, bytes], bool]:
    """What the response tells this cache, and whether a targeted field did, which silences all others (RFC 9213)."""
    for name in _TARGETS:
        said = fields.targeted(response.all(name)) if name in response.values else None
        if said is not None:
            return said, True
    said = fields.directives(response.all(b"cache-control"))
    if not said and b"no-cache" in fields.directives(response.all(b"pragma")):
        said = {b"no-cache": b""}
    return said, False


def _forbidden(request: Request, response: _Response, said: dict[bytes, bytes], rules: Rules) -> Refusal | None:
    """Section 3, and what is not for sharing by its nature."""
    status = response.status
    if status < 200 or status in _NEVER:
        return Refusal(f"status {status}", firm=False)
    if b"set-cookie" in response.values or b"set-cookie2" in response.values:
        return Refusal("Set-Cookie")
    if b"must-understand" in said:
        if status not in _UNDERSTOOD:
            return Refusal(f"must-understand, and status {status} is not")
    elif b"no-store" in said:
        return Refusal("no-store")
    if said.get(b"private") == b"" and not rules.per_user:
        return Refusal("private")
    if b"no-store" in request.directives:
        return Refusal("no-store in the request", firm=False)
    if b"trailer" in response.values:
        return Refusal("trailers")
    if response.first(b"content-type").lower().startswith(b"text/event-stream"):
        return Refusal("events")
    return None


def _flags(said: dict[bytes, bytes], rules: Rules) -> int:
    flags = 0
    if b"public" in said or b"s-maxage" in said:
        flags |= SHARED | AUTHORIZED
    if b"must-revalidate" in said:
        flags |= STRICT | AUTHORIZED
    if b"proxy-revalidate" in said or b"s-maxage" in said:
        flags |= STRICT  # s-maxage: RFC 9111, section 5.2.2.10
    if said.get(b"no-cache") == b"" and rules.ttl is None:
        flags |= VALIDATE
    if rules.per_user is False:
        flags |= SHARED | AUTHORIZED
    if rules.while_revalidate is not None or rules.if_error is not None:
        flags &= ~STRICT
    return flags


def _stale(said: dict[bytes, bytes], rules: Rules, name: bytes) -> float:
    """RFC 5861: seconds; the route's word counts more."""
    own = rules.while_revalidate if name == b"stale-while-revalidate" else rules.if_error
    if own is not None:
        return own
    return float(fields.seconds(said.get(name, b"")) or 0)


def _initial_age(response: _Response, now: float, took: float) -> float:
    """Section 4.2.3. Without a ``Date`` the response was made just now."""
    date = fields.http_date(response.first(b"date"))
    apparent = max(0.0, now - date) if date is not None else 0.0
    first = next(fields.elements(response.all(b"age")), b"")
    # A server's Date has whole seconds: less than one is no age.
    return max(apparent if apparent >= 1.0 else 0.0, (fields.seconds(first) or 0) + took)


def _lifetime(
    response: _Response,
    said: dict[bytes, bytes],
    rules: Rules,
    now: float,
    default: float | None,
    *,
    explicit_only: bool,
) -> float | None:
    """Section 4.2.1: seconds; 0 for garbage, which is stale; None where there is no lifetime."""
    if rules.ttl is not None:
        return rules.ttl if response.status in _HEURISTIC else _said(response, said, now, explicit_only)
    lifetime = _said(response, said, now, explicit_only)
    if lifetime is not None:
        return lifetime
    public = b"public" in said
    if response.status == 200 and default is not None:
        return default
    if response.status in _HEURISTIC or public:
        modified = fields.http_date(response.first(b"last-modified"))
        if modified is not None:
            date = fields.http_date(response.first(b"date")) or now
            return max(0.0, min((date - modified) * _HEURISTIC_SHARE, _HEURISTIC_MOST))
        if b"no-cache" in said or response.first(b"etag"):
            return 0.0  # to be validated, each time
    return None


def _said(response: _Response, said: dict[bytes, bytes], now: float, explicit_only: bool) -> float | None:
    for name in (b"s-maxage", b"max-age"):
        if name in said:
            return float(fields.seconds(said[name]) or 0)
    if explicit_only or b"expires" not in response.values:
        return None
    dates = [fields.http_date(value) for value in response.all(b"expires")]
    if dates[0] is None:
        return 0.0
    date = fields.http_date(response.first(b"date"))
    return max(0.0, dates[0] - (now if date is None else date))


# -- what is stored


def stored_fields(headers: Pairs, terms: Terms, etag: bytes, length: int | None) -> Pairs:
    """The fields of a response as they are kept: without those of a connection, with its length, if any, and tag."""
    kept = [(bytes(name), bytes(value)) for name, value in headers if name.lower() not in terms.dropped]
    present = {name.lower() for name, _ in kept}
    if length is not None and b"content-length" not in present:
        kept.append((b"content-length", b"%d" % length))
    if etag and b"etag" not in present:
        kept.append((b"etag", etag))
    return tuple(kept)


def make_etag(body: bytes) -> bytes:
    """A strong entity tag of a body as it is sent (RFC 9110, section 8.8.3)."""
    return b'"%b"' % blake2b(body, digest_size=16).hexdigest().encode("ascii")


def make_stored(
    status: int, headers: Pairs, body: bytes, terms: Terms, clock: float, tags: Iterable[str] = ()
) -> Stored:
    """The record of a response; ``clock`` is the server's time at which it arrived."""
    etag, flags = terms.etag, terms.flags
    if not etag and status == 200:
        etag, flags = make_etag(body), flags | MADE_ETAG
    return Stored.make(
        status,
        stored_fields(headers, terms, etag, None if status == 204 else len(body)),  # RFC 9110, section 8.6
        body,
        clock - terms.age,
        terms.lifetime,
        terms.while_revalidate,
        terms.if_error,
        flags,
        etag,
        terms.modified,
        tuple(tags),
    )


def read_tags(headers: Pairs) -> list[str]:
    """The tags in ``Cache-Tag`` (separated by commas) and ``Surrogate-Key`` (by spaces)."""
    found: dict[str, None] = {}
    for name, value in headers:
        separator = _TAGS.get(name.lower())
        if separator is not None:
            for tag in value.split(separator):
                if text := tag.strip(b" \t,").decode("latin-1"):
                    found[text] = None
    return list(found)


def internal(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether there is a field among them that goes no further."""
    return any(name.lower() in INTERNAL for name, _ in headers)
