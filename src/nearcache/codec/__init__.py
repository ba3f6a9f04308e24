"""Values to the bytes that are stored, and back.

``Codec`` is all that the other rooms use. The modules: ``values`` (Python types in msgpack), ``classes`` (the
user's classes), ``convert`` (``type=``), ``envelope`` (header, compression), ``wire_json`` (JSON).
"""

from __future__ import annotations

import struct
from typing import Any, Final, Literal
from zlib import crc32

from nearcache.codec import values, wire_json
from nearcache.codec.convert import NATURAL
from nearcache.codec.envelope import (
    COMPRESSED,
    HEADER_SIZE,
    MAGIC,
    VALUES,
    VERSION,
    Header,
    compress,
    decompress,
    pack_header,
    unpack_header,
)
from nearcache.codec.failures import Undecodable
from nearcache.errors import InvalidArgument, ValueTooLarge
from nearcache.sentinels import Miss

__all__ = ["HEADER_SIZE", "NATURAL", "Codec", "Header", "Miss"]

_unpack_lead: Final = struct.Struct(">I8xI8xQ").unpack_from
_PLAIN: Final = int.from_bytes(MAGIC + bytes([VERSION, 0, VALUES]), "big")
_UNKNOWN_FLAGS: Final = 0xFF & ~COMPRESSED


class Codec:
    """Encodes values for one cache and decodes whatever is found under its keys.

    Args:
        wire: ``"native"`` keeps Python's types in an envelope; ``"json"`` writes bare JSON.
        compress_min: native payloads over this many bytes are compressed when that makes them smaller.
        max_value: the most bytes a value may have, before compression.
    """

    __slots__ = ("compress_min", "max_value", "wire")

    def __init__(
        self,
        *,
        wire: Literal["native", "json"] = "native",
        compress_min: int = 1024,
        max_value: int = 16 * 1024 * 1024,
    ) -> None:
        self.wire = wire
        self.compress_min = compress_min
        self.max_value = max_value

    def encode(self, value: Any, key: bytes, namespace_version: int, grace_ms: int = 0) -> bytes:
        """The bytes to store for a value under a stored key. ``grace_ms`` is in milliseconds.

        Raises:
            CodecError: a part of the value cannot be encoded.
            ValueTooLarge: it is over ``max_value`` bytes before compression.
            InvalidArgument: a grace with ``wire="json"``, which cannot carry it.
        """
        if self.wire == "json":
            if grace_ms:
                raise InvalidArgument('grace needs wire="native": JSON has no place for it')
            return self._checked(wire_json.dumps(value))
        payload = self._checked(values.dumps(value))
        flags = 0
        if len(payload) > self.compress_min:
            compressed = compress(payload)
            if len(compressed) < len(payload):
                payload, flags = compressed, COMPRESSED
        return pack_header(flags, key, grace_ms, namespace_version) + payload

    def decode(self, raw: bytes, key: bytes, namespace_version: int | None, type: Any = NATURAL) -> Any:
        """The value in stored bytes, converted to ``type`` if given, or the ``Miss`` that explains why not.

        Bytes that begin no envelope are taken as foreign JSON, which has no namespace version. ``None`` as
        ``namespace_version`` accepts every version. Never raises.
        """
        try:
            if len(raw) >= HEADER_SIZE:
                # What nearly every value is: this version's envelope, not compressed, this key's, valid.
                lead, key_hash, stored_version = _unpack_lead(raw)
                if lead == _PLAIN and key_hash == crc32(key) and stored_version == namespace_version:
                    return values.loads(raw[HEADER_SIZE:], type)
            if raw[:1] != MAGIC:
                return wire_json.loads(raw, type)
            _, version, flags, fmt, _, key_hash, _, stored_version = unpack_header(raw)
            if version != VERSION or flags & _UNKNOWN_FLAGS or fmt != VALUES:
                return Miss.FOREIGN
            if key_hash != crc32(key):
                return Miss.UNDECODABLE
            if stored_version != namespace_version and namespace_version is not None:
                return Miss.INVALIDATED
            if flags:
                return values.loads(decompress(memoryview(raw)[HEADER_SIZE:], self.max_value), type)
            return values.loads(raw[HEADER_SIZE:], type)
        except Undecodable:
            return Miss.UNDECODABLE
        except struct.error:  # shorter than this version's header; a newer one's may be shorter
            return Miss.FOREIGN if len(raw) > 1 and raw[1] != VERSION else Miss.UNDECODABLE

    @staticmethod
    def header(prefix: bytes, key: bytes, namespace_version: int | None) -> Header | Miss | None:
        """What the first ``HEADER_SIZE`` bytes tell: a header, the miss ``decode`` would give, or ``None``.

        ``None`` means that no envelope begins here: JSON perhaps. Only ``decode`` looks at the payload.
        """
        if prefix[:1] != MAGIC:
            return None
        try:
            _, version, flags, fmt, write_id, key_hash, grace_ms, stored_version = unpack_header(prefix)
        except struct.error:
            return Miss.FOREIGN if len(prefix) > 1 and prefix[1] != VERSION else Miss.UNDECODABLE
        if version != VERSION or flags & _UNKNOWN_FLAGS or fmt != VALUES:
            return Miss.FOREIGN
        if key_hash != crc32(key):
            return Miss.UNDECODABLE
        if stored_version != namespace_version and namespace_version is not None:
            return Miss.INVALIDATED
        return Header(bool(flags), write_id.to_bytes(8, "big"), grace_ms, stored_version)

    def _checked(self, payload: bytes) -> bytes:
        if len(payload) > self.max_value:
            raise ValueTooLarge(
                f"is {len(payload):,} bytes encoded, over the {self.max_value:,} of NEARCACHE_MAX_VALUE; "
                "store it in parts, or raise the limit"
            )
        return payload
