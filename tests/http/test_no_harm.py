"""Applications behave behind the cache as they do without it, message by message and step by step.

Each story is told twice, of the application alone and of the same application behind the middleware; both must come
out the same, but for the fields that a cache adds to what it stores.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from nearcache import AsyncCache, Settings
from nearcache.http import HTTPCacheMiddleware

from .conftest import App, Message, ask, http_scope

START = "http.response.start"
BODY = "http.response.body"
OURS = (b"age", b"cache-status", b"etag")
FRESH = [(b"cache-control", b"max-age=60")]
SIZED = [*FRESH, (b"content-length", b"4")]
STALE = [(b"cache-control", b"max-age=0"), (b"etag", b'"1"')]

Wrap = Callable[[App], App]


@pytest.fixture(autouse=True)
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """No task outlives its request for long, and nobody misses an exception."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    before = asyncio.all_tasks()
    yield
    mine = asyncio.current_task()
    left = {task for task in asyncio.all_tasks() - before if task is not mine}
    if left:
        _, left = await asyncio.wait(left, timeout=2)
    gc.collect()
    await asyncio.sleep(0)
    assert not left
    assert not complaints


@pytest.fixture(params=["as it is", "with a ttl", "twice", "twice, two caches", "connecting by itself"])
def wrap(request: pytest.FixtureRequest, cache: AsyncCache, settings: Settings) -> Wrap:
    """The ways an application can be behind the cache."""
    ways: dict[str, Wrap] = {
        "as it is": lambda app: HTTPCacheMiddleware(app, cache),
        "with a ttl": lambda app: HTTPCacheMiddleware(app, cache, ttl=300),
        "twice": lambda app: HTTPCacheMiddleware(HTTPCacheMiddleware(app, cache, ttl=300), cache, ttl=300),
        "twice, two caches": lambda app: HTTPCacheMiddleware(
            HTTPCacheMiddleware(app, cache, ttl=300), AsyncCache(3600, "outer"), ttl=300
        ),
        "connecting by itself": lambda app: HTTPCacheMiddleware(app, settings=settings, ttl=300),
    }
    return ways[request.param]


async def sending(send: Any, *parts: bytes, status: int = 200, headers: Any = FRESH, **start: Any) -> None:
    """A response in so many parts."""
    await send({"type": START, "status": status, "headers": headers, **start})
    for number, part in enumerate(parts, 1):
        await send({"type": BODY, "body": part, "more_body": number < len(parts)})


# -- applications that ask themselves


@pytest.mark.parametrize("wait", [False, True])
async def test_an_application_that_asks_itself_for_the_same(wrap: Wrap, wait: bool) -> None:
    depth = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal depth
        depth += 1
        if depth < 4:
            asking = ask(wrapped)
            answer = await (asyncio.create_task(asking) if wait else asking)
            await sending(send, b"and ", answer.body)
        else:
            await sending(send, b"itself")

    wrapped = wrap(app)
    async with asyncio.timeout(5):
        assert (await ask(wrapped)).body == b"and and and itself"


