"""Plans, stepped by hand: what is sent for which state, without a loop, a server or a mock."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from nearcache.codec import Codec
from nearcache.core.effects import Lead, Load, Outcome, Send, Sleep, Wait
from nearcache.core.flights import Flights
from nearcache.core.keys import Namespace
from nearcache.core.leases import Holder
from nearcache.core.loads import Loads
from nearcache.core.parts import TRIES, Parts
from nearcache.core.policy import Policy
from nearcache.core.reads import Reads
from nearcache.core.recovery import Recovery, Replay
from nearcache.core.ring import History, Ring
from nearcache.core.stats import Counters
from nearcache.core.writes import Item, Writes
from nearcache.errors import CommandRefused, CommandTimeout, ConnectionFailed
from nearcache.sentinels import Miss
from nearcache.tiers import remote
from nearcache.tiers.memory import NearTier

SITE = Namespace("app")
KEY = SITE.key("key")
TAG = SITE.tag_counter(b"red")
READ = [("GET", KEY), ("PTTL", KEY)]
COUNT = remote.read_counter(SITE.counter)
MINUTE = 60_000
Plan = Generator[Any, Any, Any]


class Link:
    """What plans see of a lane."""

    clock = 1_000_000.0

    def __init__(self, *, tracks: bool = True, track_all: bool = False, version: int | None = None) -> None:
        self.tracks = tracks
        self.track_all = track_all
        self.counters: dict[bytes, tuple[int, int]] = {} if version is None else {SITE.counter: (version, 0)}
        self.watched = 0
        self.history = History(b"first")

    def histories(self, name: bytes | None = None) -> tuple[History, ...]:
        return (self.history,)

    def watch(self) -> None:
        self.watched += 1


class Bench:
    """A cache's plans and what they count."""

    def __init__(self, link: Link, *, strict: bool = False) -> None:
        self.time = 100.0
        self.link = link
        self.codec = Codec()
        self.counters = Counters()
        self.flights = Flights()
        self.near = NearTier(100, 10**6, 60.0, now=lambda: self.time)
        self.near.attach(link)
        self.near.on_revoked = self.flights.detach
        self.recovery = Recovery(10_000)
        self.ring = Ring(10_000, self.near.now)
        self.replay = Replay(self.recovery, remote, self.near, self.flights, 1.0, self.ring)
        parts = Parts(
            codec=self.codec,
            remote=remote,
            near=self.near,
            flights=self.flights,
            replay=self.replay,
            counters=self.counters,
            strict=strict,
        )
        self.reads, self.writes = Reads(parts), Writes(parts)
        self.holder = Holder("", lambda: self.time)
        self.loads = Loads(parts, self.reads, self.writes, self.holder)

    def raw(self, value: Any, version: int = 7, **options: Any) -> bytes:
        return self.codec.encode(value, KEY, version, **options)

    def get(self) -> Plan:
        return self.reads.get(self.link, SITE, "key", KEY, None, near=True)

    def set(self, *tags: bytes, ttl_ms: int | None = MINUTE) -> Plan:
        return self.writes.set_many(self.link, SITE, {KEY: Item("key", "value")}, ttl_ms, tags=tags)

    def delete(self) -> Plan:
        return self.writes.delete(self.link, SITE, [KEY])

    def raise_tags(self, *, soft: bool = False) -> Plan:
        return self.writes.raise_tags(self.link, SITE, [b"red"], soft=soft)

    def get_or_set(self, **policy: Any) -> Plan:
        policy = {"ttl_ms": MINUTE, **policy}
        return self.loads.get_or_set(self.link, SITE, "key", KEY, lambda: "loaded", Policy(**policy), None, near=True)


def reply(plan: Plan, effect: Any, *replies: Any) -> Any:
    """Answer commands as a shell does: the hook where they are parsed, then the plan; its next effect."""
    assert len(replies) == len(commands(effect))
    if isinstance(effect, Send):
        effect.hook(list(replies))
    return plan.send(list(replies))


def commands(effect: Any) -> list[Any]:
    """What an effect sends."""
    assert isinstance(effect, Send | list)
    return effect.commands if isinstance(effect, Send) else effect


def finish(plan: Plan, effect: Any, *replies: Any) -> Any:
    """The same for a plan that must end now; its result."""
    with pytest.raises(StopIteration) as stop:
        reply(plan, effect, *replies)
    return stop.value.value


