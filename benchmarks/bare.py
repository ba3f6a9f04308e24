"""The least a near tier can be: a dictionary, sockets and hiredis, and nothing of nearcache.

What ``invalidation`` shows of it is the floor on this machine: the server's tracking, a write's and a read's round
trip, and the wake-ups of three processes. It keeps one promise only: a key that is pushed goes from the dictionary,
in order with the replies. It has no namespaces, times to live, versions, deadlines or reconnects.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import hiredis

__all__ = ["AsyncBareReader", "BareReader", "BareWriter"]

_CHUNK = 65_536


def _pack(*words: str) -> bytes:
    return hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub takes one word only


_HELLO = _pack("HELLO", "3")
_TRACK = _pack("CLIENT", "TRACKING", "ON", "NOLOOP")


def _place(url: str) -> tuple[str, int]:
    where = urlsplit(url)
    return str(where.hostname), int(where.port or 6379)


def _connect(url: str) -> socket.socket:
    connection = socket.create_connection(_place(url))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class BareWriter:
    """One blocking socket: a command, its reply."""

    def __init__(self, url: str) -> None:
        self._socket = _connect(url)

    def _ask(self, *words: str) -> None:
        self._socket.sendall(_pack(*words))
        self._socket.recv(_CHUNK)

    def set(self, key: str, value: str, **_: Any) -> None:
        self._ask("SET", key, value)

    def delete(self, key: str) -> None:
        self._ask("DEL", key)


class _Near:
    """The dictionary, and what parses the replies of a connection that reads one value at a time."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.asked = ""  # the key that is being read; none while the connection is set up
        self._parser = hiredis.Reader(encoding="utf-8")

    def parse(self, data: bytes) -> list[Any]:
        """The replies; they, and what is pushed, change the dictionary."""
        self._parser.feed(data)
        replies: list[Any] = []
        while (reply := self._parser.gets()) is not False:
            if not isinstance(reply, hiredis.PushNotification):
                replies.append(reply)
                if self.asked and reply is not None:
                    self.values[self.asked] = reply
            elif reply[0] == "invalidate":
                for key in reply[1]:
                    self.values.pop(key, None)
        return replies


class BareReader:
    """For one thread; another one blocks on the socket, and hands it the replies."""

    def __init__(self, url: str) -> None:
        self._near = _Near()
        self._socket = _connect(url)
        self._replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        for command in (_HELLO, _TRACK):
            self._socket.sendall(command)
            self._replies.get()

    def _read(self) -> None:
        while data := self._socket.recv(_CHUNK):
            for reply in self._near.parse(data):
                self._replies.put(reply)

    def get(self, key: str) -> Any:
        value = self._near.values.get(key)
        if value is not None:
            return value
        self._near.asked = key
        self._socket.sendall(_pack("GET", key))
        return self._replies.get()


class AsyncBareReader(asyncio.Protocol):
    """For one task."""

    _transport: asyncio.Transport
    _reply: asyncio.Future[Any]

    def __init__(self) -> None:
        self._near = _Near()

    @classmethod
    async def connect(cls, url: str) -> AsyncBareReader:
        _, reader = await asyncio.get_running_loop().create_connection(cls, *_place(url))
        for command in (_HELLO, _TRACK):
            await reader._ask(command)
        return reader

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for reply in self._near.parse(data):
            self._reply.set_result(reply)

    def _ask(self, command: bytes) -> asyncio.Future[Any]:
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(command)
        return self._reply

    async def get(self, key: str) -> Any:
        value = self._near.values.get(key)
        if value is not None:
            return value
        self._near.asked = key
        return await self._ask(_pack("GET", key))
