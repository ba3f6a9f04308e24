"""Services of your own: any time to live, any namespace, either client, or a client you register."""

import asyncio
import os
from datetime import timedelta

from nearcache import (
    CacheServiceFactory,
    RedisClientType,
    Settings,
    get_multi_redis_connection_manager,
)

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    settings = Settings()
    custom = await CacheServiceFactory.create_custom_cache_service(
        settings,
        7200,  # 2 hours
        "custom-namespace",
        RedisClientType.QUEUE,
    )
    await custom.set("report", "ready")
    print(custom, "->", await custom.get("report"), await custom.ttl("report"))

    # A third client, here a store in this process.
    manager = get_multi_redis_connection_manager()
    manager.register("reports", "memory://reports")
    reports = await CacheServiceFactory.create_custom_cache_service(settings, timedelta(minutes=5), "daily", "reports")
    await reports.set("2025-05-01", [1, 2, 3])
    print(reports, "->", await reports.get("2025-05-01"))
    print("clients:", ", ".join(manager.get_all_connection_status()))

    await manager.disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