def end(plan: Plan, answer: Any) -> Any:
    with pytest.raises(StopIteration) as stop:
        plan.send(answer)
    return stop.value.value


# -- reads


def test_a_read_with_a_known_version_is_one_batch() -> None:
    bench = Bench(Link(version=7))
    plan = bench.get()
    read = next(plan)
    assert read.commands == READ
    assert finish(plan, read, bench.raw("value"), -1) == "value"
    assert bench.counters.hits == 1


def test_an_unknown_version_is_read_behind_the_value_and_remembered_where_the_reply_is_parsed() -> None:
    bench = Bench(Link())
    plan = bench.get()
    read = next(plan)
    assert read.commands == [*READ, remote.TRACK_NEXT, COUNT]
    read.hook([bench.raw("value"), -1, b"OK", b"7"])
    assert bench.link.counters == {SITE.counter: (7, 0)}
    assert end(plan, [bench.raw("value"), -1, b"OK", b"7"]) == "value"


def test_where_everything_is_tracked_nothing_has_to_be_asked_for() -> None:
    bench = Bench(Link(track_all=True))
    plan = bench.get()
    read = next(plan)
    assert read.commands == [*READ, COUNT]
    assert finish(plan, read, bench.raw("value"), -1, b"7") == "value"
    assert bench.link.watched == 1
    assert end(bench.get(), None) == "value", "a near hit asks nobody"


def test_a_value_of_another_version_is_invalid() -> None:
    bench = Bench(Link(version=8))
    plan = bench.get()
    assert finish(plan, next(plan), bench.raw("value"), -1) is Miss.INVALIDATED
    assert bench.counters.misses == 1


def test_a_read_is_done_again_when_the_version_was_revoked_meanwhile() -> None:
    """The namespace was cleared while the value was under way: only the second read counts."""
    bench = Bench(Link(version=7))
    plan = bench.get()
    read = next(plan)
    bench.near.revoked([SITE.counter])
    again = reply(plan, read, bench.raw("value"), -1)
    assert again.commands == [*READ, remote.TRACK_NEXT, COUNT]
    assert finish(plan, again, bench.raw("value"), -1, b"OK", b"8") is Miss.INVALIDATED


def test_a_version_that_was_pushed_while_it_was_read_is_not_remembered() -> None:
    bench = Bench(Link())
    plan = bench.get()
    read = next(plan)
    bench.near.revoked([SITE.counter])
    again = reply(plan, read, bench.raw("value"), -1, b"OK", b"7")
    assert bench.link.counters == {}
    assert finish(plan, again, bench.raw("value"), -1, b"OK", b"7") == "value"
    assert bench.link.counters == {SITE.counter: (7, 0)}


def test_the_verdict_is_made_where_the_reply_is_parsed() -> None:
    """A hook runs before a later push: what was right then is returned, and nothing of it is known afterwards."""
    bench = Bench(Link())
    plan = bench.get()
    read = next(plan)
    replies = [bench.raw("value"), -1, b"OK", b"7"]
    read.hook(replies)
    bench.near.revoked([SITE.counter])
    assert end(plan, replies) == "value"
    assert bench.link.counters == {}


def test_without_tracking_the_version_is_read_with_the_value_and_never_remembered() -> None:
    bench = Bench(Link(tracks=False))
    for _ in range(2):
        plan = bench.get()
        read = next(plan)
        assert read.commands == [*READ, COUNT]
        assert finish(plan, read, bench.raw("value"), -1, b"7") == "value"
        assert bench.link.counters == {}


def test_unknown_tags_are_read_before_a_value_is_believed() -> None:
    bench = Bench(Link(version=7))
    raw = bench.raw("value", tags=[(b"red", 3)])
    for counter, verdict in (
        (b"3", "value"),
        (b"4", Miss.INVALIDATED),
        (b"3 4", Miss.EXPIRED),
        (b"2", Miss.INVALIDATED),
    ):
        plan = bench.get()
        again = reply(plan, next(plan), raw, -1)
        assert again.commands == [*READ, remote.TRACK_NEXT, remote.read_counter(TAG)]
        assert finish(plan, again, raw, -1, b"OK", counter) == verdict
        bench.near.revoked([TAG])


