"""The lane of threads: one pipelined connection that the threads of a process take turns to drive.

Theory of operation
-------------------
There is no thread of its own. A thread that wants something queues its command; if nobody *leads*, it does: it writes
all that is queued, by whomever, in one ``send``, reads, and hands out replies in order, until its own is there. Then it
hands the lead to the longest waiting thread and goes. A thread that finds a leader sleeps on a lock until its reply is
there, or the lead. So one thread alone pays two system calls and no switch, and many pay one write and one read for
all of them. (Measured against a loop on a background thread: 2.5 times the throughput with one thread, 3.5 with 16.)

Threads that are woken at once fight for the interpreter's lock, and all but one go back to sleep for it. So of those
whose replies have come the leader wakes two, and each of them one more (with 16 threads: 1.6 switches per command, not
2.3). Two, not one: where others compute, a chain waits for them at each link. Who is interrupted wakes all.

The rules of ``lane.py`` hold here too. Replies belong to the head of a deque, whoever has left it; hooks run where
replies are parsed, in order with the server's pushes, so nothing that a hook keeps outlives its revocation; after a
deadline the connection stays and the late reply is dropped; a server silent for three deadlines is left, and told to
drop the old connection before the new one is used; while there is no connection commands fail at once, and a thread
that lives only as long as the outage tries to reconnect. A connection that was idle is looked at before it is used: a
server that closed it meanwhile costs a reconnect, not a failed command.

Nobody reads between commands, so a push may wait in the socket, though never behind a later reply. Where that is too
late, ``watch`` starts a thread that reads while nobody leads (``thread_watch.py``).

An interrupt may hit a thread between any two steps. So a command and who waits for it are queued in one step, become
bytes and a place in the deque only in the leader's hands, and a leader that was interrupted gives the connection up.
When a connection is lost its listener is told first; only then do those who wait, and only then may there be a new one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from ..core.ring import UNKNOWN, History
from ..errors import CommandTimeout, ConnectionFailed, NearcacheError, NotInitialized
from . import backoff
from .hello import local_clock
from .lane import Breaker
from .tasks import start_thread
from .thread_watch import keep_reading
from .thread_wire import CHUNK, ThreadWaiter, ThreadWire
from .wire import Command, Hook, LaneListener, afresh, pack

__all__ = ["ThreadLane"]

_IDLE = 1.0  # seconds without a reply after which a connection is looked at before it is used
_SILENT_DEADLINES = 3
_INTERRUPTED = "the thread that drove the connection was interrupted"
_CLOSED = "the connection is closed: call initialize() again"
_NET = 5.0  # seconds a sleeping thread waits past its deadline for a leader to tell it so


class ThreadLane:
    """The one connection of a process's threads to one database of one server. Every method is thread-safe.

    Args:
        open_wire: connects, shakes hands, and returns a connection that is ready; gets the client id to kill first.
        command_timeout: seconds from asking to the reply.
        breaker: fed with deadlines that passed and with anything the server says.
        on_state: told of every change: the lane, and the error that took it down (``None`` when it is up).
        listener: told what the server revokes, of every connection that is lost, and of every other server.
        track_all: ``open_wire`` asks the server to track every key that is read.

    The attributes ``counters``, ``tracks``, ``track_all``, ``clock`` and ``history`` are those of ``Lane``.
    """

    def __init__(
        self,
        open_wire: Callable[[int | None], ThreadWire],
        *,
        command_timeout: float,
        breaker: Breaker,
        on_state: Callable[[ThreadLane, Exception | None], None],
        listener: LaneListener,
        track_all: bool = False,
    ) -> None:
        self._open_wire = open_wire
        self._command_timeout = command_timeout
        self._breaker = breaker
        self._on_state = on_state
        self._listener = listener
        self._track_all = track_all
        self._connecting = threading.Lock()
        self._connection: ThreadWire | None = None
        self._down: Exception | None = None
        self._closed = threading.Event()
        self._attempts = 0  # to reconnect, since a connection has last stayed for a while
        self._watching = False
        self._watcher: threading.Thread | None = None
        self._kill: int | None = None
        self.counters: dict[bytes, tuple[int, int]] = {}
        self.tracks = True
        self.track_all = track_all
        self.clock = local_clock()
        self.history = UNKNOWN
        self.server = ""
        self.connects = 0

    # -- asking

    def request(self, command: Command) -> Any:
        """Send one command; its reply, which may be a ``CommandRefused``.

        Raises:
            CommandTimeout: no reply within the deadline.
            ConnectionFailed: no connection, or it was lost meanwhile.
        """
        return self._exchange(pack(command), 1, None)[0]

    def request_many(self, commands: Sequence[Command], hook: Hook | None = None) -> list[Any]:
        """Send commands back to back; their replies, after ``hook`` has seen them."""
        return self._exchange(b"".join(map(pack, commands)), len(commands), hook)

    def histories(self, name: bytes | None = None) -> tuple[History, ...]:
        """There is one server."""
        return (self.history,)

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def down(self) -> bool:
        """The last attempt to connect failed."""
        return self._down is not None

    def _exchange(self, data: bytes, count: int, hook: Hook | None) -> list[Any]:
        connection = self._connection or self._first_connection()
        now = monotonic()
        if now - connection.last_read > _IDLE:
            self._look(connection)  # the server may have closed it
            connection = self._connection or self._first_connection()
        waiter = ThreadWaiter(data, count, hook, now + self._command_timeout)
        try:
            with connection.lock:
                if connection.lost is not None:
                    raise connection.error
                connection.out.append(waiter)
                if connection.leader is None:
                    connection.leader = waiter
            self._wait(connection, waiter)
        except BaseException:
            self._leave(connection, waiter)
            raise
        return connection.replies_to(waiter)

    def _wait(self, connection: ThreadWire, waiter: ThreadWaiter) -> None:
        """Sleep until its replies are there, or the lead; then lead."""
        if connection.leader is not waiter:
            if not waiter.done:
                waiter.wake.acquire(timeout=self._command_timeout + _NET)
            if connection.ready:
                connection.rouse_ready(1)
        if connection.leader is waiter:
            self._lead(connection, waiter)
        elif not waiter.done:
            # Long past the deadline, and nobody said so: whoever led is gone.
            connection.leader = None
            self._lose(connection, CommandTimeout(f"no reply within {self._command_timeout:g} s"))

    def _leave(self, connection: ThreadWire, waiter: ThreadWaiter) -> None:
        """Interrupted: wait no longer, ask no more, hand on the lead if it was just handed over, wake the others."""
        with connection.lock:
            waiter.finish(CommandTimeout(f"no reply within {self._command_timeout:g} s"))
            connection.out = [other for other in connection.out if other is not waiter]
        connection.rouse_ready(len(connection.ready))
        if connection.leader is waiter:
            connection.hand_over()

    def _lead(self, connection: ThreadWire, waiter: ThreadWaiter) -> None:
        """Write and read for everybody until this thread's reply is there; then hand over the lead."""
        lost: Exception | None = ConnectionFailed(_INTERRUPTED)
        try:
            while not waiter.done:
                connection.write()
                if waiter.heir:
                    connection.wait(waiter.due)
                self._read(connection, connection.sock.recv(CHUNK))
            lost = None
        except (TimeoutError, BlockingIOError):
            lost = self._late(connection, max(monotonic(), waiter.due))
        except (OSError, NearcacheError) as error:
            lost = ConnectionFailed(f"the connection was lost: {error}")
        finally:
            try:
                if lost is not None:
                    self._lose(connection, lost)
            finally:
                connection.hand_over()

    def _read(self, connection: ThreadWire, chunk: bytes) -> None:
        connection.take(chunk)
        if self._breaker.failing:
            self._breaker.succeeded()

    def _late(self, connection: ThreadWire, now: float) -> Exception | None:
        """A deadline has passed. What makes the connection unusable, if anything."""
        if connection.cut_short:
            return ConnectionFailed("the server did not take a whole command within the deadline")
        error = CommandTimeout(f"no reply within {self._command_timeout:g} s")
        with connection.lock:
            asked = [*connection.waiting, *connection.out]
            connection.out = [waiter for waiter in connection.out if waiter.due > now]
        for waiter in asked:
            if not waiter.done and waiter.due <= now:
                self._breaker.failed()
                waiter.finish(afresh(error))
        silent = now - max(connection.last_read, connection.waiting[0].due - self._command_timeout)
        if silent < _SILENT_DEADLINES * self._command_timeout:
            return None
        self._kill = connection.client_id
        return ConnectionFailed(f"the server has been silent for {silent:.1f} s")

    # -- life

    def open(self) -> None:
        """Connect, if that was never tried.

        Raises:
            ConnectionFailed: it failed. Attempts go on in the background.
        """
        if self._connection is None:
            self._first_connection()

    def watch(self) -> None:
        """From now on read what the server pushes as it comes, also while no thread asks for anything.

        Idempotent, and cheap when it is done already.
        """
        if not self._watching:
            self._watching = True
            if (connection := self._connection) is not None:
                self._watch(connection)

    def follow(self, primary: tuple[str, int]) -> None:
        """Leave a server that is not the primary any more."""
        connection = self._connection
        if connection is not None and connection.node not in (None, primary):
            self._lose(connection, ConnectionFailed(f"{primary[0]}:{primary[1]} is the primary now"))

    def _watch(self, connection: ThreadWire) -> None:
        with connection.lock:
            if connection.watched or connection.lost is not None:
                return
            connection.watched = True
        look = weakref.WeakMethod(self._look)
        watcher = start_thread("nearcache-watch", keep_reading, connection, look)
        if watcher is None:
            connection.stop_watching()
            self._watching = False  # who keeps the next value tries again
        self._watcher = watcher

    def close(self) -> None:
        """Let what is in flight finish (at most one command timeout), then close. Idempotent."""
        self._closed.set()
        self._end(NotInitialized(_CLOSED))

    def rest(self) -> None:
        """``close``, but the next command connects again."""
        self._end(ConnectionFailed("the process is ending"))

    def _end(self, error: Exception) -> None:
        connection = self._connection
        if connection is not None:
            deadline = monotonic() + self._command_timeout
            pause = threading.Event()
            while connection.leader is not None and monotonic() < deadline:
                pause.wait(0.001)
            self._lose(connection, error, reconnect=False)
        if self._watcher is not None:
            self._watcher.join(self._command_timeout)

    def __del__(self) -> None:
        connection = self._connection
        if connection is not None and connection.watched:
            connection.lose(NotInitialized(_CLOSED))  # wakes the watcher, which closes the socket

    def forget_in_child(self) -> None:
        """After a fork: the connection is the parent's; closing this process's descriptor does not end it."""
        connection, self._connection = self._connection, None
        closed = self._closed.is_set()
        self._connecting, self._closed = threading.Lock(), threading.Event()
        if closed:
            self._closed.set()
        self._down = self._kill = None  # the thread that reconnects is the parent's, too
        self._watching, self._watcher = False, None
        if connection is not None:
            connection.sock.close()
        self._listener.lost(self)

    def _first_connection(self) -> ThreadWire:
        with self._connecting:
            if self._closed.is_set():
                raise NotInitialized(_CLOSED)
            if self._down is not None:
                raise ConnectionFailed(str(self._down))
            if self._connection is None:
                self._connect_or_retry()
            assert self._connection is not None
            return self._connection

    def _look(self, connection: ThreadWire) -> bool:
        """Read what has come while nobody led, if anything; replace the connection if that was its end."""
        with connection.lock:
            if connection.leader is not None or connection.lost is not None:
                return False
            connection.leader = self
        try:
            chunk = connection.read_ready()
            if chunk is not None:
                self._read(connection, chunk)
        except (OSError, NearcacheError) as error:
            self._replace(connection, ConnectionFailed(f"the connection was lost: {error}"))
            return True
        except BaseException:
            self._lose(connection, ConnectionFailed(_INTERRUPTED))
            raise
        finally:
            connection.hand_over()
        return chunk is not None

    def _replace(self, connection: ThreadWire, error: Exception) -> None:
        """Connect anew, at once and while those who ask wait; in the background if that has just been done."""
        with self._connecting:
            at_once = not self._attempts or monotonic() - connection.since > backoff.MOST
            self._lose(connection, error, reconnect=not at_once)
            if self._connection is None and self._down is None and not self._closed.is_set():
                self._attempts += 1
                self._connect_or_retry()

    def _connect_or_retry(self) -> None:
        try:
            self._connect()
        except NearcacheError as error:
            self._went_down(error)
            raise

    def _connect(self) -> None:
        try:
            connection = self._open_wire(self._kill)
        except NearcacheError:
            raise
        except Exception as error:  # whatever it is, the next attempt may succeed
            raise ConnectionFailed(str(error) or repr(error)) from error
        self.server, self.tracks, self.clock = connection.server, connection.tracks, connection.clock
        self.track_all = self._track_all and self.tracks
        self._kill, self._down, self.connects = None, None, self.connects + 1
        before, self.history = self.history, connection.history
        if connection.history != before:
            self._listener.turned(self, first=before is UNKNOWN)
        self._connection = connection
        if self._closed.is_set():
            self._lose(connection, NotInitialized(_CLOSED))
            raise NotInitialized(_CLOSED)
        if self._watching:
            self._watch(connection)
        self._on_state(self, None)

    def _lose(self, connection: ThreadWire, error: Exception, *, reconnect: bool = True) -> None:
        if not connection.lose(error):
            return
        if monotonic() - connection.since > backoff.MOST:
            self._attempts = 0
        reconnect = reconnect and not self._closed.is_set()
        try:
            self._listener.lost(self)
        finally:
            if reconnect:
                self._down = error  # before anybody can find that there is no connection, and make one
            self._connection = None
            with connection.lock:
                waiting = [*connection.waiting, *connection.out]
            for waiter in waiting:
                waiter.finish(afresh(error))
            if reconnect:
                self._went_down(error)

    def _went_down(self, error: Exception) -> None:
        self._down = error
        self._on_state(self, error)
        if start_thread("nearcache-reconnect", self._reconnect) is None:
            self._down = None  # the next command tries itself

    def _reconnect(self) -> None:
        while not self._closed.wait(backoff.pause(self._attempts)):
            self._attempts += 1
            try:
                with self._connecting:
                    self._connect()
            except NotInitialized:
                return
            except NearcacheError as error:
                self._down = error
                self._on_state(self, error)
            else:
                return
