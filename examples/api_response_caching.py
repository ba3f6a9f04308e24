"""Responses of a slow function, kept for an hour, in database 0."""

import asyncio
import os

from nearcache import CacheServiceFactory, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def find_by_id(user_id: str) -> dict[str, str]:
    print("  asking the database")
    return {"id": user_id, "name": "Ada"}


async def main() -> None:
    api_cache = await CacheServiceFactory.create_default_cache_service(Settings())

    async def get_user_profile(user_id: str) -> dict[str, str]:
        # However many callers miss at the same time, the loader runs once.
        return await api_cache.get_or_set(f"profile:{user_id}", lambda: find_by_id(user_id), ttl=3600)

    await api_cache.delete("profile:123")
    print("three callers at once")
    profiles = await asyncio.gather(*(get_user_profile("123") for _ in range(3)))
    print("all got", profiles[0], profiles[0] == profiles[1] == profiles[2])
    print("later:", await get_user_profile("123"))

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
