"""The application. Four ways to cache, one per kind of route; take the one that fits.

1. ``cache_plugin(app)`` keeps whole responses: the route knows nothing of it.
2. ``@cache.cached`` keeps what a function returns, by its arguments.
3. ``cache.get_or_set`` in a route keeps one value under a key you choose; the cache is a typed dependency.
4. Plain ``def`` routes run in threads: there ``cache.sync()`` is the same cache, without ``await``.

SQLite blocks, so no query may run on the event loop: coroutines hand it to a thread, ``def`` routes are in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Response
from pydantic import StringConstraints

from nearcache import Settings, get_default_cache, get_multi_redis_connection_manager
from nearcache.http import RequestLogMiddleware, cache_plugin
from nearcache.http.fastapi import ApiCache, SessionCache

from . import queries
from .queries import AirportProfile, Row

cache = get_default_cache()  # connects when the application starts
manager = get_multi_redis_connection_manager()

Limit = Annotated[int, Query(ge=1, le=100)]
Faa = Annotated[str, StringConstraints(pattern="^[0-9A-Z]{3}$")]


def make_app(settings: Settings) -> FastAPI:
    """Return the application; it connects its caches when it starts and lets go of them when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await manager.initialize_all(settings)  # the queue client too, which the plugin does not need
        yield

    app = FastAPI(title="nearcache demo", lifespan=lifespan)
    app.include_router(whole_responses)
    app.include_router(values)
    cache_plugin(app, settings)
    app.add_middleware(RequestLogMiddleware)  # added last, so it also sees what the cache answers
    return app


# 1. The plugin keeps every GET response that may be shared. These two need no further thought.

whole_responses = APIRouter()


@whole_responses.get("/delays")
async def delays() -> list[Row]:
    """Flights, mean delay and cancellations by airline and month."""
    return await asyncio.to_thread(queries.delays_by_carrier_and_month)


@whole_responses.get("/routes/busiest")
def busiest_routes(limit: Limit = 10) -> list[Row]:
    """Routes with the most flights."""
    return queries.busiest_routes(limit)


# The routes below cache values. ``no-store`` keeps their responses out of the plugin's hands: once is enough.


async def no_store(response: Response) -> None:  # were it no coroutine, every request would need a thread
    response.headers["Cache-Control"] = "no-store"


values = APIRouter(dependencies=[Depends(no_store)])


# 2. Decorated: the key comes from the arguments.


@cache.cached(ttl=600)
async def delay_by_plane_age() -> list[Row]:
    return await asyncio.to_thread(queries.delay_by_plane_age)


@values.get("/planes/age")
async def planes_age() -> list[Row]:
    """Delay by the age of the plane."""
    return await delay_by_plane_age()


@cache.cached(key="flights:{origin}:{dest}:{month}:{day}")
def search(origin: str, dest: str, month: int, day: int) -> list[Row]:
    return queries.search_flights(origin, dest, month, day)


@values.get("/flights")
def flights(
    origin: Literal["EWR", "JFK", "LGA"],
    dest: Faa,
    month: Annotated[int, Query(ge=1, le=12)],
    day: Annotated[int, Query(ge=1, le=31)],
) -> list[Row]:
    """The flights of one day between two airports."""
    return search(origin, dest, month, day)


# 3. In the route: your own key, any number of callers, one query.


@values.get("/weather/worst")
async def worst_weather(cache: ApiCache, limit: Limit = 10) -> list[Row]:
    """The hours whose weather delayed departures the most."""
    return await cache.get_or_set(
        f"weather:worst:{limit}", lambda: asyncio.to_thread(queries.worst_weather_hours, limit), ttl=900
    )


# 4. In a thread: the synchronous twin. A dataclass comes back as a dataclass.


def profile_of(faa: str) -> AirportProfile | None:
    return cache.sync().get_or_set(f"airport:{faa}", lambda: queries.airport_profile(faa), type=AirportProfile | None)


@values.get("/airports/{faa}")
def airport(faa: Faa) -> AirportProfile:
    """One airport, as seen from New York."""
    if (profile := profile_of(faa)) is None:
        raise HTTPException(404, f"no airport has the code {faa!r}")
    return profile


# What belongs to one visitor goes to the session cache: another namespace, kept for a day.


@values.put("/visitors/{visitor}/home/{faa}")
async def set_home(visitor: str, faa: Faa, sessions: SessionCache) -> dict[str, bool]:
    """Remember a visitor's airport."""
    return {"stored": await sessions.set(f"home:{visitor}", faa)}


@values.get("/visitors/{visitor}/home")
async def get_home(visitor: str, sessions: SessionCache) -> AirportProfile:
    """The profile of the visitor's airport."""
    if (faa := await sessions.get(f"home:{visitor}")) is None:
        raise HTTPException(404, f"visitor {visitor!r} has no airport")
    return await asyncio.to_thread(airport, faa)


@values.get("/health")
def health(response: Response) -> dict[str, Any]:
    """For a readiness probe: without its cache the service is slow, not down."""
    state = manager.health()
    response.status_code = 503 if state.status == "down" else 200
    return {**state, "clients": manager.get_all_connection_status()}


@values.get("/stats")
def stats() -> dict[str, Any]:
    """What the API cache counted since the start."""
    return {**cache.get_stats(), "hit_ratio": cache.get_hit_ratio()}
