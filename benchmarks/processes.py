"""Processes that do what a benchmark tells them, through a pipe. Spawned, so nothing is inherited."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Process", "obey"]

_ANSWER = 60.0  # seconds a process has to finish what it was told


class Process:
    """One process that runs ``obey(pipe, make, *arguments)``.

    Args:
        name: for messages.
        make: a function or class of a module: ``make(*arguments)`` in the process gives the object whose methods
            ``tell`` names.
    """

    def __init__(self, name: str, make: Callable[..., Any], *arguments: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._name = name
        self._process = spawn.Process(target=obey, args=(theirs, make, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, method: str, *arguments: Any) -> None:
        """Have it call a method; ``answer`` has the outcome."""
        self._pipe.send((method, *arguments))

    def answer(self, seconds: float = _ANSWER) -> Any:
        """What the next method returned; the first answer, None, says that it is ready.

        Args:
            seconds: after which it hangs.

        Raises:
            RuntimeError: it has died, or hangs.
            Exception: what the method, or making the object, raised.
        """
        try:
            if not self._pipe.poll(seconds):
                raise RuntimeError(f"{self._name} has not answered for {seconds:g} s")
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"{self._name} has died: its error is above") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ask(self, method: str, *arguments: Any) -> Any:
        self.tell(method, *arguments)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        if self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def end(self) -> None:
        """Let it close what it has; killed when it does not."""
        with suppress(OSError):
            self._pipe.send(None)
        self._process.join(5)
        self._process.kill()
        self._process.join()
        self._pipe.close()


def obey(pipe: Connection, make: Callable[..., Any], *arguments: Any) -> None:
    """Make the object, then call what the pipe says until it says no more."""
    try:
        worker = make(*arguments)
    except Exception as error:  # noqa: BLE001  # who started it is told
        pipe.send(error)
        return
    pipe.send(None)
    # At the end of the pipe whoever started this is gone, and threads are daemons.
    with suppress(EOFError):
        while (order := pipe.recv()) is not None:
            method, *rest = order
            try:
                answer = getattr(worker, method)(*rest)
            except Exception as error:  # noqa: BLE001  # the same
                answer = error
            pipe.send(answer)
        worker.close()
