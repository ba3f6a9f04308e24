"""Reads as plans: what the near tier knows, else what the server holds.

The verdict on a reply is made where it is parsed, in order with the server's pushes, by the versions that are known at
that moment. Versions that are not known are read along, after the values: an invalidation in between makes a value
invalid, never the other way round.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import CommandTimeout, ServerError
from ..sentinels import ABSENT, Miss
from .effects import Command, Lead, Link, Plan, Send, Wait
from .flights import Flight
from .found import NOTHING, Found, Lookup, State, judge
from .keys import Namespace
from .parts import TRIES, Asking, Parts

__all__ = ["Reads"]

_PROBE = 1024  # bytes of a value that tell whether it is there, unless its tags are many

_log = logging.getLogger("nearcache.cache")


class Reads:
    """The reads of one cache."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # -- what callers ask

    def get(self, link: Link, site: Namespace, name: str, key: bytes, type: Any, near: bool) -> Plan[Any]:
        """The value, or a ``Miss``."""
        found = yield from self.look(link, site, {name: key}, near)
        return self.value(found[key], key, type)

    def got(self, raw: Any, key: bytes, version: int, type: Any) -> Any:
        """What the bare reply to a GET, or the lack of one, means; ``Miss.UNSETTLED`` if more has to be read."""
        if raw.__class__ is bytes:
            value = self._parts.codec.decode(raw, key, version, type)
            return value if value is Miss.UNSETTLED else self._count(value, key)
        if isinstance(raw, ServerError):
            return self._count(self._parts.failed(raw, ABSENT), key)
        return self._count(ABSENT, key)

    def get_many(
        self, link: Link, site: Namespace, keys: Mapping[str, bytes], type: Any, near: bool
    ) -> Plan[dict[str, Any]]:
        """What was found, in the asked order."""
        found = yield from self.look(link, site, keys, near)
        values = {name: self.value(found[key], key, type) for name, key in keys.items()}
        return {name: value for name, value in values.items() if value.__class__ is not Miss}

    def ttl(self, link: Link, site: Namespace, name: str, key: bytes, near: bool) -> Plan[int]:
        """Whole seconds left, -1 without expiry, -2 without a fresh value."""
        found = self._parts.near.find(key, site) if near else None
        if found is None or not found.fresh:
            try:
                probed = yield from self.find(link, site, {name: key}, probe=_PROBE)
                found = probed[key]
                if found.miss is Miss.UNDECODABLE and found.raw is not None and len(found.raw) == _PROBE:
                    found = (yield from self.find(link, site, {name: key}))[key]
            except ServerError as error:
                return self._parts.failed(error, -2)
        if not found.fresh:
            return -2
        left = found.remaining_ms
        return self._parts.remote.remaining_seconds(None if left is None else int(left))

    def lookup(self, link: Link, site: Namespace, name: str, key: bytes, type: Any, near: bool) -> Plan[Lookup]:
        """The value and everything that is known of it. Counts nothing."""
        parts = self._parts
        found = parts.near.find(key, site) if near else None
        why = ""
        if found is None or not found.fresh:
            try:
                found = (yield from self.find(link, site, {name: key}))[key]
            except ServerError as error:
                parts.failed(error, None)
                found = parts.near.left_over(key) or NOTHING
                why = f"the server does not answer ({error})"
        value = found.miss
        if found.miss is None:
            value = parts.codec.load(found.payload, found.envelope is None, type)
        if isinstance(value, Miss):
            state = _STATES.get(value, State.UNREADABLE)
            return Lookup(None, state, None, None, None, why or value.value)
        state = State.FRESH if found.fresh else State.STALE
        created = found.envelope.created_ms if found.envelope is not None else 0
        age = max(0, parts.now_ms(link) - created) / 1000 if created else None
        left = None if found.remaining_ms is None else found.remaining_ms / 1000
        return Lookup(value, state, age, left, found.tier, why or found.why())

    # -- how they are answered

    def look(
        self, link: Link, site: Namespace, keys: Mapping[str, bytes], near: bool, *, loads: bool = False
    ) -> Plan[dict[bytes, Found]]:
        """What is held for each key: by the near tier when that is fresh, else by the server.

        When the server fails, or takes too long, by the near tier whatever its age, as far as it is not known to be
        invalid.

        Args:
            loads: who asks would load otherwise, so that what was loaded while the server failed is as good.
        """
        parts = self._parts
        held: dict[bytes, Found] = {}
        asked: dict[str, bytes] = {}
        for name, key in keys.items():
            found = parts.near.find(key, site) if near else None
            if found is not None and found.fresh:
                held[key] = found
            else:
                asked[name] = key
        if asked:
            held |= yield from self._ask(link, site, asked, near, loads)
        return held

    def _ask(
        self, link: Link, site: Namespace, asked: Mapping[str, bytes], near: bool, loads: bool
    ) -> Plan[dict[bytes, Found]]:
        parts = self._parts
        may = near and not parts.strict and link.track_all
        copies = [parts.near.left_over(key, loads=loads, slow=True) for key in asked.values()] if may else [None]
        timed_out = False
        try:
            if None in copies:
                found: dict[bytes, Found] | None = yield from self.find(link, site, asked)
            elif parts.near.trouble.slow and all(copy is not None and copy.fresh for copy in copies):
                found = None  # others wait already
            else:
                found = yield from self._find_soon(link, site, asked)
        except ServerError as error:
            found = parts.failed(error, None)
            timed_out = isinstance(error, CommandTimeout)
        if found is not None:
            return found
        rescued = {key: parts.near.left_over(key, loads=loads) or NOTHING for key in asked.values()}
        return {key: found._replace(rescued=True, timed_out=timed_out) for key, found in rescued.items()}

    def _find_soon(self, link: Link, site: Namespace, keys: Mapping[str, bytes]) -> Plan[dict[bytes, Found] | None]:
        """``find``, or None when that takes longer than the soft timeout: it goes on behind."""
        parts, trouble = self._parts, self._parts.near.trouble
        flight = Flight(b"~read", 0)
        found: dict[bytes, Found] = {}
        yield Lead(self._find_behind(link, site, keys, flight, found), (flight,), background=True, needed=False)
        yield Wait(flight, parts.patience)
        if not flight.landed:
            trouble.late(flight)
            flight.when_landed(lambda: trouble.ended(flight))
            return None
        if flight.error is not None:
            raise flight.error
        return None if flight.abandoned else found

    def _find_behind(
        self, link: Link, site: Namespace, keys: Mapping[str, bytes], flight: Flight, found: dict[bytes, Found]
    ) -> Plan[None]:
        flights = self._parts.flights
        try:
            found.update((yield from self.find(link, site, keys)))
            flights.land(flight)
        except ServerError as error:
            flights.land(flight, error=error)
        finally:
            flights.abandon(flight)

    def find(
        self, link: Link, site: Namespace, keys: Mapping[str, bytes], *, probe: int = 0
    ) -> Plan[dict[bytes, Found]]:
        """What the server holds for each key.

        Args:
            probe: read only so many bytes of each, which tell whether it is there; no payload is to be used then.

        Raises:
            ServerError: it does not say.
        """
        names = {key: name for name, key in keys.items()}
        found: dict[bytes, Found] = {}
        unknown: set[bytes] = set()
        for _ in range(TRIES):
            if site.counter not in link.counters:  # nor is it ever where the server does not track
                unknown.add(site.counter)
            reading = _Reading(self._parts, link, site, names, unknown, found, probe)
            versions = link.counters
            try:
                if self._parts.owed:
                    yield from self._parts.replay.settled(link)
                replies = yield Send(reading.commands, reading.parse)
            except BaseException:  # the caller may also have left
                reading.give_up()
                raise
            for reply in replies:
                self._parts.remote.check(reply)
            if link.counters is not versions:  # another server may have answered, which was not told what it lacks
                for key in names:
                    found.pop(key, None)
                continue
            names = {key: name for key, name in names.items() if key not in found}
            if not names:
                return found
            unknown = reading.unknown
        # Cleared again and again meanwhile: nothing that was read is valid.
        return found | dict.fromkeys(names, Found(Miss.INVALIDATED))

    # -- counting

    def value(self, found: Found, key: bytes, type: Any) -> Any:
        """The value of a read that is fresh, or all there is while the server fails; or a ``Miss``. Counted."""
        if not (found.fresh or (found.rescued and found.miss is None)):
            return self._count(found.miss or Miss.EXPIRED, key)
        value = self._parts.codec.load(found.payload, found.envelope is None, type)
        if found.rescued:
            self._parts.counters.stale += 1
        return self._count(value, key)

    def _count(self, value: Any, key: bytes) -> Any:
        counters = self._parts.counters
        if value.__class__ is not Miss:
            counters.hits += 1
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("Cache hit for %s", key.decode())
            return value
        counters.misses += 1
        counters.undecodable += value is Miss.UNDECODABLE or value is Miss.FOREIGN
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("Cache miss for %s", key.decode())
        return value


