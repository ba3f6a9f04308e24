"""Waiting for what the server says of a key."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .memory import NearTier

__all__ = ["Watch"]


class Watch:
    """Fires once, when the server says that one of its keys changed, or may have."""

    def __init__(self, near: NearTier, keys: Collection[bytes]) -> None:
        self.fired = False
        self._near = near
        self._keys = keys
        self._wakers: list[Callable[[], None]] = []

    def when_fired(self, waker: Callable[[], None]) -> None:
        """Call ``waker`` once, from any thread; at once if it has fired."""
        self._wakers.append(waker)
        if self.fired:
            self.fire()

    def fire(self) -> None:
        self.fired = True
        while self._wakers:
            try:
                waker = self._wakers.pop()
            except IndexError:  # another thread was quicker
                return
            waker()

    def close(self) -> None:
        """Nobody waits any more. Idempotent."""
        self._near.unwatch(self, self._keys)
