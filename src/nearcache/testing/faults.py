"""``Faults``: errors, delays, lost connections and dropped pushes, on command, for one client.

It stands between the plans and the client's links, whatever kind they are: a lane's, the threads', ``memory://``. What
is kept near needs no link, so no fault touches it.
"""

# pyright: reportPrivateUsage=false
# It breaks what is private, which no public method would.

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from ..base import CacheBase
from ..client import Client
from ..errors import CommandRefused, CommandTimeout, ConnectionFailed, NotInitialized, ServerError
from ..transport.lane import Lane
from ..transport.memory import MemoryLink
from ..transport.thread_lane import ThreadLane
from ..transport.wire import Command, afresh
from .links import FaultyLink, Held, Verdict, on_loop

__all__ = ["Faults"]

Match = str | Callable[[Command], bool] | None
_INJECTED = "injected by a test"


class Faults:
    """Makes the client of a cache fail, inside a ``with`` block. Every cache on that client fails with it.

    Args:
        cache: any cache on the client; it must be initialised.

    Raises:
        NotInitialized: it is not.
    """

    def __init__(self, cache: CacheBase) -> None:
        client = cache._core.client
        if not isinstance(client, Client):
            raise NotInitialized("Faults(cache) needs a cache that is initialised")
        self._client = client
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._held: set[Held] = set()
        self._deaf = _Deaf(client)
        self._drops = False
        self._replaced: dict[str, Any] = {}

    def __enter__(self) -> Self:
        client = self._client
        for name in ("link", "thread_link"):
            self._replaced[name] = vars(client).get(name)
            setattr(client, name, partial(self._link, getattr(client, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        for name, before in self._replaced.items():
            delattr(self._client, name)
            if before is not None:
                setattr(self._client, name, before)
        self._replaced.clear()

    # -- what a test asks for

    def fail(
        self,
        error: ServerError | type[ServerError] = ConnectionFailed,
        *,
        times: int | None = None,
        match: Match = None,
    ) -> None:
        """Let commands fail: they are not sent, and with ``CommandRefused`` the server seems to answer so.

        A command that fails otherwise takes the others of its batch with it.

        Args:
            error: ``ConnectionFailed``, ``CommandTimeout`` or ``CommandRefused``, or one with a text of your own. So
                many timeouts in a row open the circuit breaker, as real ones do.
            times: how many commands; all until ``heal`` when left out.
            match: only commands of that name (``"GET"``), or for which a function of their words is true.
        """
        if isinstance(error, type):
            error = error(f"ERR {_INJECTED}" if issubclass(error, CommandRefused) else _INJECTED)
        self._rules.append(_Rule(match, times, error, 0.0))

    def delay(self, seconds: float, *, times: int | None = None, match: Match = None) -> None:
        """Hold replies back, on the client's clock; the commands themselves are carried out at once.

        Other replies and pushes overtake them. Beyond the client's ``command_timeout`` the caller gets
        ``CommandTimeout``, and the reply still comes; the circuit breaker is not told. ``times`` and ``match`` are
        those of ``fail``.
        """
        self._rules.append(_Rule(match, times, None, seconds))

    def drop_pushes(self) -> None:
        """Let what the server pushes get lost: nothing is told of what others write. Own writes are seen."""
        self._drops = True
        self._listen(self._deaf)

    def disconnect(self) -> None:
        """Lose every connection of the client now. Real ones come back by themselves, ``memory://`` at once."""
        error = ConnectionFailed(f"the connection was lost: {_INJECTED}")
        for held in self._take_held():
            held.lose(afresh(error))
        for link in list(self._client.near._links):
            if isinstance(link, Lane):
                if link._wire is not None:
                    on_loop(link._loop, partial(link._wire.abort, error))
            elif not isinstance(link, ThreadLane):
                self._client.near.lost(link)
            elif link._connection is not None:
                link._lose(link._connection, error)

    def heal(self) -> None:
        """No more faults from now on; replies that are held back arrive now. What was lost stays lost."""
        self._rules.clear()
        self._drops = False
        self._listen(self._client._recovering.listener)
        for held in self._take_held():
            held.release()
        if self._client.endpoint.kind == "memory":
            self._client.breaker.succeeded()  # nobody else would say so

    # -- between the plans and the links

    def _link(self, get: Callable[[], Any]) -> Any:
        link = get()
        if self._drops:
            self._listen(self._deaf)  # it may be a new one
        return FaultyLink(self, link)

    def _listen(self, listener: Any) -> None:
        for link in list(self._client.near._links):
            if isinstance(link, MemoryLink):
                link.listener = listener
            elif isinstance(link, Lane | ThreadLane):
                link._listener = listener
                if isinstance(link, ThreadLane) and link._connection is not None:
                    link._connection._listener = listener

    def _take_held(self) -> list[Held]:
        with self._lock:
            taken, self._held = list(self._held), set()
        return taken

    def judge(self, commands: Sequence[Command]) -> Verdict | None:
        """What is to happen to commands that are sent together; None for nothing."""
        if not self._rules:
            return None
        lost: ServerError | None = None
        refused: dict[int, CommandRefused] = {}
        seconds = 0.0
        with self._lock:
            for place, command in enumerate(commands):
                for rule in [rule for rule in self._rules if rule.takes(command)]:
                    seconds = max(seconds, rule.seconds)
                    if isinstance(rule.error, CommandRefused):
                        refused.setdefault(place, rule.error)
                    elif rule.error is not None:
                        lost = lost or rule.error
        if isinstance(lost, CommandTimeout):
            self._client.breaker.failed()
        return Verdict(lost, refused, seconds) if lost or refused or seconds else None

    def hold(self, held: Held, seconds: float, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let replies arrive later, and the deadline pass before if it is earlier."""
        with self._lock:
            self._held.add(held)
        deadline = self._client.settings.command_timeout
        if seconds >= deadline:
            late = CommandTimeout(f"no reply within {deadline:g} s")
            held.cancels.append(self._after(deadline, partial(held.set_exception, late), loop))
        held.cancels.append(self._after(seconds, partial(self._arrive, held), loop))

    def _arrive(self, held: Held) -> None:
        with self._lock:
            self._held.discard(held)
        held.arrive()

    def _after(
        self, seconds: float, call: Callable[[], None], loop: asyncio.AbstractEventLoop | None
    ) -> Callable[[], None]:
        timer = self._client.clock.after
        if timer is not None:
            return timer(seconds, call if loop is None else partial(on_loop, loop, call))
        if loop is not None:
            return loop.call_later(seconds, call).cancel
        thread = threading.Timer(seconds, call)
        thread.daemon = True
        thread.start()
        return thread.cancel

    def answered(self, link: object) -> None:
        """A real lane tells the breaker by itself that something came."""
        if isinstance(link, MemoryLink) and self._client.breaker.failing:
            self._client.breaker.succeeded()


class _Rule:
    """One fault, and which commands it is for."""

    def __init__(self, match: Match, times: int | None, error: ServerError | None, seconds: float) -> None:
        self._match = match
        self._left = times
        self.error = error
        self.seconds = seconds

    def takes(self, command: Command) -> bool:
        """Whether it is for this command; it is one less after that."""
        if self._left == 0 or not self._matches(command):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _matches(self, command: Command) -> bool:
        match = self._match
        if match is None or callable(match):
            return match is None or match(command)
        return str(command[0]).upper() == match.upper()


class _Deaf:
    """Hears of connections, and of nothing that was pushed."""

    def __init__(self, client: Client) -> None:
        self.lost, self.turned = client.near.lost, client.replay.turned

    def revoked(self, keys: list[bytes] | None) -> None:
        """Nobody is told."""
