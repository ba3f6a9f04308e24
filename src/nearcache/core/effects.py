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
``Wait``            waits until a flight has landed                          nothing
==================  =======================================================  ==================

A reply may be a ``CommandRefused``; when there is no reply, ``ConnectionFailed`` is raised at the ``yield``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol, TypeVar

from .flights import Flight

__all__ = ["Command", "Effect", "Lead", "Link", "Load", "Outcome", "Plan", "Send", "Spawn", "Wait"]

T = TypeVar("T")

Command = tuple[str | bytes | int | float, ...]


class Link(Protocol):
    """The connection a plan runs over, as far as the policy looks at it."""

    @property
    def counters(self) -> dict[bytes, int]:
        """Versions that are known to be current: the server revokes them."""
        ...

    @property
    def tracks(self) -> bool:
        """Whether the server revokes what was read; if not, ``counters`` stays empty."""
        ...


class Outcome(NamedTuple):
    """What a loader came to. Kept apart from raising: a loader's ``StopIteration`` must stay itself."""

    value: Any = None
    error: BaseException | None = None


class Send(NamedTuple):
    commands: list[Command]
    hook: Callable[[list[Any]], None]


class Load(NamedTuple):
    call: Callable[[], Any]
    flights: tuple[Flight, ...] = ()


class Lead(NamedTuple):
    plan: Plan[None]
    flights: tuple[Flight, ...]


class Spawn(NamedTuple):
    plan: Plan[Any]


class Wait(NamedTuple):
    flight: Flight


Effect = Command | list[Command] | Send | Load | Lead | Spawn | Wait
Plan = Generator[Effect, Any, T]
