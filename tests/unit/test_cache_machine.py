"""Whole caches against a model: any operations in any order, on two clients of one store, without a server or a wait.

The model is a dictionary. It knows nothing of envelopes, counters, tiers or leases; what they come to is all it says.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nearcache import Cache, Settings
from nearcache.base import Core
from nearcache.client import Client
from nearcache.core.clock import Clock, use
from nearcache.transport.memory import _stores

NAMES = ["a", "b", "c"]
NAME = st.sampled_from(NAMES)
CACHE = st.integers(0, 2)
TTL = st.sampled_from([None, 2, 10])
GRACE = st.sampled_from([0, 4])
TAGS = st.sets(st.sampled_from(["red", "blue"]))
RETRY = 3.0

_numbers = count()


class Held:
    """A value in the model."""

    def __init__(self, value: Any, now: float, ttl: float | None, grace: float, tags: set[str]) -> None:
        self.value = value
        self.made = now
        self.grace = grace
        self.tags = tags
        self.invalid = False
        self.soft = False
        self.expires: float | None = None if ttl is None else now + ttl

    def state(self, now: float) -> str:
        if self.expires is not None and now >= self.expires + self.grace:
            return "absent"
        if self.invalid:
            return "invalidated"
        return "stale" if self.soft or not self.within(now) else "fresh"

    def within(self, now: float) -> bool:
        """Whether its time to live has not passed."""
        return self.expires is None or now < self.expires


class Failure(Exception):
    """A loader's."""


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.time = 1_000.0
        self.store = f"machine{next(_numbers)}"
        before = use(Clock(lambda: self.time, lambda: self.time))
        try:
            chosen = Settings(redis_url=f"memory://{self.store}", _env_file=None)  # type: ignore[call-arg]
            self.clients = [Client(f"client{n}", chosen.endpoint("cache"), chosen) for n in range(2)]
        finally:
            use(before)
        self.caches = [self.cache(0, near=None), self.cache(1, near=None), self.cache(1, near=False)]
        self.values = count()
        self.model: dict[str, Held] = {}
        # Until when a stale value is served without a try: for a client's own failure, and for anybody's.
        self.throttled: dict[tuple[int, str], float] = {}
        self.leased: dict[str, float] = {}

    def cache(self, client: int, *, near: bool | None) -> Cache:
        core = Core(60, "app", "cache", near, "native", True, {"retry_after": RETRY, "soft_timeout": 60})
        core.bind(self.clients[client])
        return Cache(_core=core)

    def teardown(self) -> None:
        self.settled()
        for place in [place for place in _stores if place[0] == self.store]:
            del _stores[place]

    # -- the model

    def state(self, name: str) -> str:
        held = self.model.get(name)
        return "absent" if held is None else held.state(self.time)

    def fresh(self, name: str) -> Any:
        return self.model[name].value if self.state(name) == "fresh" else None

    def counts(self, name: str) -> bool:
        """Whether a removal counts it: whoever removes looks at no tags."""
        held = self.model.get(name)
        return held is not None and held.state(self.time) != "absent" and held.within(self.time)

    def put(self, name: str, value: Any, ttl: float | None, grace: float, tags: set[str]) -> None:
        self.model[name] = Held(value, self.time, ttl, grace, tags)
        self.forget_failure(name, 0, 1)

    def forget_failure(self, name: str, *clients: int) -> None:
        """A load is tried again at once: by anybody who does not know better, and by these clients."""
        self.leased.pop(name, None)
        for client in clients:
            self.throttled.pop((client, name), None)

    # -- reads

    @rule(cache=CACHE, name=NAME)
    def get(self, cache: int, name: str) -> None:
        value = self.caches[cache].get(name)
        assert value == self.fresh(name)
        if value is not None:
            value.append("mine")  # corrupts nobody's

    @rule(cache=CACHE, names=st.lists(NAME, unique=True))
    def get_many(self, cache: int, names: list[str]) -> None:
        right = {name: self.fresh(name) for name in names if self.state(name) == "fresh"}
        values = self.caches[cache].get_many(names)
        assert values == right
        assert list(values) == list(right)

    @rule(cache=CACHE, name=NAME)
    def ttl(self, cache: int, name: str) -> None:
        right = -2
        if self.state(name) == "fresh":
            expires = self.model[name].expires
            right = -1 if expires is None else math.ceil(expires - self.time)
        assert self.caches[cache].ttl(name) == right
        assert self.caches[cache].exists(name) == (right != -2)

    @rule(cache=CACHE, name=NAME)
    def lookup(self, cache: int, name: str) -> None:
        found = self.caches[cache].lookup(name)
        assert found.state == self.state(name)
        if found.state not in ("fresh", "stale"):
            assert (found.value, found.age, found.remaining, found.tier) == (None, None, None, None)
            return
        held = self.model[name]
        assert found.value == held.value
        assert found.age == self.time - held.made
        assert found.remaining == (None if held.expires is None else held.expires - self.time)
        assert found.tier in ("near", "server") if cache != 2 and found.state == "fresh" else found.tier == "server"

    # -- writes

    @rule(cache=CACHE, name=NAME, ttl=TTL, grace=GRACE, tags=TAGS)
    def set(self, cache: int, name: str, ttl: float | None, grace: float, tags: set[str]) -> None:
        value = [next(self.values)]
        assert self.caches[cache].set(name, value, ttl=ttl, grace=grace, tags=tags) is True
        self.put(name, value, ttl, grace, tags)

    @rule(cache=CACHE, names=st.lists(NAME, unique=True), ttl=TTL, tags=TAGS)
    def set_many(self, cache: int, names: list[str], ttl: float | None, tags: set[str]) -> None:
        values = {name: [next(self.values)] for name in names}
        assert self.caches[cache].set_many(values, ttl=ttl, tags=tags) is True
        for name, value in values.items():
            self.put(name, value, ttl, 0, tags)

    @rule(cache=CACHE, names=st.lists(NAME, unique=True))
    def delete(self, cache: int, names: list[str]) -> None:
        assert self.caches[cache].delete_many(names) == sum(map(self.counts, names))
        for name in names:
            self.model.pop(name, None)
            self.forget_failure(name, 0, 1)

    @rule(cache=CACHE, name=NAME, ttl=TTL)
    def expire(self, cache: int, name: str, ttl: float | None) -> None:
        assert self.caches[cache].expire(name, ttl) == self.counts(name)
        self.forget_failure(name, min(cache, 1))
        if self.counts(name):
            self.model[name].expires = None if ttl is None else self.time + ttl
            self.forget_failure(name, 0, 1)

    @rule(cache=CACHE)
    def clear(self, cache: int) -> None:
        assert self.caches[cache].clear() == sum(map(self.counts, NAMES))
        self.model.clear()

    @rule(cache=CACHE, tags=TAGS, soft=st.booleans())
    def raise_tags(self, cache: int, tags: set[str], soft: bool) -> None:
        shown = self.caches[cache]
        assert (shown.expire_tags(*tags) if soft else shown.invalidate_tags(*tags)) is True
        for held in self.model.values():
            if held.tags & tags:
                held.soft = True
                held.invalid = held.invalid or not soft

    # -- loads

    @rule(cache=CACHE, name=NAME, ttl=TTL, grace=GRACE, tags=TAGS, fails=st.booleans())
    def get_or_set(self, cache: int, name: str, ttl: float | None, grace: float, tags: set[str], fails: bool) -> None:
        state, client = self.state(name), min(cache, 1)
        waits = max(self.throttled.get((client, name), 0), self.leased.get(name, 0)) > self.time
        calls, loaded, loader = self.loader(fails)
        try:
            value = self.caches[cache].get_or_set(name, loader, ttl=ttl, grace=grace, tags=tags)
        except Failure:
            value = "failed"
        if state == "fresh" or (state == "stale" and waits):
            assert (value, calls) == (self.model[name].value, [])
        elif fails and state == "stale":
            assert (value, calls) == (self.model[name].value, [1])
            self.throttled[client, name] = self.leased[name] = self.time + RETRY
        elif fails:
            assert (value, calls) == ("failed", [1])
            self.leased.pop(name, None)
        else:
            assert (value, calls) == (loaded, [1])
            self.put(name, value, ttl, grace, tags)

    @rule(cache=CACHE, name=NAME, ttl=TTL, fails=st.booleans())
    def refresh(self, cache: int, name: str, ttl: float | None, fails: bool) -> None:
        calls, loaded, loader = self.loader(fails)
        try:
            value = self.caches[cache].refresh(name, loader, ttl=ttl)
        except Failure:
            value = "failed"
        assert calls == [1]
        if fails:
            assert value == "failed"
            self.forget_failure(name, min(cache, 1))
        else:
            assert value == loaded
            self.put(name, value, ttl, 0, set())

    def loader(self, fails: bool) -> tuple[list[int], Any, Callable[[], Any]]:
        calls: list[int] = []
        value = [next(self.values)]

        def load() -> Any:
            calls.append(1)
            if fails:
                raise Failure
            return value

        return calls, value, load

    @rule(cache=CACHE, name=NAME, tags=TAGS)
    def fail_with_a_stale_value(self, cache: int, name: str, tags: set[str]) -> None:
        """Rare by chance, and what follows is worth a look."""
        self.set(cache=cache, name=name, ttl=2, grace=4, tags=tags)
        self.advance(seconds=2.5)
        self.get_or_set(cache=cache, name=name, ttl=None, grace=0, tags=set(), fails=True)

    # -- time

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5, 5.0]))
    def advance(self, seconds: float) -> None:
        self.time += seconds

    @invariant()
    def settled(self) -> None:
        """No operation is under way: nothing of one is left."""
        for thread in threading.enumerate():
            if thread.name == "nearcache-load":  # it has landed its flight, and is clearing up
                thread.join(10)
        for client in self.clients:
            assert (client.near._marks, client.near._watches, len(client.flights)) == ({}, {}, 0)
            assert client.holder._loads == {}


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
test_any_operations_in_any_order = Machine.TestCase
