"""Hash slots: which node of a cluster a command goes to, and how a batch is taken apart and put together again.

A cluster (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/) divides the keys into 16384
slots and refuses a command whose keys are in several. So an MGET becomes GETs, the scripts that take any number of
entries are sent once per entry, and a SCAN goes through the primaries one after the other, its cursor naming the one
that is next. No I/O here: both kinds of cluster link drive this.
"""

from __future__ import annotations

import copy
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..errors import CommandRefused, ConnectionFailed
from ..tiers import remote
from .wire import Command

__all__ = ["SLOTS", "Node", "Part", "Scatter", "SlotMap", "slot_of"]

SLOTS = 16384
_MOST_REDIRECTS = 5  # the same as other clients' for one command
_PAUSE = 0.01  # seconds before a command is tried again, then twice as many: 0.3 s in all
_READS = frozenset(["GET", "MGET", "GETRANGE", "PTTL"])  # of values: what replicas are asked for
_KEYLESS = frozenset(["PING", "SCAN", "CLIENT", "TIME"])
_EACH = {remote.DELETE: 2, remote.REMOVE_OLDER: 1}  # keys per entry of the scripts that take any number of entries

Node = tuple[str, int]
"""Host and port."""

_Readers = Callable[[Node, bytes], Node | None]


def slot_of(key: bytes | str) -> int:
    """The slot of a key: CRC16 of it, or of what its first non-empty braces enclose."""
    name = key.encode() if isinstance(key, str) else key
    start = name.find(b"{") + 1
    end = name.find(b"}", start) if start else -1
    return crc_hqx(name[start:end] if end > start else name, 0) % SLOTS


class SlotMap:
    """Which node has which slot.

    Args:
        answer: what ``CLUSTER SLOTS`` said.
        asked: the node that said so; its host stands for one that is not told.

    Attributes:
        nodes: the primaries, sorted; one that has lost its last slot stays until the next map.
        replicas: of each primary.
        whole: there is one primary, which takes commands as they are.

    Raises:
        ConnectionFailed: the answer names no node.
    """

    whole = False

    def __init__(self, answer: Any, asked: Node) -> None:
        self._owners: list[Node | None] = [None] * SLOTS
        self.replicas: dict[Node, list[Node]] = {}
        try:
            for first, last, primary, *replicas in answer:
                if not 0 <= first <= last < SLOTS:
                    raise ValueError  # one that asks for more memory than there is, for example
                owner, *others = ((_host(host, asked), int(port)) for host, port, *_ in (primary, *replicas))
                self._owners[first : last + 1] = [owner] * (last + 1 - first)
                self.replicas[owner] = others
        except (AttributeError, TypeError, ValueError):
            raise ConnectionFailed(f"this is no node of a cluster: it answered {answer!r:.60}") from None
        self.nodes = sorted({owner for owner in self._owners if owner is not None})
        if not self.nodes:
            raise ConnectionFailed("the cluster has no slots yet")

    @classmethod
    def of_one(cls, primary: Node, replicas: list[Node]) -> SlotMap:
        """All slots are one primary's, which need not be a cluster's."""
        slots = cls([[0, SLOTS - 1, [primary[0].encode("ascii"), primary[1]]]], primary)
        slots.replicas, slots.whole = {primary: replicas}, True
        return slots

    def owner(self, slot: int) -> Node:
        # Who asks the wrong node is told the right one.
        return self._owners[slot] or self.nodes[0]

    def move(self, slot: int, node: Node) -> bool:
        """A node said that a slot is another's; whether that is news."""
        if self._owners[slot] == node:
            return False
        self._owners[slot] = node
        if node not in self.nodes:
            self.nodes = sorted([*self.nodes, node])
        return True

    def agrees(self, other: SlotMap) -> bool:
        """Whether every slot has the same node in both."""
        return self._owners == other._owners

    def copy(self) -> SlotMap:
        """The same map, for another link to move slots in."""
        other = copy.copy(self)
        other._owners = [*self._owners]
        return other


