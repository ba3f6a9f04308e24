"""The envelope around a stored value: a fixed header of 40 bytes, tags if there are any, then the payload.

======  =====  ==============================================================================================
offset  bytes  content
======  =====  ==============================================================================================
0       1      ``0xC1``, which begins no JSON, no UTF-8 text and no msgpack
1       1      version, 1
2       1      flags: bit 0 the payload is one zstd frame, bit 1 it has tags, bit 2 it is encrypted, bit 3 it is
               signed; the others are reserved and 0
3       1      payload format: 1 is the msgpack of ``values``, 2 is a pickle; 0 is reserved
4       8      write id, random: two writes of equal values differ
12      4      CRC-32 of the stored key: it guards against another key's reply, not people
16      8      grace, in milliseconds
24      8      version of the namespace
32      6      when it was written, in milliseconds of the server's clock
38      2      how long its load took, in milliseconds, at most 65,535
======  =====  ==============================================================================================

Tags follow the header: the length of their block in 2 bytes, and for each tag the length of its name in 1 byte, the
name, and its version in 8. All numbers are big-endian. Of what is encrypted or signed, ``sealing`` says what stands
behind the header.
"""

from __future__ import annotations

import struct
import sys
from collections import deque
from functools import cache
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

from nearcache.codec.failures import Undecodable
from nearcache.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = [
    "COMPRESSED",
    "ENCRYPTED",
    "HEADER_SIZE",
    "MAGIC",
    "MAX_HEAD",
    "PICKLE",
    "SEALED",
    "SIGNED",
    "TAGGED",
    "UNKNOWN_FLAGS",
    "VALUES",
    "VERSION",
    "Envelope",
    "compress",
    "decompress",
    "pack_head",
    "unpack_head",
    "unpack_header",
]

MAGIC: Final = b"\xc1"
VERSION: Final = 1
COMPRESSED: Final = 1
TAGGED: Final = 2
ENCRYPTED: Final = 4
SIGNED: Final = 8
SEALED: Final = ENCRYPTED | SIGNED
UNKNOWN_FLAGS: Final = 0xFF & ~(COMPRESSED | TAGGED | SEALED)
VALUES: Final = 1
PICKLE: Final = 2

_HEADER: Final = struct.Struct(">cBBBQIQQQ")
HEADER_SIZE: Final = _HEADER.size
MAX_HEAD: Final = HEADER_SIZE + 2 + 0xFFFF
_LONGEST_LOAD: Final = 0xFFFF

unpack_header: Final = _HEADER.unpack_from


class Envelope(NamedTuple):
    """What the front of an envelope tells that this release can read.

    Attributes:
        flags: what the payload is.
        write_id: differs between any two writes.
        grace_ms: milliseconds the value may serve as stale after it expired.
        version: its namespace's, before it was made.
        created_ms: when it was written, on the server's clock.
        load_ms: how long it took to load; 0 when it was not loaded.
        tags: names and versions, from before it was made.
        start: where the payload begins.
        format: how it is encoded.
    """

    flags: int
    write_id: int
    grace_ms: int
    version: int
    created_ms: int
    load_ms: int
    tags: tuple[tuple[bytes, int], ...]
    start: int
    format: int = VALUES


def pack_head(
    flags: int,
    fmt: int,
    key: bytes,
    version: int,
    grace_ms: int,
    created_ms: int,
    load_ms: int,
    tags: Sequence[tuple[bytes, int]],
) -> bytes:
    """Everything before the payload, with a new write id.

    Raises:
        InvalidArgument: the tags need more than 65,535 bytes.
    """
    # random, unlike os.urandom, costs no system call; Python seeds it anew after fork().
    write_id, key_hash = getrandbits(64), crc32(key)
    made = (created_ms << 16) + min(load_ms, _LONGEST_LOAD)
    if not tags:
        return _HEADER.pack(MAGIC, VERSION, flags, fmt, write_id, key_hash, grace_ms, version, made)
    block = b"".join(b"%c%b%b" % (len(name), name, number.to_bytes(8, "big")) for name, number in tags)
    if len(block) > 0xFFFF:
        raise InvalidArgument(f"{len(tags)} tags are too many for one value: their names may have 65 kB together")
    header = _HEADER.pack(MAGIC, VERSION, flags | TAGGED, fmt, write_id, key_hash, grace_ms, version, made)
    return b"%b%b%b" % (header, len(block).to_bytes(2, "big"), block)


def unpack_head(raw: bytes) -> tuple[int, int, Envelope]:
    """Version and key hash of what begins with ``MAGIC``, and its envelope.

    Raises:
        struct.error, IndexError, ValueError: it ends too early.
    """
    _, release, flags, fmt, write_id, key_hash, grace_ms, version, made = unpack_header(raw)
    tags, start = (), HEADER_SIZE
    if flags & TAGGED and release == VERSION:
        start += 2 + int.from_bytes(raw[HEADER_SIZE : HEADER_SIZE + 2], "big")
        tags = _unpack_tags(raw, HEADER_SIZE + 2, start)
    created_ms, load_ms = made >> 16, made & 0xFFFF
    return release, key_hash, Envelope(flags, write_id, grace_ms, version, created_ms, load_ms, tags, start, fmt)


def _unpack_tags(raw: bytes, at: int, end: int) -> Any:
    tags = []
    while at < end:
        size = raw[at]
        name, number = raw[at + 1 : at + 1 + size], raw[at + 1 + size : at + 9 + size]
        at += 9 + size
        tags.append((name, int.from_bytes(number, "big")))
    if at != end or len(raw) < end:
        raise ValueError
    return tuple(tags)


# A compressor costs more to make than to use. Popping a deque is atomic, so threads never share one.
_compressors: deque[Any] = deque()


def compress(payload: bytes) -> bytes:
    """One zstd frame that declares its content's size."""
    try:
        compressor = _compressors.pop()
    except IndexError:
        compressor = _zstd().ZstdCompressor(level=1)
    frame: bytes = compressor.compress(payload, mode=compressor.FLUSH_FRAME)
    _compressors.append(compressor)
    return frame


def decompress(frame: bytes | memoryview, max_size: int) -> bytes:
    """The content of exactly one whole zstd frame, without ever holding more than ``max_size`` bytes of it.

    Raises:
        Undecodable: it is not that, does not declare its size, or declares another than it has.
    """
    zstd = _zstd()
    try:
        declared = zstd.get_frame_info(frame).decompressed_size
        if not declared or declared > max_size:  # None: it does not say
            raise Undecodable(f"the zstd frame declares a size of {declared} bytes, over {max_size}")
        decompressor = zstd.ZstdDecompressor()
        # One byte more than declared, so that a frame holding more shows it.
        content: bytes = decompressor.decompress(frame, max_length=declared + 1)
    except (zstd.ZstdError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise Undecodable(str(error)) from error
    if not decompressor.eof or decompressor.unused_data or len(content) != declared:
        raise Undecodable("the zstd frame does not hold what it declares")
    return content


@cache
def _zstd() -> ModuleType:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
