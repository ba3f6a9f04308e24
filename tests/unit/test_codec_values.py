# ruff: noqa: E501, SIM105, PIE796, PYI024  # the samples are meant to be odd
"""Values keep their types, refusals name their place, and no bytes make decoding raise anything else."""

from __future__ import annotations

import enum
import gc
import re
import subprocess
import sys
import threading
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from types import ModuleType
from typing import Annotated, Any, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from nearcache.codec import values
from nearcache.codec.failures import MAX_DEPTH, Undecodable
from nearcache.codec.values import dumps, loads
from nearcache.errors import CodecError

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, "x")
    ALIAS = "red"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Kind(enum.StrEnum):
    A = "a"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag, boundary=enum.KEEP):
    ONE = 1


@dataclass
class User:
    id: int
    name: str
    tags: list[Any] = field(default_factory=list)
    computed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.computed += self.id  # running this again would show

    @cached_property
    def upper(self) -> str:
        return self.name.upper()


@dataclass
class Admin(User):
    level: Level = Level.LOW


@dataclass(frozen=True, slots=True)
class Point:
    x: Any
    y: Any = None


@dataclass(frozen=True, slots=True)
class Point3(Point):
    z: Any = None


@dataclass
class Box(Generic[T]):
    content: T


class Row(msgspec.Struct):
    id: int
    name: str = msgspec.field(name="fullName", default="")
    maybe: Any = msgspec.UNSET


