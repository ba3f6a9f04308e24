"""A cache inside routes: read a profile through it, drop the profile when its owner logs in."""

import os

from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.responses import Response

from nearcache.http import cache_plugin
from nearcache.http.fastapi import ApiCache

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")

app = FastAPI()
cache_plugin(app)


async def get_user_profile(user_id: str) -> dict[str, str]:
    print("  asking the database for", user_id)
    return {"id": user_id, "name": "Ada"}


@app.get("/auth/profile/{user_id}")
async def profile(user_id: str, cache: ApiCache, response: Response) -> dict[str, dict[str, str]]:
    response.headers["Cache-Control"] = "private"  # the profile is cached, the page is not
    return {"profile": await cache.get_or_set(f"profile:{user_id}", lambda: get_user_profile(user_id), ttl=3600)}


@app.post("/auth/login/{user_id}")
async def login(user_id: str, cache: ApiCache) -> dict[str, bool]:
    return {"profile dropped": await cache.delete(f"profile:{user_id}")}


def main() -> None:
    with TestClient(app) as client:
        for _ in range(2):
            print("profile:", client.get("/auth/profile/7").json())
        print("login:", client.post("/auth/login/7").json())
        print("profile:", client.get("/auth/profile/7").json())


if __name__ == "__main__":
    main()
