"""Requests for the same thing at the same time: one asks the application, unless the answer is for one user only.

Two clients on one server are to each other what two processes are: connections, near tiers and flights of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nearcache import AsyncCache, Settings
from nearcache.http import HTTPCacheMiddleware

from .conftest import Answer, Headers, ask

START = "http.response.start"
BODY = "http.response.body"
VISITORS = 20


class Slow:
    """An application that answers when it is told to go on."""

    def __init__(self, *headers: tuple[bytes, bytes], reveal: Callable[[Any], bytes] = lambda scope: b"") -> None:
        self.headers = headers
        self.reveal = reveal
        self.asked = 0
        self.begun = asyncio.Event()
        self.head = asyncio.Event()
        self.go_on = asyncio.Event()

    def go(self) -> None:
        self.head.set()
        self.go_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        number = self.asked
        self.begun.set()
        await self.head.wait()
        await send({"type": START, "status": 200, "headers": [*self.headers]})
        await send({"type": BODY, "body": b"answer %d" % number, "more_body": True})
        await self.go_on.wait()
        await send({"type": BODY, "body": self.reveal(scope)})


PUBLIC = (b"cache-control", b"max-age=60")


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is looked at has no event
            await asyncio.sleep(0.001)


async def visitors(app: Any, number: int = VISITORS, headers: Headers = ()) -> list[asyncio.Task[Answer]]:
    tasks = [asyncio.create_task(ask(app, headers=headers)) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


async def bodies(tasks: list[asyncio.Task[Answer]]) -> list[bytes]:
    return [answer.body for answer in await asyncio.gather(*tasks)]


async def test_one_of_many_asks_the_application(cache: AsyncCache) -> None:
    origin = Slow(PUBLIC)
    tasks = await visitors(HTTPCacheMiddleware(origin, cache))
    await origin.begun.wait()
    origin.go()
    answers = await asyncio.gather(*tasks)
    assert {answer.body for answer in answers} == {b"answer 1"}
    assert origin.asked == 1
    status = [dict(answer.headers)[b"cache-status"] for answer in answers]
    assert sum(b"stored" in one for one in status) == 1
    assert sum(b"collapsed" in one or b"; hit" in one for one in status) == VISITORS - 1


async def test_one_of_a_fleet_asks_the_application(url: str) -> None:
    origin = Slow(PUBLIC)
    tasks = []
    for cache in await fleet(url):
        tasks += await visitors(HTTPCacheMiddleware(origin, cache))
    await origin.begun.wait()
    await asyncio.sleep(0.05)  # those that would ask although they should not have the time to
    origin.go()
    assert set(await bodies(tasks)) == {b"answer 1"}
    assert origin.asked == 1


async def fleet(url: str) -> list[AsyncCache]:
    settings = Settings(redis_url=url, queue_redis_url=url, _env_file=None)
    caches = [AsyncCache(3600, "app"), AsyncCache(3600, "app", "queue")]
    for cache in caches:
        await cache.initialize(settings)
    return caches


@pytest.mark.parametrize(
    "header", [(b"cache-control", b"private, max-age=60"), (b"set-cookie", b"id=1"), (b"cache-control", b"no-store")]
)
async def test_a_private_answer_is_for_one_and_nobody_waits_for_its_body(
    cache: AsyncCache, header: tuple[bytes, bytes]
) -> None:
    origin = Slow(PUBLIC, header)
    tasks = await visitors(HTTPCacheMiddleware(origin, cache))
    await origin.begun.wait()
    assert origin.asked == 1, "it is not known yet"
    origin.head.set()
    await until(lambda: origin.asked == VISITORS)
    origin.go()
    assert sorted(await bodies(tasks)) == sorted(b"answer %d" % number for number in range(1, VISITORS + 1))


async def test_nobody_waits_for_what_was_private_some_times(cache: AsyncCache) -> None:
    origin = Slow((b"cache-control", b"private"))
    app = HTTPCacheMiddleware(origin, cache)
    origin.go()
    for _ in range(3):
        await ask(app)
    origin.head.clear()
    tasks = await visitors(app)
    await until(lambda: origin.asked == 3 + VISITORS)
    origin.go()
    assert len(set(await bodies(tasks))) == VISITORS


async def test_users_do_not_wait_for_each_other_for_long(cache: AsyncCache) -> None:
    """With credentials answers are mostly private: who waits for another's gives up soon."""
    origin = Slow((b"cache-control", b"private"))
    tasks = await visitors(HTTPCacheMiddleware(origin, cache), headers=[(b"cookie", b"id=1")])
    await until(lambda: origin.asked == VISITORS)
    origin.go()
    assert len(set(await bodies(tasks))) == VISITORS


