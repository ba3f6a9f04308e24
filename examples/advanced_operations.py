"""Times to live, batches, statistics, ping."""

import asyncio
import os
from datetime import timedelta

from nearcache import Settings, get_cache_manager, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    cache = get_cache_manager()
    await cache.initialize(Settings())
    await cache.clear()

    await cache.set("user:123", {"id": 123}, ttl=timedelta(minutes=5))
    print("ttl:", await cache.ttl("user:123"))
    print("expire:", await cache.expire("user:123", 3600))
    print("ttl:", await cache.ttl("user:123"), "of a missing key:", await cache.ttl("nobody"))

    # One round trip each.
    print("set_many:", await cache.set_many({"a": 1, "b": 2, "c": 3}, ttl=60))
    print("get_many:", await cache.get_many(["c", "missing", "a"]))
    print("delete_many:", await cache.delete_many(["a", "b", "missing"]))

    stats = cache.get_stats()
    print(f"hit ratio: {cache.get_hit_ratio():.1f} %, hits: {stats.hits}, misses: {stats.misses}")
    cache.reset_stats()
    print("after reset:", cache.get_stats().hits)
    print("ping:", await cache.ping())

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
