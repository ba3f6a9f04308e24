"""The load that a loader is part of: ``current_load()``, a context variable, so that loaders keep their signature."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any

from ..errors import InvalidArgument
from .ttl import TTL, milliseconds

__all__ = ["CurrentLoad", "current", "current_load"]


class CurrentLoad:
    """What a loader may ask and say about the value it is making.

    Attributes:
        keys: the caller's keys that are being loaded.
        tags: what the value will be tagged with; a loader adds to it.
        storing: whether the value will be stored.
        compress_min: bytes up to which the value is not compressed, if that is more than the cache's own limit.
    """

    def __init__(
        self,
        flights: Collection[Any],
        keys: list[str],
        ttl: TTL,
        tags: Collection[str],
        stale: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.flights = flights
        self.outer = current.get()
        self.keys = keys
        self.tags = list(tags)
        self.storing = True
        self.compress_min = 0
        self.ttl_changed = False
        self._ttl = ttl
        self._stale = stale

    @property
    def ttl(self) -> TTL:
        """The value's time to live: seconds, a ``timedelta``, or None for no expiry. May be set.

        Raises:
            InvalidTTL: when set to zero, below, or what is no time.
        """
        return self._ttl

    @ttl.setter
    def ttl(self, ttl: TTL) -> None:
        milliseconds(ttl)
        self._ttl = ttl
        self.ttl_changed = True

    @property
    def stale_values(self) -> Mapping[str, Any]:
        """The values that are to be replaced and are within their grace, by key."""
        return self._stale()

    @property
    def stale(self) -> Any:
        """The value that is to be replaced, if it is within its grace; else None. Of several keys, the first's."""
        return self.stale_values.get(self.keys[0])

    def do_not_store(self) -> None:
        """Hand the value to those who wait for it, and store nothing."""
        self.storing = False

    def not_modified(self) -> Any:
        """The stale value, to be returned by the loader: it is stored once more, for its whole time to live.

        Raises:
            InvalidArgument: there is none; look at ``stale_values`` first.
        """
        stale = self.stale_values
        if self.keys[0] not in stale:
            raise InvalidArgument(f"there is no stale value of {self.keys[0]!r} that could be unmodified")
        return stale[self.keys[0]] if len(self.keys) == 1 else stale


current: ContextVar[CurrentLoad | None] = ContextVar("nearcache_current_load", default=None)


def current_load() -> CurrentLoad:
    """The load that is running here.

    Raises:
        InvalidArgument: none is: this was not called by a loader.
    """
    load = current.get()
    if load is None:
        raise InvalidArgument("current_load() is for loaders, while get_or_set or a decorated function runs them")
    return load
