"""The same without an event loop."""

import os

from nearcache import Cache, Settings, get_multi_redis_connection_manager

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")


def main() -> None:
    cache = Cache(60, "sync-example")
    cache.initialize(Settings())

    cache.set("user:1", {"name": "Ada"})
    print("get:", cache.get("user:1"), "ttl:", cache.ttl("user:1"))

    @cache.cached(ttl=60)
    def square(number: int) -> int:
        print("  computing")
        return number * number

    square.invalidate(12)
    print("square:", square(12))
    print("square, from the cache:", square(12))

    get_multi_redis_connection_manager().close()


if __name__ == "__main__":
    main()
