"""[shell] How plans are carried out: ``drive`` on an event loop, ``drive_in_thread`` in the calling thread."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .core.effects import Command, Effect, Lead, Load, Outcome, Plan, Send, Sleep, Spawn, Wait
from .core.forking import forget_in_children
from .core.loading import current
from .errors import InvalidArgument, LoadError, LoadTimeout, ServerError, WouldDeadlock
from .transport.tasks import start_thread

if TYPE_CHECKING:
    from .base import Core
    from .client import AsyncLink, ThreadLink
    from .core.clock import Timer

__all__ = ["drive", "drive_in_thread", "result"]

T = TypeVar("T")

_BEAT = 1.0  # seconds between two signs of life of a process that loads
_STRANDED_CHECK = 1.0  # seconds between looks at whether the loop that leads a flight is still there


def result(outcome: Outcome) -> Any:
    """The value, or the loader's own error raised."""
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _timer(core: Core) -> Timer | None:
    """How to wait for the time of the cache's client; None for real time."""
    return core.client.clock.after


# -- on an event loop


async def drive(link: AsyncLink, plan: Plan[T], core: Core | None = None) -> T:
    """Carry out a plan on the running loop."""
    loop = asyncio.get_running_loop()
    resume: Callable[[Any], Effect] = plan.send
    value: Any = None
    try:
        while True:
            effect = resume(value)
            resume = plan.send
            kind = effect.__class__
            try:
                if kind is tuple:
                    waiter = loop.create_future()
                    link.post(effect, waiter)  # type: ignore[arg-type]
                    value = await waiter
                elif kind is list:
                    waiter = loop.create_future()
                    link.post_many(effect, waiter)  # type: ignore[arg-type]
                    value = await waiter
                elif isinstance(effect, Send):
                    waiter = loop.create_future()
                    link.post_many(effect.commands, waiter, effect.hook)
                    value = await waiter
                else:
                    assert core is not None
                    value = await _carry_out(effect, loop, link, core)
            except ServerError as error:
                resume, value = plan.throw, error
    except StopIteration as stop:
        return stop.value
    finally:
        plan.close()


async def _carry_out(effect: Effect, loop: asyncio.AbstractEventLoop, link: AsyncLink, core: Core) -> Any:
    """The rarer effects."""
    if isinstance(effect, Load):
        return await _load(effect, loop, link, _timer(core))
    if isinstance(effect, Wait):
        return await _wait(effect, loop, core)
    if isinstance(effect, Sleep):
        return await _until(effect.watch.when_fired, effect.timeout, loop, _timer(core))
    assert isinstance(effect, Lead | Spawn)
    if isinstance(effect, Lead):
        for flight in effect.flights:
            flight.loop = loop
    task = loop.create_task(drive(link, effect.plan, core))
    core.tasks.add(task)
    task.add_done_callback(core.tasks.discard)
    if isinstance(effect, Lead):  # cancelled before it began, its plan lands nothing
        task.add_done_callback(lambda _: _abandon(effect, core))
    return None


def _abandon(lead: Lead, core: Core) -> None:
    """Nobody leads any more: one of those who wait does. No-op for what has landed."""
    for flight in lead.flights:
        core.flights.abandon(flight)


