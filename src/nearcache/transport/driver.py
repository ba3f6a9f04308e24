"""redis-py's client on the endpoint of one of ours, for commands nearcache does not wrap."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from ..core.forking import keep
from .descriptors import exchange
from .tls import tls_context

if TYPE_CHECKING:
    import redis.asyncio

    from .credentials import Credentials
    from .endpoint import Endpoint

__all__ = ["forget_driver", "make_driver"]

Find: TypeAlias = "Callable[[], Awaitable[Endpoint]]"


def make_driver(
    endpoint: Endpoint,
    find_primary: Find | None,
    credentials: Credentials,
    *,
    command_timeout: float,
    connect_timeout: float,
) -> redis.asyncio.Redis:
    """A ``redis.asyncio.Redis`` with connections of its own; timeouts in seconds.

    Where there are sentinels, ``find_primary`` asks them before each connection; credentials that change are asked for
    then, too.
    """
    import redis.asyncio

    arguments: dict[str, Any] = {
        "db": endpoint.db,
        "socket_timeout": command_timeout,
        "socket_connect_timeout": connect_timeout,
    }
    if credentials.change:
        arguments["credential_provider"] = _provider(credentials)
    else:
        arguments |= {"username": endpoint.username, "password": endpoint.password}
    if endpoint.kind == "unix":
        return redis.asyncio.Redis(unix_socket_path=endpoint.path, **arguments)
    if endpoint.tls:
        tls_context(endpoint)  # raises here where redis-py would ask the terminal for a passphrase
        arguments |= {
            "ssl": True,
            "ssl_ca_certs": endpoint.ssl_ca_certs,
            "ssl_certfile": endpoint.ssl_certfile,
            "ssl_keyfile": endpoint.ssl_keyfile,
            "ssl_check_hostname": endpoint.ssl_check_hostname,
        }
    if endpoint.kind == "cluster":
        return _make_cluster_driver(endpoint, arguments)
    if find_primary is None:
        return redis.asyncio.Redis(host=endpoint.host, port=endpoint.port, **arguments)
    from redis.asyncio.sentinel import SentinelConnectionPool

    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        endpoint.service, _Discovery(find_primary), **arguments
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

    def __init__(self, find_primary: Find) -> None:
        self._find_primary = find_primary

    async def discover_master(self, service: str) -> tuple[str, int]:
        primary = await _for_driver(self._find_primary())
        return primary.host, primary.port


def _provider(credentials: Credentials) -> Any:
    from redis.credentials import CredentialProvider

    class Provider(CredentialProvider):
        """What redis-py's connections ask."""

        async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
            given = await _for_driver(credentials.endpoint())
            assert given.password is not None
            return (given.username, given.password) if given.username else (given.password,)

    return Provider()


async def _for_driver(found: Awaitable[Endpoint]) -> Endpoint:
    """What could not be found out, as redis-py's own error: that it knows how to retry."""
    import redis.exceptions

    from ..errors import ConnectionFailed

    try:
        return await found
    except ConnectionFailed as error:
        raise redis.exceptions.ConnectionError(str(error)) from error
