"""Applications behave behind the cache as they do without it, message by message and step by step.

Each story is told twice, of the application alone and of the same application behind the middleware; both must come
out the same, but for the fields that a cache adds to what it stores.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from http import HTTPStatus
from itertools import product
from typing import Any
from urllib.parse import quote

import anyio
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from nearcache import AsyncCache, Settings, get_multi_redis_connection_manager
from nearcache.http import HTTPCacheMiddleware
from nearcache.http.routes import CacheRules

from ..servers import free_port
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
    await get_multi_redis_connection_manager().disconnect_all()
    mine = asyncio.current_task()
    left = {task for task in asyncio.all_tasks() - before if task is not mine}
    if left:
        _, left = await asyncio.wait(left, timeout=2)
    gc.collect()
    await asyncio.sleep(0)
    assert not left
    assert not complaints


@pytest.fixture
def ways(cache: AsyncCache, settings: Settings) -> dict[str, Wrap]:
    """The ways an application can be behind the cache."""
    return {
        "as it is": lambda app: HTTPCacheMiddleware(app, cache),
        "with a ttl": lambda app: HTTPCacheMiddleware(app, cache, ttl=300),
        "twice": lambda app: HTTPCacheMiddleware(HTTPCacheMiddleware(app, cache, ttl=300), cache, ttl=300),
        "twice, two caches": lambda app: HTTPCacheMiddleware(
            HTTPCacheMiddleware(app, cache, ttl=300), AsyncCache(3600, "outer"), ttl=300
        ),
        "connecting by itself": lambda app: HTTPCacheMiddleware(app, settings=settings, ttl=300),
    }


@pytest.fixture(params=["as it is", "with a ttl", "twice", "twice, two caches", "connecting by itself"])
def wrap(request: pytest.FixtureRequest, ways: dict[str, Wrap]) -> Wrap:
    """Each of them."""
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


# -- loops


def without_a_loop(request: Coroutine[Any, Any, None]) -> None:
    """Carry out a request that waits for nothing; as trio would, there is no asyncio around it."""
    with pytest.raises(StopIteration):
        request.send(None)


@pytest.mark.parametrize(
    "scope", [http_scope(), http_scope(method="POST"), {"type": "lifespan"}, {"type": "websocket"}]
)
def test_without_asyncio_every_request_is_passed_through(scope: Any) -> None:
    """Without the fields that speak to the cache: these are nobody else's business."""
    sent: list[Message] = []
    headers = [(b"cache-control", b"max-age=60"), (b"cache-tag", b"a")]

    async def send(message: Message) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope is scope_given
        await sending(send, b"answer", headers=headers)

    for middleware in (HTTPCacheMiddleware(app, AsyncCache()), HTTPCacheMiddleware(app)):
        for _ in range(2):
            scope_given = scope
            without_a_loop(middleware(scope, None, send))  # type: ignore[arg-type]
    kept = headers[:1] if scope["type"] == "http" else headers
    answer = [{"type": START, "status": 200, "headers": kept}, {"type": BODY, "body": b"answer", "more_body": False}]
    assert sent == answer * 4


def test_a_loop_for_each_request(settings: Settings) -> None:
    """As starlette's test client has, without its context manager; and loops in threads, side by side."""
    asked = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.001)
        await sending(send, b"answer")

    wrapped = HTTPCacheMiddleware(app, settings=settings)
    for _ in range(3):
        assert asyncio.run(_body(wrapped, "/")) == b"answer"
    assert asked == 1

    async def many() -> list[bytes]:
        return await asyncio.gather(*(_body(wrapped, f"/{number}") for number in range(20)))

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(asyncio.run, many()) for _ in range(4)]
        assert [each.result(30) for each in running] == [[b"answer"] * 20] * 4
    assert asked <= 1 + 80


