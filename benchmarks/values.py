"""What is stored: bytes of a given size that no compression makes smaller."""

from __future__ import annotations

import base64
import random

__all__ = ["SIZES", "key", "text", "value"]

SIZES = (200, 5000)  # bytes


def value(size: int) -> bytes:
    """Random bytes, the same in every run."""
    return random.Random(size).randbytes(size)


def text(size: int) -> str:
    """As many random letters and digits, for who cannot store bytes."""
    return base64.b64encode(value(size)).decode()[:size]


def key(contender: str, size: int, caller: int) -> str:
    """Every task or thread has a key of its own."""
    return f"{contender}:{size}:{caller}"
