"""How encoding and decoding fail inside the codec; ``Codec`` turns this into errors and misses."""

from __future__ import annotations

__all__ = ["MAX_DEPTH", "Refused", "Undecodable", "subscript", "too_deep"]

MAX_DEPTH = 100
"""Containers nested deeper than this are refused, so that no decoder runs out of stack."""


class Undecodable(Exception):
    """These bytes are not a value that can be handed out."""


class Refused(Exception):
    """A part of a value cannot be encoded; containers add where it is while this passes through them."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.segments: list[str] = []

    @property
    def path(self) -> str:
        """The way to the part, outermost first, its middle left out when it is long."""
        segments = self.segments[::-1]
        if len(segments) > 20:
            segments[10:-5] = ["..."]
        return "value" + "".join(segments)


def subscript(key: object) -> str:
    """One segment of a path: ``['a']``. Only plain keys are shown; another's ``repr`` is not ours to call."""
    if type(key) not in (str, int, float, bool, bytes, type(None)):
        return f"[<{type(key).__name__}>]"
    text = repr(key)
    return f"[{text if len(text) <= 60 else text[:56] + '...'}]"


def too_deep() -> Refused:
    return Refused(
        f"is nested deeper than {MAX_DEPTH} levels, or contains itself; store a flatter value, "
        "or parts of it under keys of their own"
    )