async def _load(effect: Load, loop: asyncio.AbstractEventLoop, link: AsyncLink, timer: Timer | None) -> Outcome:
    token = current.set(effect.load) if effect.load is not None else None
    cancels: dict[str, Callable[[], None]] = {}

    def beat(send: Callable[[], list[Command]]) -> None:
        waiter = loop.create_future()
        waiter.add_done_callback(_heard)
        link.post_many(send(), waiter)
        cancels["beat"] = _after(_BEAT, partial(beat, send), loop, timer)

    if effect.alive is not None:
        cancels["beat"] = _after(_BEAT, partial(beat, effect.alive), loop, timer)
    try:
        async with asyncio.timeout(None) as limit:
            if effect.timeout is not None:
                cancels["limit"] = _after(effect.timeout, partial(_expire, limit, loop), loop, timer)
            value = effect.call()
            return Outcome(await value if inspect.isawaitable(value) else value)
    except TimeoutError as error:
        if limit.expired():
            return Outcome(error=LoadTimeout(f"the loader took longer than {effect.timeout:g} s"))
        return Outcome(error=error)
    except Exception as error:
        return Outcome(error=error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the loop is ending; a waiter on another loop will lead
        return Outcome(error=LoadError("the loader was cancelled from within"))
    finally:
        if token is not None:
            current.reset(token)
        for cancel in cancels.values():
            cancel()


def _expire(limit: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
    with suppress(RuntimeError):  # over already: another thread let the time pass
        limit.reschedule(loop.time())


def _heard(waiter: asyncio.Future[Any]) -> None:
    if not waiter.cancelled():
        waiter.exception()  # a beat that was lost is followed by others


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call something on that loop: at once if this is it."""
    if asyncio._get_running_loop() is loop:
        call()
    else:
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(call)


def _after(
    seconds: float, call: Callable[[], None], loop: asyncio.AbstractEventLoop, timer: Timer | None
) -> Callable[[], None]:
    """Call something on that loop when so many seconds have passed; what is returned prevents that."""
    if timer is None:
        return loop.call_later(seconds, call).cancel
    return timer(seconds, partial(_on_loop, loop, call))


async def _until(
    when: Callable[[Callable[[], None]], None],
    seconds: float | None,
    loop: asyncio.AbstractEventLoop,
    timer: Timer | None = None,
) -> None:
    """Wait until whoever is given a waker calls it, from whatever thread, or until the time is over."""
    future = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    when(partial(_on_loop, loop, wake))
    if seconds is None:
        await future
        return
    cancel = _after(seconds, wake, loop, timer)
    try:
        await future
    finally:
        cancel()


async def _wait(effect: Wait, loop: asyncio.AbstractEventLoop, core: Core) -> None:
    flight = effect.flight
    if flight.landed:
        return
    if flight.loop is loop or effect.timeout is not None:
        await _until(flight.when_landed, effect.timeout, loop, _timer(core))
        return
    # Led elsewhere: by a thread, or by a loop that may close under it. That takes real time, whatever the clock.
    deadline = loop.time() + effect.limit + _STRANDED_CHECK
    while not flight.landed:
        await _until(flight.when_landed, _STRANDED_CHECK, loop)
        if flight.loop is not None and flight.loop.is_closed():
            core.flights.abandon(flight)
        elif loop.time() > deadline and not flight.landed:
            raise LoadTimeout(f"waited {effect.limit:g} s for a load that another thread began")


# -- in a thread


def drive_in_thread(link: ThreadLink, plan: Plan[T], core: Core | None = None) -> T:
    """Carry out a plan in this thread."""
    resume: Callable[[Any], Effect] = plan.send
    value: Any = None
    try:
        while True:
            effect = resume(value)
            resume = plan.send
            kind = effect.__class__
            try:
                if kind is tuple:
                    value = link.request(effect)  # type: ignore[arg-type]
                elif kind is list:
                    value = link.request_many(effect)  # type: ignore[arg-type]
                elif isinstance(effect, Send):
                    value = link.request_many(effect.commands, effect.hook)
                else:
                    assert core is not None
                    value = _carry_out_in_thread(effect, link, core)
            except ServerError as error:
                resume, value = plan.throw, error
    except StopIteration as stop:
        return stop.value
    finally:
        plan.close()


def _carry_out_in_thread(effect: Effect, link: ThreadLink, core: Core) -> Any:
    """The rarer effects."""
    if isinstance(effect, Load):
        return _load_in_thread(effect, link, _timer(core))
    if isinstance(effect, Wait):
        return _wait_in_thread(effect, core)
    if isinstance(effect, Sleep):
        return _sleep_in_thread(effect, link, _timer(core))
    if isinstance(effect, Lead) and not effect.background:
        return drive_in_thread(link, effect.plan, core)
    assert isinstance(effect, Lead | Spawn)
    context = contextvars.copy_context()
    try:
        threading.Thread(
            target=context.run, args=(drive_in_thread, link, effect.plan, core), name="nearcache-load", daemon=True
        ).start()
    except RuntimeError:  # no more threads, or the interpreter is ending
        if isinstance(effect, Lead):
            _abandon(effect, core)
        if isinstance(effect, Spawn) or effect.needed:
            raise
    return None


def _load_in_thread(effect: Load, link: ThreadLink, timer: Timer | None) -> Outcome:
    token = current.set(effect.load) if effect.load is not None else None
    done = threading.Event()
    if effect.alive is not None:
        beat = partial(_beat_in_thread, link, effect.alive)
        if timer is None:
            beats.join(done, beat)
        else:
            timer(_BEAT, partial(_beat_again, timer, done, beat))
    try:
        value = effect.call()
    except Exception as error:
        return Outcome(error=error)
    finally:
        done.set()
        if token is not None:
            current.reset(token)
    if inspect.iscoroutine(value):
        value.close()
        return Outcome(error=InvalidArgument("a synchronous Cache calls synchronous functions: use AsyncCache"))
    return Outcome(value)


def _beat_in_thread(link: ThreadLink, send: Callable[[], list[Command]]) -> None:
    with suppress(ServerError):
        link.request_many(send())


def _beat_again(timer: Timer, done: threading.Event, beat: Callable[[], None]) -> None:
    if not done.is_set():
        beat()
        timer(_BEAT, partial(_beat_again, timer, done, beat))


class _Beats:
    """One thread that beats for all loads of this process's threads that take longer than a beat."""

    def __init__(self) -> None:
        self.forget_in_child()

    def forget_in_child(self) -> None:
        self._lock = threading.Lock()
        self._loads: list[tuple[threading.Event, Callable[[], None]]] = []
        self._running = False

    def join(self, done: threading.Event, beat: Callable[[], None]) -> None:
        """Call ``beat`` each second until ``done`` is set."""
        with self._lock:
            self._loads.append((done, beat))
            if self._running:
                return
            self._running = True
        if start_thread("nearcache-beat", self._run) is None:
            self._running = False

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(_BEAT)
            with self._lock:
                self._loads = [load for load in self._loads if not load[0].is_set()]
                self._running = bool(self._loads)
                if not self._running:
                    return
                loads = list(self._loads)
            for _, beat in loads:
                beat()


beats = _Beats()
forget_in_children(beats)


def _sleep_in_thread(effect: Sleep, link: ThreadLink, timer: Timer | None) -> None:
    link.watch()  # between commands nobody else reads what the server pushes
    fired = threading.Event()
    effect.watch.when_fired(fired.set)
    _wait_for(fired, effect.timeout, timer)


def _wait_for(event: threading.Event, seconds: float, timer: Timer | None) -> None:
    """Wait until an event is set, or until the time is over."""
    if timer is None:
        event.wait(seconds)
        return
    cancel = timer(seconds, event.set)
    try:
        event.wait()
    finally:
        cancel()


def _wait_in_thread(effect: Wait, core: Core) -> None:
    flight = effect.flight
    if flight.landed:
        return
    if flight.loop is not None and flight.loop is asyncio._get_running_loop():
        raise WouldDeadlock(
            f"the load of {flight.key.decode()!r} runs on this thread's event loop, which would be blocked: "
            "use AsyncCache here"
        )
    landed = threading.Event()
    flight.when_landed(landed.set)
    if effect.timeout is not None:
        _wait_for(landed, effect.timeout, _timer(core))
        return
    waited = 0.0
    while not landed.wait(_STRANDED_CHECK):
        waited += _STRANDED_CHECK
        if flight.loop is not None and flight.loop.is_closed():
            core.flights.abandon(flight)
        elif waited > effect.limit + _STRANDED_CHECK:
            raise LoadTimeout(f"waited {effect.limit:g} s for a load that another thread or loop began")
