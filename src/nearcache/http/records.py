"""What the cache holds under a URL: a response, or how the responses of that URL are told apart.

Plain tuples of things that cannot change, so that the near tier hands them out as they are. What has another shape is
a miss.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

__all__ = [
    "AUTHORIZED",
    "MADE_ETAG",
    "SHARED",
    "STRICT",
    "VALIDATE",
    "Pairs",
    "Stored",
    "Variants",
    "as_stored",
    "as_variants",
]

Pairs = tuple[tuple[bytes, bytes], ...]

SHARED: Final = 1
"""It says that it may answer requests with credentials, whosever they are."""
AUTHORIZED: Final = 2
"""It may answer requests with ``Authorization`` (RFC 9111, section 3.5)."""
STRICT: Final = 4
"""It must not be served stale (``must-revalidate``, ``proxy-revalidate``, ``s-maxage``)."""
VALIDATE: Final = 8
"""It must not be served without asking (``no-cache``)."""
MADE_ETAG: Final = 16
"""Its ETag was made here: the application does not know it."""

_RESPONSE = "response/1"
_VARIANTS = "variants/1"


class Stored(NamedTuple):
    """A response, ready to be sent.

    Attributes:
        kind: tells what this tuple is.
        status: of the response.
        headers: as they are sent, without ``Age``.
        body: as it is sent, encoded.
        born: when its age was 0, in seconds by the server's clock.
        lifetime: seconds it is fresh after that; 0 or less for never.
        while_revalidate: seconds after that in which it may be served while it is fetched anew (RFC 5861).
        if_error: seconds after its lifetime in which it may be served instead of an error (RFC 5861).
        flags: ``SHARED`` and its like.
        etag: its entity tag, or empty.
        modified: its ``Last-Modified``, or empty.
        tags: by which it can be purged.
    """

    kind: str
    status: int
    headers: Pairs
    body: bytes
    born: float
    lifetime: float
    while_revalidate: float
    if_error: float
    flags: int
    etag: bytes
    modified: bytes
    tags: tuple[str, ...]

    @classmethod
    def make(cls, *rest: Any) -> Stored:
        return cls(_RESPONSE, *rest)


class Variants(NamedTuple):
    """That a URL has several responses.

    Attributes:
        kind: tells what this tuple is.
        generation: a random name, part of their keys: without this record none of them is found.
        names: of the request's fields that tell them apart, in lower case and alphabetical order.
        keyed: names of what else does; see ``routes``.
    """

    kind: str
    generation: str
    names: tuple[bytes, ...]
    keyed: tuple[str, ...]

    @classmethod
    def make(cls, *rest: Any) -> Variants:
        return cls(_VARIANTS, *rest)


_new = tuple.__new__


def as_stored(value: Any) -> Stored | None:
    """A response that was read; None for anything else."""
    if value.__class__ is tuple and len(value) == 12 and value[0] == _RESPONSE:
        return _new(Stored, value)
    return None


def as_variants(value: Any) -> Variants | None:
    """The same for what tells responses apart."""
    if value.__class__ is tuple and len(value) == 4 and value[0] == _VARIANTS:
        return _new(Variants, value)
    return None
