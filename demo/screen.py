"""What the demo prints: 100 columns, colour only where a person is looking."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

WIDTH = 100
_RESET, _BOLD, _DIM, _GREEN, _RED = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[1;31m"
_TITLE = 29  # columns of a check's title


class Screen:
    """Lines on a terminal or in a file.

    Attributes:
        failed: how many checks failed.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every locale has a word for ████
        self._stream = stream
        self._terminal = stream.isatty()
        self._coloured = self._terminal and not os.environ.get("NO_COLOR")
        self._quarter = 0
        self.failed = 0

    def line(self, text: str = "", style: str = "") -> None:
        self._stream.write(self._paint(text, style) + "\n")
        self._stream.flush()

    def title(self, text: str) -> None:
        self.line(text, _BOLD)

    def heading(self, text: str) -> None:
        self.line()
        self.line(text, _BOLD)

    def note(self, text: str) -> None:
        self.line(text, _DIM)

    def pairs(self, pairs: Mapping[str, str]) -> None:
        """Print names and values in two columns, or in one where they are long."""
        cells = [f"{name:<26}{value}" for name, value in pairs.items()]
        columns = 2 if max(map(len, cells)) < WIDTH // 2 - 2 else 1
        for row in (cells[at : at + columns] for at in range(0, len(cells), columns)):
            self.line("  " + "".join(f"{cell:<{WIDTH // 2 - 2}}" for cell in row).rstrip())

    def check(self, passed: bool, title: str, detail: str) -> None:
        """Print one check, and count it if it failed."""
        room = WIDTH - 10 - _TITLE
        detail = " ".join(detail.split())
        detail = detail if len(detail) <= room or not passed else f"{detail[: room - 1]}…"
        self.line(f"  {self._verdict(passed)} {title:<{_TITLE}} {detail}")

    def row(self, cells: Sequence[str], widths: Sequence[int], passed: bool | None = None) -> None:
        """Print cells in columns, negative widths aligned to the right; ``passed`` makes the row a check."""
        padded = [
            f"{cell:>{-width}}" if width < 0 else f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)
        ]
        text = " ".join(padded).rstrip()
        if passed is None:
            self.note(f"{'':<9}{text}")
        else:
            self.line(f"  {self._verdict(passed)} {text}")

    def progress(self, table: str, rows: int, share: float) -> None:
        """Show how far loading is: one line that changes on a terminal, a line per quarter elsewhere."""
        bar = "█" * int(share * 30)
        text = f"loading {table:<9} {rows:>8,} rows  {bar:·<30} {share:4.0%}"
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
        elif share * 4 >= self._quarter + 1:
            self._quarter = int(share * 4)
            self.line(text)

    def clear_line(self) -> None:
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _verdict(self, passed: bool) -> str:
        self.failed += not passed
        return self._paint("ok    ", _GREEN) if passed else self._paint("FAILED", _RED)

    def _paint(self, text: str, style: str) -> str:
        return f"{style}{text}{_RESET}" if style and self._coloured else text
