"""Where time comes from: what is made while another clock is in force keeps that one, as tests want it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Clock", "clock", "use"]


class Clock(NamedTuple):
    """``monotonic``: seconds that never go back; ``wall``: seconds since the epoch."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


_clock = Clock()


def clock() -> Clock:
    """The clock in force."""
    return _clock


def use(other: Clock) -> Clock:
    """Put another clock in force, for what is made from now on; the one before."""
    global _clock
    before, _clock = _clock, other
    return before
