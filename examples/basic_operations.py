"""Set, get, exists, delete, clear."""

import asyncio
import os

from nearcache import Settings, get_cache_manager, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    cache = get_cache_manager()
    await cache.initialize(Settings())

    print("stored:", await cache.set("user:123", {"id": 123, "name": "João"}))
    await cache.set("temp:data", {"data": "temporary"}, ttl=30)
    await cache.set("config:app", {"theme": "dark"}, namespace="settings")

    user = await cache.get("user:123")
    if user:
        print("user:", user["name"])
    print("in another namespace:", await cache.get("config:app", namespace="settings"))
    print("a miss:", await cache.get("nobody"), "or a default:", await cache.get("nobody", "default"))

    print("exists:", await cache.exists("user:123"))
    print("deleted:", await cache.delete("user:123"))
    print("exists:", await cache.exists("user:123"))

    print("cleared:", await cache.clear("settings"))
    print("untouched:", await cache.get("temp:data"))
    await cache.clear()

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
