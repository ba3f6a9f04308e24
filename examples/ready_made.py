"""``get_default_cache()`` and its relatives: code that already uses them goes on working."""

import asyncio
import os

from nearcache import (
    Settings,
    get_default_cache,
    get_multi_redis_connection_manager,
    get_session_cache,
    get_temp_cache,
)

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    settings = Settings()
    for cache in (get_default_cache(), get_session_cache(), get_temp_cache()):
        await cache.initialize(settings)
        await cache.set("key", f"value in {cache.namespace}")
        print(f"{cache.namespace}: {await cache.get('key')}, {await cache.ttl('key')} s left")

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
