"""A listener that forgets the versions of namespaces when the server revokes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Versions"]


class Versions:
    """Keeps the ``counters`` of a client's lanes true.

    Args:
        lanes: gives the lanes that there are.
    """

    def __init__(self, lanes: Callable[[], Iterable[Any]]) -> None:
        self._lanes = lanes

    def revoked(self, keys: list[bytes] | None) -> None:
        for lane in self._lanes():
            if keys is None:
                lane.counters.clear()
                continue
            for key in keys:
                lane.counters.pop(key, None)

    def lost(self, link: Any) -> None:
        link.counters.clear()
