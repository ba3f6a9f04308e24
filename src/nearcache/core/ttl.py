"""Times to live: what a caller may write, and the milliseconds the server gets."""

from __future__ import annotations

import math
from datetime import timedelta

from ..errors import InvalidTTL

__all__ = ["MAX_TTL", "TTL", "milliseconds"]

MAX_TTL = 100 * 365.25 * 86400.0  # seconds; beyond it a server's clock arithmetic overflows


TTL = int | float | timedelta | None
"""Seconds, or a ``timedelta``; ``None`` means no expiry."""


def milliseconds(ttl: TTL) -> int | None:
    """Whole milliseconds, rounded up, of a TTL in seconds; ``None`` for no expiry.

    Raises:
        InvalidTTL: zero, negative, not finite, over 100 years, or not a number of seconds.
    """
    if ttl is None:
        return None
    given: object = ttl  # what callers write is checked here, whatever their type checker said
    if isinstance(given, timedelta):
        seconds = given.total_seconds()
    elif isinstance(given, int | float) and not isinstance(given, bool):
        seconds = given
    else:
        raise InvalidTTL(f"a TTL is a number of seconds, a timedelta, or None for no expiry; got {type(ttl).__name__}")
    if not 0 < seconds <= MAX_TTL:  # nan fails this too
        raise InvalidTTL(
            f"a TTL must be above 0 and at most {MAX_TTL:.0f} seconds (100 years), got {_short(ttl)}: "
            "to remove a value use delete(), for no expiry ttl=None"
        )
    return math.ceil(seconds * 1000)


def _short(ttl: object) -> str:
    text = repr(ttl) if not isinstance(ttl, int) or abs(ttl) < 10**30 else "a very large integer"
    return text if len(text) <= 60 else text[:57] + "..."
