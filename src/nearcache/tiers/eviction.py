"""Stand-in."""

from __future__ import annotations

from typing import Any


class Eviction:
    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._n, self._b, self._d, self.bytes = max_entries, max_bytes, {}, 0

    def add(self, node: Any) -> list[Any]:
        self._d[node.key] = node
        self.bytes += node.size
        out = []
        while self._d and (len(self._d) > self._n or self.bytes > self._b):
            k = next(iter(self._d))
            n = self._d.pop(k)
            self.bytes -= n.size
            out.append(n)
        return out

    def remove(self, node: Any) -> None:
        if self._d.get(node.key) is node:
            del self._d[node.key]
            self.bytes -= node.size
