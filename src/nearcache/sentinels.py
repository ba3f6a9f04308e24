"""Values that stand for the absence of one, where ``None`` has a meaning of its own."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["ABSENT", "DEFAULT", "Default", "Miss"]


class Miss(enum.Enum):
    """Why there is no value."""

    ABSENT = "no such key"
    INVALIDATED = "its namespace was cleared after it was written"
    UNDECODABLE = "not readable: other bytes, another key's value, or another type"
    FOREIGN = "written in a newer format; must not be overwritten by a fill"


ABSENT: Final = Miss.ABSENT


class Default(enum.Enum):
    """The type of ``DEFAULT``, an argument that was left out."""

    DEFAULT = "the cache's own"

    def __repr__(self) -> str:
        return "<default>"


DEFAULT: Final = Default.DEFAULT