def test_a_loop_that_is_torn_down_while_the_application_answers(settings: Settings) -> None:
    """Nobody is there to be told, nothing fails in a corner, and the next loop's requests fare well."""
    begun: list[asyncio.Future[None]] = []
    complaints: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/head":
            await send({"type": START, "status": 200, "headers": SIZED})
        begun.append(asyncio.Future())
        if len(begun) == 1:
            await begun[0]
        await sending(send, b"answer")

    async def until_begun() -> None:
        while not begun:  # noqa: ASYNC110  # a loop that is about to end
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)

    async def never(message: Message) -> None:
        await asyncio.Future()

    async def soon(path: str) -> bytes:
        async with asyncio.timeout(10):
            return await _body(wrapped, path)

    wrapped = HTTPCacheMiddleware(app, settings=settings)
    for path in ("/", "/head"):
        begun.clear()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        request = loop.create_task(ask(wrapped, path, send=never))
        loop.run_until_complete(until_begun())
        loop.close()
        del request, loop
        gc.collect()
        assert asyncio.run(soon(path)) == b"answer"
        gc.collect()
    assert set(complaints) == {"Task was destroyed but it is pending!"}


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


async def test_nothing_is_sent_after_a_cancellation(cache: AsyncCache) -> None:
    """The start of a response is held for a moment: until its body is there, or the application waits."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        messages.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": SIZED})
        await asyncio.Future()

    for turns in range(50):
        messages.clear()
        request = asyncio.create_task(HTTPCacheMiddleware(app, cache)(http_scope(f"/{turns}"), None, send))  # type: ignore[arg-type]
        for _ in range(turns):
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait({request})
        sent = len(messages)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(messages) == sent
    assert messages[0]["type"] == START


async def test_a_response_that_the_client_did_not_get_is_not_stored(cache: AsyncCache) -> None:
    """Whatever the application makes of it, and whichever message it was."""
    asked = 0

    async def broken(message: Message) -> None:
        if message["type"] == lost:
            raise OSError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        CacheRules(etag=etag).apply()
        for message in (told("start", status=200, headers=headers), told("body", body=b"four", more_body=more)):
            with suppress(OSError):
                await send(message)
            if waits:
                await asyncio.sleep(0.001)
        if more:
            await send(told("body"))

    wrapped = HTTPCacheMiddleware(app, cache)
    number = 0
    for lost, headers, etag, more, waits in product((START, BODY), (FRESH, SIZED, STALE), *[(False, True)] * 3):
        asked, number = 0, number + 1
        await ask(HTTPCacheMiddleware(suppressing(app), cache), f"/{number}", send=broken)
        assert (await ask(wrapped, f"/{number}")).body == b"four"
        assert asked == 2, (lost, headers, etag, more, waits)


def suppressing(app: App) -> App:
    async def suppressed(scope: Any, receive: Any, send: Any) -> None:
        with suppress(OSError):
            await app(scope, receive, send)

    return suppressed


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


# -- the same messages, in the same order


class Client:
    """A client, and the server between: what both sides see, in order."""

    def __init__(self, incoming: list[Message]) -> None:
        self.log: list[Any] = []
        self.got = asyncio.Condition()
        self._incoming = [*incoming]
        self.messages: list[Message] = []

    async def receive(self) -> Message:
        if self._incoming:
            return self._incoming.pop(0)
        return await asyncio.Future()

    async def send(self, message: Message) -> None:
        shown = dict(message)
        if message["type"] == START:
            shown["headers"] = [tuple(map(bytes, pair)) for pair in message.get("headers", ()) if pair[0] not in OURS]
        if "body" in shown:
            shown["body"] = bytes(shown["body"])
        self.log.append(shown)
        async with self.got:
            self.messages.append(shown)
            self.got.notify_all()

    async def has(self, number: int) -> None:
        """Wait until the client has so many messages."""
        async with asyncio.timeout(2), self.got:
            await self.got.wait_for(lambda: len(self.messages) >= number)


Story = Callable[[Any, Any, Any, Client], Any]


def told(message: str, **more: Any) -> Message:
    return {"type": f"http.response.{message}", **more}


def messages(*sent: Message) -> Story:
    async def app(scope: Any, receive: Any, send: Any, client: Client) -> None:
        for message in sent:
            await send(message if "headers" in message and callable(message["headers"]) else dict(message))

    return app


async def one_by_one(scope: Any, receive: Any, send: Any, client: Client) -> None:
    """Every message has come before the next one is made."""
    await send(told("start", status=200, headers=[*FRESH, (b"content-length", b"6")]))
    await client.has(1)
    for number in range(3):
        await send(told("body", body=b"%02d" % number, more_body=number < 2))
        await client.has(2 + number)
    client.log.append("background")


async def reads_its_request(scope: Any, receive: Any, send: Any, client: Client) -> None:
    body = []
    while (message := await receive())["type"] == "http.request":
        body.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    client.log.append(body)
    await sending(send, *body)


async def sees_the_client_leave(scope: Any, receive: Any, send: Any, client: Client) -> None:
    await send(told("start", status=200, headers=FRESH))
    client.log.append([(await receive())["type"] for _ in range(2)])
    await send(told("body", body=b"bye"))


async def fails_at_once(scope: Any, receive: Any, send: Any, client: Client) -> None:
    raise ZeroDivisionError


async def fails_after_the_start(scope: Any, receive: Any, send: Any, client: Client) -> None:
    await send(told("start", status=200, headers=SIZED))
    raise ZeroDivisionError


async def fails_in_the_middle(scope: Any, receive: Any, send: Any, client: Client) -> None:
    await send(told("start", status=200, headers=FRESH))
    await send(told("body", body=b"a", more_body=True))
    raise ZeroDivisionError


async def fails_at_the_end(scope: Any, receive: Any, send: Any, client: Client) -> None:
    await sending(send, b"whole")
    client.log.append("background")
    raise ExceptionGroup("several", [ZeroDivisionError()])


async def says_nothing(scope: Any, receive: Any, send: Any, client: Client) -> None:
    client.log.append("says nothing")


async def only_starts(scope: Any, receive: Any, send: Any, client: Client) -> None:
    await send(told("start", status=200, headers=SIZED))


async def a_generator_is_closed(scope: Any, receive: Any, send: Any, client: Client) -> None:
    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            yield b"two"
        finally:
            client.log.append("closed")

    await send(told("start", status=200, headers=FRESH))
    generator = parts()
    async for part in generator:
        await send(told("body", body=part, more_body=True))
        break
    await generator.aclose()  # type: ignore[attr-defined]
    await send(told("body"))


async def sends_from_other_tasks(scope: Any, receive: Any, send: Any, client: Client) -> None:
    async with anyio.create_task_group() as group:
        client.log.append(type(asyncio.current_task()).__name__)
        group.start_soon(send, told("start", status=200, headers=FRESH))
        await client.has(1)
        group.start_soon(send, told("body", body=b"one"))


async def is_asked_by_its_own_middleware(scope: Any, receive: Any, send: Any, client: Client) -> None:
    async def page(request: Any) -> Any:
        return StreamingResponse(iter([b"a", b"b"]), headers={"cache-control": "max-age=60"})

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-dispatched"] = "yes"
        return response

    await BaseHTTPMiddleware(Route("/", page), dispatch)(scope, receive, send)


async def has_an_etag_made_and_sends_a_file(scope: Any, receive: Any, send: Any, client: Client) -> None:
    CacheRules(etag=True).apply()
    await send(told("start", status=200, headers=[]))
    await send(told("pathsend", path="/a"))


async def has_an_etag_made_and_ends_with_trailers(scope: Any, receive: Any, send: Any, client: Client) -> None:
    CacheRules(etag=True).apply()
    await send(told("start", **TRAILERS))
    await client.has(1)
    await send(told("body", body=b"a"))
    await send(told("trailers", headers=[]))


class Bytes(bytes):
    """A subclass, as some frameworks have."""


TRAILERS = {"status": 200, "headers": [*FRESH, (b"trailer", b"x-sum")], "trailers": True}
STORIES: dict[str, Story] = {
    "streamed": messages(
        told("start", status=200, headers=FRESH), *[told("body", body=b"a", more_body=True)] * 3, told("body")
    ),
    "one by one": one_by_one,
    "with an etag of its own": messages(told("start", status=200, headers=STALE), told("body", body=b"a")),
    "without headers": messages(told("start", status=200), told("body")),
    "headers as lists": messages(told("start", status=200, headers=[[b"Cache-Control", b"max-age=9"]]), told("body")),
    "headers as a tuple": messages(told("start", status=200, headers=((b"X-A", b"1"), (b"x-a", b"2"))), told("body")),
    "headers of subclasses": messages(told("start", status=200, headers=[(Bytes(b"x-a"), Bytes(b"1"))]), told("body")),
    "a status of a kind": messages(told("start", status=HTTPStatus.OK, headers=SIZED), told("body", body=b"full")),
    "bytes of a kind": messages(told("start", status=200, headers=FRESH), told("body", body=Bytes(b"full"))),
    "a bytearray": messages(told("start", status=200, headers=FRESH), told("body", body=bytearray(b"full"))),
    "a memoryview": messages(told("start", status=200, headers=FRESH), told("body", body=memoryview(b"full"))),
    "trailers": messages(
        told("start", **TRAILERS),
        told("body", body=b"a"),
        told("trailers", headers=[(b"x-sum", b"1")], more_trailers=False),
    ),
    "a hint before": messages(
        told("early_hint", links=[b"</a>"]), told("start", status=200, headers=FRESH), told("body")
    ),
    "a push between": messages(
        told("start", status=200, headers=SIZED), told("push", path="/a", headers=[]), told("body", body=b"full")
    ),
    "debug": messages(
        told("debug", info={"a": object}), told("start", status=200, headers=SIZED), told("body", body=b"full")
    ),
    "a path": messages(told("start", status=200, headers=SIZED), told("pathsend", path="/a")),
    "a file": messages(told("start", status=200, headers=SIZED), told("zerocopysend", file=1, count=4), told("body")),
    "events": messages(
        told("start", status=200, headers=[*FRESH, (b"content-type", b"text/event-stream")]),
        told("body", body=b"data: 1\n\n", more_body=True),
        told("body", body=b"data: 2\n\n", more_body=True),
    ),
    "no content": messages(told("start", status=204, headers=FRESH), told("body")),
    "not modified": messages(told("start", status=304, headers=FRESH), told("body")),
    "early hints": messages(
        told("start", status=103, headers=[]), told("start", status=200, headers=FRESH), told("body", body=b"a")
    ),
    "not found": messages(told("start", status=404, headers=SIZED), told("body", body=b"gone")),
    "over the limit": messages(
        told("start", status=200, headers=FRESH),
        told("body", body=b"x" * 2**20, more_body=True),
        told("body", body=b"x"),
    ),
    "too short": messages(told("start", status=200, headers=SIZED), told("body", body=b"cut")),
    "reads its request": reads_its_request,
    "sees the client leave": sees_the_client_leave,
    "fails at once": fails_at_once,
    "fails after the start": fails_after_the_start,
    "fails in the middle": fails_in_the_middle,
    "fails at the end": fails_at_the_end,
    "says nothing": says_nothing,
    "only starts": only_starts,
    "a generator is closed": a_generator_is_closed,
    "sends from other tasks": sends_from_other_tasks,
    "has an etag made and sends a file": has_an_etag_made_and_sends_a_file,
    "has an etag made and ends with trailers": has_an_etag_made_and_ends_with_trailers,
    "is asked by its own middleware": is_asked_by_its_own_middleware,
}
REQUESTS: dict[str, dict[str, Any]] = {
    "GET": {},
    "GET with a body": {"headers": [(b"content-length", b"4")]},
    "GET if modified": {"headers": [(b"if-none-match", b'"x"')]},
    "GET of a part": {"headers": [(b"range", b"bytes=0-0")]},
    "GET with a cookie": {"headers": [(b"cookie", b"a=b")]},
    **{method: {"method": method} for method in ("HEAD", "OPTIONS", "POST", "DELETE", "PROPFIND")},
}


async def tell(story: Story, wrap: Wrap, **scope: Any) -> list[Any]:
    """What happens when an application with this story is asked."""
    parts = [{"body": b"bo", "more_body": True}, {"body": b"dy"}]
    client = Client([*({"type": "http.request", **part} for part in parts), {"type": "http.disconnect"}])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.log.append({name: value for name, value in scope.items() if name != "state"})
        await story(scope, receive, send, client)

    try:
        async with asyncio.timeout(10):
            await wrap(app)(http_scope(**scope), client.receive, client.send)
    except Exception as error:  # noqa: BLE001  # whatever it raised
        client.log.append(repr(error))
    return client.log


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
async def test_the_first_answer_is_the_same(ways: dict[str, Wrap], story: Story) -> None:
    for name, asked in REQUESTS.items():
        for way, wrap in ways.items():
            path = quote(f"/{name}/{way}")
            alone = await tell(story, lambda app: app, path=path, **asked)
            assert await tell(story, wrap, path=path, **asked) == alone, f"{name}, {way}"


PLAIN = ["a status of a kind", "headers of subclasses", "bytes of a kind", "a bytearray", "a memoryview", "not found"]


@pytest.mark.parametrize("name", PLAIN)
async def test_the_second_answer_is_the_same_too(url: str, name: str) -> None:
    """From a server, as another process reads it."""
    settings = Settings(redis_url=url, queue_redis_url=url, _env_file=None)
    answers: list[Any] = []
    for client in ("cache", "queue"):
        cache = AsyncCache(3600, "app", client)
        await cache.initialize(settings)
        log = await tell(STORIES[name], lambda app: HTTPCacheMiddleware(app, cache, ttl=300))  # noqa: B023
        answers.append([event for event in log if event.get("type") in (START, BODY)])
    first, second = answers
    assert len(log) == 2, "the application is not asked again"
    added = [pair for pair in second[0]["headers"] if pair not in first[0]["headers"]]
    assert added in ([], [(b"content-length", b"%d" % len(second[1].get("body", b"")))])
    assert second[0]["status"] == first[0]["status"]
    assert type(second[0]["status"]) is int
    assert second[1].get("body", b"") == first[1].get("body", b"")


# -- what is around an application


@pytest.mark.parametrize("kind", ["websocket", "webtransport", "lifespan"])
async def test_what_is_not_http_is_none_of_its_business(cache: AsyncCache, kind: str) -> None:
    calls: list[Any] = []

    async def app(*call: Any) -> None:
        calls.append(call)
        raise LookupError

    given = {"type": kind, "extensions": {"websocket.http.response": {}}}, object(), object()
    with pytest.raises(LookupError):
        await HTTPCacheMiddleware(app, cache)(*given)  # type: ignore[arg-type]
    assert all(one is other for one, other in zip(calls[0], given, strict=True))


async def test_extensions_and_all_else_in_the_scope_are_the_servers(wrap: Wrap) -> None:
    extensions: dict[str, Any] = {"tls": {"server_cert": None}, "http.response.pathsend": {}, "http.response.debug": {}}
    state: dict[str, Any] = {"a": 1}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope is seen[0]
        assert scope["extensions"] is extensions
        assert scope["state"] is state
        assert asyncio.current_task() is task
        state["b"] = 2
        variable.set("of the application")
        await sending(send, b"answer")

    async def in_front(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await wrapped(scope, receive, send)
        assert variable.get() == "of the application"

    seen: list[Any] = []
    wrapped = wrap(app)
    variable = ContextVar("variable", default="")
    task = asyncio.current_task()
    before = http_scope(state=state, extensions=extensions, client=("a", 1), server=None)
    await ask(in_front, state=state, extensions=extensions, client=("a", 1), server=None)
    assert seen == [before]
    assert state == {"a": 1, "b": 2}


class Unready:
    """What Django's middleware puts into a scope before it knows who is asking."""

    def __bool__(self) -> bool:
        raise ValueError("accessed before it is ready")

    @property
    def is_authenticated(self) -> bool:
        raise LookupError


