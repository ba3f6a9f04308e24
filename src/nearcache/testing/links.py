"""The link that ``Faults`` puts in the place of a client's own: what is to go wrong goes wrong here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..transport.wire import Command, Hook, Waiter, afresh

if TYPE_CHECKING:
    from ..errors import CommandRefused, ServerError
    from .faults import Faults

__all__ = ["FaultyLink", "Held", "Verdict", "on_loop"]


class Verdict(NamedTuple):
    """What happens to a batch: it is lost, or some commands are refused and the replies come late."""

    lost: ServerError | None
    refused: dict[int, CommandRefused]
    seconds: float


class FaultyLink:
    """A link, with faults. Everything else is the link's own."""

    def __init__(self, faults: Faults, link: Any) -> None:
        self._faults = faults
        self._inner = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._inner == (other._inner if isinstance(other, FaultyLink) else other))

    def __hash__(self) -> int:
        return hash(self._inner)

    def post(self, command: Command, waiter: Waiter) -> None:
        self.post_many([command], _Only(waiter))

    def post_many(self, commands: Sequence[Command], waiter: Waiter, hook: Hook | None = None) -> None:
        verdict = self._faults.judge(commands)
        if verdict is None:
            self._inner.post_many(commands, waiter, hook)
            self._faults.answered(self._inner)
        elif verdict.lost is not None:
            waiter.set_exception(afresh(verdict.lost))
        else:
            held = Held(self._faults, self._inner, verdict, waiter, hook, asyncio.get_running_loop())
            self._send(commands, verdict, held, lambda passed: self._inner.post_many(passed, held))

    def request(self, command: Command) -> Any:
        return self.request_many([command])[0]

    def request_many(self, commands: Sequence[Command], hook: Hook | None = None) -> list[Any]:
        verdict = self._faults.judge(commands)
        if verdict is None:
            replies: list[Any] = self._inner.request_many(commands, hook)
            self._faults.answered(self._inner)
            return replies
        if verdict.lost is not None:
            raise afresh(verdict.lost)
        waiter = _Blocking()
        held = Held(self._faults, self._inner, verdict, waiter, hook, None)
        self._send(commands, verdict, held, lambda passed: held.set_result(self._inner.request_many(passed)))
        return waiter.wait()

    def _send(
        self,
        commands: Sequence[Command],
        verdict: Verdict,
        held: Held,
        send: Callable[[list[Command]], None],
    ) -> None:
        passed = [command for place, command in enumerate(commands) if place not in verdict.refused]
        if passed:
            send(passed)
        else:
            held.set_result([])


class Held:
    """Stands for the waiter of a batch that something is done to."""

    def __init__(
        self,
        faults: Faults,
        link: object,
        verdict: Verdict,
        waiter: Waiter,
        hook: Hook | None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self._faults = faults
        self._link = link
        self._verdict = verdict
        self._waiter = waiter
        self._hook = hook
        self._loop = loop
        self._replies: list[Any] = []
        self._over = False
        self.cancels: list[Callable[[], None]] = []

    def done(self) -> bool:
        return False  # the hook must see the replies, whether or not somebody waits

    def set_result(self, replies: list[Any], /) -> None:
        passed = iter(replies)
        refused = {place: afresh(error) for place, error in self._verdict.refused.items()}
        count = len(replies) + len(refused)
        self._replies = [refused[place] if place in refused else next(passed) for place in range(count)]
        if self._verdict.seconds:
            self._faults.hold(self, self._verdict.seconds, self._loop)
        else:
            self.arrive()

    def set_exception(self, error: Exception, /) -> None:
        if not self._waiter.done():
            self._waiter.set_exception(error)

    def arrive(self) -> None:
        """The replies are here: for the hook, and for whoever still waits. Idempotent, and nothing after ``lose``."""
        if self._over:
            return
        self._over = True
        self._faults.answered(self._link)
        try:
            if self._hook is not None:
                self._hook(self._replies)
        except Exception as error:  # noqa: BLE001  # the caller's
            self.set_exception(error)
        else:
            if not self._waiter.done():
                self._waiter.set_result(self._replies)

    def release(self) -> None:
        """Let them arrive now."""
        self._cancel()
        self._on_loop(self.arrive)

    def lose(self, error: Exception) -> None:
        """They never arrive."""
        self._over = True
        self._cancel()
        self._on_loop(partial(self.set_exception, error))

    def _cancel(self) -> None:
        for cancel in self.cancels:
            cancel()

    def _on_loop(self, call: Callable[[], None]) -> None:
        if self._loop is None:
            call()
        else:
            on_loop(self._loop, call)


class _Only:
    """Hands on the one reply of a batch of one."""

    def __init__(self, waiter: Waiter) -> None:
        self._waiter = waiter
        self.done = waiter.done
        self.set_exception = waiter.set_exception

    def set_result(self, replies: list[Any], /) -> None:
        self._waiter.set_result(replies[0])


class _Blocking:
    """A waiter for a thread."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._replies: list[Any] = []
        self._error: Exception | None = None

    def done(self) -> bool:
        return self._set.is_set()

    def set_result(self, replies: list[Any], /) -> None:
        self._replies = replies
        self._set.set()

    def set_exception(self, error: Exception, /) -> None:
        self._error = error
        self._set.set()

    def wait(self) -> list[Any]:
        self._set.wait()
        if self._error is not None:
            raise self._error
        return self._replies


def on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call something on that loop: at once if this is it."""
    if asyncio._get_running_loop() is loop:
        call()
    else:
        with suppress(RuntimeError):  # it has closed
            loop.call_soon_threadsafe(call)
