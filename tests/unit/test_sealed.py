"""Encrypted and signed values: what was not sealed with a known key, for this key, with this header, is a miss."""

from __future__ import annotations

import hmac
import pickle
import sys
from base64 import b64encode
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn
from zlib import crc32

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nearcache import (
    AsyncCache,
    Cache,
    CodecError,
    ConfigurationError,
    Settings,
    SettingsConflict,
    get_multi_redis_connection_manager,
)
from nearcache.codec import Codec, Miss
from nearcache.codec.sealed import SealedCodec, make_codec
from nearcache.core.found import Found, judge
from nearcache.core.keys import Namespace
from nearcache.errors import ValueTooLarge
from nearcache.transport.memory import MemoryStore, get_store

SITE = Namespace("app")
KEY = SITE.key("user:1")
TAG = SITE.tag("a-tag")
KNOWN = {SITE.counter: (7, 0), SITE.tag_counter(TAG): (3, 0)}
SECRETS = [bytes([n]) * 32 for n in range(1, 5)]
ONE, TWO, THREE, SHORT = [b64encode(secret).decode() for secret in (*SECRETS[:3], b"s" * 16)]
VALUE = {"name": "Ada Lovelace", "tags": ("a", "b"), "n": 1}
LONG = [{"id": n, "name": f"user {n}", "at": (n,)} for n in range(60)]
MISSES = (Miss.UNDECODABLE, Miss.FOREIGN)


def make(encryption_keys: str = "", signing_keys: str = "", *, pickle: bool = False, **options: Any) -> Codec:
    options = {"wire": "native", "compress_min": 1024, "max_value": 2**20} | options
    return make_codec(encryption_keys=encryption_keys, signing_keys=signing_keys, pickle=pickle, **options)


CODECS = {
    "encrypted": make(ONE),
    "aes-128": make(SHORT),
    "signed": make("", ONE),
    "both": make(ONE, TWO),
    "pickling": make("", ONE, pickle=True),
}
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def read(codec: Codec, raw: bytes, key: bytes = KEY) -> Any:
    """What both ways of reading agree on, where the value has neither grace nor tags."""
    found = judge(codec, SITE, key, raw, -1, KNOWN)
    assert isinstance(found, Found), "counters are asked for on the word of whoever wrote this"
    value = codec.load(found.payload, found.envelope is None) if found.miss is None else found.miss
    if found.miss is not None or not (found.envelope and (found.envelope.tags or found.envelope.grace_ms)):
        decoded = codec.decode(raw, key, 7)
        assert decoded is value or decoded == value
    return value


def store(codec: Codec, value: Any, *, tagged: bool = False, key: bytes = KEY) -> bytes:
    if tagged:
        return codec.encode(value, key, 7, 5000, created_ms=1_700_000_000_123, load_ms=4, tags=[(TAG, 3)])
    return codec.encode(value, key, 7)


