"""What is pending, against a model: every value reaches the writer once, in order per key, or is given up by name."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nearcache.write_behind import Buffer
from nearcache.write_behind.buffer import Write

ATTEMPTS = 4
KEYS = st.sampled_from("abc")


class Model(RuleBasedStateMachine):
    """Any order of adding, taking, succeeding, failing, giving back, waiting and hastening."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = Buffer(ATTEMPTS)
        self.now = 1000.0
        self.number = 0
        self.pending: defaultdict[str, list[int]] = defaultdict(list)
        self.attempts: defaultdict[str, int] = defaultdict(int)
        self.rests_until: defaultdict[str, float] = defaultdict(lambda: -math.inf)
        self.taken: dict[str, Write] = {}
        self.most = 30.0

    def ready(self) -> set[str]:
        return {
            key
            for key, values in self.pending.items()
            if values and key not in self.taken and self.rests_until[key] <= self.now
        }

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.number += 1
        self.buffer.add(key, self.number)
        self.pending[key].append(self.number)

    @rule()
    def take(self) -> None:
        ready = self.ready()
        write = self.buffer.take(self.now)
        assert (write is not None) is bool(ready)
        if write is not None:
            assert write.key in ready
            assert (write.value, write.attempt) == (self.pending[write.key][0], self.attempts[write.key] + 1)
            self.taken[write.key] = write

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def written(self, data: st.DataObject) -> None:
        write = self.taken.pop(data.draw(st.sampled_from(sorted(self.taken))))
        self.buffer.written(write)
        self.done(write.key)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def failed(self, data: st.DataObject) -> None:
        write = self.taken.pop(data.draw(st.sampled_from(sorted(self.taken))))
        again = self.buffer.failed(write, self.now)
        assert again is (write.attempt < ATTEMPTS)
        if again:
            self.attempts[write.key] = write.attempt
            self.rests_until[write.key] = self.now + min(self.most, 0.1 * 2 ** (write.attempt - 1))
        else:
            self.done(write.key)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        self.buffer.put_back(self.taken.pop(data.draw(st.sampled_from(sorted(self.taken)))))

    def done(self, key: str) -> None:
        self.pending[key].pop(0)
        self.attempts[key] = 0
        self.rests_until[key] = -math.inf

    @rule(seconds=st.sampled_from([0.05, 0.1, 0.3, 1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def hasten(self) -> None:
        self.buffer.hasten()
        self.most = 1.0
        self.rests_until.clear()

    @rule()
    def relax(self) -> None:
        self.buffer.relax()
        self.most = 30.0

    @invariant()
    def counts(self) -> None:
        assert len(self.buffer) == sum(map(len, self.pending.values()))

    @invariant()
    def knows_when_the_next_is_due(self) -> None:
        due = self.buffer.next_due()
        resting = [self.rests_until[key] for key in self.pending if self.rests_until[key] > self.now]
        assert due is None or due <= min(resting, default=math.inf)
        if resting:
            assert due is not None

    def teardown(self) -> None:
        """Nothing is lost: whatever is left comes out in order."""
        for write in self.taken.values():
            self.buffer.put_back(write)
        left: defaultdict[str, list[Any]] = defaultdict(list)
        while (write := self.buffer.take(math.inf)) is not None:
            left[write.key].append(write.value)
            self.buffer.written(write)
        assert left == {key: values for key, values in self.pending.items() if values}
        assert len(self.buffer) == 0


Model.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestAgainstAModel = Model.TestCase


def test_back_off_doubles_up_to_half_a_minute() -> None:
    buffer = Buffer(12)
    buffer.add("key", "value")
    waits: list[float] = []
    now = 0.0
    while (write := buffer.take(now)) is not None and buffer.failed(write, now):
        due = buffer.next_due()
        assert due is not None
        assert buffer.take(math.nextafter(due, 0)) is None
        waits.append(round(due - now, 3))
        now = due
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert len(buffer) == 0


def test_a_failing_key_holds_up_only_itself() -> None:
    buffer = Buffer(ATTEMPTS)
    for key in ("bad", "bad", "good"):
        buffer.add(key, key)
    bad = buffer.take(0.0)
    assert bad is not None
    assert buffer.failed(bad, 0.0)
    assert buffer.take(0.0) == Write("good", "good", 1)
    assert buffer.take(0.0) is None


def test_every_key_gets_its_turn() -> None:
    buffer = Buffer(ATTEMPTS)
    for number in range(3):
        buffer.add("busy", number)
    buffer.add("other", "other")
    taken: list[Any] = []
    while (write := buffer.take(0.0)) is not None:
        taken.append(write.value)
        buffer.written(write)
    assert taken == [0, "other", 1, 2]


def test_a_value_that_is_given_up_does_not_take_the_next_one_along() -> None:
    buffer = Buffer(1)
    buffer.add("key", "poison")
    buffer.add("key", "fine")
    write = buffer.take(0.0)
    assert write is not None
    assert not buffer.failed(write, 0.0)
    assert buffer.take(0.0) == Write("key", "fine", 1)


@pytest.mark.parametrize("resting", [1, 1000])
def test_taking_does_not_look_at_every_key_that_rests(resting: int) -> None:
    """During an outage thousands rest: a search through them for every attempt would keep the loop busy."""
    buffer = Buffer(ATTEMPTS)
    for number in range(resting):
        buffer.add(f"key {number}", number)
        write = buffer.take(0.0)
        assert write is not None
        buffer.failed(write, 0.0)

    class Counting(list[Any]):
        reads = 0

        def __getitem__(self, index: Any) -> Any:
            Counting.reads += 1
            return super().__getitem__(index)

        def __iter__(self) -> Any:
            raise AssertionError("looked at all of them")

    buffer._resting = Counting(buffer._resting)
    assert buffer.take(0.05) is None
    assert buffer.next_due() == 0.1
    assert Counting.reads <= 4
