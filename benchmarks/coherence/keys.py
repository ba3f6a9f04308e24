"""The keys of a run, who writes which, and what their values look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["FAULTS", "FRONTS", "PROCESSES", "SABOTAGES", "SHARED", "Config", "Key", "keys_of", "value_of", "version_of"]

PROCESSES = 4
FRONTS = ("asyncio", "uvloop", "threads")
"""Where actors live, in every process; each has one writer."""
SHARED = "shared"
"""The namespace with keys of every writer; each writer has one more of its own, to clear."""
FAULTS = ("kill", "pause", "stop", "block")
SABOTAGES = ("marks", "pushes", "taint")

_PADDING = "x" * 150
_LENGTH = 150  # characters of a name: what is read in one go then exceeds the 16 KB that the server takes at a time


@dataclass(frozen=True)
class Config:
    """What every process of a run knows.

    Attributes:
        table: the file with the origins.
        operations: the reads and writes that may be chosen.
        sabotage: the safety that is switched off.
    """

    url: str
    table: str
    seed: int
    faults: tuple[str, ...]
    operations: tuple[str, ...]
    sabotage: str | None = None
    keys: int = 48


@dataclass(frozen=True)
class Key:
    """Attributes: ``writer`` is the number of its one writer; ``near_only``, no cache with ``near=False`` reads it."""

    index: int
    name: str
    namespace: str
    writer: int
    near_only: bool
    record: bool
    tag: str = field(compare=False)


def keys_of(config: Config) -> list[Key]:
    """All keys of a run: of each writer's, every fourth in a namespace of its own, under a name that another has."""
    writers = PROCESSES * len(FRONTS)
    keys: list[Key] = []
    for index in range(config.keys):
        writer, turn = index % writers, index // writers
        own = turn % 4 == 3
        keys.append(
            Key(
                index,
                name=f"key-{writer if own else index}-".ljust(_LENGTH, "x"),
                namespace=f"own-{writer}" if own else SHARED,
                writer=writer,
                near_only=index % 2 == 0,
                record=turn % 2 == 1,
                tag=f"writer-{writer}",
            )
        )
    return keys


def value_of(key: Key, version: int) -> Any:
    """Text, which a cache may hand out as it is, or a dict, which it has to copy."""
    if key.record:
        return {"key": key.index, "version": version, "name": key.name, "namespace": key.namespace}
    return f"{key.index}:{version}:{_PADDING}"


def version_of(key: Key, value: Any) -> int | None:
    """The version in a value of ``key``; None for what is no value of it. Spoils a dict."""
    if key.record:
        version = value.get("version") if isinstance(value, dict) else None
        if not isinstance(version, int) or value != value_of(key, version):
            return None
        value["key"] = "spoilt by a reader"
        return version
    if not isinstance(value, str):
        return None
    index, _, rest = value.partition(":")
    version_text, _, padding = rest.partition(":")
    if index != str(key.index) or padding != _PADDING or not version_text.isdigit():
        return None
    return int(version_text)