def test_a_namespace_cleared_again_and_again_gives_a_miss_not_a_hang() -> None:
    bench = Bench(Link())
    plan = bench.get()
    effect = next(plan)
    for _ in range(TRIES - 1):
        bench.near.revoked([SITE.counter])
        effect = reply(plan, effect, bench.raw("value"), -1, b"OK", b"7")
    bench.near.revoked([SITE.counter])
    assert finish(plan, effect, bench.raw("value"), -1, b"OK", b"7") is Miss.INVALIDATED


@pytest.mark.parametrize(("pttl", "value"), [(-1, "value"), (501, "value"), (500, Miss.EXPIRED), (1, Miss.EXPIRED)])
def test_what_is_left_is_what_the_server_says_without_the_grace(pttl: int, value: Any) -> None:
    bench = Bench(Link(version=7))
    plan = bench.get()
    assert finish(plan, next(plan), bench.raw("value", grace_ms=500), pttl) == value


@pytest.mark.parametrize("error", [ConnectionFailed("gone"), CommandTimeout("late")])
def test_a_read_that_fails_is_a_miss(error: Exception) -> None:
    bench = Bench(Link())
    plan = bench.get()
    next(plan)
    with pytest.raises(StopIteration) as stop:
        plan.throw(error)
    assert stop.value.value is Miss.ABSENT
    assert (bench.counters.errors, bench.counters.misses) == (1, 1)
    assert not bench.near._marks


@pytest.mark.parametrize("refused", [0, 1, 3])
def test_a_read_that_is_refused_is_a_miss(refused: int) -> None:
    bench = Bench(Link())
    plan = bench.get()
    replies: list[Any] = [bench.raw("value"), -1, b"OK", b"7"]
    replies[refused] = CommandRefused("WRONGTYPE")
    assert finish(plan, next(plan), *replies) is Miss.ABSENT
    assert (bench.counters.errors, bench.counters.misses) == (1, 1)
    assert not bench.near._marks


def test_what_a_reply_means() -> None:
    bench = Bench(Link(version=7))
    got = bench.reads.got
    assert got(bench.raw("value"), KEY, 7, None) == "value"
    assert got(None, KEY, 7, None) is Miss.ABSENT
    assert got(CommandRefused("WRONGTYPE"), KEY, 7, None) is Miss.ABSENT
    assert got(ConnectionFailed("gone"), KEY, 7, None) is Miss.ABSENT
    assert got(bench.raw("value", grace_ms=1), KEY, 7, None) is Miss.UNSETTLED
    assert (bench.counters.hits, bench.counters.misses, bench.counters.errors) == (1, 3, 2)


def test_a_read_that_fails_raises_when_strict() -> None:
    plan = Bench(Link(version=7), strict=True).get()
    next(plan)
    with pytest.raises(ConnectionFailed):
        plan.throw(ConnectionFailed("gone"))


def test_while_the_server_fails_what_is_near_is_served_whatever_its_age() -> None:
    bench = Bench(Link(track_all=True, version=7))
    plan = bench.get()
    finish(plan, next(plan), bench.raw("value", grace_ms=500), 1_500)
    bench.time += 1.25
    plan = bench.get()
    next(plan)
    with pytest.raises(StopIteration) as stop:
        plan.throw(ConnectionFailed("gone"))
    assert stop.value.value == "value"
    assert (bench.counters.stale, bench.counters.errors) == (1, 1)
    bench.time += 0.25  # its grace is over, too
    plan = bench.get()
    next(plan)
    with pytest.raises(StopIteration) as stop:
        plan.throw(ConnectionFailed("gone"))
    assert stop.value.value is Miss.ABSENT


# -- writes


def test_a_value_set_under_a_clear_is_written_again() -> None:
    """The clear came before the server took the value: with the old version it would be lost."""
    bench = Bench(Link(version=7))
    plan = bench.set()
    first = next(plan)
    assert commands(first)[0] == ("UNLINK", remote.lease(KEY))
    assert commands(first)[1][:2] == ("SET", KEY)
    assert commands(first)[1][3:] == ("PX", MINUTE)
    bench.near.revoked([SITE.counter])
    learn = reply(plan, first, 0, b"OK")
    second = reply(plan, learn, b"OK", b"8")
    assert bench.codec.decode(commands(second)[1][2], KEY, 8) == "value"
    assert finish(plan, second, 0, b"OK") is True
    assert bench.counters.sets == 1


