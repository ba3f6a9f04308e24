"""What a plan may ask of the shell that drives it: a closed set.

A plan is a generator. It yields one of these, is resumed with the outcome, and returns its result; it cannot wait,
send or sleep by itself. A shell drives it on an event loop (``aio.py``) or in a thread (``cache.py``).

==================  =======================================================  ==================
yielded             the shell                                                resumes with
==================  =======================================================  ==================
``Command``         sends it                                                 the reply
list of commands    sends them back to back                                  the list of replies
``Send``            the same, with a hook where replies are parsed           the list of replies
``Load``            calls the loader, and awaits what it returns             an ``Outcome``
``Lead``            drives a plan that must outlive this caller              nothing
``Spawn``           drives a plan in the background                          nothing
``Wait``            waits until a flight has landed, or for a while          nothing
``Sleep``           waits until a watch fires, or for a while                nothing
==================  =======================================================  ==================

A reply may be a ``CommandRefused``; when there is no reply, ``ConnectionFailed`` is raised at the ``yield``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from .flights import Flight
from .loading import CurrentLoad

if TYPE_CHECKING:
    from .ports import Watch
    from .ring import History

__all__ = ["Command", "Effect", "Lead", "Link", "Load", "Outcome", "Plan", "Send", "Sleep", "Spawn", "Wait"]

T = TypeVar("T")

Command = tuple[str | bytes | int | float, ...]


class Link(Protocol):
    """The connection a plan runs over, as far as the policy looks at it."""

    counters: dict[bytes, tuple[int, int]]
    """Versions that are known to be current, hard and soft: the server revokes them."""

    @property
    def tracks(self) -> bool:
        """Whether the server revokes what was read; if not, ``counters`` stays empty."""
        ...

    @property
    def track_all(self) -> bool:
        """Whether it does so for everything that is read, not only for what is asked for."""
        ...

    def histories(self, name: bytes | None = None) -> Collection[History]:
        """That of the server which has this key; without one, those of all servers. None where it cannot change."""
        ...

    def watch(self) -> None:
        """See to it that what the server pushes is read soon, also between commands."""
        ...

    @property
    def clock(self) -> float:
        """What to add to ``time.monotonic()`` to get the server's time, in seconds since the epoch."""
        ...


class Outcome(NamedTuple):
    """What a loader came to. Kept apart from raising: a loader's ``StopIteration`` must stay itself."""

    value: Any = None
    error: BaseException | None = None


class Send(NamedTuple):
    commands: list[Command]
    hook: Callable[[list[Any]], None]


class Load(NamedTuple):
    """``load`` is None for a writer, which has no limit: cut off, it would leave the outcome of a write unknown."""

    call: Callable[[], Any]
    load: CurrentLoad | None = None
    timeout: float | None = None
    alive: Callable[[], list[Command]] | None = None
    """What to send each second while it runs."""


class Lead(NamedTuple):
    """``background``: the caller has something better to do than to run the loader in its own thread.

    ``needed``: it fails where it cannot be begun; else its flights are abandoned.
    """

    plan: Plan[None]
    flights: tuple[Flight, ...]
    background: bool = False
    needed: bool = True


class Spawn(NamedTuple):
    plan: Plan[Any]


class Wait(NamedTuple):
    flight: Flight
    timeout: float | None = None
    limit: float = 30.0
    """Seconds after which whoever leads in another thread or loop is given up."""


class Sleep(NamedTuple):
    watch: Watch
    timeout: float


Effect = Command | list[Command] | Send | Load | Lead | Spawn | Wait | Sleep
Plan = Generator[Effect, Any, T]
