"""Leases: who loads in the fleet.

The lease of a key is a side key in the same slot; whoever sets it loads, with a token that names the process. It is
not renewed, because touching it would wake everybody who watches it. Instead each process that loads keeps one key
that says it lives; a waiter that finds it gone takes the lease over.

A process that lives may have lost the reply that gave it the lease, or the connection on which it would have given it
back. So a load that takes longer than a beat keeps a key of its own, too; where there is none, whoever has waited for
longer than such a key lasts takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import count
from secrets import token_hex
from typing import Any, NamedTuple

from ..errors import ConnectionFailed
from .effects import Command, Link, Plan, Send
from .flights import Flight
from .found import Found, judge
from .keys import Namespace
from .parts import Asking, Parts, Version, known_to
from .ports import Remote

__all__ = ["SILENCE", "Elected", "Holder", "elect"]

SILENCE = 3.0
"""Seconds that a process, or a load, counts as alive after its last beat."""

_ALIVE_MS = int(SILENCE * 1000)
_BEAT = 1.0  # seconds between two beats


class Holder:
    """This process, as it holds leases on one client."""

    def __init__(self, prefix: str, now: Callable[[], float]) -> None:
        self._prefix = prefix.encode("ascii") + b"~alive:"
        self._now = now
        self.renew()

    def renew(self) -> None:
        """Be another process: after a fork."""
        self._name = token_hex(8).encode("ascii")
        self._numbers = count(1)
        self._beaten = float("-inf")
        self._loads: dict[bytes, Collection[Flight]] = {}

    def begin(self, flights: Collection[Flight]) -> bytes:
        """A token for a load that begins; it tells the process and the load."""
        token = b"%b.%d" % (self._name, next(self._numbers))
        self._loads[token] = flights
        return token

    def end(self, token: bytes) -> None:
        """The load is over."""
        self._loads.pop(token, None)

    def holds(self, token: bytes) -> bool:
        """Whether this is a load of this process that is not over."""
        return token in self._loads

    def gave_up(self, token: bytes) -> bool:
        """Whether this is a load of this process that nobody carries on: its loop was closed, or it was cancelled."""
        if token.partition(b".")[0] != self._name:
            return False
        return all(flight.landed for flight in self._loads.get(token, ()))

    def beat(self, remote: Remote) -> list[Command]:
        """The command that says this process lives, when it is time to."""
        now = self._now()
        if now - self._beaten < _BEAT:
            return []
        self._beaten = now
        return [remote.alive(self._prefix + self._name, _ALIVE_MS)]

    def beat_for(self, remote: Remote, token: bytes) -> list[Command]:
        """Those that say that one of its loads goes on, and it lives."""
        self._beaten = self._now()
        return [remote.alive(key, _ALIVE_MS) for key in self.alive_keys(token)]

    def alive_keys(self, token: bytes) -> tuple[bytes, bytes]:
        """The key that says that the holder of a lease lives, and the one that says that its load goes on."""
        return self._prefix + token.partition(b".")[0], self._prefix + token


class Elected(NamedTuple):
    """The outcome for one key.

    Attributes:
        won: the lease is the caller's.
        found: what is there instead of what the caller had seen; None for no change, or when more has to be read.
        holder: who has the lease.
        exists: whether there is a value at all.
        changed: there is another value than the caller had seen.
        clock_us: the server's clock, in microseconds.
    """

    won: bool
    found: Found | None
    holder: bytes
    exists: bool
    changed: bool
    clock_us: int


def elect(
    parts: Parts,
    holder: Holder,
    link: Link,
    site: Namespace,
    names: Mapping[bytes, str],
    identities: Mapping[bytes, bytes],
    dead: Mapping[bytes, bytes],
    tags: Collection[bytes],
    token: bytes,
    lease_ms: int,
) -> Plan[tuple[dict[bytes, Elected], dict[bytes, Version]]]:
    """Ask for the leases of keys; for each the outcome, and the versions a value loaded from now on has to carry.

    Raises:
        ServerError: the server does not say.
    """
    remote, near = parts.remote, parts.near
    counters = [site.counter, *map(site.tag_counter, tags)]
    known = known_to(link, counters)
    asking = Asking(parts, link, [counter for counter in counters if counter not in known])
    marks = {key: near.mark(key) for key in names}
    sent = near.now()
    first = [*holder.beat(remote), *asking.commands]
    # Who loses is to be told when key or lease change, also where there is no near tier.
    track = [remote.TRACK_NEXT] if link.tracks and not link.track_all else []
    each = 1 + len(track)
    asked = (remote.elect(key, identities[key], token, lease_ms, dead.get(key, b"")) for key in names)
    elections = [command for election in asked for command in (*track, election)]
    outcomes: dict[bytes, Elected] = {}

    def parse(replies: list[Any]) -> None:
        asking.parse(replies[len(first) - len(asking.commands) : len(first)])
        epoch = near.epoch
        current = link.counters if link.tracks else known | asking.known
        for key, reply in zip(names, replies[len(first) + each - 1 :: each], strict=True):
            if not isinstance(reply, list):
                near.settle(key, marks[key])
                continue
            won, raw, pttl, who, exists, clock = reply
            found = None
            if raw is not None:
                verdict = judge(parts.codec, site, key, raw, pttl, current)
                found = verdict if isinstance(verdict, Found) else None
            if found is not None:
                near.arrived(key, marks[key], link, site, names[key], found, sent, epoch)
            else:
                near.settle(key, marks[key])
            outcomes[key] = Elected(bool(won), found, who, bool(exists), raw is not None, int(clock))

    try:
        versions = link.counters
        if parts.owed:
            yield from parts.replay.settled(link)
        replies = yield Send([*first, *elections], parse)
        if link.counters is not versions:
            raise ConnectionFailed("another server has answered than was asked, which may lack the last writes")
    except BaseException:
        asking.give_up()
        for key, mark in marks.items():
            near.settle(key, mark)
        raise
    for reply in replies:
        remote.check(reply)
    return outcomes, known | asking.known
