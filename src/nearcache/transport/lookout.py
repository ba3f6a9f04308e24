"""A look at where the servers are, now and then: what nobody says by itself is noticed, too.

A node that was added or removed makes no connection fail, and a primary that was demoted while it is only read from
refuses nothing. So one thread of the process asks once for all of a client's connections, every minute; and a second
after something was lost, then two, and so on, because what is gone may come back.

A sentinel is listened to as well: it says when it names another primary, and when a server comes or goes. After a
failover that was ordered the old primary takes writes for ten seconds more, which are lost when it becomes a replica:
so it is left as soon as that is said.
"""

from __future__ import annotations

import random
import select
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any

from ..errors import NearcacheError
from .cluster_lane import ClusterLane
from .cluster_threads import ClusterThreads
from .descriptors import close_in_children
from .tasks import start_thread
from .topology import Topology

__all__ = ["Lookout"]

_END = 5.0  # seconds for the thread's last look
_FIRST, _MOST = 1.0, 60.0  # seconds between two looks, soon after a loss and in quiet times


class Lookout:
    """Looks from a thread of its own.

    Args:
        topology: of the client.
        links: its connections at that moment.
    """

    def __init__(self, topology: Topology, links: Callable[[], list[Any]]) -> None:
        self._topology = topology
        self._links = links
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._news: socket.socket | None = None

    def start(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                try:
                    self._news, news = socket.socketpair()
                except OSError:  # no more descriptors: the next connection tries again
                    return
                for each in (self._news, news):
                    close_in_children(each)
                self._thread = start_thread("nearcache-lookout", _keep, weakref.ref(self), news, self._closed)
                if self._thread is None:
                    self._news.close()
                    news.close()

    def look(self) -> None:
        """Ask, and tell every connection.

        Raises:
            ConnectionFailed: nobody knows.
        """
        links = self._links()
        spread = [link for link in links if isinstance(link, ClusterLane | ClusterThreads)]
        if spread:
            slots = self._topology.find_slots_in_thread([node for link in spread for node in link.known_nodes()])
            for link in spread:
                link.learn(slots.copy())
        elif links:
            primary = self._topology.find_primary_in_thread()
            for link in links:
                link.follow(primary)

    def listen(self) -> socket.socket | None:
        """What becomes readable when a sentinel has something to say."""
        try:
            return self._topology.listen_in_thread()
        except NearcacheError:
            return None

    def soon(self) -> None:
        """Something was lost."""
        with suppress(OSError):
            if self._news is not None:
                self._news.send(b"!", socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Wait until the thread has ended; a look that has begun may take as long as connecting does."""
        with self._lock:
            self._closed.set()
            thread, news = self._thread, self._news
        if news is not None:
            news.close()
        if thread is not None:
            thread.join(_END)

    def forget_in_child(self) -> None:
        """After a fork: the thread is the parent's."""
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = self._news = None


class _Event(Enum):
    """Why the thread looks."""

    TIME = "it was time"
    SAID = "a sentinel said something"
    LOST = "something was lost: what takes its place may not be there yet"


def _keep(lookout: weakref.ref[Lookout], news: socket.socket, closed: threading.Event) -> None:
    """Until it is closed, or nobody has it any more."""
    heard: socket.socket | None = None
    event, pause = _Event.LOST, 0.0
    with news:
        while (me := lookout()) is not None and not closed.is_set():
            if event is not _Event.SAID:
                if heard is not None:
                    heard.close()
                heard = me.listen()  # before the look: what is said in between is not missed
            if pause:
                with suppress(NearcacheError):
                    me.look()
            del me
            pause = min(2 * pause, _MOST) if pause else _MOST
            event = _wait(news, heard, pause)
            if event is not _Event.TIME:
                pause = _FIRST / 2
            if event is _Event.LOST:
                closed.wait(random.uniform(0.5, 1.5) * _FIRST)
    if heard is not None:
        heard.close()


def _wait(news: socket.socket, heard: socket.socket | None, pause: float) -> _Event:
    poll = select.poll()
    for each in (news, heard):
        if each is not None:
            poll.register(each, select.POLLIN)
    ready = [number for number, _ in poll.poll(random.uniform(0.75, 1.25) * pause * 1000)]
    if not ready:
        return _Event.TIME
    try:
        if heard is not None and heard.fileno() in ready and heard.recv(65_536):
            return _Event.SAID
        if news.fileno() in ready:
            news.recv(65_536)
    except OSError:
        pass
    return _Event.LOST
