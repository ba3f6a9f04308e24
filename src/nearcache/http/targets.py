"""What a request that changes something makes invalid: RFC 9111, section 4.4. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from .requests import primary_key, url_key

__all__ = ["related_keys"]

_NAMED = frozenset([b"location", b"content-location"])
_PORTS = {"http": ":80", "https": ":443"}


def related_keys(scope: Mapping[str, Any], host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The keys of the request's target, and of what its response names in the same origin."""
    keys = {primary_key(scope, host): None}
    scheme = scope.get("scheme", "http")
    port = _PORTS.get(scheme, "")
    origin = host.decode("latin-1").lower()
    sent = (scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")
    base = f"{scheme}://{origin}{sent or quote(scope['path'], errors='surrogatepass')}"
    for name, value in headers:
        if name.lower() not in _NAMED:
            continue
        try:
            parts = urlsplit(urljoin(base, value.decode("latin-1").strip()))
        except ValueError:
            continue  # no URL
        if parts.scheme != scheme or parts.netloc.lower().removesuffix(port) != origin.removesuffix(port):
            continue
        path, query = parts.path or "/", parts.query.encode("latin-1", "replace")
        raw = path.encode("latin-1", "replace")
        keys[url_key(unquote(path), raw, query, host, scheme, scope.get("root_path", ""))] = None
    return list(keys)
