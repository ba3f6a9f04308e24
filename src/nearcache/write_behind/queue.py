"""[shell] ``AsyncWriteBehind`` and ``WriteBehind``: a few workers that empty a ``Buffer``."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..connections import get_multi_redis_connection_manager
from ..core.forking import forget_in_children, keep
from ..sentinels import DEFAULT, Default
from ..transport.tasks import start_keeper, start_thread
from .buffer import Buffer, Write

if TYPE_CHECKING:
    from ..aio import AsyncCache
    from ..cache import Cache
    from ..core.ttl import TTL

__all__ = ["AsyncWriteBehind", "WriteBehind"]

_log = logging.getLogger("nearcache.write_behind")
_WORKERS = 4
_ATTEMPTS = 10  # with back-off: about 50 s
_MAX_PENDING = 10_000  # more wait in set()
_DRAIN = 10.0  # seconds ``drain`` takes at most
_CANCEL = 1.0  # seconds more for writers that ``drain`` cut off
_STRIPES = 64


class _Queue:
    """What both shells share: the buffer, and what is said about it."""

    def __init__(self) -> None:
        self._buffer = Buffer(_ATTEMPTS)
        self._coming: int = 0  # values on their way into the cache, and then into the buffer
        self._failing = False
        forget_in_children(self)

    def forget_in_child(self) -> None:
        """After a fork: what is pending is written by the parent."""
        self._buffer, self._coming, self._failing = Buffer(_ATTEMPTS), 0, False

    @property
    def pending(self) -> int:
        """Values that have not reached the writer yet."""
        return len(self._buffer)

    def _written(self, write: Write) -> None:
        self._buffer.written(write)
        if self._failing:
            self._failing = False
            _log.warning("write-behind: the writer works again, %d values are pending", self.pending)

    def _failed(self, write: Write, error: BaseException) -> None:
        """One line when the writer begins to fail, and one for each value that is lost."""
        again = self._buffer.failed(write, time.monotonic())
        if not again:
            _log.error("write-behind of %r given up after %d attempts: %r", write.key, write.attempt, error)
        elif not self._failing:
            _log.warning("write-behind of %r failed: %r; it is retried, %d pending", write.key, error, self.pending)
        else:
            _log.debug("write-behind of %r failed, attempt %d: %r", write.key, write.attempt, error)
        self._failing = True

    def _drained(self) -> int:
        self._buffer.relax()
        if self.pending:
            _log.error("write-behind: %d values did not reach the writer", self.pending)
        return self.pending


class AsyncWriteBehind(_Queue):
    """Made by ``AsyncCache.write_behind``.

    Its workers run on the loop of the first ``set``; when that has ended, on the loop of the next.
    """

    def __init__(
        self,
        cache: AsyncCache,
        writer: Callable[[str, Any], Awaitable[object] | object],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
    ) -> None:
        super().__init__()
        self._cache = cache
        self._writer = writer
        self._ttl = ttl
        self._namespace = namespace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []

    def forget_in_child(self) -> None:
        """The loop is the parent's, too."""
        super().forget_in_child()
        keep(self._loop, self._news, self._workers)
        self._loop, self._news, self._workers = None, asyncio.Event(), []

    async def set(self, key: str, value: Any) -> bool:
        """Cache ``value`` now and hand it to the writer soon; whether the server has it.

        The writer gets it even when the cache is away; it gets the object itself, which must not change any more.
        Waits when 10,000 values are pending. What ``AsyncCache.set`` raises is raised here, and nothing is written.
        """
        if (home := self._elsewhere()) is not None:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.set(key, value), home))
        self._begin()
        while self.pending + self._coming >= _MAX_PENDING:
            await self._wait(None)
        self._coming += 1
        try:
            cached = await self._cache.set(key, value, ttl=self._ttl, namespace=self._namespace)
            self._buffer.add(key, value)
        except asyncio.CancelledError:
            self._buffer.add(key, value)  # readers may find it already
            raise
        finally:
            self._coming -= 1
            self._begin()
            self._news.set()
        return cached

    async def drain(self) -> int:
        """Write what is pending, with short back-off, for about 10 s at most; how many are left, and lost."""
        if (home := self._elsewhere()) is not None:
            there = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.drain(), home))
            await asyncio.wait([there], timeout=_DRAIN + 2 * _CANCEL)
            return self.pending
        deadline = time.monotonic() + _DRAIN
        if self.pending:
            self._start()
            self._buffer.hasten()
            self._news.set()
        while self.pending and time.monotonic() < deadline:
            await self._wait(deadline)
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=_CANCEL)
        return self._drained()

    def _elsewhere(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the workers, when it is another one and runs; when it has ended, this one takes over."""
        here = asyncio.get_running_loop()
        if self._loop is here:
            return None
        if self._loop is not None and self._loop.is_running():
            return self._loop
        self._loop = here
        self._news = asyncio.Event()
        self._workers = []
        return None

    def _start(self) -> None:
        if all(worker.done() for worker in self._workers):
            loop = asyncio.get_running_loop()
            self._workers = [start_keeper(loop, self._work(), "nearcache-writer") for _ in range(_WORKERS)]

    def _begin(self) -> None:
        get_multi_redis_connection_manager().at_close(self.drain)
        self._start()

    async def _wait(self, until: float | None) -> None:
        """For anything to change; everybody who waits wakes up, and looks again."""
        self._news.clear()
        try:
            async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _work(self) -> None:
        while True:
            write = self._buffer.take(time.monotonic())
            if write is None:
                await self._wait(self._buffer.next_due())
                continue
            try:
                result = self._writer(write.key, write.value)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                self._failed(write, error)
            except BaseException as error:
                task = asyncio.current_task()
                if not isinstance(error, asyncio.CancelledError) or task is None or task.cancelling():
                    self._buffer.put_back(write)
                    raise
                self._failed(write, error)  # something the writer waited for was cancelled, not this worker
            else:
                self._written(write)
            self._news.set()


class WriteBehind(_Queue):
    """Made by ``Cache.write_behind``: the same with threads."""

    def __init__(
        self,
        cache: Cache,
        writer: Callable[[str, Any], object],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
    ) -> None:
        super().__init__()
        self._cache = cache
        self._writer = writer
        self._ttl = ttl
        self._namespace = namespace
        self._make_threads()

    def _make_threads(self) -> None:
        self._changed = threading.Condition()
        # The writer has to get the values of a key in the order in which the cache got them.
        self._in_order = [threading.Lock() for _ in range(_STRIPES)]
        self._workers: list[threading.Thread] = []
        self._stop = threading.Event()

    def forget_in_child(self) -> None:
        """The threads are the parent's, too."""
        super().forget_in_child()
        self._make_threads()

    def set(self, key: str, value: Any) -> bool:
        """Cache ``value`` now and hand it to the writer soon; see ``AsyncWriteBehind.set``."""
        with self._changed:
            self._begin()
            self._changed.wait_for(lambda: self.pending + self._coming < _MAX_PENDING)
            self._coming += 1
        try:
            with self._in_order[hash(str(key)) % _STRIPES]:
                cached = self._cache.set(key, value, ttl=self._ttl, namespace=self._namespace)
                with self._changed:
                    self._buffer.add(key, value)
        finally:
            with self._changed:
                self._coming -= 1
                self._begin()
                self._changed.notify_all()
        return cached

    def drain(self) -> int:
        """Write what is pending, with short back-off, for about 10 s at most; how many are left, and lost."""
        with self._changed:
            if self.pending:
                self._start()
                self._buffer.hasten()
                self._changed.notify_all()
            at_work = self._at_work()
            if at_work:
                self._changed.wait_for(lambda: not self.pending, _DRAIN)
        if not at_work:
            self._work_here(time.monotonic() + _DRAIN)
        with self._changed:
            self._stop.set()
            workers, self._workers = self._workers, []
            self._changed.notify_all()
        deadline = time.monotonic() + _CANCEL
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            return self._drained()

    def _start(self) -> None:
        if self._at_work():
            return
        self._stop = threading.Event()
        started = [start_thread("nearcache-writer", self._work, self._stop) for _ in range(_WORKERS)]
        self._workers = [worker for worker in started if worker is not None]

    def _begin(self) -> None:
        get_multi_redis_connection_manager().at_close(self.drain)
        self._start()

    def _at_work(self) -> bool:
        return any(worker.is_alive() for worker in self._workers)

    def _work(self, stop: threading.Event) -> None:
        while (write := self._next(stop)) is not None:
            self._write(write)

    def _work_here(self, until: float) -> None:
        """Without a worker: the interpreter is ending, and starts no thread any more."""
        while self.pending and time.monotonic() < until:
            write = self._buffer.take(time.monotonic())
            if write is not None:
                self._write(write)
            else:
                due = self._buffer.next_due()
                time.sleep(max(0.0, min(until, until if due is None else due) - time.monotonic()))

    def _write(self, write: Write) -> None:
        error: BaseException | None = None
        try:
            self._writer(write.key, write.value)
        except BaseException as raised:  # sys.exit() in a writer must not cost its key the thread
            error = raised
        with self._changed:
            if error is None:
                self._written(write)
            else:
                self._failed(write, error)
            self._changed.notify_all()

    def _next(self, stop: threading.Event) -> Write | None:
        with self._changed:
            while not stop.is_set():
                write = self._buffer.take(time.monotonic())
                if write is not None:
                    return write
                due = self._buffer.next_due()
                self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
        return None
