"""Services, getters and the manager: identities, isolation, status, the order of opening and closing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

import nearcache
from nearcache import (
    AsyncCache,
    Cache,
    CacheServiceFactory,
    ConfigurationError,
    ConnectionFailed,
    MultiRedisConnectionManager,
    NotInitialized,
    RedisClientType,
    Settings,
    SettingsConflict,
    get_multi_redis_connection_manager,
)
from nearcache.services import get_cache_manager

from ..servers import ValkeyServer, wait_until


@pytest.fixture
async def manager() -> AsyncIterator[MultiRedisConnectionManager]:
    manager = get_multi_redis_connection_manager()
    await manager.disconnect_all()
    yield manager
    await manager.disconnect_all()


@pytest.fixture
def settings(url: str) -> Settings:
    return Settings(redis_url=url, _env_file=None)


FACTORIES = [
    ("create_default_cache_service", "app", 3600, "cache", 0),
    ("create_session_cache_service", "session", 86400, "cache", 0),
    ("create_temp_cache_service", "temp", 300, "cache", 0),
    ("create_queue_cache_service", "queue-cache", 1800, "queue", 1),
    ("create_queue_worker_service", "queue-worker", 900, "queue", 1),
]


@pytest.mark.parametrize(("factory", "namespace", "ttl", "client", "db"), FACTORIES)
async def test_each_service_has_its_client_namespace_and_ttl(
    manager: MultiRedisConnectionManager,
    settings: Settings,
    server: ValkeyServer,
    factory: str,
    namespace: str,
    ttl: int,
    client: str,
    db: int,
) -> None:
    cache = await getattr(CacheServiceFactory, factory)(settings)
    assert await cache.set("user:123", "value")
    assert (cache.namespace, cache.default_ttl, cache.get_client_type()) == (namespace, ttl, client)
    assert server.command("EXISTS", f"{namespace}:user:123", db=db) == 1
    assert server.command("PTTL", f"{namespace}:user:123", db=db) in range(ttl * 1000 - 5000, ttl * 1000 + 1)


async def test_a_custom_service(manager: MultiRedisConnectionManager, settings: Settings, server: ValkeyServer) -> None:
    cache = await CacheServiceFactory.create_custom_cache_service(settings, 7200, "mine", RedisClientType.QUEUE)
    await cache.set("key", 1)
    assert cache.get_client_type() is RedisClientType.QUEUE
    assert server.command("PTTL", "mine:key", db=1) > 7_190_000


async def test_the_same_key_in_two_databases(manager: MultiRedisConnectionManager, settings: Settings) -> None:
    api = await CacheServiceFactory.create_default_cache_service(settings)
    queue = await CacheServiceFactory.create_queue_cache_service(settings)
    await api.set("user:123", "api")
    await queue.set("user:123", "queue")
    assert (await api.get("user:123"), await queue.get("user:123")) == ("api", "queue")
    await queue.clear()
    assert await api.get("user:123") == "api"


async def test_the_same_client_namespace_and_ttl_are_the_same_object(
    manager: MultiRedisConnectionManager, settings: Settings, server: ValkeyServer
) -> None:
    default = await CacheServiceFactory.create_default_cache_service(settings)
    assert nearcache.get_default_cache() is default
    assert await CacheServiceFactory.create_custom_cache_service(settings, 3600, "app") is default
    assert nearcache.get_cache_cache_manager(3600.0, "app") is default
    assert nearcache.get_session_cache() is await CacheServiceFactory.create_session_cache_service(settings)
    assert nearcache.get_temp_cache() is await CacheServiceFactory.create_temp_cache_service(settings)
    queue = await CacheServiceFactory.create_queue_cache_service(settings)
    assert nearcache.get_queue_cache_manager(1800, "queue-cache") is queue
    assert nearcache.get_cache_cache_manager(60, "app") is not default
    before = server.command("INFO", "commandstats")
    assert await CacheServiceFactory.create_default_cache_service(settings) is default
    after = server.command("INFO", "commandstats")
    assert before.count(b"cmdstat_hello") == after.count(b"cmdstat_hello")


async def test_getters_without_arguments_give_what_was_initialised_first(
    manager: MultiRedisConnectionManager, settings: Settings
) -> None:
    assert nearcache.get_cache_cache_manager() is nearcache.get_cache_cache_manager(3600, "cache")
    assert nearcache.get_queue_cache_manager() is nearcache.get_queue_cache_manager(1800, "queue-cache")
    first = nearcache.get_cache_cache_manager(3600, "api")
    await first.initialize(settings)
    await CacheServiceFactory.create_default_cache_service(settings)
    assert nearcache.get_cache_cache_manager() is first
    assert get_cache_manager() is first
    assert nearcache.get_queue_cache_manager() is nearcache.get_queue_cache_manager(1800, "queue-cache")


async def test_use_before_initialize_says_what_to_call(manager: MultiRedisConnectionManager) -> None:
    for use in (lambda: AsyncCache().get("key"), lambda: AsyncCache().clear(), lambda: AsyncCache().ping()):
        with pytest.raises(NotInitialized, match="initialize"):
            await use()
    with pytest.raises(NotInitialized, match="initialize"):
        Cache().get("key")
    assert AsyncCache().is_ready() is False
    with pytest.raises(NotInitialized, match="initialize_all"):
        await manager.ping(RedisClientType.CACHE)


async def test_initialize_all_and_status(
    manager: MultiRedisConnectionManager, settings: Settings, server: ValkeyServer
) -> None:
    assert manager.health().status == "down"
    assert manager.get_all_connection_status().cache.connected is False
    await asyncio.gather(manager.initialize_all(settings), manager.initialize_all(settings))
    status = manager.get_all_connection_status()
    assert status.cache.connected
    assert status.queue.connected
    assert (status.cache.host, status.cache.port, status.cache.db) == ("127.0.0.1", server.port, 0)
    assert status["queue"].db == 1
    assert status.cache.server.startswith("valkey")
    assert status.cache.latency is not None
    assert manager.get_connection_status(RedisClientType.QUEUE) == status.queue
    assert await manager.ping(RedisClientType.CACHE) == await manager.ping(RedisClientType.QUEUE) == "PONG"
    assert manager.health().status == "up"
    assert len([c for c in server.command("CLIENT", "LIST").split(b"\n") if b"name=nearcache-" in c]) == 2


async def test_after_disconnect_all_operations_raise_until_initialised_again(
    manager: MultiRedisConnectionManager, settings: Settings, server: ValkeyServer
) -> None:
    cache = await CacheServiceFactory.create_default_cache_service(settings)
    await cache.set("key", 1)
    await manager.disconnect_all()
    await manager.disconnect_all()
    for use in (lambda: cache.get("key"), lambda: cache.set("key", 2), cache.ping):
        with pytest.raises(NotInitialized):
            await use()
    assert cache.is_ready() is False
    assert b"nearcache-" not in server.command("CLIENT", "LIST")
    await cache.initialize(settings)
    assert await cache.get("key") == 1


async def test_disconnect_all_lets_what_is_in_flight_finish(
    manager: MultiRedisConnectionManager, settings: Settings, server: ValkeyServer
) -> None:
    cache = await CacheServiceFactory.create_default_cache_service(settings)
    await cache.set("warm", 1)
    writes = [asyncio.create_task(cache.set(f"key:{n}", n)) for n in range(500)]
    await asyncio.sleep(0)
    await manager.disconnect_all()
    assert all(await asyncio.gather(*writes))
    assert server.command("DBSIZE") >= 500


async def test_other_connection_fields_for_a_client_that_is_up(
    manager: MultiRedisConnectionManager, settings: Settings
) -> None:
    await manager.initialize_all(settings)
    other = Settings(redis_host="localhost", redis_port=1, redis_db=3, _env_file=None)
    with pytest.raises(SettingsConflict, match=r"'cache'.*host.*port.*db"):
        await manager.initialize_all(other)
    with pytest.raises(SettingsConflict, match="prefix"):
        await manager.initialize_all(Settings(redis_url=settings.redis_url, prefix="other:", _env_file=None))
    same = Settings(redis_url=settings.redis_url, near_entries=5, _env_file=None)
    await manager.initialize_all(same)


async def test_a_server_that_is_away_is_logged_and_retried(
    manager: MultiRedisConnectionManager, fresh_server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(redis_url=fresh_server.url, _env_file=None)
    fresh_server.kill()
    caplog.set_level(logging.INFO, "nearcache")
    await manager.initialize_all(settings)
    cache = await CacheServiceFactory.create_default_cache_service(settings)
    assert manager.health().status == "degraded"
    assert any("cache" in reason for reason in manager.health().reasons)
    assert await cache.get("key", "default") == "default"
    assert await cache.set("key", 1) is False
    assert await cache.get_many(["key"]) == {}
    assert await cache.delete("key") is False
    assert await cache.ttl("key") == -2
    assert await cache.clear() == 0
    assert await cache.get_or_set("key", lambda: "loaded") == "loaded"
    with pytest.raises(ConnectionFailed):
        await cache.ping()
    assert cache.get_stats().errors >= 6
    failed = [r for r in caplog.records if "connection failed" in r.getMessage()]
    assert len(failed) == 2, "one line per client, however many attempts and commands"
    fresh_server.start()
    await asyncio.to_thread(wait_until, cache.is_ready, "the lane to be back")
    assert await cache.set("key", 1) is True
    assert manager.health().status in ("up", "degraded")
    assert any("reconnected" in r.getMessage() for r in caplog.records)


async def test_strict_raises(manager: MultiRedisConnectionManager, fresh_server: ValkeyServer) -> None:
    settings = Settings(redis_url=fresh_server.url, _env_file=None)
    fresh_server.kill()
    with pytest.raises(ConnectionFailed):
        await manager.initialize_all(settings, strict=True)
    cache = await CacheServiceFactory.create_custom_cache_service(settings, 60, "strict", strict=True)
    for use in (
        lambda: cache.get("k"),
        lambda: cache.set("k", 1),
        lambda: cache.delete("k"),
        cache.clear,
        lambda: cache.get_many(["k"]),
        lambda: cache.ttl("k"),
    ):
        with pytest.raises(ConnectionFailed):
            await use()


async def test_registered_clients(
    manager: MultiRedisConnectionManager, settings: Settings, url: str, server: ValkeyServer
) -> None:
    manager.register("reports", url.removesuffix("/0") + "/5")
    manager.register("reports", url.removesuffix("/0") + "/5")
    with pytest.raises(ConfigurationError, match="reports"):
        manager.register("reports", url.removesuffix("/0") + "/6")
    with pytest.raises(ConfigurationError, match="cache"):
        manager.register("cache", url)
    with pytest.raises(ConfigurationError, match="the URL of client 'bad'"):
        manager.register("bad", "http://localhost")
    cache = await CacheServiceFactory.create_custom_cache_service(settings, 60, "r", "reports")
    await cache.set("key", 1)
    assert server.command("EXISTS", "r:key", db=5) == 1
    assert manager.get_all_connection_status()["reports"].db == 5
    with pytest.raises(ConfigurationError, match="register"):
        await AsyncCache(60, "x", "nobody").initialize(settings)
    manager._registered.clear()


async def test_get_client_is_a_ready_driver(manager: MultiRedisConnectionManager, settings: Settings) -> None:
    await manager.initialize_all(settings)
    driver = manager.get_client(RedisClientType.QUEUE)
    assert await driver.set("plain", "value")
    assert driver is manager.get_client(RedisClientType.QUEUE)
    assert driver.connection_pool.connection_kwargs["db"] == 1


async def test_memory_has_no_driver(manager: MultiRedisConnectionManager) -> None:
    await manager.initialize_all(Settings(redis_url="memory://driver", _env_file=None))
    with pytest.raises(ConfigurationError, match="memory://driver"):
        manager.get_client(RedisClientType.CACHE)


async def test_the_prefix_is_put_before_every_key(
    manager: MultiRedisConnectionManager, url: str, server: ValkeyServer
) -> None:
    settings = Settings(redis_url=url, prefix="shop:", _env_file=None)
    cache = await CacheServiceFactory.create_default_cache_service(settings)
    await cache.set("key", 1)
    keys = set(server.command("KEYS", "*"))
    assert b"shop:app:key" in keys
    assert all(key.startswith(b"shop:") for key in keys)


async def test_passwords_do_not_show(manager: MultiRedisConnectionManager, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ValkeyServer(password="s3cr3t-right") as server:
        wrong = server.url.replace("s3cr3t-right", "s3cr3t-wrong")
        settings = Settings(redis_url=wrong, _env_file=None)
        with pytest.raises(ConnectionFailed, match="credentials") as caught:
            await manager.initialize_all(settings, strict=True)
        shown = [str(caught.value), repr(manager.get_all_connection_status()), repr(manager.health()), caplog.text]
        assert not any("s3cr3t" in text for text in shown)
        await manager.disconnect_all()
        await manager.initialize_all(Settings(redis_url=server.url, _env_file=None), strict=True)
        assert await manager.ping() == "PONG"


def test_a_synchronous_program_from_start_to_end(url: str, server: ValkeyServer) -> None:
    manager = get_multi_redis_connection_manager()
    manager.close()
    cache = Cache(60, "sync")
    cache.initialize(Settings(redis_url=url, _env_file=None))
    assert cache.set("key", {1, 2})
    assert cache.get("key") == {1, 2}
    manager.close()
    with pytest.raises(NotInitialized):
        cache.get("key")
    assert b"nearcache-" not in server.command("CLIENT", "LIST")


def test_one_cache_on_several_loops(url: str) -> None:
    cache = AsyncCache(60, "loops")

    async def use(n: int) -> object:
        await cache.initialize(Settings(redis_url=url, _env_file=None))
        await cache.set(f"key:{n}", n)
        return await cache.get(f"key:{n}")

    assert [asyncio.run(use(n)) for n in range(3)] == [0, 1, 2]
    asyncio.run(get_multi_redis_connection_manager().disconnect_all())
