"""[shell] How plans are carried out: ``drive`` on an event loop, ``drive_in_thread`` in the calling thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from .core.effects import Effect, Lead, Load, Outcome, Plan, Send, Spawn, Wait
from .core.flights import Flight, loading
from .errors import InvalidArgument, LoadError, LoadTimeout, ServerError, WouldDeadlock

if TYPE_CHECKING:
    from .base import Core
    from .client import AsyncLink, ThreadLink

__all__ = ["drive", "drive_in_thread", "result"]

T = TypeVar("T")

_STRANDED_CHECK = 1.0  # seconds between looks at whether the loop that leads a flight is still there


def result(outcome: Outcome) -> Any:
    """The value, or the loader's own error raised."""
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


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
        return await _load(effect, core)
    if isinstance(effect, Wait):
        return await _wait(effect.flight, loop, core)
    assert isinstance(effect, Lead | Spawn)
    if isinstance(effect, Lead):
        for flight in effect.flights:
            flight.loop = loop
    task = loop.create_task(drive(link, effect.plan, core))
    core.tasks.add(task)
    task.add_done_callback(core.tasks.discard)
    return None


async def _load(effect: Load, core: Core) -> Outcome:
    token = loading.set((*loading.get(), *effect.flights))
    try:
        # A writer has no limit: cutting it off would leave the outcome of a write unknown.
        async with asyncio.timeout(core.load_timeout if effect.flights else None) as limit:
            value = effect.call()
            return Outcome(await value if inspect.isawaitable(value) else value)
    except TimeoutError as error:
        if limit.expired():
            return Outcome(error=LoadTimeout(f"the loader took longer than {core.load_timeout:g} s"))
        return Outcome(error=error)
    except Exception as error:
        return Outcome(error=error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the loop is ending; a waiter on another loop will lead
        return Outcome(error=LoadError("the loader was cancelled from within"))
    finally:
        loading.reset(token)


async def _wait(flight: Flight, loop: asyncio.AbstractEventLoop, core: Core) -> None:
    if flight.landed:
        return
    future = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    def waker() -> None:
        if asyncio._get_running_loop() is loop:
            wake()
        else:
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(wake)

    flight.when_landed(waker)
    if flight.loop is loop:
        await future
        return
    # Led elsewhere: by a thread, or by a loop that may close under it.
    deadline = loop.time() + core.load_timeout + _STRANDED_CHECK
    while not future.done():
        await asyncio.wait([future], timeout=_STRANDED_CHECK)
        if flight.loop is not None and flight.loop.is_closed():
            core.flights.abandon(flight)
        elif loop.time() > deadline and not flight.landed:
            raise LoadTimeout(f"waited {core.load_timeout:g} s for a load that another thread began")


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
        return _load_in_thread(effect)
    if isinstance(effect, Wait):
        return _wait_in_thread(effect.flight, core)
    if isinstance(effect, Lead):
        return drive_in_thread(link, effect.plan, core)
    assert isinstance(effect, Spawn)
    threading.Thread(target=drive_in_thread, args=(link, effect.plan, core), daemon=True).start()
    return None


def _load_in_thread(effect: Load) -> Outcome:
    token = loading.set((*loading.get(), *effect.flights))
    try:
        value = effect.call()
    except Exception as error:
        return Outcome(error=error)
    finally:
        loading.reset(token)
    if inspect.iscoroutine(value):
        value.close()
        return Outcome(error=InvalidArgument("a synchronous Cache calls synchronous functions: use AsyncCache"))
    return Outcome(value)


def _wait_in_thread(flight: Flight, core: Core) -> None:
    if flight.landed:
        return
    if flight.loop is not None and flight.loop is asyncio._get_running_loop():
        raise WouldDeadlock(
            f"the load of {flight.key.decode()!r} runs on this thread's event loop, which would be blocked: "
            "use AsyncCache here"
        )
    landed = threading.Event()
    flight.when_landed(landed.set)
    waited = 0.0
    while not landed.wait(_STRANDED_CHECK):
        waited += _STRANDED_CHECK
        if flight.loop is not None and flight.loop.is_closed():
            core.flights.abandon(flight)
        elif waited > core.load_timeout + _STRANDED_CHECK:
            raise LoadTimeout(f"waited {core.load_timeout:g} s for a load that another thread or loop began")