class Odd:
    """What only pickle can carry."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return type(other) is Odd and other.content == self.content

    __hash__ = None  # type: ignore[assignment]


ran: list[str] = []


def explode() -> None:
    ran.append("boom")


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return explode, ()


@every_codec
@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("value", [VALUE, LONG, None, "", b"\0" * 5000])
def test_what_is_sealed_is_read(codec: Codec, value: Any, tagged: bool) -> None:
    assert read(codec, store(codec, value, tagged=tagged)) == value
    assert codec.decode(store(codec, value), KEY, 8) is Miss.INVALIDATED
    assert codec.decode(store(codec, value, tagged=True), KEY, 7) is Miss.UNSETTLED


def test_layout_of_encryption() -> None:
    raw = store(CODECS["encrypted"], VALUE, tagged=True)
    key_id = hmac.digest(SECRETS[0], b"nearcache key id", "sha256")[:4]
    assert (raw[0], raw[1], raw[2], raw[3], raw[40:44]) == (0xC1, 1, 2 | 4, 1, key_id)
    opened = AESGCM(SECRETS[0]).decrypt(raw[44:56], raw[56:], raw[:44] + KEY)
    plain = store(Codec(), VALUE, tagged=True)
    assert opened == plain[40:]
    assert len(raw) == len(plain) + 4 + 12 + 16
    header = bytearray(raw[:40])
    header[2] ^= 4
    assert header[:4] + header[12:] == plain[:4] + plain[12:40]


def test_layout_of_signing() -> None:
    raw = store(CODECS["signed"], VALUE, tagged=True)
    key_id = hmac.digest(SECRETS[0], b"nearcache key id", "sha256")[:4]
    message = raw[:44] + len(KEY).to_bytes(4, "big") + KEY + raw[76:]
    assert (raw[2], raw[40:44]) == (2 | 8, key_id)
    assert raw[44:76] == hmac.digest(SECRETS[0], message, "sha256")
    assert raw[76:] == store(Codec(), VALUE, tagged=True)[40:]


def test_what_is_encrypted_is_not_in_the_bytes_and_never_the_same() -> None:
    codec = CODECS["both"]
    raws = [store(codec, VALUE, tagged=True) for _ in range(200)]
    for raw in raws:
        assert not any(word in raw for word in (b"name", b"Ada", TAG))
    assert len({raw[80:92] for raw in raws}) == len({raw[92:] for raw in raws}) == 200


def test_values_are_compressed_before_they_are_encrypted() -> None:
    raw = store(CODECS["encrypted"], ["x" * 100] * 100)
    assert raw[2] == 1 | 4
    assert len(raw) < 200


@pytest.mark.parametrize("which", ["encrypted", "signed", "both"])
def test_rotation(which: str) -> None:
    def make_with(keys: str) -> Codec:
        return make(keys if which != "signed" else "", keys if which != "encrypted" else "")

    old, both, new = make_with(ONE), make_with(f"{TWO}, {ONE}"), make_with(TWO)
    ahead = make_with(f"{ONE},{TWO}")  # the first step: every process can read what is to come
    assert read(ahead, store(both, VALUE)) == read(both, store(ahead, VALUE)) == VALUE
    assert read(old, store(ahead, VALUE)) == read(new, store(both, VALUE)) == VALUE
    assert read(new, store(old, VALUE)) is read(old, store(both, VALUE)) is Miss.UNDECODABLE


# -- tampering


@every_codec
@pytest.mark.parametrize(("value", "tagged"), [(VALUE, False), (VALUE, True), (LONG, True)])
def test_every_flipped_bit_is_a_miss(codec: Codec, value: Any, tagged: bool) -> None:
    flip(codec, value, tagged=tagged)


def test_every_flipped_bit_of_a_pickle_is_a_miss() -> None:
    for codec in (CODECS["pickling"], make(ONE, TWO, pickle=True)):
        flip(codec, Odd(1))
        flip(codec, Odd([1] * 2000), tagged=True)


def flip(codec: Codec, value: Any, *, tagged: bool = False) -> None:
    raw = store(codec, value, tagged=tagged)
    for at in range(len(raw)):
        for bit in range(8):
            changed = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
            assert read(codec, changed) in MISSES, (at, bit)
    assert read(codec, raw) == value


@every_codec
def test_every_byte_replaced_by_any_other_is_a_miss(codec: Codec) -> None:
    raw = store(codec, 1)
    for at in range(len(raw)):
        for byte in set(range(256)) - {raw[at]}:
            assert read(codec, raw[:at] + bytes([byte]) + raw[at + 1 :]) in MISSES, (at, byte)


@every_codec
@pytest.mark.parametrize("tagged", [False, True])
def test_every_truncation_and_extension_is_a_miss(codec: Codec, tagged: bool) -> None:
    raw = store(codec, VALUE, tagged=tagged)
    for size in range(1, len(raw)):
        assert read(codec, raw[:size]) in MISSES
        assert read(codec, raw[size:]) in MISSES
        assert read(codec, raw[:size] + raw[size + 1 :]) in MISSES
    for more in (b"\0", raw, bytes(4096)):
        assert read(codec, raw + more) in MISSES
    assert read(codec, b"") is Miss.UNDECODABLE


@every_codec
def test_a_value_under_another_key_is_a_miss(codec: Codec) -> None:
    """Also where the CRC-32 of the two keys, which anybody can make equal, is."""
    other = b"app:user:2"
    assert read(codec, store(codec, VALUE), other) is Miss.UNDECODABLE
    raw = store(codec, VALUE)
    forged = raw[:12] + crc32(other).to_bytes(4, "big") + raw[16:]
    assert read(codec, forged, other) is Miss.UNDECODABLE


@every_codec
def test_parts_of_two_values_make_none(codec: Codec) -> None:
    one, two = store(codec, "one"), store(codec, "two")
    assert len(one) == len(two)
    for cut in range(1, len(one)):
        if one[cut:] != two[cut:] and one[:cut] != two[:cut]:
            assert read(codec, one[:cut] + two[cut:]) in MISSES


@every_codec
def test_where_a_key_ends_is_sealed(codec: Codec) -> None:
    """What follows a key in what is signed must not pass for a part of it."""
    raw = store(codec, VALUE, key=b"app:user")
    for key in (b"app:user:", b"app:use", raw[40:] + b"app:user"):
        assert read(codec, raw, key) is Miss.UNDECODABLE


@every_codec
@pytest.mark.parametrize("raw", [store(Codec(), VALUE), store(Codec(), VALUE, tagged=True), b'{"a": 1}', b"1", b"\xc1"])
def test_what_is_not_sealed_is_a_miss(codec: Codec, raw: bytes) -> None:
    assert read(codec, raw) is Miss.UNDECODABLE


def test_one_seal_does_not_stand_for_another() -> None:
    encrypted, signed, both = CODECS["encrypted"], make("", TWO), CODECS["both"]
    raws = [store(codec, VALUE) for codec in (encrypted, signed, both)]
    for codec in (encrypted, signed, both, Codec()):
        own = [isinstance(codec, SealedCodec) and codec is writer for writer in (encrypted, signed, both)]
        assert [read(codec, raw) == VALUE for raw in raws] == own
    raw = store(both, VALUE)
    # What was signed around it taken away, and the flag with it: the header is associated data, too.
    stripped = raw[:2] + bytes([raw[2] & ~8]) + raw[3:40] + raw[76:]
    assert read(encrypted, stripped) is Miss.UNDECODABLE


def test_without_keys_what_is_sealed_is_a_miss() -> None:
    for codec in CODECS.values():
        for tagged in (False, True):
            raw = store(codec, VALUE, tagged=tagged)
            assert Codec().decode(raw, KEY, 7) is Codec().open(raw, KEY) is Miss.UNDECODABLE


@every_codec
def test_what_a_newer_release_writes_is_not_to_be_overwritten(codec: Codec) -> None:
    raw = store(codec, VALUE)
    assert read(codec, b"\xc1\x02" + raw[2:]) is Miss.FOREIGN
    assert read(codec, b"\xc1\x02") is Miss.FOREIGN
    assert read(codec, raw[:2] + bytes([raw[2] | 16]) + raw[3:]) is Miss.FOREIGN


# -- pickles


def test_what_the_codec_cannot_encode_is_pickled() -> None:
    codec = make("", ONE, pickle=True)
    for value in (Odd([1, Odd(2)]), OrderedDict(a=1), Counter("aab"), {"a": [Odd("x" * 5000)]}):
        raw = store(codec, value)
        assert raw[3] == 2
        assert read(codec, raw) == value
        assert type(read(codec, raw)) is type(value)
    assert store(codec, VALUE)[3] == 1  # nothing that can do without
    tagged = store(codec, Odd(1), tagged=True)
    assert read(codec, tagged) == Odd(1)


def test_pickles_with_a_type() -> None:
    codec = make(TWO, ONE, pickle=True)
    raw = store(codec, Odd(1))
    assert codec.decode(raw, KEY, 7, Odd) == Odd(1)
    assert codec.decode(raw, KEY, 7, int) is Miss.UNDECODABLE
    raw = store(codec, OrderedDict(a=1))
    assert codec.decode(raw, KEY, 7, dict[str, int]) == {"a": 1}


@pytest.mark.parametrize("codec", [Codec(), make(ONE), make("", ONE), make(ONE, TWO)])
def test_without_asking_for_it_nothing_is_pickled(codec: Codec) -> None:
    with pytest.raises(CodecError) as caught:
        store(codec, [Odd(1)])
    assert caught.value.path == "value[0]"


def test_encryption_alone_pickles_nothing() -> None:
    codec = make(ONE, pickle=True)
    with pytest.raises(CodecError):
        store(codec, Odd(1))


def test_what_pickle_cannot_carry_either_is_the_codecs_error() -> None:
    class Worse(Odd):
        def __reduce__(self) -> NoReturn:
            raise ZeroDivisionError

    codec = CODECS["pickling"]
    for value in (lambda: 1, Worse(1), sys):
        with pytest.raises(CodecError) as caught:
            store(codec, {"a": value})
        assert caught.value.path == "value['a']"
    with pytest.raises(ValueTooLarge):
        store(codec, Odd("x" * 2**20))
    many = ["x" * 1000] * 2000  # of which a pickle would be small
    with pytest.raises(ValueTooLarge):
        store(codec, many)


def test_nothing_is_unpickled_before_its_signature_was_found_right() -> None:
    codec, reader = make("", ONE, pickle=True), make("", TWO, pickle=True)
    ran.clear()
    raw = store(codec, Bomb())
    payload = pickle.dumps(Bomb())
    header = store(Codec(), 1)[:3] + b"\x02" + store(Codec(), 1)[4:40]
    forged = [header + payload, header[:2] + b"\x08" + header[3:] + raw[40:76] + payload, payload, raw]
    forged += [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw))]
    for candidate in forged:
        for other in (Codec(), make("", TWO), make(TWO, THREE), reader):
            assert read(other, candidate) in MISSES
    for candidate in forged[:3] + forged[4:]:
        assert read(codec, candidate) in MISSES
    assert ran == []
    assert read(codec, raw) is None  # what it returns: so much for what a key allows
    assert ran == ["boom", "boom"]


def test_a_pickle_is_not_read_where_none_is_asked_for() -> None:
    ran.clear()
    assert read(make("", ONE), store(CODECS["pickling"], Bomb())) is Miss.UNDECODABLE
    assert read(make("", ONE), store(CODECS["pickling"], VALUE)) == VALUE
    assert ran == []


def test_a_payload_counts_as_a_pickle_only_when_it_was_verified() -> None:
    codec, ran[:] = CODECS["pickling"], []
    opened = codec.unseal(store(codec, Bomb()), KEY)
    assert isinstance(opened, bytes)
    copied = bytes(opened)
    assert codec.open(copied, KEY) is Miss.FOREIGN
    envelope: Any = codec.open(opened, KEY)
    assert codec.load(codec.payload(copied, envelope), is_json=False) is Miss.UNDECODABLE
    assert ran == []


def test_a_class_that_is_gone_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = store(CODECS["pickling"], Odd(1))
    monkeypatch.delattr(sys.modules[__name__], "Odd")
    assert read(CODECS["pickling"], raw) is Miss.UNDECODABLE


# -- through a cache


@pytest.fixture
async def caches(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    """Makes caches on a store of this test's, each with the settings it is given."""
    name = f"sealed-{request.node.name.encode().hex()[-40:]}"

    async def connect(near: bool | None = False, **values: Any) -> AsyncCache:
        await get_multi_redis_connection_manager().disconnect_all()
        cache = AsyncCache(60, "app", near=near, **values.pop("options", {}))
        await cache.initialize(Settings(_env_file=None, redis_url=f"memory://{name}", **values))
        return cache

    connect.store = get_store(name, 0, 10_000, 64 * 2**20)  # type: ignore[attr-defined]
    yield connect
    await get_multi_redis_connection_manager().disconnect_all()