def test_a_value_set_under_an_invalidation_of_its_tag_is_written_again() -> None:
    bench = Bench(Link(version=7))
    plan = bench.set(b"red")
    first = reply(plan, next(plan), b"OK", b"3")
    bench.near.revoked([TAG])
    second = reply(plan, reply(plan, first, 0, b"OK"), b"OK", b"4 5")
    envelope = bench.codec.open(commands(second)[1][2], KEY)
    assert not isinstance(envelope, Miss | None)
    assert envelope.tags == ((b"red", 5),), "not expired by the expiry that came before it"
    assert finish(plan, second, 0, b"OK") is True


def test_without_tracking_the_versions_are_read_again_behind_the_value() -> None:
    bench = Bench(Link(tracks=False))
    plan = bench.set()
    first = reply(plan, next(plan), b"7")
    assert commands(first)[2:] == [COUNT]
    again = reply(plan, first, 0, b"OK", b"8")
    second = reply(plan, again, b"8")
    assert bench.codec.decode(commands(second)[1][2], KEY, 8) == "value"
    assert finish(plan, second, 0, b"OK", b"8") is True


def test_what_was_written_and_read_back_is_near() -> None:
    bench = Bench(Link(track_all=True, version=7))
    plan = bench.set()
    storing = next(plan)
    assert [command[1] for command in commands(storing)] == [remote.FILL]
    assert finish(plan, storing, MINUTE) is True
    assert end(bench.get(), None) == "value"


@pytest.mark.parametrize("track_all", [False, True])
def test_a_refused_write_is_false_and_counted_and_nothing_is_near(track_all: bool) -> None:
    bench = Bench(Link(track_all=track_all, version=7))
    plan = bench.set()
    storing = next(plan)
    assert finish(plan, storing, *[CommandRefused("OOM")] * len(commands(storing))) is False
    assert (bench.counters.errors, bench.counters.sets) == (1, 0)
    assert not len(bench.near)
    assert not bench.near._marks


@pytest.mark.parametrize("track_all", [False, True])
def test_no_load_begun_before_a_write_was_answered_is_joined_or_stored(track_all: bool) -> None:
    bench = Bench(Link(track_all=track_all, version=7))
    before, _ = bench.flights.join(KEY, bench.near.epoch)
    plan = bench.set()
    storing = next(plan)
    meanwhile, leads = bench.flights.join(KEY, bench.near.epoch)
    assert before.detached
    assert leads
    assert finish(plan, storing, MINUTE if track_all else 0, *[b"OK"] * (not track_all)) is True
    assert meanwhile.detached
    assert bench.flights.join(KEY, bench.near.epoch)[1]


@pytest.mark.parametrize("track_all", [False, True])
def test_a_write_wakes_who_waits_in_its_own_process(track_all: bool) -> None:
    """The server tells nobody of writes on his own connection."""
    bench = Bench(Link(track_all=track_all, version=7))
    watch = bench.near.watch([remote.lease(KEY)])
    plan = bench.set()
    storing = next(plan)
    assert not watch.fired
    finish(plan, storing, MINUTE if track_all else 0, *[b"OK"] * (not track_all))
    assert watch.fired


def test_a_write_of_which_nothing_is_known_leaves_nothing_near() -> None:
    bench = Bench(Link(track_all=True, version=7))
    plan = bench.get()
    finish(plan, next(plan), bench.raw("old"), -1)
    plan = bench.set()
    next(plan)
    with pytest.raises(StopIteration) as stop:
        plan.throw(CommandTimeout("late"))
    assert stop.value.value is False
    assert bench.near.left_over(KEY) is None
    assert not bench.near._marks


@pytest.mark.parametrize("failure", [CommandTimeout("late"), CommandRefused("OOM")])
def test_a_write_that_fails_leaves_nothing_near_that_was_read_before_it_was_sent(failure: Exception) -> None:
    """The read lies between what the write forgot first and the write itself, so nothing taints it."""
    bench = Bench(Link(track_all=True))
    writing = bench.set()
    versions = next(writing)
    reading = bench.get()
    read = next(reading)
    storing = reply(writing, versions, b"7")
    finish(reading, read, bench.raw("old"), -1, b"7")
    assert bench.near.find(KEY, SITE) is not None
    if isinstance(failure, CommandRefused):
        assert finish(writing, storing, failure) is False
    else:
        with pytest.raises(StopIteration):
            writing.throw(failure)
    assert bench.near.left_over(KEY) is None