_STATES = {Miss.ABSENT: State.ABSENT, Miss.EXPIRED: State.ABSENT, Miss.INVALIDATED: State.INVALIDATED}


class _Reading:
    """One batch that reads values and the counters they need, and the hook that judges them."""

    def __init__(
        self,
        parts: Parts,
        link: Link,
        site: Namespace,
        names: Mapping[bytes, str],
        counters: set[bytes],
        found: dict[bytes, Found],
        probe: int,
    ) -> None:
        self._parts = parts
        self._link = link
        self._site = site
        self._names = names
        self._found = found
        self._probe = probe
        self._sent = parts.near.now()
        self._marks = {} if probe else {key: parts.near.mark(key) for key in names}
        self._asking = Asking(parts, link, counters)
        self.unknown: set[bytes] = set()
        self.commands: list[Command] = []
        if probe:
            self.commands += [("GETRANGE", key, 0, probe - 1) for key in names]
        elif len(names) == 1:
            self.commands += [("GET", key) for key in names]
        else:
            self.commands.append(("MGET", *names))
        self.commands += [("PTTL", key) for key in names]
        self.commands += self._asking.commands

    def parse(self, replies: list[Any]) -> None:
        """Called where the replies are parsed."""
        count = len(self._names)
        first = 1 if len(self.commands) - len(self._asking.commands) == count + 1 else count
        self._asking.parse(replies[first + count :])
        raws = replies[0] if isinstance(replies[0], list) else replies[:first]
        parts, link, site = self._parts, self._link, self._site
        epoch = parts.near.epoch
        known = link.counters if link.tracks else self._asking.known
        for key, raw, pttl in zip(self._names, raws, replies[first : first + count], strict=False):
            if not isinstance(pttl, int) or not (raw is None or isinstance(raw, bytes)):
                continue  # refused: the plan will say so
            verdict = judge(parts.codec, site, key, raw or None, pttl, known, probe=self._probe)
            if isinstance(verdict, list):
                self.unknown.update(verdict)
                if not self._is_near(key, raw):  # whoever is told of this value must not find an older one there later
                    parts.near.drop([key])
            else:
                self._found[key] = verdict
                if not self._probe:
                    parts.near.arrived(key, self._marks[key], link, site, self._names[key], verdict, self._sent, epoch)
        self.give_up()

    def _is_near(self, key: bytes, raw: bytes | None) -> bool:
        """Whether the very write that was read is near."""
        codec, held = self._parts.codec, self._parts.near.entry(key)
        if raw is None or held is None or held.envelope is None:
            return False
        opened: Any = codec.unseal(raw, key)
        envelope = opened if opened.__class__ is Miss else codec.open(opened, key)
        return getattr(envelope, "write_id", None) == held.envelope.write_id

    def give_up(self) -> None:
        """Use up the marks of what did not arrive."""
        self._asking.give_up()
        for key, mark in self._marks.items():
            self._parts.near.settle(key, mark)
