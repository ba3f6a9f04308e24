"""An application behind uvicorn in a thread of its own process, and the fastest loop there is to ask it from."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Served", "fastest_loop"]

_START_DEADLINE = 30.0  # seconds


class Served:
    """One worker on a free port of 127.0.0.1.

    Args:
        app: an ASGI application.
        settings: of uvicorn.

    Attributes:
        port: where it answers.
    """

    def __init__(self, app: Any, **settings: Any) -> None:
        import uvicorn

        listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(listening.getsockname()[1])
        self._server = uvicorn.Server(uvicorn.Config(app, access_log=False, **settings))
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_DEADLINE
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the application does not start behind uvicorn")
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
