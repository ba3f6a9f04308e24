"""The envelope and the codec's verdicts. Nothing that is found under a key makes ``decode`` raise."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import Any
from zlib import crc32

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from nearcache.codec import HEADER_SIZE, MAX_HEAD, Codec, Envelope, Miss
from nearcache.codec.envelope import compress, decompress
from nearcache.codec.failures import Undecodable
from nearcache.errors import CodecError, InvalidArgument, ValueTooLarge

KEY = b"app:user:1"
codec = Codec()
VALUE = {"name": "Ada", "tags": ("a", "b"), "n": 1}
LONG = [{"id": n, "name": f"user {n}", "at": (n,)} for n in range(100)]
WRITE_ID = int.from_bytes(b"w" * 8, "big")
TAGS = ((b"", 0), (b"user:1", 8), (b"x" * 233, 2**64 - 1))


def envelope(
    *, flags: int = 0, fmt: int = 1, version: int = 1, grace: int = 0, namespace: int = 7, payload: bytes = b"\x01"
) -> bytes:
    made = (5 << 16) + 6
    return struct.pack(">BBBB8sIQQQ", 0xC1, version, flags, fmt, b"w" * 8, crc32(KEY), grace, namespace, made) + payload


def tagged(*tags: tuple[bytes, int], size: int | None = None) -> bytes:
    """What stands before the payload of a value with tags."""
    block = b"".join(bytes([len(name)]) + name + number.to_bytes(8, "big") for name, number in tags)
    return (len(block) if size is None else size).to_bytes(2, "big") + block


def settle(raw: bytes, type: Any = Any) -> Any:
    """Read a value whose freshness somebody else has told."""
    head = codec.open(raw, KEY)
    if isinstance(head, Miss):
        return head
    return codec.load(codec.payload(raw, head), head is None, type)


def test_layout() -> None:
    raw = codec.encode(1, KEY, 7, 1500, created_ms=1_700_000_000_123, load_ms=4)
    magic, version, flags, fmt, write_id, key_hash, grace, namespace, made = struct.unpack(">BBBBQIQQQ", raw[:40])
    assert (magic, version, flags, fmt) == (0xC1, 1, 0, 1)
    assert (key_hash, grace, namespace) == (crc32(KEY), 1500, 7)
    assert (made >> 16, made & 0xFFFF) == (1_700_000_000_123, 4)
    assert raw[40:] == b"\x01"
    assert HEADER_SIZE == 40
    assert codec.open(raw[:40], KEY) == Envelope(0, write_id, 1500, 7, 1_700_000_000_123, 4, (), 40)


def test_layout_of_tags() -> None:
    raw = codec.encode(1, KEY, 7, tags=TAGS)
    assert raw[40:] == tagged(*TAGS) + b"\x01"
    head = codec.open(raw, KEY)
    assert isinstance(head, Envelope)
    assert (raw[2], head.flags, head.tags, head.start) == (2, 2, TAGS, len(raw) - 1)
    assert MAX_HEAD == 40 + 2 + 0xFFFF


def test_a_load_longer_than_there_is_room_for_took_the_longest() -> None:
    head = codec.open(codec.encode(1, KEY, 7, created_ms=9, load_ms=70_000), KEY)
    assert isinstance(head, Envelope)
    assert (head.created_ms, head.load_ms) == (9, 0xFFFF)


@settings(deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**63),
    st.integers(0, 2**48 - 1),
    st.integers(0, 0xFFFF),
    st.lists(st.tuples(st.binary(max_size=255), st.integers(0, 2**64 - 1)), max_size=20),
    st.sampled_from([VALUE, LONG]),
)
def test_what_is_packed_is_what_is_read(
    version: int, grace: int, created: int, load: int, tags: list[tuple[bytes, int]], value: Any
) -> None:
    raw = codec.encode(value, KEY, version, grace, created_ms=created, load_ms=load, tags=tags)
    head = codec.open(raw[:MAX_HEAD], KEY)
    assert isinstance(head, Envelope)
    assert (head.version, head.grace_ms, head.created_ms, head.load_ms) == (version, grace, created, load)
    assert head.tags == tuple(tags)
    assert settle(raw) == value
    assert codec.decode(raw, KEY, version) == (Miss.UNSETTLED if grace or tags else value)


def test_tags_may_have_64_kb_together() -> None:
    name = b"x" * 246  # 255 bytes with its length and version
    assert settle(codec.encode(1, KEY, 7, tags=[(name, 1)] * 257)) == 1
    with pytest.raises(InvalidArgument, match="258 tags"):
        codec.encode(1, KEY, 7, tags=[(name, 1)] * 258)


@pytest.mark.parametrize(
    "block",
    [
        tagged((b"abc", 1), size=11),
        tagged((b"abc", 1), size=13),
        b"\x00\x09\xff" + bytes(8),
        b"\xff\xff" + bytes(70_000)[:60_000],
        b"\x00",
        b"",
    ],
    ids=lambda block: block[:8].hex(),
)
def test_tags_that_are_not_exactly_their_block_are_undecodable(block: bytes) -> None:
    raw = envelope(flags=2, payload=block)
    assert codec.open(raw, KEY) is Miss.UNDECODABLE
    assert codec.decode(raw, KEY, 7) is Miss.UNDECODABLE


@pytest.mark.parametrize("wire", ["native", "json"])
@pytest.mark.parametrize("value", [VALUE, LONG, None])
def test_both_wires_read_an_envelope(wire: Any, value: Any) -> None:
    assert Codec(wire=wire).decode(codec.encode(value, KEY, 7), KEY, 7) == value


def test_write_ids_differ_also_between_forked_processes() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, codec.encode(1, KEY, 7)[4:12])
        os._exit(0)
    ids = {codec.encode(1, KEY, 7)[4:12] for _ in range(1000)}
    os.waitpid(child, 0)
    ids.add(os.read(read, 8))
    assert len(ids) == 1001


def test_compression_only_above_the_minimum_and_only_when_smaller() -> None:
    def flags(value: Any, **options: Any) -> int:
        raw = Codec(**options).encode(value, KEY, 7)
        assert codec.decode(raw, KEY, 7) == value
        return raw[2]

    assert flags("x" * 1021) == 0  # 3 bytes of msgpack header make 1024
    assert flags("x" * 1022) == 1
    assert flags("x" * 100, compress_min=99) == 1
    assert flags(os.urandom(5000)) == 0
    assert len(codec.encode(LONG, KEY, 7)) < 1500


def test_values_over_the_limit_are_refused_before_compression() -> None:
    small = Codec(max_value=1000)
    assert small.decode(small.encode("x" * 997, KEY, 7), KEY, 7) == "x" * 997
    for limited in (small, Codec(max_value=1000, wire="json")):
        with pytest.raises(ValueTooLarge, match="1,001"):
            limited.encode("x" * (998 if limited is small else 999), KEY, 7)


@pytest.mark.parametrize("wire", ["native", "json"])
def test_a_value_that_cannot_be_encoded(wire: Any) -> None:
    with pytest.raises(CodecError) as caught:
        Codec(wire=wire).encode({"a": [print]}, KEY, 7)
    assert caught.value.path == "value['a'][0]"


def test_json_is_bare_and_has_neither_grace_nor_tags() -> None:
    assert Codec(wire="json").encode({"a": 1.0}, KEY, 7, created_ms=1, load_ms=2) == b'{"a":1}'
    with pytest.raises(InvalidArgument, match="native"):
        Codec(wire="json").encode(1, KEY, 7, grace_ms=1)
    with pytest.raises(InvalidArgument, match="native"):
        Codec(wire="json").encode(1, KEY, 7, tags=[(b"a", 1)])


def test_foreign_json_is_read_in_both_wires() -> None:
    for wire in ("native", "json"):
        assert Codec(wire=wire).decode(b' {"a": [1, 2.5, null]}', KEY, 7) == {"a": [1, 2.5, None]}  # type: ignore[arg-type]
    assert codec.decode(b"[1]", KEY, 7, tuple[int, ...]) == (1,)


def sealed(flags: int) -> bytes:
    """What says that it is encrypted, or signed, where there is no key."""
    return envelope(flags=flags, payload=bytes(80))


READABLE = Envelope(0, WRITE_ID, 0, 7, 5, 6, (), 40)
VERDICTS = [
    (envelope(), 1, READABLE),
    (envelope(grace=5), Miss.UNSETTLED, READABLE._replace(grace_ms=5)),
    (
        envelope(flags=2, payload=tagged((b"t", 3)) + b"\x01"),
        Miss.UNSETTLED,
        READABLE._replace(flags=2, tags=((b"t", 3),), start=52),
    ),
    (envelope(namespace=6), Miss.INVALIDATED, READABLE._replace(version=6)),
    (envelope(namespace=8), Miss.INVALIDATED, READABLE._replace(version=8)),
    (envelope(grace=5, namespace=8), Miss.INVALIDATED, READABLE._replace(grace_ms=5, version=8)),
    *(
        (raw, Miss.FOREIGN, Miss.FOREIGN)
        for raw in (
            envelope(version=2),
            envelope(version=0),
            envelope(flags=16),
            envelope(flags=0x81),
            envelope(fmt=0),
            envelope(fmt=2),
            envelope(version=2, namespace=8),
            envelope(version=2, flags=2),
            b"\xc1\x02",
        )
    ),
    *(
        (raw, Miss.UNDECODABLE, Miss.UNDECODABLE)
        for raw in (b"\xc1\x01", b"\xc1", envelope()[:39], *map(sealed, (4, 8, 12)))
    ),
]


@pytest.mark.parametrize(("raw", "verdict", "head"), VERDICTS)
def test_verdicts_of_decode_and_open_agree(raw: bytes, verdict: Any, head: Any) -> None:
    assert codec.decode(raw, KEY, 7) is verdict or codec.decode(raw, KEY, 7) == verdict == 1
    opened = codec.open(raw[:MAX_HEAD], KEY)
    assert opened is head if isinstance(head, Miss) else opened == head


def test_another_keys_reply_is_undecodable_whatever_its_namespace_version() -> None:
    for version in (7, 8):
        assert codec.decode(envelope(), b"app:user:2", version) is Miss.UNDECODABLE
    assert codec.open(envelope(), b"app:user:2") is Miss.UNDECODABLE


def test_opening_checks_no_version() -> None:
    assert codec.open(envelope(namespace=3), KEY) == READABLE._replace(version=3)
    assert codec.decode(envelope(namespace=2**64 - 1), KEY, 2**64 - 1) == 1


def test_the_identity_of_a_value_is_its_header_or_all_of_it() -> None:
    first, second = codec.encode(LONG, KEY, 7, tags=TAGS), codec.encode(LONG, KEY, 7, tags=TAGS)
    assert codec.identity(first) == first[:40] != codec.identity(second)
    assert codec.identity(b'{"a":1}' * 20) == b'{"a":1}' * 20
    assert codec.identity(None) == b""


@pytest.mark.parametrize("raw", [b"", b"{", b"\x80", b"\xff", b"nul", b"[" * 100_000, b'"\xff"', b"1 2"])
def test_what_is_neither_is_undecodable(raw: bytes) -> None:
    assert codec.decode(raw, KEY, 7) is Miss.UNDECODABLE
    assert codec.open(raw, KEY) is None


def test_type_that_does_not_fit_is_undecodable() -> None:
    assert codec.decode(codec.encode("x", KEY, 7), KEY, 7, int) is Miss.UNDECODABLE
    assert codec.decode(b'"x"', KEY, 7, int) is Miss.UNDECODABLE


@pytest.mark.parametrize("value", [VALUE, LONG], ids=["plain", "compressed"])
def test_every_truncation_is_a_miss(value: Any) -> None:
    raw = codec.encode(value, KEY, 7)
    for size in range(len(raw)):
        assert codec.decode(raw[:size], KEY, 7) is Miss.UNDECODABLE
    assert codec.decode(raw + b"\0", KEY, 7) is Miss.UNDECODABLE
    raw = codec.encode(value, KEY, 7, 5, tags=TAGS)
    for size in range(len(raw)):
        assert settle(raw[:size]) is Miss.UNDECODABLE
    assert settle(raw + b"\0") is Miss.UNDECODABLE
    assert settle(raw) == value


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from([VALUE, LONG, "x", b"y" * 2000]), st.data())
def test_flipped_bits_never_raise(value: Any, data: st.DataObject) -> None:
    raw = bytearray(codec.encode(value, KEY, 7, tags=data.draw(st.sampled_from([(), TAGS]))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    codec.decode(bytes(raw), KEY, 7)
    codec.decode(bytes(raw), KEY, 7, dict[str, Any])
    settle(bytes(raw))
    codec.open(bytes(raw[: data.draw(st.integers(0, 60))]), KEY)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 3))
def test_any_payload_never_raises(payload: bytes, flags: int) -> None:
    for raw in (payload, envelope(flags=flags, payload=payload)):
        codec.decode(raw, KEY, 7)
        settle(raw)


def streamed(content: bytes) -> bytes:
    """A frame that does not declare its size."""
    compressor = zstd.ZstdCompressor()
    return compressor.compress(content) + compressor.flush()


def lying(content: bytes, declared: int) -> bytes:
    """A frame whose header declares another size: a single segment with an 8-byte content size."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + declared.to_bytes(8, "little")
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content  # one raw block, the last
    return header + block