@pytest.mark.parametrize("name", ["user", "session"])
async def test_a_user_who_is_not_known_yet(cache: AsyncCache, name: str) -> None:
    """Nobody's answer is shared that may be somebody's."""
    asked = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        await sending(send, b"mine")

    for _ in range(2):
        assert (await ask(HTTPCacheMiddleware(app, cache, ttl=300), **{name: Unready()})).body == b"mine"
    assert asked == 2


async def test_request_fields_that_can_be_read_once(wrap: Wrap) -> None:
    fields = [(b"host", b"example.com"), (b"accept", b"text/plain")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert [*scope["headers"]] == fields
        await sending(send, b"answer")

    async def in_front(scope: Any, receive: Any, send: Any) -> None:
        await wrapped({**scope, "headers": iter(fields)}, receive, send)

    wrapped = wrap(app)
    assert (await ask(in_front)).body == b"answer"


def build(log: list[str], *, inside: bool, outside: bool, wrap: Wrap) -> App:
    """A starlette application with tasks in the background, and middleware that runs it in a task of its own."""

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        log.append(f"route {request.scope.get('route')!r:.5}, {request.scope.get('path_params')}")
        return response

    def later(name: str) -> BackgroundTask:
        async def run() -> None:
            log.append(f"{name} begins")
            await asyncio.sleep(0)
            log.append(f"{name} ends")

        return BackgroundTask(run)

    async def parts() -> AsyncIterator[bytes]:
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield b"%d" % number
        finally:
            log.append("closed")

    async def page(request: Any) -> Any:
        variable.set(request.path_params["name"])
        return PlainTextResponse("page", headers={"cache-control": "max-age=60"}, background=later("page"))

    async def stream(request: Any) -> Any:
        return StreamingResponse(parts(), headers={"cache-control": "max-age=60"}, background=later("stream"))

    async def fails(request: Any) -> Any:
        raise ZeroDivisionError

    variable = ContextVar("variable", default="")
    routes = [Route("/page/{name}", page), Route("/stream/{name}", stream), Route("/fails/{name}", fails)]
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=dispatch)] if inside else []
    app: App = wrap(Starlette(routes=routes, middleware=middleware))
    mounted = Starlette(routes=[Mount("/sub", app)])
    if outside:
        mounted.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    return wrap(mounted)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("outside", [False, True])
