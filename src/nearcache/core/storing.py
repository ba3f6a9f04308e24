"""Storing values, and keeping near what the server took."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .effects import Command, Link
from .found import judge
from .keys import Namespace
from .parts import Parts, Version
from .ports import Mark

__all__ = ["Storing", "tags_of"]


class Storing:
    """Commands that store values, and the hook that keeps near what the server took."""

    def __init__(self, parts: Parts, link: Link, site: Namespace, names: Mapping[bytes, str]) -> None:
        self._parts = parts
        self._link = link
        self._site = site
        self._names = names
        self._sent = parts.near.now()
        self._marks: dict[bytes, Mark] = {}
        self._datas: dict[bytes, tuple[bytes, int]] = {}  # the bytes, and where their reply is
        self.commands: list[Command] = []

    def add(self, key: bytes, data: bytes, commands: list[Command]) -> None:
        """The last command's reply tells the PTTL, or ``OK``."""
        self._marks[key] = self._parts.near.mark(key)
        self.commands += commands
        self._datas[key] = (data, len(self.commands) - 1)

    @property
    def stored_keys(self) -> Collection[bytes]:
        """The keys of which a value was added."""
        return self._datas.keys()

    def parse(self, replies: list[Any]) -> None:
        """Called where the replies are parsed."""
        parts, link, site = self._parts, self._link, self._site
        epoch = parts.near.epoch
        parts.near.wrote((), [*self._datas, *map(parts.remote.lease, self._datas)])
        for key, (data, place) in self._datas.items():
            pttl = replies[place]
            if not isinstance(pttl, int):
                parts.near.settle(key, self._marks[key])
                if pttl is not None:  # refused: what the server holds is not known
                    parts.near.drop([key])
                continue
            verdict = judge(parts.codec, site, key, data, pttl, link.counters)
            if isinstance(verdict, list):
                parts.near.settle(key, self._marks[key])
                parts.near.drop([key])
            else:
                parts.near.arrived(key, self._marks[key], link, site, self._names[key], verdict, self._sent, epoch)
        self._settle()

    def give_up(self) -> None:
        """Whether anything was stored is not known."""
        self._settle()
        self._parts.near.drop(self._datas)

    def _settle(self) -> None:
        for key, mark in self._marks.items():
            self._parts.near.settle(key, mark)


def tags_of(site: Namespace, tags: Collection[bytes], known: Mapping[bytes, Version]) -> list[tuple[bytes, int]]:
    """Tags and the versions that an entry made now carries."""
    return [(tag, max(known[site.tag_counter(tag)])) for tag in tags]
