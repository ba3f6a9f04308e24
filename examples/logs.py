"""What the loggers say: connections at INFO, hits and misses at DEBUG, nothing unless you ask for it."""

import asyncio
import logging
import os
import sys

from nearcache import CacheServiceFactory, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    logging.getLogger("nearcache").setLevel(logging.DEBUG)

    cache = await CacheServiceFactory.create_default_cache_service(Settings())
    await cache.delete("route:/auth/me:user:123")
    await cache.get("route:/auth/me:user:123")
    await cache.set("route:/auth/me:user:123", {"name": "Ada"})
    await cache.get("route:/auth/me:user:123")

    stats = cache.get_stats()
    print({"hits": stats.hits, "misses": stats.misses, "hit_ratio": cache.get_hit_ratio()})
    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
