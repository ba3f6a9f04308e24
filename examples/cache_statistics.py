"""Connection status and statistics, per client."""

import asyncio
import os

from nearcache import (
    Settings,
    get_cache_cache_manager,
    get_multi_redis_connection_manager,
    get_queue_cache_manager,
)

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    manager = get_multi_redis_connection_manager()
    await manager.initialize_all(Settings())
    for name, status in manager.get_all_connection_status().items():
        print(f"{name} client: connected={status.connected} db={status.db} server={status.server}")

    api_cache, queue_cache = get_cache_cache_manager(), get_queue_cache_manager()
    for cache in (api_cache, queue_cache):
        await cache.initialize(Settings())
    await api_cache.set("hot", 1)
    for key in ("hot", "hot", "hot", "cold"):
        await api_cache.get(key)
    await queue_cache.delete("job")
    await queue_cache.get("job")

    for cache in (api_cache, queue_cache):
        stats = cache.get_stats()
        print(f"{cache.get_client_type()}: hit ratio {cache.get_hit_ratio():.0f} %,", dict(stats))
    api_cache.reset_stats()
    print("after reset:", api_cache.get_stats().hits, api_cache.get_hit_ratio())

    await manager.disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
