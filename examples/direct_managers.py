"""Cache managers of your own time to live and namespace, connected when you say so."""

import asyncio
import os

from nearcache import (
    NotInitialized,
    Settings,
    get_cache_cache_manager,
    get_multi_redis_connection_manager,
    get_queue_cache_manager,
)

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    api_cache = get_cache_cache_manager(3600, "api")
    queue_cache = get_queue_cache_manager(1800, "queue")

    try:
        await api_cache.get("route:/users")
    except NotInitialized as error:
        print("too early:", error)

    settings = Settings()
    await api_cache.initialize(settings)
    await queue_cache.initialize(settings)

    await api_cache.set("route:/users", [{"id": 1}, {"id": 2}])
    await queue_cache.set("worker:stats", {"done": 17})
    print("route:/users:", await api_cache.get("route:/users"))
    print("worker:stats:", await queue_cache.get("worker:stats"))
    print("the same object again:", get_cache_cache_manager(3600, "api") is api_cache)

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
