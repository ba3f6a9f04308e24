"""What all plans of a cache are made of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

from ..errors import ServerError
from .effects import Command, Link, Plan, Send
from .flights import Flights
from .keys import Namespace
from .ports import Codec, Near, Remote
from .recovery import Kind, Replay
from .stats import Counters

__all__ = ["TRIES", "Asking", "Parts", "Version", "known_to"]

T = TypeVar("T")
Version = tuple[int, int]

TRIES = 5  # how often a counter may be raised under one operation before that gives up


class Parts:
    """The rooms around a cache's plans, and what several of them do.

    Args:
        codec: values to bytes and back.
        remote: commands and replies of the server's tier.
        near: the near tier of the client.
        flights: the loads under way on the same client.
        replay: what failed on the same client, and how it is made good.
        counters: where operations are counted.
        strict: raise ``ServerError`` where otherwise a read is a miss and a write is ``False``.
        patience: seconds a read waits for the server where there is a near copy that would do.
    """

    def __init__(
        self,
        *,
        codec: Codec,
        remote: Remote,
        near: Near,
        flights: Flights,
        replay: Replay,
        counters: Counters,
        strict: bool = False,
        patience: float = 0.02,
    ) -> None:
        self.codec = codec
        self.remote = remote
        self.near = near
        self.flights = flights
        self.replay = replay
        self.recovery = replay.recovery
        self.owed = replay.recovery.owed
        self.counters = counters
        self.strict = strict
        self.patience = patience

    def failed(self, error: ServerError, instead: T) -> T:
        """Count what the server failed; ``instead`` is the outcome unless the cache is strict."""
        self.counters.errors += 1
        if self.strict:
            raise error
        return instead

    def unwritten(
        self, error: BaseException, instead: T, kind: Kind, names: Collection[bytes], link: Link, began: int
    ) -> T:
        """The same for a write, which is owed from now on, also when its caller has left before it was answered."""
        self.replay.owe(kind, names, link, began)
        if not isinstance(error, ServerError):
            raise error
        return self.failed(error, instead)

    def wrote(
        self,
        kind: Kind,
        names: Collection[bytes],
        link: Link,
        began: int,
        *,
        soft: bool = False,
        settles: bool = True,
    ) -> None:
        """A write got through; unless it ``settles`` what failed before, that is owed still."""
        if settles and self.owed:
            self.recovery.succeeded(kind, names, link, began, soft=soft)
        self.replay.acknowledged(kind, names, link, began, soft=soft)

    def now_ms(self, link: Link) -> int:
        """The server's clock, in milliseconds."""
        return int((link.clock + self.near.now()) * 1000)

    def versions(
        self, link: Link, site: Namespace, tags: Collection[bytes], start: bytes = b""
    ) -> Plan[dict[bytes, Version]]:
        """The current versions of a namespace and of tags in it.

        Args:
            start: what counters that are not there begin with; now when empty.
        """
        version = link.counters.get(site.counter)
        if version is not None and not tags:
            return {site.counter: version}
        counters = [site.counter, *map(site.tag_counter, tags)]
        known = known_to(link, counters)
        unknown = [counter for counter in counters if counter not in known]
        if unknown:
            asking = Asking(self, link, unknown, start)
            try:
                if self.owed:
                    yield from self.replay.settled(link)
                replies = yield Send(asking.commands, asking.parse)
            except BaseException:
                asking.give_up()
                raise
            for reply in replies:
                self.remote.check(reply)
            known.update(asking.known)
        return known


def known_to(link: Link, counters: Collection[bytes]) -> dict[bytes, Version]:
    """The versions of these counters that a connection knows. Another thread may be told of a change meanwhile."""
    versions = ((counter, link.counters.get(counter)) for counter in counters)
    return {counter: version for counter, version in versions if version is not None}


class Asking:
    """Commands that read counters, and the hook that remembers what they say."""

    def __init__(self, parts: Parts, link: Link, counters: Collection[bytes], start: bytes = b"") -> None:
        self._parts = parts
        self._link = link
        self._each = 2 if link.tracks and not link.track_all else 1
        self._marks = {counter: parts.near.mark(counter) for counter in counters} if link.tracks else {}
        self._counters = list(counters)
        self.commands: list[Command] = []
        for counter in counters:
            if self._each == 2:
                self.commands.append(parts.remote.TRACK_NEXT)
            self.commands.append(parts.remote.read_counter(counter, start))
        self.known: dict[bytes, Version] = {}

    def parse(self, replies: list[Any]) -> None:
        """Called where the replies are parsed."""
        parts = self._parts
        for counter, reply in zip(self._counters, replies[self._each - 1 :: self._each], strict=True):
            if isinstance(reply, bytes):
                version = self.known[counter] = parts.remote.version(reply)
                if self._marks and self._link.tracks:
                    parts.near.learn(self._link, counter, self._marks[counter], version)
        self.give_up()

    def give_up(self) -> None:
        """No reply will come."""
        for counter, mark in self._marks.items():
            self._parts.near.settle(counter, mark)
