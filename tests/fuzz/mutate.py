"""Inputs without a guide: seeds cut, joined and changed at random, the same ones for the same number."""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = ["inputs"]

_TELLING = [0, 1, 0x7F, 0x80, 0xFF, 0xC1, *b'\r\n$*>:-{}[]",%@/\\']


def inputs(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """So many inputs, the seeds themselves first."""
    chance = random.Random(seed)
    yield from seeds[:count]
    for _ in range(count - len(seeds)):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            _change(data, seeds, chance)
        yield bytes(data)


def _change(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    end = min(len(data), start + chance.choice((1, 1, 2, 4, 8, 64)))
    match chance.randrange(7):
        case 0 if start < len(data):
            data[start] ^= 1 << chance.randrange(8)
        case 1 if start < len(data):
            data[start] = chance.choice(_TELLING)
        case 2:
            del data[start:end]
        case 3:
            data[start:start] = data[start:end] * chance.choice((1, 2, 50))
        case 4:
            data[start:start] = chance.randbytes(end - start)
        case 5:
            other = chance.choice(seeds)
            cut = chance.randrange(len(other) + 1)
            data[start:end] = other[cut : cut + 64]
        case _:
            digits = chance.choice((b"0", b"-1", b"65536", b"4294967295", b"9223372036854775808", b"9" * 400))
            data[start:end] = digits
