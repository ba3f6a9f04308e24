"""Plans, stepped by hand: what is sent for which state, without a loop, a server or a mock."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from nearcache.codec import Codec
from nearcache.core.effects import Lead, Load, Outcome, Send, Wait
from nearcache.core.flights import Flights
from nearcache.core.keys import Namespace
from nearcache.core.loads import Loads
from nearcache.core.plans import Plans
from nearcache.core.stats import Counters
from nearcache.errors import CommandRefused, CommandTimeout, ConnectionFailed
from nearcache.sentinels import Miss
from nearcache.tiers import remote

SITE = Namespace("app")
KEY = SITE.key("key")


class Link:
    """What plans see of a lane."""

    def __init__(self, *, tracks: bool = True, version: int | None = None) -> None:
        self.tracks = tracks
        self.counters: dict[bytes, int] = {} if version is None else {SITE.counter: version}


class Bench:
    """A cache's plans and what they count."""

    def __init__(self, *, strict: bool = False) -> None:
        self.codec = Codec()
        self.counters = Counters()
        self.flights = Flights()
        self.plans = Plans(codec=self.codec, remote=remote, flights=self.flights, counters=self.counters, strict=strict)
        self.loads = Loads(self.plans, self.codec, self.flights, self.counters)

    def raw(self, value: Any, version: int) -> bytes:
        return self.codec.encode(value, KEY, version)


def finish(plan: Generator[Any, Any, Any], answer: Any) -> Any:
    """Resume a plan that must end now; its result."""
    with pytest.raises(StopIteration) as stop:
        plan.send(answer)
    return stop.value.value


def test_a_read_with_a_known_version_is_one_command() -> None:
    bench, link = Bench(), Link(version=7)
    plan = bench.plans.get(link, SITE, KEY, None)
    assert next(plan) == [("GET", KEY)]
    assert finish(plan, [bench.raw("value", 7)]) == "value"
    assert bench.counters.hits == 1


def test_an_unknown_version_is_learnt_first_and_remembered_where_the_reply_is_parsed() -> None:
    bench, link = Bench(), Link()
    plan = bench.plans.get(link, SITE, KEY, None)
    learn = next(plan)
    assert isinstance(learn, Send)
    assert learn.commands[0] == remote.TRACK_NEXT
    learn.hook([b"OK", b"7"])
    assert link.counters == {SITE.counter: 7}
    assert plan.send([b"OK", b"7"]) == [("GET", KEY)]
    assert finish(plan, [bench.raw("value", 7)]) == "value"


def test_a_value_of_another_version_is_invalid() -> None:
    bench = Bench()
    plan = bench.plans.get(Link(version=8), SITE, KEY, None)
    next(plan)
    assert finish(plan, [bench.raw("value", 7)]) is Miss.INVALIDATED
    assert bench.counters.misses == 1


def test_a_read_is_done_again_when_the_version_was_revoked_meanwhile() -> None:
    """The namespace was cleared while the value was under way: only the second read counts."""
    bench, link = Bench(), Link(version=7)
    plan = bench.plans.get(link, SITE, KEY, None)
    next(plan)
    link.counters.clear()  # the push
    learn = plan.send([bench.raw("value", 7)])
    assert isinstance(learn, Send)
    learn.hook([b"OK", b"8"])
    plan.send([b"OK", b"8"])
    assert finish(plan, [bench.raw("value", 7)]) is Miss.INVALIDATED


def test_a_push_between_reply_and_hook_order_is_respected() -> None:
    """A hook runs before a later push: what is known afterwards is nothing."""
    bench, link = Bench(), Link()
    plan = bench.plans.get(link, SITE, KEY, None)
    learn = next(plan)
    learn.hook([b"OK", b"7"])
    link.counters.pop(SITE.counter)  # pushed right behind the reply
    plan.send([b"OK", b"7"])
    again = plan.send([bench.raw("value", 7)])
    assert isinstance(again, Send), "the version must be learnt again"


def test_without_tracking_the_version_is_read_with_the_value_and_never_remembered() -> None:
    bench, link = Bench(), Link(tracks=False)
    plan = bench.plans.get(link, SITE, KEY, None)
    assert next(plan) == [("GET", KEY), remote.read_counter(SITE.counter)]
    assert finish(plan, [bench.raw("value", 7), b"7"]) == "value"
    assert link.counters == {}


def test_a_namespace_cleared_again_and_again_gives_a_miss_not_a_hang() -> None:
    bench, link = Bench(), Link()
    plan = bench.plans.get(link, SITE, KEY, None)
    effect: Any = next(plan)
    answers = {True: [b"OK", b"7"], False: [bench.raw("value", 7)]}  # to learning the version, and to reading
    for _ in range(9):
        effect = plan.send(answers[isinstance(effect, Send)])
    assert finish(plan, answers[isinstance(effect, Send)]) is Miss.INVALIDATED


