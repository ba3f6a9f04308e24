"""FastAPI: one line gives an application its caches. Serve it with ``uvicorn plugin:app``.

Needs ``pip install "nearcache[fastapi]"``; the visit in ``main`` also needs httpx2.
"""

import os

from fastapi import FastAPI
from fastapi.testclient import TestClient

from nearcache.http import cache_plugin
from nearcache.http.fastapi import ApiCache, SessionCache

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")

app = FastAPI()
cache_plugin(app)  # connects in the lifespan, caches GET responses for 300 s, disconnects at shutdown
calls = 0


@app.get("/users")
async def users() -> dict[str, int]:
    global calls
    calls += 1
    return {"calls of the route": calls}


@app.get("/visits/{name}")
async def visits(name: str, api_cache: ApiCache, session_cache: SessionCache) -> dict[str, str]:
    await session_cache.set(name, {"seen": True})
    return {"api": api_cache.namespace, "session": session_cache.namespace}


def main() -> None:
    with TestClient(app) as client:
        print("first request:", client.get("/users").json())
        print("second request, from the cache:", client.get("/users").json())
        print("with a cookie, not from the cache:", client.get("/users", headers={"cookie": "id=7"}).json())
        print("typed dependencies:", client.get("/visits/ada").json())
        stats = app.state.cache.get_stats()
        print(f"on app.state.cache: {stats.hits} hit, {stats.misses} misses")


if __name__ == "__main__":
    main()
