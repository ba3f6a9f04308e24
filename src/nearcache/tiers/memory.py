"""The near tier: values in this process, kept coherent by the server.

Theory of operation
-------------------
*A hit* is a look-up in a dictionary that nobody locks (``Namespace.near``, by the caller's key) and two comparisons:
``entry.epoch`` against the tier's, and ``entry.quick_until`` against the clock. Whatever could make entries invalid
in bulk (a counter that was pushed, a connection that was lost) raises the tier's epoch; an entry whose epoch is older
is looked at closely, once, by ``find``. What happens to one key takes its entry out of the dictionaries. Writers hold
one lock, for a few instructions, and never call out of this module while they hold it.

*Coherence.* The server tells each connection, in order with its replies, which of the keys it read have changed. What
is kept came from a read that the server tracks, or from a write that reads in the same step. The order of what happens
in between is kept by *marks*: a mark is taken when a command is sent, and is tainted by anything that happens to its
key until the reply is parsed: a push on any connection, an own write, another reply that was kept. All who read a key
at the same time share a mark, and the first reply uses it up. A reply whose mark is tainted is returned to whoever
asked, and not kept; if it differs from what is kept, what is kept goes, because which of the two is newer cannot be
told, and it taints the replies that are still on their way, because they may be older. All this is decided where
replies are parsed, never in the task that waits: by the time it wakes, a push may have been and gone.

*Who vouches.* An entry remembers the versions its connection knew (``known``), the very dictionary: the server
revokes them on the same connection as the entry. When that connection is lost the dictionary is emptied and another
takes its place, so its entries can never be taken for valid again; they stay until they are replaced, for the time in
which no server can be asked.

*Time.* An entry is quick until the value's own end or the tier's cap, whichever is first, counted from when the read
was sent, so a slow reply makes nobody older than he is. Then the server is asked again; within its grace the value may
still serve as stale.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from math import inf
from time import monotonic
from typing import Any, Final, cast

from ..codec.values import dumps
from ..core.effects import Link
from ..core.found import Found
from ..core.keys import Namespace
from ..core.ports import Mark
from ..core.trouble import Trouble
from ..sentinels import Miss
from .entry import Entry
from .eviction import Eviction
from .marks import Taint, Watching

__all__ = ["NearTier"]

_COUNTERS_PER_ENTRY: Final = 2  # how many counters may be known per near entry before unused ones are forgotten
_MOST_HOMES: Final = 16  # dictionaries' places an entry is found at: nobody counts their bytes
_JUST_LEARNT: Final = 100  # counters that are not: values are about to be judged by them


class NearTier:
    """The near tier of one client, and the marks of its connections.

    Args:
        entries: the most values it holds.
        size: the most bytes they may have together, overhead included.
        ttl: seconds after which a value is looked for on the server again, whatever its own time to live.
        keeps: whether it keeps anything at all.
        now: seconds, monotonic.

    Attributes:
        trouble: whether the server is in any.
    """

    def __init__(
        self, entries: int, size: int, ttl: float, *, keeps: bool = True, now: Callable[[], float] = monotonic
    ) -> None:
        self.keeps = keeps
        self.epoch = 0
        self.now = now
        self.trouble = Trouble(now)
        self.on_revoked: Callable[[list[bytes] | None], None] = lambda keys: None
        self._ttl = ttl
        self._few_counters = self._most_counters = max(1000, _COUNTERS_PER_ENTRY * entries)
        self._lock = threading.Lock()
        self._bounds = entries, size
        self.unheard: dict[bytes, tuple[int, int]]
        self._empty()

    def __len__(self) -> int:
        return len(self._entries)

    # -- for reads

    def find(self, key: bytes, site: Namespace) -> Found | None:
        """What is held for a key and known to be right, fresh or stale; else None. Never waits for the lock."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        epoch = self.epoch
        soft = entry.validity()
        if not isinstance(soft, bool):
            return None
        now = self.now()
        if now >= entry.dead_until:
            return None
        if soft or now >= entry.fresh_until:
            return self._found(entry, now, soft=soft)
        if now >= entry.quick_until:
            return None
        entry.epoch = epoch
        if site is not entry.site:
            self.adopt(entry, site.near, entry.name)
        return self._found(entry, now, soft=False)

    def left_over(self, key: bytes, *, loads: bool = False, slow: bool = False) -> Found | None:
        """What is held for a key while no server can be asked, as stale; not what is known to be invalid.

        Args:
            loads: also what was loaded meanwhile.
            slow: the server takes its time. What nobody vouches for any more is good enough only in trouble.
        """
        entry = self._entries.get(key)
        now = self.now()
        if entry is None or now >= entry.dead_until:
            return None
        valid = entry.validity()
        if isinstance(valid, Miss) or (slow and isinstance(valid, list) and not self.trouble.lasts):
            return None
        if not entry.heard:
            return self._found(entry, now, soft=False) if loads and entry.known is self.unheard else None
        if any(made < self._least.get(counter, 0) for counter, made in entry.versions()):
            return None
        return self._found(entry, now, soft=not slow or valid is True)

    def entry(self, key: bytes) -> Entry | None:
        """The entry of a key, whatever it is worth."""
        return self._entries.get(key)

    def adopt(self, entry: Entry, home: dict[Any, Any], name: Any) -> None:
        """Let an entry be found in one more place, for as long as it is held; in a few at most."""
        with self._lock:
            more = len(entry.homes) < _MOST_HOMES and home.get(name) is not entry
            if more and self._entries.get(entry.key) is entry:
                home[name] = entry
                entry.homes.append((home, name))

    def _found(self, entry: Entry, now: float, *, soft: bool) -> Found:
        payload = entry.payload
        if payload is None:
            payload = dumps(entry.value)
        left = None if entry.fresh_until == inf else (entry.fresh_until - now) * 1000
        return Found(None, None, payload, entry.envelope, left, soft, "near")

    # -- marks

    def mark(self, key: bytes) -> Mark:
        """Take the mark of a key, when a command on it is sent."""
        with self._lock:
            mark = self._marks.get(key)
            if mark is None:
                mark = self._marks[key] = Taint()
            return mark

    def settle(self, key: bytes, mark: Mark) -> bool:
        """Use a mark up, where the reply is parsed; whether nothing has happened since it was taken."""
        with self._lock:
            return self._settle(key, mark)

    def _settle(self, key: bytes, mark: Mark) -> bool:
        if mark.tainted:
            return False
        mark.tainted = True
        del self._marks[key]
        return True

    def learn(self, link: Link, counter: bytes, mark: Mark, version: tuple[int, int]) -> None:
        """Remember the version that a reply told, until it is pushed."""
        with self._lock:
            if not self._settle(counter, mark):
                return
            link.counters[counter] = version
            self._least[counter] = version[0]
            if max(len(link.counters), len(self._least)) > self._most_counters:
                self._forget_unused(link.counters)

    def _forget_unused(self, counters: dict[bytes, tuple[int, int]]) -> None:
        used = set(islice(reversed(counters), _JUST_LEARNT))
        used.update(counter for entry in self._entries.values() for counter, _ in entry.versions())
        for table in (counters, self._least):
            for counter in table.keys() - used:
                del table[counter]
        # Entries may need more, each its own tags: it is worth looking again when there are twice as many.
        self._most_counters = max(self._few_counters, 2 * len(counters))

    # -- what happens to keys

    def arrived(
        self, key: bytes, mark: Mark, link: Link, site: Namespace, name: str, found: Found, sent: float, epoch: int
    ) -> None:
        """A reply that tells what the server holds was parsed.

        Args:
            sent: when it was asked for.
            epoch: the tier's from before it was judged: a counter may have been pushed since, on another connection.
        """
        with self._lock:
            untainted = self._settle(key, mark)
            held = self._entries.get(key)
            kept = untainted and found.miss is None and self.keeps and link.track_all
            if kept:
                if held is not None:
                    self._remove(held)
                self._add(Entry(key, name, site, found, link.counters), found, sent, epoch)
            elif held is None or found.miss is not None or not held.same(found):
                # Replies that are still on their way may be older than this one: none of them may be kept.
                self._forget(key)
        if kept:
            link.watch()

    def keep_unheard(self, unheard: object, key: bytes, site: Namespace, name: str, found: Found, sent: float) -> None:
        """Keep what was loaded while no server could be asked; ``unheard`` and ``sent`` are from before the load."""
        with self._lock:
            if unheard is self.unheard and self.keeps:
                self._forget(key)
                entry = Entry(key, name, site, found, self.unheard)
                entry.heard = False
                self._add(entry, found, sent, epoch=-1)

    def drop(self, keys: Iterable[bytes]) -> None:
        """An own write of these keys is sent or was answered: whatever is known of them is out of date."""
        if not self._entries and not self._marks:
            return
        with self._lock:
            for key in keys:
                self._forget(key)

    def drop_head(self, head: bytes) -> None:
        """``drop`` of every key that begins with ``head``."""
        self.drop([key for key in (*self._entries, *self._marks) if key.startswith(head)])

    def wrote(self, keys: Iterable[bytes], watched: Iterable[bytes]) -> None:
        """An own write of these keys was answered; who watches one of ``watched`` is not told by the server."""
        fired: list[Watching] = []
        if not (self._entries or self._marks or self._watches):
            return
        with self._lock:
            for key in keys:
                self._forget(key)
            if self._watches:
                for key in watched:
                    fired += self._watches.pop(key, ())
        for watch in fired:
            watch.fire()

    def revoked(self, keys: list[bytes] | None) -> None:
        """The server says that these keys have changed; ``None``: everything may have."""
        with self._lock:
            if keys is None:
                fired = self._forget_all()
            else:
                fired = []
                for key in keys:
                    self._forget(key)
                    if key in self._least:
                        self._least[key] = inf  # until it is read again
                        self.unheard = {}
                    for link in self._links:
                        if link.counters.pop(key, None) is not None:
                            self.epoch += 1
                    fired += self._watches.pop(key, ())
        self.on_revoked(keys)
        for watch in fired:
            watch.fire()

    def raised(self, counters: list[bytes]) -> None:
        """An own write raises these counters: no load that began before is to be joined, whatever its tags are."""
        with self._lock:
            self.epoch += 1
            self.unheard = {}
        self.revoked(counters)

    def lost(self, link: Any) -> None:
        """A connection is gone: the server vouches for nothing that was read on it."""
        with self._lock:
            known, link.counters = link.counters, {}
            known.clear()
            self.unheard = {}
            self.epoch += 1
            self._taint_all()
            fired = [watch for watches in self._watches.values() for watch in watches]
            self._watches.clear()
        for watch in fired:
            watch.fire()

    def attach(self, link: Link) -> None:
        """A connection of the client: what is pushed on any of them holds for all."""
        with self._lock:
            self._links.append(link)

    def detach(self, link: Link) -> None:
        with self._lock:
            if link in self._links:
                self._links.remove(link)

    def watch(self, keys: Collection[bytes]) -> Watching:
        """Register for the next push of any of these keys, before they are read."""
        watch = Watching(self, keys)
        with self._lock:
            for key in keys:
                self._watches.setdefault(key, []).append(watch)
        return watch

    def unwatch(self, watch: Watching, keys: Collection[bytes]) -> None:
        with self._lock:
            for key in keys:
                watches = self._watches.get(key)
                if watches is not None and watch in watches:
                    watches.remove(watch)
                    if not watches:
                        del self._watches[key]

    def close(self) -> None:
        """Hold nothing any more: what asks next learns that its client is closed."""
        with self._lock:
            self.keeps = False
            self._forget_all()

    def forget_in_child(self) -> None:
        """After a fork: the server tells the parent. Nothing is attached any more, and nothing held."""
        self._lock = threading.Lock()
        self.epoch += 1
        for mark in list(self._marks.values()):
            mark.tainted = True
        for link in list(self._links):
            link.counters.clear()
        entries = list(self._entries.values())
        self._empty()
        for entry in entries:
            self._unlink(entry)

    def _empty(self) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._eviction = Eviction(*self._bounds)
        self.stamp = self._eviction.now  # what a hit writes into its entry
        self._marks: dict[bytes, Mark] = {}
        self._watches: dict[bytes, list[Watching]] = {}
        # By counter, the least version that is not known to be invalid: what is left over has to have it, too.
        self._least: dict[bytes, float] = {}
        # What was loaded while no server could be asked has this in place of what a connection knows.
        self.unheard = {}
        self._links: list[Link] = []

    def _forget(self, key: bytes) -> None:
        mark = self._marks.pop(key, None)
        if mark is not None:
            mark.tainted = True
        entry = self._entries.get(key)
        if entry is not None:
            self._remove(entry)

    def _forget_all(self) -> list[Watching]:
        self._taint_all()
        for entry in list(self._entries.values()):
            self._remove(entry)
        for link in self._links:
            link.counters.clear()
        self.epoch += 1
        fired = [watch for watches in self._watches.values() for watch in watches]
        self._watches.clear()
        return fired

    def _taint_all(self) -> None:
        for mark in self._marks.values():
            mark.tainted = True
        self._marks.clear()

    def _add(self, entry: Entry, found: Found, sent: float, epoch: int) -> None:
        left = inf if found.remaining_ms is None else found.remaining_ms / 1000
        grace = entry.envelope.grace_ms / 1000 if entry.envelope is not None else 0.0
        entry.fresh_until = 0.0 if found.soft else sent + left
        entry.dead_until = sent + left + grace
        entry.quick_until = min(entry.fresh_until, sent + self._ttl)
        entry.epoch = epoch
        self._entries[entry.key] = entry
        for home, name in entry.homes:
            home[name] = entry
        for evicted in self._eviction.add(entry):
            self._unlink(cast("Entry", evicted))
        self.stamp = self._eviction.now

    def _remove(self, entry: Entry) -> None:
        self._eviction.remove(entry)
        self._unlink(entry)

    def _unlink(self, entry: Entry) -> None:
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
        # Whoever holds it at this moment must not take it for right.
        entry.epoch = -1
        entry.quick_until = entry.fresh_until = 0.0
        for home, name in entry.homes:
            if home.get(name) is entry:
                del home[name]
