"""The public API as a type checker sees it; checked with mypy and pyright, never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import fastapi
import redis.asyncio

import nearcache
from nearcache import (
    AllConnectionStatus,
    AsyncCache,
    Cache,
    CacheManager,
    CacheServiceFactory,
    CacheStats,
    ConnectionStatus,
    EnhancedCacheManager,
    Health,
    MultiRedisConnectionManager,
    RedisClientType,
    Settings,
    get_cache_cache_manager,
    get_cache_manager,
    get_default_cache,
    get_multi_redis_connection_manager,
    get_queue_cache_manager,
    get_session_cache,
    get_temp_cache,
    sanitize_key,
)
from nearcache.http import HTTPCacheMiddleware, RequestLogMiddleware, cache_plugin
from nearcache.http.fastapi import ApiCache, SessionCache
from nearcache.write_behind import AsyncWriteBehind, WriteBehind


@dataclass
class User:
    name: str


# -- services, managers, settings

assert_type(nearcache.__version__, str)
assert_type(sanitize_key("user/1"), str)
assert_type(get_cache_manager(), AsyncCache)
assert_type(get_cache_cache_manager(60, "mine"), AsyncCache)
assert_type(get_queue_cache_manager(ttl=timedelta(minutes=1)), AsyncCache)
assert_type([get_default_cache(), get_session_cache(), get_temp_cache()], list[AsyncCache])
assert_type(EnhancedCacheManager(), AsyncCache)
assert_type(CacheManager(), AsyncCache)


async def services(settings: Settings) -> None:
    assert_type(await CacheServiceFactory.create_default_cache_service(settings), AsyncCache)
    assert_type(await CacheServiceFactory.create_queue_worker_service(), AsyncCache)
    client = RedisClientType.QUEUE
    assert_type(await CacheServiceFactory.create_custom_cache_service(settings, 60, "mine", client), AsyncCache)
    await CacheServiceFactory.create_custom_cache_service(settings, None, "mine", "reports", wire="json", strict=True)
    await CacheServiceFactory.create_custom_cache_service(settings, 60, "mine", wire="xml")  # type: ignore[arg-type]


async def connections(settings: Settings) -> None:
    manager = get_multi_redis_connection_manager()
    assert_type(manager, MultiRedisConnectionManager)
    await manager.initialize_all(settings, strict=True)
    assert_type(manager.get_all_connection_status(), AllConnectionStatus)
    assert_type(manager.get_all_connection_status().queue, ConnectionStatus)
    assert_type(manager.get_connection_status(RedisClientType.CACHE).connected, bool)
    assert_type(await manager.ping(RedisClientType.QUEUE), str)
    assert_type(manager.health(), Health)
    assert_type(manager.get_client("cache"), redis.asyncio.Redis)
    manager.register("reports", "redis://localhost/5")
    await manager.disconnect_all()


async def token() -> tuple[str, str]:
    return "user", "token"


def credentials(manager: MultiRedisConnectionManager, provider: redis.CredentialProvider) -> None:
    manager.use_credentials("cache", lambda: "password")
    manager.use_credentials(RedisClientType.CACHE, lambda: ("user", "password"))
    manager.use_credentials("cache", token)
    manager.use_credentials("cache", provider)
    manager.use_credentials("cache", None)
    manager.use_credentials("cache", "password")  # type: ignore[arg-type]
    manager.use_credentials("cache", lambda: 1)  # type: ignore[arg-type]


# -- operations


async def asynchronous(cache: AsyncCache) -> None:
    await cache.initialize(Settings(redis_host="localhost", queue_redis_db=3, near_enabled=False))
    await cache.initialize()
    assert_type(await cache.get("key"), Any)
    assert_type(await cache.get("key", 0, namespace="other"), Any | int)
    assert_type(await cache.get("key", type=User), User | None)
    assert_type(await cache.get("key", None, type=User), User | None)
    assert_type(await cache.get("key", "none", type=User), User | str)
    assert_type(await cache.get("key", type=list[User]), list[User] | None)
    assert_type(await cache.get("key", type=dict[str, int], namespace="other"), dict[str, int] | None)
    assert_type(await cache.set("key", User("a"), ttl=timedelta(hours=1), namespace="other"), bool)
    assert_type(await cache.set("key", 1, ttl=None), bool)
    assert_type(await cache.get_many(["a", "b"]), dict[str, Any])
    assert_type(await cache.set_many({"a": 1}, ttl=0.5), bool)
    assert_type(await cache.delete("key"), bool)
    assert_type(await cache.delete_many(["a"]), int)
    assert_type(await cache.exists("key"), bool)
    assert_type(await cache.expire("key", 60), bool)
    assert_type(await cache.ttl("key"), int)
    assert_type(await cache.clear(), int)
    assert_type(await cache.clear("other", wait=False), int | None)
    assert_type(await cache.ping(), str)
    assert_type(cache.sync(), Cache)
    await cache.get()  # type: ignore[call-overload]
    await cache.set("key", 1, tags=["a"])
    await cache.set("key", 1, 60)  # type: ignore[call-arg]
    await cache.set("key", 1, ttl="60")  # type: ignore[arg-type]


def synchronous(cache: Cache) -> None:
    cache.initialize(Settings())
    assert_type(cache.get("key"), Any)
    assert_type(cache.get("key", type=User), User | None)
    assert_type(cache.get("key", "none", type=User), User | str)
    assert_type(cache.get("key", type=list[User]), list[User] | None)
    assert_type(cache.set("key", 1), bool)
    assert_type(cache.get_many(["a"]), dict[str, Any])
    assert_type(cache.delete_many(["a"]), int)
    assert_type(cache.clear(), int)
    assert_type(cache.ping(), str)


def looking(cache: AsyncCache | Cache) -> None:
    assert_type(cache.namespace, str)
    assert_type(cache.default_ttl, int | float | timedelta | None)
    assert_type(cache.get_stats(), CacheStats)
    assert_type(cache.get_stats().hits, int)
    assert_type(cache.get_hit_ratio(), float)
    assert_type(cache.is_ready(), bool)
    assert_type(cache.get_client_type(), str)


# -- loading


def load() -> User:
    return User("a")


async def load_later() -> User:
    return User("a")


def load_many(keys: list[str]) -> dict[str, User]:
    return {key: User(key) for key in keys}


async def load_many_later(keys: list[str]) -> dict[str, User]:
    return load_many(keys)


async def loading(cache: AsyncCache) -> None:
    assert_type(await cache.get_or_set("key", load), User)
    assert_type(await cache.get_or_set("key", load_later, ttl=60), User)
    assert_type(await cache.get_or_set_many(["a"], load_many), dict[str, User])
    assert_type(await cache.get_or_set_many(["a"], load_many_later), dict[str, User])
    assert_type(await cache.write_through("key", load_later), User)
    await cache.get_or_set("key", load_many)  # type: ignore[arg-type]


def loading_here(cache: Cache) -> None:
    assert_type(cache.get_or_set("key", load), User)
    assert_type(cache.get_or_set_many(["a"], load_many), dict[str, User])
    assert_type(cache.write_through("key", load), User)


async def write(key: str, value: Any) -> None: ...


async def writing(cache: AsyncCache) -> None:
    behind = cache.write_behind(write, ttl=60)
    assert_type(behind, AsyncWriteBehind)
    assert_type(await behind.set("key", 1), bool)
    assert_type(await behind.drain(), int)
    assert_type(behind.pending, int)
    assert_type(cache.sync().write_behind(print), WriteBehind)
    assert_type(cache.sync().write_behind(print).set("key", 1), bool)
    cache.write_behind(load)  # type: ignore[arg-type]


# -- decorated functions keep their parameters and what they return

cache = get_default_cache()


@cache.cached
async def user(user_id: int, *, full: bool = False) -> User:
    return User(str(user_id))


@cache.cached(ttl=60, key="name:{user_id}", namespace="names")
def name(user_id: int) -> str:
    return str(user_id)


class Shop:
    @cache.cached(key="price:{item}")
    async def price(self, item: str, count: int = 1) -> float:
        return 1.5


async def decorated(shop: Shop) -> None:
    assert_type(await user(1), User)
    assert_type(await user(user_id=1, full=True), User)
    assert_type(name(1), str)
    assert_type(user.key(1, full=True), str)
    assert_type(await user.uncached(1), User)
    await user.invalidate(1)
    name.invalidate(user_id=1)
    price: Callable[[str, int], Coroutine[Any, Any, float]] = shop.price
    assert_type(await price("tea", 2), float)
    assert_type(await shop.price("tea"), float)
    assert_type(await shop.price("tea", count=2), float)
    assert_type(await Shop.price(shop, "tea"), float)
    assert_type(shop.price.key("tea"), str)
    await user("1")  # type: ignore[arg-type]
    await user(1, True)  # type: ignore[call-arg]
    user.key()  # type: ignore[call-arg]
    user.invalidate(1, half=True)  # type: ignore[call-arg]
    name(1, 2)  # type: ignore[call-arg]
    await shop.price(7)  # type: ignore[arg-type]
    shop.price.key()  # type: ignore[call-arg]
    assert_type(await user.refresh(1), User)

    @cache.invalidates(tags=["user:{user_id}"])
    async def rename(user_id: int, new: str) -> User:
        return User(f"{new} {user_id}")

    assert_type(await rename(1, "Ada"), User)
    await rename("1", "Ada")  # type: ignore[arg-type]
    cache.invalidates()  # type: ignore[call-arg]
    cache.cached(tags="a", colour=1)  # type: ignore[call-overload]
    cache.cached(ttl="60")  # type: ignore[call-overload]


# -- HTTP

app = fastapi.FastAPI()
cache_plugin(app, Settings(), ttl=60)
app.add_middleware(RequestLogMiddleware)
app.add_middleware(HTTPCacheMiddleware, cache=cache, ttl=60)
HTTPCacheMiddleware(app, ttl=60)


@app.get("/users/{user_id}")
async def route(user_id: int, api: ApiCache, sessions: SessionCache) -> User:
    assert_type(api, AsyncCache)
    assert_type(sessions, AsyncCache)
    return await user(user_id)
