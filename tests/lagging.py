"""A primary and a replica that lags for as long as a test wants."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Self

from .servers import SentinelServer, ValkeyServer, wait_until


class Relay:
    """Passes on what goes between a replica and its primary; what the primary sends may be held up.

    Args:
        delay: seconds by which each piece of it is late.
    """

    def __init__(self, target: ValkeyServer, *, delay: float = 0.0) -> None:
        self._target = target
        self._delay = delay
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """From now on the replica gets nothing; its connection stays."""
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                replica, _ = self._listener.accept()
                primary = socket.create_connection((self._target.host, self._target.port))
                self._sockets += [replica, primary]
                threading.Thread(target=self._pass_on, args=(primary, replica, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(replica, primary, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, late: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if late:
                    time.sleep(self._delay)
                    self._flows.wait()
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._flows.set()
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class LaggingServers:
    """A primary, a replica behind a ``Relay``, and a sentinel that never replaces one by the other."""

    def __init__(self, *config: str, delay: float = 0.0) -> None:
        self.primary = ValkeyServer()
        # The sentinel would have it replicate from the primary itself.
        fixed = (word for name in ("REPLICAOF", "SLAVEOF") for word in ("--rename-command", name, ""))
        self._config = (*fixed, "--repl-diskless-sync-delay", "0", *config)
        self._delay = delay

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.sentinel.host}:{self.sentinel.port}/{self.sentinel.service}"

    def write(self, name: str, value: str) -> None:
        """As somebody else; back when both have it."""
        self.primary.command("SET", f"app:{name}", value)
        wait_until(lambda: self.replica.command("EXISTS", f"app:{name}"), "the replica to have it")

    def hold(self) -> None:
        self.relay.hold()

    def release(self) -> None:
        self.relay.release()

    def __enter__(self) -> Self:
        self.primary.start()
        self.relay = Relay(self.primary, delay=self._delay)
        self.replica = ValkeyServer("--replicaof", f"127.0.0.1 {self.relay.port}", *self._config)
        self.sentinel = SentinelServer(self.primary, quorum=5)
        try:
            self.replica.start()
            wait_until(lambda: self.replica.command("ROLE")[3] == b"connected", "the replica to have connected")
            wait_until(lambda: self.primary.command("ROLE")[2], "the primary to know it")
            self.sentinel.start()
            wait_until(self._is_known, "the sentinel to have connected to the replica")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _is_known(self) -> bool:
        answer = self.sentinel.command("SENTINEL", "REPLICAS", self.sentinel.service)
        return [dict(zip(facts[::2], facts[1::2], strict=True))[b"flags"] for facts in answer] == [b"slave"]

    def __exit__(self, *exception: object) -> None:
        self.relay.close()
        for server in (self.sentinel, self.replica, self.primary):
            server.stop()
