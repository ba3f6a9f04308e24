"""Which entries of the near tier go when it is full: LRU with weighted ages, which measures itself against LRU.

Theory of operation
-------------------
*Time* is counted in **epochs** of a few newcomers each (1/64 of the entries, but 16 to 64; 1/12 in small caches).
A hit writes the epoch into the node (``node.used = eviction.now``) and does nothing else: no lock, no list. A node is
**filed** under the epoch of the last use we know of; a later ``used`` is noticed when the node is about to go, and
then it is filed under that. So the order is LRU's, up to an epoch, though no hit ever moves anything. A mere "was
used" bit, as in CLOCK, would file it under *now*: that is what makes CLOCK worse than LRU where recency is all there
is. All that are filed under one epoch and have one rank are a **bucket**, and go together: what can be said of a
bucket is not worked out for each node, for nearly all the cost of a cache is that of its misses.

*Rank* is how often that was noticed: 0 for newcomers, then 1 to 3. Several hits in one epoch, or between two looks,
count once, so correlated references raise nothing. The victim is of the bucket with the greatest **weighted age**,
``age / weight ** rank``. Weight 1 is LRU, up to an epoch; with a great weight newcomers make room for each other and
what proved itself stays: scan resistance, like the small queue of S3-FIFO or 2Q.

*The weight* is learnt. Keys that went are remembered with their rank and epoch (**ghosts**, keys only), so we know
which keys LRU would hold now: as many as we do, the last used, which are those used after the **horizon**. A ghost
from after the horizon that is asked for is a hit that LRU had and we had not: the weight falls. A node that LRU had
let go of (filed before the horizon) and that was used again is the opposite: it rises. Falling is a bit faster than
rising, so a weight that gains nothing over LRU goes back to (nearly) LRU. A ghost comes back one rank higher. A key
that was removed (invalidated) comes back with the rank it had: being written again and again makes nobody a newcomer.

Sources: S. Jiang, X. Zhang, "LIRS", SIGMETRICS 2002 (reuse compared with LRU's own horizon); N. Megiddo, D. Modha,
"ARC", FAST 2003 (ghosts steer recency against frequency); J. Yang et al., "FIFO queues are all you need for cache
eviction" (S3-FIFO), SOSP 2023 (quick demotion, lazy promotion, no work on a hit).

Measurements
------------
Share of the way from LRU to Belady's optimum, capacity 1 % and 10 % of the unique keys, cold start, unit sizes: 4
real traces (web07, orm-night, a CloudPhysics disk trace, a Twitter cache), and the mean with 64 made ones: Zipf,
drifting Zipf, scans, loops, stack distances, correlated references, small programs. "Below": of those cases, in how
many the hit ratio is more than 0.001 under LRU's, and by how much in sum.

================================  =====  =====  =====  ======
policy                             real    all  below      by
================================  =====  =====  =====  ======
FIFO                               -.30   -.18    102    2.17
CLOCK                               .00   -.03     47    0.28
SIEVE                               .06   -.11     71    5.80
ARC                                 .13    .09     48    0.60
S3-FIFO                             .24    .01     59    2.68
this, weight always 2               .24    .01     51    1.50
this, one rank above newcomers      .18    .12      1    0.00
this, two ranks above newcomers     .25    .18      2    0.01
this, a bit instead of the epoch    .27    .16     39    0.22
this, first weight 2                .28    .20     17    0.05
**this**                            .27    .19      5    0.02
================================  =====  =====  =====  ======

That was with a queue of newcomers and epochs of at least 8. With newcomers in buckets, and longer epochs in caches of
100 to 1,000 entries, a miss is cheaper; on web07, the begin of orm-night and 34 made traces, each at 5 capacities, the
mean share went from .249 to .252.

Invariants
----------
- ``len`` and ``bytes`` are of the nodes held; after ``add`` neither exceeds its bound.
- ``filed`` is ``epoch | rank``: epochs are multiples of ``_EPOCH``. A node that is held is in exactly one bucket, which
  is that of its ``filed``; one that is not held is in none. No epoch of a ``filed`` or ``used`` is after ``now``.
- ``_newest`` is always among the newcomers' buckets, even when it is empty.
- ``_counts`` tells for each epoch after the horizon how many keys, nodes and ghosts, are filed under it, and ``_young``
  for all of them together. A node that goes becomes a ghost with the same ``filed``, so evicting changes neither.
- Ghosts are at most twice as many as the nodes ever held at once, and two epochs more; empty buckets at most about as
  many as others.

Each call takes amortised constant time, but for a heap of epochs (not of nodes): its size is about the number of
epochs in a lifetime. Without the caller's lock only ``node.used = eviction.now`` is safe (and ``len``, ``bytes``,
which may be a moment old). A hit that is written late or lost costs a little hit ratio, never more.
"""

