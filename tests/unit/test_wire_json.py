# naive datetimes are what is tested
"""JSON on the wire is JavaScript's, byte for byte; a real Node is the judge when there is one."""

from __future__ import annotations

import enum
import json
import math
import shutil
import struct
import subprocess
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearcache.codec.failures import MAX_DEPTH, Undecodable
from nearcache.codec.wire_json import dumps, loads
from nearcache.errors import CodecError

NODE = shutil.which("node")
SCRIPT = Path(__file__).parent.parent / "node" / "stringify.mjs"
needs_node = pytest.mark.skipif(NODE is None, reason="no node on this machine to compare with")


def node(texts: list[str]) -> list[bytes]:
    """What Node writes for each text; see the script. One process for all of them."""
    assert NODE is not None
    done = subprocess.run([NODE, str(SCRIPT)], input=json.dumps(texts), capture_output=True, text=True, check=True)
    # A lone surrogate is escaped within the text, so the text itself always has a UTF-8 form.
    return [text.encode() for text in json.loads(done.stdout)]


class Kind(enum.StrEnum):
    A = "a"


class Level(enum.Enum):
    LOW = 1


@dataclass
class User:
    id: int
    when: datetime | None = None
    kind: Kind = Kind.A


class Row(msgspec.Struct, tag="row"):
    id: int
    name: str = msgspec.field(name="fullName", default="")
    maybe: Any = msgspec.UNSET


