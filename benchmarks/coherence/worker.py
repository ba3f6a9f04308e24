"""One process of a run: event loops and threads full of actors, told what to do through a pipe."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any

from nearcache import Settings, get_multi_redis_connection_manager

from .actors import WRITES, Reader, Writer, block_now_and_then, check
from .fronts import Caches, LoopFront, ThreadFront, in_one_step
from .keys import FRONTS, SHARED, Config, keys_of
from .ledger import Ledger, Table

__all__ = ["COMMAND_TIMEOUT", "Worker", "sabotage"]

COMMAND_TIMEOUT = 0.3  # seconds; pauses of the server are shorter and longer
_TAIL = 0.05  # seconds that readers go on after the writers
_SWITCH = 20e-6  # seconds a thread runs while others want to: threads meet in more places than by default
_READERS = {"asyncio": 5, "uvloop": 5, "threads": 2}
_SABOTAGE = {"marks": "ignore_marks", "pushes": "drop_pushes", "taint": "keep_tainted"}


def sabotage(name: str) -> None:
    """Switch off the safety of that name in this process.

    Raises:
        LookupError: this version of nearcache cannot.
    """
    try:
        from nearcache import testing  # type: ignore[attr-defined,unused-ignore]

        switch: Callable[[], object] = getattr(testing, _SABOTAGE[name])
    except (ImportError, AttributeError):
        raise LookupError(f"--break {name}: nearcache.testing.{_SABOTAGE[name]} is not there in this version") from None
    switch()


class Worker:
    """A process of actors; its methods are what the conductor may ask for.

    Raises:
        LookupError: the safety that is to be switched off cannot be.
    """

    def __init__(self, config: Config, process: int) -> None:
        sys.setswitchinterval(_SWITCH)
        logging.getLogger("nearcache").setLevel(logging.CRITICAL)  # losing connections is what this is about
        if config.sabotage is not None:
            sabotage(config.sabotage)
        self._config = config
        self._process = process
        self._keys = keys_of(config)
        self._caches = Caches(SHARED)
        self._table = Table(config.table, config.keys, tuple(WRITES))
        self._ledger = Ledger(process, self._table, self._keys)
        self._loops = {name: _loop(name) for name in FRONTS if name != "threads"}
        self._fronts: dict[str, LoopFront | ThreadFront] = {
            name: LoopFront(self._caches, name) if name in self._loops else ThreadFront(self._caches, name)
            for name in FRONTS
        }
        settings = Settings(redis_url=config.url, command_timeout=COMMAND_TIMEOUT, breaker_reset=0.2, _env_file=None)
        for loop in self._loops.values():
            for cache in self._caches.each():
                asyncio.run_coroutine_threadsafe(cache.initialize(settings), loop).result(10)

    def run(self, seconds: float, turn: int) -> dict[str, int]:
        """Let the actors act; what they did."""
        end = time.monotonic() + seconds

        def stopping() -> bool:
            return time.monotonic() > end

        def no_more_writes() -> bool:
            # Reads that meet the last writes are repaired by no later ones.
            return time.monotonic() > end - _TAIL

        rng = random.Random(f"{self._config.seed} {self._process} {turn}")
        actors: list[tuple[str, Reader | Writer]] = []
        for front in FRONTS:
            number = self._process * len(FRONTS) + FRONTS.index(front)
            common, chosen = (self._fronts[front], self._ledger, self._keys), self._config.operations
            names = [f"{front} reader {each}" for each in range(_READERS[front])]
            actors.append((front, Writer(f"{front} writer", *common, rng.randrange(2**32), chosen, number)))
            actors.extend((front, Reader(name, *common, rng.randrange(2**32), chosen)) for name in names)
        running = [
            self._start(front, partial(actor.work, no_more_writes if isinstance(actor, Writer) else stopping))
            for front, actor in actors
        ]
        blocks = [
            self._start(front, lambda: block_now_and_then(rng.randrange(2**32), stopping))
            for front in self._loops
            if "block" in self._config.faults
        ]
        for future in running:
            future.result()
        counts = sum((actor.counts for _, actor in actors), Counter[str]())
        counts["block"] = sum(block.result() for block in blocks)
        return dict(counts)

    def check(self, patience: float) -> tuple[dict[str, int], list[Any]]:
        """All is at rest; everything that was ever found wrong here, counted and in detail."""
        checks = [
            self._start(front, partial(check, self._fronts[front], self._ledger, self._keys, patience))
            for front in FRONTS
        ]
        for each in checks:
            each.result()
        return dict(self._ledger.found), self._ledger.violations

    def _start(self, front: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any]:
        if front in self._loops:
            return asyncio.run_coroutine_threadsafe(work(), self._loops[front])
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(in_one_step(work()))
            except BaseException as error:  # noqa: BLE001  # handed on to who waits
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return done

    def close(self) -> None:
        get_multi_redis_connection_manager().close()
        for loop in self._loops.values():
            loop.call_soon_threadsafe(loop.stop)


def _loop(name: str) -> asyncio.AbstractEventLoop:
    """A loop that runs in a thread of its own; asyncio's where there is no uvloop."""
    loop = asyncio.new_event_loop()
    if name == "uvloop":
        try:
            import uvloop

            loop = uvloop.new_event_loop()
        except ImportError:
            pass
    threading.Thread(target=loop.run_forever, name=name, daemon=True).start()
    return loop
