"""Ready-made services: each has its client, its namespace and its time to live."""

import asyncio
import os

from nearcache import CacheServiceFactory, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    settings = Settings()

    # On the cache client, database 0.
    api_cache = await CacheServiceFactory.create_default_cache_service(settings)
    session_cache = await CacheServiceFactory.create_session_cache_service(settings)
    temp_cache = await CacheServiceFactory.create_temp_cache_service(settings)

    # On the queue client, database 1.
    queue_cache = await CacheServiceFactory.create_queue_cache_service(settings)
    worker_cache = await CacheServiceFactory.create_queue_worker_service(settings)

    for cache in (api_cache, session_cache, temp_cache, queue_cache, worker_cache):
        print(f"{cache.namespace}: {cache.get_client_type()} client, {cache.default_ttl} s")

    await api_cache.set("user:123", {"name": "Ada"})
    await queue_cache.set("job:456", {"state": "done"})
    print("user:123 in the api cache:", await api_cache.get("user:123"))
    print("job:456 in the queue cache:", await queue_cache.get("job:456"))

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
