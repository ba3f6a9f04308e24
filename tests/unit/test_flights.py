"""Flights: who leads, who may join, and that nobody is left waiting."""

from __future__ import annotations

import pytest

from nearcache.core.flights import Flights, loading
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
    flights.land(flight, b"raw")
    flights.land(flight, error=ValueError())
    flights.abandon(flight)
    flight.when_landed(lambda: woken.append("late"))
    assert woken == ["early", "late"]
    assert (flight.raw, flight.error, flight.abandoned) == (b"raw", None, False)
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
    flights.land(flight, b"old")
    assert flights.join(b"key", 1) == (successor, False)


def test_detaching_a_namespace_detaches_all_its_flights_and_no_other() -> None:
    flights = Flights()
    ours, _ = flights.join(b"app:key", 1)
    theirs, _ = flights.join(b"app2:key", 1)
    flights.detach_namespace(b"app:")
    assert ours.detached
    assert not theirs.detached


def test_a_flight_begun_under_another_version_is_not_joined() -> None:
    flights = Flights()
    old, _ = flights.join(b"key", 1)
    new, leads = flights.join(b"key", 2)
    assert leads
    assert old.detached
    assert new is not old


def test_a_loader_cannot_wait_for_itself() -> None:
    flights = Flights()
    flight, _ = flights.join(b"key", 1)
    token = loading.set((flight,))
    try:
        with pytest.raises(WouldDeadlock, match="key"):
            flights.join(b"key", 1)
    finally:
        loading.reset(token)


def test_joining_several_leads_none_when_one_would_deadlock() -> None:
    flights = Flights()
    loading_now, _ = flights.join(b"b", 1)
    token = loading.set((loading_now,))
    try:
        with pytest.raises(WouldDeadlock):
            flights.join_all([b"a", b"b"], 1)
    finally:
        loading.reset(token)
    assert flights.join(b"a", 1)[1], "nobody is left to wait for a flight without a leader"