class FrozenRow(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    id: Any


class LooseRow(msgspec.Struct, dict=True):
    id: int


class CountingRow(msgspec.Struct):
    n: int

    def __post_init__(self) -> None:
        self.n += 1


class Account(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    id: int
    when: datetime | None = None
    mail: str = pydantic.Field(default="", alias="eMail")
    _secret: Any = pydantic.PrivateAttr(default=None)

    @cached_property
    def twice(self) -> int:
        return self.id * 2


class FrozenAccount(pydantic.BaseModel, frozen=True):
    id: Any


class Ids(pydantic.RootModel[list[int]]):
    pass


class Pair(NamedTuple):
    left: Any
    right: Any = None


OldPair = namedtuple("OldPair", "a b")


class PairWithMore(OldPair):
    pass


class Film(TypedDict):
    title: str


def exact(value: Any) -> Any:
    """A form in which two values are equal only if types and contents are the same, NaN and -0.0 included."""
    cls = type(value)
    if cls in (float, Decimal):
        return cls, str(value)
    if cls in (datetime, time):
        zone = value.tzinfo
        return cls, value.replace(tzinfo=None), value.fold, type(zone), repr(zone)
    if cls in (set, frozenset):
        return cls, sorted((exact(part) for part in value), key=repr)
    if cls is dict:
        return cls, [(exact(key), exact(part)) for key, part in value.items()]
    if isinstance(value, enum.Enum):
        return cls, value.name, value.value
    if isinstance(value, (list, tuple)):
        return cls, [exact(part) for part in value], exact(getattr(value, "__dict__", None))
    if isinstance(value, pydantic.BaseModel):
        parts = (value.__dict__, value.model_fields_set, value.__pydantic_extra__, value.__pydantic_private__)
        return cls, [exact(part) for part in parts]
    if isinstance(value, msgspec.Struct):
        return cls, [exact(getattr(value, name)) for name in value.__struct_fields__]
    if hasattr(cls, "__dataclass_fields__"):
        return cls, [exact(getattr(value, name)) for name in cls.__dataclass_fields__]
    return cls, value


SAMPLES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 2**4000, -(2**4000),
    0.0, -0.0, 1.5, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"),
    "", "é", "\0", "\ud800", "a\udfffb", "\ud83d\ude00", "😀", b"", b"\xc1\xff", bytearray(b"ab"), bytearray(),
    [], [[]], (), ((),), (1,), {}, set(), frozenset(), {1, "a", (2, 3)}, frozenset({frozenset({1})}),
    {1: "a", None: 2, False: 3, 1.5: 4, b"k": 5, "s": 6}, {True: 1}, {2**70: 1}, {"\ud800": 1},
    {(1, (2,)): 3, datetime(2020, 1, 1): 4, Colour.RED: 5, Point(1, 2): 6, frozenset({1}): 7},
    {float("nan"): 1}, {Kind.A: 1, "b": 2}, {Level.LOW: 1},
    datetime(2024, 2, 29, 1, 2, 3, 4), datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999),
    datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(2024, 10, 27, 2, 30, fold=0, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-5, seconds=1))),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")), datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "\ud800")),
    pydantic.TypeAdapter(datetime).validate_python("2024-01-01T00:00:00+02:00"),
    date(1, 1, 1), date(9999, 12, 31), time(), time(23, 59, 59, 999999, fold=1),
    time(1, tzinfo=UTC), time(1, tzinfo=ZoneInfo("Asia/Tokyo")),
    timedelta.max, timedelta.min, timedelta(microseconds=-1),
    Decimal("1.10"), Decimal("NaN"), Decimal("sNaN123"), Decimal("-0"), Decimal("-Infinity"), Decimal("1E+999999"),
    UUID(int=0), UUID(int=2**128 - 1),
    Colour.RED, Colour.PAIR, Level.HIGH, Kind.A, Access.READ | Access.WRITE, Access(0), Bits(9),
    re.compile("a(b)", re.IGNORECASE | re.MULTILINE), re.compile(rb"\xff", re.DOTALL), re.compile("(?i)x"),
    re.compile("\ud800"),
    User(1, "x"), Admin(1, "x", [Level.LOW], Level.HIGH), Point(1, (2,)), Point3(1, 2, {3}), Box([1]), Box(Point(1)),
    Row(1), Row(1, "n", Point(1)), FrozenRow(id=(1,)), CountingRow(1), Account(id=1),
    Account(id=1, when=datetime(2020, 1, 1), eMail="m", other={1, 2}), Ids([1, 2]),
    FrozenAccount(id=Colour.RED), {FrozenAccount(id=1)},
    Pair(1, [2]), OldPair(1, 2), PairWithMore((1,), 2),
]  # fmt: skip


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: f"{type(value).__name__} {value!r}"[:50])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [{"a": (v, [v])}]], ids=["bare", "nested"])
def test_round_trip(value: Any, wrap: Any) -> None:
    value = wrap(value)
    assert exact(loads(dumps(value))) == exact(value)
    assert exact(loads(memoryview(dumps(value)))) == exact(value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals().filter(lambda d: not d.is_snan())
    | st.uuids()
    | st.sampled_from([*Colour, *Level, *Kind, Access.READ | Access.WRITE])
)
hashable = st.recursive(
    scalars,
    lambda inner: (
        st.tuples(inner, inner)
        | st.frozensets(inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Pair, inner, inner)
        | st.builds(FrozenAccount, id=inner)
    ),
    max_leaves=4,
)
anything = st.recursive(
    hashable | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.sets(hashable, max_size=3)
        | st.builds(User, st.integers(), st.text(), st.lists(inner, max_size=2))
        | st.builds(Row, st.integers(), st.text(), inner)
        | st.builds(Account, id=st.integers(), other=inner)
        | st.builds(Box, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(anything)
def test_round_trip_of_anything_nested(value: Any) -> None:
    assert exact(loads(dumps(value))) == exact(value)


def test_attributes_that_are_no_fields_come_back_and_cached_properties_do_not() -> None:
    user, pair, loose = User(1, "x"), PairWithMore(1, 2), LooseRow(1)
    user.extra = pair.extra = loose.extra = {1}  # type: ignore[attr-defined]
    assert user.upper == "X"
    again = [loads(dumps(value)) for value in (user, pair, loose)]
    assert [value.extra for value in again] == [{1}] * 3
    assert "upper" not in vars(again[0])


def test_private_attributes_of_a_model_come_back() -> None:
    account = Account(id=1)
    account._secret = (1, 2)
    assert account.twice == 2
    again = loads(dumps(account))
    assert again._secret == (1, 2)
    assert again == account
    assert "twice" not in vars(again)


def test_named_offsets_keep_their_name() -> None:
    zone = timezone(timedelta(hours=1), "CET")
    assert loads(dumps(datetime(2020, 1, 1, tzinfo=zone))).tzname() == "CET"


class Text(str):
    __slots__ = ()


class Opaque:
    pass


cyclic: list[Any] = []
cyclic.append([cyclic, cyclic])
deep: Any = None
for _ in range(MAX_DEPTH + 1):
    deep = [deep]
unset = Point.__new__(Point)
missing = User(1, "x")
del missing.tags


@pytest.mark.parametrize(
    ("value", "path", "remedy"),
    [
        (print, "value", "plain data"),
        ((i for i in ()), "value", "plain data"),
        ({"a": [1, 2, (3, Opaque())]}, "value['a'][2][1]", "dataclass"),
        ({"a": [{"b": Opaque()}]}, "value['a'][0]['b']", "Opaque"),
        ({1: {None: Opaque()}}, "value[1][None]", ""),
        ({(1, print): 1}, "value.keys()[0][1]", ""),
        ({Point(1): Opaque()}, "value[<Point>]", ""),
        ({"k" * 100: Opaque()}, f"value['{'k' * 55}...]", ""),
        ([{1, print}], "value[0]{...}", ""),
        (User(1, "x", [print]), "value.tags[0]", ""),
        (Row(1, "x", print), "value.maybe", ""),
        (Account(id=1, other=print), "value.other", ""),
        (Pair(1, {"a": print}), "value.right['a']", ""),
        (
            datetime(2020, 1, 1, tzinfo=type("Odd", (type(ZoneInfo("UTC")),), {})("UTC")),
            "value.tzinfo",
            "ZoneInfo",
        ),
        ([Text("x")], "value[0]", "store str(...)"),
        ({Text("x"): 1}, "value.keys()[0]", "store str(...)"),
        ({"a": True, "b": OrderedDict()}, "value['b']", "store dict(...)"),
        (defaultdict(list), "value", "store dict(...)"),
        (type("D", (datetime,), {})(2020, 1, 1), "value", "store datetime(...)"),
        (Ext(1, b""), "value", ""),
        (re.compile("DEBUG", re.DEBUG), "value", "re.DEBUG"),
        (User, "value", ""),
        (1j, "value", ""),
        (msgspec.Raw(b"1"), "value", ""),
        (memoryview(b""), "value", ""),
        (unset, "value", "'x'"),
        (missing, "value", "'tags'"),
        (deep, "value" + "[0]" * 10 + "..." + "[0]" * 5, "deeper than 100"),
        (cyclic, "value" + "[0]" * 10 + "..." + "[0]" * 5, "contains itself"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_what_cannot_be_stored_is_refused_with_its_place(value: Any, path: str, remedy: str) -> None:
    with pytest.raises(CodecError) as caught:
        dumps(value)
    assert caught.value.path == path
    assert remedy in str(caught.value)
    assert str(caught.value).startswith(path + ": ")


def test_the_deepest_value_allowed_comes_back() -> None:
    plain: Any = 1
    special: Any = Decimal(1)
    for _ in range(MAX_DEPTH):
        plain, special = [plain], (special,)
    assert loads(dumps(plain)) == plain
    assert loads(dumps(special)) == special


def test_a_cycle_through_an_object_is_refused() -> None:
    user = User(1, "x")
    user.tags.append(user)
    with pytest.raises(CodecError, match="contains itself"):
        dumps(user)


def test_a_dict_changed_meanwhile_is_a_codec_error(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: dict[str, Any] = {"a": bytearray(), "b": 1}

    def meddle(value: Any, depth: int) -> None:
        shared["c"] = 1

    monkeypatch.setitem(values._PACKERS, bytearray, meddle)
    with pytest.raises(CodecError, match="changed size"):
        dumps(shared)


def test_dataclasses_over_builtins_are_refused() -> None:
    @dataclass
    class Odd(dict):  # type: ignore[type-arg]
        x: int = 1

    @dataclass
    class Problem(Exception):
        x: int = 1

    for value in (Odd(), Problem()):
        with pytest.raises(CodecError):
            dumps(value)


def test_local_classes_work_in_one_process_while_their_name_is_unambiguous() -> None:
    def make() -> Any:
        @dataclass
        class Local:
            x: int

        return Local

    first = make()
    payload = dumps(first(1))
    assert loads(payload) == first(1)
    second = make()
    dumps(second(1))
    with pytest.raises(Undecodable):
        loads(payload)
    del second
    gc.collect()
    assert loads(payload) == first(1)
    assert loads(payload, dict) == {"x": 1}


def test_the_codec_keeps_no_class_alive() -> None:
    import weakref

    def make() -> Any:
        @dataclass(slots=True)
        class Local:
            x: int

        loads(dumps(Local(1)))
        return weakref.ref(Local)

    reference = make()
    gc.collect()
    assert reference() is None


def test_an_instance_of_a_replaced_class_is_refused() -> None:
    module = ModuleType("replaced_classes")
    sys.modules[module.__name__] = module
    try:
        source = "import dataclasses\n@dataclasses.dataclass\nclass C:\n    x: int\n"
        exec(source, module.__dict__)
        old = module.C(1)
        exec(source, module.__dict__)
        with pytest.raises(CodecError, match="reloaded"):
            dumps(old)
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize(
    "change",
    [
        "@dataclasses.dataclass\nclass C:\n    x: int\n    y: int = 0\n",
        "@dataclasses.dataclass\nclass C:\n    z: int\n",
        "class C(msgspec.Struct):\n    x: int\n",
        "C = 1\n",
        "def C(x): raise SystemExit\n",
        "class C:\n    def __init__(self, x): raise SystemExit\n",
        "def __getattr__(name): raise SystemExit\n",
    ],
)
def test_a_class_that_changed_is_undecodable(change: str) -> None:
    module = ModuleType("changing_classes")
    sys.modules[module.__name__] = module
    start = "import dataclasses, msgspec\n"
    try:
        exec(start + "@dataclasses.dataclass\nclass C:\n    x: int\n", module.__dict__)
        payload = dumps(module.C(1))
        assert loads(payload) == module.C(1)
        del module.C
        exec(start + change, module.__dict__)
        gc.collect()
        with pytest.raises(Undecodable):
            loads(payload)
        assert loads(payload, dict[str, int]) == {"x": 1}
        assert loads(payload, Point) == Point(1)
    finally:
        del sys.modules[module.__name__]


def test_enum_members_that_changed_are_undecodable() -> None:
    for name, stored in [("RED", "blue"), ("GONE", "red"), (None, 8)]:
        parts = [f"{__name__}:{'Colour' if name else 'Access'}", {"value": stored}, name]
        with pytest.raises(Undecodable):
            loads(msgspec.msgpack.encode(Ext(32, msgspec.msgpack.encode(parts))))


def test_decoding_imports_nothing() -> None:
    program = (
        "import sys, msgspec; from nearcache.codec.values import loads; from nearcache.codec.failures import Undecodable\n"
        "encode, before = msgspec.msgpack.encode, set(sys.modules)\n"
        "for code in range(30, 40):\n"
        "    try: loads(encode(msgspec.msgpack.Ext(code, encode(['wave:Wave_read', {'x': 1}, None]))))\n"
        "    except Undecodable: pass\n"
        "    else: raise SystemExit('decoded')\n"
        "sys.exit(str(set(sys.modules) - before) if set(sys.modules) - before else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_codec_does_not_import_pydantic_or_zoneinfo() -> None:
    program = (
        "import sys, nearcache.codec as c; k = c.Codec(); raw = k.encode({'a': (1,)}, b'k', 1); k.decode(raw, b'k', 1, dict)\n"
        "sys.exit(', '.join({'pydantic', 'zoneinfo', 'json', 'asyncio', 'backports.zstd'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


class Strict(pydantic.BaseModel):
    n: int = pydantic.Field(gt=0)


@dataclass
class Holder:
    account: Account
    when: datetime


@pytest.mark.parametrize(
    ("stored", "wanted", "expected"),
    [
        (User(1, "x"), User, User(1, "x")),
        ({"id": 1, "name": "x"}, User, User(1, "x")),
        ([User(1, "x")], list[User], [User(1, "x")]),
        ({"k": User(1, "x")}, dict[str, User], {"k": User(1, "x")}),
        (None, User | None, None),
        (User(1, "x"), User | None, User(1, "x")),
        ({"id": 1, "fullName": "x"}, Row, Row(1, "x")),
        ([Row(1, "x")], list[Row], [Row(1, "x")]),
        ({"id": 1, "eMail": "m"}, Account, Account(id=1, eMail="m")),
        ({"id": 1, "mail": "m"}, Account, Account(id=1, eMail="m")),
        ([Account(id=1, eMail="m")], list[Account], [Account(id=1, eMail="m")]),
        ({"n": 1}, Strict | FrozenAccount, Strict(n=1)),
        (
            {"account": {"id": 1}, "when": "2020-01-01T00:00:00"},
            Holder,
            Holder(Account(id=1), datetime(2020, 1, 1)),
        ),
        (Point(1, Level.LOW), dict, {"x": 1, "y": 1}),
        (Pair(1, Pair(2, 3)), list[Any], [1, Pair(2, 3)]),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, 2], Pair, Pair(1, 2)),
        ((1, 2), list[int], [1, 2]),
        ({"title": "x"}, Film, {"title": "x"}),
        (1, float, 1.0),
        (3, Access, Access.READ | Access.WRITE),
        ([Access.READ | Access.WRITE], list[Access], [Access.READ | Access.WRITE]),
        (Colour.PAIR, Colour, Colour.PAIR),
        ("a", Kind, Kind.A),
        (Kind.A, str, Kind.A),
        (Decimal("1.5"), Decimal, Decimal("1.5")),
        ({frozenset({1}): 2}, dict[frozenset[int], int], {frozenset({1}): 2}),
        (2**70, int, 2**70),
        (User(1, "x"), Any, User(1, "x")),
        ([1], Annotated[list[int], []], [1]),
        ({Point(1)}, set[Point], {Point(1)}),
        (re.compile("x"), re.Pattern, re.compile("x")),
    ],
    ids=str,
)
def test_decoding_to_a_type(stored: Any, wanted: Any, expected: Any) -> None:
    assert exact(loads(dumps(stored), wanted)) == exact(expected)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ({"id": "no"}, User),
        ({"n": 0}, Strict),
        ("1", int),
        (True, int),
        (1, bool),
        ([1, "a"], list[int]),
        (User(1, "x"), Strict | int),
        (1, Opaque),
        (1, "not a type"),
        (1, TypeVar),
        ("2020", datetime),
        (b"x", str),
    ],
    ids=str,
)
def test_what_does_not_fit_the_type_is_undecodable(stored: Any, wanted: Any) -> None:
    with pytest.raises(Undecodable):
        loads(dumps(stored), wanted)


def test_a_type_needs_no_class_of_the_writer() -> None:
    """Sets of instances too: what another service calls its class does not matter."""
    stranger = msgspec.msgpack.encode(["elsewhere:Thing", {"x": 1, "y": None}, None])
    members = msgspec.msgpack.encode([Ext(33, stranger)])
    with pytest.raises(Undecodable):
        loads(msgspec.msgpack.encode(Ext(values.SET, members)))
    assert loads(msgspec.msgpack.encode(Ext(values.SET, members)), set[Point]) == {Point(1)}


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_never_raise_anything_else(payload: bytes) -> None:
    for wanted in (values.NATURAL, User, dict):
        try:
            loads(payload, wanted)
        except Undecodable:
            pass


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 40), anything | st.lists(anything, max_size=5), st.binary(max_size=20))
def test_extensions_with_any_content_never_raise_anything_else(code: int, content: Any, tail: bytes) -> None:
    for payload in (dumps(content), tail):
        for wanted in (values.NATURAL, Point):
            try:
                loads(msgspec.msgpack.encode(Ext(code, payload)), wanted)
            except Undecodable:
                pass


@settings(max_examples=200, deadline=None)
@given(anything, st.data())
def test_damaged_payloads_never_raise_anything_else(value: Any, data: st.DataObject) -> None:
    payload = bytearray(dumps(value))
    for _ in range(3):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
        try:
            loads(bytes(payload))
        except Undecodable:
            pass


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff",
        b"\x01\x02",
        b"\x81\xc7\x02\x03\x91\x90\x01",
        msgspec.msgpack.encode(Ext(values.SET, msgspec.msgpack.encode([[1]]))),
        msgspec.msgpack.encode(Ext(values.DECIMAL, b"1e9x")),
        msgspec.msgpack.encode(Ext(values.DATE, b"\0\0\0\0")),
        msgspec.msgpack.encode(Ext(values.DATETIME, b"\x07\xe4\x01\x01" + b"\0" * 8 + b"\xa9../passwd")),
        msgspec.msgpack.encode(Ext(values.PATTERN, msgspec.msgpack.encode(["(", 0]))),
        msgspec.msgpack.encode(Ext(99, b"")),
    ],
    ids=lambda payload: payload[:12].hex(),
)
def test_malformed_payloads_are_undecodable(payload: bytes) -> None:
    with pytest.raises(Undecodable):
        loads(payload)


def test_extensions_nested_without_end_are_undecodable() -> None:
    payload = b"\xc0"
    for _ in range(3000):
        payload = msgspec.msgpack.encode(Ext(values.TUPLE, b"\x91" + payload))
    with pytest.raises(Undecodable):
        loads(payload)


def test_a_hash_that_raises_is_undecodable() -> None:
    parts = [f"{__name__}:Point", {"x": [], "y": 1}, None]  # a frozen dataclass with an unhashable field
    member = Ext(33, msgspec.msgpack.encode(parts))
    with pytest.raises(Undecodable):
        loads(msgspec.msgpack.encode(Ext(values.SET, msgspec.msgpack.encode([member]))))


def test_threads_share_the_codec() -> None:
    failures: list[Any] = []

    def work(n: int) -> None:
        value = [User(n, str(n)), (n, {n}), {"n": Decimal(n)}]
        failures.extend(1 for _ in range(200) if loads(dumps(value)) != value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
