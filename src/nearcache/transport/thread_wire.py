"""One blocking connection and who waits on it. ``thread_lane.py`` says how threads share the work."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from itertools import chain
from math import inf
from time import monotonic
from typing import Any, TypeVar

import hiredis

from ..core.ring import UNKNOWN
from ..errors import CommandRefused, ConnectionFailed
from .descriptors import close_in_children
from .endpoint import Endpoint
from .hello import Conversation, local_clock, refusal_of, shake_hands
from .tls import explained, tls_context
from .wire import LONGEST, Hook, Listener, afresh, announce, pack

__all__ = ["CHUNK", "ThreadWaiter", "ThreadWire", "open_socket", "open_thread_wire"]

T = TypeVar("T")

_PushNotification = hiredis.PushNotification
_NOTHING = object()
CHUNK = 65_536  # bytes per read
_ROUSED = 2  # threads that are woken at once


class ThreadWaiter:
    """One thread's commands: how many replies are still to come, and the lock the thread sleeps on."""

    __slots__ = ("away", "data", "done", "due", "error", "heir", "hook", "left", "replies", "wake")

    def __init__(self, data: bytes, count: int, hook: Hook | None, due: float) -> None:
        self.data = data
        self.left = count
        self.hook = hook
        self.due = due
        self.replies: list[Any] = []
        self.error: Exception | None = None
        self.done = False
        self.heir = False  # was handed the lead
        self.away = False  # the thread does something else meanwhile, and cannot lead
        self.wake = threading.Lock()
        self.wake.acquire()

    def settle(self, error: Exception | None) -> bool:
        """All its replies are there, or why not; whether that was not known before. The thread still sleeps."""
        if self.done:
            return False
        self.error = error
        self.done = True
        return True

    def finish(self, error: Exception | None) -> None:
        """Tell the thread that all its replies are there, or why not."""
        if self.settle(error):
            self.rouse()

    def show(self, hook: Hook) -> Exception | None:
        """Let the hook see the replies; what it raised."""
        try:
            hook(self.replies)
        except Exception as error:  # noqa: BLE001  # the caller's, not the connection's, nor the leader's
            return error
        return None

    def rouse(self) -> None:
        # A leader, a thread that closes and one that was interrupted may do so at once.
        try:  # noqa: SIM105  # a context manager would cost as much as all the rest
            self.wake.release()
        except RuntimeError:
            pass


