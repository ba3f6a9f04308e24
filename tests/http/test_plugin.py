"""One line in a FastAPI or Starlette application, against a real server and in memory."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

import pytest
import uvicorn
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response, WebSocket
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from uvicorn.lifespan.on import LifespanOn

from nearcache import (
    InvalidTTL,
    NotInitialized,
    Settings,
    SettingsConflict,
    get_default_cache,
    get_multi_redis_connection_manager,
    get_session_cache,
)
from nearcache.http import RequestLogMiddleware, cache_plugin
from nearcache.http.fastapi import ApiCache, SessionCache, get_api_cache
from nearcache.http.fastapi import get_session_cache as get_session_cache_dependency

from ..servers import ValkeyServer
from .conftest import ask, lifespan

Counts = dict[str, int]


@pytest.fixture(params=["server", "memory"])
def settings(request: pytest.FixtureRequest) -> Settings:
    url = f"memory://{uuid4().hex}" if request.param == "memory" else request.getfixturevalue("url")
    return Settings(redis_url=url, _env_file=None)


def counted(counts: Counts, name: str) -> int:
    counts[name] = counts.get(name, 0) + 1
    return counts[name]


def starlette_app(settings: Settings, counts: Counts) -> Starlette:
    async def page(request: Request) -> Response:
        return JSONResponse({"count": counted(counts, request.url.path)})

    app = Starlette(routes=[Route("/page", page), Route("/other/{name}", page)])
    cache_plugin(app, settings)
    return app


def fastapi_app(settings: Settings, counts: Counts) -> FastAPI:
    app = FastAPI()

    @app.get("/page")
    def page(request: Request) -> dict[str, int]:
        return {"count": counted(counts, request.url.path)}

    @app.get("/other/{name}")
    async def other(request: Request, name: str) -> dict[str, int]:
        return {"count": counted(counts, request.url.path)}

    cache_plugin(app, settings)  # after the routes
    return app


@pytest.fixture(params=[starlette_app, fastapi_app])
def make_app(request: pytest.FixtureRequest) -> Callable[[Settings, Counts], Starlette]:
    return request.param


async def test_one_line_caches_an_application(
    make_app: Callable[[Settings, Counts], Starlette], settings: Settings
) -> None:
    counts: Counts = {}
    app = make_app(settings, counts)
    with TestClient(app) as client:
        first, second = client.get("/page"), client.get("/page")
        assert first.json() == second.json() == {"count": 1}
        assert "stored" in first.headers["cache-status"]
        assert "hit" in second.headers["cache-status"]
        assert {**first.headers, "cache-status": "", "age": "0"} == {**second.headers, "cache-status": ""}
        assert client.get("/other/a").json() == client.get("/other/b").json() == {"count": 1}
        assert client.get("/page", params={"q": "1"}).json() == {"count": 2}
        assert client.get("/page", headers={"authorization": "Bearer x"}).json() == {"count": 3}
        assert client.get("/page", headers={"cookie": "a=b"}).json() == {"count": 4}
        assert client.get("/page", headers={"host": "other.example"}).json() == {"count": 5}
        assert client.get("/nothing").status_code == 404
    assert counts == {"/page": 5, "/other/a": 1, "/other/b": 1}


async def test_responses_are_in_the_api_cache_under_route(url: str, server: ValkeyServer) -> None:
    with TestClient(starlette_app(Settings(redis_url=url, _env_file=None), {})) as client:
        client.get("/page")
        (key,) = server.command("KEYS", "app:route:*")
        assert server.command("PTTL", key) in range(295_000, 300_001)
    assert server.command("KEYS", "*page*", db=1) == []


async def test_the_state_has_the_caches_ready_for_the_applications_own_lifespan(settings: Settings) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        assert app.state.api_cache is app.state.cache is get_default_cache()
        assert app.state.session_cache is get_session_cache()
        await app.state.api_cache.set("warm", 1)
        await app.state.session_cache.set("warm", 2)
        events.append("startup")
        yield {"given": "state"}
        assert await app.state.api_cache.get("warm") == 1
        assert await app.state.session_cache.get("warm") == 2
        events.append("shutdown")

    async def page(request: Request) -> Response:
        return JSONResponse([request.state.given, await request.app.state.api_cache.get("warm")])

    app = Starlette(routes=[Route("/page", page)], lifespan=own)
    cache_plugin(app, settings)
    with TestClient(app) as client:
        assert client.get("/page").json() == ["state", 1]
        assert events == ["startup"]
    assert events == ["startup", "shutdown"]
    with pytest.raises(NotInitialized):
        await app.state.api_cache.get("warm")


async def test_an_application_can_start_again(
    make_app: Callable[[Settings, Counts], Starlette], settings: Settings
) -> None:
    counts: Counts = {}
    app = make_app(settings, counts)
    for _ in range(2):
        with TestClient(app) as client:
            client.get("/page")
            assert app.state.api_cache.is_ready()
        assert not app.state.api_cache.is_ready()
    assert counts == {"/page": 1}


async def test_without_a_lifespan_the_first_request_connects(settings: Settings) -> None:
    """``TestClient`` without ``with``; it runs every request on an event loop of its own."""
    app = FastAPI()
    cache_plugin(app, settings)

    @app.put("/session/{key}")
    async def put(key: str, cache: SessionCache) -> bool:
        return await cache.set(key, "value")

    @app.get("/session/{key}")
    async def get(key: str, cache: SessionCache) -> Any:
        return await cache.get(key)

    client = TestClient(app)
    assert client.put("/session/a").json() is True
    assert client.get("/session/a").json() == "value"
    await app.state.api_cache.clear()
    assert client.get("/session/a").json() == "value"


async def test_a_mounted_application_has_no_lifespan_of_its_own(settings: Settings) -> None:
    counts: Counts = {}
    app = Starlette(routes=[Mount("/sub", starlette_app(settings, counts))])
    with TestClient(app) as client:
        assert [client.get("/sub/page").json() for _ in range(2)] == [{"count": 1}] * 2


async def test_two_applications_share_the_clients_and_the_last_one_closes_them(settings: Settings) -> None:
    one, other = starlette_app(settings, {}), fastapi_app(settings, {})
    async with lifespan(one):
        async with lifespan(other):
            await ask(one, "/page", [(b"host", b"one")])
        assert get_multi_redis_connection_manager().get_connection_status("cache").connected
        assert await one.state.api_cache.set("key", 1)
    assert not get_multi_redis_connection_manager().get_connection_status("cache").connected


async def test_two_applications_with_different_servers(settings: Settings) -> None:
    """One process has one API cache: the second application is told, and does not start."""
    second = starlette_app(Settings(redis_url="memory://another", _env_file=None), {})
    async with lifespan(starlette_app(settings, {})):
        with pytest.raises(SettingsConflict):
            async with lifespan(second):
                pass


async def test_dependencies(settings: Settings) -> None:
    app = FastAPI()
    cache_plugin(app, settings)

    @app.get("/users/{user_id}")
    async def user(user_id: str, cache: ApiCache, sessions: SessionCache) -> dict[str, Any]:
        async def load() -> str:
            return f"user {user_id}"

        return {"user": await cache.get_or_set(f"user:{user_id}", load), "same": cache is sessions}

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, cache: ApiCache) -> None:
        await websocket.accept()
        await websocket.send_json(await cache.get("user:7"))
        await websocket.close()

    with TestClient(app) as client:
        assert client.get("/users/7").json() == {"user": "user 7", "same": False}
        with client.websocket_connect("/socket") as session:
            assert session.receive_json() == "user 7"
        parameters = client.get("/openapi.json").json()["paths"]["/users/{user_id}"]["get"]["parameters"]
        assert [parameter["name"] for parameter in parameters] == ["user_id"]


def test_dependencies_do_not_cost_a_thread() -> None:
    assert inspect.iscoroutinefunction(get_api_cache)
    assert inspect.iscoroutinefunction(get_session_cache_dependency)


def test_a_dependency_without_the_plugin_says_what_to_call() -> None:
    app = FastAPI()

    @app.get("/")
    async def page(cache: ApiCache) -> None: ...

    with pytest.raises(NotInitialized, match=r"cache_plugin\(app\)"):
        TestClient(app).get("/")


RATES: list[str] = []


@get_default_cache().cached(key="rate:{currency}")
async def exchange_rate(currency: str) -> float:
    RATES.append(currency)
    return 1.5


async def test_a_decorated_function_is_a_route_and_a_dependency(settings: Settings) -> None:
    app = FastAPI()
    cache_plugin(app, settings)
    RATES.clear()

    @app.post("/prices/{item}")
    @get_default_cache().cached(key="price:{item}:{rate}")
    async def price(item: str, rate: Annotated[float, Depends(exchange_rate)]) -> dict[str, Any]:
        RATES.append(item)
        return {"item": item, "rate": rate}

    with TestClient(app) as client:
        for _ in range(2):
            assert client.post("/prices/tea?currency=EUR").json() == {"item": "tea", "rate": 1.5}
    assert RATES == ["EUR", "tea"]


async def test_what_a_route_says_decides(settings: Settings) -> None:
    app = FastAPI()
    counts: Counts = {}
    says = {
        "private": {"cache-control": "private, max-age=60"},
        "no-store": {"Cache-Control": "no-store"},
        "cookie": {"set-cookie": "session=a"},
        "vary": {"vary": "x-tenant"},
        "shared": {"cache-control": "public, s-maxage=60"},
    }

    @app.get("/{name}")
    async def page(name: str, response: Response) -> int:
        response.headers.update(says[name])
        return counted(counts, name)

    cache_plugin(app, settings)
    with TestClient(app) as client:
        for name in says:
            for _ in range(2):
                client.get(f"/{name}")
                client.cookies.clear()
    assert counts == {"private": 2, "no-store": 2, "cookie": 2, "vary": 1, "shared": 1}


async def test_credentials_in_a_header_of_an_api(settings: Settings) -> None:
    app = FastAPI()

    @app.get("/me")
    async def me(x_api_key: Annotated[str | None, Header()] = None) -> str:
        if x_api_key is None:
            raise HTTPException(401)
        return f"secret of {x_api_key}"

    cache_plugin(app, settings)
    with TestClient(app) as client:
        assert client.get("/me", headers={"x-api-key": "anna"}).json() == "secret of anna"
        assert client.get("/me", headers={"x-api-key": "bert"}).json() == "secret of bert"
        assert client.get("/me").status_code == 401


async def test_head_stream_file_and_background(settings: Settings, tmp_path: Any) -> None:
    app = FastAPI()
    counts: Counts = {}
    file = tmp_path / "file.txt"
    file.write_text("content of a file")

    @app.get("/file")
    async def a_file() -> FileResponse:
        counted(counts, "file")
        return FileResponse(file)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        def parts() -> Iterator[str]:
            yield from "abc"

        counted(counts, "stream")
        return StreamingResponse(parts(), media_type="text/plain")

    @app.get("/events")
    async def events() -> StreamingResponse:
        counted(counts, "events")
        return StreamingResponse(iter(["data: 1\n\n"]), media_type="text/event-stream")

    @app.api_route("/page", methods=["GET", "HEAD"])
    async def page(tasks: BackgroundTasks) -> str:
        tasks.add_task(counted, counts, "background")
        return "page"

    cache_plugin(app, settings)
    with TestClient(app) as client:
        for _ in range(2):
            assert client.get("/file").text == "content of a file"
            assert client.get("/file", headers={"range": "bytes=0-6"}).text == "content"
            assert client.get("/stream").text == "abc"
            assert client.get("/events").text == "data: 1\n\n"
            assert client.get("/page").json() == "page"
            assert client.head("/page").content == b""
            assert client.head("/page").headers["content-length"] == "6"
    # The second of every kind, a part of the file, and HEAD are answered from the cache.
    assert counts == {"file": 1, "stream": 1, "events": 2, "background": 1}


@pytest.mark.parametrize("first", [True, False])
async def test_with_gzip_and_cors(settings: Settings, first: bool) -> None:
    """Whichever side of the cache they are on, every client gets what it asked for."""
    app = FastAPI()
    get_default_cache().reset_stats()

    @app.get("/page")
    async def page() -> str:
        return "text " * 500

    if first:
        cache_plugin(app, settings)
    app.add_middleware(GZipMiddleware)
    app.add_middleware(CORSMiddleware, allow_origins=["https://a", "https://b"])
    if not first:
        cache_plugin(app, settings)
    with TestClient(app) as client:
        for _ in range(2):
            for origin in ("https://a", "https://b", "https://evil", None):
                for encoding in ("gzip", "identity"):
                    headers = {"accept-encoding": encoding} | ({"origin": origin} if origin else {})
                    response = client.get("/page", headers=headers)
                    assert response.json() == "text " * 500
                    allowed = origin if origin in {"https://a", "https://b"} else None
                    assert response.headers.get("access-control-allow-origin") == allowed
                    assert response.headers.get("content-encoding") == ("gzip" if encoding == "gzip" else None)
    if first:
        assert app.state.api_cache.get_stats().hits > 0


async def test_the_request_log_reports_the_cache(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    app = starlette_app(settings, {})
    app.add_middleware(RequestLogMiddleware)
    get_default_cache().reset_stats()
    with caplog.at_level("INFO", "nearcache.http"), TestClient(app) as client:
        for _ in range(2):
            client.get("/page")
    lines = [record.getMessage() for record in caplog.records if record.name == "nearcache.http"]
    assert [line.rpartition(" ms, ")[2] for line in lines] == ["hit ratio 0.0 %", "hit ratio 50.0 %"]


async def test_a_server_that_is_away_does_not_keep_the_application_from_working(fresh_server: ValkeyServer) -> None:
    settings = Settings(redis_url=fresh_server.url, _env_file=None)
    fresh_server.kill()
    counts: Counts = {}
    app = fastapi_app(settings, counts)
    async with lifespan(app):
        assert [(await ask(app, "/page")).status for _ in range(3)] == [200] * 3
        assert counts == {"/page": 3}
        fresh_server.start()
        async with asyncio.timeout(20):
            while not await app.state.api_cache.set("up", True):  # noqa: ASYNC110 - the server sends no event
                await asyncio.sleep(0.02)
        for _ in range(2):
            await ask(app, "/page")
        assert counts == {"/page": 4}
        fresh_server.kill()
        assert [(await ask(app, "/page")).body for _ in range(2)] == [b'{"count":4}'] * 2, "near"
        assert [(await ask(app, "/other/new")).body for _ in range(2)] == [b'{"count":1}', b'{"count":2}']


async def test_many_requests_at_once_against_a_hung_server_are_all_answered(fresh_server: ValkeyServer) -> None:
    settings = Settings(redis_url=fresh_server.url, command_timeout=0.2, _env_file=None)
    app = starlette_app(settings, {})
    async with lifespan(app):
        fresh_server.pause()
        answers = await asyncio.gather(*(ask(app, f"/other/{number}") for number in range(50)))
        assert [answer.body for answer in answers] == [b'{"count":1}'] * 50
        fresh_server.resume()


def test_an_application_that_runs_cannot_get_the_plugin(settings: Settings) -> None:
    app = FastAPI()
    TestClient(app).get("/")
    with pytest.raises(RuntimeError, match="after an application has started"):
        cache_plugin(app, settings)
    assert not hasattr(app.state, "cache")


def test_a_wrong_ttl_is_refused_where_it_is_written(settings: Settings) -> None:
    with pytest.raises(InvalidTTL):
        cache_plugin(FastAPI(), settings, ttl=0)


async def test_a_router_with_prefixes_and_parameters(settings: Settings) -> None:
    """Encoded and plain spellings of a path are what the application says they are."""
    app = FastAPI()
    router = APIRouter(prefix="/v1")

    @router.get("/items/{name}")
    async def item(name: str) -> str:
        return name

    @router.get("/items/{name}/{part}")
    async def part(name: str, part: str) -> list[str]:
        return [name, part]

    app.include_router(router)
    cache_plugin(app, settings)
    with TestClient(app) as client:
        for _ in range(2):
            assert client.get("/v1/items/a%20b").json() == "a b"
            assert client.get("/v1/items/a%3Fb").json() == "a?b"
            assert client.get("/v1/items/a?b").json() == "a"
            assert client.get("/v1/items/a/b").json() == ["a", "b"]
            assert client.get("/v1/items/%C3%A9").json() == "é"


# -- a real server


async def test_bad_settings_keep_the_server_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn goes on without the application's lifespan when all it sees is an exception."""
    monkeypatch.setenv("REDIS_PORT", "many")
    app = FastAPI()
    cache_plugin(app)
    server = LifespanOn(uvicorn.Config(app, lifespan="auto", log_config=None))
    await server.startup()
    assert server.should_exit


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[tuple[str, int]]:
    """The application behind uvicorn; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        yield listening.getsockname()
        server.should_exit = True
        await serving


async def test_a_client_that_hangs_up_spoils_nothing(settings: Settings) -> None:
    requests: list[asyncio.Event] = []

    async def polite(scope: Any, receive: Any, send: Any) -> None:
        """Ends its response properly, and early, when the client has left."""
        go_on = asyncio.Event()
        requests.append(go_on)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await receive()
        left, told = asyncio.create_task(receive()), asyncio.create_task(go_on.wait())
        await asyncio.wait({left, told}, return_when=asyncio.FIRST_COMPLETED)
        await send({"type": "http.response.body", "body": b"" if left.done() else b"last"})
        left.cancel()
        go_on.set()
        await told

    app = Starlette(routes=[Mount("/slow", polite)])
    cache_plugin(app, settings)
    async with served(app) as (host, port):

        async def begin() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /slow/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await reader.readuntil(b"first ")
            return reader, writer

        reader, writer = await begin()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(10):
            await requests[0].wait()
        for _ in range(2):
            reader, writer = await begin()
            requests[-1].set()
            assert b"last" in await reader.read()
            writer.close()
            await writer.wait_closed()
    assert len(requests) == 2
