"""What a server has acknowledged of late, in case the one that takes its place has never heard of it.

Theory of operation
-------------------
Replication is asynchronous: a replica that becomes the primary may lack the last writes that its predecessor has
acknowledged, and so may a server that comes back with its data of a while ago, or another one behind the same name.
What those writes had ended is back then. So the last 10 s of them are kept here, and what another server has
acknowledged than the one at hand is owed to that one (``recovery.py``), before reads there are trusted.

*Which writes.* Removals, raised counters, new times to live; and values that were set, or that replaced another one
when they were loaded: those come back as removals, because the new server may hold the older value. Not a value that
was loaded where there was none: without it there is none again, or what somebody had removed, who has that in his own
ring. Nor leases: who has lost one stores nothing.

*Which server.* Redis calls the history of one data set a replication id; a server that is promoted or started anew
begins another one, and knows which it continues. Whoever connects is told it. With each write its server's history is
kept, so it does not matter which connection of this process finds out first, or whether one was up at that moment.

*In a cluster* a key's server is that of its slot. A slot may also be handed over by a server that lives on: then
nothing is lost, and its new server's history is noted. It is told from a failover by that: the old history is still
there, and the new one does not continue it.

Memory: about 0.2 kB per write beside its key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .effects import Link

__all__ = ["UNKNOWN", "History", "Kind", "Ring"]

SECONDS = 10.0
"""How long a write is kept: longer than replicas are behind, with whatever time a failover takes on top."""


class Kind(StrEnum):
    """What a write was about: a key, a counter that it raised, all keys with the same head."""

    KEY = "key"
    COUNTER = "counter"
    HEAD = "head"


_HEAD = Kind.HEAD  # an enum takes its time to look it up


class History(NamedTuple):
    """A server's data set, as replication tells it from others.

    Attributes:
        id: the same for as long as nothing but writes happens to it; the server's address where it does not say.
        continues: the history of the primary in whose place it came.
    """

    id: bytes = b""
    continues: bytes = b""


UNKNOWN = History()
"""Of a server that was not reached yet."""


class Ring:
    """The last acknowledged writes of one client. Thread-safe, without a lock.

    Args:
        most: writes that are kept.
        now: seconds on the client's clock.
    """

    def __init__(self, most: int, now: Callable[[], float]) -> None:
        self._acknowledged: deque[tuple[float, Kind, bytes, bool, bytes]] = deque(maxlen=most)
        self._now = now

    def __len__(self) -> int:
        return len(self._acknowledged)

    def note(self, kind: Kind, names: Iterable[bytes], link: Link, *, soft: bool = False) -> None:
        """These were acknowledged by the server to which a connection leads now."""
        now = self._now()
        for name in names:
            for history in link.histories(None if kind is _HEAD else name):
                self._acknowledged.append((now, kind, name, soft, history.id))

    def lost(self, link: Link) -> dict[tuple[Kind, bool], list[bytes]]:
        """What the server to which a connection leads now may lack, by kind and softness; it is not kept any more."""
        acknowledged, since = self._acknowledged, self._now() - SECONDS
        histories = link.histories()
        lost: dict[tuple[Kind, bool], list[bytes]] = {}
        for _ in range(len(acknowledged)):
            try:
                when, kind, name, soft, was = acknowledged.popleft()
            except IndexError:  # another thread is at it, too
                break
            if when < since:
                continue
            here = None if kind is _HEAD else next(iter(link.histories(name)))
            history = _heir(was, here, histories)
            if history is None:
                lost.setdefault((kind, soft), []).append(name)
            else:
                acknowledged.append((when, kind, name, soft, history))
        return lost


def _heir(was: bytes, here: History | None, histories: Collection[History]) -> bytes | None:
    """The history that a write is part of by now; None if it may be part of none.

    Args:
        was: the one it was part of.
        here: that of its key's server; None when it concerns all servers.
        histories: those of all servers.
    """
    if any(history.continues == was for history in histories):
        return None
    lives = any(history.id == was for history in histories)
    if here is None:
        return was if lives or UNKNOWN in histories else None
    if here.id in (was, UNKNOWN.id):  # not reached yet: then it is asked again
        return was
    return here.id if lives else None
