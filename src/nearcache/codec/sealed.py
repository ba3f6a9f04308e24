"""The codec of a client that has keys: whatever was not sealed with one of them is a miss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from nearcache.codec import Codec, pickles
from nearcache.codec.convert import NATURAL
from nearcache.codec.envelope import HEADER_SIZE, MAGIC, PICKLE, SEALED, SIGNED, UNKNOWN_FLAGS, VERSION
from nearcache.codec.failures import Undecodable
from nearcache.codec.pickles import Verified
from nearcache.codec.sealing import ENCRYPTION_SIZES, SIGNING_SIZES, Encryption, Signing, parse_keys
from nearcache.errors import CodecError, ConfigurationError, ValueTooLarge
from nearcache.sentinels import Miss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nearcache.codec.sealing import Seal

__all__ = ["SealedCodec", "make_codec"]


class SealedCodec(Codec):
    """A codec that seals what it writes, and reads nothing else.

    Args:
        seals: applied in this order, at least one.
        pickle: values that the codec cannot encode are pickled, if a signature is among the seals.
        compress_min, max_value: as for ``Codec``.
    """

    __slots__ = ("_flags", "_pickle", "_seals")

    def __init__(self, seals: Sequence[Seal], *, pickle: bool = False, compress_min: int, max_value: int) -> None:
        super().__init__(compress_min=compress_min, max_value=max_value)
        self._seals = tuple(seals)
        self._flags = sum(seal.flag for seal in seals)
        self._pickle = pickle and bool(self._flags & SIGNED)

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
        """As ``Codec.encode``, sealed."""
        about: Any = {"created_ms": created_ms, "load_ms": load_ms, "tags": tags, "compress_min": compress_min}
        try:
            raw = super().encode(value, key, version, grace_ms, **about)
        except CodecError as refused:
            if not self._pickle or isinstance(refused, ValueTooLarge):
                raise
            try:
                payload = pickles.dumps(value)
            except Exception:  # noqa: BLE001  # the user's __reduce__ may raise anything; the remedy is the codec's
                raise refused from None
            raw = self._envelop(payload, PICKLE, key, version, grace_ms, created_ms, load_ms, tags, compress_min)
        header = b"%b%c%b" % (raw[:2], raw[2] | self._flags, raw[3:HEADER_SIZE])
        rest = raw[HEADER_SIZE:]
        for seal in self._seals:
            rest = seal.close(header, key, rest)
        return header + rest

    def decode(self, raw: bytes, key: bytes, version: int, type: Any = NATURAL) -> Any:
        """As ``Codec.decode``, of what is sealed."""
        opened = self.unseal(raw, key)
        return opened if isinstance(opened, Miss) else super().decode(opened, key, version, type)

    def unseal(self, raw: bytes, key: bytes) -> bytes | Miss:
        """The envelope as it was before it was sealed, or why there is none. Never raises."""
        if raw[:1] != MAGIC or len(raw) < 2:
            return Miss.UNDECODABLE
        if raw[1] != VERSION or (len(raw) > 2 and raw[2] & UNKNOWN_FLAGS):
            return Miss.FOREIGN
        header, rest = raw[:HEADER_SIZE], raw[HEADER_SIZE:]
        try:  # every seal, whatever the header says: nobody but who has the keys can leave one out
            for seal in reversed(self._seals):
                rest = seal.open(header, key, rest)
        except Undecodable:
            return Miss.UNDECODABLE
        if header[3] == PICKLE and not self._pickle:
            return Miss.UNDECODABLE
        return Verified(b"%b%c%b%b" % (header[:2], header[2] & ~SEALED, header[3:], rest))


def make_codec(
    *,
    wire: Literal["native", "json"],
    compress_min: int,
    max_value: int,
    encryption_keys: str = "",
    signing_keys: str = "",
    pickle: bool = False,
) -> Codec:
    """The codec of a cache; keys as in the settings, already found to be right.

    Raises:
        ConfigurationError: keys with ``wire="json"``, or the package for encryption is not installed.
    """
    seals: list[Seal] = []
    if encryption_keys:
        seals.append(Encryption(parse_keys(encryption_keys, ENCRYPTION_SIZES)))
    if signing_keys:
        seals.append(Signing(parse_keys(signing_keys, SIGNING_SIZES)))
    if not seals:
        return Codec(wire=wire, compress_min=compress_min, max_value=max_value)
    if wire == "json":
        raise ConfigurationError(
            'wire="json" cannot be used with NEARCACHE_ENCRYPTION_KEYS or NEARCACHE_SIGNING_KEYS: nothing proves who '
            "wrote bare JSON"
        )
    return SealedCodec(seals, pickle=pickle, compress_min=compress_min, max_value=max_value)
