"""The load: requests that are due at their time, whatever became of those before, and what was answered."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from ..serving import fastest_loop
from .flights import AIRPORTS
from .items import CHANGING, HELD, Versions, path_of, value_of

__all__ = ["Answer", "Kind", "Load", "Round"]

RATE = 500  # requests per second
_GIVEN_UP = 30.0  # seconds
_PROBE_EVERY = 0.02  # seconds
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_DEMO = (
    *("/delays", "/planes/age", "/routes/busiest?limit=10", "/weather/worst?limit=10"),
    *(f"/airports/{faa}" for faa in AIRPORTS),
    *(f"/flights?origin=JFK&dest={faa}&month=7&day=4" for faa in AIRPORTS),
)


class Kind:
    """What a request is for."""

    HELD, CHANGING, WRITE = "held", "changing", "write"


class Answer(NamedTuple):
    """One request. Times are seconds of the monotonic clock.

    Attributes:
        due: when it was to be sent.
        sent: when it was.
        version: of the item, in what was answered; 0 for an error and for what has none.
        age: for how long, when it was sent, a newer version had been brought about by a finished request.
        own: it is older than what the answering process itself had changed.
        wrong: what is wrong with it, but for its age.
        error: why there is no answer.
    """

    kind: str
    process: int
    due: float
    sent: float
    ended: float
    item: int = -1
    version: int = 0
    age: float = 0.0
    own: bool = False
    wrong: str = ""
    error: str = ""


class Round(NamedTuple):
    """Attributes: ``probes`` has when each process was found to work, or not."""

    answers: list[Answer]
    probes: list[tuple[float, int, bool]]


class Load:
    """Asks the processes of the application.

    Args:
        versions: the file of the items' versions.
        ports: of the processes.
        end: the file whose appearance ends the load.
    """

    def __init__(self, versions: str, ports: list[int], seed: int, end: str) -> None:
        self._runner = asyncio.Runner(loop_factory=fastest_loop())
        self._versions = Versions(Path(versions))
        self._pools = [_Pool(port) for port in ports]
        self._rng = random.Random(f"load {seed}")
        self._end = Path(end)
        self._answers: list[Answer] = []
        # By item: when a request that changed it had ended, who had answered it, and the version it made.
        self._changes: dict[int, list[tuple[float, int, int]]] = {item: [] for item in (*HELD, *CHANGING)}
        self._writing: set[int] = set()

    # -- orders

    def warm(self) -> str:
        """Have every process hold everything; what went wrong, if anything."""
        return self._runner.run(self._warm())

    def ask(self) -> Round:
        """Go on until the end."""
        return self._runner.run(self._ask())

    def review(self, far: bool) -> list[Answer]:
        """Every item, from every process; ``far``: without the near tier."""
        return self._runner.run(self._review(far))

    def close(self) -> None:
        self._runner.run(self._close())
        self._runner.close()
        self._versions.close()

    # -- how they are carried out

    async def _warm(self) -> str:
        paths = [*_DEMO, *map(path_of, (*HELD, *CHANGING))]
        for _ in range(2):
            for pool in self._pools:
                for path in paths:
                    try:
                        await pool.request("GET", path)
                    except _NoAnswer as error:
                        return f"{path}: {error}"
        return ""

    async def _ask(self) -> Round:
        self._answers = []
        probes: list[tuple[float, int, bool]] = []
        probing = [asyncio.create_task(self._probe(process, probes)) for process in range(len(self._pools))]
        running: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        for number, job in enumerate(self._jobs()):
            due = began + number / RATE
            if number % 50 == 0 and self._end.exists():
                break
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._one(due, number % len(self._pools), *job))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)
        for task in probing:
            task.cancel()
        await asyncio.wait(probing)
        return Round(self._answers, probes)

    def _jobs(self) -> Iterator[tuple[str, int, str]]:
        """What is asked for: a kind, an item or -1, a path."""
        rng = self._rng
        while True:
            dice = rng.random() * 100
            if dice < 40:
                yield Kind.HELD, -1, rng.choice(_DEMO)
            elif dice < 65:
                item = rng.choice(HELD)
                yield Kind.HELD, item, path_of(item)
            else:
                item = rng.choice(CHANGING)
                yield (Kind.CHANGING if dice < 95 else Kind.WRITE), item, path_of(item)

    async def _one(self, due: float, process: int, kind: str, item: int, path: str) -> None:
        writes = kind == Kind.WRITE
        if writes:
            if item in self._writing:
                return
            self._writing.add(item)
        sent = time.monotonic()
        changes = len(self._changes[item]) if item >= 0 else 0
        answer = Answer(kind, process, due, sent, 0.0, item)
        try:
            body = await self._pools[process].request("PUT" if writes else "GET", path)
            answer = answer._replace(ended=time.monotonic())
            if writes:
                self._changes[item].append((answer.ended, process, int(body)))
            elif item >= 0:
                answer = self._judge(answer, body, self._changes[item][:changes])
        except _NoAnswer as error:
            answer = answer._replace(ended=time.monotonic(), error=f"{path}: {error}")
        if writes:
            self._writing.discard(item)
        self._answers.append(answer)

    def _judge(self, answer: Answer, body: bytes, changes: list[tuple[float, int, int]]) -> Answer:
        item = answer.item
        try:
            value = json.loads(body)
            version = value["version"]
        except (ValueError, TypeError, KeyError):
            return answer._replace(wrong=f"no item: {body[:60]!r}")
        answer = answer._replace(version=version)
        if value != value_of(item, version):
            return answer._replace(wrong=f"of item {item}: {body[:60]!r}")
        if version > self._versions[item]:
            return answer._replace(wrong=f"item {item}: {version} is from the future")
        newer = [change for change in changes if change[2] > version]
        if not newer:
            return answer
        own = any(process == answer.process for _, process, _ in newer)
        return answer._replace(age=answer.sent - min(when for when, _, _ in newer), own=own)

    async def _review(self, far: bool) -> list[Answer]:
        self._answers = []
        for process in range(len(self._pools)):
            for item in (*HELD, *CHANGING):
                page = path_of(item).startswith("/purge/")
                if not (far and page):
                    path = f"/far/{item}" if far else path_of(item)
                    await self._one(time.monotonic(), process, Kind.CHANGING, item, path)
        return self._answers

    async def _probe(self, process: int, probes: list[tuple[float, int, bool]]) -> None:
        pool, number = self._pools[process], 0
        while True:
            number += 1
            began = time.monotonic()
            try:
                works = await pool.request("GET", f"/probe/{number}") == b"true"
            except _NoAnswer:
                works = False
            probes.append((time.monotonic(), process, works))
            await asyncio.sleep(max(0.0, began + _PROBE_EVERY - time.monotonic()))

    async def _close(self) -> None:
        for pool in self._pools:
            pool.close()


class _NoAnswer(Exception):
    """Anything but 200."""


class _Pool:
    """Connections to one process; as many as there are requests at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []

    async def request(self, method: str, path: str) -> bytes:
        """The body of the answer.

        Raises:
            _NoAnswer: there is none, or its status is not 200.
        """
        try:
            async with asyncio.timeout(_GIVEN_UP):
                while self._idle and self._idle[-1].transport.is_closing():
                    self._idle.pop()
                connection = self._idle.pop() if self._idle else await self._connect()
                status, body = await connection.request(
                    f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncontent-length: 0\r\n\r\n".encode()
                )
        except (OSError, TimeoutError) as error:
            raise _NoAnswer(repr(error)) from error
        self._idle.append(connection)
        if status != b"200":
            raise _NoAnswer(f"{status.decode()} {body[:200]!r}")
        return body

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
        return connection

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()


class _Connection(asyncio.Protocol):
    """One request after the other."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    async def request(self, request: bytes) -> tuple[bytes, bytes]:
        """Status and body."""
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        length = _LENGTH.search(self._received, 0, end + 2)
        if length is None:
            self._answer.set_exception(ConnectionResetError(f"no length: {self._received[:80]!r}"))
        elif len(body := self._received[end + 4 :]) >= int(length[1]):
            self._answer.set_result((self._received[9:12], body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("closed early"))
