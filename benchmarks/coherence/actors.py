"""Readers and writers, and the check when everything is at rest."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from nearcache.errors import ServerError

from .fronts import TAGS, Front
from .keys import SHARED, Key, value_of
from .ledger import MISS, Ledger

__all__ = ["READS", "WRITES", "OriginAway", "Reader", "Writer", "block_now_and_then", "check"]

READS = {"get": 45, "get_many": 10, "get_all": 2, "get_or_set": 30, "cached": 15}
"""The reads, and how often each is chosen."""
_HOT = 4_000_000  # nanoseconds that a key is hot
_GIVE_UP = 20.0  # seconds of failing on end
_SLACK = 0.01  # seconds: the server counts milliseconds, and not exactly

_CANCELLED = object()


class OriginAway(Exception):
    """What a loader raises now and then; whoever waited for it gets it."""


class _Actor:
    def __init__(self, name: str, front: Front, ledger: Ledger, keys: list[Key], seed: int) -> None:
        self.name = name
        self.front = front
        self.ledger = ledger
        self.keys = keys
        self.rng = random.Random(seed)
        self.counts = Counter[str]()
        self._cached: dict[tuple[Key, bool], Callable[[], Any]] = {}

    def hot(self) -> Key:
        """The key everybody wants now, or its neighbour."""
        window = time.monotonic_ns() // _HOT
        return self.keys[((window * 2654435761 >> 7) + self.rng.randint(0, 1)) % len(self.keys)]

    def tags(self, key: Key) -> dict[str, Any]:
        return {"tags": [key.tag]} if TAGS else {}

    def loader(self, key: Key) -> Callable[[], Any]:
        async def load() -> Any:
            if self.rng.random() < 0.01:
                raise OriginAway
            version = self.ledger.table.origin(key)
            self.ledger.loaded(key, version)
            self.counts["load"] += 1
            if self.rng.random() < 0.3:
                await self.front.pause(0.06 * self.rng.random() ** 3)  # up to 60 ms, mostly short
            return value_of(key, version)

        return self.front.loader(load)

    def decorated(self, key: Key, near: bool) -> Callable[[], Any]:
        """A decorated function that shares the key with everybody else."""
        if (key, near) not in self._cached:
            cache = self.front.near if near else self.front.far
            decorate = cache.cached(key=key.name, namespace=key.namespace, **self.tags(key))
            self._cached[key, near] = decorate(self.loader(key))
        return self._cached[key, near]


class Reader(_Actor):
    """Reads in bursts until told to stop; ``chosen`` names the operations it may use."""

    def __init__(
        self, name: str, front: Front, ledger: Ledger, keys: list[Key], seed: int, chosen: tuple[str, ...]
    ) -> None:
        super().__init__(name, front, ledger, keys, seed)
        self._operations = [name for name in READS if name in chosen]
        self._weights = [READS[name] for name in self._operations]

    async def work(self, stopping: Callable[[], bool]) -> None:
        while not stopping():
            for _ in range(self.rng.randint(1, 24)):
                await self.read()
            await self.front.pause(self.rng.expovariate(1 / 0.002))

    async def read(self) -> None:
        operation = self.rng.choices(self._operations, self._weights)[0]
        key = self.hot() if self.rng.random() < 0.75 else self.rng.choice(self.keys)
        if operation in {"get_many", "get_all"}:
            # Several at once, so that the server takes them in more than one go, and does others' work in between.
            times = 6 if operation == "get_all" else 1
            await self.front.together([self.read_many(operation, key) for _ in range(times)])
            return
        near = key.near_only or self.rng.random() < 0.6
        loads = operation != "get"
        label = f"{operation} {'near' if near else 'far'}"
        self.counts[operation] += 1
        floor = self.ledger.begin(key, self.name, label)
        try:
            value = await self._call(operation, key, near)
        except OriginAway:
            if not loads:
                self.ledger.violate("raised", key, self.name, label, floor, "the error of somebody's loader")
        except Exception as error:  # noqa: BLE001  # that is what is looked for
            self.ledger.violate("raised", key, self.name, label, floor, error)
        else:
            self._judge(key, label, floor, value, loads)

    def _judge(self, key: Key, label: str, floor: int, value: Any, loads: bool) -> None:
        if value is _CANCELLED:
            self.counts["cancelled"] += 1
            return
        version = self.ledger.end(key, self.name, label, floor, value, loads=loads)
        self.counts["miss"] += version is None
        self.counts["behind"] += version is not None and version < self.ledger.table.acknowledged(key)

    async def _call(self, operation: str, key: Key, near: bool) -> Any:
        cache = self.front.near if near else self.front.far
        if operation == "get":
            return await cache.get(key.name, MISS, namespace=key.namespace)
        if operation == "cached":
            return await self.decorated(key, near)()
        ttl = {"ttl": 0.03} if self.rng.random() < 0.1 else {}
        call = cache.get_or_set(key.name, self.loader(key), namespace=key.namespace, **ttl, **self.tags(key))
        if self.front.cancels and self.rng.random() < 0.03:
            return await _cancel_after(self.rng.uniform(0, 0.01), call)
        return await call

    async def read_many(self, operation: str, hot: Key) -> None:
        """A few keys, or all of a namespace, in one go."""
        near = self.rng.random() < 0.6
        allowed = [key for key in self.keys if key.namespace == SHARED and (near or not key.near_only)]
        some = allowed if operation == "get_all" else [hot, *self.rng.sample(allowed, 5)]
        keys = {key.name: key for key in some if key in allowed}
        label = f"{operation} {'near' if near else 'far'}"
        self.counts[operation] += 1
        floors = {name: self.ledger.begin(key, self.name, label) for name, key in keys.items()}
        try:
            found = await (self.front.near if near else self.front.far).get_many(keys, namespace=SHARED)
        except Exception as error:  # noqa: BLE001  # that is what is looked for
            self.ledger.violate("raised", next(iter(keys.values())), self.name, label, 0, error)
            return
        for name, key in keys.items():
            self._judge(key, label, floors[name], found.get(name, MISS), loads=False)


async def _cancel_after(seconds: float, call: Awaitable[Any]) -> Any:
    waiting = asyncio.ensure_future(call)
    done, _ = await asyncio.wait([waiting], timeout=seconds)
    if not done:
        waiting.cancel()
        await asyncio.wait([waiting])
    return _CANCELLED if waiting.cancelled() else waiting.result()


WRITES = {
    "set": 30,
    "set_many": 8,
    "write_through": 8,
    "delete": 20,
    "delete_many": 6,
    "expire": 10,
    "clear": 4,
    "clear_shared": 1,
    "invalidate_tags": 10,
    "expire_tags": 3,
}
"""The writes, and how often each is chosen."""


class Writer(_Actor):
    """Writes the keys it was given, each version once, and each until it is acknowledged.

    Args:
        keys: everybody's.
        chosen: the operations it may use.
        number: which writer it is.
    """

    def __init__(
        self,
        name: str,
        front: Front,
        ledger: Ledger,
        keys: list[Key],
        seed: int,
        chosen: tuple[str, ...],
        number: int,
    ) -> None:
        super().__init__(name, front, ledger, keys, seed)
        self.own = [key for key in keys if key.writer == number]
        self.shared = [key for key in self.own if key.namespace == SHARED]
        self.cleared = [key for key in self.own if key.namespace != SHARED]
        self._expiring: dict[Key, tuple[float, int]] = {}
        self._operations = [name for name in WRITES if name in chosen and (TAGS or "tags" not in name)]
        self._weights = [WRITES[name] for name in self._operations]

    async def work(self, stopping: Callable[[], bool]) -> None:
        while not stopping():
            hot = self.hot()
            if hot in self.own or self.rng.random() < 0.3:
                await self.write(hot if hot in self.own else self.rng.choice(self.own))
            self._settle()
            await self.front.pause(self.rng.expovariate(1 / 0.001))
        while self._expiring:
            await self.front.pause(0.005)
            self._settle()

    async def write(self, key: Key) -> None:
        operation = self.rng.choices(self._operations, self._weights)[0]
        same_tag = [each for each in self.own if each.namespace == key.namespace]  # a tag belongs to its namespace
        keys = {
            "set_many": self.shared,
            "delete_many": self.shared,
            "clear": self.cleared,
            "clear_shared": self.shared,
            "invalidate_tags": same_tag,
            "expire_tags": same_tag,
        }.get(operation, [key])
        if not keys:
            return
        self.counts[operation] += 1
        versions = {each: self.ledger.table.raise_origin(each) for each in keys}
        self._note(versions, operation, 0)
        ttl = self.rng.choice((0.001, 0.01, 0.03))  # for expire
        began = monotonic()
        while (step := await self._attempt(operation, versions, ttl)) == 1:
            self.counts["retry"] += 1
            self._note(versions, operation, step)
            if monotonic() > began + _GIVE_UP:
                self.ledger.violate("not acknowledged", key, self.name, operation, 0, versions[key])
                return
            await self.front.pause(self.rng.uniform(0.001, 0.03))
        self._note(versions, operation, step)
        for each, version in versions.items():
            if step == 3:
                self._expiring[each] = (monotonic() + ttl + _SLACK, version)
            else:
                self.ledger.acknowledged(each, version, firm=operation != "expire_tags")

    def _note(self, versions: dict[Key, int], operation: str, step: int) -> None:
        for key, version in versions.items():
            self.ledger.table.note(key, version, operation, step)

    def _settle(self) -> None:
        """What was expired is gone once its time has passed."""
        for key, (due, version) in list(self._expiring.items()):
            if monotonic() > due:
                del self._expiring[key]
                self.ledger.acknowledged(key, version)

    async def _attempt(self, operation: str, versions: dict[Key, int], ttl: float) -> int:
        """The step it leads to, as ``Table.note`` counts them."""
        try:
            if operation == "expire":
                ((key, _),) = versions.items()
                there = await self.front.strict.expire(key.name, ttl, namespace=key.namespace)
                return 3 if there else 2
            return 2 if await self._write(operation, versions) else 1
        except ServerError:
            return 1

    async def _write(self, operation: str, versions: dict[Key, int]) -> bool:
        """Whether the server has it. Where ``False`` could mean *was not there*, a strict cache raises instead."""
        strict, lenient = self.front.strict, self.front.near
        key = next(iter(versions))
        values = {each.name: value_of(each, version) for each, version in versions.items()}
        where: dict[str, Any] = {"namespace": key.namespace}
        if operation == "set":
            cache = self.rng.choice((strict, lenient))
            return bool(await cache.set(key.name, values[key.name], **where, **self.tags(key)))
        if operation == "set_many":
            return bool(await lenient.set_many(values, **where, **self.tags(key)))
        if operation == "write_through":
            body = self.front.loader(lambda: _returning(values[key.name]))
            return bool(await strict.write_through(key.name, body, **where, **self.tags(key)))
        if operation == "delete":
            await strict.delete(key.name, **where)
        elif operation == "delete_many":
            await strict.delete_many(list(values), **where)
        elif operation in {"clear", "clear_shared"}:
            await strict.clear(key.namespace, wait=self.rng.random() < 0.7)
        else:
            return bool(await getattr(strict, operation)(key.tag, **where))
        return True


async def _returning(value: Any) -> Any:
    return value


async def block_now_and_then(seed: int, stopping: Callable[[], bool]) -> int:
    """Hold up the running loop, as a careless application does; how often."""
    rng = random.Random(seed)
    times = 0
    while not stopping():
        await asyncio.sleep(rng.uniform(0.1, 1.0))
        time.sleep(rng.uniform(0.005, 0.12))  # noqa: ASYNC251  # on purpose
        times += 1
    return times


async def check(front: Front, ledger: Ledger, keys: list[Key], patience: float) -> None:
    """All is at rest: every key, through every cache, has to be the origin's, within ``patience`` seconds.

    A value that is not yet the origin's is asked for again until then; that each answer is at least what the process
    knew before is checked all the time.
    """
    deadline = monotonic() + patience
    for near in (True, False):  # all near copies first: reading the server could repair them
        for key in keys:
            cache = front.near if near else front.far

            async def get(key: Key = key, cache: Any = cache) -> Any:
                return await cache.get(key.name, MISS, namespace=key.namespace)

            async def load(key: Key = key, cache: Any = cache) -> Any:
                loader = front.loader(lambda: _returning(value_of(key, ledger.table.origin(key))))
                tags = {"tags": [key.tag]} if TAGS else {}
                return await cache.get_or_set(key.name, loader, namespace=key.namespace, **tags)

            async def again(get: Callable[[], Any] = get, load: Callable[[], Any] = load) -> Any:
                await load()  # once more each time: what was there may have been about to expire
                return await get()

            label = "near" if near else "far"
            current = ledger.table.origin(key)
            await _until(front, ledger, key, f"get {label}", get, {current, None}, deadline)
            await _until(front, ledger, key, f"get_or_set {label}", load, {current}, deadline)
            await _until(front, ledger, key, f"get {label} again", again, {current}, deadline)


async def _until(
    front: Front,
    ledger: Ledger,
    key: Key,
    label: str,
    call: Callable[[], Any],
    wanted: set[int | None],
    deadline: float,
) -> None:
    name = f"check on {front.name}"
    while True:
        floor = ledger.begin(key, name, label)
        try:
            value = await call()
        except OriginAway:
            value = MISS  # it may remember for a while that a loader failed
        except Exception as error:  # noqa: BLE001  # that is what is looked for
            ledger.violate("raised", key, name, label, floor, error)
            return
        version = ledger.end(key, name, label, floor, value)
        if version in wanted:
            return
        if monotonic() > deadline:
            kind = "lost after rest" if version is None else "stale after rest"
            ledger.violate(kind, key, name, label, floor, version)
            return
        await front.pause(0.01)
