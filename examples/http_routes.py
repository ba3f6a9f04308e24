"""HTTP caching by what routes say, and purging. Serve it with ``uvicorn http_routes:app``."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, Path
from fastapi.testclient import TestClient

from nearcache.http import cache_plugin, cached_response
from nearcache.http.fastapi import CachedResponse, ResponseCache

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")

app = FastAPI()
cache_plugin(app)
rendered: list[str] = []


@app.get("/articles/{number}")
@cached_response(ttl=60, stale_while_revalidate=600, stale_if_error=86_400, tags=["articles"], per_user=False)
async def article(number: Annotated[int, Path()]) -> dict[str, int]:
    rendered.append(f"article {number}")
    return {"article": number, "rendered": len(rendered)}


@app.get("/inbox", dependencies=[Depends(CachedResponse(ttl=30, per_user=True))])
async def inbox() -> dict[str, int]:
    rendered.append("an inbox")
    return {"rendered": len(rendered)}


@app.put("/articles/{number}")
async def publish(number: int, responses: ResponseCache) -> dict[str, int]:
    await responses.purge(tags=["articles"])
    return {"published": number}


def main() -> None:
    with TestClient(app) as client:
        print("an article:", client.get("/articles/1").json())
        again = client.get("/articles/1", headers={"cookie": "visitor=7"})
        print("from the cache, for every visitor:", again.json(), again.headers["cache-status"].split(";")[1].strip())
        print("not modified:", client.get("/articles/1", headers={"if-none-match": again.headers["etag"]}).status_code)
        for user in ("anna", "bert", "anna"):
            print(f"inbox of {user}:", client.get("/inbox", headers={"authorization": user}).json())
        client.put("/articles/2")
        print("purged:", client.get("/articles/1").json())


if __name__ == "__main__":
    main()
