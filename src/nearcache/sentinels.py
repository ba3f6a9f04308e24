"""Values that stand for the absence of one, where ``None`` has a meaning of its own."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["ABSENT", "DEFAULT", "Default", "Miss"]


class Miss(enum.Enum):
    """Why there is no value."""

    ABSENT = "no such key"
    INVALIDATED = "its namespace was cleared, or one of its tags invalidated, after it was made"
    EXPIRED = "expired, within its grace"
    UNDECODABLE = "not readable: other bytes, another key's value, or another type"
    FOREIGN = "written in a newer format; must not be overwritten by a fill"
    UNSETTLED = "more has to be read to tell whether it is valid"


ABSENT: Final = Miss.ABSENT


class Default(enum.Enum):
    """The type of ``DEFAULT``, an argument that was left out."""

    DEFAULT = "the cache's own"

    def __repr__(self) -> str:
        return "<default>"


DEFAULT: Final = Default.DEFAULT
