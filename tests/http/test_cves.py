"""What went wrong in the caches of others: one test for each CVE."""

from __future__ import annotations

import os
import tempfile
from itertools import combinations
from pathlib import Path

import pytest

from nearcache.http.requests import url_key

from .conftest import Site

FRESH = "cache-control: max-age=60"


@pytest.mark.parametrize("vary", ["*", "* ", "\t*", "accept, *", "*, accept", "accept,*"])
async def test_cve_2026_6907_a_response_with_vary_asterisk_was_stored(site: Site, vary: str) -> None:
    """It matches no request, not even the next one of the same client."""
    site.says("cache-control: public, max-age=60", f"vary: {vary}")
    assert not await site.reuses("accept: a")


async def test_cve_2026_6907_also_beside_another_vary(site: Site) -> None:
    """On whichever line."""
    site.says("cache-control: public, max-age=60", "vary: accept", "vary: *")
    assert not await site.reuses("accept: a")


async def test_cve_2026_35192_a_session_was_fixed_through_a_cached_public_page(site: Site) -> None:
    """An application that saves its session with every response sets the cookie on public pages, too."""
    site.says("cache-control: public, max-age=60, s-maxage=60", "set-cookie: sessionid=first")
    assert (await site.get()).field("set-cookie") == b"sessionid=first"
    site.says("cache-control: public, max-age=60, s-maxage=60", "set-cookie: sessionid=second")
    for request in ((), ("cookie: sessionid=x",)):
        got = await site.get(*request)
        assert (got.asked, got.field("set-cookie")) == (True, b"sessionid=second")


@pytest.mark.parametrize("control", ["Private", "PRIVATE", "No-Store", "NO-STORE", "max-age=60, nO-sToRe", "No-Cache"])
@pytest.mark.parametrize("name", ["Cache-Control", "CACHE-CONTROL", "cache-control"])
async def test_cve_2026_8404_cache_control_was_compared_with_case(site: Site, name: str, control: str) -> None:
    """Directives have no case, nor have field names."""
    site.says(f"{name}: max-age=60", f"{name}: {control}")
    assert not await site.reuses()


@pytest.mark.parametrize("vary", [(), ("vary: accept",)])
async def test_cve_2026_35193_a_response_to_a_request_with_authorization_was_stored(
    site: Site, vary: tuple[str, ...]
) -> None:
    """Without a Vary it was everybody's."""
    site.says(FRESH, *vary, body=b"alice's")
    await site.get("Authorization: Basic YTpi")
    site.says(FRESH, *vary, body=b"for all")
    assert (await site.get()).body == b"for all"
    site.says(FRESH, *vary, body=b"bob's")
    assert (await site.get("authorization: Basic Yjpi")).body == b"bob's"


@pytest.mark.parametrize(
    "vary", [" cookie", "cookie ", "accept , cookie", "accept,\tcookie", "accept,  cookie ,", "Cookie"]
)
async def test_cve_2026_48587_white_space_hid_a_name_in_vary(site: Site, vary: str) -> None:
    """Names are what is between the spaces."""
    site.says(FRESH, f"vary: {vary}", body=b"alice's")
    await site.get("cookie: alice", "accept: a")
    site.says(FRESH, f"vary: {vary}", body=b"bob's")
    assert (await site.get("cookie: bob", "accept: a")).body == b"bob's"
    assert (await site.get("cookie: alice", "accept: a")).body == b"alice's"


@pytest.mark.parametrize("vary", [(), ("vary: cookie",), ("vary: accept",)])
async def test_cve_2026_48588_set_cookie_was_stored_when_the_request_had_another_cookie(
    site: Site, vary: tuple[str, ...]
) -> None:
    """Whatever cookies a request has: what sets one is for this client alone."""
    site.says("cache-control: public, max-age=60", "Set-Cookie: session=alice", *vary)
    await site.get("cookie: consent=yes")
    site.says(FRESH, *vary)
    for request in (("cookie: consent=yes",), ("cookie: consent=no",), ()):
        assert (await site.get(*request)).field("set-cookie") is None


async def test_cve_2026_113593_an_absent_field_and_an_empty_one_had_the_same_key(site: Site) -> None:
    """Absent is not empty, in whichever order they come."""
    site.says(FRESH, "vary: x-tenant", body=b"absent")
    await site.get()
    site.says(FRESH, "vary: x-tenant", body=b"empty")
    assert (await site.get("x-tenant:")).body == b"empty"
    assert (await site.get("x-tenant: ")).body == b"empty"
    site.says(FRESH, "vary: x-tenant", body=b"dash")
    assert (await site.get("x-tenant: -")).body == b"dash"
    assert (await site.get()).body == b"absent"
    assert (await site.get("x-tenant:")).body == b"empty"


async def test_cve_2026_25674_cached_files_could_be_read_by_others(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses are in the server and in memory: no files, no permissions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.umask(0)
    try:
        site.says(FRESH, body=b"x" * 100_000)
        assert await site.reuses()
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == []


def test_cve_2020_13254_malformed_keys_collided() -> None:
    """Control characters, spaces, slashes, dots, escapes of ours: different URLs have different keys of plain text."""
    odd = [
        "/",
        "//",
        "/a b",
        "/a+b",
        "/a%20b",
        "/a\nb",
        "/a\r\nb",
        "/a\0b",
        "/a.b",
        "/a.20b",
        "/a:b",
        "/a.-b",
        "/a.3Ab",
    ]
    odd += ["/a/b", "/a%2Fb", "/é", "/e\u0301", "/\udcc3\udca9", "/" + "a" * 300, "/" + "a" * 301, "/A", "/a"]
    urls = [(path, query, host) for path in odd for query in (b"", b"a=b", b".-") for host in (b"one", b"two")]
    urls += [("/a", b"", b"one.-two"), ("/a", b"one", b""), ("/a", b"", b""), ("/a.-one", b"", b"")]
    keys = {url: url_key(url[0], None, url[1], url[2], "http") for url in urls}
    for one, other in combinations(urls, 2):
        assert keys[one] != keys[other], (one, other)
    assert all(key.isascii() and key.isprintable() and " " not in key for key in keys.values())


@pytest.mark.parametrize("agent", ["Mozilla/4.0 (compatible; MSIE 6.0)", "Mozilla/5.0 (chromeframe)", "curl/8"])
async def test_cve_2014_1418_vary_and_cache_control_were_dropped_for_some_browsers(site: Site, agent: str) -> None:
    """Private data became everybody's: what a response says counts whoever asked for it."""
    request = ("user-agent: " + agent, "cookie: alice")
    site.says("cache-control: private, max-age=60", "vary: cookie")
    assert not await site.reuses(*request)
    site.says(FRESH, "vary: cookie", body=b"alice's")
    got = await site.get(*request, path="/b")
    assert (got.field("vary"), got.field("cache-control")) == (b"cookie", b"max-age=60")
    site.says(FRESH, "vary: cookie", body=b"bob's")
    assert (await site.get("user-agent: " + agent, "cookie: bob", path="/b")).body == b"bob's"


@pytest.mark.parametrize("control", ["no-store", "no-cache", "no-store, max-age=60", "no-cache, max-age=60", "private"])
async def test_ticket_36560_no_store_and_no_cache_were_stored(site: Site, control: str) -> None:
    """Neither is answered from the cache."""
    site.says(f"cache-control: {control}", "last-modified: Mon, 01 Dec 2025 00:00:00 GMT", 'etag: "a"')
    assert not await site.reuses()
