"""Which entries of the near tier go when it is full: LRU with weighted ages, which measures itself against LRU.

Theory of operation
-------------------
*Time* is counted in **epochs** of a few newcomers each (1/64 of the entries, but 8 to 64; 1 in the smallest caches).
A hit writes the epoch into the node (``node.used = eviction.now``) and does nothing else: no lock, no list. A node is
**filed** under the epoch of the last use we know of; a later ``used`` is noticed when the node is about to go, and
then it is filed under that. So the order is LRU's, up to an epoch, though no hit ever moves anything. A mere "was
used" bit, as in CLOCK, would file it under *now*: that is what makes CLOCK worse than LRU where recency is all there
is.

*Rank* is how often that was noticed: 0 for newcomers (a plain queue), then 1 to 3 (buckets by epoch). Several hits in
one epoch, or between two looks, count once, so correlated references raise nothing. The victim is the node with the
greatest **weighted age**, ``age / weight ** rank``. Weight 1 is exactly LRU; with a great weight newcomers make room
for each other and what proved itself stays: scan resistance, like the small queue of S3-FIFO or 2Q.

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

Invariants
----------
- ``len`` and ``bytes`` are of the nodes held; after ``add`` neither exceeds its bound.
- A node is held if its rank is not -1, and then in exactly one place: in ``_fresh`` when its rank is 0, else in the
  bucket ``filed`` of its rank's timeline. ``filed <= now``, and ``used`` is a moment that ``now`` was.
- ``_young`` is how many keys, nodes and ghosts, are known to be used after the horizon; rank 0 counts as such always,
  for its nodes are the first to go.
- Ghosts are at most twice as many as the nodes ever held at once; empty buckets at most about as many as others.

Each call takes amortised constant time, but for a heap of epochs (not of nodes): its size is about the number of
epochs in a lifetime. Without the caller's lock only ``node.used = eviction.now`` is safe (and ``len``, ``bytes``,
which may be a moment old). A hit that is written late or lost costs a little hit ratio, never more.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

__all__ = ["Eviction", "Node"]

_TOP: Final = 3  # the highest rank
# Found by measurement. A low first weight is for small caches and short traces: what is lost while learning cannot be
# won back. An epoch should be short beside a lifetime, and not too short, for each one costs time.
_FIRST_WEIGHT: Final = 1.2
_LEAST_WEIGHT: Final = 1.02  # at 1 there would be nothing to learn from
_MOST_WEIGHT: Final = 8.0
_UP: Final = 1.02
_DOWN: Final = 1.025
_PARTS: Final = 64  # epochs in which as many nodes come as are held
_LONGEST_EPOCH: Final = 64  # nodes: what one call may have to look at stays small in a large cache
_REMOVED: Final = 1 << 2  # the ghost of a node that was removed: filed before every horizon


class Node(Protocol):
    """What the policy needs of an entry; hashed and compared by identity.

    Attributes:
        size: bytes; the same as long as the node is held.
        used: a reader writes ``eviction.now`` there on a hit, without the lock.
        filed: the policy's own.
        rank: the policy's own; -1 when the node is not held. Begin with that.
    """

    @property
    def key(self) -> bytes: ...
    @property
    def size(self) -> int: ...

    used: int
    filed: int
    rank: int


class _Timeline:
    """Nodes of one rank, in buckets by the epoch they are filed under."""

    __slots__ = ("buckets", "epochs", "limit")

    def __init__(self) -> None:
        self.buckets: dict[int, dict[Node, None]] = {}
        self.epochs: list[int] = []  # the keys of buckets, as a heap
        self.limit = _PARTS

    def file(self, node: Node, epoch: int) -> None:
        bucket = self.buckets.get(epoch)
        if bucket is None:
            if len(self.epochs) >= self.limit:
                self._compact()
            bucket = self.buckets[epoch] = {}
            heappush(self.epochs, epoch)
        bucket[node] = None

    def oldest(self) -> int:
        """The oldest epoch with nodes, or 0. Buckets that were emptied are given up on the way."""
        epochs, buckets = self.epochs, self.buckets
        while epochs:
            if buckets[epochs[0]]:
                return epochs[0]
            del buckets[heappop(epochs)]
        return 0

    def _compact(self) -> None:
        """Give up every empty bucket; twice as many as are left may come before the next time."""
        self.buckets = {epoch: nodes for epoch, nodes in self.buckets.items() if nodes}
        self.epochs = list(self.buckets)
        heapify(self.epochs)
        self.limit = 2 * len(self.epochs) + _PARTS


class Eviction:
    """Bounds a set of nodes. Every method but ``len()`` wants the caller's lock; hits want none.

    Args:
        max_entries: at least 1, else ``ValueError``.
        max_bytes: of all nodes' ``size`` together.

    Attributes:
        now: the epoch; what a reader puts into ``node.used``.
        bytes: of all nodes held.
    """

    __slots__ = (
        "_elders",
        "_elders_age",
        "_forgotten",
        "_fresh",
        "_ghosts",
        "_ghosts_filed",
        "_horizon",
        "_left",
        "_live",
        "_max_bytes",
        "_max_entries",
        "_most",
        "_proven",
        "_weight",
        "_young",
        "bytes",
        "now",
    )

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, not {max_entries}")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self.clear()

    def __len__(self) -> int:
        return self._live

    def clear(self) -> None:
        """Forget every node, and what was learned."""
        self.now = 2
        self.bytes = 0
        self._live = 0
        self._most = 0  # nodes held at once, so far
        self._left = 0  # nodes still to come in this epoch
        self._weight = _FIRST_WEIGHT
        self._fresh: OrderedDict[Node, None] = OrderedDict()  # rank 0, oldest first
        self._proven = [_Timeline() for _ in range(_TOP)]  # ranks 1 and up
        self._elders: dict[Node, None] = {}  # the bucket of theirs that would go first ...
        self._elders_age = 0.0  # ... and its weighted age
        self._ghosts: dict[bytes, int] = {}
        self._forgotten: dict[bytes, int] = {}  # the generation of ghosts before
        self._horizon = 1
        self._young = 0  # keys used after the horizon: nodes and ghosts
        self._ghosts_filed: defaultdict[int, int] = defaultdict(int)  # how many of them are ghosts, by epoch

    def add(self, node: Node) -> list[Node]:
        """Take in a node that is not held; returns the nodes that have to go for it.

        That is the node itself where it is larger than ``max_bytes``.
        """
        size = node.size
        if size > self._max_bytes:
            node.rank = -1
            return [node]
        self._left -= 1
        if self._left < 0:
            self._tick()
        key = node.key
        rank = 0
        if key in self._ghosts:
            rank = self._recall(self._ghosts.pop(key))
        elif key in self._forgotten:
            rank = self._recall(self._forgotten.pop(key))
        else:
            self._young += 1
        live = self._live = self._live + 1
        held = self.bytes = self.bytes + size
        gone = [self._evict()] if live > self._max_entries or held > self._max_bytes else []
        while self.bytes > self._max_bytes:
            gone.append(self._evict())
        node.used = node.filed = now = self.now
        node.rank = rank
        if rank:
            self._proven[rank - 1].file(node, now)
        else:
            self._fresh[node] = None
        return gone

    def remove(self, node: Node) -> None:
        """Let go of a node that somebody else took out; nothing when it is not held.

        Its rank is remembered: a key that is invalidated and filled again is no newcomer.
        """
        rank, filed = node.rank, node.filed
        if rank < 0:
            return
        place = self._proven[rank - 1].buckets.get(filed) if rank else self._fresh
        if not place or node not in place:  # from before clear()
            return
        del place[node]
        if rank == 0 or filed > self._horizon:
            self._young -= 1
        if node.used > filed and rank < _TOP:
            rank += 1
        node.rank = -1
        self._live -= 1
        self.bytes -= node.size
        self._ghosts[node.key] = _REMOVED | rank
        if len(self._ghosts) > self._most:
            self._turn_ghosts()

    def _evict(self) -> Node:
        """Take out the node of the greatest weighted age that was not used since it was filed."""
        fresh = self._fresh
        while True:
            if fresh and self.now - (node := next(iter(fresh))).filed + 1 >= self._elders_age:
                del fresh[node]
            elif elders := self._elders:
                node, _ = elders.popitem()
            else:
                self._choose_elders()
                continue
            filed, used = node.filed, node.used
            if used <= filed:
                break
            self._found_used(node, used)
        rank = node.rank
        if filed > self._horizon:
            self._ghosts_filed[filed] += 1
        elif not rank:
            self._young -= 1
        node.rank = -1
        self._live -= 1
        self.bytes -= node.size
        ghosts = self._ghosts
        ghosts[node.key] = filed << 2 | rank
        if len(ghosts) > self._most:
            self._turn_ghosts()
        return node

    def _found_used(self, node: Node, used: int) -> None:
        """Keep a node that was about to go."""
        young = used > self._horizon
        if not node.rank:
            self._young -= not young
        elif node.filed <= self._horizon:
            # LRU had let go of it before that use; in the horizon's own epoch that is not certain.
            self._young += young
            if node.filed < self._horizon:
                self._weight = min(self._weight * _UP, _MOST_WEIGHT)
        self._promote(node, used)

    def _promote(self, node: Node, used: int) -> None:
        """File a node, which is in no bucket, under its last use and one rank higher."""
        rank = node.rank
        if rank < _TOP:
            node.rank = rank = rank + 1
        node.filed = used
        self._proven[rank - 1].file(node, used)

    def _turn_ghosts(self) -> None:
        """Forget the older half of the ghosts; what LRU would hold is counted without them."""
        self._forgotten, self._ghosts = self._ghosts, {}

    def _recall(self, ghost: int) -> int:
        """The rank at which the key of a ghost comes back."""
        filed, rank = divmod(ghost, 4)
        if filed > self._horizon:
            # LRU would not have missed it.
            self._ghosts_filed[filed] -= 1
            self._weight = max(self._weight / _DOWN, _LEAST_WEIGHT)
        else:
            self._young += 1
        return rank + 1 if filed > 1 and rank < _TOP else rank

    def _choose_elders(self) -> None:
        """Choose the bucket that goes first among the higher ranks, till it is empty or the epoch ends."""
        self._elders, self._elders_age = {}, 0.0
        now, share = self.now, 1.0
        for line in self._proven:
            share /= self._weight
            if line.epochs and (epoch := line.oldest()) and (age := (now - epoch + 1) * share) > self._elders_age:
                self._elders, self._elders_age = line.buckets[epoch], age

    def _tick(self) -> None:
        """Begin an epoch."""
        live = self._live
        self._most = max(self._most, live)
        length = max(live // _PARTS, 8) if live >= 32 else 1
        self._left = min(length, _LONGEST_EPOCH) - 1
        self.now = now = self.now + 1
        while self._young > live and self._horizon < now - 1:
            self._advance()
        self._choose_elders()

    def _advance(self) -> None:
        """Let the horizon pass an epoch, as LRU would evict what was last used in it."""
        self._horizon = epoch = self._horizon + 1
        self._young -= self._ghosts_filed.pop(epoch, 0)
        for line in self._proven:
            if bucket := line.buckets.get(epoch):
                self._young -= len(bucket)
                # Readers write: what is looked at twice may differ.
                for node, used in [(node, used) for node in bucket if (used := node.used) > epoch]:
                    del bucket[node]
                    self._promote(node, used)
                    self._young += 1