async def test_variants_are_made_once_each(cache: AsyncCache) -> None:
    def language(scope: Any) -> bytes:
        return dict(scope["headers"]).get(b"accept-language", b"?")

    origin = Slow(PUBLIC, (b"vary", b"accept-language"), reveal=language)
    app = HTTPCacheMiddleware(origin, cache)
    tasks = {name: await visitors(app, headers=[(b"accept-language", name)]) for name in (b"de", b"fr", b"en")}
    await origin.begun.wait()
    origin.go()
    for name, waiting in tasks.items():
        assert all(body.endswith(name) for body in await bodies(waiting))
    assert origin.asked == 3


async def test_when_the_one_that_asks_is_cancelled_another_does(cache: AsyncCache) -> None:
    origin = Slow(PUBLIC)
    app = HTTPCacheMiddleware(origin, cache)
    first = await visitors(app, 1)
    await origin.begun.wait()
    others = await visitors(app)
    await asyncio.sleep(0.01)
    first[0].cancel()
    await until(lambda: origin.asked > 1)
    origin.go()
    assert len(set(await bodies(others))) == 1
    assert origin.asked == 2


async def test_when_the_client_of_the_one_that_asks_leaves_another_asks(cache: AsyncCache) -> None:
    class Attentive(Slow):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if self.asked:
                await super().__call__(scope, receive, send)
                return
            self.asked += 1
            self.begun.set()
            assert (await receive())["type"] == "http.disconnect"
            await send({"type": START, "status": 200, "headers": [*self.headers]})
            await send({"type": BODY, "body": b"cut"})

    leaves = asyncio.Event()

    async def receive() -> Any:
        await leaves.wait()
        return {"type": "http.disconnect"}

    origin = Attentive(PUBLIC)
    origin.go()
    app = HTTPCacheMiddleware(origin, cache)
    first = asyncio.create_task(ask(app, receive=receive))
    await origin.begun.wait()
    others = await visitors(app)
    await asyncio.sleep(0.01)
    leaves.set()
    await first
    assert set(await bodies(others)) == {b"answer 2"}


async def test_an_application_that_fails_fails_for_everybody_on_their_own(cache: AsyncCache) -> None:
    calls = 0

    async def origin(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    results = await asyncio.gather(*await visitors(HTTPCacheMiddleware(origin, cache)), return_exceptions=True)
    assert {type(result) for result in results} == {ZeroDivisionError}
    assert calls == VISITORS


async def test_what_may_not_be_stored_fresh_is_shared_with_those_who_waited(cache: AsyncCache) -> None:
    """Made while they waited, it is as good as made for them; who comes later asks whether it still holds."""
    origin = Slow((b"cache-control", b"no-cache"), (b"etag", b'"1"'))
    app = HTTPCacheMiddleware(origin, cache)
    tasks = await visitors(app)
    await origin.begun.wait()
    origin.go()
    assert set(await bodies(tasks)) == {b"answer 1"}
    await ask(app)
    assert origin.asked == 2


async def test_a_purge_by_a_write_is_not_undone_by_a_slow_reader(cache: AsyncCache) -> None:
    origin = Slow(PUBLIC)
    app = HTTPCacheMiddleware(origin, cache)
    readers = await visitors(app)
    await origin.begun.wait()
    origin.head.set()

    async def written(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 204, "headers": []})
        await send({"type": BODY})

    await ask(HTTPCacheMiddleware(written, cache), method="POST")
    origin.go()
    await bodies(readers)
    assert (await ask(app)).body == b"answer 2"
