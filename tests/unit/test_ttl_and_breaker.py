"""Times to live in milliseconds, and the circuit breaker's states."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nearcache import InvalidTTL
from nearcache.core.breaker import Breaker
from nearcache.core.ttl import MAX_TTL, milliseconds
from nearcache.tiers.remote import remaining_seconds


@pytest.mark.parametrize(
    ("ttl", "ms"),
    [
        (1, 1000),
        (0.5, 500),
        (0.0001, 1),
        (1.0001, 1001),
        (timedelta(minutes=1), 60_000),
        (None, None),
        (MAX_TTL, 3155760000000),
    ],
)
def test_milliseconds_round_up(ttl: float | timedelta | None, ms: int | None) -> None:
    assert milliseconds(ttl) == ms


@pytest.mark.parametrize(
    "ttl", [0, -5, float("nan"), float("inf"), -float("inf"), MAX_TTL + 1, 10**400, True, "5", b"5", [5]]
)
def test_what_is_no_ttl(ttl: object) -> None:
    with pytest.raises(InvalidTTL):
        milliseconds(ttl)  # type: ignore[arg-type]


@pytest.mark.parametrize(("ms", "seconds"), [(None, -1), (0, 1), (1, 1), (1000, 1), (1001, 2)])
def test_remaining_seconds_round_up(ms: int | None, seconds: int) -> None:
    assert remaining_seconds(ms) == seconds


def test_breaker_opens_after_failures_in_a_row_lets_one_probe_through_and_closes_again() -> None:
    now = 100.0
    breaker = Breaker(3, 1.0, lambda: now)
    breaker.failed()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    assert breaker.closed
    assert breaker.state == "closed"
    breaker.failed()
    assert not breaker.closed
    assert breaker.state == "open"
    assert not breaker.allow()
    now += 1.0
    assert breaker.state == "half-open"
    assert breaker.allow()
    assert not breaker.allow(), "one probe at a time"
    breaker.failed()
    now += 0.5
    assert not breaker.allow()
    now += 0.5
    assert breaker.allow()
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.allow()
