"""The middlewares around bare ASGI applications, in process."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import StreamingResponse

from nearcache import (
    AsyncCache,
    ConnectionFailed,
    InvalidTTL,
    Settings,
    get_default_cache,
    get_multi_redis_connection_manager,
)
from nearcache.http import HTTPCacheMiddleware, RequestLogMiddleware
from nearcache.testing import FakeClock

from .conftest import Headers, Message, ask, http_scope, lifespan

START = "http.response.start"
BODY = "http.response.body"


class Origin:
    """An application that counts its requests and says which one it answers."""

    def __init__(self, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        self.requests = 0
        self.headers = list(headers)
        self.status = status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        await send({"type": START, "status": self.status, "headers": self.headers})
        await send({"type": BODY, "body": b"answer %d" % self.requests})


def scripted(*messages: Message | BaseException) -> Any:
    """An application that sends these messages, or raises, in order."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            if isinstance(message, BaseException):
                raise message
            await send(dict(message))

    return app


def own(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The fields that the application sent."""
    return [pair for pair in headers if pair[0] not in (b"age", b"cache-status", b"etag")]


async def is_stored(cache: AsyncCache, app: Any, path: str = "/") -> bool:
    """Whether the middleware would answer without this application."""
    origin = Origin()
    await ask(HTTPCacheMiddleware(origin, cache, ttl=300), path)
    return origin.requests == 0


# -- what is answered from the cache


async def test_the_second_request_is_answered_from_the_cache(cache: AsyncCache) -> None:
    headers = [(b"content-type", b"text/plain"), (b"x-double", b"1"), (b"x-double", b"2"), (b"content-length", b"8")]
    origin = Origin(*headers)
    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    answers = [await ask(app), await ask(app)]
    assert origin.requests == 1
    expected = (200, headers, b"answer 1")
    assert [(answer.status, own(answer.headers), answer.body) for answer in answers] == [expected] * 2
    assert [message["type"] for message in answers[1].messages] == [START, BODY]


async def test_urls_hosts_and_schemes_are_kept_apart(cache: AsyncCache) -> None:
    app = HTTPCacheMiddleware(Origin(), cache, ttl=300)
    requests: list[dict[str, Any]] = [
        {},
        {"path": "/b"},
        {"query_string": b"a=1"},
        {"scheme": "https"},
        {"root_path": "/app"},
        {"headers": [(b"host", b"other")]},
    ]
    bodies = [(await ask(app, **one)).body for one in requests]
    assert len(set(bodies)) == len(requests)
    assert [(await ask(app, **one)).body for one in requests] == bodies


async def test_a_host_cannot_pose_as_a_path(cache: AsyncCache) -> None:
    origin = Origin()
    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    for host, path in ((b"victim/a", "/b"), (b"victim", "/a/b")):
        await app(http_scope(path) | {"headers": [(b"host", host)]}, None, _nowhere)  # type: ignore[arg-type]
    assert origin.requests == 2


async def _nowhere(message: Message) -> None:
    pass


@pytest.mark.parametrize(
    ("control", "seconds"), [(b"", 300), (b"max-age=60", 60), (b"max-age=60, s-maxage=600", 600), (b"public", 300)]
)
async def test_how_long_it_is_kept(settings: Settings, control: bytes, seconds: int) -> None:
    clock = FakeClock()
    with clock:
        cache = AsyncCache(3600, "app")
        await cache.initialize(settings)
        origin = Origin((b"cache-control", control))
        app = HTTPCacheMiddleware(origin, cache, ttl=300)
        await ask(app)
        clock.advance(seconds - 1)
        assert (await ask(app)).body == b"answer 1"
        clock.advance(1)
        assert (await ask(app)).body == b"answer 2"


async def test_what_comes_from_the_cache_can_be_changed_by_middleware_in_front(cache: AsyncCache) -> None:
    inner = HTTPCacheMiddleware(Origin((b"x-a", b"1")), cache, ttl=300)

    async def adding(scope: Any, receive: Any, send: Any) -> None:
        async def changed(message: Message) -> None:
            if message["type"] == START:
                message["headers"].append((b"x-request", b"mine"))
            await send(message)

        await inner(scope, receive, changed)

    for _ in range(3):
        headers = own((await ask(adding)).headers)
        assert [pair for pair in headers if pair[0] != b"content-length"] == [(b"x-a", b"1"), (b"x-request", b"mine")]


async def test_a_streamed_response_compressed_in_front_is_kept_as_the_application_made_it(cache: AsyncCache) -> None:
    """``GZipMiddleware`` puts the compressed body into the very message the application sent."""

    async def numbers() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"%d," % number

    async def origin(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(numbers())(scope, receive, send)

    expected = b"".join([part async for part in numbers()])
    app = GZipMiddleware(HTTPCacheMiddleware(origin, cache, ttl=300))
    for _ in range(2):
        answer = await ask(app, headers=[(b"accept-encoding", b"gzip")])
        assert (b"content-encoding", b"gzip") in answer.headers
        assert gzip.decompress(answer.body) == expected
    plain = await ask(app)
    assert plain.body == expected
    assert await is_stored(cache, app)


async def test_a_hit_is_what_was_served_from_the_cache(cache: AsyncCache) -> None:
    app = HTTPCacheMiddleware(Origin((b"vary", b"accept-language")), cache, ttl=300)
    requests: list[tuple[list[tuple[bytes, bytes]], int, int]] = [
        ([], 0, 1),
        ([], 1, 0),
        ([(b"accept-language", b"de")], 0, 1),
        ([(b"accept-language", b"de")], 1, 0),
        ([(b"cache-control", b"no-cache")], 0, 1),
        ([(b"cookie", b"id=1")], 0, 0),
        ([(b"if-none-match", b"*")], 1, 0),
    ]
    for headers, hits, misses in requests:
        cache.reset_stats()
        await ask(app, headers=headers)
        stats = cache.get_stats()
        assert (stats.hits, stats.misses) == (hits, misses), headers


# -- what is not


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer a")],
        [(b"cookie", b"session=a")],
        [(b"x-api-key", b"a")],
        [(b"content-length", b"1")],
    ],
)
async def test_a_request_of_its_own_is_neither_answered_from_the_cache_nor_stored(
    cache: AsyncCache, headers: Headers
) -> None:
    origin = Origin()
    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    assert (await ask(app, headers=headers)).body == b"answer 1"
    assert (await ask(app)).body == b"answer 2"
    assert (await ask(app, headers=headers)).body == b"answer 3"
    assert (await ask(app)).body == b"answer 2"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
async def test_other_methods_reach_the_application(cache: AsyncCache, method: str) -> None:
    origin = Origin()
    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    await ask(app)
    for _ in range(2):
        await ask(app, method=method)
    await ask(app)
    assert origin.requests == 3


@pytest.mark.parametrize(
    "header",
    [
        (b"set-cookie", b"session=a"),
        (b"Set-Cookie", b"session=a"),
        (b"vary", b"*"),
        (b"cache-control", b"Private, max-age=60"),
        (b"cache-control", b"NO-STORE"),
        (b"expires", b"0"),
        (b"content-type", b"text/event-stream"),
    ],
)
async def test_a_response_for_one_user_is_not_stored(cache: AsyncCache, header: tuple[bytes, bytes]) -> None:
    origin = Origin(header)
    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    assert [(await ask(app)).body for _ in range(2)] == [b"answer 1", b"answer 2"]
    assert not await is_stored(cache, app)


@pytest.mark.parametrize("status", [201, 204, 206, 301, 304, 404, 500])
async def test_only_200_is_stored(cache: AsyncCache, status: int) -> None:
    app = HTTPCacheMiddleware(Origin(status=status), cache, ttl=300)
    assert (await ask(app)).status == status
    assert not await is_stored(cache, app)


async def test_a_response_with_a_session_is_not_stored(cache: AsyncCache) -> None:
    """A session middleware in front adds its cookie later: the response looks as if it were for everybody."""

    class Page:
        requests = 0

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.requests += 1
            scope["session"]["csrf"] = f"token {self.requests}"
            await send({"type": START, "status": 200, "headers": []})
            await send({"type": BODY, "body": scope["session"]["csrf"].encode()})

    app = HTTPCacheMiddleware(Page(), cache, ttl=300)
    assert [(await ask(app, session={})).body for _ in range(2)] == [b"token 1", b"token 2"]
    assert (await ask(app, session={"user": 1})).body == b"token 3"


async def test_a_user_is_not_served_from_the_cache(cache: AsyncCache) -> None:
    class User:
        is_authenticated = True

    origin = Origin()
    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    await ask(app)
    assert (await ask(app, user=User())).body == b"answer 2"


async def test_a_set_cookie_in_an_iterator_of_headers_is_seen(cache: AsyncCache) -> None:
    async def origin(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": iter([(b"set-cookie", b"a=b")])})
        await send({"type": BODY, "body": b"mine"})

    answer = await ask(HTTPCacheMiddleware(origin, cache, ttl=300))
    assert answer.headers == [(b"set-cookie", b"a=b")]
    assert not await is_stored(cache, origin)


OK = {"type": START, "status": 200, "headers": [(b"content-length", b"4")]}
STREAM = {"type": START, "status": 200, "headers": []}


@pytest.mark.parametrize(
    ("messages", "stored"),
    [
        ([OK, {"type": BODY, "body": b"full"}], True),
        ([{"type": START, "status": 200}, {"type": BODY}], True),
        ([STREAM, {"type": BODY, "body": b"a", "more_body": True}, {"type": BODY, "body": b"b"}], True),
        ([STREAM, {"type": BODY, "body": bytearray(b"a"), "more_body": False}], True),
        ([{"type": "http.response.debug", "info": {}}, OK, {"type": BODY, "body": b"full"}], True),
        ([OK, {"type": BODY, "body": b"cut"}], False),
        ([OK, {"type": BODY, "body": b"too long"}], False),
        ([OK, {"type": BODY, "body": b"full", "more_body": True}], False),
        ([OK], False),
        ([OK | {"trailers": True}, {"type": BODY, "body": b"full"}, {"type": "http.response.trailers"}], False),
        ([STREAM, {"type": "http.response.pathsend", "path": "/etc/hosts"}], False),
        ([STREAM, {"type": "http.response.zerocopysend", "file": 1}, {"type": BODY}], False),
        ([STREAM, {"type": BODY, "body": b"x" * 2**20, "more_body": True}, {"type": BODY, "body": b"x"}], False),
        ([STREAM, {"type": BODY, "body": b"x" * 2**20, "more_body": True}, {"type": BODY, "body": b""}], True),
    ],
)
async def test_only_a_whole_response_is_stored(cache: AsyncCache, messages: list[Message], stored: bool) -> None:
    app = HTTPCacheMiddleware(scripted(*messages), cache, ttl=300)
    sent = (await ask(app)).messages
    for message, expected in zip(sent, messages, strict=True):
        plain = {"headers": [], **message}
        assert {**plain, "headers": own(plain["headers"])} == {"headers": [], **expected}
    assert await is_stored(cache, app) is stored


async def test_an_exception_in_the_middle_is_the_applications(cache: AsyncCache) -> None:
    app = HTTPCacheMiddleware(scripted(STREAM, {"type": BODY, "more_body": True}, ZeroDivisionError()), cache, ttl=300)
    with pytest.raises(ZeroDivisionError):
        await ask(app)
    assert not await is_stored(cache, app)


async def test_an_exception_before_the_response_is_the_applications(cache: AsyncCache) -> None:
    app = HTTPCacheMiddleware(scripted(ZeroDivisionError()), cache, ttl=300)
    with pytest.raises(ZeroDivisionError):
        await ask(app)
    assert not await is_stored(cache, app)


async def test_an_exception_after_a_whole_response_is_still_the_applications(cache: AsyncCache) -> None:
    app = HTTPCacheMiddleware(scripted(OK, {"type": BODY, "body": b"full"}, ZeroDivisionError()), cache, ttl=300)
    with pytest.raises(ZeroDivisionError):
        await ask(app)
    assert await is_stored(cache, app)


async def test_what_runs_after_the_response_can_clear_it(cache: AsyncCache) -> None:
    """A background task that invalidates must not be overtaken by the entry it is about."""

    async def origin(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(STREAM))
        await send({"type": BODY, "body": b"old"})
        assert await cache.clear() == 1

    await ask(HTTPCacheMiddleware(origin, cache, ttl=300))
    assert not await is_stored(cache, origin)


async def test_a_body_that_its_request_did_not_tell_of_is_not_shared(cache: AsyncCache) -> None:
    """HTTP/2 needs no ``Content-Length``."""

    async def origin(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await send(dict(STREAM))
        await send({"type": BODY, "body": b"you asked for " + body})

    async def asking(body: bytes) -> bytes:
        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        return (await ask(app, receive=receive)).body

    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    assert [await asking(body) for body in (b"a", b"b")] == [b"you asked for a", b"you asked for b"]
    assert [await asking(body) for body in (b"", b"b")] == [b"you asked for "] * 2, "such a request is one without"


async def test_a_stream_is_passed_on_as_it_comes(cache: AsyncCache) -> None:
    arrived = asyncio.Event()

    async def origin(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(STREAM))
        await send({"type": BODY, "body": b"first", "more_body": True})
        await arrived.wait()  # for ever, if the middleware held the message back
        await send({"type": BODY, "body": b"last"})

    async def client(message: Message) -> None:
        if message.get("body") == b"first":
            arrived.set()

    assert (await ask(HTTPCacheMiddleware(origin, cache, ttl=300), send=client)).body == b"firstlast"


async def test_a_response_that_ends_early_because_the_client_left_is_not_stored(cache: AsyncCache) -> None:
    async def origin(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(STREAM))
        for number in range(10):
            if (await receive())["type"] == "http.disconnect":
                break
            await send({"type": BODY, "body": b"%d" % number, "more_body": True})
        await send({"type": BODY, "body": b""})

    messages = iter(["http.request", "http.request", "http.disconnect"])

    async def receive() -> Message:
        return {"type": next(messages)}

    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    assert (await ask(app, receive=receive)).body == b"01"
    assert not await is_stored(cache, app)


async def test_a_client_that_left_before_the_response_began(cache: AsyncCache) -> None:
    async def origin(scope: Any, receive: Any, send: Any) -> None:
        gone = (await receive())["type"] == "http.disconnect"
        await send(dict(STREAM))
        await send({"type": BODY, "body": b"short" if gone else b"everything"})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    await ask(app, receive=receive)
    assert not await is_stored(cache, app)


@pytest.mark.parametrize("failing", [START, BODY])
async def test_a_response_the_server_could_not_send_is_not_stored(cache: AsyncCache, failing: str) -> None:
    async def origin(scope: Any, receive: Any, send: Any) -> None:
        for message in (dict(STREAM), {"type": BODY, "body": b"a", "more_body": True}, {"type": BODY, "body": b"b"}):
            with suppress(OSError):
                await send(message)

    failures = [OSError("the client is gone")]

    async def broken(message: Message) -> None:
        if message["type"] == failing and failures:
            raise failures.pop()

    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    await ask(app, send=broken)
    assert not failures
    assert not await is_stored(cache, app)


async def test_a_cancelled_request_stores_nothing(cache: AsyncCache) -> None:
    begun = asyncio.Event()

    async def origin(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(STREAM))
        begun.set()
        await asyncio.Event().wait()

    app = HTTPCacheMiddleware(origin, cache, ttl=300)
    request = asyncio.create_task(ask(app))
    await begun.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert not await is_stored(cache, app)


async def test_websockets_pass(cache: AsyncCache) -> None:
    seen: list[Any] = []

    async def origin(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    given: Any = ({"type": "websocket", "path": "/", "headers": []}, object(), object())
    await HTTPCacheMiddleware(origin, cache, ttl=300)(*given)
    await RequestLogMiddleware(origin, cache)(*given)
    assert seen == [given, given]


# -- trouble with the cache


class Broken(AsyncCache):
    """A cache whose every operation raises."""

    error: Callable[[], Exception]

    async def get(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        raise self.error()

    async def set(self, *args: Any, **kwargs: Any) -> bool:
        raise self.error()


@pytest.mark.parametrize(
    ("error", "level"), [(ConnectionFailed("away"), "DEBUG"), (RuntimeError("a fault of ours"), "ERROR")]
)
async def test_a_broken_cache_is_not_the_applications_trouble(
    caplog: pytest.LogCaptureFixture, error: Exception, level: str
) -> None:
    caplog.set_level(logging.DEBUG, "nearcache.http")
    cache = Broken()
    cache.error = lambda: error
    assert (await ask(HTTPCacheMiddleware(Origin(), cache, ttl=300))).body == b"answer 1"
    assert [record.levelname for record in caplog.records] == [level]


async def test_a_cache_that_was_not_connected(caplog: pytest.LogCaptureFixture) -> None:
    origin = Origin()
    app = HTTPCacheMiddleware(origin, AsyncCache())
    for _ in range(2):
        await ask(app)
    assert origin.requests == 2
    assert not caplog.records


@pytest.mark.parametrize(
    "value", [None, "text", 7, [], {"a": 1}, (200, [], b"", b""), (200, [("a", 1)], 3), [200, 1, 2]]
)
async def test_an_entry_of_another_shape_is_a_miss(
    cache: AsyncCache, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearcache.http.asgi.primary_key", lambda scope, host: "route:taken")
    await cache.set("route:taken", value)
    assert (await ask(HTTPCacheMiddleware(Origin(), cache, ttl=300))).body == b"answer 1"


@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
def test_a_wrong_ttl_is_refused_at_once(ttl: float) -> None:
    with pytest.raises(InvalidTTL):
        HTTPCacheMiddleware(Origin(), ttl=ttl)


# -- the lifespan


class WithLifespan(Origin):
    """An application with a lifespan of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: list[tuple[str, bool]] = []
        self.fails = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await super().__call__(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            message = await receive()
            assert message["type"] == f"lifespan.{step}"
            self.ready.append((step, get_default_cache().is_ready()))
            if self.fails == step:
                raise ZeroDivisionError
            await send({"type": f"lifespan.{step}.complete"})


async def test_the_lifespan_connects_before_and_disconnects_after_the_application(settings: Settings) -> None:
    origin = WithLifespan()
    app = HTTPCacheMiddleware(origin, settings=settings, ttl=300)
    async with lifespan(app):
        assert [(await ask(app)).body for _ in range(2)] == [b"answer 1"] * 2
    assert origin.ready == [("startup", True), ("shutdown", True)]
    assert not get_default_cache().is_ready()


async def test_an_application_may_start_again(settings: Settings) -> None:
    app = HTTPCacheMiddleware(WithLifespan(), settings=settings, ttl=300)
    for _ in range(2):
        async with lifespan(app):
            assert (await ask(app)).body == b"answer 1"


async def test_a_request_after_the_lifespan_connects_again(settings: Settings) -> None:
    app = HTTPCacheMiddleware(WithLifespan(), settings=settings, ttl=300)
    async with lifespan(app):
        pass
    assert [(await ask(app)).body for _ in range(2)] == [b"answer 1"] * 2


@pytest.mark.parametrize("step", ["startup", "shutdown"])
async def test_an_application_that_dies_leaves_no_connection(settings: Settings, step: str) -> None:
    origin = WithLifespan()
    origin.fails = step
    with pytest.raises(ZeroDivisionError):
        async with lifespan(HTTPCacheMiddleware(origin, settings=settings, ttl=300)):
            assert step == "shutdown"
    assert not get_default_cache().is_ready()


async def test_what_keeps_it_from_connecting_fails_the_startup() -> None:
    """Told as the protocol says: a server that only sees an exception goes on without the application's lifespan."""

    async def connect() -> None:
        raise ConnectionFailed("the reason")

    origin = WithLifespan()
    app = HTTPCacheMiddleware(origin, connect=connect, ttl=300)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(ConnectionFailed):
        await app({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "the reason"}]
    assert origin.ready == []


async def test_an_application_without_lifespan_is_connected_by_its_first_request(settings: Settings) -> None:
    async def origin(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http", "no lifespan here"
        assert get_default_cache().is_ready()
        await send(dict(STREAM))
        await send({"type": BODY, "body": b"answer"})

    app = HTTPCacheMiddleware(origin, settings=settings, ttl=300)
    with pytest.raises(AssertionError, match="no lifespan here"):
        async with lifespan(app):
            pass
    await asyncio.gather(*(ask(app, method="POST") for _ in range(3)))
    await ask(app)
    assert await is_stored(get_default_cache(), app)


async def test_a_first_request_that_cannot_connect_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []

    async def connect() -> None:
        tries.append(1)
        raise ConnectionFailed("the reason")

    app = HTTPCacheMiddleware(Origin(), connect=connect, ttl=300)
    assert [(await ask(app)).body for _ in range(2)] == [b"answer 1", b"answer 2"]
    assert tries == [1]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_the_last_of_two_applications_disconnects(settings: Settings) -> None:
    one, other = (HTTPCacheMiddleware(WithLifespan(), settings=settings, ttl=300) for _ in range(2))
    async with lifespan(one):
        async with lifespan(other):
            pass
        assert get_default_cache().is_ready()
        assert [(await ask(one)).body for _ in range(2)] == [b"answer 1"] * 2
    assert not get_default_cache().is_ready()


async def test_a_cache_that_was_given_is_its_owners(cache: AsyncCache) -> None:
    origin = WithLifespan()
    async with lifespan(HTTPCacheMiddleware(origin, cache, ttl=300)):
        pass
    assert [step for step, _ in origin.ready] == ["startup", "shutdown"]
    assert cache.is_ready()


async def test_a_shutdown_that_cannot_disconnect_is_a_shutdown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = get_multi_redis_connection_manager()

    def broken() -> None:
        raise RuntimeError("a drain that fails")

    async with lifespan(HTTPCacheMiddleware(WithLifespan(), settings=settings, ttl=300)):
        manager.at_close(broken)
    assert "could not disconnect" in caplog.text


# -- the request log


async def test_a_request_is_one_line_with_its_fields(cache: AsyncCache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nearcache.http")
    app = RequestLogMiddleware(HTTPCacheMiddleware(Origin(), cache, ttl=300), cache)
    for _ in range(2):
        await ask(app, "/a\nb", query_string=b"q=1")
    first, second = caplog.records
    assert first.getMessage().startswith("GET /a%0Ab?q=1 200 ")
    assert second.getMessage().endswith(" ms, hit ratio 50.0 %")
    fields = vars(second)
    assert (fields["url"], fields["method"], fields["status"]) == ("/a\nb?q=1", "GET", 200)
    assert fields["duration"] > 0
    assert fields["cache_hit_ratio"] == 50.0
    assert fields["cache_stats"]["hits"] == 1


async def test_a_request_that_fails_is_logged_as_what_the_client_gets(
    cache: AsyncCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nearcache.http")
    with pytest.raises(ZeroDivisionError):
        await ask(RequestLogMiddleware(scripted(ZeroDivisionError()), cache))
    assert vars(caplog.records[0])["status"] == 500


async def test_the_log_without_a_cache_of_its_own_reports_the_default_one(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nearcache.http")
    await get_default_cache().initialize(settings)
    get_default_cache().reset_stats()
    await get_default_cache().get("nothing")
    await ask(RequestLogMiddleware(Origin()))
    assert vars(caplog.records[0])["cache_stats"]["misses"] == 1


@pytest.mark.parametrize("vary", [(), ((b"vary", b"accept-language"),)], ids=["alone", "one of several"])
async def test_small_responses_are_stored_as_they_are_and_large_ones_compressed(
    cache: AsyncCache, vary: Headers
) -> None:
    """Unpacking costs a hit more than its bytes do; of large ones the bytes count."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": [(b"cache-control", b"max-age=60"), *vary]})
        await send({"type": BODY, "body": b"x" * int(scope["path"][1:])})

    async def command(*words: Any) -> Any:
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        cache._core.client.link().post(words, waiter)
        return await waiter

    async def largest(size: int) -> int:
        """Bytes of the largest record of a response whose body has so many."""
        await ask(middleware, f"/{size}")
        _, keys = await command("SCAN", b"0", "MATCH", b"app:route::%d*" % size, "COUNT", 1000)
        return max([len(await command("GET", key)) for key in keys])

    middleware = HTTPCacheMiddleware(app, cache)
    assert await largest(6000) > 6000
    assert await largest(12_000) < 1000