MODES: list[dict[str, Any]] = [
    {"encryption_keys": ONE},
    {"signing_keys": ONE},
    {"encryption_keys": ONE, "signing_keys": TWO, "pickle": True},
]


@pytest.mark.parametrize("near", [False, None], ids=["server", "near"])
@pytest.mark.parametrize("keys", MODES, ids=["encrypted", "signed", "both"])
async def test_a_cache_with_keys(caches: Any, keys: dict[str, Any], near: bool | None) -> None:
    cache = await caches(near, **keys)
    assert await cache.set("a", VALUE, tags=["t"], grace=5)
    assert (b"Ada" in caches.store.execute(("GET", b"app:a"))) == ("encryption_keys" not in keys)
    assert await cache.get("a") == await cache.get("a") == VALUE
    assert await cache.set_many({"b": LONG, "c": None})
    assert await cache.get_many(["a", "b", "c"]) == {"a": VALUE, "b": LONG, "c": None}
    assert await cache.get_or_set("d", lambda: (1, {2})) == await cache.get("d") == (1, {2})
    assert await cache.exists("b")
    assert await cache.ttl("a") == 60
    assert cache.sync().get("b") == LONG
    assert (await cache.lookup("a")).state == "fresh"
    await cache.expire_tags("t")
    assert not await cache.exists("a")
    assert (await cache.lookup("a")).value == VALUE
    await cache.invalidate_tags("t")
    assert (await cache.lookup("a")).value is None
    assert await cache.delete("b")
    assert await cache.clear() == 3
    assert cache.get_stats().undecodable == 0


async def test_a_tampered_value_is_a_counted_miss_that_a_load_replaces(caches: Any) -> None:
    store: MemoryStore = caches.store
    cache = await caches(encryption_keys=ONE)
    await cache.set("a", VALUE)
    await cache.set("b", LONG, tags=["t"])
    good = store.execute(("GET", b"app:a"))
    long = {"x": [str(n) for n in range(2000)]}  # more than a probe reads
    await cache.set("c", long)
    assert await cache.ttl("c") == 60
    longer = store.execute(("GET", b"app:c"))
    assert len(longer) > 2048
    bad = [
        longer[:-1] + b"x",
        longer,
        good[:-1] + b"x",
        store.execute(("GET", b"app:b")),
        b'{"a": 1}',
        store_plain(),
        good[:30],
    ]
    bad.append(good[:24] + b"\xff" * 8 + good[32:])  # the version
    for count, raw in enumerate(bad, 1):
        store.execute(("SET", b"app:a", raw))
        cache.reset_stats()
        assert await cache.get("a", "nothing") == "nothing"
        assert await cache.get_many(["a"]) == {}
        assert cache.get_stats().undecodable == cache.get_stats().misses == 2
        assert not await cache.exists("a")
        assert (await cache.lookup("a")).state == "unreadable"
        assert await cache.get_or_set("a", lambda count=count: count) == await cache.get("a") == count


