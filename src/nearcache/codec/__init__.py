"""Values to the bytes that are stored, and back.

``Codec`` is all that the other rooms use. The modules: ``values`` (Python types in msgpack), ``classes`` (the
user's classes), ``convert`` (``type=``), ``envelope`` (header, compression), ``wire_json`` (JSON), ``sealing``
(encryption, signing), ``pickles``, and ``sealed``, the codec where there are keys.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, Literal
from zlib import crc32

from nearcache.codec import pickles, values, wire_json
from nearcache.codec.convert import NATURAL
from nearcache.codec.envelope import (
    COMPRESSED,
    HEADER_SIZE,
    MAGIC,
    MAX_HEAD,
    PICKLE,
    TAGGED,
    UNKNOWN_FLAGS,
    VALUES,
    VERSION,
    Envelope,
    compress,
    decompress,
    pack_head,
    unpack_head,
)
from nearcache.codec.failures import Undecodable
from nearcache.codec.pickles import Pickled, Verified
from nearcache.errors import InvalidArgument, ValueTooLarge
from nearcache.sentinels import Miss

__all__ = ["HEADER_SIZE", "MAX_HEAD", "NATURAL", "Codec", "Envelope", "Hint", "Miss"]

builtins_type: Final = type  # which the parameters of that name hide
_unpack_lead: Final = struct.Struct(">I8xIQQ").unpack_from
_IN_CLEAR: Final = COMPRESSED | TAGGED
_PLAIN: Final = int.from_bytes(MAGIC + bytes([VERSION, 0, VALUES]), "big")


class Hint:
    """A type that a value probably has: it is built where that is needed and possible, and nothing fails for it."""

    __slots__ = ("plain", "type")

    def __init__(self, type: Any) -> None:
        self.type = type
        self.plain = isinstance(type, builtins_type)

    @staticmethod
    def suits(hint: Hint | None, value: Any, *, is_json: bool) -> bool:
        """Whether a value is what the hint asks for as it is, as far as it asks."""
        if hint is None:
            return True
        # Native values have their types; of what stands in list[...], only JSON knows less than the hint.
        return isinstance(value, hint.type) if hint.plain else not is_json


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

    def encode(
        self,
        value: Any,
        key: bytes,
        version: int,
        grace_ms: int = 0,
        *,
        created_ms: int = 0,
        load_ms: int = 0,
        tags: Sequence[tuple[bytes, int]] = (),
        compress_min: int = 0,
    ) -> bytes:
        """The bytes to store for a value under a stored key; ``compress_min`` for this one, if it is the larger.

        The rest is what ``Envelope`` says.

        Raises:
            CodecError: a part of the value cannot be encoded.
            ValueTooLarge: it is over ``max_value`` bytes before compression.
            InvalidArgument: grace or tags with ``wire="json"``, which cannot carry them.
        """
        if self.wire == "json":
            if grace_ms or tags:
                raise InvalidArgument('grace and tags need wire="native": JSON has no place for them')
            return self._checked(wire_json.dumps(value))
        payload = values.dumps(value)
        return self._envelop(payload, VALUES, key, version, grace_ms, created_ms, load_ms, tags, compress_min)

    def _envelop(
        self,
        payload: bytes,
        fmt: int,
        key: bytes,
        version: int,
        grace_ms: int,
        created_ms: int,
        load_ms: int,
        tags: Sequence[tuple[bytes, int]],
        compress_min: int,
    ) -> bytes:
        self._checked(payload)
        flags = 0
        if len(payload) > max(self.compress_min, compress_min):
            compressed = compress(payload)
            if len(compressed) < len(payload):
                payload, flags = compressed, COMPRESSED
        return pack_head(flags, fmt, key, version, grace_ms, created_ms, load_ms, tags) + payload

    def decode(self, raw: bytes, key: bytes, version: int, type: Any = NATURAL) -> Any:
        """The value in stored bytes if that can be told from them alone, or a ``Miss``. Never raises.

        ``Miss.UNSETTLED`` for a value with grace or tags: whether it is fresh, its TTL and its tags' versions tell.
        """
        if len(raw) >= HEADER_SIZE:
            # What nearly every value is: this version's envelope, not compressed, this key's, valid.
            lead, key_hash, grace_ms, stored_version = _unpack_lead(raw)
            if lead == _PLAIN and not grace_ms and key_hash == crc32(key) and stored_version == version:
                try:
                    return values.loads(raw[HEADER_SIZE:], type)
                except Undecodable:
                    return Miss.UNDECODABLE
        envelope = self.open(raw, key)
        if isinstance(envelope, Miss):
            return envelope
        if envelope is not None:
            if envelope.version != version:
                return Miss.INVALIDATED
            if envelope.grace_ms or envelope.tags:
                return Miss.UNSETTLED
        return self.load(self.payload(raw, envelope), envelope is None, type)

    def unseal(self, raw: bytes, key: bytes) -> bytes | Miss:
        """What ``open`` and ``payload`` read: the stored bytes, or what was sealed in them. Never raises."""
        return raw

    @staticmethod
    def open(raw: bytes, key: bytes) -> Envelope | Miss | None:
        """What the front of stored bytes tells: an envelope, why there is nothing to be read, or ``None``.

        ``None`` means that no envelope begins here: JSON perhaps, which has neither versions nor grace. The first
        ``MAX_HEAD`` bytes are enough. Never raises.
        """
        if raw[:1] != MAGIC:
            return None
        try:
            release, key_hash, envelope = unpack_head(raw)
        except (struct.error, IndexError, ValueError):
            # A newer release's header may be shorter than this one's.
            return Miss.FOREIGN if len(raw) > 1 and raw[1] != VERSION else Miss.UNDECODABLE
        if release != VERSION or envelope.flags > _IN_CLEAR:
            sealed = release == VERSION and not envelope.flags & UNKNOWN_FLAGS
            return Miss.UNDECODABLE if sealed else Miss.FOREIGN
        if key_hash != crc32(key):
            return Miss.UNDECODABLE
        if envelope.format != VALUES and (envelope.format != PICKLE or raw.__class__ is not Verified):
            return Miss.FOREIGN
        return envelope

    def payload(self, raw: bytes, envelope: Envelope | None) -> bytes | Miss:
        """The encoded value without what stands before it, not compressed. Never raises."""
        if envelope is None:
            return raw
        if not envelope.flags & COMPRESSED:
            payload = raw[envelope.start :]
        else:
            try:
                payload = decompress(memoryview(raw)[envelope.start :], self.max_value)
            except Undecodable:
                return Miss.UNDECODABLE
        return payload if raw.__class__ is not Verified or envelope.format != PICKLE else Pickled(payload)

    @staticmethod
    def load(payload: bytes | Miss, is_json: bool, type: Any = NATURAL) -> Any:
        """The value in a payload, converted to ``type`` if given, or ``Miss.UNDECODABLE``. Never raises."""
        if payload.__class__ is Miss:
            return payload
        if type.__class__ is Hint:
            return Codec._load_hinted(payload, is_json, type)  # type: ignore[arg-type]
        try:
            if payload.__class__ is Pickled:
                return pickles.loads(payload, type)
            return (wire_json if is_json else values).loads(payload, type)
        except Undecodable:
            return Miss.UNDECODABLE

    @staticmethod
    def _load_hinted(payload: bytes, is_json: bool, hint: Hint) -> Any:
        value = Codec.load(payload, is_json)
        if value.__class__ is not Miss and Hint.suits(hint, value, is_json=is_json):
            return value
        built = Codec.load(payload, is_json, hint.type)
        return value if isinstance(built, Miss) else built

    @staticmethod
    def identity(raw: bytes | None) -> bytes:
        """What tells these stored bytes from any other write: an envelope's header, or all of the bytes."""
        if raw is None:
            return b""
        return raw[:HEADER_SIZE] if raw[:1] == MAGIC else raw

    def _checked(self, payload: bytes) -> bytes:
        if len(payload) > self.max_value:
            raise ValueTooLarge(
                f"is {len(payload):,} bytes encoded, over the {self.max_value:,} of NEARCACHE_MAX_VALUE; "
                "store it in parts, or raise the limit"
            )
        return payload
