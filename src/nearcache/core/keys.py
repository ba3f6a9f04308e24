"""Keys and namespaces: from what a caller names to what is stored.

The stored key is ``prefix + namespace + ":" + sanitize_key(key)``. When sanitising changed the key, ``~`` and a
digest of namespace and original key follow; a namespace that had to be changed carries a digest of its own. ``~`` is
in no alphabet, so nothing a caller types can name a digested or an internal key, and a namespace never contains
``:``, so the first one after the prefix ends it: no pair of namespace and key can stand for another pair.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

from ..errors import InvalidArgument, InvalidKey, InvalidNamespace

__all__ = ["MAX_KEY", "Namespace", "sanitize_key"]

MAX_KEY = 200  # characters
_DIGEST = 16  # bytes

_safe_key = re.compile(rf"[A-Za-z0-9:._-]{{1,{MAX_KEY}}}").fullmatch
_safe_namespace = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_KEY}}}").fullmatch
_not_in_key = re.compile(r"[^A-Za-z0-9:._-]+")
_not_in_namespace = re.compile(r"[^A-Za-z0-9._-]+")


def sanitize_key(key: str) -> str:
    """Reduce ``key`` to the alphabet ``A-Z a-z 0-9 : . _ -`` and at most 200 characters.

    Each run of other characters becomes one ``_``; at either end it becomes nothing. Two keys may come out alike:
    the stored key then tells them apart by a digest.

    >>> sanitize_key("user/123<script>")
    'user_123_script'

    Raises:
        InvalidKey: the key is empty or not text.
    """
    _require_text(key, "key", InvalidKey)
    return _reduce(key, _not_in_key)


class Namespace:
    """One namespace of one client: makes stored keys.

    Args:
        name: what the caller calls it.
        prefix: the application's prefix, put before every key.

    Attributes:
        head: what every stored key of the namespace begins with, and no other key does.
        counter: the stored key of its version counter.
        near: what the near tier holds of it, by the caller's keys.

    Raises:
        InvalidNamespace: the name is empty or not text.
    """

    __slots__ = ("_digest_head", "_tag_head", "counter", "head", "name", "near")

    def __init__(self, name: str, prefix: str = "") -> None:
        _require_text(name, "namespace", InvalidNamespace)
        part = name
        if _safe_namespace(name) is None:
            part = f"{_reduce(name, _not_in_namespace)}~{_digest(_encode(name))}"
        self.name = name
        self.head = f"{prefix}{part}:".encode("ascii")
        self.counter = f"{prefix}{part}~version".encode("ascii")
        self.near: dict[Any, Any] = {}
        self._tag_head = f"{prefix}{part}~tag:".encode("ascii")
        self._digest_head = _encode(name) + b"\x00"

    def key(self, key: str) -> bytes:
        """The stored key for ``key``.

        Raises:
            InvalidKey: the key is empty or not text.
        """
        try:
            if _safe_key(key) is not None:
                return self.head + key.encode("ascii")
        except TypeError:
            pass
        _require_text(key, "key", InvalidKey)
        digest = _digest(self._digest_head + _encode(key))
        return b"%b%b~%b" % (self.head, _reduce(key, _not_in_key).encode("ascii"), digest.encode("ascii"))

    def tag(self, tag: str) -> bytes:
        """A tag's name as entries carry it.

        Raises:
            InvalidArgument: it is empty or not text.
        """
        _require_text(tag, "tag", InvalidArgument)
        if _safe_key(tag) is not None:
            return tag.encode("ascii")
        return b"%b~%b" % (_reduce(tag, _not_in_key).encode("ascii"), _digest(_encode(tag)).encode("ascii"))

    def tag_counter(self, tag: bytes) -> bytes:
        """The stored key of a tag's version counter."""
        return self._tag_head + tag


def _require_text(name: str, what: str, error: type[InvalidArgument]) -> None:
    if not isinstance(name, str):
        raise error(f"a {what} must be text (str), not {type(name).__name__}: write str(...) or an f-string")
    if not name:
        raise error(f"a {what} must not be empty")


def _reduce(text: str, unwanted: re.Pattern[str]) -> str:
    middle = unwanted.sub("\x00", text).strip("\x00")
    return middle.replace("\x00", "_")[:MAX_KEY]


def _encode(text: str) -> bytes:
    # Lone surrogates are text to Python; they only have to be told apart.
    return text.encode("utf-8", "surrogatepass")


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGEST).hexdigest()
