"""[shell] Whose turn it is to ask the application: who asks for all, and who waits.

How it works
============

The application runs in the task of the request, as it would without a cache. What waits is the cache: ``Turn.load`` is
the loader of a ``replace`` on the cache, which therefore runs when this request is the one of the whole fleet that asks
the application, and it returns what the ``Recorder`` makes of the response: a record to be stored, or that there is
none. Everybody else who asks for the same meanwhile waits in the same ``replace``, in this process for its flight, in
others for its lease, and gets the record; or hears, as soon as the response's head is there, that it is not to be
shared, and asks the application on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from ..core.loading import current_load
from ..sentinels import ABSENT
from .cache import COMPRESS_MIN, HTTPCache

__all__ = ["Kept", "Turn", "is_of_a_scope"]


class Kept(NamedTuple):
    """What is to be stored for a URL.

    Attributes:
        value: the record.
        seconds: how long it is of use.
        tags: by which it can be purged.
    """

    value: tuple[Any, ...]
    seconds: float
    tags: list[str]


class _Again(Exception):
    """The request that asked for all was cancelled: another one has to."""


class Turn:
    """One request's turn to ask the application for all.

    Attributes:
        comes: done when it is this request's turn.
        late: it took too long until somebody else was done.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.comes: asyncio.Future[None] = loop.create_future()
        self._outcome: asyncio.Future[Kept | None] = loop.create_future()
        self._asking: asyncio.Task[Any] | None = None
        self.late = False

    async def take(
        self, cache: HTTPCache, key: str, outdated: Callable[[Any], bool] | None, patience: float | None
    ) -> Any:
        """Wait until it is this request's turn, and return None; or until somebody else has asked: what is stored then.

        ``ABSENT`` when who asked gave up: somebody else has to. Whatever else goes wrong, and after ``patience``
        seconds, it is nobody's turn: None, and ``comes`` is not done.
        """
        self._asking = asyncio.ensure_future(cache.replace(key, self._load, outdated))
        self._asking.add_done_callback(_heard)
        try:
            await asyncio.wait({self._asking, self.comes}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.drop()
            raise
        if self.comes.done():
            return None
        asking = self._asking
        if asking.done() and not asking.cancelled():
            error = asking.exception()
            return asking.result() if error is None else ABSENT if isinstance(error, _Again) else None
        self.late = not asking.done()
        self.drop()
        asking.cancel()
        return None

    async def _load(self) -> Any:
        if self._outcome.done():
            self._outcome.result()  # nobody is there any more
        elif not self.comes.done():
            self.comes.set_result(None)
        kept = await asyncio.shield(self._outcome)
        load = current_load()
        if kept is None:
            load.do_not_store()
            return None
        load.ttl, load.tags, load.compress_min = kept.seconds, kept.tags, COMPRESS_MIN
        return kept.value

    def give(self, kept: Kept | None) -> None:
        """What everybody else gets; None tells them to ask for themselves."""
        if not self._outcome.done():
            self._outcome.set_result(kept)

    def leave(self, gone: bool) -> None:
        """The application has answered. If nothing was kept because the client has gone, somebody else has to ask."""
        if gone:
            self.drop()
        else:
            self.give(None)

    def drop(self) -> None:
        """This request asks no more: somebody else has to."""
        if not self._outcome.done():
            self._outcome.set_exception(_Again())
            self._outcome.exception()

    async def stored(self) -> None:
        """Wait until what was given is stored, or the lease is given back."""
        if self._asking is not None and not self._asking.done():
            await asyncio.wait({self._asking})

    async def settled(self, *, cancelled: bool) -> None:
        """The same when the application has ended; ``cancelled``, but has not waited since."""
        try:
            await (asyncio.sleep(0) if cancelled else self.stored())
        except asyncio.CancelledError as error:
            if not is_of_a_scope(error):
                raise


def _heard(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def is_of_a_scope(error: asyncio.CancelledError) -> bool:
    """Whether a cancel scope of anyio did it: that cancels whatever is awaited, time and again, until it is left."""
    return bool(error.args) and str(error.args[0]).startswith(
        ("Cancelled via cancel scope", "Cancelled by cancel scope")
    )
