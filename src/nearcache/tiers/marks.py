"""What waits for the server's word on a key: the mark of a command that is under way, and the watch of a sleeper."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

__all__ = ["Taint", "Watching"]


class _Watched(Protocol):
    def unwatch(self, watch: Watching, keys: Collection[bytes]) -> None: ...


class Taint:
    """Whether anything has happened to a key since commands that wait for a reply were sent."""

    __slots__ = ("tainted",)

    def __init__(self) -> None:
        self.tainted = False


class Watching:
    """Fires once, when the server says that one of its keys changed, or may have."""

    def __init__(self, near: _Watched, keys: Collection[bytes]) -> None:
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
