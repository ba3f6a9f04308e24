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
from ..sentinels import DEFAULT, Default
from .buffer import Buffer, Write

if TYPE_CHECKING:
    from ..aio import AsyncCache
    from ..cache import Cache
    from ..core.ttl import TTL

__all__ = ["AsyncWriteBehind", "WriteBehind"]

_log = logging.getLogger("nearcache.write_behind")
_WORKERS = 4
_ATTEMPTS = 10  # with back-off: about 90 s
_MAX_PENDING = 10_000  # more wait in set()
_DRAIN = 10.0  # seconds ``drain`` takes at most


def _log_failure(write: Write, error: Exception, again: bool) -> None:
    if again:
        _log.warning("write-behind of %r failed, attempt %d: %r", write.key, write.attempt, error)
    else:
        _log.error("write-behind of %r given up after %d attempts: %r", write.key, write.attempt, error)


class AsyncWriteBehind:
    """Made by ``AsyncCache.write_behind``."""

    def __init__(
        self,
        cache: AsyncCache,
        writer: Callable[[str, Any], Awaitable[object] | object],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
    ) -> None:
        self._cache = cache
        self._writer = writer
        self._ttl = ttl
        self._namespace = namespace
        self._buffer = Buffer(_ATTEMPTS)
        self._changed = asyncio.Condition()
        self._workers: list[asyncio.Task[None]] = []
        self._hurry = False

    @property
    def pending(self) -> int:
        """Values that have not reached the writer yet."""
        return len(self._buffer)

    async def set(self, key: str, value: Any) -> bool:
        """Cache ``value`` now and hand it to the writer soon; whether the server has it.

        The writer gets it even when the cache is away. Waits when 10,000 values are pending.
        """
        cached = await self._cache.set(key, value, ttl=self._ttl, namespace=self._namespace)
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._buffer) < _MAX_PENDING)
            if not self._workers:
                self._hurry = False
                get_multi_redis_connection_manager().at_close(self.drain)
                self._workers = [asyncio.create_task(self._work()) for _ in range(_WORKERS)]
            self._buffer.add(key, value)
            self._changed.notify_all()
        return cached

    async def drain(self) -> int:
        """Write what is pending, without waiting for back-off, for at most 10 s; how many are left, and lost."""
        workers, self._workers = self._workers, []
        if workers:
            async with self._changed:
                self._hurry = True
                self._changed.notify_all()
            _, late = await asyncio.wait(workers, timeout=_DRAIN)
            for worker in late:
                worker.cancel()
        if self.pending:
            _log.error("write-behind: %d values did not reach the writer", self.pending)
        return self.pending

    async def _work(self) -> None:
        while (write := await self._next()) is not None:
            try:
                result = self._writer(write.key, write.value)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                async with self._changed:
                    again = self._buffer.failed(write, time.monotonic())
                    _log_failure(write, error, again)
                    self._changed.notify_all()
            else:
                async with self._changed:
                    self._buffer.written(write)
                    self._changed.notify_all()

    async def _next(self) -> Write | None:
        async with self._changed:
            while True:
                write = self._buffer.take(time.monotonic(), hurry=self._hurry)
                if write is not None or (self._hurry and not self.pending):
                    return write
                due = self._buffer.next_due()
                try:
                    async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                        await self._changed.wait()
                except TimeoutError:
                    continue


class WriteBehind:
    """Made by ``Cache.write_behind``: the same with threads."""

    def __init__(
        self,
        cache: Cache,
        writer: Callable[[str, Any], object],
        *,
        ttl: TTL | Default = DEFAULT,
        namespace: str | None = None,
    ) -> None:
        self._cache = cache
        self._writer = writer
        self._ttl = ttl
        self._namespace = namespace
        self._buffer = Buffer(_ATTEMPTS)
        self._changed = threading.Condition()
        self._workers: list[threading.Thread] = []
        self._hurry = False

    @property
    def pending(self) -> int:
        """Values that have not reached the writer yet."""
        return len(self._buffer)

    def set(self, key: str, value: Any) -> bool:
        """Cache ``value`` now and hand it to the writer soon; whether the server has it."""
        cached = self._cache.set(key, value, ttl=self._ttl, namespace=self._namespace)
        with self._changed:
            self._changed.wait_for(lambda: len(self._buffer) < _MAX_PENDING)
            if not self._workers:
                self._hurry = False
                get_multi_redis_connection_manager().at_close(lambda: asyncio.to_thread(self.drain))
                self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(_WORKERS)]
                for worker in self._workers:
                    worker.start()
            self._buffer.add(key, value)
            self._changed.notify_all()
        return cached

    def drain(self) -> int:
        """Write what is pending, without waiting for back-off, for at most 10 s; how many are left, and lost."""
        workers, self._workers = self._workers, []
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
        deadline = time.monotonic() + _DRAIN
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        if self.pending:
            _log.error("write-behind: %d values did not reach the writer", self.pending)
        return self.pending

    def _work(self) -> None:
        while (write := self._next()) is not None:
            try:
                self._writer(write.key, write.value)
            except Exception as error:
                with self._changed:
                    again = self._buffer.failed(write, time.monotonic())
                    _log_failure(write, error, again)
                    self._changed.notify_all()
            else:
                with self._changed:
                    self._buffer.written(write)
                    self._changed.notify_all()

    def _next(self) -> Write | None:
        with self._changed:
            while True:
                write = self._buffer.take(time.monotonic(), hurry=self._hurry)
                if write is not None or (self._hurry and not self.pending):
                    return write
                due = self._buffer.next_due()
                self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
