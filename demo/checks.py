"""What a cache promises, tried out on the application's own caches: one short function for each line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import httpx

from nearcache import (
    CacheServiceFactory,
    RedisClientType,
    Settings,
    get_default_cache,
    get_multi_redis_connection_manager,
    get_session_cache,
    get_temp_cache,
    sanitize_key,
)

from .queries import database

STAMPEDE = "/weather/worst?limit=100"


class Failed(Exception):
    """Something is not as it should be."""


def expect(condition: bool, otherwise: object) -> None:
    """Fail the check unless the condition holds; ``otherwise`` is what was found instead."""
    if not condition:
        raise Failed(str(otherwise))


@dataclass
class Context:
    """What a check may use.

    Attributes:
        http: a client of the running application.
        settings: what the application runs with.
        server_pid: the Valkey server's process, once it was asked.
    """

    http: httpx.AsyncClient
    settings: Settings
    server_pid: int | None = None


Check = Callable[[Context], Awaitable[str]]
CHECKS: dict[str, Check] = {}
"""Title → a coroutine function that returns what it saw, and raises when that is not right. In order."""


def check(title: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        CHECKS[title] = function
        return function

    return add


@check("health")
async def health(context: Context) -> str:
    manager = get_multi_redis_connection_manager()
    pongs = [await manager.ping(client) for client in RedisClientType]
    state = (await context.http.get("/health")).json()
    expect(state["status"] == "up", f"{state['status']}: {', '.join(state['reasons'])}")
    return f"GET /health: {state['status']}; PING of both clients: {', '.join(pongs)}"


@check("redis-py, same settings")
async def driver(context: Context) -> str:
    if context.settings.endpoint("cache").kind == "memory":
        return "memory:// has no server to talk to"
    info = await get_multi_redis_connection_manager().get_client().info("server")
    context.server_pid = int(info["process_id"])
    return f"get_client().info(): process {context.server_pid}, up {info['uptime_in_seconds']} s"


@check("50 requests at once, cold key")
async def stampede(context: Context) -> str:
    before, joins = database.queries, get_default_cache().get_stats().joins
    answers = await asyncio.gather(*(context.http.get(STAMPEDE) for _ in range(50)))
    queries = database.queries - before
    expect({answer.status_code for answer in answers} == {200}, "not all were answered with 200")
    expect(len({answer.content for answer in answers}) == 1, "the answers differ")
    expect(queries == 1, f"{queries} queries ran")
    joins = get_default_cache().get_stats().joins - joins
    return f"1 query ran, {joins} requests waited for it, all got its answer"


@check("one key in db 0 and db 1")
async def databases(context: Context) -> str:
    cache = await CacheServiceFactory.create_default_cache_service(context.settings)
    queue = await CacheServiceFactory.create_queue_cache_service(context.settings)
    await cache.set("job:42", "a page", namespace="jobs")
    await queue.set("job:42", "a job", namespace="jobs")
    found = await cache.get("job:42", namespace="jobs"), await queue.get("job:42", namespace="jobs")
    expect(found == ("a page", "a job"), f"found {found}")
    return f"jobs:job:42 is {found[0]!r} in db 0 and {found[1]!r} in db 1"


@check("one key in two namespaces")
async def namespaces(context: Context) -> str:
    app, session = get_default_cache(), get_session_cache()
    await app.set("user:123", "profile")
    await session.set("user:123", "login")
    found = await app.get("user:123"), await session.get("user:123")
    expect(found == ("profile", "login"), f"found {found}")
    expect(await app.clear("session") >= 1, "clear() removed nothing")
    expect(await session.get("user:123") is None and await app.exists("user:123"), "clear() went too far")
    return "user:123 in app and session; clear('session') left app alone"


@check("TTLs of the services")
async def ttls(context: Context) -> str:
    factory, settings = CacheServiceFactory, context.settings
    caches = [
        await factory.create_default_cache_service(settings),
        await factory.create_session_cache_service(settings),
        await factory.create_temp_cache_service(settings),
        await factory.create_queue_cache_service(settings),
        await factory.create_queue_worker_service(settings),
    ]
    seen = {}
    for cache in caches:
        await cache.set("ttl", True)
        seen[cache.namespace] = await cache.ttl("ttl")
    expect(list(seen.values()) == [3600, 86400, 300, 1800, 900], seen)
    return ", ".join(f"{namespace} {ttl}" for namespace, ttl in seen.items()).replace("queue-", "q-")


@check("a value expires")
async def expiry(context: Context) -> str:
    temp = get_temp_cache()
    await temp.set("soon", "gone", ttl=0.05)
    expect(await temp.get("soon") == "gone", "the value was never there")
    await asyncio.sleep(0.1)
    expect(not await temp.exists("soon"), "it is still there after 0.1 s")
    return "set with ttl=0.05: found at once, gone 0.1 s later"


@check("types survive")
async def types(context: Context) -> str:
    value = {
        "departure": datetime(2013, 7, 4, 8, 0, tzinfo=UTC),
        "day": date(2013, 7, 4),
        "fare": Decimal("199.90"),
        "route": ("JFK", "LAX"),
        "carriers": {"AA", "DL"},
    }
    await get_temp_cache().set("types", value)
    found = await get_temp_cache().get("types")
    expect(found == value, f"found {found}")
    return ", ".join(type(part).__name__ for part in value.values()) + " came back as they were"


@check("similar keys stay apart")
async def keys(context: Context) -> str:
    temp, hostile = get_temp_cache(), "user/123<script>"
    await temp.set_many({hostile: 1, sanitize_key(hostile): 2})
    found = await temp.get_many([hostile, sanitize_key(hostile)])
    expect(list(found.values()) == [1, 2], f"found {found}")
    return f"{hostile} and {sanitize_key(hostile)} are two values"


@check("a Cache beside the AsyncCache")
async def sync_beside_async(context: Context) -> str:
    cache = get_temp_cache()
    await asyncio.to_thread(cache.sync().set, "thread", "written in a thread")
    found = await cache.get("thread")
    expect(found == "written in a thread", f"found {found!r}")
    expect(cache.sync().get_stats() == cache.get_stats(), "the statistics differ")
    return "written in a thread, read on the loop; one set of statistics"


@check("hit ratio")
async def hit_ratio(context: Context) -> str:
    temp = get_temp_cache()
    temp.reset_stats()
    for _ in range(10):
        await temp.get_or_set("ratio", lambda: "loaded once")
    stats = temp.get_stats()
    expect((stats.hits, stats.misses, stats.loads) == (9, 1, 1), dict(stats))
    expect(temp.get_hit_ratio() == 90.0, f"{temp.get_hit_ratio()} %")
    return f"{stats.misses} miss, {stats.hits} hits: {temp.get_hit_ratio():.1f} %"


@check("a cookie keeps the plugin out")
async def personal(context: Context) -> str:
    before = database.queries
    answer = await context.http.get("/delays", headers={"Cookie": "session=mine"})
    expect(answer.status_code == 200, f"status {answer.status_code}")
    expect(database.queries == before + 1, "the shared copy was served")
    return "with a Cookie header GET /delays asks the database again"


@check("a visitor's own data")
async def session(context: Context) -> str:
    await context.http.put("/visitors/ada/home/BOS")
    home = await context.http.get("/visitors/ada/home")
    expect(home.status_code == 200, f"status {home.status_code}: {home.text}")
    left = await get_session_cache().ttl("home:ada")
    expect(0 < left <= 86400, f"ttl {left}")
    return f"home:ada is {home.json()['faa']}, in the session cache for {left} s"
