"""How the clients of a process are, for people and readiness routes."""

from __future__ import annotations

from dataclasses import dataclass

from .core.records import Record

__all__ = ["AllConnectionStatus", "ConnectionStatus", "Health"]


@dataclass(frozen=True)
class ConnectionStatus(Record):
    """How one client is.

    Attributes:
        connected: a connection is up in this process.
        host: the server's host (where sentinels watch it, the primary's), the socket's path, or what stands for it.
        port: the server's port; 0 where there is none.
        db: the database.
        latency: seconds of the last ping; None before the first.
        server: what the server says it is, such as ``valkey 9.1.2``.
        reconnects: times a connection was lost and came back.
        breaker: ``closed``, ``open`` or ``half-open``.
        last_error: why the connection was last lost or refused; None if it never was.
        owed: writes and invalidations that failed and are to be made good.
        forgotten: those that will not be: too many, or refused for good.
    """

    connected: bool
    host: str
    port: int
    db: int
    latency: float | None = None
    server: str = ""
    reconnects: int = 0
    breaker: str = "closed"
    last_error: str | None = None
    owed: int = 0
    forgotten: int = 0


class AllConnectionStatus(dict[str, ConnectionStatus]):
    """The status of every client by name; ``status.cache`` reads as ``status["cache"]``."""

    def __getattr__(self, name: str) -> ConnectionStatus:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no client is named {name!r}; there are {', '.join(self) or 'none'}") from None


@dataclass(frozen=True)
class Health(Record):
    """Whether the service can work, for a readiness route: only ``down`` is a reason to send no traffic.

    Attributes:
        status: ``up``; ``degraded``, when a client has no connection and the application runs without its
            cache; ``down``, when nothing was initialised.
        reasons: one line for each thing that is not as it should be.
    """

    status: str
    reasons: tuple[str, ...] = ()
