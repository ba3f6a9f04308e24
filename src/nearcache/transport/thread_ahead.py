"""A lane of threads that sends first and waits later: for who asks several nodes at once.

A thread that has begun something is *away* until it comes back for the replies: it may be waiting at another node. The
lead is not handed to it meanwhile; replies that come are read by whoever leads then, or by the lane's watcher, without
which nobody would. When it comes back and nobody leads, it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

from ..errors import ConnectionFailed
from .thread_lane import _IDLE, _INTERRUPTED, ThreadLane
from .thread_wire import ThreadWaiter, ThreadWire
from .wire import Command, Hook, pack

__all__ = ["Begun", "ThreadAheadLane"]

Begun = tuple[ThreadWire, ThreadWaiter]


class ThreadAheadLane(ThreadLane):
    """A ``ThreadLane`` that can be watched by its user for several replies at a time."""

    def begin(self, commands: Sequence[Command], hook: Hook | None = None) -> Begun:
        """Send commands. Their replies are for ``finish``; if that is never called, for the hook alone.

        Raises:
            ConnectionFailed: no connection.
        """
        connection = self._connection or self._first_connection()
        now = monotonic()
        if now - connection.last_read > _IDLE:
            self._look(connection)
            connection = self._connection or self._first_connection()
        waiter = ThreadWaiter(b"".join(map(pack, commands)), len(commands), hook, now + self._command_timeout)
        waiter.away = True
        lost: Exception | None = ConnectionFailed(_INTERRUPTED)
        try:
            with connection.lock:
                if connection.lost is not None:
                    raise connection.error
                connection.out.append(waiter)
                if connection.leader is None:
                    connection.leader = waiter
            if connection.leader is waiter:
                connection.write()  # else whoever leads does
            lost = None
        except OSError as error:
            lost = ConnectionFailed(f"the connection was lost: {error}")
        finally:
            if connection.leader is waiter:
                if lost is not None:
                    self._lose(connection, lost)
                connection.hand_over()
        return connection, waiter

    def finish(self, begun: Begun) -> list[Any]:
        """The replies to what was begun.

        Raises:
            CommandTimeout: not within the deadline, which counts from the beginning.
            ConnectionFailed: the connection was lost meanwhile.
        """
        connection, waiter = begun
        try:
            with connection.lock:
                waiter.away, waiter.heir = False, True
                if not waiter.done and connection.leader is None and connection.lost is None:
                    connection.leader = waiter
            self._wait(connection, waiter)
        except BaseException:
            self._leave(connection, waiter)
            raise
        return connection.replies_to(waiter)