class Part(NamedTuple):
    """What one node is asked, in order.

    Attributes:
        node: which.
        places: of the pieces of the batch.
        asking: the node does not own the slot yet, but is about to.
        redirects: how often these were sent elsewhere before.
        pause: seconds to wait first.
        primary: whose replica the node is, and is asked as; None where it is asked for itself.
    """

    node: Node
    places: list[int]
    asking: bool = False
    redirects: int = 0
    pause: float = 0.0
    primary: Node | None = None

    def instead(self) -> Part:
        """The same for the primary, when its replica does not answer."""
        assert self.primary is not None
        return Part(self.primary, self.places, redirects=self.redirects)


class Scatter:
    """One batch of commands on its way to several nodes.

    Args:
        readers: which replica of a primary to read a key from, if any.

    Attributes:
        outdated: a node was not the right one, or says that the cluster is down: there is another map by now.
        moved: a slot has another owner than the map said; what is tracked of its keys is not known.
        unsettled: the keys of one command are in two places for the moment, because their slot is moving.
        refused: what a replica answered instead of a value.
    """

    def __init__(self, commands: Sequence[Command], slots: SlotMap, readers: _Readers | None = None) -> None:
        self._slots = slots
        self._pieces: list[Command] = []
        self._joins: list[tuple[int, Callable[[list[Any]], Any] | None]] = []
        parts: dict[tuple[Node, Node | None], list[int]] = {}
        chosen: dict[Any, Node | None] = {}  # one server per key: the value and its time to live belong together
        for command in commands:
            pieces, nodes, join = _cut(command, slots)
            for place, node in enumerate(nodes, len(self._pieces)):
                where: tuple[Node, Node | None] = (node, None)
                if readers is not None and command[0] in _READS:
                    key: Any = pieces[place - len(self._pieces)][1]
                    if key not in chosen:
                        chosen[key] = readers(node, key)
                    if (replica := chosen[key]) is not None:
                        where = (replica, node)
                parts.setdefault(where, []).append(place)
            self._pieces += pieces
            self._joins.append((len(pieces), join))
        self._replies: list[Any] = [None] * len(self._pieces)
        self._left = len(self._pieces)
        self.parts = [Part(node, places, primary=primary) for (node, primary), places in parts.items()]
        self.outdated = self.moved = self.unsettled = False
        self.refused = ""

    @property
    def complete(self) -> bool:
        return not self._left

    def commands(self, part: Part) -> list[Command]:
        """What to send to the node of a part."""
        if part.asking:
            return [word for place in part.places for word in (("ASKING",), self._pieces[place])]
        return [self._pieces[place] for place in part.places]

    def keys(self, part: Part) -> list[bytes]:
        """The keys that a part is about."""
        keys: list[Any] = []
        for place in part.places:
            piece: Any = self._pieces[place]
            if piece[0] == "EVAL":
                keys += piece[3 : 3 + int(piece[2])]
            elif piece[0] not in _KEYLESS:
                keys += piece[1:2]
        return keys

    def take(self, part: Part, replies: list[Any]) -> list[Part]:
        """Put the replies to a part in their places; what has to be asked elsewhere."""
        if part.primary is not None:
            refused = [r for r in replies if r.__class__ is CommandRefused and not _is_wrong_type(r)]
            if refused:
                self.refused, self.outdated = str(refused[0]), True
                return [part.instead()]
        again: dict[tuple[Node, bool], list[int]] = {}
        for place, reply in zip(part.places, replies[1::2] if part.asking else replies, strict=True):
            if reply.__class__ is CommandRefused and (target := self._target(part, reply)) is not None:
                again.setdefault(target, []).append(place)
            else:
                self._replies[place] = reply
                self._left -= 1
        pause, self.unsettled = _PAUSE * 2**part.redirects if self.unsettled else 0.0, False
        return [Part(node, places, asking, part.redirects + 1, pause) for (node, asking), places in again.items()]

    def _target(self, part: Part, refusal: CommandRefused) -> tuple[Node, bool] | None:
        code, _, rest = str(refusal).partition(" ")
        self.outdated = self.outdated or code in {"MOVED", "CLUSTERDOWN"}
        if code == "TRYAGAIN" and part.redirects < _MOST_REDIRECTS:
            self.unsettled = True
            return part.node, part.asking
        if code not in {"MOVED", "ASK"}:
            return None
        slot, _, address = rest.partition(" ")
        host, _, port = address.rpartition(":")
        try:
            node = (_host(host, part.node), int(port))
            if code == "MOVED" and self._slots.move(int(slot), node):
                self.moved = True
        except (ValueError, IndexError):
            return None
        return (node, code == "ASK") if part.redirects < _MOST_REDIRECTS else None

    def replies(self) -> list[Any]:
        """One for each command."""
        if len(self._joins) == len(self._pieces) and not any(join for _, join in self._joins):
            return self._replies
        joined: list[Any] = []
        place = 0
        for count, join in self._joins:
            replies = self._replies[place : place + count]
            joined.append(replies[0] if join is None else join(replies))
            place += count
        return joined


