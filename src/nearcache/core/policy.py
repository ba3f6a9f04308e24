"""How values are loaded and how long they serve: the options of one cache, function or call, checked once."""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict

from ..errors import InvalidArgument
from ..sentinels import Default
from .found import Found
from .ttl import TTL, milliseconds

__all__ = ["LoadCall", "LoadOptions", "Policy", "WriteCall", "WriteOptions", "make_policy"]

_MOST_EARLY = 20.0  # a load earlier than so many of its own durations is as good as impossible: e^-20


class WriteOptions(TypedDict, total=False):
    """What writes take besides ``ttl`` and ``namespace``.

    Attributes:
        tags: names by which values are invalidated together.
        grace: seconds (or a ``timedelta``) after its time to live in which a value may serve as stale.
    """

    tags: Collection[str]
    grace: float | timedelta


class LoadOptions(WriteOptions, total=False):
    """What loads take besides.

    Attributes:
        soft_timeout: seconds to wait for a load before a stale value is returned, if there is one; the load goes on.
            0 is stale-while-revalidate.
        load_timeout: seconds after which a load has failed, and how long its lease holds.
        negative_ttl: time to live of a loaded ``None``.
        retry_after: seconds after a failed load, within the grace, before the next attempt.
        early: XFetch's beta: how eagerly single callers renew a value before it expires, by chance and by how long
            its load took; 1.0 is the paper's optimum, 0 is off. The loader runs in the background.
        refresh_at: share of the time to live after which the value is renewed in the background, such as 0.8.
        jitter: share of the time to live by which it is shortened at random, so that values made together do not
            expire together.
    """

    soft_timeout: float | timedelta
    load_timeout: float | timedelta
    negative_ttl: TTL
    retry_after: float | timedelta
    early: float
    refresh_at: float
    jitter: float


class WriteCall(WriteOptions, total=False):
    """All keywords of a write."""

    ttl: TTL | Default
    namespace: str | None


class LoadCall(LoadOptions, total=False):
    """All keywords of a load."""

    ttl: TTL | Default
    namespace: str | None
    type: Any


@dataclass(frozen=True, slots=True)
class Policy:
    """``LoadOptions`` and a time to live, in milliseconds; timeouts in seconds."""

    ttl_ms: int | None
    grace_ms: int = 0
    tags: tuple[str, ...] = ()
    soft_timeout: float = 0.02
    load_timeout: float = 30.0
    negative_ms: int | None = -1
    retry_ms: int = 1000
    early: float = 0.0
    refresh_at: float = 1.0
    jitter: float = 0.0

    @property
    def eager(self) -> bool:
        """Whether fresh values may be renewed."""
        return self.early > 0 or self.refresh_at < 1

    def ttl_of(self, value: Any) -> int | None:
        """The time to live of a loaded value, in milliseconds."""
        ttl = self.negative_ms if value is None and self.negative_ms != -1 else self.ttl_ms
        if ttl is None or not self.jitter:
            return ttl
        return max(1, round(ttl * (1 - self.jitter * random.random())))

    def due(self, found: Found, now_ms: int) -> bool:
        """Whether a fresh value is to be renewed now; ``now_ms`` is the server's clock.

        XFetch: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015.
        """
        left = found.remaining_ms
        if left is None:
            return False
        # Its own time to live, which need not be the policy's: a loader may have set it, or given None.
        made = found.envelope.created_ms if found.envelope is not None else 0
        whole = left + max(0, now_ms - made) if made else self.ttl_ms
        if whole is not None and left <= (1 - self.refresh_at) * whole:
            return True
        load_ms = found.envelope.load_ms if found.envelope is not None else 0
        return bool(self.early and load_ms) and left <= self.early * load_ms * min(
            -math.log(1 - random.random()), _MOST_EARLY
        )


def make_policy(default: Policy, ttl_ms: int | None, options: LoadOptions) -> Policy:
    """A policy like the default, but for what the options say.

    Raises:
        TypeError: an option is unknown.
        InvalidArgument, InvalidTTL: one has a value it cannot have.
    """
    if not options and ttl_ms == default.ttl_ms:
        return default
    values: dict[str, Any] = {name: getattr(default, name) for name in Policy.__slots__}
    values["ttl_ms"] = ttl_ms
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            raise TypeError(f"unknown option {name!r}; there are {', '.join(sorted(_CHECKS))}")
        field, accepts = check
        values[field] = accepts(name, value)
    return Policy(**values)


def _seconds(name: str, value: Any) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise InvalidArgument(f"{name}={value!r:.60}: a number of seconds, 0 or more, or a timedelta")
    return float(seconds)


def _positive_seconds(name: str, value: Any) -> float:
    if not (seconds := _seconds(name, value)):
        raise InvalidArgument(f"{name}={value!r:.60}: a number of seconds above 0, or a timedelta")
    return seconds


def _milliseconds(name: str, value: Any) -> int:
    # The lease and the server's TTL have the bounds of a TTL.
    return milliseconds(seconds) or 0 if (seconds := _seconds(name, value)) else 0


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidArgument(f"{name}={value!r:.60}: a share from 0 to 1")
    return float(value)


def _factor(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidArgument(f"{name}={value!r:.60}: a number, 0 or more")
    return float(value)


def _tags(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InvalidArgument(f"{name}={value!r:.60}: several tags are a list of str: write [{value!r:.60}]")
    try:
        return tuple(dict.fromkeys(value))
    except TypeError:
        raise InvalidArgument(f"{name}={value!r:.60}: tags are a list of str") from None


_CHECKS: dict[str, tuple[str, Any]] = {
    "tags": ("tags", _tags),
    "grace": ("grace_ms", _milliseconds),
    "soft_timeout": ("soft_timeout", _seconds),
    "load_timeout": ("load_timeout", _positive_seconds),
    "negative_ttl": ("negative_ms", lambda _, value: milliseconds(value)),
    "retry_after": ("retry_ms", _milliseconds),
    "early": ("early", _factor),
    "refresh_at": ("refresh_at", _share),
    "jitter": ("jitter", _share),
}
