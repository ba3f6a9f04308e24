"""Cache-aside as plans: read, and when there is nothing, load once per process.

A caller reads first. On a miss it joins the flight for the key, or leads it; the leader reads once more, because the
flight it would have joined may have landed since, and only then calls the loader. What the loader gave is encoded
once; every caller, the leader included, decodes its own copy, so that nobody can change what another one got.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import CodecError, InvalidArgument
from ..sentinels import ABSENT, Miss
from .effects import Lead, Link, Load, Outcome, Plan, Wait
from .flights import Flight, Flights
from .keys import Namespace
from .plans import Plans
from .ports import Codec
from .stats import Counters

__all__ = ["Loads"]


class _Loading(NamedTuple):
    """One call of a loader: how to make it for the keys that are missing, and which value is whose."""

    call: Callable[[list[bytes]], Any]
    values: Callable[[list[bytes], Any], Mapping[bytes, Any]]


class Loads:
    """Plans of ``get_or_set`` and its relatives, on top of a cache's other plans."""

    def __init__(self, plans: Plans, codec: Codec, flights: Flights, counters: Counters) -> None:
        self._plans = plans
        self._codec = codec
        self._flights = flights
        self._counters = counters

    def get_or_set(
        self,
        link: Link,
        namespace: Namespace,
        key: bytes,
        loader: Callable[[], Any],
        ttl_ms: int | None,
        type: Any,
    ) -> Plan[Outcome]:
        """The value, or what the loader raised."""
        value = yield from self._plans.get(link, namespace, key, type)
        if not isinstance(value, Miss):
            return Outcome(value)
        loading = _Loading(lambda _: loader(), lambda _, loaded: {key: loaded})
        landed = yield from self._load_or_join(link, namespace, [key], loading, ttl_ms, type)
        return self._outcome(landed[key], type)

    def get_or_set_many(
        self,
        link: Link,
        namespace: Namespace,
        keys: Mapping[str, bytes],
        loader: Callable[[list[str]], Any],
        ttl_ms: int | None,
        type: Any,
    ) -> Plan[Outcome]:
        """Values by the caller's keys, in the asked order, or what the loader raised."""
        found = yield from self._plans.get_many(link, namespace, keys, type)
        missing = {stored: key for key, stored in keys.items() if key not in found}
        if missing:
            loading = _Loading(
                lambda asked: loader([missing[stored] for stored in asked]),
                lambda asked, loaded: _by_stored_key({s: missing[s] for s in asked}, loaded),
            )
            landed = yield from self._load_or_join(link, namespace, list(missing), loading, ttl_ms, type)
            for stored, flight in landed.items():
                outcome = self._outcome(flight, type)
                if outcome.error is not None:
                    return outcome
                if outcome.value is not ABSENT:
                    found[missing[stored]] = outcome.value
        return Outcome({key: found[key] for key in keys if key in found})

    def write_through(
        self, link: Link, namespace: Namespace, key: bytes, writer: Callable[[], Any], ttl_ms: int | None
    ) -> Plan[Outcome]:
        """Call the writer, then store what it returned. If it raises, what is cached stays."""
        outcome: Outcome = yield Load(writer)
        if outcome.error is not None:
            return outcome
        try:
            stored = yield from self._plans.set_many(link, namespace, {key: outcome.value}, ttl_ms)
        except CodecError as error:
            stored, outcome = False, Outcome(error=error)
        if not stored:
            # The writer has run: what is cached is out of date.
            yield from self._plans.delete(link, [key])
        return outcome

    def _load_or_join(
        self,
        link: Link,
        namespace: Namespace,
        keys: list[bytes],
        loading: _Loading,
        ttl_ms: int | None,
        type: Any,
    ) -> Plan[dict[bytes, Flight]]:
        """A landed flight for every key: some led here, in one call of the loader, some by others."""
        landed: dict[bytes, Flight] = {}
        while todo := [key for key in keys if key not in landed]:
            version = link.counters.get(namespace.counter, 0)
            joined = self._flights.join_all(todo, version)
            led = {key: flight for key, (flight, leads) in joined.items() if leads}
            self._counters.joins += len(joined) - len(led)
            if led:
                yield Lead(self._lead(link, namespace, led, loading, ttl_ms, type), tuple(led.values()))
            for key, (flight, _) in joined.items():
                yield Wait(flight)
                if not flight.abandoned:
                    landed[key] = flight
        return landed

    def _lead(
        self,
        link: Link,
        namespace: Namespace,
        flights: Mapping[bytes, Flight],
        loading: _Loading,
        ttl_ms: int | None,
        type: Any,
    ) -> Plan[None]:
        """Load what is still missing, store it, and land every flight; whatever happens, none stays in the air."""
        try:
            valid, fillable, version = yield from self._plans.peek(link, namespace, list(flights), type)
            for key, raw in valid.items():
                self._flights.land(flights[key], raw)
            missing = [key for key in flights if key not in valid]
            if missing:
                outcome = yield from self._load(flights, missing, loading, version)
                for key in missing if outcome.error is not None else ():
                    self._flights.land(flights[key], error=outcome.error)
                raws: Mapping[bytes, bytes] = outcome.value or {}
                # What an own write or delete overtook is handed to those who waited, and not stored.
                fresh = {k: raw for k, raw in raws.items() if k in fillable and not flights[k].detached}
                yield from self._plans.fill(link, fresh, ttl_ms)
                for key in missing:
                    self._flights.land(flights[key], raws.get(key))
        except Exception as error:
            for flight in flights.values():
                self._flights.land(flight, error=error)
        finally:
            for flight in flights.values():
                self._flights.abandon(flight)

    def _load(
        self, flights: Mapping[bytes, Flight], missing: list[bytes], loading: _Loading, version: int
    ) -> Plan[Outcome]:
        """Call the loader once; its values, encoded with the version from before the call, or its error."""
        self._counters.loads += 1
        flying = tuple(flights[key] for key in missing)
        outcome: Outcome = yield Load(lambda: loading.call(missing), flying)
        if outcome.error is not None:
            self._counters.load_errors += 1
            return outcome
        values = loading.values(missing, outcome.value)
        return Outcome({key: self._codec.encode(value, key, version) for key, value in values.items()})

    def _outcome(self, flight: Flight, type: Any) -> Outcome:
        if flight.error is not None:
            return Outcome(error=flight.error)
        if flight.raw is None:
            return Outcome(ABSENT)
        value = self._codec.decode(flight.raw, flight.key, None, type)
        if isinstance(value, Miss):
            return Outcome(error=CodecError(f"what the loader gave for {flight.key.decode()!r} is no {type!r}"))
        return Outcome(value)


def _by_stored_key(asked: Mapping[bytes, str], loaded: Any) -> dict[bytes, Any]:
    if not isinstance(loaded, Mapping):
        raise InvalidArgument(
            f"the loader of get_or_set_many returns a mapping from key to value, not {type(loaded).__name__}"
        )
    return {stored: loaded[key] for stored, key in asked.items() if key in loaded}