class ThreadWire:
    """A blocking socket, its parser, who waits on it, and who may use it.

    Only the leader reads, writes, parses and touches ``waiting``. The socket is shut down when it is lost, which wakes
    whoever is blocked on it, but closed only when nobody can be: by then its number may be another file's.
    """

    def __init__(
        self, sock: socket.socket, listener: Listener, refused: Callable[[str], CommandRefused] = CommandRefused
    ) -> None:
        self.sock = sock
        self._listener = listener
        self._timeout = 0.0
        self.reader = hiredis.Reader(protocolError=ConnectionFailed, replyError=refused, notEnoughData=_NOTHING)
        self.lock = threading.Lock()  # for what follows; held for a few instructions
        self.out: list[ThreadWaiter] = []  # their commands are not written yet
        self.leader: object | None = None
        self.watched = False
        self.lost: Exception | None = None
        self.waiting: deque[ThreadWaiter] = deque()
        self.ready: deque[ThreadWaiter] = deque()  # their replies are there, and they still sleep
        self.since = self.last_read = monotonic()
        self.client_id: int | None = None
        self.node: tuple[str, int] | None = None  # where it goes, if there is a choice
        self.server = ""
        self.tracks = False
        self.clock = local_clock()
        self.history = UNKNOWN
        self.cut_short = False  # a write has begun and not ended

    @property
    def error(self) -> Exception:
        """Why it was lost, for one caller."""
        return afresh(self.lost or ConnectionFailed("the connection was lost"))

    def replies_to(self, waiter: ThreadWaiter) -> list[Any]:
        """What it has waited for."""
        if waiter.error is not None:
            raise waiter.error
        if not waiter.done:
            # Another thread has found the connection lost and has not come round to telling everybody.
            raise self.error
        return waiter.replies

    def hand_over(self) -> None:
        """Give the lead to the longest waiting thread, or to nobody."""
        with self.lock:
            if self.lost is None:
                for waiter in chain(self.waiting, self.out):
                    if not waiter.done and not waiter.away:
                        self.leader = waiter
                        waiter.heir = True
                        waiter.rouse()
                        return
            self.leader = None
            self._close_unused()

    def lose(self, error: Exception) -> bool:
        """Shut the connection down; whether nobody did before."""
        with self.lock:
            if self.lost is not None:
                return False
            self.lost = error
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which takes the TLS away from under whoever reads.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
            self._close_unused()
            return True

    def stop_watching(self) -> None:
        with self.lock:
            self.watched = False
            self._close_unused()

    def _close_unused(self) -> None:
        if self.lost is not None and self.leader is None and not self.watched:
            self.sock.close()

    def set_timeout(self, seconds: float) -> None:
        """How long one read or write may take; then it raises ``BlockingIOError`` or ``TimeoutError``."""
        self._timeout = seconds
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(seconds)  # OpenSSL would try a read that the kernel gave up for ever
            return
        # The kernel's own timeouts: Python's cost two more system calls per command.
        self.sock.settimeout(None)
        interval = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.sock.setsockopt(socket.SOL_SOCKET, option, interval)

    def write(self) -> None:
        """Write all that is queued, by whomever."""
        if not self.out:
            return
        with self.lock:
            out = self.out
            self.waiting.extend(out)
            self.out = []
        self.cut_short = True
        self.sock.sendall(out[0].data if len(out) == 1 else b"".join([waiter.data for waiter in out]))
        self.cut_short = False

    def wait(self, due: float) -> None:
        """A read waits for the whole timeout by itself; a thread that was handed the lead late has less."""
        left = due - monotonic()
        if left > 0.9 * self._timeout or (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()):
            return
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(max(left, 0.0) * 1000):
            raise TimeoutError

    def take(self, chunk: bytes) -> None:
        """Parse what was read, and give it to those who wait for it.

        Raises:
            ConnectionFailed: it is the end, or no sense can be made of it: no RESP, a reply nobody asked for, a push
                that could not be carried out.
            TimeoutError: the leader's reply is overdue, and this was not the last of it.
        """
        if not chunk:
            raise ConnectionFailed("closed by the server")
        waiting, gets, leader = self.waiting, self.reader.gets, self.leader
        try:
            self.reader.feed(chunk)
            while (reply := gets()) is not _NOTHING:
                if reply.__class__ is _PushNotification:
                    announce(reply, self._listener)
                    continue
                if not waiting:
                    raise ConnectionFailed("a reply that nobody asked for")
                head = waiting[0]
                head.replies.append(reply)
                head.left -= 1
                if not head.left:
                    waiting.popleft()
                    if head.settle(head.show(head.hook) if head.hook is not None else None) and head is not leader:
                        self.ready.append(head)
        except ConnectionFailed:
            raise
        except Exception as error:
            raise _senseless(error) from error
        finally:
            self.rouse_ready(_ROUSED)
        self.last_read = now = monotonic()
        due = inf
        if isinstance(leader, ThreadWaiter):
            if leader.done:
                return
            due = leader.due
        if self.reader.len() > LONGEST:
            raise ConnectionFailed(f"the server began a reply of more than {LONGEST:,} bytes")
        if now >= due:
            raise TimeoutError  # reads that bring a little each never time out by themselves

    def rouse_ready(self, most: int) -> None:
        """Wake so many of those whose replies are there. Whoever wakes wakes one more: ``thread_lane.py`` says why."""
        for _ in range(most):
            try:
                self.ready.popleft().rouse()
            except IndexError:
                return

    def read_ready(self) -> bytes | None:
        """What has come, without waiting; ``None`` when nothing has, no bytes at the end."""
        if not isinstance(self.sock, ssl.SSLSocket):
            try:
                return self.sock.recv(CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0.0)  # something readable may be half a record, or none of ours
        try:
            return self.sock.recv(CHUNK)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        finally:
            self.sock.settimeout(timeout)

    def talk(self, conversation: Conversation[T]) -> T:
        """Carry out a conversation, before anybody else uses the connection."""
        replies: list[Any] | None = None
        try:
            while True:
                commands = conversation.send(replies)  # type: ignore[arg-type]
                try:
                    self.sock.sendall(b"".join(map(pack, commands)))
                except ssl.SSLEOFError:
                    self.sock.recv(CHUNK)  # raises what the server said in farewell, if it did
                    raise
                replies = []
                while len(replies) < len(commands):
                    try:
                        reply = self.reader.gets()
                    except ConnectionFailed:
                        raise
                    except Exception as error:
                        raise _senseless(error) from error
                    if reply is not _NOTHING:
                        replies.append(reply)
                    elif chunk := self.sock.recv(CHUNK):
                        self.reader.feed(chunk)
                    else:
                        raise ConnectionFailed("the connection was lost: closed by the server")
        except StopIteration as stop:
            result: T = stop.value
            return result


def _senseless(error: Exception) -> ConnectionFailed:
    """The parser raises more than its own error: for a list as a map's key, for more elements than memory holds."""
    return ConnectionFailed(f"what the server said could not be taken in: {error!r}")


def open_thread_wire(
    endpoint: Endpoint,
    listener: Listener,
    *,
    command_timeout: float,
    connect_timeout: float,
    client_name: str,
    kill: int | None = None,
    track_all: bool = False,
    read_only: bool = False,
    note: Callable[[str], None] | None = None,
) -> ThreadWire:
    """Connect to ``endpoint`` and return a connection that is ready for commands; as ``handshake.open_wire``.

    Raises:
        ConnectionFailed: no way to the server, or it refused.
    """
    try:
        wire = ThreadWire(open_socket(endpoint, connect_timeout), listener, refusal_of(endpoint, note))
        try:
            wire.set_timeout(connect_timeout)
            greeting = wire.talk(shake_hands(endpoint, client_name, kill, track_all=track_all, read_only=read_only))
            wire.set_timeout(command_timeout)
        except BaseException:
            wire.sock.close()
            raise
    except (OSError, ConnectionFailed) as error:
        reason = explained(endpoint, error)
        if reason is error and isinstance(error, ConnectionFailed):
            raise
        raise ConnectionFailed(str(reason) or repr(reason)) from error
    wire.client_id, wire.server, wire.tracks, wire.clock, wire.history = greeting
    wire.since = wire.last_read = monotonic()
    return wire


def open_socket(endpoint: Endpoint, timeout: float) -> socket.socket:
    """Connect by TCP, TLS or a unix socket; ``timeout`` in seconds."""
    if endpoint.kind == "unix":
        assert endpoint.path is not None
        sock = socket.socket(socket.AF_UNIX)
        close_in_children(sock)
        sock.settimeout(timeout)
        try:
            sock.connect(endpoint.path)
        except BaseException:
            sock.close()
            raise
        return sock
    context = tls_context(endpoint) if endpoint.tls else None
    sock = socket.create_connection((endpoint.host, endpoint.port), timeout)
    close_in_children(sock)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname=endpoint.host, do_handshake_on_connect=False)
        close_in_children(sock)
        try:
            sock.do_handshake()
        except BaseException:
            sock.close()
            raise
    return sock