# -- loads


def lead(plan: Plan, effect: Any, *replies: Any) -> Plan:
    """Answer the read of a plan that then leads a load."""
    leading = reply(plan, effect, *replies)
    assert isinstance(leading, Lead)
    return leading.plan


def elected(bench: Bench, value: Any = None, *, exists: bool = False) -> list[Any]:
    return [value is None, value, -1 if value or exists else -2, b"us", int(exists), b"1000000000000"]


def load_until_fill(bench: Bench, found: bytes | None = None) -> tuple[Plan, Plan]:
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), found, -2 if found is None else -1)
    election = next(loading)
    track = [] if bench.link.track_all else [b"OK"]
    sent = [command[1] for command in election.commands]
    assert sent[1:] == ["CACHING", remote.ELECT][-1 - len(track) :], "a sign of life, and an election that is tracked"
    assert isinstance(reply(loading, election, b"OK", *track, elected(bench, exists=found is not None)), Load)
    return plan, loading


def test_a_load_looks_again_before_it_calls_the_loader() -> None:
    """Between a caller's miss and its lead, somebody else may have loaded: the election tells."""
    bench = Bench(Link(version=7))
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), None, -2)
    assert finish(loading, next(loading), b"OK", b"OK", elected(bench, bench.raw("theirs"))) is None
    assert isinstance(next(plan), Wait)
    assert end(plan, None) == Outcome("theirs")
    assert bench.counters.loads == 0


def test_a_fill_carries_the_version_from_before_the_load() -> None:
    bench = Bench(Link(version=7))
    _, loading = load_until_fill(bench)
    bench.link.counters[SITE.counter] = (8, 0)  # cleared while the loader ran
    fill = loading.send(Outcome("loaded"))
    raw = fill.commands[0][8]
    assert bench.codec.decode(raw, KEY, 8) is Miss.INVALIDATED
    assert bench.codec.decode(raw, KEY, 7) == "loaded"


def test_a_fill_replaces_only_what_was_there_before_the_load() -> None:
    bench = Bench(Link(version=8))
    old = bench.raw("old")
    _, loading = load_until_fill(bench, old)
    (fill,) = loading.send(Outcome("loaded")).commands
    assert fill[:5] == ("EVAL", remote.FILL, 2, KEY, remote.lease(KEY))
    assert fill[6] == bench.codec.identity(old)


def test_a_value_that_is_gone_by_the_election_is_not_what_the_fill_replaces() -> None:
    bench = Bench(Link(version=8))
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), bench.raw("old"), -1)
    reply(loading, next(loading), b"OK", b"OK", elected(bench, exists=False))
    (fill,) = loading.send(Outcome("loaded")).commands
    assert fill[6] == b""


def test_a_detached_flight_gives_back_its_lease_stores_nothing_and_still_lands() -> None:
    bench = Bench(Link(version=7))
    plan, loading = load_until_fill(bench)
    bench.flights.detach([KEY])
    giving_back = loading.send(Outcome("loaded"))
    assert [command[1] for command in giving_back.commands] == [remote.RELEASE]
    assert finish(loading, giving_back, 1) is None
    next(plan)
    assert end(plan, None) == Outcome("loaded")


def test_a_value_of_a_newer_format_is_not_overwritten_by_a_fill() -> None:
    bench = Bench(Link(version=7))
    newer = b"\xc1\x63" + b"\x00" * 40
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), newer, -1)
    election = next(loading)
    assert election.commands[2][5] == b"", "the server does not give the lease to whoever has not seen what is there"
    assert isinstance(reply(loading, election, b"OK", b"OK", elected(bench, newer, exists=True)), Load)
    assert end(loading, Outcome("loaded")) is None, "no write"
    next(plan)
    assert end(plan, None) == Outcome("loaded")


def test_a_leader_that_is_closed_leaves_nobody_waiting() -> None:
    bench = Bench(Link(version=7))
    _, loading = load_until_fill(bench)
    flight, leads = bench.flights.join(KEY, bench.near.epoch)
    assert not leads
    loading.close()
    assert flight.landed
    assert flight.abandoned
    assert not bench.near._marks
    assert not bench.near._watches


