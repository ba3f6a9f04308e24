"""What is owed to a server: the map of it, and the plans that make it good, stepped by hand."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from test_plans import COUNT, KEY, MINUTE, READ, SITE, TAG, Bench, Link, Plan, commands, end, finish, reply

from nearcache.core.effects import Wait
from nearcache.core.recovery import Kind, Recovery
from nearcache.core.writes import Item
from nearcache.errors import CodecError, CommandRefused, CommandTimeout, ConnectionFailed
from nearcache.tiers import remote

HERE, THERE = Link(version=7), Link(version=7)
REPLAY = [remote.delete([KEY], 0)]
OOM = CommandRefused("OOM command not allowed when used memory > 'maxmemory'.")


def owed(recovery: Recovery) -> dict[bytes, bool]:
    return {name: debt.soft for (_, name), debt in recovery.owed.items()}


# -- the map


def test_the_last_word_per_key_and_hard_beats_soft() -> None:
    recovery = Recovery(10)
    recovery.owe(Kind.COUNTER, [b"a", b"b", b"c"], HERE, 1, soft=True)
    recovery.owe(Kind.COUNTER, [b"a"], HERE, 2)
    recovery.owe(Kind.COUNTER, [b"c"], HERE, 3, soft=True)
    assert owed(recovery) == {b"b": True, b"a": False, b"c": True}
    recovery.owe(Kind.COUNTER, [b"a"], HERE, 4, soft=True)
    assert owed(recovery) == {b"b": True, b"c": True, b"a": False}


def test_the_oldest_is_forgotten_and_counted() -> None:
    recovery = Recovery(2)
    recovery.owe(Kind.KEY, [b"a", b"b"], HERE, 1)
    recovery.owe(Kind.KEY, [b"a"], HERE, 2)
    recovery.owe(Kind.KEY, [b"c"], HERE, 3)
    assert list(owed(recovery)) == [b"a", b"c"]
    assert (recovery.forgotten, recovery.settled) == (1, 0)
    recovery.owe(Kind.HEAD, [b"a"], HERE, 4)
    assert list(recovery.owed) == [(Kind.KEY, b"c"), (Kind.HEAD, b"a")]


def test_what_was_begun_later_settles_what_failed() -> None:
    recovery = Recovery(10)
    first, second, third = recovery.begin(), recovery.begin(), recovery.begin()
    recovery.owe(Kind.KEY, [b"a"], HERE, second)
    recovery.succeeded(Kind.KEY, [b"a"], HERE, first)
    assert owed(recovery) == {b"a": False}
    recovery.succeeded(Kind.KEY, [b"a", b"b"], HERE, third)
    assert not recovery.owed
    assert recovery.settled == 1


def test_raising_the_soft_half_settles_no_more_than_that() -> None:
    recovery = Recovery(10)
    recovery.owe(Kind.COUNTER, [b"hard"], HERE, 1)
    recovery.owe(Kind.COUNTER, [b"soft"], HERE, 1, soft=True)
    recovery.succeeded(Kind.COUNTER, [b"hard", b"soft"], HERE, 2, soft=True)
    assert owed(recovery) == {b"hard": False}
    recovery.replayed(Kind.COUNTER, [b"hard"], HERE, 9, soft=True)
    assert owed(recovery) == {b"hard": False}
    recovery.succeeded(Kind.COUNTER, [b"hard"], HERE, 2)
    assert not recovery.owed


def test_it_is_settled_where_it_failed() -> None:
    """It may still lie in that socket, and be carried out after what another one carries."""
    recovery = Recovery(10)
    recovery.owe(Kind.KEY, [b"a"], HERE, 1)
    recovery.owe(Kind.KEY, [b"a"], THERE, 2)
    for link in (THERE, THERE):
        recovery.replayed(Kind.KEY, [b"a"], link, recovery.noted)
        assert recovery.owed
    recovery.replayed(Kind.KEY, [b"a"], HERE, recovery.noted)
    assert not recovery.owed


def test_or_anywhere_when_that_connection_is_gone() -> None:
    recovery = Recovery(10)
    recovery.owe(Kind.KEY, [b"a"], HERE, 1)
    recovery.alive = lambda link: link is not HERE
    recovery.replayed(Kind.KEY, [b"a"], THERE, recovery.noted)
    assert not recovery.owed


def test_after_a_fork_the_child_owes_it_on_no_connection() -> None:
    recovery = Recovery(10)
    recovery.owe(Kind.KEY, [b"a"], HERE, 1)
    recovery.told(THERE, recovery.noted)
    recovery.forget_in_child()
    assert recovery.untold(THERE, recovery.noted), "the child has told nobody"
    recovery.replayed(Kind.KEY, [b"a"], THERE, recovery.noted)
    assert not recovery.owed


def test_a_connection_that_is_gone_is_not_waited_for_when_it_fails_again() -> None:
    recovery = Recovery(10)
    recovery.owe(Kind.KEY, [b"a"], HERE, 1)
    recovery.alive = lambda link: link is not HERE
    recovery.owe(Kind.KEY, [b"a"], THERE, 2)
    assert [debt.links for debt in recovery.owed.values()] == [(THERE,)]


def test_what_fails_during_a_replay_is_owed_on() -> None:
    recovery = Recovery(10)
    recovery.owe(Kind.KEY, [b"a"], HERE, 1)
    upto, _ = recovery.listed()
    recovery.owe(Kind.KEY, [b"a"], HERE, 2)
    recovery.replayed(Kind.KEY, [b"a"], HERE, upto)
    recovery.told(HERE, upto)
    assert recovery.owed
    assert recovery.untold(HERE, recovery.noted)
    assert not recovery.untold(HERE, upto)


def test_threads_owe_and_settle_at_the_same_time() -> None:
    recovery = Recovery(50)
    seen: list[bool] = []

    def work(number: int) -> None:
        for n in range(500):
            recovery.owe(Kind.KEY, [b"%d" % (n % 100)], HERE, recovery.begin())
            recovery.replayed(Kind.KEY, [b"%d" % (n % 70 + number)], HERE, recovery.noted)
        seen.append(len(recovery.owed) <= 50)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4


# -- the plans


class Owing(Bench):
    """A bench whose client has failed to delete a key."""

    def __init__(self, link: Link | None = None, **options: Any) -> None:
        super().__init__(link or Link(version=7), **options)
        fail(self.delete())


def fail(plan: Plan, error: Exception | None = None) -> Any:
    """The link fails under a plan at once; its result."""
    next(plan)
    with pytest.raises(StopIteration) as stop:
        plan.throw(error or ConnectionFailed("away"))
    return stop.value.value


def settled_first(bench: Bench, plan: Plan) -> Any:
    """What a plan asks once the server was told."""
    first = next(plan)
    assert commands(first) == REPLAY
    asked = reply(plan, first, 1)
    assert not bench.recovery.owed
    return asked


def test_a_read_waits_until_the_server_was_told() -> None:
    bench = Owing()
    plan = bench.get()
    read = settled_first(bench, plan)
    assert commands(read) == READ
    assert finish(plan, read, bench.raw("newer"), -1) == "newer"


def test_a_read_that_cannot_tell_is_one_without_a_server() -> None:
    bench = Owing()
    plan = bench.get()
    first = next(plan)
    assert str(finish(plan, first, CommandRefused("READONLY of a replica"))) == "Miss.ABSENT"
    assert bench.recovery.owed
    bench.reads._parts.strict = True
    plan = bench.get()
    with pytest.raises(CommandRefused, match="READONLY"):
        reply(plan, next(plan), CommandRefused("READONLY of a replica"))


@pytest.mark.parametrize("operation", ["set", "delete", "expire", "raise_tags", "clear", "get_or_set"])
def test_every_other_operation_waits_too(operation: str) -> None:
    bench = Owing()
    plans = {
        "set": bench.set,
        "delete": bench.delete,
        "expire": lambda: bench.writes.expire(bench.link, SITE, KEY, MINUTE),
        "raise_tags": bench.raise_tags,
        "clear": lambda: bench.writes.clear(bench.link, SITE, wait=True),
        "get_or_set": bench.get_or_set,
    }
    settled_first(bench, plans[operation]())


def test_an_election_waits_too() -> None:
    """The write failed after the miss that leads to it."""
    bench = Bench(Link(version=7))
    plan = bench.get_or_set()
    lead = reply(plan, next(plan), None, -2)
    fail(bench.delete())
    first = next(lead.plan)
    assert commands(first) == REPLAY


def test_readers_wait_for_the_first() -> None:
    bench = Owing()
    first, second = bench.get(), bench.get()
    replay, wait = next(first), next(second)
    assert isinstance(wait, Wait)
    reply(first, replay, 1)
    assert commands(second.send(None)) == READ


def test_readers_fail_with_the_first() -> None:
    bench = Owing()
    first, second = bench.get(), bench.get()
    next(first), next(second)
    assert str(fail_on(first)) == str(end(second, None)) == "Miss.ABSENT"
    assert bench.counters.errors == 3


def test_a_reader_waits_no_longer_than_for_a_reply() -> None:
    bench = Owing()
    first, second = bench.get(), bench.get()
    next(first), next(second)
    assert str(end(second, None)) == "Miss.ABSENT"


def test_another_reader_goes_on_when_the_first_has_left() -> None:
    bench = Owing()
    first, second = bench.get(), bench.get()
    next(first), next(second)
    first.close()
    assert commands(second.send(None)) == REPLAY


def fail_on(plan: Plan) -> Any:
    with pytest.raises(StopIteration) as stop:
        plan.throw(ConnectionFailed("away"))
    return stop.value.value


def test_a_reader_elsewhere_tells_the_server_too_and_only_once() -> None:
    bench, there = Owing(), Link(version=7)
    bench.near.attach(there)
    for told in (False, True):
        plan = bench.reads.get(there, SITE, "key", KEY, None, near=True)
        asked = next(plan)
        if not told:
            assert commands(asked) == REPLAY
            asked = reply(plan, asked, 1)
        assert commands(asked) == READ
        assert str(finish(plan, asked, None, -2)) == "Miss.ABSENT"
        assert bench.recovery.owed, "what failed here may still be carried out"
    settled_first(bench, bench.get())


def test_the_background_leaves_it_to_a_reader() -> None:
    bench = Owing()
    reader = bench.get()
    next(reader)
    with pytest.raises(StopIteration):
        next(bench.replay.settled(bench.link, wait=False))
    reader.close()
    assert commands(next(bench.replay.settled(bench.link, wait=False))) == REPLAY


def test_many_keys_are_told_in_batches_and_one_when_it_has_failed() -> None:
    bench = Bench(Link(version=7))
    keys = [b"app:%d" % number for number in range(1_200)]
    fail(bench.writes.delete(bench.link, SITE, keys))
    sizes = []
    plan = bench.replay.settled(bench.link)
    effect = next(plan)
    with pytest.raises(CommandTimeout):
        plan.throw(CommandTimeout("late"))
    plan = bench.replay.settled(bench.link)
    effect = next(plan)
    while bench.recovery.owed:
        sizes.append(commands(effect)[0][2] // 2)
        effect.hook([1])
        if bench.recovery.owed:
            effect = plan.send([1])
    assert sizes == [1, 500, 500, 199]


def test_counters_are_raised_as_they_were_to_be() -> None:
    bench = Bench(Link(version=7))
    raising, clearing = bench.raise_tags(soft=True), bench.writes.clear(bench.link, SITE, wait=True)
    next(raising), next(clearing)
    fail_on(raising), fail_on(clearing)
    plan = bench.get()
    first = next(plan)
    assert commands(first) == [remote.raise_counter(TAG, soft=True), remote.raise_counter(SITE.counter)]
    assert commands(reply(plan, first, [b"", b"8"], [b"7", b"8"])) == [*READ, remote.TRACK_NEXT, COUNT]


def test_counters_that_a_full_server_cannot_raise_are_dropped() -> None:
    bench = Bench(Link(version=7))
    fail(bench.writes.raise_tags(bench.link, SITE, [b"red", b"blue"], soft=False))
    plan = bench.get()
    dropping = reply(plan, next(plan), OOM, [b"7", b"8"])
    assert commands(dropping) == [("UNLINK", TAG)]
    assert commands(reply(plan, dropping, 1)) == READ
    assert not bench.recovery.owed


def test_what_is_refused_for_good_is_forgotten() -> None:
    bench = Owing()
    plan = bench.get()
    assert commands(reply(plan, next(plan), CommandRefused("NOPERM this user has no permissions"))) == READ
    assert (len(bench.recovery.owed), bench.recovery.forgotten) == (0, 1)


def test_a_reply_to_who_has_left_settles() -> None:
    bench = Owing()
    plan = bench.get()
    replay = next(plan)
    plan.close()
    replay.hook([1])
    assert not bench.recovery.owed


@pytest.mark.parametrize("operation", ["set", "delete", "raise_tags"])
def test_what_a_caller_leaves_is_owed(operation: str) -> None:
    bench = Bench(Link(version=7))
    plan = {
        "set": bench.set,
        "delete": bench.delete,
        "raise_tags": bench.raise_tags,
    }[operation]()
    next(plan)
    plan.close()
    assert list(owed(bench.recovery)) == [TAG if operation == "raise_tags" else KEY]


def test_a_later_write_that_gets_through_settles() -> None:
    bench = Bench(Link(version=7))
    first, second = bench.set(), bench.set()
    next(first), next(second)
    fail_on(first)
    assert bench.recovery.owed
    assert end(second, [1, b"OK"]) is True
    assert not bench.recovery.owed


def test_an_earlier_one_does_not() -> None:
    bench = Bench(Link(version=7))
    first, second = bench.set(), bench.set()
    next(first), next(second)
    fail_on(second)
    assert end(first, [1, b"OK"]) is True
    assert list(owed(bench.recovery)) == [KEY]


def test_a_new_time_to_live_settles_nothing() -> None:
    bench = Bench(Link(version=7))
    first, second = bench.delete(), bench.writes.expire(bench.link, SITE, KEY, MINUTE)
    next(first)
    expiring = next(second)
    fail_on(first)
    assert finish(second, expiring, 1) is True
    assert list(owed(bench.recovery)) == [KEY]


def test_a_value_that_cannot_be_encoded_is_not_owed() -> None:
    bench = Bench(Link(version=7))
    plan = bench.writes.set_many(bench.link, SITE, {KEY: Item("key", object())}, MINUTE)
    with pytest.raises(CodecError):
        next(plan)
    assert not bench.recovery.owed


# -- what this process holds


def hold(bench: Bench) -> None:
    """Have the near tier hold a value of the tag."""
    plan = bench.get()
    replies = [bench.raw("old", tags=[(b"red", 3)]), 1000]
    asking = reply(plan, next(plan), *replies)
    assert finish(plan, asking, *replies, *[b"3"] * (len(asking.commands) - 2)) == "old"
    assert bench.near.left_over(KEY) is not None


@pytest.mark.parametrize("operation", ["delete", "invalidate", "clear"])
def test_a_value_that_came_while_a_write_was_under_way_goes_when_that_fails(operation: str) -> None:
    bench = Bench(Link(track_all=True, version=7))
    plan = {
        "delete": bench.delete,
        "invalidate": bench.raise_tags,
        "clear": lambda: bench.writes.clear(bench.link, SITE, wait=True),
    }[operation]()
    next(plan)
    if operation == "clear":  # another connection, which learns the version that is to end
        bench.near.learn(bench.link, SITE.counter, bench.near.mark(SITE.counter), (7, 0))
    hold(bench)
    fail_on(plan)
    assert bench.near.left_over(KEY) is None
    assert bench.near.find(KEY, SITE) is None


@pytest.mark.parametrize("operation", ["delete", "invalidate"])
def test_a_reply_from_before_the_replay_is_not_kept(operation: str) -> None:
    """It was asked for on another connection, between the failure and its being made good."""
    bench = Bench(Link(track_all=True, version=7))
    fail(bench.delete() if operation == "delete" else bench.raise_tags())
    plan = bench.replay.settled(bench.link)
    replay = next(plan)
    mark, counter_mark = bench.near.mark(KEY), bench.near.mark(TAG)
    replay.hook([1] if operation == "delete" else [[b"3", b"4"]])
    assert (mark if operation == "delete" else counter_mark).tainted


def test_what_begins_with_a_head_goes_from_the_near_tier() -> None:
    bench = Bench(Link(track_all=True, version=7))
    hold(bench)
    assert fail(bench.writes.delete_prefix(bench.link, SITE, SITE.head + b"k")) == 0
    assert bench.near.left_over(KEY) is None
    plan = bench.get()
    scans = [next(plan)]
    scans.append(plan.send([b"0", [KEY]]))
    assert commands(scans[1]) == REPLAY
    scans.append(reply(plan, scans[1], 1))
    assert [scans[0][3], scans[2][3]] == [b"app:k*", b"{app:k*"]
    assert commands(plan.send([b"0", []])) == READ
    assert not bench.recovery.owed


def test_a_head_is_owed_until_it_can_be_scanned() -> None:
    bench = Bench(Link(version=7))
    fail(bench.writes.delete_prefix(bench.link, SITE, SITE.head + b"k"))
    plan = bench.get()
    next(plan)
    assert str(end(plan, CommandRefused("LOADING the data set"))) == "Miss.ABSENT"
    assert bench.recovery.owed


def test_clear_owes_the_removal_of_json_which_has_no_version() -> None:
    bench = Bench(Link(version=7))
    bench.codec.wire = "json"
    assert fail(bench.writes.clear(bench.link, SITE, wait=True)) == 0
    assert list(bench.recovery.owed) == [(Kind.COUNTER, SITE.counter), (Kind.HEAD, SITE.head)]
