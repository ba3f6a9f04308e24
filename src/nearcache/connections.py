"""[shell] ``MultiRedisConnectionManager``: the process's named clients, how they are, and how they end."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from .client import Client, RedisClientType
from .core.forking import forget_in_children
from .errors import ConfigurationError, ConnectionFailed, NotInitialized, SettingsConflict
from .status import AllConnectionStatus, ConnectionStatus, Health
from .transport.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import redis.asyncio

    from .settings import Settings
    from .transport.credentials import CredentialSource
    from .transport.endpoint import Endpoint

__all__ = [
    "AllConnectionStatus",
    "Client",
    "ConnectionStatus",
    "Health",
    "MultiRedisConnectionManager",
    "RedisClientType",
    "get_multi_redis_connection_manager",
]

_ALIKE = ("prefix", "encryption_keys", "signing_keys", "pickle")
"""Settings in which nobody who shares a client may differ, besides where it connects."""


class MultiRedisConnectionManager:
    """The named clients of a process. ``get_multi_redis_connection_manager()`` gives the one there is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}
        self._registered: dict[str, str] = {}
        self._credentials: dict[str, CredentialSource] = {}
        self._at_close: list[Callable[[], Any]] = []
        forget_in_children(self)

    def forget_in_child(self) -> None:
        """After a fork: it has the parent's clients, which forget for themselves."""
        self._lock = threading.Lock()

    # -- opening

    async def initialize_all(self, settings: Settings | None = None, *, strict: bool = False) -> None:
        """Connect both clients, and every registered one, at the same time. Idempotent.

        Args:
            settings: where to; the environment's when left out.
            strict: raise when a server is away. By default that is logged and retried in the background:
                an application starts without its cache.

        Raises:
            ConnectionFailed: with ``strict=True``, a server is away.
            SettingsConflict: a client is up with other connection fields.
        """
        names = [*RedisClientType, *self._registered]
        await asyncio.gather(*(self.initialize(name, settings, strict=strict) for name in names))

    async def initialize(self, name: str, settings: Settings | None = None, *, strict: bool = False) -> Client:
        """Connect one client. Idempotent; does no I/O when it is connected."""
        client = self.bind(name, settings)
        if not client.connected:
            try:
                await client.connect()
            except ConnectionFailed:
                if strict:
                    raise
        return client

    def initialize_for_threads(self, name: str, settings: Settings | None = None) -> Client:
        """``initialize`` for a program without an event loop."""
        client = self.bind(name, settings)
        if not client.connected:
            with suppress(ConnectionFailed):
                client.connect_threads()
        return client

    def bind(self, name: str, settings: Settings | None = None) -> Client:
        """The client of that name, made from ``settings`` when it is not there yet; does no I/O.

        Raises:
            SettingsConflict: it is there with other connection fields, another prefix, or other keys.
        """
        name = str(name)
        with self._lock:
            client = self._clients.get(name)
            if client is not None and client.open and settings is None:
                return client
            if settings is None:
                from .settings import Settings

                settings = Settings()
            endpoint = self._endpoint(name, settings)
            if client is not None and client.open:
                different = endpoint.differences(client.endpoint)
                different += tuple(n for n in _ALIKE if getattr(settings, n) != getattr(client.settings, n))
                if different:
                    raise SettingsConflict(
                        f"client {name!r} is up on {client.endpoint.address} db {client.endpoint.db} and was asked to "
                        f"connect elsewhere; different: {', '.join(different)}. Call disconnect_all() first, or "
                        "register() a client of another name"
                    )
                return client
            client = self._clients[name] = Client(name, endpoint, settings, self._credentials.get(name))
            self._finish_at_exit(endpoint)
            return client

    def register(self, name: str, url: str) -> None:
        """Add a named client. It connects with ``initialize_all`` or with the first cache made on it.

        Raises:
            ConfigurationError: the URL is wrong, or the name is taken with another URL.
        """
        from .transport.endpoint import parse_url

        parse_url(url, variable=f"the URL of client {name!r}")
        with self._lock:
            if name in set(RedisClientType) or self._registered.get(name, url) != url:
                raise ConfigurationError(f"a client named {name!r} exists already; choose another name")
            self._registered[name] = url

    def use_credentials(self, name: str, source: CredentialSource | None) -> None:
        """Have a client ask ``source`` for its credentials before each connection, instead of the settings.

        So a password that was changed, or a token that ends, is replaced without a restart. A server that refuses the
        credentials is tried again, and the source asked again, until it takes them.

        Args:
            name: the client's, before it is initialised.
            source: gives a password or ``(user name, password)``: a function, which runs in a thread of its own; a
                coroutine function, which runs on the loop that connects, or for threads on one of its own; or an object
                with ``get_credentials()``, such as redis-py's and cloud vendors' providers. It has 90 % of
                ``NEARCACHE_CONNECT_TIMEOUT``. What it raises makes the attempt fail and is shown in logs and status.
                None: the settings' again.

        Raises:
            ConfigurationError: there is no such client, or the source cannot be called.
            SettingsConflict: the client is up.
        """
        from .transport.credentials import check_source

        name = str(name)
        with self._lock:
            if name not in {*RedisClientType, *self._registered}:
                raise self._unknown(name)
            client = self._clients.get(name)
            if client is not None and client.open:
                raise SettingsConflict(f"client {name!r} is up: call use_credentials() before it is initialised")
            if source is None:
                self._credentials.pop(name, None)
            else:
                check_source(source)
                self._credentials[name] = source

    def _unknown(self, name: str) -> ConfigurationError:
        known = ", ".join([*RedisClientType, *self._registered])
        return ConfigurationError(f"no client is named {name!r}; there are {known}: call register(name, url) first")

    def _endpoint(self, name: str, settings: Settings) -> Endpoint:
        from .transport.endpoint import parse_url

        if name == "cache":
            return settings.endpoint("cache")
        if name == "queue":
            return settings.endpoint("queue")
        if name not in self._registered:
            raise self._unknown(name)
        return parse_url(self._registered[name], variable=f"the URL of client {name!r}")

    # -- looking

    def client(self, name: str) -> Client:
        """The client of that name.

        Raises:
            NotInitialized: it is not there, or closed.
        """
        client = self._clients.get(str(name))
        if client is None or not client.open:
            raise NotInitialized(
                f"client {str(name)!r} is not initialised: await manager.initialize_all(settings), or "
                "await cache.initialize(settings) on a cache that uses it"
            )
        return client

    def get_all_connection_status(self) -> AllConnectionStatus:
        """The status of every client; before ``initialize_all`` none is connected."""
        names = dict.fromkeys([*RedisClientType, *self._registered])
        return AllConnectionStatus({str(name): self.get_connection_status(name) for name in names})

    def get_connection_status(self, client_type: str) -> ConnectionStatus:
        """The status of one client; not connected, and without an address, before it is initialised."""
        client = self._clients.get(str(client_type))
        return ConnectionStatus(False, "", 0, 0) if client is None else client.status()

    async def ping(self, client_type: str = RedisClientType.CACHE) -> str:
        """``PONG``.

        Raises:
            ConnectionFailed: the server does not answer.
            NotInitialized: there is no such client yet.
        """
        return await self.client(client_type).ping()

    def health(self) -> Health:
        """``up``, ``degraded`` or ``down``, with reasons."""
        clients = [client for client in self._clients.values() if client.open]
        if not clients:
            return Health("down", ("no client is initialised",))
        reasons = (
            tuple(
                f"{client.name}: no connection to {client.endpoint.address}: {client.status().last_error}"
                for client in clients
                if not client.connected
            )
            + tuple(
                f"{client.name}: circuit breaker {client.breaker.state}"
                for client in clients
                if not client.breaker.closed
            )
            + tuple(
                f"{client.name}: {owed} writes or invalidations are still to be made good"
                for client in clients
                if (owed := client.status().owed)
            )
            + tuple(f"{client.name}: {reason}" for client in clients for reason in client.refusals.reasons())
        )
        return Health("degraded" if reasons else "up", reasons)

    def get_client(self, client_type: str = RedisClientType.CACHE) -> redis.asyncio.Redis:
        """A ready ``redis.asyncio.Redis`` on the same settings, for commands nearcache does not wrap.

        It has connections of its own; ``disconnect_all`` closes them.
        """
        return self.client(client_type).driver()

    # -- closing

    def at_close(self, drain: Callable[[], Any]) -> None:
        """Have ``disconnect_all`` call ``drain`` before it closes the connections; at the latest at the process's exit.

        Args:
            drain: a coroutine function, or one that blocks, which is called in a thread of its own. Kept once.
        """
        if drain not in self._at_close:
            self._at_close.append(drain)

    async def disconnect_all(self) -> None:
        """Let what is under way finish, drain write-behind, close every connection. Idempotent.

        Operations after it raise ``NotInitialized`` until the client is initialised again.
        """
        drains, self._at_close = self._at_close, []
        for drain in drains:
            await (drain() if inspect.iscoroutinefunction(drain) else in_thread(drain))
        with self._lock:
            clients = [client for client in self._clients.values() if client.open]
        await asyncio.gather(*(client.aclose() for client in clients))

    def close(self) -> None:
        """``disconnect_all`` for a program without an event loop."""
        asyncio.run(self.disconnect_all())

    def _finish(self) -> None:
        """At the interpreter's end, what nobody did before. No thread can be started any more."""
        drains, self._at_close = self._at_close, []
        with ExitStack() as last_first:  # each of them, whatever the others raise
            for client in self._clients.values():
                if client.open:
                    last_first.callback(client.finish)
            for drain in reversed(drains):
                last_first.callback(partial(_run, drain) if inspect.iscoroutinefunction(drain) else drain)

    def _finish_at_exit(self, endpoint: Endpoint) -> None:
        if endpoint.kind == "embedded":
            from .transport import embedded  # noqa: F401  # registers its own end, which has to come after this
        atexit.unregister(self._finish)
        atexit.register(self._finish)


def _run(drain: Callable[[], Coroutine[Any, Any, object]]) -> None:
    asyncio.run(drain())


_manager = MultiRedisConnectionManager()


def get_multi_redis_connection_manager() -> MultiRedisConnectionManager:
    """The process's manager."""
    return _manager
