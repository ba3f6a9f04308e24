"""What routes say of their responses, and how responses are purged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from httpx2 import ASGITransport, AsyncClient

from nearcache import AsyncCache, InvalidArgument, InvalidTTL, Settings
from nearcache.http import HTTPCache, HTTPCacheMiddleware, cached_response
from nearcache.http.fastapi import CachedResponse
from nearcache.testing import FakeClock

URL = "http://test"


@pytest.fixture
def time() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
async def cache(time: FakeClock, settings: Settings) -> AsyncCache:
    cache = AsyncCache(3600, "app")
    await cache.initialize(settings)
    return cache


class Site:
    """A FastAPI application behind the cache, its visitors, and how often each route was asked."""

    def __init__(self, cache: AsyncCache) -> None:
        self.app = FastAPI()
        self.calls: dict[str, int] = {}
        self.middleware = HTTPCacheMiddleware(self.app, cache)
        self.purge = self.middleware.http_cache.purge
        self.client = AsyncClient(transport=ASGITransport(self.middleware), base_url=URL)

    def count(self, name: str) -> int:
        self.calls[name] = self.calls.get(name, 0) + 1
        return self.calls[name]

    async def settled(self) -> None:
        """Wait for what is fetched behind."""
        await asyncio.gather(*self.middleware.background)

    async def get(self, path: str, **headers: str) -> Any:
        answer = await self.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return answer.json()


@pytest.fixture
async def site(cache: AsyncCache) -> AsyncIterator[Site]:
    site = Site(cache)
    async with site.client:
        yield site


# -- @cached_response and the dependency


@pytest.mark.parametrize("kind", ["async", "sync", "dependency"])
async def test_a_route_is_cached_for_its_ttl(site: Site, time: FakeClock, kind: str) -> None:
    if kind == "async":

        @site.app.get("/page")
        @cached_response(ttl=60)
        async def page() -> int:
            return site.count("page")

    elif kind == "sync":

        @site.app.get("/page")
        @cached_response(ttl=60)
        def _page() -> int:
            return site.count("page")

    else:

        @site.app.get("/page", dependencies=[Depends(CachedResponse(ttl=60))])
        async def _other() -> int:
            return site.count("page")

    assert [await site.get("/page"), await site.get("/page")] == [1, 1]
    time.advance(60)
    assert await site.get("/page") == 2


async def test_the_first_answer_has_the_etag_that_the_second_is_asked_for(site: Site) -> None:
    @site.app.get("/page")
    @cached_response(ttl=60)
    async def page() -> int:
        return site.count("page")

    first = await site.client.get("/page")
    again = await site.client.get("/page", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, site.calls["page"]) == (304, b"", 1)
    assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize("directive", ["no-store", "private"])
async def test_what_the_response_forbids_counts_more(site: Site, directive: str) -> None:
    @site.app.get("/page")
    @cached_response(ttl=60)
    async def page(response: Response) -> int:
        response.headers["cache-control"] = directive
        return site.count("page")

    assert [await site.get("/page"), await site.get("/page")] == [1, 2]


async def test_an_error_is_not_cached_for_the_ttl_of_its_route(site: Site) -> None:
    @site.app.get("/page")
    @cached_response(ttl=60)
    async def page() -> int:
        if site.count("page") == 1:
            raise HTTPException(503)
        return 1

    assert (await site.client.get("/page")).status_code == 503
    assert await site.get("/page") == 1


async def test_a_user_that_is_told_apart_by_credentials(site: Site) -> None:
    @site.app.get("/me")
    @cached_response(ttl=60, per_user=True)
    async def me(request: Request) -> str:
        return f"{request.headers.get('cookie')} {site.count('me')}"

    for _ in range(2):
        assert await site.get("/me", cookie="id=anna") == "id=anna 1"
        assert await site.get("/me", cookie="id=bert") == "id=bert 2"
        assert await site.get("/me") == "None 3"
    answer = await site.client.get("/me", headers={"cookie": "id=anna"})
    assert answer.headers["cache-control"] == "private", "for the caches between"


def user_of(scope: Any) -> str | None:
    cookie = dict(scope["headers"]).get(b"cookie", b"").decode()
    return cookie.rpartition("user=")[2] or None


async def test_a_function_that_names_the_user(site: Site) -> None:
    @site.app.get("/me")
    @cached_response(ttl=60, per_user=user_of)
    async def me(request: Request) -> int:
        return site.count("me")

    assert await site.get("/me", cookie="tracker=1; user=anna") == 1
    assert await site.get("/me", cookie="tracker=2; user=anna") == 1
    assert await site.get("/me", cookie="tracker=1; user=bert") == 2
    assert [await site.get("/me"), await site.get("/me")] == [3, 4], "None is not cached"


async def test_the_same_for_all_users(site: Site) -> None:
    @site.app.get("/news")
    @cached_response(ttl=60, per_user=False)
    async def news() -> int:
        return site.count("news")

    assert [await site.get("/news", cookie=f"id={user}") for user in "abc"] == [1, 1, 1]
    assert await site.get("/news", authorization="Bearer x") == 1


async def test_without_a_word_about_users_their_requests_pass(site: Site) -> None:
    @site.app.get("/news")
    @cached_response(ttl=60)
    async def news() -> int:
        return site.count("news")

    assert await site.get("/news") == 1
    assert [await site.get("/news", cookie="id=a") for _ in range(5)] == [2, 3, 4, 5, 6]
    assert await site.get("/news") == 1


def plan_of(scope: Any) -> str:
    return "gold" if b"gold" in dict(scope["headers"]).get(b"x-plan", b"") else "basic"


async def test_vary_and_key(site: Site) -> None:
    @site.app.get("/page")
    @cached_response(ttl=60, vary=["Accept-Language"], key=plan_of)
    async def page() -> int:
        return site.count("page")

    for _ in range(2):
        assert await site.get("/page", accept_language="de") == 1
        assert await site.get("/page", accept_language="fr") == 2
        assert await site.get("/page", accept_language="fr", x_plan="my gold") == 3
    answer = await site.client.get("/page", headers={"accept-language": "de"})
    assert answer.headers["vary"] == "accept-language"


async def test_a_key_does_not_say_whose_a_response_is(site: Site) -> None:
    @site.app.get("/page")
    @cached_response(ttl=60, key=plan_of)
    async def page() -> int:
        return site.count("page")

    assert [await site.get("/page"), await site.get("/page")] == [1, 1]
    assert [await site.get("/page", cookie=f"id={user}") for user in "ab"] == [2, 3]
    assert [await site.get("/page", authorization=user) for user in "ab"] == [4, 5]


async def test_defaults_of_a_router(site: Site, time: FakeClock) -> None:
    router = APIRouter(prefix="/api", dependencies=[Depends(CachedResponse(ttl=60, tags=["api"]))])

    @router.get("/usual")
    async def usual() -> int:
        return site.count("usual")

    @router.get("/short")
    @cached_response(ttl=5, tags=["short"])
    async def short() -> int:
        return site.count("short")

    @router.get("/never")
    async def never(response: Response) -> int:
        response.headers["cache-control"] = "no-store"
        return site.count("never")

    site.app.include_router(router)
    for path in ("usual", "short", "never"):
        assert await site.get(f"/api/{path}") == 1
    time.advance(6)
    assert [await site.get(f"/api/{path}") for path in ("usual", "short", "never")] == [1, 2, 2]
    await site.purge(tags=["short"])
    assert [await site.get(f"/api/{path}") for path in ("usual", "short")] == [1, 3]
    await site.purge(tags=["api"])
    assert [await site.get(f"/api/{path}") for path in ("usual", "short")] == [2, 4]


async def test_openapi_does_not_change() -> None:
    def described(cached: bool) -> dict[str, Any]:
        app = FastAPI(dependencies=[Depends(CachedResponse(ttl=60))] if cached else [])

        async def item(number: int, q: str = "") -> dict[str, int]:
            """An item."""
            return {"number": number}

        app.get("/items/{number}")(cached_response(ttl=60, per_user=True)(item) if cached else item)
        return app.openapi()

    assert described(cached=True) == described(cached=False)


async def test_stale_while_it_is_fetched_anew(site: Site, time: FakeClock) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @site.app.get("/page")
    @cached_response(ttl=10, stale_while_revalidate=30)
    async def page() -> int:
        number = site.count("page")
        if number == 2:
            begun.set()
            await go_on.wait()
        return number

    assert await site.get("/page") == 1
    time.advance(15)
    assert [await site.get("/page") for _ in range(3)] == [1, 1, 1]
    await begun.wait()
    assert await site.get("/page") == 1
    go_on.set()
    await site.settled()
    assert (await site.get("/page"), site.calls["page"]) == (2, 2)
    time.advance(41)
    assert await site.get("/page") == 3, "too old to be served"


@pytest.mark.parametrize("how", ["status", "exception"])
async def test_stale_instead_of_an_error(site: Site, time: FakeClock, how: str) -> None:
    broken = False

    @site.app.get("/page")
    @cached_response(ttl=10, stale_if_error=100)
    async def page() -> int:
        site.count("page")
        if broken and how == "status":
            raise HTTPException(502)
        return 1 // (not broken)

    assert await site.get("/page") == 1
    broken = True
    time.advance(20)
    assert [await site.get("/page") for _ in range(3)] == [1, 1, 1]
    assert site.calls["page"] == 2, "what fails is not asked at once again"
    time.advance(2)
    assert await site.get("/page") == 1
    assert site.calls["page"] == 3
    broken = False
    time.advance(2)
    assert await site.get("/page") == 1
    time.advance(111)
    broken = True
    if how == "status":
        assert (await site.client.get("/page")).status_code == 502
    else:
        with pytest.raises(ZeroDivisionError):
            await site.get("/page")


async def test_conditional_requests_of_a_route_that_is_not_cached(site: Site) -> None:
    @site.app.get("/page")
    @cached_response(etag=True)
    async def page(response: Response) -> str:
        response.headers["cache-control"] = "no-store"
        site.count("page")
        return "content"

    @site.app.get("/stream")
    @cached_response(etag=True)
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b"]))

    first = await site.client.get("/page")
    again = await site.client.get("/page", headers={"if-none-match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content, site.calls["page"]) == (304, b"", 2)
    assert "content-length" not in again.headers
    other = await site.client.get("/page", headers={"if-none-match": '"other"'})
    assert (other.status_code, other.json()) == (200, "content")
    assert "etag" not in (await site.client.get("/stream")).headers


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": 0}, InvalidTTL),
        ({"stale_if_error": -1}, InvalidTTL),
        ({"tags": "one"}, InvalidArgument),
        ({"vary": "accept"}, InvalidArgument),
        ({"vary": ["accept\r\nset-cookie: a=b"]}, InvalidArgument),
        ({"vary": ["*"]}, InvalidArgument),
        ({"key": "user"}, InvalidArgument),
        ({"per_user": "anna"}, InvalidArgument),
    ],
)
def test_what_cannot_be_said(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        cached_response(**options)


def test_two_functions_of_one_name_are_refused() -> None:
    def make(plan: str) -> Any:
        def plan_name(scope: Any) -> str:
            return plan

        return plan_name

    cached_response(ttl=1, key=make("a"))
    with pytest.raises(InvalidArgument, match="plan_name"):
        cached_response(ttl=1, key=make("b"))


# -- purging


@pytest.fixture
def pages(site: Site) -> Site:
    @site.app.get("/{path:path}")
    async def page(path: str, response: Response) -> str:
        response.headers["cache-control"] = "max-age=600"
        response.headers["cache-tag"] = f"all, {path.partition('/')[0]}"
        response.headers["surrogate-key"] = "everything else"
        if path.startswith("vary"):
            response.headers["vary"] = "accept-language"
        return f"{path} {site.count(path)}"

    return site


async def visit(site: Site, *paths: str) -> list[str]:
    return [(await site.get(path)).rpartition(" ")[2] for path in paths]


async def test_tags_of_responses_are_read_and_go_no_further(pages: Site) -> None:
    for _ in range(2):
        answer = await pages.client.get("/users/7")
        assert not {"cache-tag", "surrogate-key"} & set(answer.headers)
    await visit(pages, "/items/7")
    await pages.purge(tags=["users"])
    assert await visit(pages, "/users/7", "/items/7") == ["2", "1"]
    await pages.purge(tags=["else"])
    assert await visit(pages, "/users/7", "/items/7") == ["3", "2"]


async def test_a_url_is_purged_with_all_its_variants(pages: Site) -> None:
    for language in ("de", "fr"):
        await pages.get("/vary/1?a=b%20c", accept_language=language)
    await visit(pages, "/vary/1", "/vary/2")
    assert await pages.purge(f"{URL}/vary/1?a=b%20c") == 1
    assert await visit(pages, "/vary/1", "/vary/2") == ["3", "1"]
    assert (await pages.get("/vary/1?a=b%20c", accept_language="de")).endswith(" 4")
    assert (await pages.get("/vary/1?a=b%20c", accept_language="fr")).endswith(" 5")


async def test_a_path_is_purged_for_every_host(pages: Site) -> None:
    for host in ("a.example", "b.example"):
        await pages.get("/x/1", host=host)
    await visit(pages, "/x/10", "/x/1?q=1")
    assert await pages.purge("/x/1") == 2
    assert (await pages.get("/x/1", host="a.example")).endswith(" 4")
    assert await visit(pages, "/x/10", "/x/1?q=1") == ["1", "3"]


async def test_a_prefix_of_paths_is_purged(pages: Site) -> None:
    await visit(pages, "/users/7", "/users/77", "/users/7/posts", "/users/7/a b", "/items/7")
    assert await pages.purge(prefix="/users/7/") == 2
    paths = ("/users/7", "/users/77", "/users/7/posts", "/users/7/a b", "/items/7")
    assert await visit(pages, *paths) == ["1", "1", "2", "2", "1"]
    assert await pages.purge(prefix="/nothing") == 0


async def test_a_purge_stops_what_is_being_made(site: Site) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @site.app.get("/slow")
    @cached_response(ttl=60)
    async def slow() -> int:
        number = site.count("slow")
        begun.set()
        await go_on.wait()
        return number

    for purge in ({"url": f"{URL}/slow"}, {"url": "/slow"}, {"prefix": "/sl"}):
        request = asyncio.create_task(site.get("/slow"))
        await begun.wait()
        await site.purge(**purge)
        go_on.set()
        made = await request
        assert await site.get("/slow") == made + 1, "what was begun before the purge is not kept"
        await site.purge(f"{URL}/slow")
        begun.clear()
        go_on.clear()


async def test_another_process_purges_as_well(pages: Site, cache: AsyncCache) -> None:
    await visit(pages, "/users/7")
    await HTTPCache(cache).purge(f"{URL}/users/7")
    assert await visit(pages, "/users/7") == ["2"]


@pytest.mark.parametrize(
    "what", [{}, {"url": "/a", "prefix": "/b"}, {"prefix": "users"}, {"url": "users/7"}, {"tags": "users"}]
)
async def test_what_cannot_be_purged(pages: Site, what: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        await pages.purge(**what)
