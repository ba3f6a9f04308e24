"""Items, and the versions of them that are the truth."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

__all__ = ["CHANGING", "HELD", "HELD_ITEMS", "ITEMS", "WAYS", "Versions", "path_of"]

WAYS = ("set", "delete", "tags", "purge", "sync")
"""How the cache is made to follow a change; an item's number says which way is its own."""

HELD_ITEMS = 60
CHANGING = range(HELD_ITEMS, 160)
HELD = range(HELD_ITEMS)
ITEMS = range(160)


def path_of(item: int) -> str:
    """Where an item is read, and with PUT changed."""
    return f"/{WAYS[item % len(WAYS)]}/{item}"


class Versions:
    """A version per item, in a file that any number of processes have mapped. Each word has one writer at a time."""

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), len(ITEMS) * 8)
        self._words = memoryview(self._map).cast("Q")

    @staticmethod
    def create(file: Path) -> None:
        """All at 1."""
        file.write_bytes((1).to_bytes(8, "little") * len(ITEMS))

    def __getitem__(self, item: int) -> int:
        return self._words[item]

    def advance(self, item: int) -> int:
        self._words[item] += 1
        return self._words[item]

    def close(self) -> None:
        self._words.release()
        self._map.close()


def value_of(item: int, version: int) -> dict[str, Any]:
    """A value that shows what it is, and whether it is whole."""
    return {"item": item, "version": version, "text": f"{item}.{version} " * 40}