def test_the_frames_made_here_are_frames() -> None:
    assert decompress(lying(b"abc", 3), 100) == b"abc"
    assert zstd.decompress(streamed(b"abc")) == b"abc"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"abc",
        compress(b"x" * 5000)[:-1],
        compress(b"x" * 10) + b"\0",
        compress(b"x" * 10) + compress(b"x" * 10),
        compress(b"x" * 10_001),
        streamed(b"x" * 10),
        lying(b"abc", 2),
        lying(b"abc", 4),
        lying(b"abc", 0),
        lying(b"abc", 2**63),
        lying(b"abc", 2**64 - 3),
        b"\x50\x2a\x4d\x18\x03\0\0\0abc",  # a skippable frame
    ],
    ids=lambda frame: frame[:24].hex(),
)
def test_frames_that_are_not_exactly_one_honest_frame_are_refused(frame: bytes) -> None:
    with pytest.raises(Undecodable):
        decompress(frame, 10_000)
    assert codec.decode(envelope(flags=1, payload=frame), KEY, 7) is Miss.UNDECODABLE


def test_a_decompression_bomb_takes_no_memory() -> None:
    """Honest about its 1 GiB, or lying about it: in both cases the process stays small."""
    program = """
import resource, sys, zlib
from nearcache.codec import Codec, Miss
sys.path.insert(0, sys.argv[1])
from test_envelope import KEY, envelope, streamed
from backports import zstd
block = zstd.ZstdCompressor()
body = bytearray()
block.set_pledged_input_size(1 << 30)
for _ in range(1 << 10):
    body += block.compress(bytes(1 << 20))
honest = bytes(body + block.flush())
assert zstd.get_frame_info(honest).decompressed_size == 1 << 30
assert len(honest) < 1 << 20
at = honest.index((1 << 30).to_bytes(4, "little"))
liar = honest[:at] + (1 << 20).to_bytes(4, "little") + honest[at + 4 :]
codec = Codec()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for frame in (honest, liar):
    assert codec.decode(envelope(flags=1, payload=frame), KEY, 7) is Miss.UNDECODABLE
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    arguments = [sys.executable, "-c", program, os.path.dirname(__file__)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 * 1024  # KiB: far from 1 GiB, above the window of a frame
