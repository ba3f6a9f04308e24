"""One call of a loader, and what becomes of what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ServerError
from ..sentinels import Miss
from .effects import Link, Load, Outcome, Plan, Send
from .flights import Flight
from .found import Found
from .keys import Namespace
from .leases import Holder
from .loading import CurrentLoad
from .parts import Parts, Version
from .recovery import Kind
from .storing import Storing, tags_of
from .ttl import milliseconds

if TYPE_CHECKING:
    from .jobs import Job

__all__ = ["Fill"]


class Fill:
    """The leader's part: call the loader, store with the versions from before, land.

    Attributes:
        token: holds the leases.
        known: the versions before the load; none when the server could not be asked.
        clock_us: the server's clock before the load, in microseconds.
    """

    def __init__(
        self,
        parts: Parts,
        link: Link,
        site: Namespace,
        flights: Mapping[bytes, Flight],
        job: Job,
        tags: list[bytes],
        holder: Holder,
    ) -> None:
        self._parts = parts
        self._link = link
        self._site = site
        self._flights = flights
        self._job = job
        self._tags = tags
        self._holder = holder
        self.token = holder.begin(flights.values())
        self.known: dict[bytes, Version] = {}
        self.clock_us = 0

    def load(self, seen: Mapping[bytes, Found], *, leased: bool) -> Plan[None]:
        """Load these keys; ``seen`` is what is stored of them."""
        parts, job = self._parts, self._job
        keys = list(seen)
        load = CurrentLoad(
            [self._flights[key] for key in keys],
            [job.names[key] for key in keys],
            None if job.policy.ttl_ms is None else job.policy.ttl_ms / 1000,
            job.policy.tags,
            lambda: self._stale(seen),
        )
        parts.counters.loads += 1
        self._unheard, self._began = parts.near.unheard, parts.near.now()
        outcome: Outcome = yield Load(
            lambda: job.call(load.keys),
            load,
            job.policy.load_timeout,
            (lambda: self._holder.beat_for(parts.remote, self.token)) if leased else None,
        )
        took_ms = int((parts.near.now() - self._began) * 1000)
        try:
            if outcome.error is not None:
                raise outcome.error
            values = job.values(keys, outcome.value)
            landed = yield from self._store(seen, values, load, took_ms, leased=leased)
        except Exception as error:  # noqa: BLE001  # the loader's own, handed to whoever waits
            parts.counters.load_errors += 1
            yield from self._fail(seen, error, leased=leased)
        else:
            for key in keys:
                parts.flights.land(self._flights[key], landed.get(key))

    def _stale(self, seen: Mapping[bytes, Found]) -> dict[str, Any]:
        codec, names = self._parts.codec, self._job.names
        values = {
            names[key]: codec.load(found.payload, found.envelope is None)
            for key, found in seen.items()
            if found.miss is None
        }
        return {name: value for name, value in values.items() if not isinstance(value, Miss)}

    def _store(
        self, seen: Mapping[bytes, Found], values: Mapping[bytes, Any], load: CurrentLoad, took_ms: int, *, leased: bool
    ) -> Plan[dict[bytes, Found]]:
        """Encode what was loaded, and store what may be stored; what was loaded, as it would be read."""
        parts, link, policy = self._parts, self._link, self._job.policy
        storing, tags = load.storing and leased, []
        if storing:
            tags = [self._site.tag(tag) for tag in dict.fromkeys(load.tags)]
            storing = yield from self._learn([tag for tag in tags if tag not in self._tags])
        versions = tags_of(self._site, tags, self.known) if storing else []
        version = self.known[self._site.counter][0] if storing else 0
        now_ms = parts.now_ms(link)
        landed: dict[bytes, Found] = {}
        filling = Storing(parts, link, self._site, {key: self._job.names[key] for key in values} if storing else {})
        for key, value in values.items():
            ttl_ms = milliseconds(load.ttl) if load.ttl_changed else policy.ttl_of(value)
            data = parts.codec.encode(
                value,
                key,
                version,
                policy.grace_ms,
                created_ms=now_ms,
                load_ms=took_ms,
                tags=versions,
                compress_min=load.compress_min,
            )
            opened: Any = parts.codec.unseal(data, key)
            envelope: Any = parts.codec.open(opened, key)
            landed[key] = Found(None, data, parts.codec.payload(opened, envelope), envelope, ttl_ms)
            # What an own write or delete overtook is handed to those who waited, and not stored.
            if storing and not self._flights[key].detached:
                physical = None if ttl_ms is None else ttl_ms + policy.grace_ms
                identity = parts.codec.identity(seen[key].raw)
                filling.add(key, data, [parts.remote.fill(key, identity, self.token, data, physical)])
            elif load.storing and not (leased or self.known or self._flights[key].detached):
                parts.near.keep_unheard(self._unheard, key, self._site, self._job.names[key], landed[key], self._began)
        stored = filling.stored_keys
        unfilled = [key for key in seen if key not in stored] if leased else []
        began = parts.recovery.begin()
        if (yield from self._send(filling, unfilled, None)):
            # Who loses the new value has the one before.
            parts.replay.acknowledged(Kind.KEY, [key for key in stored if seen[key].raw is not None], link, began)
        return landed

    def _learn(self, tags: list[bytes]) -> Plan[bool]:
        """Read the versions of tags that the loader added; whether none was raised since before the load."""
        if not tags:
            return True
        try:
            fresh = yield from self._parts.versions(self._link, self._site, tags, b"%d" % self.clock_us)
        except ServerError as error:
            return self._parts.failed(error, False)
        self.known = {**fresh, **self.known}
        return all(max(self.known[self._site.tag_counter(tag)]) <= self.clock_us for tag in tags)

    def _send(self, filling: Storing, unfilled: list[bytes], retry_ms: int | None) -> Plan[bool]:
        """Fill, and give back the leases that brought no value; whether the server did so."""
        parts = self._parts
        mine = self._holder.holds(self.token)  # not in a child that the loader has forked
        releases = [parts.remote.release(key, self.token, retry_ms) for key in unfilled if mine]
        if not filling.commands and not releases:
            return True
        count = len(filling.commands)

        def parse(replies: list[Any]) -> None:
            filling.parse(replies[:count])
            parts.near.wrote((), map(parts.remote.lease, unfilled))

        try:
            replies = yield Send([*filling.commands, *releases], parse)
            for reply in replies:
                parts.remote.check(reply)
            parts.counters.sets += sum(reply is not None for reply in replies[:count])
        except BaseException as error:
            filling.give_up()
            if not isinstance(error, ServerError):
                raise
            return parts.failed(error, False)
        return True

    def _fail(self, seen: Mapping[bytes, Found], error: Exception, *, leased: bool) -> Plan[None]:
        """Land what is stale, if it may be served, else the error; and let nobody try again at once."""
        parts, policy = self._parts, self._job.policy
        for served in (True, False):
            keys = [key for key, found in seen.items() if (found.miss is None and not self._job.forced) == served]
            if not keys:
                continue
            retry_ms = policy.retry_ms if served and policy.retry_ms else None
            if leased:
                yield from self._send(Storing(parts, self._link, self._site, {}), keys, retry_ms)
            for key in keys:
                if served:
                    parts.flights.throttle(key, parts.near.now() + policy.retry_ms / 1000)
                    parts.flights.land(self._flights[key], seen[key])
                else:
                    parts.flights.land(self._flights[key], error=error)
