"""RFC 9213: Cache-Control that is meant for some caches: ``CDN-Cache-Control``, and this cache's own."""

from __future__ import annotations

import pytest

from nearcache.http.fields import targeted

from .conftest import Site

CDN = "cdn-cache-control"
OWN = "nearcache-cache-control"


@pytest.mark.parametrize("field", [CDN, OWN, "CDN-Cache-Control"])
async def test_2_1_a_targeted_field_silences_cache_control_and_expires(site: Site, field: str) -> None:
    """MUST ignore Cache-Control, Expires and Pragma when there is a valid targeted field."""
    site.says("cache-control: no-store, private, max-age=1", "expires: 0", f"{field}: max-age=60")
    assert await site.reuses()
    site.clock.advance(59)
    assert not (await site.get()).asked
    site.clock.advance(1)
    assert (await site.get()).asked


@pytest.mark.parametrize("said", ["no-store", "private", "max-age=0", "no-cache", "max-age=60, no-store"])
async def test_2_1_also_when_it_is_stricter(site: Site, said: str) -> None:
    """It is the only one that counts."""
    site.says("cache-control: max-age=60", f"expires: {site.date(60)}", f"{CDN}: {said}")
    assert not await site.reuses()


async def test_2_1_the_first_field_of_the_list_counts(site: Site) -> None:
    """The target list: this cache's own field, then that of all CDNs."""
    site.says(f"{CDN}: max-age=1", f"{OWN}: max-age=60")
    await site.get()
    site.clock.advance(50)
    assert not (await site.get()).asked


async def test_2_1_a_lifetime_is_not_taken_from_elsewhere(site: Site) -> None:
    """A valid field without a lifetime leaves none."""
    site.says("cache-control: max-age=60", f"expires: {site.date(60)}", f"{CDN}: frob")
    assert not await site.reuses()


@pytest.mark.parametrize(
    "value",
    ["", " ", "max-age=60, &&&", "max-age=60,", "Max-Age=60", "max-age=60; ;", "max-age = 60", "=", ",", 'a="', "\xe9"],
)
async def test_2_1_a_field_that_is_empty_or_no_dictionary_is_ignored(site: Site, value: str) -> None:
    """MUST be ignored; the next one, or Cache-Control, counts."""
    site.says("cache-control: no-store", f"{CDN}: {value}")
    assert not await site.reuses()
    site.says("cache-control: max-age=5", f"{CDN}: {value}")
    assert await site.reuses(path="/b")
    site.says(f"{OWN}: {value}", f"{CDN}: max-age=5", "cache-control: no-store")
    assert await site.reuses(path="/c")


@pytest.mark.parametrize("value", ['"60"', "60.5", ":NjA=:", "sixty", "-60", "?1", "(60)"])
async def test_2_1_a_lifetime_of_another_type_is_none(site: Site, value: str) -> None:
    """An Integer is meant; Cache-Control is ignored all the same."""
    site.says("cache-control: max-age=60", f"{CDN}: max-age={value}")
    assert not await site.reuses()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["max-age=60"], {b"max-age": b"60"}),
        (["max-age=60;x;y=1; z=?0, public;q"], {b"max-age": b"60", b"public": b""}),
        (["max-age=60", "public"], {b"max-age": b"60", b"public": b""}),
        (["max-age=1, max-age=2"], {b"max-age": b"2"}),
        (["max-age=1\t ,\tpublic"], {b"max-age": b"1", b"public": b""}),
        (["no-store=?1"], {b"no-store": b""}),
        (["no-store=?0, max-age=1"], {b"max-age": b"1"}),
        (["no-store=?0"], {}),
        (["no-store, x=(a)b"], None),
        (["no-store, x=(a b"], None),
        (["no-store, x=(a;b c;d=1 )"], {b"no-store": b"", b"x": b"?"}),
        (["private=(a)"], {b"private": b""}),
        (["no-store, no-store=?0, public"], {b"public": b""}),
        (['private="x-a, x-b"'], {b"private": b"x-a,x-b"}),
        (['private=""'], {b"private": b""}),
        (["private=x"], {b"private": b""}),
        (["no-cache=1"], {b"no-cache": b""}),
        (['no-store, x=(1 "a" b;c=2);d'], {b"no-store": b"", b"x": b"?"}),
        (["no-store, x=(), y=( a  b )"], {b"no-store": b"", b"x": b"?", b"y": b"?"}),
        (["no-store, x=@1659578233"], {b"no-store": b"", b"x": b"@1659578233"}),
        (['no-store, x=%"f%c3%bc"'], {b"no-store": b"", b"x": b'%"f%c3%bc"'}),
        (["no-store, x=(1"], None),
        (["no-store, x=(1,2)"], None),
        (["no-store, x=(1(2))"], None),
        ([], None),
        (["1=2"], None),
        (["a=1234567890123456"], None),
        (['a="\\x"'], None),
        (["a b"], None),
        (["a,,b"], None),
    ],
)
def test_2_1_it_is_a_dictionary(lines: list[str], expected: dict[bytes, bytes] | None) -> None:
    """Of RFC 8941, with the types of RFC 9651; of a key that comes twice the last one counts."""
    assert targeted([line.encode() for line in lines]) == expected


@pytest.mark.parametrize("value", ["x=(", "x=(a ", 'x=("\\', 'x="\\"', ":", "a;", "a,", "a; b", "x=(a;", "x=?"])
@pytest.mark.timeout(30)
def test_2_1_garbage_takes_linear_time(value: str) -> None:
    """With quadratic time this would fail by its timeout."""
    targeted([value.encode() * (300_000 // len(value))])


async def test_2_2_the_field_of_this_cache_goes_no_further(site: Site) -> None:
    """It is for nobody else; that for CDNs is passed on, there may be one in front."""
    site.says(f"{OWN}: max-age=60", f"{CDN}: max-age=60")
    for _ in range(2):
        got = await site.get()
        assert (got.all(OWN), got.all(CDN)) == ([], [b"max-age=60"])
    site.says(f"{OWN}: no-store")
    assert (await site.get(path="/b")).all(OWN) == []
    assert (await site.get(method="POST")).all(OWN) == []


async def test_3_1_private_in_one_of_these_fields(site: Site) -> None:
    """With field names, it is about these."""
    site.says(f'{CDN}: max-age=60, private="x-a"', "x-a: 1", "x-b: 2")
    await site.get()
    got = await site.get()
    assert (got.asked, got.field("x-a"), got.field("x-b")) == (False, None, b"2")


async def test_3_1_authorization_is_covered_by_what_the_targeted_field_says(site: Site) -> None:
    """public in Cache-Control is not heard, either."""
    site.says("cache-control: public", f"{CDN}: max-age=60")
    assert not await site.reuses("authorization: Basic YTpi")
    site.says("cache-control: private", f"{CDN}: max-age=60, public")
    assert await site.reuses("authorization: Basic YTpi", path="/b")
