"""A guided visit to the running application: every line that says ``ok`` was checked just now."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable

import httpx

from nearcache import (
    NotInitialized,
    RedisClientType,
    Settings,
    __version__,
    get_default_cache,
    get_multi_redis_connection_manager,
)

from .checks import CHECKS, Context, Failed, expect
from .queries import database
from .screen import Screen
from .server import Server

ENDPOINTS = {
    "/delays": "plugin",
    "/routes/busiest?limit=10": "plugin, def",
    "/planes/age": "@cached",
    "/flights?origin=JFK&dest=LAX&month=7&day=4": "@cached, def",
    "/weather/worst?limit=10": "get_or_set",
    "/airports/BOS": "get_or_set, def",
}
COLUMNS = (43, 15, -9, -8, 9)
WARM_REQUESTS, WARM_SECONDS = 50, 1.0  # whichever ends first
PARTS = ("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "REDIS_DB", "QUEUE_REDIS_DB")
URLS = ("REDIS_URL", "QUEUE_REDIS_URL")
BOUNDS = ("PREFIX", "LOAD_TIMEOUT", "COMMAND_TIMEOUT", "CONNECT_TIMEOUT", "MAX_VALUE", "COMPRESS_MIN")

manager = get_multi_redis_connection_manager()


class Visit:
    """One visit: over HTTP, and to the same caches directly, for it lives in the application's process."""

    def __init__(self, settings: Settings, server: Server, screen: Screen) -> None:
        self._settings = settings
        self._server = server
        self._screen = screen
        self._server_pid: int | None = None

    async def look_around(self) -> None:
        """Show the settings, the clients, the endpoints cold and warm, and every check but the shutdown's."""
        flights = await asyncio.to_thread(database.rows, "SELECT count(*) AS number FROM flights")
        number = flights[0]["number"]
        self._screen.title(f"nearcache {__version__} before {number:,} flights in SQLite, without an index")
        self._show_settings()
        await self._show_clients()
        async with self._client() as http:
            await self._time_endpoints(http)
            self._screen.heading("Checks")
            context = Context(http, self._settings)
            for title, check in CHECKS.items():
                await self._check(title, check(context))
            self._server_pid = context.server_pid

    def _show_settings(self) -> None:
        self._screen.heading("Settings in force")
        rows = self._settings.describe()
        names = (*(URLS if rows["REDIS_URL"] != "-" else PARTS), *(f"NEARCACHE_{name}" for name in BOUNDS))
        self._screen.pairs({name: rows[name] for name in names})

    async def _show_clients(self) -> None:
        self._screen.heading("Clients")
        for name, status in manager.get_all_connection_status().items():
            where = f"{status.host}:{status.port}" if status.port else status.host
            ping = "-" if status.latency is None else f"{status.latency * 1000:.2f} ms"
            detail = f"db {status.db} of {where}, {status.server or 'no server'}, ping {ping}"
            self._screen.check(status.connected, name, detail if status.connected else f"{status.last_error}")

    async def _time_endpoints(self, http: httpx.AsyncClient) -> None:
        self._screen.heading("Endpoints over HTTP")
        await get_default_cache().clear()  # what an earlier visit left, where the server is not our own
        self._screen.row(("", "cached by", "cold", "warm p50", " queries"), COLUMNS)
        for path, how in ENDPOINTS.items():
            before = database.queries
            cold, content = await _get(http, path)
            queries = database.queries - before
            warm: list[float] = []
            same = True
            while len(warm) < WARM_REQUESTS and sum(warm) < WARM_SECONDS:
                duration, again = await _get(http, path)
                warm.append(duration)
                same &= again == content
            more = database.queries - before - queries
            median = statistics.median(warm)
            cells = (
                path,
                how,
                f"{cold * 1000:.1f} ms",
                f"{median * 1000:.2f} ms",
                f" {queries}, then {more}",
            )
            self._screen.row(cells, COLUMNS, passed=content is not None and same and queries > 0 and more == 0)

    async def _check(self, title: str, check: Awaitable[str]) -> None:
        try:
            detail = await check
        except Failed as failure:
            self._screen.check(False, title, str(failure))
        except Exception as error:  # noqa: BLE001  # whatever it is, the check has failed
            self._screen.check(False, title, f"{type(error).__name__}: {error}")
        else:
            self._screen.check(True, title, detail)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._server.url, timeout=60, trust_env=False)

    def say_where(self) -> None:
        """Tell where the application is, and what to try."""
        url = self._server.url
        self._screen.heading(f"Serving until Ctrl-C: {url}/docs")
        self._screen.line(f"  curl {url}/airports/LAX twice: the times appear here; /stats counts")

    async def shut_down(self) -> None:
        """End the server while a request is under way, and check what is left."""
        self._screen.heading("Graceful shutdown")
        await self._check("a request under way", self._stop_under_way())
        await self._check("both clients", _is_disconnected())
        if self._settings.endpoint("cache").kind == "embedded":
            await self._check("the embedded server", _has_ended(self._server_pid))

    async def _stop_under_way(self) -> str:
        async with self._client() as http:
            before = database.queries
            answer = asyncio.create_task(http.get("/delays", headers={"Cache-Control": "no-cache"}))
            while database.queries == before and not answer.done():  # noqa: ASYNC110  # begins in a thread
                await asyncio.sleep(0.001)
            began = time.perf_counter()
            await self._server.stop()
            took = time.perf_counter() - began
            expect((await answer).status_code == 200, f"status {(await answer).status_code}")
        return f"was answered with 200 before the server ended, after {took:.1f} s"


async def _get(http: httpx.AsyncClient, path: str) -> tuple[float, bytes | None]:
    """Return seconds, and the body; None when there is none, or the status is not 200."""
    began = time.perf_counter()
    try:
        answer = await http.get(path)
    except httpx.HTTPError:
        return time.perf_counter() - began, None
    return time.perf_counter() - began, answer.content if answer.status_code == 200 else None


async def _is_disconnected() -> str:
    status = manager.get_all_connection_status()
    expect(not any(status[client].connected for client in RedisClientType), "a client is still connected")
    try:
        await get_default_cache().get("anything")
    except NotInitialized:
        return "are disconnected; a cache now raises NotInitialized"
    raise Failed("a cache can still be used")


async def _has_ended(process: int | None) -> str:
    if process is None:
        raise Failed("it was never seen")
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return f"process {process} has ended"
    raise Failed(f"process {process} still runs")
