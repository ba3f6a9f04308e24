"""``@cache.cached``: colours, keys that never meet, options, and what is refused when decorating."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nearcache import (
    AsyncCache,
    ConfigurationError,
    InvalidArgument,
    InvalidKey,
    InvalidNamespace,
    InvalidTTL,
    Settings,
    get_multi_redis_connection_manager,
)
from nearcache.testing import FakeClock

cached = AsyncCache().cached
"""For what needs no server: keys, and errors when decorating."""


@pytest.fixture
async def cache() -> AsyncIterator[AsyncCache]:
    cache = AsyncCache(3600, "decorated")
    await cache.initialize(Settings(redis_url=f"memory://{uuid4().hex}", _env_file=None))
    yield cache
    await get_multi_redis_connection_manager().disconnect_all()


def everything(a: Any, /, b: Any = "b", *args: Any, c: Any, d: Any = None, **kwargs: Any) -> None: ...


# -- colours


async def test_an_asynchronous_function(cache: AsyncCache) -> None:
    calls: list[int] = []

    @cache.cached
    async def double(number: int) -> int:
        """Twice as much."""
        calls.append(number)
        await asyncio.sleep(0)
        return 2 * number

    assert [await double(2), await double(number=2), await double(3)] == [4, 4, 6]
    assert calls == [2, 3]
    assert await double.uncached(2) == 4
    assert calls == [2, 3, 2]
    assert await cache.get(double.key(2)) == 4
    assert await double.invalidate(2) is True
    assert await double.invalidate(2) is False
    assert await double(2) == 4
    assert calls == [2, 3, 2, 2]
    assert (double.__name__, double.__doc__) == ("double", "Twice as much.")  # type: ignore[attr-defined]
    assert list(inspect.signature(double).parameters) == ["number"]


async def test_a_synchronous_function(cache: AsyncCache) -> None:
    calls: list[int] = []

    @cache.sync().cached(key="double:{number}", ttl=60)
    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    def use() -> None:
        assert [double(2), double(number=2), double(3)] == [4, 4, 6]
        assert calls == [2, 3]
        assert double.uncached(2) == 4
        assert double.invalidate(2) is True
        assert double.invalidate(2) is False
        assert double(2) == 4

    await asyncio.to_thread(use)
    assert await cache.get("double:2") == 4
    assert await cache.ttl("double:2") == 60


async def test_either_cache_decorates_either_colour(cache: AsyncCache) -> None:
    @cache.sync().cached
    async def later() -> str:
        return "later"

    @cache.cached
    def now() -> str:
        return "now"

    assert await later() == await later() == "later"
    assert await asyncio.to_thread(now) == "now"
    assert cache.get_stats().loads == 2


async def test_other_callables(cache: AsyncCache) -> None:
    class Doubler:
        async def __call__(self, number: int) -> int:
            return 2 * number

    async def power(base: int, exponent: int) -> int:
        return base**exponent

    double = cache.cached(key="double:{number}")(Doubler())
    cube = cache.cached(key="cube:{base}")(functools.partial(power, exponent=3))
    assert [await double(2), await cube(2)] == [4, 8]
    assert await cache.get_many(["double:2", "cube:2"]) == {"double:2": 4, "cube:2": 8}


async def test_none_is_a_result_and_an_exception_is_not(cache: AsyncCache) -> None:
    calls: list[str] = []

    @cache.cached
    async def find(name: str) -> None:
        calls.append(name)
        if name == "broken":
            raise ZeroDivisionError

    for _ in range(2):
        assert await find("nobody") is None  # type: ignore[func-returns-value]
        with pytest.raises(ZeroDivisionError):
            await find("broken")
    assert calls == ["nobody", "broken", "broken"]


async def test_one_call_for_everybody_who_asks_at_once(cache: AsyncCache) -> None:
    calls: list[int] = []

    @cache.cached
    async def slow(number: int) -> int:
        calls.append(number)
        while cache.get_stats().joins < 49:  # noqa: ASYNC110 - until everybody else waits
            await asyncio.sleep(0)
        return number

    assert await asyncio.gather(*(slow(1) for _ in range(50))) == [1] * 50
    assert calls == [1]


# -- methods


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    @cached(key="{self}:{item}")
    def wrong(self, item: str) -> str:
        return item

    @cached
    def by_everything(self, item: str) -> str:
        return item

    @cached(key="item:{item}")
    def by_item(self, item: str, count: int = 1) -> str:
        """A price."""
        return f"{self.name}: {item}"

    @staticmethod
    @cached(key="static:{item}")
    def static(item: str) -> str:
        return item


async def test_methods(cache: AsyncCache) -> None:
    class Store:
        def __init__(self, name: str) -> None:
            self.name = name

        @cache.cached(key="price:{item}")
        async def price(self, item: str, count: int = 1) -> str:
            return f"{self.name} sells {item}"

        @classmethod
        @cache.cached(key="kind:{number}")
        async def kind(cls, number: int) -> str:
            return cls.__name__

    store = Store("Ada")
    assert await store.price("tea") == "Ada sells tea"
    assert await Store("Bob").price("tea", 2) == "Ada sells tea", "the template names the item alone"
    assert await Store.price(store, "tea") == "Ada sells tea"
    assert store.price.key("tea") == Store.price.key(store, "tea") == "price:tea"
    assert await store.price.uncached("milk") == "Ada sells milk"
    assert await store.price.invalidate("tea") is True
    assert await Store("Bob").price("tea") == "Bob sells tea"
    assert await Store.kind(1) == "Store"


def test_a_method_keeps_what_it_is() -> None:
    shop = Shop("Ada")
    assert list(inspect.signature(shop.by_item).parameters) == ["item", "count"]
    assert Shop.static.key("a") == shop.static.key("a") == "static:a"


@pytest.mark.parametrize("method", ["wrong", "by_everything"])
def test_self_without_a_stable_key_is_named(method: str) -> None:
    with pytest.raises(InvalidKey, match=r"argument 'self' of Shop\.\w+ is a Shop, .* give a template"):
        getattr(Shop("Ada"), method)("tea")


@dataclass
class Place:
    x: int

    @cached
    def norm(self) -> int:
        return self.x


def test_an_instance_that_the_codec_knows_is_a_key() -> None:
    assert Place(1).norm.key() == Place.norm.key(Place(1)) != Place(2).norm.key()


# -- keys made of all arguments


@dataclass
class Query:
    words: frozenset[int]
    options: dict[str, Any]


def test_sets_and_dicts_have_no_order_inside_an_instance_either() -> None:
    """These two sets are equal, and are walked through in different orders."""
    one, other = frozenset([8, 0]), frozenset([0, 8])
    assert list(one) != list(other)
    key = cached(everything).key
    queries = [Query(one, {"a": 1, "b": [{"x": 1}]}), Query(other, {"b": [{"x": 1}], "a": 1})]
    assert key(queries[0], c=1) == key(queries[1], c=1)
    assert key(queries[0], c=1) != key(Query(one, {"a": 1, "b": [{"x": 2}]}), c=1)
    assert key(Place(1), c=1) != key({"x": 1}, c=1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (((1,), {"c": 1}), ((1, "b"), {"c": 1})),
        (((1, "b"), {"c": 1}), ((1,), {"b": "b", "c": 1, "d": None})),
        (((1,), {"c": 1, "x": 1, "y": 2}), ((1,), {"y": 2, "x": 1, "c": 1})),
        ((({"a": 1, "b": 2},), {"c": 1}), (({"b": 2, "a": 1},), {"c": 1})),
        ((({1, "x", None},), {"c": {"k": frozenset("abc")}}), (({None, "x", 1},), {"c": {"k": frozenset("cba")}})),
    ],
)
def test_the_same_call_has_the_same_key(one: Any, other: Any) -> None:
    key = cached(everything).key
    assert key(*one[0], **one[1]) == key(*other[0], **other[1])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.uuids(),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.frozensets(st.text() | st.integers(), max_size=3)
        | st.dictionaries(st.text(), parts, max_size=3)
    ),
    max_leaves=6,
)
CALLS = st.tuples(VALUES, st.lists(VALUES, max_size=3), VALUES, st.dictionaries(st.sampled_from("xyz"), VALUES))


def exact(value: Any) -> Any:
    """The value with its types, so that ``1``, ``1.0`` and ``True`` differ; sets and dicts without an order."""
    if isinstance(value, dict):
        return "dict", frozenset((exact(key), exact(part)) for key, part in value.items())
    if isinstance(value, frozenset):
        return "frozenset", frozenset(map(exact, value))
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(exact, value))
    return type(value).__name__, repr(value)


@given(CALLS, CALLS)
@example((1, [], 1, {}), (True, [], 1, {}))
@example(("1", [], 1, {}), (1, [], 1, {}))
@example(([1, 2], [], 1, {}), ((1, 2), [], 1, {}))
@example(([[1], [2]], [], 1, {}), ([[1, 2], []], [], 1, {}))
@example(("a", ["b", "c"], 1, {}), ("a", ["b"], 1, {"x": "c"}))
@example((frozenset("ab"), [], 1, {}), ({"a": "b"}, [], 1, {}))
def test_other_arguments_have_another_key(one: Any, other: Any) -> None:
    key = cached(everything).key
    keys = [key(a, *args, c=c, **kwargs) for a, args, c, kwargs in (one, other)]
    defaults: dict[str, Any] = {}

    def bound(call: Any) -> Any:
        arguments = inspect.signature(everything).bind(call[0], *call[1], c=call[2], **call[3])
        arguments.apply_defaults()
        return exact({**defaults, **arguments.arguments})

    assert (keys[0] == keys[1]) is (bound(one) == bound(other))


def test_a_key_is_the_same_in_every_process() -> None:
    code = (
        "from nearcache import AsyncCache\n"
        "def f(*args): ...\n"
        "f.__module__ = 'm'\n"
        "print(AsyncCache().cached(f).key({'a', 'b', 'c', 'd'}, {'x': {'y', 'z', 'w'}}, 1.5, None, 10**30))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(keys) == 1


def test_functions_are_told_apart_by_module_and_name() -> None:
    def one(a: int) -> None: ...
    def other(a: int) -> None: ...

    assert cached(one).key(1) != cached(other).key(1)
    assert cached(one).key(1).startswith(f"{__name__}.test_functions_are_told_apart_by_module_and_name.<locals>.one:")


def test_a_release_that_renames_parameters_does_not_read_what_the_one_before_it_wrote() -> None:
    def make(source: str) -> Any:
        names: dict[str, Any] = {"__name__": "shop"}
        exec(source, names)
        return names["f"]

    before, after = make("def f(width, height): ..."), make("def f(height, width): ...")
    assert cached(before).key(1, 2) != cached(after).key(1, 2)


class Opaque:
    pass


def recursive() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    "value", [Opaque(), lambda: None, [1, {"a": Opaque()}], {Opaque()}, iter([]), open, sys, recursive(), Opaque]
)
def test_an_argument_without_a_stable_key_is_named(value: Any) -> None:
    with pytest.raises(InvalidKey, match=r"argument 'c' of everything is a \w+, which has no stable key"):
        cached(everything).key(1, c=value)


# -- templates


@pytest.mark.parametrize(
    ("template", "args", "kwargs", "key"),
    [
        ("user:{a}", (7,), {"c": 1}, "user:7"),
        ("user:{a}", ("Ada Lovelace",), {"c": 1}, "user:Ada Lovelace"),
        ("user:{a}:{b}", ("x", "y"), {"c": 1}, "user:x:y"),
        ("user:{a}:{b}", ("x:y",), {"c": 1}, "user:x%3Ay:b"),
        ("{c}/{d}", (1,), {"c": "é/%"}, "%C3%A9%2F%25/%None"),
        ("{a}-{b}", ("1-2", "x_y.z"), {"c": 1}, "1%2D2-x_y.z"),
        ("{a}{{}}{b}", (1, 2), {"c": 1}, "1{}2"),
        ("{a}:{a}", (1,), {"c": 1}, "1:1"),
        ("fixed", (1,), {"c": object()}, "fixed"),
        ("{a}", (UUID(int=7),), {"c": 1}, "00000000-0000-0000-0000-000000000007"),
        ("{a}:{b}", (date(2024, 2, 29), Decimal("1.50")), {"c": 1}, "2024-02-29:1.50"),
        ("{a}:{b}", (1.5, True), {"c": 1}, "1.5:True"),
        ("{a}", (datetime(2024, 2, 29, 12),), {"c": 1}, "2024-02-29 12%3A00%3A00"),
        ("{a}", (enum.Enum("Color", "RED").RED,), {"c": 1}, "1"),  # type: ignore[attr-defined]
        ("{a}", ("\ud800",), {"c": 1}, "%ED%A0%80"),
    ],
)
def test_a_template(template: str, args: Any, kwargs: Any, key: str) -> None:
    assert cached(key=template)(everything).key(*args, **kwargs) == key


TEXTS = st.text(alphabet="ab-_.~ :%/{}é", max_size=6) | st.text()


@pytest.mark.parametrize(
    "template", ["{a}:{b}:{c}", "{a}-{b}-{c}", "x {a} {b}_{c}", "{a}a-b{b}..{c}", "{a}%/{b}é{c}", "{c}~{b}:{a}"]
)
@given(st.tuples(*[TEXTS | st.none()] * 3), st.tuples(*[TEXTS | st.none()] * 3))
@example(("a:b", "c", ""), ("a", "b", "c"))
@example(("a-b", "c", ""), ("a", "b-c", ""))
@example(("a", "", ""), ("", "a", ""))
@example((None, "a", "b"), ("None", "a", "b"))
@example((None, "a", "b"), ("%None", "a", "b"))
@example(("%3A", "a", "b"), (":", "a", "b"))
def test_no_two_lists_of_arguments_share_a_key(template: str, one: Any, other: Any) -> None:
    def key(a: Any, b: Any, c: Any) -> str:
        return cached(key=template)(everything).key(a, b, c=c)

    assert (key(*one) == key(*other)) is (one == other)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("user:{user_id}", r"'user_id' is no parameter; it has a, b, args, c, d, kwargs"),
        ("user:{}", "'' is no parameter"),
        ("user:{0}", "'0' is no parameter"),
        ("user:{a.name}", r"'a\.name' is no parameter"),
        ("user:{a[0]}", "is no parameter"),
        ("user:{a!r}", "'a' has a format or a conversion"),
        ("user:{a:.3}", "'a' has a format or a conversion"),
        ("user:{a:{b}}", "'a' has a format or a conversion"),
        ("{a}{b}", "'a' and 'b' run into each other"),
        ("{a}x{b}", "'a' and 'b' run into each other"),
        ("{a}%{b}", "'a' and 'b' run into each other"),
        ("user:{a", "a template looks like 'user:{user_id}'"),
        ("user:a}", "a template looks like"),
    ],
)
def test_a_wrong_template_is_refused_when_decorating(template: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"of everything: .*{reason}"):
        cached(key=template)(everything)


@pytest.mark.parametrize(
    "value",
    [Opaque(), b"bytes", [1], {"a": 1}, timedelta(1), pytest.param(10**5000, id="a very large integer"), lambda: None],
)
def test_an_argument_without_text_is_named(value: Any) -> None:
    with pytest.raises(InvalidKey, match=r"argument 'a' of everything is a \w+, which has no stable key"):
        cached(key="{a}")(everything).key(value, c=1)


# -- options, and what is refused


async def test_ttl_and_namespace(cache: AsyncCache) -> None:
    @cache.cached(ttl=timedelta(minutes=1), key="number:{n}", namespace="elsewhere")
    async def number(n: int) -> int:
        return n

    @cache.cached(ttl=None, key="number:{n}")
    async def forever(n: int) -> int:
        return -n

    assert [await number(7), await forever(7)] == [7, -7]
    assert await cache.ttl("number:7", namespace="elsewhere") == 60
    assert await cache.ttl("number:7") == -1
    assert await number.invalidate(7) is True
    assert await cache.exists("number:7")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": 0}, InvalidTTL),
        ({"ttl": -1.5}, InvalidTTL),
        ({"ttl": "60"}, InvalidTTL),
        ({"namespace": ""}, InvalidNamespace),
        ({"namespace": 7}, InvalidNamespace),
        ({"tags": "a"}, ConfigurationError),
        ({"tags": ["{nothing}"]}, ConfigurationError),
        ({"tags": [7]}, ConfigurationError),
        ({"grace": -1}, InvalidArgument),
        ({"early": "yes"}, InvalidArgument),
        ({"colour": "red"}, TypeError),
        ({"ignore": ["nothing"]}, ConfigurationError),
        ({"ignore": ["a"], "key": "{b}"}, ConfigurationError),
    ],
)
def test_a_wrong_option_is_refused_when_decorating(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        cached(**options)(everything)


def generate() -> Any:
    yield 1


async def generate_later() -> Any:
    yield 1


def make_lambda() -> Callable[[int], int]:
    return lambda n: n


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (generate, "generate is a generator"),
        (generate_later, "generate_later is a generator"),
        (make_lambda(), "<lambda> has no name to make keys from: give key="),
        (functools.partial(everything, 1), "partial .* has no name to make keys from"),
        (staticmethod(everything), "put it under @staticmethod"),
        (classmethod(everything), "put it under @staticmethod and @classmethod"),
        ("user:{user_id}", r"give options by name, as in cached\(key=\.\.\.\)"),
    ],
)
def test_what_is_no_function_to_cache_is_refused(function: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        cached(function)


def test_a_lambda_with_a_template_is_fine() -> None:
    assert cached(key="n:{n}")(make_lambda()).key(7) == "n:7"


# -- hits that the near tier holds


async def test_a_hit_makes_no_key_and_asks_nobody(cache: AsyncCache, monkeypatch: pytest.MonkeyPatch) -> None:
    @cache.cached(key="square:{n}")
    async def square(n: int) -> int:
        return n * n

    assert [await square(3), await square(3)] == [9, 9]
    monkeypatch.setattr(type(square), "_key", None)
    assert await square(3) == 9
    assert cache.get_stats().hits == 2


async def test_arguments_that_are_equal_and_not_the_same_stay_apart(cache: AsyncCache) -> None:
    @cache.cached
    async def kind(value: Any) -> str:
        return type(value).__name__

    for _ in range(3):
        assert [await kind(value) for value in (1, True, 1.0, Decimal(1), "1", b"1", None)] == [
            *("int", "bool", "float", "Decimal", "str", "bytes", "NoneType")
        ]


async def test_nobody_can_change_what_others_get(cache: AsyncCache) -> None:
    @cache.cached
    async def document(n: int) -> dict[str, list[int]]:
        return {"numbers": [n]}

    for _ in range(3):
        found = await document(1)
        assert found == {"numbers": [1]}
        found["numbers"].append(2)


async def test_invalidating_refreshing_and_clearing_reach_the_hits(cache: AsyncCache) -> None:
    calls = 0

    @cache.cached(tags=["number:{n}"])
    async def count(n: int) -> int:
        nonlocal calls
        calls += 1
        return calls

    assert [await count(1), await count(1)] == [1, 1]
    assert await count.invalidate(1) is True
    assert [await count(1), await count(1)] == [2, 2]
    assert [await count.refresh(1), await count(1), await count(1)] == [3, 3, 3]
    await cache.invalidate_tags("number:2")
    assert await count(1) == 3
    await cache.invalidate_tags("number:1")
    assert [await count(1), await count(1)] == [4, 4]
    await cache.clear()
    assert [await count(1), await count(1)] == [5, 5]
    assert await count.uncached(1) == 6


async def test_what_changes_the_origin_invalidates_tags(cache: AsyncCache) -> None:
    names = {1: "Ada"}

    @cache.cached(tags=["user:{user_id}", "users"])
    async def name(user_id: int) -> str:
        return names[user_id]

    @cache.invalidates(tags=["user:{user_id}"])
    async def rename(user_id: int, new: str) -> str:
        if not new:
            raise ValueError(new)
        names[user_id] = new
        return new

    assert await name(1) == "Ada"
    names[1] = "not seen yet"
    with pytest.raises(ValueError):
        await rename(1, "")
    assert await name(1) == "Ada"
    assert await rename(1, new="Grace") == "Grace"
    assert await name(1) == "Grace"

    @cache.invalidates(tags=["users"])
    def forget() -> None:
        names[1] = "nobody"

    await asyncio.to_thread(forget)
    assert await name(1) == "nobody"


async def test_ignored_parameters_take_no_part(cache: AsyncCache) -> None:
    class Repository:
        @cache.cached(ignore=["self", "session"])
        async def load(self, session: object, n: int) -> int:
            return n

    assert await Repository().load(object(), 1) == await Repository().load(object(), 1) == 1
    assert cache.get_stats().loads == 1


async def test_the_annotation_builds_what_the_codec_alone_would_not(cache: AsyncCache) -> None:
    """As when another service wrote JSON there: a date is text in it."""
    plain = AsyncCache(60, "decorated", wire="json")
    await plain.initialize(cache._core.client.settings)  # type: ignore[union-attr]

    @plain.cached(key="day:{n}")
    async def day(n: int) -> datetime:
        return datetime(2026, 1, n, tzinfo=UTC)

    @plain.cached(key="lies:{n}")
    async def lies(n: int) -> int:
        return str(n)  # type: ignore[return-value]

    for _ in range(3):
        assert await day(2) == datetime(2026, 1, 2, tzinfo=UTC)
        assert await lies(2) == "2", "an annotation that is wrong breaks nothing"


@pytest.mark.parametrize("where", ["the cache", "the decorator"])
async def test_a_result_that_is_due_is_renewed_wherever_that_was_asked_for(
    fake_clock: FakeClock, memory_settings: Settings, where: str
) -> None:
    options: dict[str, Any] = {"refresh_at": 0.5}
    cache = AsyncCache(100, "eager", **(options if where == "the cache" else {}))
    await cache.initialize(memory_settings)
    calls: list[int] = []

    @cache.cached(**(options if where == "the decorator" else {}))
    async def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    for passed, expected in ((0, 1), (0, 1), (45, 1), (10, 2)):
        fake_clock.advance(passed)
        assert await double(4) == 8
        while cache._core.tasks:  # noqa: ASYNC110 - a background load sends no event
            await asyncio.sleep(0)
        assert len(calls) == expected


async def test_arguments_that_take_no_part_in_the_key_fill_no_memory(cache: AsyncCache) -> None:
    @cache.cached(ignore=["request"])
    async def name(user: str, request: str) -> str:
        return f"{user} by {request}"

    results = [await name("Ada", str(number)) for number in range(1_000)]
    assert set(results) == {"Ada by 0"}
    (entry,) = cache._core.tier._entries.values()
    assert 2 <= len(entry.homes) <= 16
    assert await name.invalidate("Ada", "any") is True
    assert [await name("Ada", str(number)) for number in (1, 2, 500)] == ["Ada by 1"] * 3


async def test_tags_are_never_made_from_where_an_object_is_in_memory(cache: AsyncCache) -> None:
    """And an argument that makes none is refused before anything is changed."""
    changed: list[Any] = []

    @cache.cached(key="{number}", tags=["user:{user}"])
    async def read(number: int, user: Any) -> int:
        return number

    @cache.invalidates(tags=["user:{user}"])
    async def write(user: Any) -> None:
        changed.append(user)

    @cache.invalidates(tags=["user:{user}"])
    def write_now(user: Any) -> None:
        changed.append(user)

    for user in (Opaque(), [1], b"1"):
        for call in (lambda user=user: read(1, user), lambda user=user: write(user)):
            with pytest.raises(InvalidKey, match="'user'"):
                await call()
        with pytest.raises(InvalidKey, match="'user'"):
            write_now(user)
    assert changed == []
    assert await read(1, None) == 1
    await write(None)
    assert await cache.get("1") is None


@pytest.mark.parametrize("colour", ["async", "sync"])
def test_a_hit_is_of_the_same_arguments_and_in_time(
    fake_clock: FakeClock, async_cache: AsyncCache, colour: str
) -> None:
    """Calls of coroutines and of functions have a closure each."""
    calls: list[Any] = []

    def kind(value: Any) -> str:
        calls.append(value)
        return type(value).__name__

    def kinds(one: Any, other: Any = 0) -> str:
        return f"{type(one).__name__} {type(other).__name__}"

    with asyncio.Runner() as runner:

        def decorated(function: Callable[..., str]) -> Callable[..., Any]:
            if colour == "sync":
                return async_cache.sync().cached(ttl=10, tags=["kinds"])(function)

            @async_cache.cached(ttl=10, tags=["kinds"])
            @functools.wraps(function)
            async def later(*args: Any, **kwargs: Any) -> str:
                return function(*args, **kwargs)

            return lambda *args, **kwargs: runner.run(later(*args, **kwargs))

        one, two, named = decorated(kind), decorated(kinds), decorated(kinds)
        for _ in range(3):
            assert [one(value) for value in (1, True, 1.0, Decimal(1), "1", None, [], {})] == [
                *("int", "bool", "float", "Decimal", "str", "NoneType", "list", "dict")
            ]
            assert [two(7, value) for value in (1, True, 1.0)] == ["int int", "int bool", "int float"]
            assert [named(7), named(7, other="x"), named(7, other=1)] == ["int int", "int str", "int int"]
        for happens in (lambda: runner.run(async_cache.invalidate_tags("kinds")), lambda: fake_clock.advance(11)):
            count = len(calls)
            assert [one(1), one(1)] == ["int", "int"]
            assert len(calls) == count
            happens()
            assert [one(1), one(1)] == ["int", "int"]
            assert len(calls) == count + 1
