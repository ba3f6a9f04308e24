"""Both clients from the environment: one for the cache (database 0), one for queues (database 1)."""

import asyncio
import os

from nearcache import Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")


async def main() -> None:
    manager = get_multi_redis_connection_manager()
    await manager.initialize_all(Settings())

    status = manager.get_all_connection_status()
    print("cache client:", "connected" if status.cache.connected else "away", "database", status.cache.db)
    print("queue client:", "connected" if status.queue.connected else "away", "database", status.queue.db)

    await manager.disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
