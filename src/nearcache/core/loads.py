"""Cache-aside as plans: read, and when there is nothing fresh, load once per fleet.

A caller reads first. On a miss it joins the flight for the key, or leads it. The leader asks the server for the key's
lease; who gets it loads, and the others sleep until the server tells that the key or the lease has changed. The lease
is asked for with what the caller has seen, so that a value that came since is found by the same command. What the
loader gave is encoded once; every caller, the leader included, decodes its own copy, so that nobody can change what
another one got. The fill stores only if the lease is still ours and the value is what it was before the load.

With a stale value at hand nobody waits longer than the soft timeout, and a loader that fails is not heard of: the
stale value is served, and the lease is kept for a while under a name that tells everybody not to try again yet.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CodecError, InvalidArgument, ServerError
from ..sentinels import ABSENT, Miss
from .effects import Lead, Link, Load, Outcome, Plan, Sleep, Wait
from .fills import Fill
from .flights import Flight
from .found import NOTHING, Found
from .jobs import Job, one, several
from .keys import Namespace
from .leases import SILENCE, Elected, Holder, elect
from .parts import Parts
from .policy import Policy
from .reads import Reads
from .writes import Item, Writes

__all__ = ["Loads"]

_POLL = 0.5  # seconds a waiter sleeps at most before it looks whether the holder lives
_POLL_UNTRACKED = 0.05  # the same, where the server tells nobody of changes
_LEASE_MARGIN_MS = 1000  # a lease outlives its load's limit by this


class Loads:
    """``get_or_set`` and its relatives, on top of a cache's reads and writes."""

    def __init__(self, parts: Parts, reads: Reads, writes: Writes, holder: Holder) -> None:
        self._parts = parts
        self._reads = reads
        self._writes = writes
        self._holder = holder

    # -- what callers ask

    def get_or_set(
        self,
        link: Link,
        site: Namespace,
        name: str,
        key: bytes,
        loader: Callable[[], Any],
        policy: Policy,
        type: Any,
        near: bool,
    ) -> Plan[Outcome]:
        """The value, or what the loader raised."""
        found = (yield from self._reads.look(link, site, {name: key}, near, loads=True))[key]
        job = one(name, key, loader, policy, found, type)
        if _serves(found):
            value = self._reads.value(found, key, type)
            if value.__class__ is not Miss:
                yield from self._renew_due(link, site, job)
                return Outcome(value)
        else:
            self._reads.value(found._replace(rescued=False), key, type)  # counts the miss
        job = job._replace(seen={key: self._readable(found, type)})
        return (yield from self._load_or_join(link, site, job))[key]

    def get_or_set_many(
        self,
        link: Link,
        site: Namespace,
        keys: Mapping[str, bytes],
        loader: Callable[[list[str]], Any],
        policy: Policy,
        type: Any,
        near: bool,
    ) -> Plan[Outcome]:
        """Values by the caller's keys, in the asked order, or what the loader raised."""
        found = yield from self._reads.look(link, site, keys, near, loads=True)
        values: dict[str, Any] = {}
        missing: dict[bytes, str] = {}
        for name, key in keys.items():
            value = self._reads.value(found[key] if _serves(found[key]) else NOTHING, key, type)
            if value.__class__ is Miss:
                missing[key] = name
            else:
                values[name] = value
        fresh = {keys[name]: name for name in values}
        yield from self._renew_due(link, site, several(fresh, loader, policy, found, type))
        if missing:
            seen = {key: self._readable(found[key], type) for key in missing}
            job = several(missing, loader, policy, seen, type)
            outcomes = yield from self._load_or_join(link, site, job)
            for key, outcome in outcomes.items():
                if outcome.error is not None:
                    return outcome
                if outcome.value is not ABSENT:
                    values[missing[key]] = outcome.value
        return Outcome({name: values[name] for name in keys if name in values})

    def refresh(
        self,
        link: Link,
        site: Namespace,
        name: str,
        key: bytes,
        loader: Callable[[], Any],
        policy: Policy,
        type: Any,
    ) -> Plan[Outcome]:
        """Load now, whatever is stored, and store it; the value, or what the loader raised."""
        try:
            found = (yield from self._reads.find(link, site, {name: key}))[key]
        except ServerError as error:
            found = self._parts.failed(error, NOTHING)

        self._parts.flights.supersede(key)
        job = one(name, key, loader, policy, found, type)._replace(forced=True)
        return (yield from self._load_or_join(link, site, job))[key]

    def replace(
        self,
        link: Link,
        site: Namespace,
        name: str,
        key: bytes,
        loader: Callable[[], Any],
        policy: Policy,
        outdated: Callable[[Any], bool] | None,
    ) -> Plan[Outcome]:
        """Load, once per fleet, unless somebody has: for a caller that has looked, and found nothing good enough.

        Args:
            outdated: whether a value is not good enough; None when nothing was there.
        """
        found = NOTHING
        if outdated is not None:
            try:
                found = (yield from self._reads.find(link, site, {name: key}))[key]
            except ServerError as error:
                found = self._parts.failed(error, NOTHING)
            if found.fresh:
                if not outdated(value := self._parts.codec.load(found.payload, found.envelope is None)):
                    return Outcome(value)
                found = found._replace(soft=True)  # valid, and to be replaced
        job = one(name, key, loader, policy, found, None)
        return (yield from self._load_or_join(link, site, job))[key]

    def write_through(
        self, link: Link, site: Namespace, name: str, key: bytes, writer: Callable[[], Any], policy: Policy
    ) -> Plan[Outcome]:
        """Call the writer, then store what it returned. If it raises, what is cached stays."""
        tags = [site.tag(tag) for tag in policy.tags]
        outcome: Outcome = yield Load(writer)
        if outcome.error is not None:
            return outcome
        item = Item(name, outcome.value)
        try:
            stored = yield from self._writes.set_many(link, site, {key: item}, policy.ttl_ms, policy.grace_ms, tags)
        except (CodecError, InvalidArgument) as error:
            stored, outcome = False, Outcome(error=error)
        if not stored:
            # The writer has run: what is cached is out of date.
            yield from self._writes.delete(link, site, [key])
        return outcome

    # -- who loads in this process

    def _load_or_join(self, link: Link, site: Namespace, job: Job) -> Plan[dict[bytes, Outcome]]:
        """The outcome for every key: some led here, in one call of the loader, some by others."""
        parts, policy = self._parts, job.policy
        flights, outcomes = parts.flights, {key: self._throttled(key, job) for key in job.names}
        while todo := [key for key, outcome in outcomes.items() if outcome is None]:
            joined = flights.join_all(todo, parts.near.epoch)
            led = {key: flight for key, (flight, leads) in joined.items() if leads}
            parts.counters.joins += len(joined) - len(led)
            stale = {key for key in todo if job.seen[key].stale and not job.forced}
            if led:
                plan = self._lead(link, site, led, job)
                yield Lead(plan, tuple(led.values()), background=len(stale) == len(todo))
            patience = parts.near.now() + policy.soft_timeout  # for all of them together
            for key, (flight, _) in joined.items():
                soft = max(0.0, patience - parts.near.now()) if key in stale else None
                yield Wait(flight, soft, policy.load_timeout)
                # The load may be another's, such as a refresh, which hears of the error.
                if not flight.landed or (key in stale and self._is_loaders(flight.error)):
                    outcomes[key] = self._outcome(key, job.seen[key], job.type)
                elif flight.error is not None:
                    outcomes[key] = Outcome(error=flight.error.with_traceback(flight.trace))
                elif not flight.abandoned:
                    outcomes[key] = self._outcome(key, flight.found, job.type)
        return outcomes  # type: ignore[return-value]

    def _is_loaders(self, error: BaseException | None) -> bool:
        return error is not None and not (self._parts.strict and isinstance(error, ServerError))

    def _throttled(self, key: bytes, job: Job) -> Outcome | None:
        """The stale value, while a load that failed is not to be tried again."""
        throttled = (
            job.seen[key].stale and not job.forced and self._parts.flights.throttled(key, self._parts.near.now())
        )
        return self._outcome(key, job.seen[key], job.type) if throttled else None

    def _outcome(self, key: bytes, found: Found | None, type: Any) -> Outcome:
        if found is None:
            return Outcome(ABSENT)
        self._parts.counters.stale += found.stale
        value = self._parts.codec.load(found.payload, found.envelope is None, type)
        if value.__class__ is Miss:
            return Outcome(error=CodecError(f"what the loader gave for {key.decode()!r} is no {type!r}"))
        return Outcome(value)

    def _readable(self, found: Found, type: Any) -> Found:
        """What was found; nothing to be served when it is no ``type``."""
        value = found.miss or self._parts.codec.load(found.payload, found.envelope is None, type)
        return found._replace(miss=value) if value.__class__ is Miss else found

    # -- who loads in the fleet

    def _renew_due(self, link: Link, site: Namespace, job: Job) -> Plan[None]:
        """Load in the background what is still fresh and is to be renewed, unless that was tried and has failed."""
        parts, flights, policy = self._parts, self._parts.flights, job.policy
        if not policy.eager:
            return
        now, now_ms = parts.near.now(), parts.now_ms(link)
        due = [key for key in job.names if job.seen[key].fresh and policy.due(job.seen[key], now_ms)]
        free = [key for key in due if key not in flights and not flights.throttled(key, now)]
        led = {key: flight for key, (flight, leads) in flights.join_all(free, parts.near.epoch).items() if leads}
        if led:
            yield Lead(self._renew(link, site, led, job), tuple(led.values()), background=True)

    def _renew(self, link: Link, site: Namespace, flights: Mapping[bytes, Flight], job: Job) -> Plan[None]:
        """Load what is still fresh, unless somebody has. A near copy has no identity: the server's value has."""
        parts = self._parts
        try:
            found = yield from self._reads.find(link, site, {job.names[key]: key for key in flights})
            renewed = [key for key in flights if found[key].fresh and found[key].envelope != job.seen[key].envelope]
            for key in renewed:
                parts.flights.land(flights[key], found[key])
            rest = {key: flight for key, flight in flights.items() if key not in renewed}
            yield from self._lead(link, site, rest, job._replace(seen=found))
        except ServerError:
            parts.counters.errors += 1
            for key in flights:
                parts.flights.throttle(key, parts.near.now() + job.policy.retry_ms / 1000)
        finally:  # who waits, because he has no use for what is there, leads a load of his own
            for flight in flights.values():
                parts.flights.abandon(flight)

    def _lead(self, link: Link, site: Namespace, flights: Mapping[bytes, Flight], job: Job) -> Plan[None]:
        """Load what is still missing, store it, and land every flight; whatever happens, none stays in the air."""
        try:
            yield from self._lead_all(link, site, flights, job)
        except Exception as error:
            for flight in flights.values():
                self._parts.flights.land(flight, error=error)
        finally:
            for flight in flights.values():
                self._parts.flights.abandon(flight)

    def _lead_all(self, link: Link, site: Namespace, flights: Mapping[bytes, Flight], job: Job) -> Plan[None]:
        parts, near = self._parts, self._parts.near
        seen = {key: job.seen[key] for key in flights}
        dead: dict[bytes, bytes] = {}
        since: dict[tuple[bytes, bytes], float] = {}
        tags = [site.tag(tag) for tag in job.policy.tags]
        lease_ms = int(job.policy.load_timeout * 1000) + _LEASE_MARGIN_MS
        while seen:
            names = {key: job.names[key] for key in seen}
            fill = Fill(parts, link, site, flights, job, tags, self._holder)
            watch = near.watch([*names, *map(parts.remote.lease, names)])
            try:
                # Of a newer format nothing is seen: what is there then counts as changed, and is not replaced.
                identities = {
                    key: b"" if found.miss is Miss.FOREIGN else parts.codec.identity(found.raw)
                    for key, found in seen.items()
                }
                # Who has nothing to serve meanwhile need not wait for the time after which to try again.
                takes = {key: parts.remote.RETRY for key, found in seen.items() if job.forced or found.miss is not None}
                if any(found.timed_out for found in seen.values()):  # asking again would cost as much again
                    yield from fill.load(seen, leased=False)
                    return
                try:
                    elected, fill.known = yield from elect(
                        parts, self._holder, link, site, names, identities, takes | dead, tags, fill.token, lease_ms
                    )
                    alone, won, lost = yield from self._sort(link, site, elected, seen, flights, job)
                except ServerError as error:
                    parts.failed(error, None)
                    yield from fill.load(seen, leased=False)
                    return
                for keys, leased in ((won, True), (alone, False)):
                    if keys:
                        fill.clock_us = max(outcome.clock_us for outcome in elected.values())
                        yield from fill.load({key: seen.pop(key) for key in keys}, leased=leased)
                if lost:
                    dead = yield from self._wait(link, watch, lost, since)
            finally:
                watch.close()
                self._holder.end(fill.token)

    def _sort(
        self,
        link: Link,
        site: Namespace,
        elected: Mapping[bytes, Elected],
        seen: dict[bytes, Found],
        flights: Mapping[bytes, Flight],
        job: Job,
    ) -> Plan[tuple[list[bytes], list[bytes], dict[bytes, bytes]]]:
        """Land what others have filled; the keys to load without a lease, those with one, and the others' holders."""
        alone, won, lost = [], [], {}
        for key, outcome in elected.items():
            if outcome.changed:
                found = outcome.found
                if found is None:
                    found = (yield from self._reads.find(link, site, {job.names[key]: key}))[key]
                seen[key] = found = self._readable(found, job.type)
                if found.fresh and not job.forced:
                    self._parts.flights.land(flights[key], seen.pop(key))
                elif found.miss is Miss.FOREIGN:
                    alone.append(key)
            elif outcome.won:
                if not outcome.exists:
                    seen[key] = seen[key]._replace(raw=None)
                won.append(key)
            elif outcome.holder != self._parts.remote.RETRY:
                lost[key] = outcome.holder
            elif seen[key].miss is None and not job.forced:
                self._parts.flights.land(flights[key], seen.pop(key))
            else:
                alone.append(key)
        return alone, won, lost

    def _wait(
        self, link: Link, watch: Any, lost: Mapping[bytes, bytes], since: dict[tuple[bytes, bytes], float]
    ) -> Plan[dict[bytes, bytes]]:
        """Sleep until something may have changed; the holders that are dead, by key.

        Args:
            since: when each holder of each key was first met.
        """
        try:
            dead = {}
            for key, holder in lost.items():
                first = since.setdefault((key, holder), self._parts.near.now())
                if self._holder.gave_up(holder) or not (yield from self._lives(holder, first)):
                    dead[key] = holder  # a comprehension cannot yield
            if not dead:
                longest = _POLL if link.tracks else _POLL_UNTRACKED
                yield Sleep(watch, longest * random.uniform(0.5, 1.0))
            return dead
        except ServerError:
            return {}  # the next election says so

    def _lives(self, holder: bytes, since: float) -> Plan[bool]:
        """Whether a process lives, and, when that could be known, whether the load goes on for which it has a lease."""
        process, load = self._holder.alive_keys(holder)
        lives = yield self._parts.remote.is_alive(process)
        if lives and self._parts.near.now() - since > SILENCE:
            lives = yield self._parts.remote.is_alive(load)
        return bool(lives)


def _serves(found: Found) -> bool:
    """Whether what was found answers without a load: fresh, or what would be if the server could be asked."""
    if found.fresh:
        return True
    return found.rescued and found.miss is None and (found.remaining_ms is None or found.remaining_ms > 0)
