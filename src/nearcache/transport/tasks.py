"""What is asked of event loops and threads that may be about to end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["in_thread", "start_keeper", "start_thread"]

T = TypeVar("T")


def start_keeper(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that goes on as long as its loop. Nobody is warned when a loop is closed around it."""
    task = loop.create_task(work, name=name)
    with suppress(AttributeError):  # a task of another make
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


async def in_thread(call: Callable[[], T]) -> T:
    """``asyncio.to_thread``, and what is left of it while the interpreter is ending and lends no threads: the call."""
    return await asyncio.to_thread(call) if threading.main_thread().is_alive() else call()


def start_thread(name: str, work: Callable[..., object], *arguments: object) -> threading.Thread | None:
    """A daemon thread; None when there can be no more of them, or the interpreter is ending."""
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread
