"""What is fuzzed: each target takes bytes and raises when something does not hold. A rejected input is no find."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as once
from itertools import cycle
from typing import Any, NamedTuple

import hiredis

from nearcache import Cache, Settings
from nearcache.client import Client
from nearcache.codec import Codec, Miss, values, wire_json
from nearcache.codec.failures import Undecodable
from nearcache.codec.sealed import make_codec
from nearcache.core.found import Found, judge
from nearcache.core.keys import Namespace
from nearcache.errors import CodecError, CommandRefused, ConfigurationError, ConnectionFailed
from nearcache.tiers.memory import NearTier
from nearcache.transport.endpoint import Endpoint, parse_url, redact_url, replace_db
from nearcache.transport.hello import shake_hands
from nearcache.transport.memory import get_store
from nearcache.transport.thread_wire import ThreadWaiter, ThreadWire
from nearcache.transport.wire import Batch, Wire, announce

from . import seeds

__all__ = ["TARGETS", "Target"]


class Target(NamedTuple):
    """What takes the bytes, what they begin from, and its share of the inputs."""

    run: Callable[[bytes], object]
    seeds: list[bytes]
    share: int


@dataclass
class User:
    """What a caller may ask for by ``type=``."""

    name: str
    age: int


TYPES: tuple[Any, ...] = (None, int, str, list[int], dict[str, Any], User, list[User])
SITE = Namespace("app")
KEY = SITE.key("user:1")
_NOTHING = object()


# -- the stream of replies


class _Slot:
    """Waits for one reply."""

    def __init__(self) -> None:
        self.replies: list[Any] = []

    def done(self) -> bool:
        return bool(self.replies)

    def set_result(self, result: Any, /) -> None:
        assert not self.replies, "a second reply"
        self.replies.append(result)

    def set_exception(self, exception: Exception, /) -> None:
        assert isinstance(exception, ConnectionFailed), exception
        self.set_result(exception)


class _Loop:
    """As much of an event loop as a wire asks for when nothing is written."""

    create_future = _Slot

    def call_soon(self, *_: Any) -> None: ...
    def is_closed(self) -> bool:
        return False


class _Transport:
    def get_extra_info(self, name: str) -> None: ...
    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


def _reader() -> hiredis.Reader:
    return hiredis.Reader(protocolError=ConnectionFailed, replyError=CommandRefused, notEnoughData=_NOTHING)


def _pieces(data: bytes) -> list[bytes]:
    """The stream, cut as its first bytes say: a network cuts anywhere."""
    sizes, stream = cycle([1 + byte for byte in data[:3]] or [1]), data[3:]
    pieces = []
    while stream:
        size = next(sizes)
        pieces.append(stream[:size])
        stream = stream[size:]
    return pieces


def _replies(stream: bytes, most: int) -> tuple[list[Any], bool]:
    """What the parser makes of the whole stream at once, without pushes: so many replies, and whether it then ended."""
    reader, replies = _reader(), list[Any]()
    near = NearTier(8, 4096, 1.0)
    try:
        reader.feed(stream)
        while (reply := reader.gets()) is not _NOTHING:
            if isinstance(reply, hiredis.PushNotification):
                if reply[0] == b"invalidate":
                    near.revoked(reply[1])
            elif len(replies) == most:
                return replies, True  # nobody asked for it
            else:
                replies.append(reply)
    except Exception:
        return replies, True
    return replies, False


# hiredis makes a list as soon as it has read how long it is to be: 13 bytes take seconds, of a push also 800 MB.
# Nothing in Python stands before that, so such streams are left out here.
_is_bomb = re.compile(rb"[*>%~|][+-]?0*[1-9][0-9]{6,9}(?![0-9])").search


def wire(data: bytes) -> None:
    """Each waiter gets its own reply or an error, however the stream is cut."""
    stream = data[3:]
    if _is_bomb(stream):
        return
    listener = NearTier(8, 4096, 1.0)
    one = Wire(_Loop(), 1.0)  # type: ignore[arg-type]
    one.connection_made(_Transport())  # type: ignore[arg-type]
    one.on_push = lambda push: announce(push, listener)
    first, batch, last = _Slot(), _Slot(), _Slot()
    one.send(b"?", first)
    one.send_many([b"?", b"?"], Batch(batch, 2, None))
    one.send(b"?", last)
    for piece in _pieces(data):
        if one.error is None:
            one.data_received(piece)
    replies, ended = _replies(stream, 4)
    _same([first.replies, batch.replies, last.replies], replies, ended=ended)
    assert (one.error is not None) == ended
    one.connection_lost(None)
    assert first.done()
    assert batch.done()
    assert last.done()


def _same(slots: list[list[Any]], replies: list[Any], *, ended: bool) -> None:
    wanted = [replies[:1], replies[1:3], replies[3:4]]
    for slot, own, size in zip(slots, wanted, (1, 2, 1), strict=True):
        if len(own) == size:
            assert repr(slot[0]) == repr(own if size > 1 else own[0]), "another's reply"
        elif ended:
            assert isinstance(slot[0], ConnectionFailed)
        else:
            assert not slot


def thread_wire(data: bytes) -> None:
    """The same for threads: what is no reply is ``ConnectionFailed``."""
    stream = data[3:]
    if _is_bomb(stream):
        return
    one = ThreadWire(None, NearTier(8, 4096, 1.0))  # type: ignore[arg-type]
    waiters = [ThreadWaiter(b"?", count, None, math.inf) for count in (1, 2, 1)]
    one.waiting.extend(waiters)
    failed = False
    try:
        for piece in _pieces(data):
            one.take(piece)
    except ConnectionFailed:
        failed = True
    replies, ended = _replies(stream, 4)
    assert failed == ended
    got = [reply for waiter in waiters for reply in waiter.replies]
    assert repr(got) == repr(replies)
    assert [waiter.done for waiter in waiters] == [len(replies) >= count for count in (1, 3, 4)]


def handshake(data: bytes) -> None:
    """Whatever answers HELLO: a greeting or ``ConnectionFailed``."""
    if _is_bomb(data[1:]):
        return
    flags = data[0] if data else 0
    endpoint = Endpoint(kind="tcp", host="h", db=flags & 1, password="p" if flags & 2 else None)
    conversation = shake_hands(endpoint, "name", 7 if flags & 4 else None, track_all=bool(flags & 8))
    reader = _reader()
    try:
        reader.feed(data[1:])
        waiting = len(conversation.send(None))  # type: ignore[arg-type]
        replies: list[Any] = []
        while True:
            try:
                reply = reader.gets()
            except Exception:  # for the wire to tell
                return
            if reply is _NOTHING:
                return
            replies.append(reply)
            if len(replies) == waiting:
                waiting, replies = len(conversation.send(replies)), []
    except StopIteration as stop:
        identity, server, tracks, clock, history = stop.value
        assert identity is None or isinstance(identity, int)
        assert isinstance(server, str)
        assert isinstance(tracks, bool)
        assert math.isfinite(clock)
        assert history.id
    except ConnectionFailed:
        pass


# -- what is stored


def _codec(encryption: str = "", signing: str = "", *, pickle: bool = False) -> Codec:
    return make_codec(
        wire="native",
        compress_min=64,
        max_value=2**20,
        encryption_keys=encryption,
        signing_keys=signing,
        pickle=pickle,
    )


_PLAIN = _codec()
_SEALED = [_codec(seeds.AES), _codec("", seeds.HMAC, pickle=True), _codec(seeds.AES, seeds.HMAC)]
_STRANGERS = [_codec(seeds.HMAC), _codec("", seeds.AES), _codec(seeds.HMAC, seeds.AES)]
_KNOWN = {SITE.counter: (7, 0), SITE.tag_counter(SITE.tag("t")): (3, 0)}


def _read(codec: Codec, raw: bytes, type: Any = None) -> Any:
    found = judge(codec, SITE, KEY, raw, -1, _KNOWN)
    if not isinstance(found, Found):
        assert all(isinstance(counter, bytes) for counter in found)
        return Miss.UNSETTLED
    return codec.load(found.payload, found.envelope is None, type) if found.miss is None else found.miss


def envelope(data: bytes) -> None:
    """Both ways to read a value agree, and never raise."""
    for wanted in (None, TYPES[len(data) % len(TYPES)]):
        value, decoded = _read(_PLAIN, data, wanted), _PLAIN.decode(data, KEY, 7, wanted)
        assert decoded is Miss.UNSETTLED or repr(decoded) == repr(value)


def sealed(data: bytes) -> None:
    """Nobody without the keys makes anything that is read."""
    for codec in _SEALED:
        for value in (_read(codec, data), codec.decode(data, KEY, 7)):
            assert value in (Miss.UNDECODABLE, Miss.FOREIGN), value


def resealed(data: bytes) -> None:
    """An envelope that was sealed and then changed: the first bytes say where and how, the others are the value."""
    if len(data) < 4:
        return
    codec, at = _SEALED[data[0] % len(_SEALED)], int.from_bytes(data[1:3], "big")
    raw = codec.encode(data[4:], KEY, 7)
    assert _read(codec, raw) == data[4:]
    at %= len(raw)
    for changed in (
        raw[:at] + bytes([raw[at] ^ (data[3] or 1)]) + raw[at + 1 :],
        raw[:at],
        raw + data[3:],
        raw[at + 1 :],
    ):
        for value in (_read(codec, changed), codec.decode(changed, KEY, 7)):
            assert value in (Miss.UNDECODABLE, Miss.FOREIGN), value


def native(data: bytes) -> None:
    """What can be read can be written, and is then the same."""
    try:
        value = values.loads(data)
    except Undecodable:
        pass
    else:
        try:
            written = values.dumps(value)
        except CodecError:
            written = None  # deeper than is written, or of a kind that only bytes can make
        if written is not None:
            again = values.loads(written)
            assert type(again) is type(value)
            assert values.dumps(again) == written
    for wanted in TYPES:
        with suppress(Undecodable):
            values.loads(data, wanted)


def json_values(data: bytes) -> None:
    """What is read as JSON is what Python's own reader reads."""
    try:
        value = wire_json.loads(data)
    except Undecodable:
        return
    assert repr(value) == repr(json.loads(data, parse_float=float))
    for wanted in TYPES:
        with suppress(Undecodable):
            wire_json.loads(data, wanted)
    try:
        written = wire_json.dumps(value)
    except CodecError:
        return
    assert json.loads(written, parse_int=float) == json.loads(data, parse_int=float)  # JavaScript has no other numbers


