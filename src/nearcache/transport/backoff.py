"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random

__all__ = ["MOST", "pause"]

_FIRST = 0.02  # seconds
MOST = 0.5
"""Seconds at most between two attempts; a lane stays within a second of its server."""


def pause(attempts: int) -> float:
    """Seconds, after so many attempts that failed: full jitter, but none before the first attempt."""
    return random.uniform(0, min(MOST, _FIRST * 2 ** min(attempts, 10))) if attempts > 0 else 0.0
