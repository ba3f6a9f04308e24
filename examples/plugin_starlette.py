"""Starlette: the same line. Serve it with ``uvicorn plugin_starlette:app``."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from nearcache.http import cache_plugin

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def hello(request: Request) -> JSONResponse:
    cache = request.app.state.api_cache
    visits = (await cache.get("visits", 0)) + 1
    await cache.set("visits", visits)
    return JSONResponse({"visits": visits})


app = Starlette(routes=[Route("/hello", hello)])
cache_plugin(app, ttl=60)


def main() -> None:
    with TestClient(app) as client:
        print("first request:", client.get("/hello").json())
        print("second request, from the cache:", client.get("/hello").json())
        print("another URL:", client.get("/hello?again").json())


if __name__ == "__main__":
    main()
