"""What the server has still to be told, and how it is told.

Theory of operation
-------------------
A write that failed may have been carried out or not, and nobody will say. What it wanted is *owed*, one word per stored
key: a value that could not be set is owed as its removal, because by the time the server can be told somebody may have
stored a newer one; removals and raised counters are owed as themselves. All of that may be done twice.

*Before reads are trusted.* While anything is owed, whatever reads, elects or writes first has the server told, and goes
on only when it has answered (``Replay.settled``); those who come meanwhile wait for the first. They look for it after
their marks are taken: who fails to write notes what is owed and then taints the marks, so a reply that is older than
the failure may be returned, but is not kept.

*Order.* What failed may still lie in a socket. On the same connection, or on the one that takes its place, a removal is
carried out behind it; on another connection of this process it may be overtaken. So what is owed is settled where it
failed, unless that is gone. Other connections tell the server, too, once each, so that nobody who reads there has to
wait; it is done once more, and only then settled.

*A later write* of the same key that got through settles it as well. Later is what was begun later.

*What was acknowledged* may be lost with the server that did so. ``ring.py`` says what another server may lack; that is
owed as if it had failed, on the connection that has reached the other server. It is noted when the connection is there
and before it is used. Who was about to read finds the connection's versions replaced when the reply comes, and reads
again. A write that was under way meanwhile is owed, too: which of the servers has acknowledged it is not known, unless
its connection led to the other one before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from ..errors import CommandRefused, ConnectionFailed, ServerError
from .effects import Command, Link, Plan, Send, Wait
from .ring import History, Kind, Ring

if TYPE_CHECKING:
    from .flights import Flights
    from .ports import Near, Remote

__all__ = ["Debt", "Kind", "Recovery", "Replay"]

T = TypeVar("T")

_BATCH = 500  # keys of one command: about 0.5 ms of the server's time


class Debt(NamedTuple):
    """The last word on one key.

    Attributes:
        links: the connections on which it failed and which have not settled it.
        began: the number of the write.
        noted: the number of its failure.
        soft: of a counter: only its soft half is to be raised.
    """

    links: tuple[Link, ...]
    began: int
    noted: int
    soft: bool


class Recovery:
    """What one client owes its server. Thread-safe.

    Args:
        most: keys, counters and heads that are kept; then the oldest is forgotten.

    Attributes:
        owed: by kind and stored key. Look whether it is empty before anything is asked of the server.
        settled: how many were settled, ever.
        forgotten: how many were forgotten, ever.
        begin: gives a write its number.
        noted: the number of the last failure.
        alive: whether a connection may still carry out what it was given.
    """

    def __init__(self, most: int) -> None:
        self.owed: dict[tuple[Kind, bytes], Debt] = {}
        self.settled = 0
        self.forgotten = 0
        self.begin: Callable[[], int] = count(1).__next__
        self.noted = 0
        self.alive: Callable[[Link], bool] = lambda _: True
        self._most = most
        self._told: WeakKeyDictionary[Link, int] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def owe(self, kind: Kind, names: Iterable[bytes], link: Link, began: int, *, soft: bool = False) -> None:
        """Note what failed on a connection."""
        owed = self.owed
        with self._lock:
            self.noted += 1
            for name in names:
                debt = Debt((link,), began, self.noted, soft)
                before = owed.get((kind, name))
                if before is not None:
                    links = (*(other for other in before.links if other != link and self.alive(other)), link)
                    debt = Debt(links, max(began, before.began), self.noted, soft and before.soft)
                    if len(owed) > 1:  # it is the newest now; never empty for a moment: others look without the lock
                        del owed[kind, name]
                owed[kind, name] = debt
            while len(owed) > self._most:
                del owed[next(iter(owed))]
                self.forgotten += 1

    def succeeded(self, kind: Kind, names: Iterable[bytes], link: Link, began: int, *, soft: bool = False) -> None:
        """A write got through on a connection."""
        with self._lock:
            for name in names:
                debt = self.owed.get((kind, name))
                if debt is not None and debt.began < began and debt.soft >= soft:
                    self._settle((kind, name), debt, link)

    def replayed(self, kind: Kind, names: Iterable[bytes], link: Link, upto: int, *, soft: bool = False) -> None:
        """What had been noted by then was told on a connection."""
        with self._lock:
            for name in names:
                debt = self.owed.get((kind, name))
                if debt is not None and debt.noted <= upto and debt.soft >= soft:
                    self._settle((kind, name), debt, link)

    def _settle(self, what: tuple[Kind, bytes], debt: Debt, link: Link) -> None:
        links = tuple(other for other in debt.links if other != link and self.alive(other))
        if links:
            self.owed[what] = debt._replace(links=links)
        else:
            del self.owed[what]
            self.settled += 1

    def forget(self, kind: Kind, names: Iterable[bytes]) -> None:
        """The server will never take it."""
        with self._lock:
            self.forgotten += sum(self.owed.pop((kind, name), None) is not None for name in names)

    def untold(self, link: Link, upto: int) -> bool:
        """Whether something is owed that had been noted by then, and was not told on this connection."""
        return bool(self.owed) and self._told.get(link, 0) < upto

    def told(self, link: Link, upto: int) -> None:
        """All that had been noted by then was told on this connection."""
        with self._lock:
            self._told[link] = max(upto, self._told.get(link, 0))

    def turned(self, link: Link) -> None:
        """The connection leads to another server, which was told nothing on it yet."""
        with self._lock:
            self._told.pop(link, None)

    def listed(self) -> tuple[int, list[tuple[Kind, bytes, bool]]]:
        """What is owed, and the number of the last failure among it."""
        with self._lock:
            return self.noted, [(kind, name, debt.soft) for (kind, name), debt in self.owed.items()]

    def forget_in_child(self) -> None:
        """After a fork: the connections are the parent's. What is owed is owed by both processes."""
        self._lock, self._told = threading.Lock(), WeakKeyDictionary()
        for what, debt in list(self.owed.items()):
            self.owed[what] = debt._replace(links=())


