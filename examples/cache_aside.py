"""Cache-aside: read the cache, on a miss load from the source and store. By call, for many keys, and by decorator."""

import asyncio
import os

from nearcache import CacheServiceFactory, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")

USERS = {"1": {"name": "Ada"}, "2": {"name": "Grace"}}


async def find(user_id: str) -> dict[str, str] | None:
    print("  loading", user_id)
    return USERS.get(user_id)


async def find_many(keys: list[str]) -> dict[str, dict[str, str]]:
    print("  loading", keys)
    return {key: USERS[key.removeprefix("user:")] for key in keys}


async def main() -> None:
    cache = await CacheServiceFactory.create_default_cache_service(Settings())
    await cache.clear()

    for _ in range(2):
        print("user 1:", await cache.get_or_set("user:1", lambda: find("1"), ttl=3600))
    print("users 1 and 2:", await cache.get_or_set_many(["user:1", "user:2"], find_many, ttl=3600))

    # None is a value, too: what does not exist is not asked for again and again.
    for _ in range(2):
        print("user 3:", await cache.get_or_set("user:3", lambda: find("3"), ttl=60))

    @cache.cached(ttl=60, key="profile:{user_id}")
    async def profile(user_id: str) -> dict[str, str] | None:
        return await find(user_id)

    for _ in range(2):
        print("decorated:", await profile("2"))
    await profile.invalidate("2")
    print("decorated, invalidated:", await profile("2"))

    await get_multi_redis_connection_manager().disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
