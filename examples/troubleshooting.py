"""What to look at when something is odd: readiness, status, times to live, types."""

import asyncio
import os
import re
from datetime import UTC, datetime

from nearcache import (
    CacheServiceFactory,
    CodecError,
    ConnectionFailed,
    Settings,
    get_multi_redis_connection_manager,
)

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


async def main() -> None:
    settings = Settings()
    cache = await CacheServiceFactory.create_default_cache_service(settings)
    manager = get_multi_redis_connection_manager()

    # Is it there? The settings in force never show a password.
    print("ready:", cache.is_ready(), "| prefix:", settings.describe()["NEARCACHE_PREFIX"])
    print("queue client before anything uses it:", manager.get_all_connection_status().queue.connected)
    try:
        print("ping:", await cache.ping())
    except ConnectionFailed as error:
        print("no connection:", error)

    # The time to live: -1 has none, -2 is not there.
    await cache.set("with", 1, ttl=60)
    await cache.set("without", 1, ttl=None)
    await cache.delete("missing")
    print("ttl:", await cache.ttl("with"), await cache.ttl("without"), await cache.ttl("missing"))

    # Values keep their types, dates and patterns included.
    value = {"date": datetime(2025, 5, 1, 12, 30, tzinfo=UTC), "regex": re.compile("test")}
    await cache.set("complex", value)
    print("types kept:", await cache.get("complex") == value)

    # What cannot be stored is refused, and the error says which part it is.
    try:
        await cache.set("complex", {"rows": [1, object()]})
    except CodecError as error:
        print("refused:", error)
    print("nothing was overwritten:", await cache.get("complex") == value)

    await manager.disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