@once
def _stored() -> tuple[Cache, Any]:
    settings = Settings(_env_file=None, redis_url="memory://fuzz", near_entries=16, load_timeout=5)
    client = Client("fuzz", settings.endpoint("cache"), settings)  # the process's own clients are other tests'
    client.connect_threads()
    cache = Cache(60, "app")
    cache._core.bind(client)
    return cache, get_store("fuzz", 0, 1, 1)


def stored(data: bytes) -> None:
    """Whatever stands under a cache's keys on the server: reads are hits or misses, a load mends the key."""
    cache, store = _stored()
    size = data[0] if data else 0
    counter, tag, value = data[1 : 1 + size % 32], data[33 : 33 + size // 32], data[41:]
    for key, content in ((SITE.counter, counter), (SITE.tag_counter(SITE.tag("t")), tag), (KEY, value)):
        store.execute(("SET", key, content) if content else ("UNLINK", key))
    cache.get("user:1")
    cache.get_many(["user:1", "user:2"])
    cache.ttl("user:1")
    cache.lookup("user:1")
    cache.set("user:1", 1, tags=["t"])
    cache.get("user:1")
    store.execute(("SET", KEY, value))
    cache.get_or_set("user:1", lambda: 5, tags=["t"])
    cache.expire("user:1", 60)
    cache.delete("user:1")
    cache.invalidate_tags("t")
    cache.clear()


# -- text


def url(data: bytes) -> None:
    """An endpoint, or an error; the password in neither."""
    text = data.decode("utf-8", "replace")
    shown, endpoint = redact_url(text), None
    try:
        endpoint = parse_url(text, variable="REDIS_URL")
    except ConfigurationError as error:
        told = str(error)
    else:
        told = f"REDIS_URL={shown!r} {endpoint} {endpoint!r}"
        assert parse_url(replace_db(text, 3), variable="REDIS_URL") == endpoint.with_db(3)
    assert told.startswith(f"REDIS_URL={shown!r}")
    assert text.count("@") != 1 or f":{seeds.PASSWORD}@" not in text or seeds.PASSWORD not in told


_FIELDS = list(Settings.model_fields)


def settings(data: bytes) -> None:
    """Settings that can describe themselves, or an error that names the variable; secrets in neither."""
    if not data:
        return
    name = _FIELDS[data[0] % len(_FIELDS)]
    text = data[1:].decode("utf-8", "surrogateescape" if data[0] & 128 else "replace")
    made = None
    try:
        made = Settings(_env_file=None, **{name: text})  # type: ignore[misc]
    except ConfigurationError as error:
        told = str(error)
        assert name.upper() in told
    else:
        told = f"{made!r} {made.describe()}"
        hash(made)
        made.endpoint("cache")
        made.endpoint("queue")
    if name in seeds.SECRETS and "url" not in name and len(text) > 15:
        assert text not in told


warnings.simplefilter("ignore")  # of patterns that are compiled, of dates

TARGETS: dict[str, Target] = {
    "wire": Target(wire, seeds.STREAMS, 20),
    "thread_wire": Target(thread_wire, seeds.STREAMS, 15),
    "handshake": Target(handshake, seeds.HANDSHAKES, 5),
    "envelope": Target(envelope, seeds.envelopes(_PLAIN, KEY), 15),
    "sealed": Target(sealed, seeds.tampered(_STRANGERS, KEY), 10),
    "resealed": Target(resealed, seeds.CHANGES, 5),
    "native": Target(native, seeds.PAYLOADS, 15),
    "json": Target(json_values, seeds.JSON, 10),
    "stored": Target(stored, seeds.stores(_PLAIN, KEY), 2),
    "url": Target(url, seeds.URLS, 7),
    "settings": Target(settings, seeds.SETTINGS, 1),
}
