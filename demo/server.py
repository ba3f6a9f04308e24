"""uvicorn beside other work on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Self

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Serves on a free port of this machine while the ``async with`` block runs, then ends gracefully.

    Attributes:
        url: where it answers.
    """

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=10))
        self.url = ""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to ``asyncio.run``: they end the visit first, then the server."""
        yield

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self.serve())
        while not self.started:
            if self._serving.done():
                await self._serving
                raise RuntimeError("the application did not start")
            await asyncio.sleep(0.01)
        host, port = self.servers[0].sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def wait(self) -> None:
        """Return when the server has ended."""
        await asyncio.shield(self._serving)

    async def stop(self) -> None:
        """Take no more requests, answer those that are there, run the application's shutdown. Idempotent."""
        self.should_exit = True
        await self.wait()
