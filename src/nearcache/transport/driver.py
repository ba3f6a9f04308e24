"""redis-py's client on the endpoint of one of ours, for commands nearcache does not wrap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis.asyncio

    from .endpoint import Endpoint

__all__ = ["make_driver"]


def make_driver(
    endpoint: Endpoint, path: str | None, *, command_timeout: float, connect_timeout: float
) -> redis.asyncio.Redis:
    """A ``redis.asyncio.Redis`` with connections of its own; timeouts in seconds."""
    import redis.asyncio

    arguments: dict[str, Any] = {
        "db": endpoint.db,
        "username": endpoint.username,
        "password": endpoint.password,
        "socket_timeout": command_timeout,
        "socket_connect_timeout": connect_timeout,
    }
    if path is not None:
        return redis.asyncio.Redis(unix_socket_path=path, **arguments)
    if endpoint.tls:
        arguments |= {
            "ssl": True,
            "ssl_ca_certs": endpoint.ssl_ca_certs,
            "ssl_certfile": endpoint.ssl_certfile,
            "ssl_keyfile": endpoint.ssl_keyfile,
            "ssl_check_hostname": endpoint.ssl_check_hostname,
        }
    return redis.asyncio.Redis(host=endpoint.host, port=endpoint.port, **arguments)
