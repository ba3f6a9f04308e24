"""Graceful shutdown: on SIGTERM let what is under way finish, then close both clients."""

import asyncio
import os
import signal

from nearcache import (
    CacheServiceFactory,
    NotInitialized,
    Settings,
    get_default_cache,
    get_multi_redis_connection_manager,
)

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    cache = await CacheServiceFactory.create_default_cache_service(Settings())
    await cache.set("key", "value")

    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    print("working, ready:", cache.is_ready())

    # Stands for `kill` from outside, so that this example ends by itself.
    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    await terminated.wait()

    manager = get_multi_redis_connection_manager()
    await manager.disconnect_all()
    print("all clients are disconnected, ready:", cache.is_ready())
    try:
        await get_default_cache().get("key")
    except NotInitialized:
        print("operations now raise NotInitialized")


if __name__ == "__main__":
    asyncio.run(main())
