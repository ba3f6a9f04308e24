"""When the server is away: reads are misses, writes are False, loaders still answer. Or be told, with strict."""

import asyncio
import logging

from nearcache import (
    CacheServiceFactory,
    ConnectionFailed,
    RedisClientType,
    Settings,
    get_multi_redis_connection_manager,
)


async def main() -> None:
    logging.basicConfig(level=logging.ERROR)  # the outage would be one line at WARNING
    settings = Settings(redis_url="redis://127.0.0.1:1", queue_redis_url="redis://127.0.0.1:1")  # nobody is there

    cache = await CacheServiceFactory.create_default_cache_service(settings)
    print("get:", await cache.get("key", "default"))
    print("set:", await cache.set("key", "value"))
    print("get_or_set:", await cache.get_or_set("key", lambda: "from the database"))
    print("errors counted:", cache.get_stats().errors > 0)

    manager = get_multi_redis_connection_manager()
    print("health:", manager.health().status)

    strict = await CacheServiceFactory.create_custom_cache_service(
        settings, 60, "strict", RedisClientType.CACHE, strict=True
    )
    try:
        await strict.set("key", "value")
    except ConnectionFailed:
        print("strict: ConnectionFailed; go to the database directly")

    await manager.disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
