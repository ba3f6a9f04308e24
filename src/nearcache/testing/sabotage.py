"""Safeties of the near tier switched off in this process, for proving that a test can fail.

A test of coherence that passes all the same proves nothing. ``tiers/memory.py`` says what each safety is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from ..core.ports import Mark
from ..tiers.memory import NearTier
from ..transport import lane, thread_wire
from ..transport.memory import MemoryStore

__all__ = ["Sabotage", "drop_pushes", "ignore_marks", "keep_tainted", "sabotage"]

_Patch = tuple[Any, str, Callable[..., Any]]
"""Where, what, and what instead."""


class Sabotage:
    """Something switched off since it was made; ``with`` switches it on again at the block's end."""

    def __init__(self, *patches: _Patch) -> None:
        self._originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
        for owner, name, instead in patches:
            setattr(owner, name, instead)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, original in self._originals:
            setattr(owner, name, original)


def sabotage(name: Literal["marks", "pushes", "taint"]) -> Sabotage:
    """Switch off the safety of that name, in this process, at once.

    Args:
        name: ``marks``: no mark counts as tainted, whatever happens to its key while a reply is on its way.
            ``pushes``: no invalidation that the server pushes is heard. ``taint``: a value whose mark is tainted is
            kept nevertheless.
    """
    return _SWITCHES[name]()


def ignore_marks() -> Sabotage:
    """``sabotage("marks")``."""
    return Sabotage((NearTier, "_settle", _settle))


def drop_pushes() -> Sabotage:
    """``sabotage("pushes")``."""
    return Sabotage((lane, "announce", _ignore), (thread_wire, "announce", _ignore), (MemoryStore, "_tell", _tell))


def keep_tainted() -> Sabotage:
    """``sabotage("taint")``."""
    arrived = NearTier.arrived

    def arrived_untainted(near: NearTier, key: bytes, mark: Mark, *arguments: Any) -> None:
        arrived(near, key, near.mark(key) if mark.tainted else mark, *arguments)

    return Sabotage((NearTier, "arrived", arrived_untainted))


_SWITCHES: dict[str, Callable[[], Sabotage]] = {"marks": ignore_marks, "pushes": drop_pushes, "taint": keep_tainted}


def _ignore(*_: object) -> None:
    """In the place of something that should have been done."""


def _settle(near: Any, key: bytes, _: Mark) -> bool:
    near._marks.pop(key, None)
    return True


def _tell(store: Any, _: object) -> None:
    store._changed, store._evicted = [], []
