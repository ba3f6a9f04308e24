"""redis-py's client on the endpoint of one of ours, for commands nearcache does not wrap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.forking import keep
from .descriptors import exchange

if TYPE_CHECKING:
    import redis.asyncio

    from .endpoint import Endpoint
    from .sentinel import Sentinels

__all__ = ["forget_driver", "make_driver"]


def make_driver(
    endpoint: Endpoint, sentinels: Sentinels | None, *, command_timeout: float, connect_timeout: float
) -> redis.asyncio.Redis:
    """A ``redis.asyncio.Redis`` with connections of its own; timeouts in seconds.

    Where there are sentinels, they are asked for the primary before each connection.
    """
    import redis.asyncio

    arguments: dict[str, Any] = {
        "db": endpoint.db,
        "username": endpoint.username,
        "password": endpoint.password,
        "socket_timeout": command_timeout,
        "socket_connect_timeout": connect_timeout,
    }
    if endpoint.kind == "unix":
        return redis.asyncio.Redis(unix_socket_path=endpoint.path, **arguments)
    if endpoint.tls:
        arguments |= {
            "ssl": True,
            "ssl_ca_certs": endpoint.ssl_ca_certs,
            "ssl_certfile": endpoint.ssl_certfile,
            "ssl_keyfile": endpoint.ssl_keyfile,
            "ssl_check_hostname": endpoint.ssl_check_hostname,
        }
    if endpoint.kind == "cluster":
        return _make_cluster_driver(endpoint, arguments)
    if sentinels is None:
        return redis.asyncio.Redis(host=endpoint.host, port=endpoint.port, **arguments)
    from redis.asyncio.sentinel import SentinelConnectionPool

    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        endpoint.service, _Discovery(sentinels), **arguments
    )
    return redis.asyncio.Redis.from_pool(pool)


def _make_cluster_driver(endpoint: Endpoint, arguments: dict[str, Any]) -> Any:
    """redis-py's cluster client; it has the commands of its other one, save those that a cluster has not."""
    from redis.asyncio.cluster import ClusterNode, RedisCluster

    nodes = [ClusterNode(host, port) for host, port in endpoint.nodes]
    return RedisCluster(startup_nodes=nodes, **arguments | {"db": 0})


def forget_driver(driver: Any) -> None:
    """After a fork: its connections are the parent's, and redis-py does not know what that means on an event loop."""
    keep(driver)
    pools = driver.get_nodes() if hasattr(driver, "get_nodes") else [driver.connection_pool]
    for pool in pools:
        for name in ("_connections", "_available_connections", "_in_use_connections"):
            for connection in list(getattr(pool, name, ())):
                writer = getattr(connection, "_writer", None)
                if writer is not None:
                    exchange(writer.get_extra_info("socket").fileno())


class _Discovery:
    """What redis-py's pool asks for the primary."""

    def __init__(self, sentinels: Sentinels) -> None:
        self._sentinels = sentinels

    async def discover_master(self, service: str) -> tuple[str, int]:
        import redis.exceptions

        from ..errors import ConnectionFailed

        try:
            primary = await self._sentinels.find()
        except ConnectionFailed as error:
            raise redis.exceptions.ConnectionError(str(error)) from error
        return primary.host, primary.port