def test_loaders_errors_land_as_they_are_and_the_lease_is_given_back() -> None:
    bench = Bench(Link(version=7))
    plan, loading = load_until_fill(bench)
    error = StopIteration("the loader's own")
    (giving_back,) = loading.send(Outcome(error=error)).commands
    assert giving_back[:2] == ("EVAL", remote.RELEASE)
    assert giving_back[5] == "", "for somebody else to try at once"
    assert end(loading, [1]) is None
    next(plan)
    assert end(plan, None).error is error


def test_with_a_stale_value_at_hand_an_error_is_not_heard_of_and_nobody_tries_again_at_once() -> None:
    bench = Bench(Link(version=7))
    stale = bench.raw("stale", grace_ms=500)
    plan = bench.get_or_set(retry_ms=2_000)
    loading = lead(plan, next(plan), stale, 400)
    reply(loading, next(loading), b"OK", b"OK", elected(bench, exists=True))
    (throttle,) = loading.send(Outcome(error=ValueError())).commands
    assert throttle[5:] == (2_000, remote.RETRY)
    assert end(loading, [1]) is None
    next(plan)
    assert end(plan, None) == Outcome("stale")
    again = bench.get_or_set(retry_ms=2_000)
    assert finish(again, next(again), stale, 300) == Outcome("stale")
    bench.time += 2.0
    later = bench.get_or_set(retry_ms=2_000)
    assert isinstance(reply(later, next(later), stale, 200), Lead)
    assert (bench.counters.stale, bench.counters.load_errors) == (2, 1)


def test_who_has_a_stale_value_waits_no_longer_than_the_soft_timeout() -> None:
    bench = Bench(Link(version=7))
    plan = bench.get_or_set(soft_timeout=0.25)
    leading = reply(plan, next(plan), bench.raw("stale", grace_ms=500), 400)
    assert isinstance(leading, Lead)
    assert leading.background
    wait = next(plan)
    assert isinstance(wait, Wait)
    assert wait.timeout == 0.25
    assert not wait.flight.landed
    assert end(plan, None) == Outcome("stale")


def test_when_the_server_cannot_be_asked_the_loader_is_called_and_nothing_is_stored() -> None:
    bench = Bench(Link(version=7))
    plan = bench.get_or_set()
    next(plan)
    leading = plan.throw(ConnectionFailed("gone"))
    assert isinstance(leading, Lead)
    next(leading.plan)
    assert isinstance(leading.plan.throw(ConnectionFailed("gone")), Load)
    assert end(leading.plan, Outcome("loaded")) is None
    next(plan)
    assert end(plan, None) == Outcome("loaded")


def test_after_somebodys_failure_only_who_has_a_stale_value_waits() -> None:
    bench = Bench(Link(version=7))
    for raw, pttl, dead in (
        (None, -2, remote.RETRY),
        (bench.raw("invalid", 6), -1, remote.RETRY),
        (bench.raw("stale", grace_ms=500), 400, b""),
    ):
        plan = bench.get_or_set()
        loading = lead(plan, next(plan), raw, pttl)
        assert next(loading).commands[-1][-1] == dead
        loading.close()
        plan.close()


def test_a_stale_value_is_served_while_nobody_shall_try_again() -> None:
    bench = Bench(Link(version=7))
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), bench.raw("stale", grace_ms=500), 400)
    assert finish(loading, next(loading), b"OK", b"OK", [0, None, 400, remote.RETRY, 1, b"1"]) is None
    next(plan)
    assert end(plan, None) == Outcome("stale")
    assert bench.counters.loads == 0


def test_a_value_of_another_type_does_not_stand_in_for_a_load_that_failed() -> None:
    bench = Bench(Link(version=7))
    policy = Policy(MINUTE)
    plan = bench.loads.get_or_set(bench.link, SITE, "key", KEY, lambda: 1, policy, int, near=True)
    loading = lead(plan, next(plan), bench.raw("text"), -1)
    reply(loading, next(loading), b"OK", b"OK", elected(bench, exists=True))
    error = ValueError()
    loading.send(Outcome(error=error))
    end(loading, [1])
    next(plan)
    assert end(plan, None).error is error


