"""What is done to the server, one fault at a time, each to a server of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.servers import ClusterServers, ValkeyServer, WatchedServers

from .proxy import Proxy

__all__ = ["FAULTS", "Fault"]


class Fault:
    """A server that works, until it is told not to.

    Attributes:
        url: where the application is to connect.
        fails_over: what was acknowledged may be lost.
    """

    fails_over = False

    def __init__(self, seed: int) -> None:
        self.server = ValkeyServer()
        self.server.start()
        self.url = self.server.url

    def begin(self) -> None:
        """Let it fail; returns at once."""
        raise NotImplementedError

    def end(self) -> None:
        """Let it work again; returns as soon as it can."""
        raise NotImplementedError

    def close(self) -> None:
        self.server.resume()
        self.server.stop()


class Kill(Fault):
    """SIGKILL; then an empty server at the same place."""

    def begin(self) -> None:
        self.server.kill()

    def end(self) -> None:
        self.server.start()

    def close(self) -> None:
        self.server.stop()


class Freeze(Fault):
    """SIGSTOP: connections stay open, and nothing answers."""

    def begin(self) -> None:
        self.server.pause()

    def end(self) -> None:
        self.server.resume()
        self.server.command("PING")


class Full(Fault):
    """No memory for writes."""

    def begin(self) -> None:
        self.server.command("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1mb")

    def end(self) -> None:
        self.server.command("CONFIG", "SET", "maxmemory", "0")


class ReadOnly(Fault):
    """It becomes the replica of a server that is not there."""

    def begin(self) -> None:
        self.server.command("REPLICAOF", "127.0.0.1", "1")

    def end(self) -> None:
        self.server.command("REPLICAOF", "NO", "ONE")


class _Proxied(Fault):
    mode: str

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._proxy = Proxy(self.server.port or 0, seed)
        self.url = f"redis://127.0.0.1:{self._proxy.port}/0"

    def begin(self) -> None:
        self._proxy.behave(self.mode)

    def end(self) -> None:
        self._proxy.behave("")

    def close(self) -> None:
        self._proxy.close()
        super().close()


class Reset(_Proxied):
    """All connections are reset, ten times a second."""

    mode = "reset"


class Delay(_Proxied):
    """Every reply is late, by up to twice the deadline of a command."""

    mode = "delay"


class Truncate(_Proxied):
    """Connections end in the middle of a reply."""

    mode = "truncate"


class _FailsOver(Fault):
    fails_over = True
    _lost: ValkeyServer
    _servers: Any

    def close(self) -> None:
        self._servers.__exit__()


class Sentinel(_FailsOver):
    """The primary is killed, and sentinels choose another one, within a second or two."""

    def __init__(self, seed: int) -> None:
        self._servers = WatchedServers()
        self._servers.__enter__()
        self.url = self._servers.url

    def begin(self) -> None:
        self._lost = self._servers.primary
        self._servers.kill_primary()

    def end(self) -> None:
        self._servers.wait_for_primary(other_than=self._lost)


class Cluster(_FailsOver):
    """One of three primaries is killed, and its replica takes over."""

    def __init__(self, seed: int) -> None:
        self._servers = ClusterServers(node_timeout=1000)
        self._servers.__enter__()
        self.url = self._servers.url

    def begin(self) -> None:
        self._lost = self._servers.owner(0)
        self._lost.kill()

    def end(self) -> None:
        self._servers.wait_for_owner(0, other_than=self._lost)


FAULTS: dict[str, Callable[[int], Fault]] = {
    each.__name__.lower(): each for each in (Kill, Freeze, Full, ReadOnly, Sentinel, Cluster, Reset, Delay, Truncate)
}
