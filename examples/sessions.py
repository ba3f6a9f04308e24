"""Sessions: 24 hours, in a namespace of their own."""

import asyncio
import os
from datetime import UTC, datetime

from nearcache import CacheServiceFactory, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    session_cache = await CacheServiceFactory.create_session_cache_service(Settings())

    await session_cache.set("f3a9", {"user": 123, "since": datetime(2025, 5, 1, 12, 30, tzinfo=UTC)}, ttl=86400)
    session = await session_cache.get("f3a9")
    print("session of user", session["user"], "since", session["since"].date())
    print("seconds left:", await session_cache.ttl("f3a9"))

    await session_cache.delete("f3a9")
    print("after logging out:", await session_cache.get("f3a9"))

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
