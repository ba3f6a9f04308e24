"""Seals: what proves that a stored value was written by somebody who has a key, for the key it is stored under.

The header of an envelope stays in clear, because the server's scripts read it; a seal covers it. What follows the
header, tags and payload, is replaced by what the seal makes of it:

=========  ==========================================  =====================================================
seal       bytes                                       over
=========  ==========================================  =====================================================
encrypted  key id 4, nonce 12, ciphertext, tag 16      header, key id and stored key are the associated data
signed     key id 4, HMAC 32, what was there           header, key id, length of the stored key in 4 bytes,
                                                       stored key, what was there
=========  ==========================================  =====================================================

Encryption is AES-GCM (NIST SP 800-38D) with a random nonce of 96 bits, signing HMAC-SHA256 (RFC 2104). Neither names
its algorithm in the bytes, so nobody can choose a weaker one. With both, what is encrypted is signed. The key id only
finds the key among several: the first of them seals, all of them open.
"""

from __future__ import annotations

import os
from base64 import b64decode
from hmac import compare_digest
from hmac import digest as hmac_digest
from typing import TYPE_CHECKING, Any, Final, Protocol

from nearcache.codec.envelope import ENCRYPTED, SIGNED
from nearcache.codec.failures import Undecodable
from nearcache.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ENCRYPTION_SIZES", "SIGNING_SIZES", "Encryption", "Seal", "Signing", "parse_keys"]

ENCRYPTION_SIZES: Final = (16, 32)
"""Bytes of a key: AES-128 and AES-256."""

SIGNING_SIZES: Final = (32,)
"""Bytes of a key: as many as the hash has (RFC 2104, section 3)."""

_ID_SIZE: Final = 4
_NONCE_SIZE: Final = 12
_MAC_SIZE: Final = 32
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


class Seal(Protocol):
    """One way to seal what follows a header."""

    @property
    def flag(self) -> int:
        """What says in an envelope's header that it is sealed so."""
        ...

    def close(self, header: bytes, key: bytes, rest: bytes) -> bytes:
        """What to store after the header instead of ``rest``, under a stored key."""
        ...

    def open(self, header: bytes, key: bytes, sealed: bytes) -> bytes:
        """What was sealed.

        Raises:
            Undecodable: it was not sealed with a key that is known, or not with this header, or under another key.
        """
        ...


def parse_keys(text: str, sizes: Sequence[int]) -> tuple[bytes, ...]:
    """Read keys in base64, standard or URL-safe, with commas between.

    Raises:
        ValueError: there is none, or one is not base64 or not of one of these sizes.
    """
    keys = tuple(map(_parse_key, text.split(",")))
    if any(len(key) not in sizes for key in keys):
        raise ValueError
    return keys


def _parse_key(text: str) -> bytes:
    digits = text.strip().rstrip("=").encode("ascii").translate(_URL_SAFE)
    return b64decode(digits + b"=" * (-len(digits) % 4), validate=True)


def _key_id(secret: bytes) -> bytes:
    # No signed message begins so: each begins with an envelope's first byte.
    return hmac_digest(secret, b"nearcache key id", "sha256")[:_ID_SIZE]


class Encryption:
    """AES-GCM.

    Raises:
        ConfigurationError: the package that brings it is not installed.
    """

    flag = ENCRYPTED

    def __init__(self, secrets: Sequence[bytes]) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise ConfigurationError(
                "NEARCACHE_ENCRYPTION_KEYS needs the package cryptography: pip install 'nearcache[crypto]'"
            ) from None
        self._invalid: Any = (InvalidTag, ValueError)
        self._ciphers = {_key_id(secret): AESGCM(secret) for secret in secrets}
        self._id = _key_id(secrets[0])

    def close(self, header: bytes, key: bytes, rest: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        sealed = self._ciphers[self._id].encrypt(nonce, rest, header + self._id + key)
        return b"%b%b%b" % (self._id, nonce, sealed)

    def open(self, header: bytes, key: bytes, sealed: bytes) -> bytes:
        key_id, at = sealed[:_ID_SIZE], _ID_SIZE + _NONCE_SIZE
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Undecodable("encrypted with a key that is not known")
        try:
            return cipher.decrypt(sealed[_ID_SIZE:at], memoryview(sealed)[at:], header + key_id + key)
        except self._invalid as error:
            raise Undecodable("does not authenticate") from error


class Signing:
    """HMAC-SHA256."""

    flag = SIGNED

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = {_key_id(secret): secret for secret in secrets}
        self._id = _key_id(secrets[0])

    def close(self, header: bytes, key: bytes, rest: bytes) -> bytes:
        return b"%b%b%b" % (self._id, self._sign(self._id, header, key, rest), rest)

    def open(self, header: bytes, key: bytes, sealed: bytes) -> bytes:
        key_id, at = sealed[:_ID_SIZE], _ID_SIZE + _MAC_SIZE
        if key_id not in self._secrets:
            raise Undecodable("signed with a key that is not known")
        rest = sealed[at:]
        if not compare_digest(sealed[_ID_SIZE:at], self._sign(key_id, header, key, rest)):
            raise Undecodable("does not authenticate")
        return rest

    def _sign(self, key_id: bytes, header: bytes, key: bytes, rest: bytes) -> bytes:
        message = b"%b%b%b%b%b" % (header, key_id, len(key).to_bytes(4, "big"), key, rest)
        return hmac_digest(self._secrets[key_id], message, "sha256")
