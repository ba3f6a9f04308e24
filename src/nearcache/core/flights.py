"""Flights: one load per key per process, whoever asks, from whichever thread or loop.

A flight is a lock and wakers, not a future of one loop, so that tasks of several loops and threads can wait for the
same one. Whoever starts it leads; its load runs in a task the cache owns (or in the leading thread), so a caller
that gives up cancels nobody else. What lands is the encoded value: every caller decodes its own copy.

A caller may join only a flight that began after the last invalidation the caller can have seen: own writes and
deletes *detach* the key's flight (it still serves those who wait, but stores nothing and takes no more passengers),
and a flight begun under another version of the namespace is not joined.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from ..errors import WouldDeadlock

__all__ = ["Flight", "Flights", "loading"]


class Flight:
    """One load under way. ``landed`` turns true once; after that nothing changes."""

    __slots__ = ("_lock", "_wakers", "abandoned", "detached", "error", "key", "landed", "loop", "raw", "version")

    def __init__(self, key: bytes, version: int) -> None:
        self.key = key
        self.version = version
        self.raw: bytes | None = None  # the encoded value; None when the loader gave none for this key
        self.error: BaseException | None = None
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


loading: ContextVar[tuple[Flight, ...]] = ContextVar("nearcache_loading", default=())
"""The flights whose loader is running here, outermost first."""


class Flights:
    """The flights of one client, by stored key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flying)

    def join(self, key: bytes, version: int) -> tuple[Flight, bool]:
        """The flight for ``key``, and whether the caller has to lead it.

        Raises:
            WouldDeadlock: the loader of this very key is asking for it.
        """
        with self._lock:
            flight = self._flying.get(key)
            if flight is not None and flight.version == version:
                if flight in loading.get():
                    raise WouldDeadlock(f"the loader of {key.decode()!r} asks for the key it is loading")
                return flight, False
            if flight is not None:
                flight.detached = True
            flight = self._flying[key] = Flight(key, version)
            return flight, True

    def join_all(self, keys: Iterable[bytes], version: int) -> dict[bytes, tuple[Flight, bool]]:
        """``join`` for several keys: all, or none and ``WouldDeadlock``."""
        joined: dict[bytes, tuple[Flight, bool]] = {}
        try:
            for key in keys:
                joined[key] = self.join(key, version)
        except WouldDeadlock:
            for flight, leads in joined.values():
                if leads:
                    self.abandon(flight)
            raise
        return joined

    def land(self, flight: Flight, raw: bytes | None = None, error: BaseException | None = None) -> None:
        """Hand the outcome to everybody who waits. No-op when it has landed."""
        if not flight.landed:
            flight.raw, flight.error = raw, error
            self._end(flight)

    def abandon(self, flight: Flight) -> None:
        """The leader cannot go on: one of those who wait will lead anew. No-op when it has landed."""
        if not flight.landed:
            flight.abandoned = True
            self._end(flight)

    def detach(self, keys: Iterable[bytes]) -> None:
        """What is loading for these keys is out of date: store nothing of it, let nobody else join."""
        if not self._flying:
            return
        with self._lock:
            for key in keys:
                flight = self._flying.pop(key, None)
                if flight is not None:
                    flight.detached = True

    def detach_namespace(self, head: bytes) -> None:
        """The same for every key that begins with ``head``."""
        with self._lock:
            gone = [key for key in self._flying if key.startswith(head)]
        self.detach(gone)

    def forget(self) -> None:
        """After a fork: the leaders are in the parent."""
        self._lock = threading.Lock()
        self._flying = {}

    def _end(self, flight: Flight) -> None:
        with self._lock:
            if self._flying.get(flight.key) is flight:
                del self._flying[flight.key]
        flight.land()
