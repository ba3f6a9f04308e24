"""What stands in for a lane that must not be used: the breaker is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .hello import local_clock
from .wire import Command, Hook, Waiter

__all__ = ["NoLink"]


class NoLink:
    """Every command fails at once."""

    tracks = True
    track_all = False

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error
        self.counters: dict[bytes, tuple[int, int]] = {}
        self.clock = local_clock()

    def post(self, command: Command, waiter: Waiter) -> None:
        waiter.set_exception(self._error())

    def post_many(self, commands: Sequence[Command], waiter: Waiter, hook: Hook | None = None) -> None:
        waiter.set_exception(self._error())

    def request(self, command: Command) -> Any:
        raise self._error()

    def request_many(self, commands: Sequence[Command], hook: Hook | None = None) -> list[Any]:
        raise self._error()

    def histories(self, name: bytes | None = None) -> tuple[()]:
        """There is no server."""
        return ()

    def watch(self) -> None:
        """Nothing will be pushed."""
