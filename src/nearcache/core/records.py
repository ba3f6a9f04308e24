"""Snapshots that read both ways: ``stats.hits`` and ``stats["hits"]``, ``dict(stats)`` for a log line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Record"]


class Record(Mapping[str, Any]):
    """Base of frozen dataclasses that are mappings of their own fields."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        if any(field.name == name for field in dataclasses.fields(self)):  # type: ignore[arg-type]
            return getattr(self, name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(dataclasses.fields(self))  # type: ignore[arg-type]
