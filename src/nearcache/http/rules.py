"""What of HTTP may be shared between users. Pure: requests and header lists in, verdicts out.

On the safe side of RFC 9111 (sections 3, 3.5, 5.2): whatever could belong to one user, or depends on anything but the
URL, is passed through and not stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

__all__ = ["Headers", "is_personal", "lifetime", "may_share", "route_key"]

Headers = Iterable[tuple[bytes, bytes]]

# Who is asking, by the headers in common use; or more than the URL decides about the answer.
_PERSONAL = frozenset([b"authorization", b"proxy-authorization", b"cookie", b"x-api-key", b"x-auth-token"])
_NOT_ALIKE = frozenset([b"range", b"upgrade", b"transfer-encoding"])
# Section 3.1 says of connections' own fields that they are not stored.
_OF_A_CONNECTION = frozenset([b"connection", b"transfer-encoding", b"trailer", b"upgrade"])
_NOT_SHARED = frozenset([b"set-cookie", b"vary", b"content-range"]) | _OF_A_CONNECTION
_CACHE_CONTROL = frozenset([b"cache-control", b"pragma"])

# Searched for anywhere, be it in another directive's value: a header that is oddly written must not hide one.
_FORBIDS = re.compile(rb"private|no-store|no-cache", re.IGNORECASE).search
_ASKS_ANEW = re.compile(rb"no-store|no-cache", re.IGNORECASE).search
_AGES = re.compile(rb"""(?:^|[\s,;])(s-maxage|max-age)(?=[\s,;=]|$)\s*=?\s*"?\s*([^\s,;"]*)""", re.IGNORECASE).findall
_MOST = 2**31  # RFC 9111, section 1.2.2: what overflows counts as this many seconds


def may_share(scope: Mapping[str, Any]) -> bool:
    """Whether a request may be answered from the cache and its response stored.

    Not with ``Authorization`` (RFC 9111, section 3.5), ``Cookie`` or another credential: the answer may belong to one
    user. Not with a body: the answer may depend on it.
    """
    if scope["method"] != "GET" or is_personal(scope):
        return False
    for cased, value in scope["headers"]:
        name = cased.lower()
        if name in _PERSONAL or name in _NOT_ALIKE:
            return False
        if name == b"content-length" and value.strip() != b"0":
            return False
        if name in _CACHE_CONTROL and _ASKS_ANEW(value):
            return False
    return True


def is_personal(scope: Mapping[str, Any]) -> bool:
    """Whether a middleware in front has found a session with something in it, or a user who is logged in."""
    user = scope.get("user")
    return bool(scope.get("session")) or bool(getattr(user, "is_authenticated", user))


def lifetime(status: int, headers: Headers, default: float) -> float | None:
    """Seconds a response may be stored for; ``None`` when it may not.

    ``s-maxage``, then ``max-age``, then ``default`` (RFC 9111, section 4.2.1). Not with ``Expires`` alone: mostly it
    says that the response is stale at once.
    """
    if status != 200:
        return None
    said: list[bytes] = []
    expires = False
    for cased, value in headers:
        name = cased.lower()
        if name in _NOT_SHARED:
            return None
        if name == b"content-type" and value.strip().lower().startswith(b"text/event-stream"):
            return None  # events of the past
        if name in _CACHE_CONTROL:
            said.append(value)
        expires = expires or name == b"expires"
    line = b",".join(said)
    if _FORBIDS(line):
        return None
    ages: dict[bytes, list[bytes]] = {}
    for name, age in _AGES(line):
        ages.setdefault(name.lower(), []).append(age)
    for name in (b"s-maxage", b"max-age"):
        if name in ages:
            return _seconds(ages[name])
    return None if expires else default


def _seconds(ages: list[bytes]) -> float | None:
    """The least of them. What is not a number, or 0, is stale already (RFC 9111, section 4.2.1)."""
    if not all(age.isdigit() and len(age) < 20 for age in ages):
        return None
    return float(min(_MOST, *map(int, ages))) or None


def route_key(scope: Mapping[str, Any]) -> str:
    """The key of a request's URL.

    Hosts, schemes and mount points stay apart: one application may serve several. So do the path as it was sent and
    the path that a middleware in front made of it. Parts are quoted, so none of them can pose as two.
    """
    host = b",".join(value for name, value in scope["headers"] if name.lower() == b"host")
    path = quote(scope["path"], errors="surrogatepass")
    sent = quote(scope.get("raw_path") or b"", safe="/%:@!$&'()*+,;=")
    parts = (
        scope.get("scheme", "http"),
        quote(host.lower(), safe=":[]"),
        quote(scope.get("root_path", ""), errors="surrogatepass"),
        path,
        "" if sent == path else sent,
        scope.get("query_string", b"").decode("latin-1"),
    )
    return "route:" + " ".join(parts)