@pytest.mark.parametrize("error", [ConnectionFailed("gone"), CommandTimeout("late"), CommandRefused("WRONGTYPE")])
def test_a_read_that_fails_is_a_miss(error: Exception) -> None:
    bench = Bench()
    plan = bench.plans.get(Link(version=7), SITE, KEY, None)
    next(plan)
    with pytest.raises(StopIteration) as stop:
        plan.throw(error)
    assert stop.value.value is Miss.ABSENT
    assert (bench.counters.errors, bench.counters.misses) == (1, 1)


def test_what_a_reply_means() -> None:
    bench = Bench()
    assert bench.plans.got(bench.raw("value", 7), KEY, 7, None) == "value"
    assert bench.plans.got(None, KEY, 7, None) is Miss.ABSENT
    assert bench.plans.got(CommandRefused("WRONGTYPE"), KEY, 7, None) is Miss.ABSENT
    assert bench.plans.got(ConnectionFailed("gone"), KEY, 7, None) is Miss.ABSENT
    assert (bench.counters.hits, bench.counters.misses, bench.counters.errors) == (1, 3, 2)


def test_a_read_that_fails_raises_when_strict() -> None:
    plan = Bench(strict=True).plans.get(Link(version=7), SITE, KEY, None)
    next(plan)
    with pytest.raises(ConnectionFailed):
        plan.throw(ConnectionFailed("gone"))


def test_a_value_set_under_a_clear_is_written_again() -> None:
    """The clear came before the server took the value: with the old version it would be lost."""
    bench, link = Bench(), Link(version=7)
    plan = bench.plans.set_many(link, SITE, {KEY: "value"}, 1000)
    (first,) = next(plan)
    assert first[:2] == ("SET", KEY)
    assert first[3:] == ("PX", 1000)
    link.counters[SITE.counter] = 8
    (second,) = plan.send([b"OK"])
    assert bench.codec.decode(second[2], KEY, 8) == "value"
    assert finish(plan, [b"OK"]) is True
    assert bench.counters.sets == 1


def test_a_refused_write_is_false_and_counted() -> None:
    bench = Bench()
    plan = bench.plans.set_many(Link(version=7), SITE, {KEY: "value"}, None)
    next(plan)
    assert finish(plan, [CommandRefused("OOM")]) is False
    assert (bench.counters.errors, bench.counters.sets) == (1, 0)


def test_a_load_reads_again_before_it_calls_the_loader() -> None:
    """Between a caller's miss and its lead, the flight it missed may have landed."""
    bench, link = Bench(), Link(version=7)
    plan = bench.loads.get_or_set(link, SITE, KEY, lambda: "loaded", None, None)
    next(plan)
    lead = plan.send([None])
    assert isinstance(lead, Lead)
    loading = lead.plan
    assert next(loading) == [("MGET", KEY)]
    with pytest.raises(StopIteration):
        loading.send([[bench.raw("theirs", 7)]])
    assert isinstance(next(plan), Wait)
    assert finish(plan, None) == Outcome("theirs")
    assert bench.counters.loads == 0


def _load_until_fill(bench: Bench, link: Link, found: bytes | None = None) -> tuple[Any, Any]:
    plan = bench.loads.get_or_set(link, SITE, KEY, lambda: "loaded", 1000, None)
    next(plan)
    lead = plan.send([found])
    next(lead.plan)
    load = lead.plan.send([[found]])
    assert isinstance(load, Load)
    return plan, lead.plan


def test_a_fill_carries_the_version_from_before_the_load() -> None:
    bench, link = Bench(), Link(version=7)
    _, loading = _load_until_fill(bench, link)
    link.counters[SITE.counter] = 8  # cleared while the loader ran
    ((_, _, raw, *_),) = loading.send(Outcome("loaded"))
    assert bench.codec.decode(raw, KEY, 8) is Miss.INVALIDATED


def test_a_detached_flight_stores_nothing_and_still_lands() -> None:
    bench, link = Bench(), Link(version=7)
    plan, loading = _load_until_fill(bench, link)
    bench.flights.detach([KEY])
    assert finish(loading, Outcome("loaded")) is None
    next(plan)
    assert finish(plan, None) == Outcome("loaded")


def test_a_value_of_a_newer_format_is_not_overwritten_by_a_fill() -> None:
    bench, link = Bench(), Link(version=7)
    newer = b"\xc1\x63" + b"\x00" * 40
    plan, loading = _load_until_fill(bench, link, newer)
    assert finish(loading, Outcome("loaded")) is None, "no write"
    next(plan)
    assert finish(plan, None) == Outcome("loaded")


def test_a_leader_that_is_closed_leaves_nobody_waiting() -> None:
    bench, link = Bench(), Link(version=7)
    _, loading = _load_until_fill(bench, link)
    flight, leads = bench.flights.join(KEY, 7)
    assert not leads
    loading.close()
    assert flight.landed
    assert flight.abandoned


def test_loaders_errors_land_as_they_are() -> None:
    bench, link = Bench(), Link(version=7)
    plan, loading = _load_until_fill(bench, link)
    error = StopIteration("the loader's own")
    assert finish(loading, Outcome(error=error)) is None
    next(plan)
    assert finish(plan, None).error is error
