"""Job results and worker statistics, on the queue client: database 1."""

import asyncio
import os
from typing import Any

from nearcache import CacheServiceFactory, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def cache_job_result(job_id: str, result: dict[str, Any]) -> None:
    queue_cache = await CacheServiceFactory.create_queue_cache_service(Settings())
    await queue_cache.set(f"result:{job_id}", result, ttl=1800)


async def update_worker_stats(worker_id: str, stats: dict[str, int]) -> None:
    # The factory gives the same object each time, and does no I/O once it is connected.
    worker_cache = await CacheServiceFactory.create_queue_worker_service(Settings())
    await worker_cache.set(f"worker:{worker_id}", stats, ttl=900)


async def main() -> None:
    await cache_job_result("456", {"rows": 1200})
    await update_worker_stats("w1", {"done": 17, "failed": 1})

    queue_cache = await CacheServiceFactory.create_queue_cache_service(Settings())
    worker_cache = await CacheServiceFactory.create_queue_worker_service(Settings())
    print("result:456:", await queue_cache.get("result:456"), await queue_cache.ttl("result:456"), "s left")
    print("worker:w1:", await worker_cache.get("worker:w1"), await worker_cache.ttl("worker:w1"), "s left")

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
