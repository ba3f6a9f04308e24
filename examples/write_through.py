"""Write-through: the source first, then the cache. When the source refuses, the cache stays as it was."""

import asyncio
import os

from nearcache import CacheServiceFactory, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")

DATABASE = {"7": {"name": "Ada", "city": "London"}}


async def update(user_id: str, changes: dict[str, str]) -> dict[str, str]:
    if not changes:
        raise ValueError("nothing to change")
    DATABASE[user_id] = DATABASE[user_id] | changes
    return DATABASE[user_id]


async def main() -> None:
    cache = await CacheServiceFactory.create_default_cache_service(Settings())

    user = await cache.write_through("user:7", lambda: update("7", {"city": "Turin"}), ttl=3600)
    print("written:", user)
    print("cached:", await cache.get("user:7"))
    print("in the database:", DATABASE["7"])

    try:
        await cache.write_through("user:7", lambda: update("7", {}))
    except ValueError as error:
        print("refused:", error)
    print("still cached:", await cache.get("user:7"))

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
