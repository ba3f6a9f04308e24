"""The operations of a cache as plans: what to send, in which order, and what the replies mean.

Every operation on the server is a generator of effects (``effects.py``); the shells drive it. The rule they share:
an entry carries the version its namespace had before the value was made, and is valid only while the namespace still
has that version. On a tracking link the version is known without asking and the server revokes it, in order with the
replies, so a reader compares what it knows before and after; without tracking the version is read along each time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ServerError
from ..sentinels import ABSENT, Miss
from .effects import Command, Link, Plan, Send, Spawn
from .flights import Flights
from .keys import Namespace
from .ports import Codec, Remote
from .stats import Counters

__all__ = ["Plans"]

_NO_VERSION = -1  # what no entry carries
_TRIES = 5  # how often a namespace may be cleared under one operation before that gives up

_log = logging.getLogger("nearcache.cache")


class Plans:
    """The plans of one cache.

    Args:
        codec: values to bytes and back.
        remote: commands and replies of the server's tier.
        flights: the loads under way on the same client.
        counters: where operations are counted.
        strict: raise ``ServerError`` where otherwise a read is a miss and a write is ``False``.
    """

    def __init__(
        self, *, codec: Codec, remote: Remote, flights: Flights, counters: Counters, strict: bool = False
    ) -> None:
        self._codec = codec
        self._remote = remote
        self._flights = flights
        self._counters = counters
        self._strict = strict

    # -- reads

    def get(self, link: Link, namespace: Namespace, key: bytes, type: Any) -> Plan[Any]:
        """The value, or a ``Miss``."""
        try:
            (raw,), version = yield from self._read(link, namespace, [("GET", key)])
        except ServerError as error:
            raw, version = error, _NO_VERSION
        return self.got(raw, key, version, type)

    def got(self, raw: Any, key: bytes, version: int, type: Any) -> Any:
        """What the reply to a GET, or the lack of one, means; ``version`` held while it was carried out."""
        try:
            value = self._decode(raw, key, version, type)
        except ServerError as error:
            value = self._failed(error, ABSENT)
        return self._count_read(value, key)

    def get_many(self, link: Link, namespace: Namespace, keys: Mapping[str, bytes], type: Any) -> Plan[dict[str, Any]]:
        """What was found, in the asked order."""
        found: dict[str, Any] = {}
        if not keys:
            return found
        try:
            (raws,), version = yield from self._read(link, namespace, [("MGET", *keys.values())])
        except ServerError as error:
            raws, version = [None] * len(keys), _NO_VERSION
            self._failed(error, None)
        for (key, stored), raw in zip(keys.items(), raws, strict=True):
            value = self._count_read(self._decode(raw, stored, version, type), stored)
            if not isinstance(value, Miss):
                found[key] = value
        return found

    def ttl(self, link: Link, namespace: Namespace, key: bytes) -> Plan[int]:
        """Whole seconds left, -1 without expiry, -2 without a valid value."""
        commands: list[Command] = [("GETRANGE", key, 0, self._remote.HEADER - 1), ("PTTL", key)]
        try:
            (head, pttl), version = yield from self._read(link, namespace, commands)
        except ServerError as error:
            return self._failed(error, -2)
        if not head or isinstance(self._codec.header(head, key, version), Miss):
            return -2
        return self._remote.remaining_seconds(pttl)

    def _read(self, link: Link, namespace: Namespace, commands: list[Command]) -> Plan[tuple[list[Any], int]]:
        """The replies to commands that read, and the version the namespace had when they were carried out.

        ``_NO_VERSION`` when the namespace was cleared again and again meanwhile: nothing that was read is valid.
        """
        replies: list[Any] = []
        for _ in range(_TRIES):
            version = link.counters.get(namespace.counter)
            if version is None and not link.tracks:
                # Read after the values: a clear in between makes them invalid, never the other way round.
                replies = yield [*commands, self._remote.read_counter(namespace.counter)]
                version = int(self._remote.check(replies.pop()))
                return [self._remote.check(reply) for reply in replies], version
            if version is None:
                version = yield from self._learn(link, namespace)
            replies = yield commands
            if link.counters.get(namespace.counter) == version:
                return [self._remote.check(reply) for reply in replies], version
        return [self._remote.check(reply) for reply in replies], _NO_VERSION

    def _learn(self, link: Link, namespace: Namespace) -> Plan[int]:
        """Read the version of a namespace; on a tracking link, remember it until the server revokes it."""
        counter = namespace.counter
        if not link.tracks:
            reply = yield self._remote.read_counter(counter)
            return int(self._remote.check(reply))

        def remember(replies: list[Any]) -> None:
            if link.tracks and isinstance(replies[-1], bytes):
                link.counters[counter] = int(replies[-1])

        replies = yield Send([self._remote.TRACK_NEXT, self._remote.read_counter(counter)], remember)
        return int(self._remote.check(replies[-1]))

    def _decode(self, raw: Any, key: bytes, version: int, type: Any) -> Any:
        if raw.__class__ is bytes:
            return self._codec.decode(raw, key, version, type)
        if isinstance(raw, ServerError):
            raise raw
        return ABSENT

    def _count_read(self, value: Any, key: bytes) -> Any:
        counters = self._counters
        if value.__class__ is not Miss:
            counters.hits += 1
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("Cache hit for %s", key.decode())
            return value
        counters.misses += 1
        counters.undecodable += value is Miss.UNDECODABLE or value is Miss.FOREIGN
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("Cache miss for %s", key.decode())
        return value

    # -- for a load

    def peek(
        self, link: Link, namespace: Namespace, keys: Sequence[bytes], type: Any
    ) -> Plan[tuple[dict[bytes, bytes], set[bytes], int]]:
        """Before a load: the valid values as stored, the keys a fill may write, and the version it has to carry.

        Counts nothing: the caller's own read did.
        """
        try:
            (raws,), version = yield from self._read(link, namespace, [("MGET", *keys)])
        except ServerError as error:
            return self._failed(error, ({}, set(), 0))
        valid: dict[bytes, bytes] = {}
        fillable: set[bytes] = set()
        for key, raw in zip(keys, raws, strict=True):
            value = ABSENT if raw is None else self._codec.decode(raw, key, version, type)
            if not isinstance(value, Miss):
                valid[key] = raw
            elif value is not Miss.FOREIGN and version != _NO_VERSION:
                fillable.add(key)
        return valid, fillable, max(version, 0)

    def fill(self, link: Link, values: Mapping[bytes, bytes], ttl_ms: int | None) -> Plan[None]:
        """After a load: store what is encoded already."""
        if values:
            try:
                replies = yield [self._remote.write(key, data, ttl_ms) for key, data in values.items()]
                for reply in replies:
                    self._remote.check(reply)
            except ServerError as error:
                return self._failed(error, None)
            self._counters.sets += len(values)

    # -- writes

    def set_many(self, link: Link, namespace: Namespace, values: Mapping[bytes, Any], ttl_ms: int | None) -> Plan[bool]:
        """Store values; whether the server has all of them.

        Raises:
            CodecError: one cannot be encoded; then none is sent.
        """
        if not values:
            return True
        self._flights.detach(values)
        try:
            done = yield from self._store(link, namespace, values, ttl_ms)
        except ServerError as error:
            return self._failed(error, False)
        finally:
            self._flights.detach(values)
        if done:
            self._counters.sets += len(values)
        return done

    def _store(self, link: Link, namespace: Namespace, values: Mapping[bytes, Any], ttl_ms: int | None) -> Plan[bool]:
        """Written again when the namespace was cleared meanwhile: a value set after a clear must outlive it."""
        remote, codec, counter = self._remote, self._codec, namespace.counter
        for _ in range(_TRIES):
            version = link.counters.get(counter)
            if version is None:
                version = yield from self._learn(link, namespace)
            commands = [remote.write(key, codec.encode(v, key, version), ttl_ms) for key, v in values.items()]
            if link.tracks:
                replies = yield commands
                now = link.counters.get(counter)
            else:
                replies = yield [*commands, remote.read_counter(counter)]
                now = int(remote.check(replies.pop()))
            for reply in replies:
                remote.check(reply)
            if now == version:
                return True
        return False

    def delete(self, link: Link, keys: Sequence[bytes]) -> Plan[int]:
        """How many were there."""
        if not keys:
            return 0
        self._flights.detach(keys)
        try:
            removed: int = self._remote.check((yield ("UNLINK", *keys)))
        except ServerError as error:
            return self._failed(error, 0)
        finally:
            self._flights.detach(keys)
        self._counters.deletes += removed
        return removed

    def expire(self, link: Link, key: bytes, ttl_ms: int | None) -> Plan[bool]:
        """Give a key a new time to live; whether it was there."""
        self._flights.detach([key])
        try:
            replies = yield self._remote.expire(key, ttl_ms)
            return bool(self._remote.check(replies[-1]))
        except ServerError as error:
            return self._failed(error, False)
        finally:
            self._flights.detach([key])

    # -- namespaces

    def clear(self, link: Link, namespace: Namespace, wait: bool) -> Plan[int | None]:
        """Make every value of the namespace invalid at once, then remove them; how many were valid.

        ``wait=False`` leaves the removing to the background and returns ``None``.
        """
        self._flights.detach_namespace(namespace.head)
        counter = namespace.counter

        def remember(replies: list[Any]) -> None:
            if link.tracks and isinstance(replies[-1], list):
                link.counters[counter] = int(replies[-1][1])

        try:
            replies = yield Send([self._remote.TRACK_NEXT, self._remote.raise_counter(counter)], remember)
            before, now = self._remote.check(replies[-1])
            removing = self._remove(namespace, before, now)
            if not wait:
                yield Spawn(self._quietly(removing))
                return None
            return (yield from removing)
        except ServerError as error:
            return self._failed(error, 0 if wait else None)
        finally:
            self._flights.detach_namespace(namespace.head)

    def _remove(self, namespace: Namespace, before: bytes, now: bytes) -> Plan[int]:
        cursor, counted = b"0", 0
        while True:
            reply = yield self._remote.scan(cursor, namespace.head)
            cursor, keys = self._remote.check(reply)
            if keys:
                counted += self._remote.check((yield self._remote.remove_older(keys, before, now)))
            if cursor == b"0":
                self._counters.deletes += counted
                return counted

    def _quietly(self, plan: Plan[int]) -> Plan[int]:
        try:
            return (yield from plan)
        except ServerError as error:
            # What stays behind is invalid already and goes with its TTL.
            return self._failed(error, 0)

    def ping(self, link: Link) -> Plan[str]:
        """``PONG``.

        Raises:
            ServerError: the server does not answer.
        """
        reply = yield ("PING",)
        answer = self._remote.check(reply)
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def _failed(self, error: ServerError, instead: Any) -> Any:
        self._counters.errors += 1
        if self._strict:
            raise error
        return instead
