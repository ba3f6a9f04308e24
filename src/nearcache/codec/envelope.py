"""The envelope around a stored value: a fixed header of 32 bytes, then the payload, maybe compressed.

======  =====  ==============================================================================================
offset  bytes  content
======  =====  ==============================================================================================
0       1      ``0xC1``, which begins no JSON, no UTF-8 text and no msgpack
1       1      version, 1
2       1      flags: bit 0 the payload is one zstd frame; the others are reserved and 0
3       1      payload format: 1 is the msgpack of ``values``; 0 is reserved
4       8      write id, random: two writes of equal values differ
12      4      CRC-32 of the stored key: it guards against another key's reply, not people
16      8      grace, in milliseconds
24      8      version of the namespace
======  =====  ==============================================================================================

All numbers are big-endian.
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

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["HEADER_SIZE", "MAGIC", "Header", "compress", "decompress", "pack_header", "unpack_header"]

MAGIC: Final = b"\xc1"
VERSION: Final = 1
COMPRESSED: Final = 1
VALUES: Final = 1

_HEADER: Final = struct.Struct(">cBBBQIQQ")
HEADER_SIZE: Final = _HEADER.size

unpack_header: Final = _HEADER.unpack_from


class Header(NamedTuple):
    """The header of an envelope that this release can read."""

    compressed: bool
    write_id: bytes
    grace_ms: int
    namespace_version: int


def pack_header(flags: int, key: bytes, grace_ms: int, namespace_version: int) -> bytes:
    """A header with a new write id."""
    # random, unlike os.urandom, costs no system call; Python seeds it anew after fork().
    write_id, key_hash = getrandbits(64), crc32(key)
    return _HEADER.pack(MAGIC, VERSION, flags, VALUES, write_id, key_hash, grace_ms, namespace_version)


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
