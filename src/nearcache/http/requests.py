"""A request as the cache sees it: what it asks for, on whose behalf, and under which keys answers are found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote

from . import fields
from .records import Variants

__all__ = ["CREDENTIALS", "PERSON", "SAFE", "Request", "escape", "is_personal", "primary_key", "url_key"]

Scope = Mapping[str, Any]

CREDENTIALS: Final = frozenset(
    [
        *(b"authorization", b"proxy-authorization", b"cookie"),
        *(b"api-key", b"x-api-key", b"x-token", b"x-auth-token", b"x-access-token"),
        *(b"x-session-token", b"x-session-id"),
        # What proxies that log users in tell of them.
        *(b"remote-user", b"x-remote-user", b"x-forwarded-user", b"x-forwarded-email", b"x-forwarded-access-token"),
        *(b"cf-access-jwt-assertion", b"x-amzn-oidc-data", b"x-goog-iap-jwt-assertion", b"x-ms-client-principal"),
    ]
)
"""Who is asking, by the fields in common use."""

PERSON: Final = b"a session, or a user who is logged in"
"""Stands among the credentials for what a middleware in front has found; no field has such a name."""

SAFE: Final = frozenset(["GET", "HEAD", "OPTIONS", "TRACE"])
"""Methods that change nothing (RFC 9110, section 9.2.1). One that is not known may."""

# For the application alone: preconditions that protect writes (RFC 9111, section 4.3.2), and other protocols.
_NOT_FOR_CACHES = frozenset([b"if-match", b"if-unmodified-since", b"upgrade", b"transfer-encoding"])
_SINGLE = frozenset([b"if-modified-since", b"if-range", b"range"])
_LISTS = frozenset([b"cache-control", b"pragma", b"if-none-match"])
_KINDS: Final[dict[bytes, int]] = {
    **dict.fromkeys(CREDENTIALS, 1),
    **dict.fromkeys(_NOT_FOR_CACHES, 2),
    **dict.fromkeys(_SINGLE, 3),
    **dict.fromkeys(_LISTS, 4),
    b"content-length": 5,
    b"host": 6,
}
# Of what these fields name, the specification says that it has no case (RFC 9110, sections 12.5.2 to 12.5.4).
_NO_CASE = frozenset([b"accept-charset", b"accept-encoding", b"accept-language"])
_NOTHING: Final[dict[bytes, list[bytes]]] = {}


class Request:
    """One request, read once.

    Attributes:
        head: whether it is a HEAD request.
        credentials: the fields in it that say who is asking.
        cacheable: whether an answer may come from the cache, and be stored, at all.
        fields: what else matters of its fields, by name.
        host: of the target.
    """

    __slots__ = ("cacheable", "credentials", "fields", "head", "headers", "host")

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        method = scope["method"]
        self.head = method == "HEAD"
        self.cacheable = method == "GET" or self.head
        headers = scope["headers"]
        if not isinstance(headers, list | tuple):  # an iterator can be read once
            headers = scope["headers"] = [*headers]
        self.headers: list[tuple[bytes, bytes]] = headers
        self.fields: dict[bytes, list[bytes]] = _NOTHING
        self.host = b""
        credentials: set[bytes] | None = None
        for name, value in self.headers:
            kind = _KINDS.get(name) or _KINDS.get(name.lower())
            if kind is None:
                continue
            if kind == 6:
                self.host += value
            elif kind == 1:
                credentials = credentials or set()
                credentials.add(name.lower())
            elif kind == 2 or (kind == 5 and value.strip() != b"0"):
                self.cacheable = False
            elif kind != 5:
                if self.fields is _NOTHING:
                    self.fields = {}
                self.fields.setdefault(name.lower(), []).append(value)
        self.credentials: Iterable[bytes] = credentials or ()

    @property
    def directives(self) -> dict[bytes, bytes]:
        """Its ``Cache-Control``; without one, what ``Pragma: no-cache`` stands for (RFC 9111, section 5.4)."""
        if not self.fields:
            return {}
        if b"cache-control" in self.fields:
            return fields.directives(self.fields[b"cache-control"])
        if b"no-cache" in fields.directives(self.fields.get(b"pragma", ())):
            return {b"no-cache": b""}
        return {}

    def one(self, name: bytes) -> bytes | None:
        """The value of a field that comes once; what comes more often is garbage, and counts as absent."""
        values = self.fields.get(name)
        return values[0].strip(b" \t") if values is not None and len(values) == 1 else None

    @property
    def conditional(self) -> bool:
        """Whether it asks for less than the whole response."""
        found = self.fields
        return bool(found) and (b"if-none-match" in found or b"if-modified-since" in found or b"range" in found)

    def varies(self, names: Iterable[bytes]) -> list[bytes | None]:
        """The normalised values of its fields of these names; None for one that is absent, which is not empty.

        Several lines are one list, and white space around members means nothing (RFC 9111, section 4.1); but in quoted
        strings and in credentials it does.
        """
        values: dict[bytes, bytes] = {}
        wanted = frozenset(names)
        for cased, value in self.headers:
            name = cased.lower()
            if name in wanted:
                text, comma = value, b","
                if name in CREDENTIALS:
                    comma = b"\n"  # what no value contains
                elif b'"' not in value:
                    text = b",".join(part.strip(b" \t") for part in value.split(b","))
                if name in _NO_CASE:
                    text = text.lower()
                values[name] = values[name] + comma + text if name in values else text
        return [values.get(name) for name in names]

    def secondary_key(self, primary: str, variants: Variants, keyed: Iterable[str]) -> str:
        """Where the response of a URL for requests like this one is."""
        digest = blake2b(digest_size=16, key=variants.generation.encode())
        for value in (*self.varies(variants.names), *(text.encode("utf-8", "surrogatepass") for text in keyed)):
            # Lengths before values, so that none can pose as two.
            digest.update(b"-" if value is None else b"%d:%b" % (len(value), value))
        names = b",".join(variants.names) + b";" + ",".join(variants.keyed).encode()
        digest.update(names)
        return f"{primary}:{variants.generation}.{digest.hexdigest()}"


def is_personal(scope: Scope) -> bool:
    """Whether a middleware in front has found a session with something in it, or a user who is logged in."""
    user = scope.get("user")
    try:
        return bool(scope.get("session")) or bool(getattr(user, "is_authenticated", user))
    except Exception:  # noqa: BLE001  # neither can be asked yet: as Django's, before they are looked up
        return True


_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_PLACES = {"/": ":"}


def escape(text: str) -> str:
    """Text in the alphabet of keys, so that a key begins with what its URL begins with."""
    return "".join(
        character
        if character in _PLAIN
        else _PLACES.get(character) or "".join(f".{byte:02X}" for byte in _utf8(character))
        for character in text
    )


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_KNOWN: dict[tuple[Any, ...], str] = {}
_MOST_KNOWN = 4096


def primary_key(scope: Scope, host: bytes) -> str:
    """The key of a request's URL: ``route:`` and the path, then the query, the host, and the scheme.

    Hosts, schemes and mount points stay apart: one application may serve several. So do the path as it was sent and
    the path that a middleware in front made of it.
    """
    parts = (
        scope["path"],
        scope.get("raw_path"),
        scope.get("query_string", b""),
        host,
        scope.get("scheme", "http"),
        scope.get("root_path", ""),
    )
    key = _KNOWN.get(parts)
    if key is None:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        key = _KNOWN[parts] = url_key(*parts)
    return key


def url_key(path: str, raw_path: bytes | None, query: bytes, host: bytes, scheme: str, root_path: str = "") -> str:
    """``primary_key`` of a URL's parts."""
    sent = quote(raw_path or b"", safe="/%:@!$&'()*+,;=")
    text = quote(path, errors="surrogatepass", safe="/:@!$&'()*+,;=~")
    parts = [
        escape(path),
        escape(query.decode("latin-1")),
        escape(host.decode("latin-1").lower()),
        escape(scheme),
    ]
    if root_path and not path.startswith(root_path):
        parts.append("root" + escape(root_path))
    if sent and sent not in (text, quote(path, errors="surrogatepass")):
        parts.append("sent" + escape(sent))  # decoding it lost something, or a middleware in front changed it
    return "route:" + ".-".join(parts)  # what no escape contains


Keyed = Callable[[Scope], str | None]
