"""What stands between the application and the server, and behaves badly when told to."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from contextlib import suppress

__all__ = ["Proxy"]

_RESET_EVERY = 0.1  # seconds
_DELAY = (0.05, 2.0)  # seconds; the deadline of a command is 1
_WHOLE = 4000  # bytes that pass at most before a connection is cut
_NO_LINGER = struct.pack("ii", 1, 0)


class Proxy:
    """Passes on what comes for ``port``.

    Attributes:
        port: where it listens.
        mode: ``""``, ``reset``, ``delay`` or ``truncate``.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.mode = ""
        self._target = port
        self._rng = random.Random(f"proxy {seed}")
        self._loop = asyncio.new_event_loop()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._behaves = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._started.wait()

    def behave(self, mode: str) -> None:
        """From now on, on connections that are there as well; what is held back is let go."""
        self.mode = mode
        self._loop.call_soon_threadsafe(self._behaves.clear if mode else self._behaves.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])
        resetting = self._loop.create_task(self._reset())
        self._started.set()
        self._loop.run_forever()
        resetting.cancel()
        self._server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        pair = (writer, back)
        self._pairs.add(pair)
        replies = asyncio.ensure_future(self._pass_replies(there, writer))
        try:
            while data := await reader.read(65536):
                back.write(data)
        except OSError:
            pass
        finally:
            replies.cancel()
            self._pairs.discard(pair)
            for each in pair:
                each.close()

    async def _pass_replies(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        left = self._rng.randrange(_WHOLE)
        with suppress(OSError):
            while data := await server.read(65536):
                if self.mode == "delay":
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._behaves.wait(), self._rng.uniform(*_DELAY))
                if self.mode == "truncate":
                    data, left = data[:left], left - len(data)
                client.write(data)
                if self.mode == "truncate" and left <= 0:
                    break
        client.close()

    async def _reset(self) -> None:
        while True:
            await asyncio.sleep(_RESET_EVERY)
            if self.mode == "reset":
                for pair in list(self._pairs):
                    for writer in pair:
                        if (link := writer.get_extra_info("socket")) is not None and not writer.is_closing():
                            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                            writer.transport.abort()