def store_plain() -> bytes:
    return store(Codec(), VALUE, key=b"app:a")


async def test_values_from_before_there_were_keys_and_from_after_are_misses(caches: Any) -> None:
    cache = await caches()
    await cache.set("a", VALUE)
    cache = await caches(signing_keys=ONE)
    assert await cache.get("a") is None
    await cache.set("a", VALUE)
    cache = await caches(signing_keys=f"{TWO},{ONE}")
    assert await cache.get("a") == VALUE
    cache = await caches()
    assert await cache.get("a") is None
    assert await cache.get_or_set("a", lambda: 1) == await cache.get("a") == 1


@pytest.mark.parametrize("near", [False, None], ids=["server", "near"])
async def test_pickled_values_are_copies_near_and_far(caches: Any, near: bool | None) -> None:
    cache = await caches(near, signing_keys=ONE, pickle=True)
    await cache.set("a", Odd([]))
    for _ in range(3):
        value = await cache.get("a")
        assert value == Odd([])
        value.content.append("changed by a caller")
    assert (cache._core.hit("a") == Odd([])) == (near is None)
    assert await cache.get("a", type=Odd) == Odd([])
    assert await cache.get_or_set("b", lambda: Odd({})) == await cache.get("b") == Odd({})
    assert cache.sync().get("a") == Odd([])


async def test_bare_json_cannot_be_sealed(caches: Any) -> None:
    with pytest.raises(ConfigurationError, match="NEARCACHE_ENCRYPTION_KEYS"):
        await caches(encryption_keys=ONE, options={"wire": "json"})
    with pytest.raises(ConfigurationError, match="NEARCACHE_SIGNING_KEYS"):
        await caches(signing_keys=ONE, options={"wire": "json"})


async def test_a_client_that_is_up_has_other_keys(caches: Any) -> None:
    cache = await caches(encryption_keys=ONE)
    url = cache._core.client.settings.redis_url
    for values, named in (
        ({}, "encryption_keys"),
        ({"encryption_keys": TWO}, "encryption_keys"),
        ({"encryption_keys": ONE, "signing_keys": ONE, "pickle": True}, "signing_keys, pickle"),
    ):
        with pytest.raises(SettingsConflict, match=named) as caught:
            Cache(60, "other").initialize(Settings(_env_file=None, redis_url=url, **values))
        assert ONE not in str(caught.value)
        assert TWO not in str(caught.value)


async def test_encryption_needs_its_package(caches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ConfigurationError, match=r"nearcache\[crypto\]"):
        await caches(encryption_keys=ONE)
    cache = await caches(signing_keys=ONE)
    assert await cache.set("a", 1)
