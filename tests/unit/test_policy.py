"""Options of loads: when a value is renewed early, and how long it lives."""

from __future__ import annotations

import random

import pytest

from nearcache.core.found import Found
from nearcache.core.policy import Policy, make_policy
from nearcache.errors import InvalidArgument


class Envelope:
    """Of a value whose load took a second."""

    write_id = grace_ms = version = created_ms = 0
    load_ms = 1_000
    tags: tuple[tuple[bytes, int], ...] = ()


def found(remaining_ms: float | None) -> Found:
    return Found(None, None, b"", Envelope(), remaining_ms)


def share(policy: Policy, remaining_ms: float) -> float:
    """How many of many readers renew a value with so much time left."""
    random.seed(7)
    return sum(policy.due(found(remaining_ms), 0) for _ in range(20_000)) / 20_000


@pytest.mark.parametrize(("remaining_ms", "expected"), [(1, 0.999), (1_000, 0.368), (2_000, 0.135), (5_000, 0.0067)])
def test_the_chance_of_an_early_refresh_is_the_papers(remaining_ms: float, expected: float) -> None:
    """With beta 1, a reader renews with a chance of e to the power of -(time left / duration of the load)."""
    assert share(Policy(60_000, early=1.0), remaining_ms) == pytest.approx(expected, abs=0.012)


def test_a_greater_beta_is_more_eager_and_zero_is_off() -> None:
    eager, usual, off = (share(Policy(60_000, early=beta), 2_000) for beta in (2.0, 1.0, 0.0))
    assert eager == pytest.approx(0.368, abs=0.012)
    assert eager > usual > off == 0


def test_what_cost_no_time_or_has_no_end_is_not_renewed_early() -> None:
    policy = Policy(60_000, early=1.0)
    assert not policy.due(found(None), 0)
    assert not any(policy.due(Found(None, None, b"", None, 1.0), 0) for _ in range(1_000)), (
        "JSON: nobody knows its cost"
    )


def test_a_threshold_is_a_share_of_the_time_to_live() -> None:
    policy = Policy(10_000, refresh_at=0.8)
    assert [policy.due(found(left), 0) for left in (9_999, 2_001, 1_999, 1)] == [False, False, True, True]
    assert not Policy(None, refresh_at=0.5).due(found(1), 0)


def test_the_threshold_is_of_the_values_own_time_when_that_is_known() -> None:
    """The loader may have set another one, or have given ``None``."""

    class Dated(Envelope):
        created_ms = 50_000

    for policy in (Policy(1_000_000, refresh_at=0.8), Policy(None, refresh_at=0.8)):
        value = Found(None, None, b"", Dated(), 2_000)
        assert [policy.due(value, 50_000 + age) for age in (-1_000, 0, 7_999, 8_001)] == [False, False, False, True]


def test_jitter_only_shortens() -> None:
    times = {Policy(1_000, jitter=0.25).ttl_of("value") for _ in range(500)}
    assert min(times) >= 750
    assert max(times) <= 1_000
    assert len(times) > 100
    assert Policy(None, jitter=0.5).ttl_of("value") is None


@pytest.mark.parametrize(
    "options",
    [{"jitter": 1.5}, {"early": -1}, {"refresh_at": True}, {"soft_timeout": "1"}, {"tags": 7}, {"retry_after": -1}],
)
def test_a_wrong_option_is_named(options: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        make_policy(Policy(None), None, options)  # type: ignore[arg-type]
