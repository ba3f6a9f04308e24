"""Write-behind: the cache at once, the source soon after, retried, and drained at shutdown."""

import asyncio
import os

from nearcache import CacheServiceFactory, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")

DATABASE: dict[str, dict[str, str]] = {}
written = asyncio.Event()
attempts = 0


async def update(key: str, value: dict[str, str]) -> None:
    global attempts
    attempts += 1
    if attempts == 1:
        raise ConnectionError("the database is away")  # tried again by itself, later and later
    await asyncio.sleep(0.01)
    DATABASE[key] = value
    written.set()


async def main() -> None:
    cache = await CacheServiceFactory.create_default_cache_service(Settings())
    users = cache.write_behind(update, ttl=3600)

    await users.set("user:7", {"name": "Ada"})
    print("cached at once:", await cache.get("user:7"))
    print("in the database so far:", DATABASE)
    await written.wait()
    print("in the database, after", attempts, "attempts:", DATABASE)

    for city in ("London", "Turin"):
        await users.set("user:7", {"name": "Ada", "city": city})
    print("pending:", users.pending)
    await get_multi_redis_connection_manager().disconnect_all()  # waits for what is pending
    print("drained, pending:", users.pending)
    print("in the database, the last one:", DATABASE["user:7"])


if __name__ == "__main__":
    asyncio.run(main())