async def test_a_framework_with_its_middleware(wrap: Wrap, inside: bool, outside: bool) -> None:
    """The application is behind the cache, and so is the one it is mounted in."""
    for path in ("/sub/page/a", "/sub/stream/a", "/sub/fails/a", "/sub/missing", "/sub/page"):
        results = []
        for way in (lambda app: app, wrap):
            log: list[str] = []
            client = Client([{"type": "http.request"}])
            try:
                await build(log, inside=inside, outside=outside, wrap=way)(
                    http_scope(path), client.receive, client.send
                )
            except Exception as error:  # noqa: BLE001  # whatever it raised
                log.append(repr(error))
            results.append((log, client.log))
        assert results[0] == results[1]


# -- servers


REQUEST = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def uvicorn_serves(app: Any) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        await serving


@asynccontextmanager
async def hypercorn_serves(app: Any) -> AsyncIterator[int]:
    hypercorn = pytest.importorskip("hypercorn.asyncio")
    config = importlib.import_module("hypercorn.config").Config()
    config.bind = [f"127.0.0.1:{(port := free_port())}"]
    config.errorlog = None
    ended = asyncio.Event()
    serving = asyncio.create_task(hypercorn.serve(app, config, shutdown_trigger=ended.wait))
    yield port
    ended.set()
    await serving


