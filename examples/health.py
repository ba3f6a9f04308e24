"""Health: the status of each client, a ping to each, and one answer for a readiness route."""

import asyncio
import os

from nearcache import ConnectionFailed, RedisClientType, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")


async def main() -> None:
    manager = get_multi_redis_connection_manager()
    print("before:", manager.health())
    await manager.initialize_all(Settings())

    for client_type in RedisClientType:
        status = manager.get_connection_status(client_type)
        print(f"{client_type}: connected={status.connected} db={status.db} breaker={status.breaker}")

    try:
        print("cache:", await manager.ping(RedisClientType.CACHE))
        print("queue:", await manager.ping(RedisClientType.QUEUE))
        print("both clients work")
    except ConnectionFailed as error:
        print("no connection:", error)

    health = manager.health()
    print("readiness:", 503 if health.status == "down" else 200, health.status, *health.reasons)

    await manager.disconnect_all()


if __name__ == "__main__":
    asyncio.run(main())
