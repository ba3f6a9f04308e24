"""A few whole numbers that several processes see: 8-byte words in a file that all have mapped."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["Words", "shared_file"]


class Words:
    """``words[i]``, from 0 at first. One process writes a word; every process reads it whole."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    def __getitem__(self, at: int) -> int:
        return self._words[at]

    def __setitem__(self, at: int, number: int) -> None:
        self._words[at] = number


@contextmanager
def shared_file(words: int) -> Iterator[str]:
    """The path of a file with so many words."""
    with TemporaryDirectory(prefix="benchmark-") as directory:
        path = Path(directory) / "words"
        path.write_bytes(bytes(8 * words))
        yield str(path)