from __future__ import annotations

from collections import defaultdict
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

__all__ = ["Eviction", "Node"]

_RANKS: Final = 4
_TOP: Final = _RANKS - 1
_EPOCH: Final = _RANKS  # by which ``now`` goes on, so that there is room for a rank
# Found by measurement. A low first weight is for small caches and short traces: what is lost while learning cannot be
# won back. An epoch should be short beside a lifetime, and not too short, for each one costs time.
_FIRST_WEIGHT: Final = 1.2
_LEAST_WEIGHT: Final = 1.02  # at 1 there would be nothing to learn from
_MOST_WEIGHT: Final = 8.0
_UP: Final = 1.02
_DOWN: Final = 1.025
_PARTS: Final = 64  # epochs in which as many nodes come as are held
_LONGEST_EPOCH: Final = 64  # nodes: what one call may have to look at stays small in a large cache
_REMOVED: Final = _EPOCH  # the ghost of a node that was removed: filed before every horizon


class Node(Protocol):
    """What the policy needs of an entry; hashed and compared by identity.

    Attributes:
        size: bytes; the same as long as the node is held.
        used: a reader writes ``eviction.now`` there on a hit, without the lock.
        filed: the policy's own. Begin with 0.
    """

    @property
    def key(self) -> bytes: ...
    @property
    def size(self) -> int: ...

    used: int
    filed: int


class _Timeline:
    """Nodes of one rank, in buckets by what is in their ``filed``."""

    __slots__ = ("buckets", "epochs", "limit")

    def __init__(self) -> None:
        self.buckets: dict[int, dict[Node, None]] = {}
        self.epochs: list[int] = []  # the keys of buckets, as a heap
        self.limit = _PARTS

    def bucket(self, filed: int) -> dict[Node, None]:
        bucket = self.buckets.get(filed)
        if bucket is None:
            if len(self.epochs) >= self.limit:
                self._compact()
            bucket = self.buckets[filed] = {}
            heappush(self.epochs, filed)
        return bucket

    def oldest(self) -> int:
        """The oldest key with nodes, or 0. Buckets that were emptied are given up on the way, but for the last."""
        epochs, buckets = self.epochs, self.buckets
        while not buckets[epochs[0]]:
            if len(epochs) == 1:
                return 0
            del buckets[heappop(epochs)]
        return epochs[0]

    def _compact(self) -> None:
        """Give up every empty bucket; twice as many as are left may come before the next time."""
        self.buckets = {epoch: nodes for epoch, nodes in self.buckets.items() if nodes}
        self.epochs = list(self.buckets)
        heapify(self.epochs)
        self.limit = 2 * len(self.epochs) + _PARTS


