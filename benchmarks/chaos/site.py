"""The application, in a process of its own: the demo's, with items that change."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from demo.app import cache, make_app, manager, no_store
from demo.queries import database
from fastapi import APIRouter, Depends, Request, Response

from nearcache import AsyncCache, RedisClientType, Settings
from nearcache.core.recovery import Recovery

from ..serving import Served
from .items import HELD_ITEMS, Versions, value_of

__all__ = ["SABOTAGES", "Site", "State"]

SABOTAGES = ("recovery",)  # forget at once what failed

_QUERY = 0.005  # seconds that an item's database takes
_PROBES = 24  # keys, which a cluster spreads over its nodes

_silent = [Depends(no_store)]  # of routes that keep values, or nothing: the plugin has no business there


class State(NamedTuple):
    """Attributes: ``loads`` of items that never change, ``owed`` and ``forgotten`` as the client counts them."""

    loads: int
    made_good: int
    owed: int
    forgotten: int
    log: list[str]


class Site:
    """Attributes: ``port``: where it answers on 127.0.0.1."""

    def __init__(self, url: str, versions: str, flights: str, sabotage: str | None) -> None:
        if sabotage == "recovery":
            Recovery.owe = lambda *_, **__: None  # type: ignore[method-assign]
        self._log: list[str] = []
        logger = logging.getLogger("nearcache")
        logger.addHandler(_Lines(self._log))
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        database.path = Path(flights)
        settings = Settings(redis_url=url, _env_file=None)
        self._items = Items(Versions(Path(versions)), settings)
        app = make_app(settings)
        app.include_router(self._items.router)
        self._served = Served(app, log_level="error", timeout_keep_alive=600)

    def port(self) -> int:
        return self._served.port

    def state(self) -> State:
        client = manager._clients[RedisClientType.CACHE]
        recovery = client.replay.recovery
        return State(self._items.loads, recovery.settled, len(recovery.owed), recovery.forgotten, self._log)

    def close(self) -> None:
        self._served.close()


class Items:
    """The routes of items. Attributes: ``loads``: calls of loaders for items that never change."""

    def __init__(self, versions: Versions, settings: Settings) -> None:
        self.loads = 0
        self.router = APIRouter()
        self._versions = versions
        self._settings = settings
        self._far = AsyncCache(3600, "app", near=False)
        self._probe = AsyncCache(60, "probe", near=False)
        for way in ("set", "delete", "tags"):
            self.router.get(f"/{way}/{{item}}", dependencies=_silent)(self.get)
            self.router.put(f"/{way}/{{item}}")(getattr(self, f"put_{way}"))
        self.router.get("/sync/{item}", dependencies=_silent)(self.get_in_thread)
        self.router.put("/sync/{item}")(self.put_in_thread)
        self.router.get("/purge/{item}")(self.get_page)
        self.router.put("/purge/{item}")(self.put_page)
        self.router.get("/far/{item}", dependencies=_silent)(self.get_far)
        self.router.get("/probe/{number}", dependencies=_silent)(self.probe)

    # -- reading

    def _begin_load(self, item: int) -> dict[str, Any]:
        self.loads += item < HELD_ITEMS
        return value_of(item, self._versions[item])

    async def _load(self, item: int) -> dict[str, Any]:
        value = self._begin_load(item)
        await asyncio.sleep(_QUERY)
        return value

    def _load_in_thread(self, item: int) -> dict[str, Any]:
        value = self._begin_load(item)
        time.sleep(_QUERY)
        return value

    async def get(self, item: int) -> dict[str, Any]:
        return await cache.get_or_set(_key(item), lambda: self._load(item), tags=[_key(item)])

    def get_in_thread(self, item: int) -> dict[str, Any]:
        return cache.sync().get_or_set(_key(item), lambda: self._load_in_thread(item), tags=[_key(item)])

    async def get_page(self, item: int, response: Response) -> dict[str, Any]:
        """The plugin keeps the response."""
        response.headers["Cache-Tag"] = f"page:{item}"
        return await self._load(item)

    async def get_far(self, item: int) -> dict[str, Any]:
        """The value without the near tier."""
        await self._far.initialize(self._settings)
        return await self._far.get_or_set(_key(item), lambda: self._load(item), tags=[_key(item)])

    # -- changing: the truth first, then the cache

    async def put_set(self, item: int) -> int:
        version = self._versions.advance(item)
        await cache.set(_key(item), value_of(item, version), tags=[_key(item)])
        return version

    async def put_delete(self, item: int) -> int:
        version = self._versions.advance(item)
        await cache.delete(_key(item))
        return version

    async def put_tags(self, item: int) -> int:
        version = self._versions.advance(item)
        await cache.invalidate_tags(_key(item))
        return version

    async def put_page(self, item: int, request: Request) -> int:
        version = self._versions.advance(item)
        await request.app.state.http_cache.purge(tags=[f"page:{item}"])
        return version

    def put_in_thread(self, item: int) -> int:
        version = self._versions.advance(item)
        cache.sync().delete(_key(item))
        return version

    # -- whether the cache works again

    async def probe(self, number: int) -> bool:
        """Whether values are stored, and read from the server, on the loop and in threads."""
        await self._probe.initialize(self._settings)
        values = {f"{os.getpid()}:{key}": number for key in range(_PROBES)}
        stored = await self._probe.set_many(values)
        return bool(stored) and await self._probe.get_many(values) == values and await asyncio.to_thread(self._probes)

    def _probes(self) -> bool:
        cache, values = self._probe.sync(), {f"{os.getpid()}:{key}:thread": key for key in range(_PROBES)}
        return bool(cache.set_many(values)) and cache.get_many(values) == values


def _key(item: int) -> str:
    return f"item:{item}"


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")