class Replay:
    """How a client pays what it owes.

    Args:
        patience: seconds that a plan waits while another one tells the server.
        ring: what was acknowledged of late.

    Attributes:
        on_owed: called with the connection, whenever something is owed that was not to be told now.
        on_turned: called with the connection when something is owed because it leads to another server.
    """

    def __init__(
        self, recovery: Recovery, remote: Remote, near: Near, flights: Flights, patience: float, ring: Ring
    ) -> None:
        self.recovery = recovery
        self.ring = ring
        self.on_owed: Callable[[Link], None] = lambda _: None
        self.on_turned: Callable[[Link], None] = lambda _: None
        self._turned = 0  # the number of the last turn, among those of writes: who began later need not look further
        self._turns: WeakKeyDictionary[Link, int] = WeakKeyDictionary()  # the last one of each connection
        self._news = 0  # the last one to where the one before had not led
        self._newest: set[History] = set()
        self._remote = remote
        self._near = near
        self._flights = flights
        self._patience = patience
        self._size = _BATCH

    def owe(self, kind: Kind, names: Collection[bytes], link: Link, began: int, *, soft: bool = False) -> None:
        """Note what failed on a connection; nothing that is known here of those keys holds."""
        if not names:
            return
        self.recovery.owe(kind, names, link, began, soft=soft)
        if kind is Kind.KEY:
            self._near.drop(names)
        elif kind is Kind.COUNTER:
            self._near.raised(list(names))
        else:
            for head in names:
                self._flights.detach_namespace(head)
                self._near.drop_head(head)
        self.on_owed(link)

    def acknowledged(self, kind: Kind, names: Collection[bytes], link: Link, began: int, *, soft: bool = False) -> None:
        """A write got through, to a server that may be lost."""
        if began < self._turned and began < max(self._news, self._turns.get(link, 0)):
            self.owe(kind, names, link, began, soft=soft)
            return
        self.ring.note(kind, names, link, soft=soft)
        link.watch()  # that it is lost has to be noticed, also when nobody asks for anything

    def turned(self, link: Link, *, first: bool) -> None:
        """A connection leads to another server than before, or, ``first``, to one for the first time."""
        recovery = self.recovery
        recovery.turned(link)
        if not first:
            self._turned = self._turns[link] = recovery.begin()
            histories = set(link.histories())
            if histories != self._newest:
                self._news, self._newest = self._turned, histories
        lost = self.ring.lost(link)
        for (kind, soft), names in lost.items():
            self.owe(kind, names, link, recovery.begin(), soft=soft)
        if recovery.owed:
            self._near.lost(link)
        if lost:
            self.on_turned(link)

    def settled(self, link: Link, *, wait: bool = True) -> Plan[None]:
        """Go on when the server was told all that was owed when this began.

        Args:
            wait: False leaves it to whoever is at it already.

        Raises:
            ServerError: it was not.
        """
        recovery, flights = self.recovery, self._flights
        upto, name = recovery.noted, b"~recovery:%d" % hash(link)
        while recovery.untold(link, upto):
            flight, leads = flights.join(name, 0)
            if leads:
                try:
                    yield from self._tell(link)
                    flights.land(flight)
                except ServerError as error:
                    flights.land(flight, error=error)
                    self.on_owed(link)
                    raise
                finally:
                    flights.abandon(flight)
            elif wait:
                yield Wait(flight, self._patience)
                if isinstance(flight.error, ServerError):
                    raise type(flight.error)(*flight.error.args)
                if not flight.landed:
                    raise ConnectionFailed("the server is still being told of writes that failed")
            else:
                return

    def _tell(self, link: Link) -> Plan[None]:
        upto, debts = self.recovery.listed()
        keys = [name for kind, name, _ in debts if kind is Kind.KEY]
        counters = [(name, soft) for kind, name, soft in debts if kind is Kind.COUNTER]
        yield from self._in_batches(self._remove, link, keys, upto)
        yield from self._in_batches(self._raise, link, counters, upto)
        for kind, head, _ in debts:
            if kind is Kind.HEAD:
                yield from self._remove_head(link, head, upto)
        self.recovery.told(link, upto)

    def _in_batches(
        self, tell: Callable[[Link, list[T], int], Plan[None]], link: Link, things: list[T], upto: int
    ) -> Plan[None]:
        at = 0
        while at < len(things):
            # One thing, if the last attempt failed: the server may well refuse it, too.
            size, self._size = self._size, 1
            yield from tell(link, things[at : at + size], upto)
            self._size, at = _BATCH, at + size

    def _remove(self, link: Link, keys: Sequence[bytes], upto: int) -> Plan[None]:
        remote = self._remote
        watched = [*keys, *map(remote.lease, keys)]

        def remember(replies: list[Any]) -> None:
            self._near.wrote(keys, watched)
            self._answered(Kind.KEY, keys, link, upto, replies[0])

        _check((yield Send([remote.delete(list(keys), 0)], remember)))

    def _raise(self, link: Link, counters: Sequence[tuple[bytes, bool]], upto: int) -> Plan[None]:
        """A server whose memory is full raises nothing, but drops counters: what carries them is not valid then."""
        replies = yield from self._send_counters(
            link, counters, [self._remote.raise_counter(name, soft=soft) for name, soft in counters], upto
        )
        full = [counter for counter, reply in zip(counters, replies, strict=True) if _code(reply) == "OOM"]
        if full:
            replies = [reply for reply in replies if _code(reply) != "OOM"]
            replies += yield from self._send_counters(link, full, [("UNLINK", name) for name, _ in full], upto)
        _check(replies)

    def _send_counters(
        self, link: Link, counters: Sequence[tuple[bytes, bool]], commands: list[Command], upto: int
    ) -> Plan[list[Any]]:
        def remember(replies: list[Any]) -> None:
            self._near.raised([name for name, _ in counters])
            for (name, soft), reply in zip(counters, replies, strict=True):
                self._answered(Kind.COUNTER, [name], link, upto, reply, soft=soft)

        return (yield Send(commands, remember))

    def _remove_head(self, link: Link, head: bytes, upto: int) -> Plan[None]:
        for start in (head, self._remote.lease_head(head)):
            cursor = b"0"
            while True:
                reply = yield self._remote.scan(cursor, start)
                if isinstance(reply, CommandRefused):
                    self._answered(Kind.HEAD, [head], link, upto, reply)
                    _check([reply])
                    return
                cursor, found = reply
                if found:
                    yield from self._remove(link, list(dict.fromkeys(map(self._remote.leased, found))), upto)
                if cursor == b"0":
                    break
        self._told(Kind.HEAD, [head], link, upto)

    def _told(self, kind: Kind, names: Sequence[bytes], link: Link, upto: int, *, soft: bool = False) -> None:
        self.recovery.replayed(kind, names, link, upto, soft=soft)
        self.ring.note(kind, names, link, soft=soft)

    def _answered(
        self, kind: Kind, names: Sequence[bytes], link: Link, upto: int, reply: Any, *, soft: bool = False
    ) -> None:
        if not isinstance(reply, CommandRefused):
            self._told(kind, names, link, upto, soft=soft)
        elif _for_good(reply):
            self.recovery.forget(kind, names)


def _check(replies: Iterable[Any]) -> None:
    for reply in replies:
        if isinstance(reply, CommandRefused) and not _for_good(reply):
            raise reply


def _code(reply: Any) -> str:
    return str(reply).partition(" ")[0] if isinstance(reply, CommandRefused) else ""


def _for_good(refused: CommandRefused) -> bool:
    """Whether it makes no sense to ask again: not allowed to this user, or not known to this server."""
    return _code(refused) == "NOPERM" or "unknown command" in str(refused).lower()
