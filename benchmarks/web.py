"""The two ends of a connection: an application behind uvicorn, and who asks it as quickly as it answers.

Both are made in processes of their own. The asking end must cost less than the answering one, or it is what is
measured: a ``Protocol`` looks for nothing in a response but its length.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import NamedTuple, cast

from .server import run_on
from .serving import Served, fastest_loop
from .web_contenders import CONTENDERS, PATH, Origin

__all__ = ["CONNECTIONS", "Asked", "Load", "WebServer"]

CONNECTIONS = 32
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class WebServer:
    """uvicorn with one contender's application, one worker, on a free port of 127.0.0.1."""

    def __init__(self, name: str, url: str) -> None:
        self._origin = Origin()
        app = next(contender for contender in CONTENDERS if contender.name == name).make(url, self._origin)
        self._served = Served(app, log_level="warning")

    def where(self) -> int:
        """The port."""
        return self._served.port

    def usage(self) -> tuple[int, float]:
        """How often the application was asked, and the seconds of processor time this process has taken."""
        return self._origin.calls, time.process_time()

    def close(self) -> None:
        self._served.close()


class Asked(NamedTuple):
    """What became of a while of asking."""

    requests: int
    seconds: float
    processor: float  # seconds that the asking process has taken


class Load:
    """Asks over so many connections at once, on each one request after the other."""

    def __init__(self, processors: set[int]) -> None:
        run_on(processors)
        self._runner = asyncio.Runner(loop_factory=fastest_loop())
        self._connections: list[_Connection] = []

    def connect(self, port: int) -> None:
        self._runner.run(self._connect(port))

    async def _connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        lines = (f"GET {PATH} HTTP/1.1", f"host: 127.0.0.1:{port}", "user-agent: benchmarks", "accept: */*", "", "")
        request = "\r\n".join(lines).encode()
        for connection in self._connections:
            connection.transport.close()
        self._connections = []
        for _ in range(CONNECTIONS):
            _, connection = await loop.create_connection(lambda: _Connection(request), "127.0.0.1", port)
            self._connections.append(connection)

    def ask(self, seconds: float) -> Asked:
        """Ask for so long; every request that was sent is answered."""
        return self._runner.run(self._ask(seconds))

    async def _ask(self, seconds: float) -> Asked:
        loop = asyncio.get_running_loop()
        finished = [loop.create_future() for _ in self._connections]
        began, processor = time.perf_counter(), time.process_time()
        for connection, future in zip(self._connections, finished, strict=True):
            connection.begin(future)
        await asyncio.sleep(seconds)
        for connection in self._connections:
            connection.last = True
        counts = await asyncio.gather(*finished)
        return Asked(sum(counts), time.perf_counter() - began, time.process_time() - processor)

    def close(self) -> None:
        self._runner.close()


class _Connection(asyncio.Protocol):
    """One request after the other."""

    transport: asyncio.Transport
    write: Callable[[bytes], None]

    def __init__(self, request: bytes) -> None:
        self.last = False
        self._request = request
        self._done: asyncio.Future[int]
        self._answers = 0
        self._missing = 0  # bytes of the body that is arriving; -1 for chunks
        self._begun = b""  # of a response whose fields are not all there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self.write = self.transport.write

    def begin(self, done: asyncio.Future[int]) -> None:
        self.last, self._answers, self._done = False, 0, done
        self.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._missing > 0:
            self._missing -= len(data)
        elif self._missing == 0:
            data = self._begun + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._begun = data
                return
            self._begun = b""
            if not data.startswith(b"HTTP/1.1 200 "):
                self._done.set_exception(RuntimeError(f"answered {data[:end]!r}"))
                return
            length = _LENGTH.search(data, 0, end)
            self._missing = int(length[1]) - (len(data) - end - 4) if length is not None else -1
        if self._missing < 0 and data.endswith(b"\r\n0\r\n\r\n"):
            self._missing = 0
        if self._missing == 0:
            self._answers += 1
            if self.last:
                self._done.set_result(self._answers)
            else:
                self.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "_done") and not self._done.done():
            self._done.set_exception(RuntimeError(f"a connection ended early: {error}"))
