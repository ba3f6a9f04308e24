"""Writes as plans: values, removals, and the counters that invalidate namespaces and tags.

A value carries the versions its namespace and tags had before it was sent. When one of them was raised meanwhile it is
written again: a value that is set after an invalidation must outlive it. Whatever is written drops the key's lease, so
that a load that began before stores nothing.

What fails, or is left by its caller before it was answered, is owed from then on (``recovery.py``); what is owed goes
before whatever is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import ServerError
from .effects import Command, Link, Plan, Send, Spawn
from .keys import Namespace
from .parts import TRIES, Asking, Parts, Version
from .recovery import Kind
from .storing import Storing, tags_of

__all__ = ["Item", "Writes"]


class Item(NamedTuple):
    """A value on its way to the server.

    Attributes:
        name: the caller's key.
        compress_min: bytes up to which it is not compressed, if that is more than the cache's own limit.
    """

    name: str
    value: Any
    compress_min: int = 0


class Writes:
    """The writes of one cache."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # -- values

    def set_many(
        self,
        link: Link,
        site: Namespace,
        items: Mapping[bytes, Item],
        ttl_ms: int | None,
        grace_ms: int = 0,
        tags: Sequence[bytes] = (),
    ) -> Plan[bool]:
        """Store values; whether the server has all of them.

        Raises:
            CodecError: one cannot be encoded; then none is sent.
        """
        plain = link.tracks and not link.track_all and not tags and not self._parts.owed
        if plain and len(items) == 1 and site.counter in link.counters:
            ((key, item),) = items.items()
            return self._set_one(link, site, key, item, ttl_ms, grace_ms)
        return self._set_many(link, site, items, ttl_ms, grace_ms, tags)

    def _set_one(
        self, link: Link, site: Namespace, key: bytes, item: Item, ttl_ms: int | None, grace_ms: int
    ) -> Plan[bool]:
        """The usual course of ``_set_many`` for one value that is not kept near, in fewer steps."""
        parts, keys = self._parts, (key,)
        began = parts.recovery.begin()
        self._outdated(keys)
        try:
            version = link.counters.get(site.counter)
            if version is not None:
                data = parts.codec.encode(item.value, key, version[0], grace_ms, created_ms=parts.now_ms(link))
                replies = yield parts.remote.store(key, data, _physical(ttl_ms, grace_ms), read_back=False)
                parts.near.wrote(keys, (parts.remote.lease(key),))
                for reply in replies:
                    parts.remote.check(reply)
                if link.counters.get(site.counter) == version:
                    parts.counters.sets += 1
                    parts.wrote(Kind.KEY, keys, link, began)
                    return True
        except (ServerError, GeneratorExit) as error:
            return parts.unwritten(error, False, Kind.KEY, keys, link, began)
        finally:
            parts.flights.detach(keys)
        return (yield from self._set_many(link, site, {key: item}, ttl_ms, grace_ms, ()))

    def _set_many(
        self,
        link: Link,
        site: Namespace,
        items: Mapping[bytes, Item],
        ttl_ms: int | None,
        grace_ms: int,
        tags: Sequence[bytes],
    ) -> Plan[bool]:
        if not items:
            return True
        parts = self._parts
        began = parts.recovery.begin()
        try:
            self._outdated(items)
            for _ in range(TRIES):
                if parts.owed:
                    yield from parts.replay.settled(link)
                known = yield from parts.versions(link, site, tags)
                if (yield from self._store(link, site, items, ttl_ms, grace_ms, tags, known)):
                    parts.counters.sets += len(items)
                    parts.wrote(Kind.KEY, items, link, began)
                    return True
            return False
        except (ServerError, GeneratorExit) as error:
            return parts.unwritten(error, False, Kind.KEY, items, link, began)
        finally:
            parts.flights.detach(items)

    def _store(
        self,
        link: Link,
        site: Namespace,
        items: Mapping[bytes, Item],
        ttl_ms: int | None,
        grace_ms: int,
        tags: Sequence[bytes],
        known: Mapping[bytes, Version],
    ) -> Plan[bool]:
        """Send them once; whether the versions they carry are still the current ones."""
        parts = self._parts
        versions = tags_of(site, tags, known)
        now_ms, version = parts.now_ms(link), known[site.counter][0]
        datas = {
            key: parts.codec.encode(
                item.value,
                key,
                version,
                grace_ms,
                created_ms=now_ms,
                tags=versions,
                compress_min=item.compress_min,
            )
            for key, item in items.items()
        }
        physical = _physical(ttl_ms, grace_ms)
        checking = None if link.tracks else Asking(parts, link, known)
        checks = checking.commands if checking else []
        if parts.near.keeps and link.track_all:
            storing = Storing(parts, link, site, {key: item.name for key, item in items.items()})
            for key, data in datas.items():
                storing.add(key, data, parts.remote.store(key, data, physical, read_back=True))
            try:
                replies = yield Send([*storing.commands, *checks], storing.parse)
            except BaseException:
                storing.give_up()
                raise
        else:
            commands = [c for k, d in datas.items() for c in parts.remote.store(k, d, physical, read_back=False)]
            replies = yield commands + checks
            parts.near.wrote(items, map(parts.remote.lease, items))
        for reply in replies:
            parts.remote.check(reply)
        if checking is None:
            return all(link.counters.get(counter) == version for counter, version in known.items())
        checking.parse(replies[-len(checks) :])
        return checking.known == known

    def delete(self, link: Link, site: Namespace, keys: Sequence[bytes]) -> Plan[int]:
        """How many were valid and not expired."""
        if not keys:
            return 0
        parts = self._parts
        removed = yield from self._write(link, site, keys, lambda version: parts.remote.delete(list(keys), version))
        parts.counters.deletes += removed or 0
        return removed or 0

    def delete_prefix(self, link: Link, site: Namespace, prefix: bytes) -> Plan[int]:
        """Remove what has a stored key that begins so, and stop its loads; how many were valid. Scans the database."""
        remote, removed = self._parts.remote, 0
        began = self._parts.recovery.begin()
        self._parts.flights.detach_namespace(prefix)
        try:
            # Leases of keys that are only being loaded, too.
            for head in (prefix, remote.lease_head(prefix)):
                cursor, done = b"0", False
                while not done:
                    reply = yield remote.scan(cursor, head)
                    cursor, found = remote.check(reply)
                    done = cursor == b"0"
                    removed += yield from self.delete(link, site, list(dict.fromkeys(map(remote.leased, found))))
        except (ServerError, GeneratorExit) as error:
            return self._parts.unwritten(error, removed, Kind.HEAD, [prefix], link, began)
        self._parts.wrote(Kind.HEAD, [prefix], link, began)
        return removed

    def expire(self, link: Link, site: Namespace, key: bytes, ttl_ms: int | None) -> Plan[bool]:
        """Give a value a new time to live; whether it was there, valid and not expired."""
        remote = self._parts.remote
        command = lambda version: remote.expire(key, version, ttl_ms)  # noqa: E731
        done = yield from self._write(link, site, [key], command, settles=False)
        return bool(done)

    def _write(
        self,
        link: Link,
        site: Namespace,
        keys: Sequence[bytes],
        command: Callable[[int], Command],
        *,
        settles: bool = True,
    ) -> Plan[int | None]:
        """Send a command after which nothing that is known of these keys and their leases holds; its reply.

        Args:
            command: makes it, for the namespace's version.
            settles: what failed before need not be made good then.
        """
        parts = self._parts
        began = parts.recovery.begin()
        self._outdated(keys)
        try:
            if parts.owed:
                yield from parts.replay.settled(link)
            known = yield from parts.versions(link, site, ())
            reply: int = yield from self._send(command(known[site.counter][0]), keys, map(parts.remote.lease, keys))
            parts.wrote(Kind.KEY, keys, link, began, settles=settles)
            return reply
        except (ServerError, GeneratorExit) as error:
            return parts.unwritten(error, None, Kind.KEY, keys, link, began)
        finally:
            parts.flights.detach(keys)

    def _send(self, command: Command, keys: Collection[bytes], leases: Iterable[bytes] = ()) -> Plan[Any]:
        near = self._parts.near
        replies = yield Send([command], lambda _: near.wrote(keys, [*keys, *leases]))
        return self._parts.remote.check(replies[0])

    def _outdated(self, keys: Collection[bytes]) -> None:
        self._parts.flights.detach(keys)
        self._parts.near.drop(keys)

    # -- counters

    def clear(self, link: Link, site: Namespace, wait: bool) -> Plan[int | None]:
        """Make every value of the namespace invalid at once, then remove them; how many were valid.

        ``wait=False`` leaves the removing to the background and returns ``None``.
        """
        parts = self._parts
        began = parts.recovery.begin()
        # What is left is invalid, and goes with its TTL; but JSON has no version to tell.
        left = [site.head] if parts.codec.wire == "json" else []
        parts.flights.detach_namespace(site.head)
        try:
            ((before, now),) = yield from self._raise(link, [site.counter])
            removing = self._remove(site, before, now)
            if not wait:
                yield Spawn(self._quietly(removing, left, link, began))
                return None
            removed = yield from removing
            parts.wrote(Kind.HEAD, left, link, began)
            return removed
        except (ServerError, GeneratorExit) as error:
            return parts.unwritten(error, 0 if wait else None, Kind.HEAD, left, link, began)
        finally:
            parts.flights.detach_namespace(site.head)

    def raise_tags(self, link: Link, site: Namespace, tags: Collection[bytes], *, soft: bool) -> Plan[bool]:
        """Make every value with one of the tags invalid, or only expired; whether the server has it."""
        if not tags:
            return True
        try:
            yield from self._raise(link, list(map(site.tag_counter, tags)), soft=soft)
        except ServerError as error:
            return self._parts.failed(error, False)
        return True

    def _raise(self, link: Link, counters: list[bytes], *, soft: bool = False) -> Plan[list[tuple[bytes, bytes]]]:
        """Raise counters; for each what it was and what it is, as text."""
        parts, near, remote = self._parts, self._parts.near, self._parts.remote
        began = parts.recovery.begin()
        near.raised(counters)
        marks = [near.mark(counter) for counter in counters]
        track = [remote.TRACK_NEXT] if link.tracks and not link.track_all else []
        each = 1 + len(track)
        commands = [command for counter in counters for command in (*track, remote.raise_counter(counter, soft=soft))]

        def remember(replies: list[Any]) -> None:
            for counter, mark, reply in zip(counters, marks, replies[each - 1 :: each], strict=True):
                untainted = near.settle(counter, mark)
                near.raised([counter])
                if untainted and link.tracks and isinstance(reply, list):
                    near.learn(link, counter, near.mark(counter), remote.version(reply[1]))

        try:
            if parts.owed:
                yield from parts.replay.settled(link)
            replies = yield Send(commands, remember)
            raised: list[tuple[bytes, bytes]] = [tuple(remote.check(reply)) for reply in replies[each - 1 :: each]]
        except BaseException:
            for counter, mark in zip(counters, marks, strict=True):
                near.settle(counter, mark)
            parts.replay.owe(Kind.COUNTER, counters, link, began, soft=soft)
            raise
        parts.wrote(Kind.COUNTER, counters, link, began, soft=soft)
        return raised

    def _remove(self, site: Namespace, before: bytes, now: bytes) -> Plan[int]:
        remote = self._parts.remote
        cursor, counted = b"0", 0
        while True:
            reply = yield remote.scan(cursor, site.head)
            cursor, keys = remote.check(reply)
            if keys:
                counted += yield from self._send(remote.remove_older(keys, before, now), keys)
            if cursor == b"0":
                self._parts.counters.deletes += counted
                return counted

    def _quietly(self, removing: Plan[int], left: list[bytes], link: Link, began: int) -> Plan[None]:
        """Nobody waits for it."""
        try:
            yield from removing
        except (ServerError, GeneratorExit) as error:
            self._parts.replay.owe(Kind.HEAD, left, link, began)
            if not isinstance(error, ServerError):
                raise
            self._parts.counters.errors += 1
        else:
            self._parts.wrote(Kind.HEAD, left, link, began)

    def ping(self) -> Plan[str]:
        """``PONG``.

        Raises:
            ServerError: the server does not answer.
        """
        reply = yield ("PING",)
        answer = self._parts.remote.check(reply)
        return answer.decode() if isinstance(answer, bytes) else str(answer)


def _physical(ttl_ms: int | None, grace_ms: int) -> int | None:
    return None if ttl_ms is None else ttl_ms + grace_ms