async def test_two_applications_that_ask_each_other(wrap: Wrap) -> None:
    both = asyncio.Barrier(2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if dict(scope["headers"]).get(b"x-from"):
            await sending(send, b"of %b" % scope["path"].encode())
            return
        await both.wait()
        other = {"/a": "/b", "/b": "/a"}[scope["path"]]
        answer = await ask(wrapped, other, [(b"x-from", b"inside")])
        await sending(send, b"%b asked, heard " % scope["path"].encode(), answer.body)

    wrapped = wrap(app)
    async with asyncio.timeout(5):
        answers = await asyncio.gather(ask(wrapped, "/a"), ask(wrapped, "/b"))
    assert [answer.body for answer in answers] == [b"/a asked, heard of /b", b"/b asked, heard of /a"]


async def test_what_a_request_leaves_behind_asks_like_anybody_else(cache: AsyncCache) -> None:
    """A task begun in a request inherits its context, and outlives it."""
    ended, started, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    asked: list[str] = []
    tasks: list[asyncio.Task[Any]] = []

    async def later() -> bytes:
        await ended.wait()
        return (await ask(wrapped, "/slow")).body

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        if scope["path"] == "/":
            tasks.append(asyncio.create_task(later()))
        else:
            started.set()
            await go_on.wait()
        await sending(send, b"%d" % len(asked))

    wrapped = HTTPCacheMiddleware(app, cache)
    await ask(wrapped)
    tasks.append(asyncio.create_task(_body(wrapped, "/slow")))
    await started.wait()
    ended.set()
    await asyncio.sleep(0.1)  # longer than a request made within another one waits
    go_on.set()
    assert await asyncio.gather(*tasks) == [b"2", b"2"]


async def _body(app: App, path: str) -> bytes:
    return (await ask(app, path)).body


# -- what middleware in front sees of the application


@pytest.mark.parametrize("status", [200, 304, 500])
async def test_middleware_in_front_sees_what_the_application_puts_into_its_scope(
    cache: AsyncCache, status: int
) -> None:
    """Also when the application is asked about a stored response, with fields that are not the client's."""
    seen: list[tuple[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = f"/{{number}} {len(seen)}"
        await sending(
            send, b"body", headers=STALE, status=status if (b"if-none-match", b'"1"') in scope["headers"] else 200
        )
        scope["after"] = len(seen)

    wrapped = HTTPCacheMiddleware(app, cache)

    async def in_front(scope: Any, receive: Any, send: Any) -> None:
        async def looking(message: Message) -> None:
            seen.append((message["type"], scope.get("route")))
            await send(message)

        headers = list(scope["headers"])
        await wrapped(scope, receive, looking)
        assert scope["headers"] == headers
        seen.append(("after", scope["after"]))

    for number in (0, 3):
        seen_before = len(seen)
        await ask(in_front)
        assert seen[seen_before:-1] == [(START, f"/{{number}} {number}"), (BODY, f"/{{number}} {number}")]
        assert seen[-1][0] == "after"


# -- cancellation


class Steps:
    """An application that notes how far it came."""

    def __init__(self, background: bool) -> None:
        self.log: list[str] = []
        self.background = background

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.go()
            await self.tell(send, {"type": START, "status": 200, "headers": FRESH})
            await self.tell(send, {"type": BODY, "body": b"one", "more_body": True})
            await self.go()
            await self.tell(send, {"type": BODY, "body": b"two"})
            if self.background:
                await self.go()
                self.log.append("done")
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise

    async def go(self) -> None:
        self.log.append("goes on")
        await asyncio.sleep(0)

    async def tell(self, send: Any, message: Message) -> None:
        await send(message)
        self.log.append("sent")


STEPS = ["goes on", "sent", "sent", "goes on", "sent", "goes on", "done"]
CANCELLED = [[*STEPS[:end], "cancelled"] for end in (1, 4, 6)]


async def cancelled_after(turns: int, app: App, path: str, how: str) -> tuple[bool, int]:
    """Cancel a request after so many turns of the loop: whether that ended it, and how many messages there were."""
    messages: list[Message] = []
    within, timeout = anyio.CancelScope(), asyncio.timeout(None)

    async def send(message: Message) -> None:
        messages.append(message)

    async def request() -> bool:
        ended = False
        with suppress(TimeoutError):
            async with timeout:
                with within:
                    await app(http_scope(path), None, send)  # type: ignore[arg-type]
                    ended = True
        await asyncio.sleep(0)
        return not ended

    task = asyncio.create_task(request())
    for _ in range(turns):
        await asyncio.sleep(0)
    if how == "scope":
        within.cancel()
    elif how == "timeout" and turns and not task.done():
        timeout.reschedule(0)
    else:
        task.cancel()
    await asyncio.wait({task})
    assert turns == 0 or how == "task" or not task.cancelled(), "the cancellation has left its scope"
    return task.cancelled() or task.result(), len(messages)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("how", ["task", "scope", "timeout"])
async def test_a_request_that_is_cancelled_at_any_step(wrap: Wrap, how: str, background: bool) -> None:
    """The application hears of it where it waits, never of a message that the client has; the next one fares well."""
    expected = [[], *CANCELLED[: 2 + background], STEPS[: 5 + 2 * background]]
    stories: list[list[str]] = []
    for turns in range(200):
        app = Steps(background)
        wrapped = wrap(app)
        cancelled, messages = await cancelled_after(turns, wrapped, f"/{turns}", how)
        assert app.log in expected
        assert app.log.count("sent") == messages
        stories.append([*app.log])
        async with asyncio.timeout(5):
            assert (await ask(wrapped, f"/{turns}")).body == b"onetwo"
        if not cancelled:
            break
    else:
        pytest.fail("it never came to its end")
    assert [story for story in expected if story not in stories] == [], "it was cancelled everywhere"


async def test_a_cancellation_that_is_never_waited_for(wrap: Wrap) -> None:
    """An application that cancels its own scope and answers at once is not cancelled: it waits for nothing."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        within.cancel()
        await sending(send, b"done")

    with anyio.CancelScope() as within:
        answer = await ask(wrap(app))
    assert answer.body == b"done"
    assert not within.cancelled_caught
    await asyncio.sleep(0)


# -- waiting for others


async def test_a_response_that_never_ends_keeps_nobody_waiting_for_ever(
    cache: AsyncCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that takes long to begin. Who has waited in vain a few times does not wait again."""
    monkeypatch.setattr("nearcache.http.answering._LONG", 0.01)
    arrived = asyncio.Queue[asyncio.Event]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stream":
            await send({"type": START, "status": 200, "headers": FRESH})
            await send({"type": BODY, "body": b"one", "more_body": True})
        event = asyncio.Event()
        arrived.put_nowait(event)
        await event.wait()

    wrapped = HTTPCacheMiddleware(app, cache, ttl=300)
    for path in ("/stream", "/poll"):
        tasks, events = [], []
        for _ in range(6):
            tasks.append(asyncio.create_task(ask(wrapped, path)))
            async with asyncio.timeout(5):
                events.append(await arrived.get())
        monkeypatch.setattr("nearcache.http.answering._LONG", 3600)
        tasks.append(asyncio.create_task(ask(wrapped, path)))
        async with asyncio.timeout(5):
            events.append(await arrived.get())
        for event in events:
            event.set()
        await asyncio.gather(*tasks)
        monkeypatch.setattr("nearcache.http.answering._LONG", 0.01)


async def test_what_was_shared_before_is_waited_for(cache: AsyncCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearcache.http.answering._LONG", 0.0)
    asked = 0
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        await go_on.wait()
        await sending(send, b"body")

    wrapped = HTTPCacheMiddleware(app, cache)
    go_on.set()
    await ask(wrapped)
    await wrapped.http_cache.purge("http://example.com/")
    go_on.clear()
    tasks = [asyncio.create_task(ask(wrapped)) for _ in range(5)]
    await asyncio.sleep(0.05)
    go_on.set()
    await asyncio.gather(*tasks)
    assert asked == 2
