"""Flights: one load per key per process, whoever asks, from whichever thread or loop.

A flight is a lock and wakers, not a future of one loop, so that tasks of several loops and threads can wait for the
same one. Whoever starts it leads; its load runs in a task the cache owns (or in the leading thread), so a caller
that gives up cancels nobody else. What lands is the encoded value: every caller decodes its own copy.

A caller may join only a flight that began after the last invalidation the caller can have seen. Own writes and
deletes, and those of others once the server has told of them, *detach* the key's flight: it still serves those who
wait, but stores nothing and takes no more passengers. A flight begun in another epoch (a namespace or a tag was
invalidated since) is not joined either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import WouldDeadlock
from .loading import CurrentLoad, current

if TYPE_CHECKING:
    from .found import Found

__all__ = ["Flight", "Flights"]

_MOST_THROTTLED = 10_000


class Flight:
    """One load under way. ``landed`` turns true once; after that nothing changes."""

    __slots__ = (
        "_lock",
        "_wakers",
        "abandoned",
        "detached",
        "epoch",
        "error",
        "found",
        "key",
        "landed",
        "loop",
        "trace",
    )

    def __init__(self, key: bytes, epoch: int) -> None:
        self.key = key
        self.epoch = epoch
        self.found: Found | None = None  # None when the loader gave nothing for this key
        self.error: BaseException | None = None
        self.trace: TracebackType | None = None  # the error's, before those who wait raise it, each adding to it
        self.landed = False
        self.abandoned = False  # landed without a result: the leader is gone, somebody else must lead
        self.detached = False
        self.loop: Any = None  # the loop its load runs on; None when a thread leads
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []

    def when_landed(self, waker: Callable[[], None]) -> None:
        """Call ``waker`` once, from any thread, when the flight has landed; at once if it has."""
        with self._lock:
            if not self.landed:
                self._wakers.append(waker)
                return
        waker()

    def land(self) -> None:
        with self._lock:
            if self.landed:
                return
            self.landed = True
            wakers, self._wakers = self._wakers, []
        for waker in wakers:
            waker()

    def forget_in_child(self) -> None:
        """After a fork, perhaps by the loader itself: then what it returns in the child is nobody's but the child's."""
        self._lock, self._wakers = threading.Lock(), []
        self.detached = True


class Flights:
    """The flights of one client, by stored key.

    Attributes:
        retry_at: keys whose load failed while there was a value to serve, and when it may be tried again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[bytes, Flight] = {}
        self.retry_at: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._flying)

    def __contains__(self, key: bytes) -> bool:
        return key in self._flying

    def join(self, key: bytes, epoch: int) -> tuple[Flight, bool]:
        """The flight for ``key``, and whether the caller has to lead it.

        Raises:
            WouldDeadlock: the loader of this very key is asking for it.
        """
        with self._lock:
            flight = self._flying.get(key)
            self._refuse_own(flight)
            if flight is not None and flight.epoch == epoch:
                return flight, False
            if flight is not None:
                flight.detached = True
            flight = self._flying[key] = Flight(key, epoch)
            return flight, True

    def join_all(self, keys: Iterable[bytes], epoch: int) -> dict[bytes, tuple[Flight, bool]]:
        """``join`` for several keys: all, or none and ``WouldDeadlock``."""
        joined: dict[bytes, tuple[Flight, bool]] = {}
        try:
            for key in keys:
                joined[key] = self.join(key, epoch)
        except WouldDeadlock:
            for flight, leads in joined.values():
                if leads:
                    self.abandon(flight)
            raise
        return joined

    def land(self, flight: Flight, found: Found | None = None, error: BaseException | None = None) -> None:
        """Hand the outcome to everybody who waits. No-op when it has landed."""
        if not flight.landed:
            flight.found, flight.error = found, error
            flight.trace = None if error is None else error.__traceback__
            self._end(flight)

    def abandon(self, flight: Flight) -> None:
        """The leader cannot go on: one of those who wait will lead anew. No-op when it has landed."""
        if not flight.landed:
            flight.abandoned = True
            self._end(flight)

    def detach(self, keys: Iterable[bytes] | None) -> None:
        """What is loading for these keys (``None``: all) is out of date: store nothing of it, let nobody else join.

        That a load of what was there before has failed does not count any more.
        """
        if not self._flying and not self.retry_at:
            return
        with self._lock:
            for key in (*self._flying, *self.retry_at) if keys is None else keys:
                self.retry_at.pop(key, None)
                flight = self._flying.pop(key, None)
                if flight is not None:
                    flight.detached = True

    def detach_namespace(self, head: bytes) -> None:
        """The same for every key that begins with ``head``."""
        with self._lock:
            gone = [key for key in self._flying if key.startswith(head)]
        self.detach(gone)

    def supersede(self, key: bytes) -> None:
        """``detach`` for who is about to load the key himself.

        Raises:
            WouldDeadlock: the loader of this very key is.
        """
        self._refuse_own(self._flying.get(key))
        self.detach([key])

    @staticmethod
    def _refuse_own(flight: Flight | None) -> None:
        if flight is not None and _is_loading(flight, current.get()):
            raise WouldDeadlock(f"the loader of {flight.key.decode()!r} asks for the key it is loading")

    def throttle(self, key: bytes, until: float) -> None:
        """Serve what there is of a key until then."""
        if len(self.retry_at) >= _MOST_THROTTLED:
            self.retry_at.clear()
        self.retry_at[key] = until

    def throttled(self, key: bytes, now: float) -> bool:
        """Whether a load of this key has failed and is not to be tried again yet."""
        until = self.retry_at.get(key)
        if until is None or now < until:
            return until is not None
        self.retry_at.pop(key, None)
        return False

    def forget_in_child(self) -> None:
        """After a fork: the parent leads, and stores what is loaded; who waits is there, too."""
        self._lock = threading.Lock()
        flying, self._flying = self._flying, {}
        for flight in flying.values():
            flight.forget_in_child()

    def _end(self, flight: Flight) -> None:
        with self._lock:
            if self._flying.get(flight.key) is flight:
                del self._flying[flight.key]
        flight.land()


def _is_loading(flight: Flight, load: CurrentLoad | None) -> bool:
    while load is not None:
        if flight in load.flights:
            return True
        load = load.outer
    return False
