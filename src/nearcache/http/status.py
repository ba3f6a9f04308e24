"""``Age`` (RFC 9111, section 5.1) and ``Cache-Status`` (RFC 9211): what became of a request here."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["forwarded", "hit"]

Line = tuple[bytes, bytes]


def hit(age: float, lifetime: float) -> tuple[Line, Line]:
    """Answered from the cache; ``ttl`` is negative for what is stale."""
    return _hit(int(age) if age > 0 else 0, lifetime)


@lru_cache(maxsize=1024)  # the same second after second, for all that is hit meanwhile
def _hit(seconds: int, lifetime: float) -> tuple[Line, Line]:
    return (b"age", b"%d" % seconds), (b"cache-status", b"nearcache; hit; ttl=%d" % (lifetime - seconds))


def forwarded(why: bytes, *, status: int = 0, stored: bool = False, collapsed: bool = False) -> Line:
    """The application was asked."""
    return b"cache-status", b"nearcache; fwd=%b%b%b%b" % (
        why,
        b"; fwd-status=%d" % status if status else b"",
        b"; stored" if stored else b"",
        b"; collapsed" if collapsed else b"",
    )
