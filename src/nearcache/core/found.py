"""What a tier holds for a key, and what that means: fresh, stale, or nothing.

A value is *valid* while its namespace and its tags have not been invalidated since it was made, and *fresh* while it
is valid, its time to live has not passed, and none of its tags was expired. Within its grace a value that is valid
and not fresh is *stale*: it is no hit, and is served only while something better cannot be had.

The server's TTL is the value's own plus its grace, so no clock but the server's decides: what is left of the value's
own time is PTTL - grace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from ..sentinels import ABSENT, Miss
from .keys import Namespace
from .ports import Codec, Envelope
from .records import Record

__all__ = ["NOTHING", "Found", "Lookup", "State", "judge", "validity"]

Known = Mapping[bytes, tuple[int, int]]
"""Versions of counters: the hard half, and the soft half or 0."""


class State(StrEnum):
    """What ``lookup`` found."""

    FRESH = "fresh"
    STALE = "stale"
    ABSENT = "absent"
    INVALIDATED = "invalidated"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Lookup(Record):
    """A value, and everything a cache knows of it.

    Attributes:
        value: the value, fresh or stale; None when there is none.
        state: ``fresh``, ``stale``, ``absent``, ``invalidated`` or ``unreadable``.
        age: seconds since it was written, by the server's clock; None when not known (JSON).
        remaining: seconds until it expires; negative since it expired; None for no expiry, or no value.
        tier: ``near`` or ``server``; None when there is nothing.
        why: the reason for the state, in words.
    """

    value: Any
    state: State
    age: float | None
    remaining: float | None
    tier: str | None
    why: str


class Found(NamedTuple):
    """What a tier holds for a key.

    Attributes:
        miss: why there is nothing to be used; None for a valid value, fresh or stale.
        raw: the bytes as stored; None in the near tier, and for nothing.
        payload: the encoded value.
        envelope: None for JSON.
        remaining_ms: until it expires, 0 or less since it has; None for no expiry.
        soft: one of its tags was expired.
        tier: ``near`` or ``server``.
        rescued: the server failed, and this is all there is.
        timed_out: it did so by not answering in time.
    """

    miss: Miss | None
    raw: bytes | None = None
    payload: bytes | Miss = ABSENT
    envelope: Envelope | None = None
    remaining_ms: float | None = None
    soft: bool = False
    tier: str = "server"
    rescued: bool = False
    timed_out: bool = False

    @property
    def fresh(self) -> bool:
        return self.miss is None and not self.soft and (self.remaining_ms is None or self.remaining_ms > 0)

    @property
    def stale(self) -> bool:
        return self.miss is None and not self.fresh

    def why(self) -> str:
        if self.miss is not None:
            return self.miss.value
        if self.soft:
            return "one of its tags was expired"
        return "within its time to live" if self.fresh else "expired, within its grace"


NOTHING = Found(ABSENT)


def validity(envelope: Envelope | None, site: Namespace, known: Known) -> Miss | bool | list[bytes]:
    """A ``Miss`` for what was invalidated; whether a tag was expired; or the counters that have to be read to tell."""
    if envelope is None:
        return False
    version = known.get(site.counter)
    if version is None:
        return [site.counter, *map(site.tag_counter, dict(envelope.tags))]
    if version[0] != envelope.version:
        return Miss.INVALIDATED
    if not envelope.tags:
        return False
    soft = False
    unknown = []
    for tag, made in envelope.tags:
        pair = known.get(counter := site.tag_counter(tag))
        if pair is None:
            unknown.append(counter)
        elif pair[0] > made or made > max(pair):
            # Above both halves: from before the server lost what it had.
            return Miss.INVALIDATED
        else:
            soft = soft or pair[1] > made
    return unknown or soft


def judge(
    codec: Codec, site: Namespace, key: bytes, raw: bytes | None, pttl: int, known: Known, *, probe: int = 0
) -> Found | list[bytes]:
    """What stored bytes are worth, or the counters that have to be read to tell. Of a probe the payload is not cut."""
    if raw is None or pttl == -2:
        return NOTHING
    opened: Any = codec.unseal(raw, key)
    envelope = opened if opened.__class__ is Miss else codec.open(opened, key)
    if isinstance(envelope, Miss):
        return Found(envelope, raw)
    soft = validity(envelope, site, known)
    if isinstance(soft, list):
        return soft
    if isinstance(soft, Miss):
        return Found(soft, raw, envelope=envelope)
    payload = b"" if probe else codec.payload(opened, envelope)
    if isinstance(payload, Miss):
        return Found(payload, raw, envelope=envelope)
    left = None if pttl < 0 else pttl - (envelope.grace_ms if envelope is not None else 0)
    return Found(None, raw, payload, envelope, left, soft)