_Cut = tuple[Sequence[Command], Iterable[Node], Callable[[list[Any]], Any] | None]


def _cut(command: Command, slots: SlotMap) -> _Cut:
    """A command in pieces that concern one slot each, the nodes they go to, and what makes one reply of theirs."""
    name = command[0]
    if name == "EVAL" and slots.whole:
        return [command], slots.nodes, None
    if name == "EVAL":
        script, count = command[1], int(command[2])
        each = _EACH.get(script, count) if isinstance(script, str) else count
        keys, arguments = command[3 : 3 + count], command[3 + count :]
        groups = [keys[i : i + each] for i in range(0, count, each)]
        nodes = [slots.owner(slot_of(group[0])) for group in groups]  # type: ignore[arg-type]
        if len(groups) == 1:
            return [command], nodes, None
        return [(name, script, each, *group, *arguments) for group in groups], nodes, _sum
    if name == "SCAN":
        return _cut_scan(command, slots)
    if len(command) == 1 or name == "CLIENT":
        return [command], slots.nodes[:1], None
    keys = command[1:] if name == "MGET" else command[1:2]
    nodes = [slots.owner(slot_of(key)) for key in keys]  # type: ignore[arg-type]
    if name == "MGET":
        return [("GET", key) for key in keys], nodes, _list
    return [command], nodes, None


def _cut_scan(command: Command, slots: SlotMap) -> _Cut:
    cursor = command[1]
    assert isinstance(cursor, bytes)
    node = slots.nodes[0]
    if cursor != b"0":
        host, _, rest = cursor.decode("ascii").rpartition(":")
        port, _, inner = rest.partition("@")
        node, cursor = (host, int(port)), inner.encode("ascii")

    def join(replies: list[Any]) -> Any:
        reply = replies[0]
        if reply.__class__ is not list:
            return reply
        following, inner = node, reply[0]
        if inner == b"0":
            rest = [other for other in slots.nodes if other > node]
            if not rest:
                return reply
            following = rest[0]
        return [f"{following[0]}:{following[1]}@{inner.decode('ascii')}".encode("ascii"), reply[1]]

    return [("SCAN", cursor, *command[2:])], [node], join


def _host(told: bytes | str | None, asked: Node) -> str:
    """A node is told without its host, or with "?" where it should announce a host name and has none."""
    if told in (None, "", b"", "?", b"?"):
        return asked[0]
    return told.decode("ascii") if isinstance(told, bytes) else str(told)


def _sum(replies: list[Any]) -> Any:
    refused = [reply for reply in replies if not isinstance(reply, int)]
    return refused[0] if refused else sum(replies)


def _list(replies: list[Any]) -> Any:
    # To MGET a key of another type is as good as none.
    found = [None if _is_wrong_type(reply) else reply for reply in replies]
    return next((reply for reply in found if reply.__class__ is CommandRefused), found)


def _is_wrong_type(reply: Any) -> bool:
    return reply.__class__ is CommandRefused and str(reply).startswith("WRONGTYPE")
