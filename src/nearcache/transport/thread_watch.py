"""Reading what the server pushes while no thread asks for anything.

Theory of operation
-------------------
One thread per connection blocks in ``poll`` and, when something comes that no leader reads, takes the lead for one read
that does not wait. A busy lane reads its pushes with its replies, and must not wake the watcher with each of them: so
after somebody else has read, the watcher sleeps until the lane has been quiet for ``_BUSY`` seconds, and only then
blocks again. A push is therefore read at once on an idle lane, and within ``_BUSY`` seconds on any other. An idle
process is never woken.

Between ``poll`` and the lead another thread may have read everything: hence the read that does not wait. The thread
ends with its connection, whose shutdown wakes it, and keeps neither its lane nor the interpreter alive.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from time import monotonic, sleep

from ..errors import NearcacheError
from .thread_wire import ThreadWire

__all__ = ["keep_reading"]

_BUSY = 0.002  # seconds after a read by somebody else in which the next is left to them, too

Look = Callable[[ThreadWire], bool]


def keep_reading(connection: ThreadWire, look: Callable[[], Look | None]) -> None:
    """Read what comes on ``connection`` while nobody leads, until it is lost.

    Args:
        connection: marked as ``watched``.
        look: gives what reads without waiting and says whether there was something; ``None`` once its lane is gone.
    """
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    own = 0.0  # the last read, if it was the watcher's
    try:
        while connection.lost is None:
            last = connection.last_read
            quiet_for = monotonic() - last
            if connection.leader is not None:
                sleep(_BUSY)
            elif last != own and quiet_for < _BUSY:
                sleep(_BUSY - quiet_for)
            else:
                poll.poll()
                if connection.last_read != last:
                    continue
                read = look()
                if read is None:
                    return
                with contextlib.suppress(NearcacheError):  # others have been told, or will be
                    if read(connection):
                        own = connection.last_read
                del read
    finally:
        connection.stop_watching()