class Eviction:
    """Bounds a set of nodes. ``add`` and ``remove`` want the caller's lock; hits want none.

    Args:
        max_entries: at least 1, else ``ValueError``.
        max_bytes: of all nodes' ``size`` together.

    Attributes:
        now: the epoch; what a reader puts into ``node.used``.
    """

    __slots__ = (
        "_counts",
        "_elders",
        "_elders_filed",
        "_forgotten",
        "_ghosts",
        "_horizon",
        "_left",
        "_lines",
        "_max_bytes",
        "_max_entries",
        "_most",
        "_newest",
        "_room",
        "_vacant",
        "_weight",
        "_young",
        "now",
    )

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, not {max_entries}")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._vacant = max_entries
        self.now = 2 * _EPOCH
        self._horizon = self.now - 1  # the greatest ``filed`` of the last epoch that it passed
        self._most = 0  # nodes held at once, so far
        self._left = 0  # nodes still to come in this epoch
        self._weight = _FIRST_WEIGHT
        self._lines = [_Timeline() for _ in range(_RANKS)]
        self._newest = self._lines[0].bucket(self.now)  # newcomers of this epoch
        self._elders: dict[Node, None] = {}  # the bucket that goes first ...
        self._elders_filed = 0  # ... and its key
        self._ghosts: dict[bytes, int] = {}
        self._forgotten: dict[bytes, int] = {}  # the generation of ghosts before
        self._counts: defaultdict[int, int] = defaultdict(int)  # nodes and ghosts by epoch, after the horizon ...
        self._young = 0  # ... and together; nodes still to come in this epoch are in both

    def __len__(self) -> int:
        return self._max_entries - self._vacant

    @property
    def bytes(self) -> int:
        """Of all nodes held."""
        return self._max_bytes - self._room

    def add(self, node: Node) -> list[Node]:
        """Take in a node that is not held; returns the nodes that have to go for it.

        That is the node itself where it is larger than ``max_bytes``.
        """
        room = self._room - node.size
        if room < 0 and node.size > self._max_bytes:
            return [node]
        if self._left:
            self._left -= 1
        else:
            self._tick()
        gone: list[Node] = []
        if self._vacant and room >= 0:
            self._vacant -= 1
        else:
            while True:
                victim, _ = (self._elders or self._choose_elders()).popitem()
                used = victim.used
                if used > self._elders_filed:
                    self._promote(victim, used)
                    continue
                self._ghosts[victim.key] = self._elders_filed
                gone.append(victim)
                room += victim.size
                if room >= 0:
                    break
                self._vacant += 1
        self._room = room
        key = node.key
        if key in self._ghosts:
            self._recall(node, self._ghosts.pop(key))
        elif key in self._forgotten:
            self._recall(node, self._forgotten.pop(key))
        else:
            node.filed = self.now
            self._newest[node] = None
        return gone

    def remove(self, node: Node) -> None:
        """Let go of a node that somebody else took out; nothing when it is not held.

        Its rank is remembered: a key that is invalidated and filled again is no newcomer.
        """
        filed = node.filed
        rank = filed % _RANKS
        bucket = self._lines[rank].buckets.get(filed)
        if not bucket or node not in bucket:
            return
        del bucket[node]
        if filed > self._horizon:
            self._counts[filed - rank] -= 1
            self._young -= 1
        if node.used > filed and rank < _TOP:
            rank += 1
        self._vacant += 1
        self._room += node.size
        self._ghosts[node.key] = _REMOVED | rank
        if len(self._ghosts) > self._most:
            self._turn_ghosts()

    def _promote(self, node: Node, used: int) -> None:
        """File a node, which is in no bucket, under its last use and one rank higher."""
        filed, horizon, counts = node.filed, self._horizon, self._counts
        rank = filed % _RANKS
        if filed > horizon:
            counts[filed - rank] -= 1
            counts[used] += 1
        else:
            if used > horizon:
                counts[used] += 1
                self._young += 1
            if filed <= horizon - _EPOCH:
                # LRU had let go of it before that use; in the horizon's own epoch that is not certain.
                self._weight = min(self._weight * _UP, _MOST_WEIGHT)
        if rank < _TOP:
            rank += 1
        node.filed = filed = used | rank
        self._lines[rank].bucket(filed)[node] = None

    def _turn_ghosts(self) -> None:
        """Forget the older half of the ghosts; what LRU would hold is counted without them."""
        self._forgotten, self._ghosts = self._ghosts, {}

    def _recall(self, node: Node, ghost: int) -> None:
        """File a node whose key has a ghost, one rank higher."""
        rank = ghost % _RANKS
        if ghost > self._horizon:
            # LRU would not have missed it.
            self._counts[ghost - rank] -= 1
            self._young -= 1
            self._weight = max(self._weight / _DOWN, _LEAST_WEIGHT)
        if ghost > _REMOVED | _TOP and rank < _TOP:
            rank += 1
        node.filed = filed = self.now | rank
        self._lines[rank].bucket(filed)[node] = None

    def _choose_elders(self) -> dict[Node, None]:
        """Choose the bucket that goes first, till it is empty or the epoch ends."""
        elders: dict[Node, None] = {}
        elders_age, now, share = 0.0, self.now + _EPOCH + _TOP, 1.0
        for line in self._lines:
            if line.epochs and (filed := line.oldest()) and (age := (now - filed) // _EPOCH * share) > elders_age:
                elders, elders_age, self._elders_filed = line.buckets[filed], age, filed
            share /= self._weight
        # A newcomer of this epoch, if there were one, would go before what is younger than that.
        self._elders = elders if elders_age >= 1 else {}
        return elders

    def _tick(self) -> None:
        """Begin an epoch."""
        live = self._max_entries - self._vacant
        self._most = most = max(self._most, live)
        if len(self._ghosts) >= most:
            self._turn_ghosts()
        length = min(max(min(live // 12, 16), live // _PARTS, 1), _LONGEST_EPOCH)
        self._left = length - 1
        self.now = now = self.now + _EPOCH
        while self._young > live and self._horizon < now - _EPOCH - 1:
            self._advance()
        self._counts[now] += length
        self._young += length
        self._newest = self._lines[0].bucket(now)
        if len(self._elders) > length:  # else it is empty before this epoch ends
            self._elders = {}

    def _advance(self) -> None:
        """Let the horizon pass an epoch, as LRU would evict what was last used in it."""
        epoch = self._horizon + 1
        self._horizon = horizon = self._horizon + _EPOCH
        self._young -= self._counts.pop(epoch, 0)
        for rank, line in enumerate(self._lines):
            if bucket := line.buckets.get(epoch | rank):
                # Readers write: what is looked at twice may differ.
                for node, used in [(node, used) for node in bucket if (used := node.used) > horizon]:
                    del bucket[node]
                    self._promote(node, used)
