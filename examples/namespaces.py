"""Namespaces and keys: what keeps two values apart, and what the stored keys look like."""

import asyncio
import os

from nearcache import (
    CacheServiceFactory,
    RedisClientType,
    Settings,
    get_multi_redis_connection_manager,
    sanitize_key,
)

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    cache = await CacheServiceFactory.create_default_cache_service(Settings())
    await cache.set("user:123", "everybody's", namespace="public")
    await cache.set("user:123", "one user's", namespace="private")
    print("public:", await cache.get("user:123", namespace="public"))
    print("private:", await cache.get("user:123", namespace="private"))

    # Characters outside A-Z a-z 0-9 : . _ - become _; a digest then keeps such keys apart.
    for key in ("user/123<script>", "user/123{script}"):
        await cache.set(key, key, namespace="public")
        print("sanitized:", sanitize_key(key), "value:", await cache.get(key, namespace="public"))

    manager = get_multi_redis_connection_manager()
    redis = manager.get_client(RedisClientType.CACHE)  # redis-py, for what nearcache does not wrap
    for stored in sorted([key async for key in redis.scan_iter("example:p*")]):
        print("stored key:", stored.decode())

    print("cleared public:", await cache.clear("public"))
    print("private is still there:", await cache.exists("user:123", namespace="private"))
    await cache.clear("private")
    await manager.disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
