"""What of HTTP may be shared between users. Pure: header lists in, verdicts out.

On the safe side of RFC 9111 (sections 3, 3.5, 5.2): whatever could belong to one user, or depends on anything but the
URL, is passed through and not stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Headers", "lifetime", "may_share", "route_key"]

Headers = Iterable[tuple[bytes, bytes]]

_PERSONAL = frozenset([b"authorization", b"cookie", b"range", b"upgrade"])
_NOT_SHARED = frozenset([b"set-cookie", b"vary", b"content-range"])
_CACHE_CONTROL = frozenset([b"cache-control", b"pragma"])
_DIRECTIVE = re.compile(rb"""([^\s,;="]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"?|[^\s,]*))?""")
_MOST = 2**31  # RFC 9111, section 1.2.2: what overflows counts as this many seconds


def may_share(method: str, headers: Headers) -> bool:
    """Whether a request may be answered from the cache and its response stored.

    Not with ``Authorization`` (RFC 9111, section 3.5) or ``Cookie``: the answer may belong to one user.
    """
    if method != "GET":
        return False
    asked: list[bytes] = []
    for cased, value in headers:
        name = cased.lower()
        if name in _PERSONAL:
            return False
        if name in _CACHE_CONTROL:
            asked.append(value)
    return not asked or not _directives(asked).keys() & {b"no-store", b"no-cache"}


def lifetime(status: int, headers: Headers, default: float) -> float | None:
    """Seconds a response may be stored for; ``None`` when it may not.

    ``s-maxage``, then ``max-age``, then ``default`` (RFC 9111, section 4.2.1).
    """
    if status != 200:
        return None
    said: list[bytes] = []
    for cased, value in headers:
        name = cased.lower()
        if name in _NOT_SHARED:
            return None
        if name in _CACHE_CONTROL:
            said.append(value)
    if not said:
        return default
    directives = _directives(said)
    if directives.keys() & {b"private", b"no-store", b"no-cache"}:
        return None
    for name in (b"s-maxage", b"max-age"):
        if name in directives:
            value = directives[name].strip(b'"')
            # What is not a number is stale already (RFC 9111, section 4.2.1).
            return float(min(int(value), _MOST)) or None if value.isdigit() and len(value) < 20 else None
    return default


def route_key(scheme: str, host: bytes, path: bytes, query: bytes) -> str:
    """The key of a URL. Hosts stay apart: one application may serve several."""
    url = b"%b://%b%b" % (scheme.encode(), host.lower(), path)
    return "route:" + (url + b"?" + query if query else url).decode("latin-1")


def _directives(lines: list[bytes]) -> dict[bytes, bytes]:
    """Directives of all lines together, names in lower case; the first of duplicates counts."""
    found: dict[bytes, bytes] = {}
    for name, value in _DIRECTIVE.findall(b",".join(lines)):
        found.setdefault(name.lower(), value)
    return found
