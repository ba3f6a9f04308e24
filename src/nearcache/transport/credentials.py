"""Asking the application for user name and password, for each connection anew.

Theory of operation
-------------------
The source may ask a vault or read a file, so it must not run on an event loop: a plain function runs in a thread of its
own, a coroutine function on the loop that connects. One call is under way at a time; connections that open meanwhile
wait for the same one, so a cluster, or a fleet of loops that lost one server, asks once. The thread is a daemon: a
source that never returns holds up neither a loop's end nor the process's. A call that took too long is not given up:
who connects next takes its result, so a slow source delays the connection and does not prevent it.

What comes back is kept nowhere but in the endpoint of that one connection.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..errors import ConfigurationError, ConnectionFailed
from .tasks import start_thread

if TYPE_CHECKING:
    from .endpoint import Endpoint

__all__ = ["CredentialSource", "Credentials", "check_source"]

_SHARE = 0.9  # of the time there is to connect: the rest is for saying that nothing came


class CredentialProvider(Protocol):
    """What redis-py and the packages of cloud vendors call a provider of credentials."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]: ...


Given: TypeAlias = str | tuple[str] | tuple[str, str]
CredentialSource: TypeAlias = Callable[[], Given | Awaitable[Given]] | CredentialProvider
"""Gives a password, or ``(user name, password)``: a function, a coroutine function, or a provider like redis-py's."""


class Credentials:
    """As whom the connections of one client log in.

    Args:
        endpoint: its own credentials hold where there is no source, its user name where the source gives none.
        source: asked before each connection; None: what the endpoint says.
        timeout: seconds for one attempt to connect, of which this is the first step.
    """

    def __init__(self, endpoint: Endpoint, source: CredentialSource | None, timeout: float) -> None:
        self._endpoint = endpoint
        self._patience = _SHARE * timeout
        self._ask = None if source is None else check_source(source)
        self._lock = threading.Lock()
        self._call: Future[Endpoint | BaseException] | None = None

    @property
    def change(self) -> bool:
        """They are asked for each time."""
        return self._ask is not None

    async def endpoint(self) -> Endpoint:
        """The endpoint, with the credentials of the next connection.

        Raises:
            ConnectionFailed: there are none; the message says why.
        """
        if self._ask is None:
            return self._endpoint
        if inspect.iscoroutinefunction(self._ask):
            try:
                async with asyncio.timeout(self._patience) as limit:
                    return self._with(await self._ask())
            except Exception as error:
                raise self._late() if limit.expired() else _failure(error) from error
        call = self._under_way(self._ask)
        await asyncio.wait([asyncio.wrap_future(call)], timeout=self._patience)
        return self._result(call)

    def endpoint_in_thread(self) -> Endpoint:
        """``endpoint`` for a thread."""
        if self._ask is None:
            return self._endpoint
        call = self._under_way(self._ask)
        wait([call], self._patience)
        return self._result(call)

    def forget_in_child(self) -> None:
        """After a fork: the thread that asks is the parent's."""
        self._lock = threading.Lock()
        self._call = None

    def _under_way(self, ask: Callable[[], Any]) -> Future[Endpoint | BaseException]:
        with self._lock:
            if self._call is None:
                call: Future[Endpoint | BaseException] = Future()
                call.set_running_or_notify_cancel()  # whoever stops waiting for it does not cancel it
                if start_thread("nearcache-credentials", self._run, ask, call) is None:
                    raise ConnectionFailed("there is no thread in which to ask the source of the credentials")
                self._call = call
            return self._call

    def _run(self, ask: Callable[[], Any], call: Future[Endpoint | BaseException]) -> None:
        try:
            given = ask()
            call.set_result(self._with(asyncio.run(_wait_for(given)) if inspect.isawaitable(given) else given))
        except BaseException as error:  # noqa: BLE001  # those who wait have to hear of it, whatever it is
            call.set_result(error)  # not as an exception: whoever left early would have asyncio complain of it

    def _result(self, call: Future[Endpoint | BaseException]) -> Endpoint:
        if not call.done():
            raise self._late()
        with self._lock:
            if self._call is call:
                self._call = None
        outcome = call.result()
        if isinstance(outcome, BaseException):
            raise _failure(outcome) from outcome
        return outcome

    def _with(self, given: Any) -> Endpoint:
        words = (given,) if isinstance(given, str) else given
        match words:
            case (str(password),):
                user = self._endpoint.username
            case (str(name), str(password)):
                user = name or self._endpoint.username
            case _:
                raise TypeError(f"it gave a {type(given).__name__}, not a password or (user name, password)")
        if not password:
            raise ValueError("it gave an empty password")
        return replace(self._endpoint, username=user, password=password)

    def _late(self) -> ConnectionFailed:
        return ConnectionFailed(f"the source of the credentials did not answer within {self._patience:g} s")


def check_source(source: CredentialSource) -> Callable[[], Any]:
    """What to call for credentials.

    Raises:
        ConfigurationError: it cannot be called.
    """
    provide: Any = getattr(source, "get_credentials", source)
    if not callable(provide):
        raise ConfigurationError(
            "credentials come from a function, a coroutine function, or an object with get_credentials(), "
            f"not from a {type(source).__name__}"
        )
    # Of an object with "async def __call__" inspect sees only that method.
    called = getattr(provide, "__call__", None)  # noqa: B004
    return called if inspect.iscoroutinefunction(called) else provide


async def _wait_for(given: Awaitable[Any]) -> Any:
    return await given


def _failure(error: BaseException) -> ConnectionFailed:
    return ConnectionFailed(f"the source of the credentials failed: {type(error).__name__}: {error}")
