"""Flights: who leads, who may join, and that nobody is left waiting."""

from __future__ import annotations

import pytest

from nearcache.core.flights import Flight, Flights
from nearcache.core.found import NOTHING
from nearcache.core.loading import CurrentLoad, current
from nearcache.errors import WouldDeadlock


def test_the_first_leads_and_the_others_join() -> None:
    flights = Flights()
    flight, leads = flights.join(b"key", 1)
    assert leads
    assert flights.join(b"key", 1) == (flight, False)
    assert flights.join(b"other", 1)[1]


def test_landing_wakes_everybody_once_and_ends_the_flight() -> None:
    flights = Flights()
    flight, _ = flights.join(b"key", 1)
    woken: list[str] = []
    flight.when_landed(lambda: woken.append("early"))
    flights.land(flight, NOTHING)
    flights.land(flight, error=ValueError())
    flights.abandon(flight)
    flight.when_landed(lambda: woken.append("late"))
    assert woken == ["early", "late"]
    assert (flight.found, flight.error, flight.abandoned) == (NOTHING, None, False)
    assert len(flights) == 0
    assert flights.join(b"key", 1)[1]


def test_abandoned_flights_wake_with_nothing() -> None:
    flights = Flights()
    flight, _ = flights.join(b"key", 1)
    woken: list[str] = []
    flight.when_landed(lambda: woken.append("up"))
    flights.abandon(flight)
    assert woken == ["up"]
    assert flight.abandoned
    assert flights.join(b"key", 1)[1]


def test_nobody_joins_a_detached_flight() -> None:
    flights = Flights()
    flight, _ = flights.join(b"key", 1)
    flights.detach([b"key", b"nothing"])
    assert flight.detached
    successor, leads = flights.join(b"key", 1)
    assert leads
    flights.land(flight, NOTHING)
    assert flights.join(b"key", 1) == (successor, False)


def test_detaching_a_namespace_detaches_all_its_flights_and_no_other() -> None:
    flights = Flights()
    ours, _ = flights.join(b"app:key", 1)
    theirs, _ = flights.join(b"app2:key", 1)
    flights.detach_namespace(b"app:")
    assert ours.detached
    assert not theirs.detached


def test_a_flight_begun_in_another_epoch_is_not_joined() -> None:
    flights = Flights()
    old, _ = flights.join(b"key", 1)
    new, leads = flights.join(b"key", 2)
    assert leads
    assert old.detached
    assert new is not old


def test_detaching_everything_leaves_no_flight_to_join() -> None:
    """The server says that everything may have changed."""
    flights = Flights()
    begun = [flights.join(key, 1)[0] for key in (b"a", b"b")]
    flights.detach(None)
    assert [flight.detached for flight in begun] == [True, True]
    assert len(flights) == 0


def test_what_failed_is_not_tried_again_until_then_and_the_table_is_bounded() -> None:
    flights = Flights()
    for number in range(25_000):
        flights.throttle(b"%d" % number, float(number))
        assert flights.retry_at[b"%d" % number] == number
    assert len(flights.retry_at) <= 10_000


def load_of(*flights: Flight) -> CurrentLoad:
    return CurrentLoad(flights, [flight.key.decode() for flight in flights], None, (), dict)


def test_a_loader_cannot_wait_for_itself() -> None:
    flights = Flights()
    flight, _ = flights.join(b"key", 1)
    token = current.set(load_of(flight))
    try:
        with pytest.raises(WouldDeadlock, match="key"):
            flights.join(b"key", 1)
        with pytest.raises(WouldDeadlock, match="key"):
            flights.join(b"key", 2)
        assert flights.join(b"other", 1)[1]
    finally:
        current.reset(token)


def test_a_loader_cannot_wait_for_the_loader_that_called_it() -> None:
    flights = Flights()
    outer = current.set(load_of(flights.join(b"outer", 1)[0]))
    inner = current.set(load_of(flights.join(b"inner", 1)[0]))
    try:
        with pytest.raises(WouldDeadlock, match="outer"):
            flights.join(b"outer", 1)
    finally:
        current.reset(inner)
        current.reset(outer)


def test_joining_several_leads_none_when_one_would_deadlock() -> None:
    flights = Flights()
    loading_now, _ = flights.join(b"b", 1)
    token = current.set(load_of(loading_now))
    try:
        with pytest.raises(WouldDeadlock):
            flights.join_all([b"a", b"b"], 1)
    finally:
        current.reset(token)
    assert flights.join(b"a", 1)[1], "nobody is left to wait for a flight without a leader"


def test_what_failed_may_be_tried_again_when_something_else_is_there() -> None:
    flights = Flights()
    for key in (b"a", b"b", b"c"):
        flights.throttle(key, 10.0)
    assert flights.throttled(b"a", 9.0)
    flights.detach([b"a"])
    assert not flights.throttled(b"a", 9.0)
    assert not flights.throttled(b"b", 10.0)
    flights.detach(None)
    assert not flights.throttled(b"c", 9.0)