def test_the_loser_of_an_election_sleeps_until_the_lease_or_the_value_changes() -> None:
    bench = Bench(Link(version=7))
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), None, -2)
    lost = [b"OK", [0, None, -2, b"them.1", 0, b"1"]]
    alive = reply(loading, next(loading), b"OK", *lost)
    assert alive == remote.is_alive(b"~alive:them")
    sleep = loading.send(1)
    assert not sleep.watch.fired
    bench.near.revoked([remote.lease(KEY)])
    assert sleep.watch.fired
    again = loading.send(None)
    dead = reply(loading, again, *lost)
    assert dead == alive
    takeover = loading.send(0)
    assert takeover.commands[-1][-1] == b"them.1", "a dead holder's lease may be taken"
    assert isinstance(reply(loading, takeover, b"OK", elected(bench)), Load)


def test_whether_a_load_of_a_process_that_lives_goes_on_is_asked_when_that_can_be_known() -> None:
    bench = Bench(Link(version=7))
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), None, -2)
    process, load = remote.is_alive(b"~alive:them"), remote.is_alive(b"~alive:them.1")

    def lose(election: Any, holder: bytes = b"them.1") -> None:
        others = len(commands(election)) - 1
        assert reply(loading, election, *[b"OK"] * others, [0, None, -2, holder, 0, b"1"]) == process

    lose(next(loading))
    loading.send(1)
    bench.time += 3.0
    lose(loading.send(None))
    loading.send(1)
    bench.time += 0.1
    lose(loading.send(None))
    assert loading.send(1) == load
    loading.send(1)
    lose(loading.send(None), b"them.2")
    assert isinstance(loading.send(1), Sleep), "another load is met for the first time"
    lose(loading.send(None))
    assert loading.send(1) == load
    takeover = loading.send(0)
    assert takeover.commands[-1][-1] == b"them.1"
    loading.close()
    plan.close()


def test_nothing_of_a_load_that_is_over_stays_behind() -> None:
    bench = Bench(Link(track_all=True, version=7))
    plan, loading = load_until_fill(bench)
    assert finish(loading, loading.send(Outcome("loaded")), MINUTE) is None
    next(plan)
    assert end(plan, None) == Outcome("loaded")
    assert (bench.near._marks, bench.near._watches, len(bench.flights), bench.holder._loads) == ({}, {}, 0, {})
    assert end(bench.get(), None) == "loaded"


class Pushed(dict[bytes, tuple[int, int]]):
    """Counters of which one is pushed, in another thread, right after somebody has seen that it is there."""

    def __contains__(self, counter: object) -> bool:
        there = super().__contains__(counter)
        self.pop(counter, None)  # type: ignore[call-overload]
        return there


@pytest.mark.parametrize("what", ["set", "get_or_set"])
def test_a_counter_may_be_pushed_in_another_thread_while_it_is_looked_up(what: str) -> None:
    bench = Bench(Link(version=7))
    plan = bench.get_or_set(tags=("red",)) if what == "get_or_set" else bench.set(b"red")
    if what == "get_or_set":
        effect = reply(plan, next(plan), None, -2)
        bench.link.counters = Pushed(bench.link.counters)
        leading = effect.plan
        assert remote.read_counter(TAG) in commands(next(leading))
        leading.close()
    else:
        bench.link.counters = Pushed(bench.link.counters)
        assert remote.read_counter(TAG) in commands(next(plan))
    plan.close()


@pytest.mark.parametrize("what", ["get", "set", "raise", "election", "fill"])
def test_a_caller_that_leaves_takes_its_marks_along(what: str) -> None:
    """Its commands may not even be sent, where they wait for a connection: then nobody parses a reply."""
    bench = Bench(Link(track_all=True, version=7))
    if what == "fill":
        _, plan = load_until_fill(bench)
        effect = plan.send(Outcome("loaded"))
    elif what == "election":
        asking = bench.get_or_set()
        plan = lead(asking, next(asking), None, -2)
        effect = next(plan)
    else:
        raising = bench.writes.raise_tags(bench.link, SITE, [b"red"], soft=False)
        plan = {"get": bench.get(), "set": bench.set(b"red"), "raise": raising}[what]
        effect = next(plan)
    assert bench.near._marks
    plan.close()
    assert bench.near._marks == {}
    effect.hook([None] * len(commands(effect)))  # a reply may still come
    assert (bench.near._marks, len(bench.near)) == ({}, 0)