class Account(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    id: int
    when: datetime | None = None


class Pair(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1.0, "1"),
        (-0.0, "0"),
        (1e21, "1e+21"),
        (123456789012345680000.0, "123456789012345680000"),
        (1e-7, "1e-7"),
        (0.00001, "0.00001"),
        (1.5e-9, "1.5e-9"),
        (-1.25e300, "-1.25e+300"),
        (float("nan"), "null"),
        (float("-inf"), "null"),
        (2**53 - 1, "9007199254740991"),
        (float(2**53), "9007199254740992"),
        ('é\u2028\x7f\x1f\b\f\n\r\t"\\/', '"é\u2028\x7f\\u001f\\b\\f\\n\\r\\t\\"\\\\/"'),
        ("\ud800", '"\\ud800"'),
        ('a\udfff\ud800b"', '"a\\udfff\\ud800b\\""'),
        ("\ud83d\ude00", '"😀"'),
        ({"\ud800": 1}, '{"\\ud800":1}'),
        ([1, (2, [])], "[1,[2,[]]]"),
        ({"b": 1, "10": 2, "a": 3, "9": 4, "01": 5, "-1": 6}, '{"9":4,"10":2,"b":1,"a":3,"01":5,"-1":6}'),
        ({2: 1, None: 2, True: 3}, '{"2":1,"null":2,"true":3}'),
        ({1.5: 1, 1e21: 2, math.inf: 3, 7.0: 4}, '{"7":4,"1.5":1,"1e+21":2,"Infinity":3}'),
        (datetime(2024, 1, 2, 3, 4, 5, 678999), '"2024-01-02T03:04:05.678Z"'),
        (datetime(2024, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")), '"2024-06-30T22:00:00.000Z"'),
        (datetime(1, 1, 1), '"0001-01-01T00:00:00.000Z"'),
        (date(2024, 1, 2), '"2024-01-02T00:00:00.000Z"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Kind.A, '"a"'),
        (Level.LOW, "1"),
        (Pair(1, 2), "[1,2]"),
        (User(1, datetime(2020, 1, 1)), '{"id":1,"when":"2020-01-01T00:00:00.000Z","kind":"a"}'),
        (Row(1, "x"), '{"type":"row","id":1,"fullName":"x"}'),
        (Account(id=1, more=[1]), '{"id":1,"when":null,"more":[1]}'),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_written_as_javascript_does(value: Any, text: str) -> None:
    assert dumps(value) == text.encode("utf-8", "surrogatepass")


deep: Any = 1
for _ in range(MAX_DEPTH + 1):
    deep = [deep]


@pytest.mark.parametrize(
    ("value", "path", "remedy"),
    [
        ({"a": [0, 2**53]}, "value['a'][1]", "str(...)"),
        (-(2**53), "value", "str(...)"),
        ({2**53: 1}, "value[9007199254740992]", "str(...)"),
        ([Decimal(1)], "value[0]", "str(...)"),
        ({"a": {1}}, "value['a']", "list(...)"),
        ({"a": b"x"}, "value['a']", "native"),
        (time(), "value", "native"),
        (timedelta(1), "value", "native"),
        (User(2**60), "value.id", "str(...)"),
        ({(1, 2): 3}, "value[<tuple>]", "str(...)"),
        ({Kind.A: 3}, "value[<Kind>]", "str(...)"),
        ({1: "a", "1": "b"}, "value['1']", "same name"),
        ({"\ud83d\ude00": 1, "😀": 2}, "value['😀']", "same name"),
        ({None: 1, "null": 2}, "value['null']", "same name"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "value", "years"),
        (type("S", (str,), {})("x"), "value", "native"),
        (deep, "value" + "[0]" * 10 + "..." + "[0]" * 5, "deeper"),
        (print, "value", "cannot carry"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_json_cannot_carry_is_refused_with_its_place(value: Any, path: str, remedy: str) -> None:
    with pytest.raises(CodecError) as caught:
        dumps(value)
    assert caught.value.path == path
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "wanted", "expected"),
    [
        (dumps(User(1, datetime(2020, 1, 1))), User, User(1, datetime(2020, 1, 1, tzinfo=UTC))),
        (dumps(Row(1, "x")), Row, Row(1, "x")),
        (dumps([Account(id=1, more=2)]), list[Account], [Account(id=1, more=2)]),
        (b'{"1":2}', dict[int, int], {1: 2}),
        (b"1.10", Decimal, Decimal("1.10")),
        (b'"00000000-0000-0000-0000-000000000001"', UUID, UUID(int=1)),
        (b"[1,2]", Pair, Pair(1, 2)),
        (b"[1]", set[int], {1}),
        (b'"a"', Kind, Kind.A),
        (b"1", Any, 1),
    ],
    ids=str,
)
def test_decoding_to_a_type(raw: bytes, wanted: Any, expected: Any) -> None:
    again = loads(raw, wanted)
    assert again == expected
    assert type(again) is type(expected)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"NaN", b"[1,]", b"'a'", b"1 2", b"\xef\xbb\xbf1", b"[" * 100_000, b'"\xff"']
)
def test_what_is_no_json_is_undecodable(raw: bytes) -> None:
    with pytest.raises(Undecodable):
        loads(raw)


@pytest.mark.parametrize(("raw", "wanted"), [(b'"x"', int), (b"{}", User), (b'{"id":"no"}', Account), (b"1", "odd")])
def test_what_does_not_fit_the_type_is_undecodable(raw: bytes, wanted: Any) -> None:
    with pytest.raises(Undecodable):
        loads(raw, wanted)


safe_integers = st.integers(-(2**53) + 1, 2**53 - 1)
text = st.text(st.characters(exclude_categories=()))
names = text | st.integers(-3, 2**32 + 3).map(str) | st.sampled_from(["__proto__", "00", "4294967294", "4294967295"])
plain = st.recursive(
    st.none() | st.booleans() | safe_integers | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
    max_leaves=15,
)


def same_after_utf16(value: Any) -> bool:
    """Whether no two names in it are one in JavaScript."""
    try:
        dumps(value)
    except CodecError:
        return False
    return True


@needs_node
@settings(max_examples=6, deadline=None)
@given(st.lists(plain.filter(same_after_utf16), min_size=50, max_size=200))
def test_any_value_is_written_as_node_writes_it(batch: list[Any]) -> None:
    # json.dumps and JSON.parse agree on the value; what is compared is how it is written.
    assert [dumps(value) for value in batch] == node([json.dumps(value) for value in batch])


@needs_node
@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1) | st.floats(), min_size=300, max_size=1000))
def test_any_double_is_written_as_node_writes_it(batch: list[Any]) -> None:
    doubles = [struct.pack(">Q" if type(number) is int else ">d", number) for number in batch]
    assert [dumps(struct.unpack(">d", double)[0]) for double in doubles] == node([f"bits:{d.hex()}" for d in doubles])


@needs_node
def test_doubles_at_every_power_are_written_as_node_writes_them() -> None:
    doubles = [
        sign * digits * 10.0**power for power in range(-30, 30) for digits in (1, 1.5, 9.999, 3) for sign in (1, -1)
    ]
    doubles += [2.0**power for power in range(-1074, 1024)]
    assert [dumps(double) for double in doubles] == node([f"bits:{struct.pack('>d', d).hex()}" for d in doubles])


@needs_node
@settings(max_examples=6, deadline=None)
@given(st.lists(st.datetimes(), min_size=50, max_size=300))
def test_datetimes_are_written_as_node_writes_them(batch: list[datetime]) -> None:
    elapsed = [(moment - datetime(1970, 1, 1)) // timedelta(milliseconds=1) for moment in batch]
    assert [dumps(moment) for moment in batch] == node([f"iso:{ms}" for ms in elapsed])
