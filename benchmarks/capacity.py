"""``python -m benchmarks capacity``: bytes of the *server* per entry, per tracked key, and per connection.

Each number is what ``used_memory`` of a fresh server grew by, divided by how many there are: 10,000 entries of one
namespace with a TTL, keys of 24 bytes (``capacity:user:000000000``) and values of random bytes; ``value alone`` is the
same bytes under the same key, put there by SET with PX. Nothing is tracked then. Tracking is counted while 1, 2 and 10
connections with ``CLIENT TRACKING`` have read all of them. Connections are idle, after their first commands.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

import redis

from .report import environment
from .server import running_server
from .tables import Table, TableReport

__all__ = ["run"]

_ENTRIES = 10_000
_CONNECTIONS = 200
_SIZES = (20, 200, 2_000)  # bytes
_READERS = (1, 2, 10)
_TTL = 3600  # seconds


def run(arguments: argparse.Namespace) -> TableReport:
    """Every number once: the server counts them exactly."""
    with running_server(apart=not arguments.anywhere) as server:
        report = TableReport("capacity", "bytes of the server", environment(server, ("nearcache",)))
        with redis.Redis(port=server.port) as admin:
            _measure_entries(report, admin, server.url)
            _measure_tracking(report, admin, server.port)
            _measure_connections(report, admin, server.port)
    return report


def _measure_entries(report: TableReport, admin: redis.Redis, url: str) -> None:
    from nearcache import Cache, Settings, get_multi_redis_connection_manager

    cache = Cache(_TTL, "capacity")
    cache.initialize(Settings(redis_url=url, near_enabled=False, _env_file=None))

    def as_entries(tags: Sequence[str]) -> Callable[[dict[str, bytes]], object]:
        return lambda items: cache.set_many(items, tags=tags)

    def alone(items: dict[str, bytes]) -> None:
        with admin.pipeline(transaction=False) as pipe:
            for key, value in items.items():
                pipe.set(f"capacity:{key}", value, px=_TTL * 1000)
            pipe.execute()

    kinds: dict[str, Callable[[dict[str, bytes]], object]] = {
        "value alone": alone,
        "entry": as_entries(()),
        "entry with a tag": as_entries(("a-tag",)),
    }
    rows: list[tuple[str, list[str]]] = []
    for size in _SIZES:
        sizes = [_grown(admin, lambda store=store, size=size: _fill(store, size)) for store in kinds.values()]  # type: ignore[misc]
        report.cells.append({"what": "entry", "size": size, **dict(zip(kinds, sizes, strict=True))})
        rows.append((f"{size:,} bytes", [f"{number:,.0f}" for number in sizes]))
    report.tables.append(Table("bytes per entry", list(kinds), rows))
    get_multi_redis_connection_manager().close()


def _fill(store: Callable[[dict[str, bytes]], object], size: int) -> int:
    for first in range(0, _ENTRIES, 500):
        store({_key(number): os.urandom(size) for number in range(first, first + 500)})
    return _ENTRIES


def _key(number: int) -> str:
    return f"user:{number:09}"


def _grown(admin: redis.Redis, act: Callable[[], int], *, emptied: bool = True) -> float:
    if emptied:
        admin.execute_command("FLUSHALL", "SYNC")
        act()  # what is needed only once
        admin.execute_command("FLUSHALL", "SYNC")
    before = _used(admin)
    count = act()
    return (_used(admin) - before) / count


def _used(admin: redis.Redis) -> int:
    facts: Any = admin.info("memory")
    return int(facts["used_memory"])


def _measure_tracking(report: TableReport, admin: redis.Redis, port: int) -> None:
    rows: list[tuple[str, list[str]]] = []
    for readers in _READERS:
        admin.execute_command("FLUSHALL", "SYNC")
        _fill(lambda items: admin.mset({f"capacity:{key}": value for key, value in items.items()}), 20)
        connections = [_tracking(port) for _ in range(readers)]

        def read(connections: list[redis.Redis] = connections) -> int:
            for connection in connections:
                for first in range(0, _ENTRIES, 500):
                    connection.mget([f"capacity:{_key(number)}" for number in range(first, first + 500)])
            return _ENTRIES

        size = _grown(admin, read, emptied=False)
        report.cells.append({"what": "tracked key", "readers": readers, "bytes": size})
        rows.append((f"{readers} connections" if readers > 1 else "1 connection", [f"{size:,.0f}"]))
        for connection in connections:
            connection.close()
    report.tables.append(Table("bytes per tracked key", ["read by"], rows))


def _tracking(port: int) -> redis.Redis:
    connection = redis.Redis(port=port, protocol=3, single_connection_client=True)
    connection.execute_command("CLIENT", "TRACKING", "ON", "NOLOOP")
    return connection


def _measure_connections(report: TableReport, admin: redis.Redis, port: int) -> None:
    connections: list[redis.Redis] = []

    def connect() -> int:
        connections.extend(_tracking(port) for _ in range(_CONNECTIONS))
        return _CONNECTIONS

    size = _grown(admin, connect, emptied=False)
    report.cells.append({"what": "connection", "bytes": size})
    report.tables.append(Table("bytes per connection", ["idle"], [("with tracking", [f"{size:,.0f}"])]))
    for connection in connections:
        connection.close()
