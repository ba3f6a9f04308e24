"""[shell] Clients that live as long as the application: connected before it starts, disconnected when it has ended."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from ..connections import get_multi_redis_connection_manager
from .cache import safely

if TYPE_CHECKING:
    from ..aio import AsyncCache
    from ..settings import Settings

__all__ = ["Lifespan"]

Message = MutableMapping[str, Any]

_ENDS = frozenset(["lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"])
_running: set[object] = set()  # lifespans in this process: the clients they share end with the last one


class Lifespan:
    """The lifespan of an application that needs a cache connected.

    Args:
        app: the application.
        cache: to be connected.
        settings: where to; the environment's when left out.
        connect: awaited instead of connecting the cache.

    Attributes:
        late: not connected yet: the first request has to, when there is no lifespan.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        cache: AsyncCache,
        settings: Settings | None,
        connect: Callable[[], Awaitable[object]] | None,
    ) -> None:
        self._app = app
        self._connect = connect or (lambda: cache.initialize(settings))
        self.late = True

    async def connect_late(self) -> None:
        """For a server, a test client or an application that knows no lifespan."""
        await safely(self._connect(), "no cache: it could not be connected", level=logging.ERROR)
        self.late = False

    async def run(self, scope: Any, receive: Any, send: Any) -> None:
        """Connected before the application starts, disconnected when it has ended, however it ends."""
        lifespan = object()

        async def starting() -> Message:
            message: Message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._connect()
                except Exception as error:
                    # Without this message servers think that the application knows no lifespan, and go on.
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                self.late = False
                _running.add(lifespan)
            return message

        async def ending(message: Message) -> None:
            if message["type"] in _ENDS:
                await self._end(lifespan)
            await send(message)

        try:
            await self._app(scope, starting, ending)
        finally:
            await self._end(lifespan)

    async def _end(self, lifespan: object) -> None:
        if lifespan not in _running:
            return
        _running.discard(lifespan)
        self.late = True
        if not _running:
            await safely(get_multi_redis_connection_manager().disconnect_all(), "could not disconnect")