@pytest.mark.parametrize(("tracks", "longest"), [(True, 0.5), (False, 0.05)])
def test_the_loser_of_an_election_looks_again_after_a_while(*, tracks: bool, longest: float) -> None:
    """Soon, where the server tells nobody of changes."""
    bench = Bench(Link(tracks=tracks, track_all=tracks, version=7 if tracks else None))
    versions = [] if tracks else [b"7"]
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), None, -2, *versions)
    reply(loading, next(loading), b"OK", *versions, [0, None, -2, b"them.1", 0, b"1"])
    assert longest / 2 <= loading.send(1).timeout <= longest
    loading.close()


def test_a_load_says_that_it_goes_on_and_its_process_lives_whenever_it_is_asked_to() -> None:
    """A beat that comes a moment early must not be left out: the next one might be late."""
    bench = Bench(Link(track_all=True, version=7))
    plan = bench.get_or_set()
    loading = lead(plan, next(plan), None, -2)
    election = next(loading)
    load = reply(loading, election, b"OK", elected(bench))
    beat = [remote.alive(key, 3000) for key in bench.holder.alive_keys(election.commands[-1][6])]
    assert load.alive() == beat
    bench.time += 0.999
    assert load.alive() == beat
    loading.close()


def test_a_reply_that_cannot_be_judged_yet_takes_away_what_is_kept() -> None:
    """Whoever is told of the newer value must not find the older one near after that."""
    bench = Bench(Link(track_all=True, version=7))
    plan = bench.get()
    assert finish(plan, next(plan), bench.raw("older"), -1) == "older"
    assert bench.near.entry(KEY) is not None
    plan = bench.reads.get(bench.link, SITE, "key", KEY, None, near=False)
    asking = reply(plan, next(plan), bench.raw("newer", tags=[(b"red", 3)]), -1)
    assert remote.read_counter(TAG) in commands(asking)
    assert bench.near.entry(KEY) is None
    plan.close()


def test_an_own_clear_holds_at_once_and_on_every_connection() -> None:
    bench = Bench(Link(track_all=True, version=7))
    other = Link(track_all=True, version=7)
    bench.near.attach(other)
    plan = bench.get()
    finish(plan, next(plan), bench.raw("value"), -1)
    clearing = bench.writes.clear(bench.link, SITE, wait=True)
    raising = next(clearing)
    assert bench.near.find(KEY, SITE) is None, "before the server has answered"
    bench.near.learn(other, SITE.counter, bench.near.mark(SITE.counter), (7, 0))
    reply(clearing, raising, [b"7", b"9"])
    assert SITE.counter not in other.counters, "read before the clear, and its push may be on its way"
    clearing.close()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("what", ["set", "delete", "expire", "clear"])
def test_who_asks_after_an_own_write_joins_no_load_that_began_before_its_end(what: str, *, fails: bool) -> None:
    bench = Bench(Link(version=7))
    before, _ = bench.flights.join(KEY, 0)
    plan: Plan = {
        "set": bench.set,
        "delete": lambda: bench.writes.delete(bench.link, SITE, [KEY]),
        "expire": lambda: bench.writes.expire(bench.link, SITE, KEY, MINUTE),
        "clear": lambda: bench.writes.clear(bench.link, SITE, wait=False),
    }[what]()
    effect = next(plan)
    assert before.detached
    meanwhile, _ = bench.flights.join(KEY, 0)
    try:
        if fails:
            plan.throw(CommandTimeout())
        elif what == "clear":
            reply(plan, effect, b"OK", [b"7", b"9"])
            plan.send(None)
        else:
            reply(plan, effect, *[1] * len(commands(effect)))
    except StopIteration:
        pass
    assert meanwhile.detached


def test_an_invalidation_whose_outcome_is_unknown_may_have_been_carried_out() -> None:
    """The server tells nobody of his own writes."""
    bench = Bench(Link(track_all=True, version=7))
    plan = bench.writes.raise_tags(bench.link, SITE, [b"red"], soft=False)
    next(plan)
    bench.near.learn(bench.link, TAG, bench.near.mark(TAG), (3, 0))
    with pytest.raises(StopIteration) as stop:
        plan.throw(CommandTimeout())
    assert stop.value.value is False
    assert TAG not in bench.link.counters
