"""One blocking connection and who waits on it. ``thread_lane.py`` says how threads share the work."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections import deque
from time import monotonic
from typing import Any

import hiredis

from ..errors import CommandRefused, ConnectionFailed
from .endpoint import Endpoint
from .hello import Conversation, Greeting, tls_context
from .wire import Hook, pack

__all__ = ["CHUNK", "NOTHING", "ThreadWaiter", "ThreadWire", "open_socket"]

NOTHING = object()
CHUNK = 65_536  # bytes per read


class ThreadWaiter:
    """One thread's commands: how many replies are still to come, and the lock the thread sleeps on."""

    __slots__ = ("done", "due", "error", "heir", "hook", "left", "replies", "wake")

    def __init__(self, count: int, hook: Hook | None, due: float) -> None:
        self.left = count
        self.hook = hook
        self.due = due
        self.replies: list[Any] = []
        self.error: Exception | None = None
        self.done = False
        self.heir = False  # was handed the lead
        self.wake = threading.Lock()
        self.wake.acquire()

    def finish(self, error: Exception | None) -> None:
        if not self.done:
            self.error = error
            self.done = True
            if self.wake.locked():
                self.wake.release()


class ThreadWire:
    """A blocking socket, its parser, and who waits on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = hiredis.Reader(protocolError=ConnectionFailed, replyError=CommandRefused, notEnoughData=NOTHING)
        self.out: list[bytes] = []
        self.waiting: deque[ThreadWaiter] = deque()
        self.led = False
        self.last_read = monotonic()
        self.client_id: int | None = None
        self.cut_short = False  # a write has begun and not ended
        self.lost: Exception | None = None

    def set_timeout(self, seconds: float) -> None:
        """How long one read or write may take; then it raises ``BlockingIOError`` or ``TimeoutError``."""
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(seconds)  # OpenSSL would try a read that the kernel gave up for ever
            return
        # The kernel's own timeouts: Python's cost two more system calls per command.
        self.sock.settimeout(None)
        interval = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.sock.setsockopt(socket.SOL_SOCKET, option, interval)

    def readable(self, timeout: float) -> bool:
        """Whether there is something to read within ``timeout`` seconds."""
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def talk(self, conversation: Conversation[Greeting]) -> Greeting:
        """Drive the handshake."""
        replies: list[Any] | None = None
        try:
            while True:
                commands = conversation.send(replies)  # type: ignore[arg-type]
                self.sock.sendall(b"".join(map(pack, commands)))
                replies = []
                while len(replies) < len(commands):
                    reply = self.reader.gets()
                    if reply is not NOTHING:
                        replies.append(reply)
                    elif chunk := self.sock.recv(CHUNK):
                        self.reader.feed(chunk)
                    else:
                        raise ConnectionFailed("the connection was lost: closed by the server")
        except StopIteration as stop:
            return stop.value


def open_socket(endpoint: Endpoint, path: str | None, timeout: float) -> socket.socket:
    """Connect by TCP, TLS, or the unix socket at ``path``; ``timeout`` in seconds."""
    path = path or (endpoint.path if endpoint.kind == "unix" else None)
    if path is not None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        try:
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return sock
    context = tls_context(endpoint) if endpoint.tls else None
    sock = socket.create_connection((endpoint.host, endpoint.port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock if context is None else context.wrap_socket(sock, server_hostname=endpoint.host)
