"""[shell] A client: one named connection target, and what the caches on it share.

A ``Client`` owns a lane per event loop, one more that all threads share, and the flights, the namespaces and the
breaker of the caches that use it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from .connection_log import ConnectionLog
from .core.breaker import Breaker
from .core.clock import clock
from .core.flights import Flights
from .core.forking import forget_in_children, keep
from .core.keys import Namespace
from .core.leases import Holder
from .errors import ConfigurationError, ConnectionFailed, NotInitialized
from .recovering import Recovering
from .status import ConnectionStatus
from .tiers.memory import NearTier
from .transport.backoff import MOST
from .transport.cluster_lane import ClusterLane
from .transport.cluster_threads import ClusterThreads
from .transport.lane import Lane
from .transport.links import make_link, make_thread_link
from .transport.lookout import Lookout
from .transport.memory import MemoryLink, get_store
from .transport.no_link import NoLink
from .transport.refusals import Refusals
from .transport.replicas import Replicas
from .transport.tasks import in_thread
from .transport.thread_lane import ThreadLane
from .transport.topology import Topology

if TYPE_CHECKING:
    import redis.asyncio

    from .settings import Settings
    from .transport.credentials import CredentialSource
    from .transport.endpoint import Endpoint

__all__ = ["AsyncLink", "Client", "ConnectionStatus", "RedisClientType", "ThreadLink"]

_log = logging.getLogger("nearcache.connections")
_MAX_NAMESPACES = 10_000  # names kept; past that the table starts anew


class RedisClientType(enum.StrEnum):
    """The two clients every application has."""

    CACHE = "cache"
    QUEUE = "queue"


AsyncLink = Lane | ClusterLane | MemoryLink | NoLink
ThreadLink = ThreadLane | ClusterThreads | MemoryLink | NoLink


class Client:
    """One named client.

    Args:
        name: ``cache``, ``queue``, or the name it was registered under.
        endpoint: where it connects.
        settings: deadlines and bounds.
        credentials: asked for user name and password before each connection; None: the endpoint's.
    """

    def __init__(
        self, name: str, endpoint: Endpoint, settings: Settings, credentials: CredentialSource | None = None
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self.settings = settings
        self.flights = Flights()
        self.clock = clock()
        self.breaker = Breaker(settings.breaker_failures, settings.breaker_reset, self.clock.monotonic)
        self._namespaces: dict[str, Namespace] = {}
        self._lanes: dict[asyncio.AbstractEventLoop, Lane | ClusterLane] = {}
        self._lock = threading.Lock()
        self._thread_lane: ThreadLane | ClusterThreads | None = None
        # A cluster has one database, so there the client's name keeps its keys apart.
        self._clustered = endpoint.kind == "cluster"
        self._prefix = Namespace(name, settings.prefix).head.decode() if self._clustered else settings.prefix
        # In a cluster CLIENT CACHING and ASKING, which both have to come right before a command, exclude each other.
        self.spread = self._clustered or (settings.read_from != "primary" and endpoint.kind == "sentinel")
        self.track_all = settings.near_enabled or self.spread
        self.near = NearTier(
            settings.near_entries,
            settings.near_bytes,
            settings.near_ttl,
            keeps=settings.near_enabled,
            now=self.clock.monotonic,
        )
        self.near.on_revoked = self.flights.detach
        self.near.trouble.away = settings.connect_timeout + MOST + 1.0  # until the next attempt has failed, too
        self.breaker.on_failed = self.near.trouble.command_failed
        self.holder = Holder(self._prefix, self.clock.monotonic)
        self._memory: MemoryLink | None = None
        if endpoint.kind == "memory":
            store = get_store(endpoint.name, endpoint.db, settings.near_entries, settings.near_bytes)
            self._memory = MemoryLink(store, self.near, track_all=settings.near_enabled)
            self.near.attach(self._memory)
        self.refusals = Refusals(self.clock.monotonic, lambda why: _log.warning("%s: %s", self._where(), why))
        self._told = ConnectionLog(self._where)
        self.topology = Topology(
            endpoint,
            command_timeout=settings.command_timeout,
            connect_timeout=settings.connect_timeout,
            client_name=f"nearcache-{name}",
            track_all=self.track_all,
            credentials=credentials,
            note=self.refusals.note,
            replicas=Replicas(name) if settings.read_from != "primary" and self.spread else None,
        )
        self._lookout: Lookout | None = None
        if endpoint.kind in ("sentinel", "cluster"):
            self._lookout = Lookout(self.topology, self._links)
            if self.topology.replicas is not None:
                self.topology.replicas.on_left = self._lookout.soon
        self._recovering = Recovering(self, lambda: (self._thread_lane, self._lanes))
        self.replay, self.listener = self._recovering.replay, self._recovering.listener
        self._broken = NoLink(lambda: ConnectionFailed(f"{name}: the circuit breaker is open"))
        self.open = True
        self._latency: float | None = None
        self._reconnects = 0
        self._server = ""
        self._last_error: str | None = None
        forget_in_children(self)

    # -- links

    def link(self) -> AsyncLink:
        """The connection for the running event loop."""
        if not self.breaker.closed and not self.breaker.allow():
            return self._broken
        lane = self._lanes.get(asyncio.get_running_loop())
        return lane if lane is not None else self._new_link(asyncio.get_running_loop())

    def thread_link(self) -> ThreadLink:
        """The connection that the threads of this process share."""
        if not self.breaker.closed and not self.breaker.allow():
            return self._broken
        lane = self._thread_lane
        return lane if lane is not None else self._new_thread_link()

    def _new_thread_link(self) -> ThreadLink:
        self._require_open()
        if self._memory is not None:
            return self._memory
        with self._lock:
            if self._thread_lane is None:
                self._thread_lane = make_thread_link(self)
                self.near.attach(self._thread_lane)
            return self._thread_lane

    def _require_open(self) -> None:
        if not self.open:
            raise NotInitialized(f"client {self.name!r} is closed: call initialize() again")

    def _new_link(self, loop: asyncio.AbstractEventLoop) -> AsyncLink:
        self._require_open()
        if self._memory is not None:
            return self._memory
        with self._lock:
            if loop in self._lanes:
                return self._lanes[loop]
            for other in [other for other in self._lanes if other.is_closed()]:
                lane = self._lanes.pop(other)
                lane.drop()
                self.near.lost(lane)
                self.near.detach(lane)
            lane = self._lanes[loop] = make_link(self, loop)
            self.near.attach(lane)
            return lane

    def _links(self) -> list[Any]:
        return [link for link in (self._thread_lane, *list(self._lanes.values())) if link is not None]

    # -- what the caches on it share

    def namespace(self, name: str) -> Namespace:
        """The namespace of that name under the application's prefix."""
        try:
            return self._namespaces[name]
        except (KeyError, TypeError):
            namespace = Namespace(name, self._prefix)
        if len(self._namespaces) >= _MAX_NAMESPACES:
            self._namespaces.clear()
        self._namespaces[name] = namespace
        return namespace

    # -- life

    async def connect(self) -> None:
        """Wait for the first attempt to connect from the running loop.

        Raises:
            ConnectionFailed: it failed. The lane goes on trying in the background.
        """
        if self._memory is None:
            link = self.link()
            if isinstance(link, Lane | ClusterLane):
                await link.connected_or_raise()
        await self.ping()

    def connect_threads(self) -> None:
        """The same for a program without an event loop."""
        link = self.thread_link()
        if isinstance(link, ThreadLane | ClusterThreads):
            link.open()
        began = time.perf_counter()
        if isinstance(answer := link.request(("PING",)), Exception):
            raise ConnectionFailed(f"client {self.name!r}: {answer}") from answer
        self._latency = time.perf_counter() - began

    async def ping(self) -> str:
        """``PONG``, and note how long it took.

        Raises:
            ConnectionFailed: the server does not answer.
        """
        link = self.link()
        began = time.perf_counter()
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        link.post(("PING",), waiter)
        answer = await waiter
        if isinstance(answer, Exception):
            raise ConnectionFailed(f"client {self.name!r}: {answer}") from answer
        self._latency = time.perf_counter() - began
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    async def aclose(self) -> None:
        """Let what is in flight finish, then close every connection, whichever loop it is on. Idempotent."""
        await self._recovering.aclose()
        self.open = False
        self.near.close()
        here = asyncio.get_running_loop()
        with self._lock:
            lanes, self._lanes = self._lanes, {}
        for loop, lane in lanes.items():
            if loop is here:
                await lane.aclose()
            elif loop.is_running():
                closing = asyncio.run_coroutine_threadsafe(lane.aclose(), loop)
                await asyncio.wait([asyncio.wrap_future(closing)], timeout=self.settings.command_timeout + 1)
            else:
                lane.drop()
            self.near.detach(lane)
        thread_lane, self._thread_lane = self._thread_lane, None
        if thread_lane is not None:
            await in_thread(thread_lane.close)
            self.near.detach(thread_lane)
        if self._lookout is not None:
            await in_thread(self._lookout.close)
        await self.topology.aclose()

    def finish(self) -> None:
        """At the interpreter's end: tell the server what it is owed, and give the connections back.

        Whoever ends later still finds the client open; it connects anew.
        """
        self._recovering.finish()
        if self._lookout is not None:
            self._lookout.close()
        if self._thread_lane is not None:
            self._thread_lane.rest()
        for loop, lane in list(self._lanes.items()):
            if not loop.is_running():
                lane.drop()

    def forget_in_child(self) -> None:
        """After a fork: the lanes are those of the parent's loops; ``core/forking.py`` says the rest."""
        self._lock = threading.Lock()
        lanes, self._lanes = self._lanes, {}
        keep(lanes)
        self.near.forget_in_child()
        self.near.trouble.forget_in_child()
        for link in (self._thread_lane, self._memory):
            if link is not None:
                self.near.attach(link)
        if self._thread_lane is not None:
            self._thread_lane.forget_in_child()
        self.holder.renew()
        self.flights.forget_in_child()
        self.topology.forget_in_child()
        if self._lookout is not None:
            self._lookout.forget_in_child()
        self._recovering.forget_in_child()

    # -- how it is

    @property
    def connected(self) -> bool:
        if self._memory is not None or (self._thread_lane is not None and self._thread_lane.connected):
            return True
        return any(lane.connected for lane in list(self._lanes.values()))

    def status(self) -> ConnectionStatus:
        return ConnectionStatus(
            connected=self.open and self.connected,
            host=self.topology.at.host,
            port=self.topology.at.port,
            db=self.topology.at.db,
            latency=self._latency,
            server="memory" if self._memory is not None else self._server,
            reconnects=self._reconnects,
            breaker=self.breaker.state,
            last_error=self._last_error,
            owed=len(self.replay.recovery.owed),
            forgotten=self.replay.recovery.forgotten,
        )

    def changed(self, lane: Lane | ThreadLane, error: Exception | None) -> None:
        """A lane came up or went down."""
        (self.near.trouble.connected if error is None else self.near.trouble.connection_lost)()
        if error is not None:
            self._last_error = str(error)
            self._told.down(error)
            return
        first, self._server = not self._server, lane.server
        self._reconnects += lane.connects > 1
        if self._lookout is not None:
            self._lookout.start()
        self._told.up(lane.server, first=first)

    def _where(self) -> str:
        return f"{self.name} client: {self.topology.address} db {self.topology.at.db}"

    def driver(self) -> redis.asyncio.Redis:
        """redis-py's client on the same settings, for commands nearcache does not wrap.

        Raises:
            ConfigurationError: ``memory://`` has no server.
        """
        if self._memory is not None:
            raise ConfigurationError(f"client {self.name!r} is {self.endpoint.address}: there is no server to talk to")
        return self.topology.driver()
