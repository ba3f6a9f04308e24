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

from nearcache.codec import HEADER_SIZE, Codec, Header, Miss
from nearcache.codec.envelope import compress, decompress
from nearcache.codec.failures import Undecodable
from nearcache.errors import CodecError, InvalidArgument, ValueTooLarge

KEY = b"app:user:1"
codec = Codec()
VALUE = {"name": "Ada", "tags": ("a", "b"), "n": 1}
LONG = [{"id": n, "name": f"user {n}", "at": (n,)} for n in range(100)]


def envelope(*, flags: int = 0, fmt: int = 1, version: int = 1, namespace: int = 7, payload: bytes = b"\x01") -> bytes:
    return struct.pack(">BBBB8sIQQ", 0xC1, version, flags, fmt, b"w" * 8, crc32(KEY), 5, namespace) + payload


def test_layout() -> None:
    raw = codec.encode(1, KEY, namespace_version=7, grace_ms=1500)
    magic, version, flags, fmt, write_id, key_hash, grace, namespace = struct.unpack(">BBBB8sIQQ", raw[:32])
    assert (magic, version, flags, fmt) == (0xC1, 1, 0, 1)
    assert (key_hash, grace, namespace) == (crc32(KEY), 1500, 7)
    assert raw[32:] == b"\x01"
    assert HEADER_SIZE == 32
    assert codec.header(raw[:32], KEY, 7) == Header(False, write_id, 1500, 7)


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
    assert codec.header(codec.encode(LONG, KEY, 7)[:32], KEY, 7).compressed  # type: ignore[union-attr]


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


def test_json_is_bare_and_has_no_grace() -> None:
    assert Codec(wire="json").encode({"a": 1.0}, KEY, 7) == b'{"a":1}'
    with pytest.raises(InvalidArgument, match="native"):
        Codec(wire="json").encode(1, KEY, 7, grace_ms=1)


def test_foreign_json_is_read_in_both_wires() -> None:
    for wire in ("native", "json"):
        assert Codec(wire=wire).decode(b' {"a": [1, 2.5, null]}', KEY, 7) == {"a": [1, 2.5, None]}  # type: ignore[arg-type]
    assert codec.decode(b"[1]", KEY, 7, tuple[int, ...]) == (1,)


VERDICTS = [
    (envelope(), 1),
    (envelope(version=2), Miss.FOREIGN),
    (envelope(version=0), Miss.FOREIGN),
    (envelope(flags=2), Miss.FOREIGN),
    (envelope(flags=0x81), Miss.FOREIGN),
    (envelope(fmt=0), Miss.FOREIGN),
    (envelope(fmt=2), Miss.FOREIGN),
    (envelope(version=2, namespace=8), Miss.FOREIGN),
    (b"\xc1\x02", Miss.FOREIGN),
    (b"\xc1\x01", Miss.UNDECODABLE),
    (b"\xc1", Miss.UNDECODABLE),
    (envelope()[:31], Miss.UNDECODABLE),
    (envelope(namespace=6), Miss.INVALIDATED),
    (envelope(namespace=8), Miss.INVALIDATED),
]


@pytest.mark.parametrize(("raw", "verdict"), VERDICTS)
def test_verdicts_of_decode_and_header_agree(raw: bytes, verdict: Any) -> None:
    assert codec.decode(raw, KEY, 7) is verdict or codec.decode(raw, KEY, 7) == verdict == 1
    header = codec.header(raw[:32], KEY, 7)
    assert header is verdict if isinstance(verdict, Miss) else header == Header(False, b"w" * 8, 5, 7)


def test_another_keys_reply_is_undecodable_whatever_its_namespace_version() -> None:
    for version in (7, 8, None):
        assert codec.decode(envelope(), b"app:user:2", version) is Miss.UNDECODABLE
        assert codec.header(envelope(), b"app:user:2", version) is Miss.UNDECODABLE


def test_namespace_versions_are_not_checked_when_not_known() -> None:
    assert codec.decode(envelope(namespace=3), KEY, None) == 1
    assert codec.header(envelope(namespace=3), KEY, None) == Header(False, b"w" * 8, 5, 3)
    assert codec.decode(envelope(namespace=2**64 - 1), KEY, 2**64 - 1) == 1


@pytest.mark.parametrize("raw", [b"", b"{", b"\x80", b"\xff", b"nul", b"[" * 100_000, b'"\xff"', b"1 2"])
def test_what_is_neither_is_undecodable(raw: bytes) -> None:
    assert codec.decode(raw, KEY, 7) is Miss.UNDECODABLE
    assert codec.header(raw, KEY, 7) is None


def test_type_that_does_not_fit_is_undecodable() -> None:
    assert codec.decode(codec.encode("x", KEY, 7), KEY, 7, int) is Miss.UNDECODABLE
    assert codec.decode(b'"x"', KEY, 7, int) is Miss.UNDECODABLE


@pytest.mark.parametrize("value", [VALUE, LONG], ids=["plain", "compressed"])
def test_every_truncation_is_a_miss(value: Any) -> None:
    raw = codec.encode(value, KEY, 7)
    for size in range(len(raw)):
        assert codec.decode(raw[:size], KEY, 7) is Miss.UNDECODABLE
    assert codec.decode(raw + b"\0", KEY, 7) is Miss.UNDECODABLE


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from([VALUE, LONG, "x", b"y" * 2000]), st.data())
def test_flipped_bits_never_raise(value: Any, data: st.DataObject) -> None:
    raw = bytearray(codec.encode(value, KEY, 7))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    codec.decode(bytes(raw), KEY, 7)
    codec.decode(bytes(raw), KEY, 7, dict[str, Any])
    codec.header(bytes(raw[:32]), KEY, 7)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_any_payload_never_raises(payload: bytes, compressed: bool) -> None:
    codec.decode(payload, KEY, 7)
    codec.decode(envelope(flags=int(compressed), payload=payload), KEY, 7)


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