@asynccontextmanager
async def granian_serves(app: Any) -> AsyncIterator[int]:
    granian = pytest.importorskip("granian.server.embed")
    port = free_port()
    server = granian.Server(app, port=port, interface="asgi", log_enabled=False)
    serving = asyncio.create_task(server.serve())
    yield port
    server.stop()
    await serving


@pytest.mark.parametrize(
    "serves", [uvicorn_serves, hypercorn_serves, granian_serves], ids=["uvicorn", "hypercorn", "granian"]
)
async def test_behind_a_server(settings: Settings, serves: Any) -> None:
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        asked.append(scope["path"])
        if scope["path"] == "/fails":
            raise ZeroDivisionError
        parts = [b"a" * 100_000, b"b"] if scope["path"] == "/stream" else [b"whole"]
        await sending(send, *parts)

    async def get(path: str) -> bytes:
        async with asyncio.timeout(10):
            while True:
                with suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                await asyncio.sleep(0.02)
        writer.write(REQUEST % path.encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async with serves(HTTPCacheMiddleware(app, settings=settings)) as port:
        for path in ("page", "stream", "fails"):
            first, second = [await get(path) for _ in range(2)]
            if path == "fails":
                assert b" 500 " in first[:20]
                assert b" 500 " in second[:20]
            else:
                assert b"; hit; ttl=" in second
                assert first.count(b"a" * 1000) == second.count(b"a" * 1000)
    assert asked == ["/page", "/stream", "/fails", "/fails"]
