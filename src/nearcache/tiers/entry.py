"""What the near tier holds of one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from ..codec import Codec, pickles
from ..codec.pickles import Pickled
from ..codec.values import decode, dumps, is_immutable
from ..codec.wire_json import decode as decode_json
from ..core.found import Found, validity
from ..core.keys import Namespace
from ..sentinels import Miss

__all__ = ["COPY", "Entry"]

_OVERHEAD: Final = 600  # bytes of an entry besides its payload: objects, and places in dictionaries


class _Copy:
    """The type of ``COPY``."""

    def __repr__(self) -> str:
        return "<copy>"


COPY: Final = _Copy()
"""In the place of a value that each caller must get a copy of, or that nobody has read yet."""


class Entry:
    """One value.

    A hit is ``value``, or ``copy()`` where that is ``COPY``. Besides them ``used`` and ``epoch`` change.

    Attributes:
        heard: whether a server has vouched for it.
    """

    __slots__ = (
        *("key", "name", "site", "size", "used", "filed"),
        *("payload", "value", "decode", "envelope"),
        *("epoch", "quick_until", "fresh_until", "dead_until", "known", "homes", "heard"),
    )

    def __init__(self, key: bytes, name: str, site: Namespace, found: Found, known: Any) -> None:
        assert isinstance(found.payload, bytes)
        self.key = key
        self.name = name
        self.site = site
        self.payload: bytes | None = found.payload
        self.envelope = found.envelope
        self.size = len(found.payload) + len(key) + _OVERHEAD
        self.used = self.filed = 0
        self.value: Any = COPY
        self.decode: Callable[[bytes], Any] = self._first
        self.known: dict[bytes, tuple[int, int]] = known
        self.homes: list[tuple[dict[Any, Any], Any]] = [(site.near, name)]
        self.heard = True
        self.epoch = -1
        self.quick_until = self.fresh_until = self.dead_until = 0.0

    def _first(self, payload: bytes) -> Any:
        """The first reading tells whether the value may be handed out as it is from now on."""
        is_json = self.envelope is None
        value = Codec.load(payload, is_json)
        if is_immutable(value):
            self.value = value
            if not is_json:
                self.payload = None
        elif value.__class__ is not Miss:
            self.decode = decode_json if is_json else pickles.decode if payload.__class__ is Pickled else decode
        return value

    def copy(self) -> Any:
        """What a hit that finds ``COPY`` hands out; or ``Miss.UNDECODABLE``."""
        payload = self.payload
        if payload is None:  # another thread was the first to read it
            return self.value
        try:
            return self.decode(payload)
        except Exception:  # noqa: BLE001  # a class that was there is gone
            return Miss.UNDECODABLE

    def read(self, type: Any = None) -> Any:
        """The value, or ``Miss.UNDECODABLE``; whoever gets a value that can change gets one of his own."""
        payload = self.payload
        if payload is None:
            if type is None or self.value.__class__ is type:
                return self.value
            payload = dumps(self.value)
        if type is None and self.value is COPY:
            return self._first(payload)
        return Codec.load(payload, self.envelope is None, type)

    def validity(self) -> Miss | bool | list[bytes]:
        """``found.validity`` by what the entry's connection knows."""
        counter = self.site.counter
        if self.envelope is None and counter not in self.known:
            return [counter]  # JSON has no version, but a connection that knows none may have been lost
        return validity(self.envelope, self.site, self.known)

    def versions(self) -> Iterator[tuple[bytes, int]]:
        """The counters it depends on, and which of their versions it was made with."""
        if self.envelope is not None:
            yield self.site.counter, self.envelope.version
            for tag, made in self.envelope.tags:
                yield self.site.tag_counter(tag), made

    def same(self, found: Found) -> bool:
        """Whether this is the very write that was found."""
        mine, other = self.envelope, found.envelope
        if mine is None or other is None:
            return mine is other and self.payload == found.payload
        return mine.write_id == other.write_id
