"""The same key on both clients: two databases, two values."""

import asyncio
import os

from nearcache import CacheServiceFactory, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    settings = Settings()
    api_cache = await CacheServiceFactory.create_default_cache_service(settings)
    queue_cache = await CacheServiceFactory.create_queue_cache_service(settings)

    await asyncio.gather(
        api_cache.set("user:123", {"name": "API User Data"}),
        queue_cache.set("user:123", {"job": "Queue Job Data"}),
    )
    print("api:", await api_cache.get("user:123"))
    print("queue:", await queue_cache.get("user:123"))

    await queue_cache.clear()
    print("queue after clear():", await queue_cache.get("user:123"))
    print("api after the queue's clear():", await api_cache.get("user:123"))

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
