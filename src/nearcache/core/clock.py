"""Where time comes from: what is made while another clock is in force keeps that one, as tests want it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Clock", "Timer", "clock", "use"]

Timer = Callable[[float, Callable[[], None]], Callable[[], None]]
"""Calls a function once, from whatever thread, when so many seconds have passed; what it returns prevents that."""


class Clock(NamedTuple):
    """Where what is made while it is in force has its time from.

    Attributes:
        monotonic: seconds that never go back.
        wall: seconds since the epoch.
        after: how to wait for it; None for real time, which event loops and locks can wait for by themselves.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    after: Timer | None = None


_clock = Clock()


def clock() -> Clock:
    """The clock in force."""
    return _clock


def use(other: Clock) -> Clock:
    """Put another clock in force, for what is made from now on; the one before."""
    global _clock
    before, _clock = _clock, other
    return before
