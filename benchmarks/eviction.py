"""``python -m benchmarks eviction``: hit ratios on traces of requests, and what an operation costs.

Cold start, every value of the same size, and every miss stores. The capacity is a share of the trace's unique keys.
Belady's optimum, which knows the future, bounds every hit ratio; the *share* is how much of the way there from LRU is
made: ``(own - LRU) / (Belady - LRU)``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import fmean
from time import process_time
from typing import Any, NamedTuple

from nearcache.tiers.eviction import Eviction

from .report import environment, select

__all__ = ["CHOICES", "add_arguments", "run"]

Keys = Sequence[bytes]
Replay = Callable[[Keys, int], int]  # to the number of hits
Contender = Callable[[], dict[str, Replay]]  # by policy

_ZIPF = ("zipf-0.8", "zipf-1.0", "zipf-1.2")
_SCANS = "-scans"
_FILES = ("web07", "orm-night")
_CAPACITIES = {"1%": 0.01, "10%": 0.1}
_TIMED = 200_000  # requests of a trace that are replayed for the time they take
_LEAST_GAP = 0.001  # between LRU and Belady, for a share to mean anything

CHOICES: dict[str, tuple[str, ...]] = {
    "trace": (*_FILES, *_ZIPF, *(name + _SCANS for name in _ZIPF)),
    "capacity": tuple(_CAPACITIES),
    "contender": ("nearcache", "theine", "cachebox"),
}


class Row(NamedTuple):
    """One trace at one capacity.

    Attributes:
        capacity: entries.
        ratios: hit ratio by contender; ``None`` is not installed.
        shares: of the way from LRU to Belady, by contender; ``None`` where there is hardly any way.
        policies: which of a library's policies did best, where it has several.
        lru_ns: CPU time of an operation of a plain LRU of the same entries (``OrderedDict``), least of the rounds.
        own_ns: the same of nearcache's policy and a dictionary, without the tier around them.
    """

    trace: str
    of_keys: str
    capacity: int
    requests: int
    ratios: dict[str, float | None]
    shares: dict[str, float | None]
    policies: dict[str, str]
    lru_ns: float
    own_ns: float


@dataclass
class EvictionReport:
    environment: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def mean_share(self, contender: str) -> float | None:
        shares = [share for row in self.rows if (share := row.shares.get(contender)) is not None]
        return fmean(shares) if shares else None

    def worst(self, contender: str) -> float | None:
        """The least of the differences to LRU."""
        return min((d for row in self.rows if (d := _difference(row, contender)) is not None), default=None)

    def print(self, write: Callable[[str], object] = print) -> None:
        write("eviction: hit ratios, and the share of the way from LRU to Belady's optimum")
        for name, what in self.environment.items():
            write(f"  {name:12} {what}")
        for name, reason in self.missing.items():
            write(f"  {name:12} not measured: {reason}")
        contenders = [name for name in CHOICES["contender"] if any(name in row.ratios for row in self.rows)]
        write(
            f"\n{'trace':16}{'keys':>5}{'entries':>9}{'LRU':>8}{'Belady':>8}"
            + "".join(f"{name:>17}" for name in contenders)
            + f"{'LRU ns':>9}{'own ns':>8}{'more':>6}"
        )
        for row in self.rows:
            cells = "".join(f"{_cell(row, name):>17}" for name in contenders)
            write(
                f"{row.trace:16}{row.of_keys:>5}{row.capacity:>9,}{row.ratios['LRU']:>8.4f}{row.ratios['Belady']:>8.4f}"
                f"{cells}{row.lru_ns:>9,.0f}{row.own_ns:>8,.0f}{row.own_ns - row.lru_ns:>6,.0f}"
            )
        for title, figure, form in (("mean share", self.mean_share, ".3f"), ("worst - LRU", self.worst, "+.4f")):
            figures = "".join(f"{_form(figure(name), form):>17}" for name in contenders)
            write(f"{title:46}{figures}")
        for name, policies in self._best_policies().items():
            write(f"{name}: the best of its policies per row: {policies}")

    def _best_policies(self) -> dict[str, str]:
        names = {name for row in self.rows for name in row.policies}
        return {name: ", ".join(sorted({row.policies[name] for row in self.rows})) for name in sorted(names)}

    def write_json(self, path: Path) -> None:
        figures = {
            name: {"mean_share": self.mean_share(name), "worst": self.worst(name)} for name in CHOICES["contender"]
        }
        document: dict[str, Any] = {
            "title": "eviction",
            "environment": self.environment,
            "missing": self.missing,
            "contenders": figures,
            "cells": [row._asdict() for row in self.rows],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


def _difference(row: Row, contender: str) -> float | None:
    own, lru = row.ratios.get(contender), row.ratios["LRU"]
    return own - lru if own is not None and lru is not None else None


def _cell(row: Row, contender: str) -> str:
    ratio = row.ratios.get(contender)
    return "-" if ratio is None else f"{ratio:.4f} ({_form(row.shares[contender], '+.2f')})"


def _form(figure: float | None, form: str) -> str:
    return "-" if figure is None else format(figure, form)


def run(arguments: argparse.Namespace) -> EvictionReport:
    """Replay what was asked for: about 4 minutes for everything, most of it for orm-night's 5 million requests."""
    chosen = select(arguments.only, CHOICES)
    report = EvictionReport(environment(None, ("nearcache", "theine", "cachebox", "numpy")))
    contenders = {name: _CONTENDERS[name] for name in chosen["contender"]}
    for name in tuple(contenders):
        try:
            contenders[name]()
        except ImportError as error:
            report.missing[name] = str(error)
            del contenders[name]
    for trace, keys in _traces(chosen["trace"], arguments.traces, report.missing):
        for of_keys in chosen["capacity"]:
            capacity = max(1, int(len(set(keys)) * _CAPACITIES[of_keys]))
            report.rows.append(_measure(trace, keys, of_keys, capacity, contenders, arguments.rounds))
    return report


def _measure(trace: str, keys: Keys, of_keys: str, capacity: int, contenders: dict[str, Contender], rounds: int) -> Row:
    lru, belady = _lru(keys, capacity) / len(keys), _belady(keys, capacity) / len(keys)
    ratios: dict[str, float | None] = {"LRU": lru, "Belady": belady}
    shares: dict[str, float | None] = {}
    policies: dict[str, str] = {}
    for name, contender in contenders.items():
        hits, policy = max((replay(keys, capacity), policy) for policy, replay in contender().items())
        ratio = ratios[name] = hits / len(keys)
        shares[name] = (ratio - lru) / (belady - lru) if belady - lru >= _LEAST_GAP else None
        if policy:
            policies[name] = policy
    timed, times = keys[:_TIMED], dict[str, list[float]]()
    for _ in range(rounds):  # in turn, so that whatever else the machine does hits both
        for name, replay in (("lru", _lru), ("own", _own)):
            began = process_time()
            replay(timed, capacity)
            times.setdefault(name, []).append((process_time() - began) / len(timed) * 1e9)
    return Row(
        *(trace, of_keys, capacity, len(keys), ratios, shares, policies),
        lru_ns=min(times["lru"]),
        own_ns=min(times["own"]),
    )


def _traces(names: Sequence[str], directory: Path | None, missing: dict[str, str]) -> Iterator[tuple[str, Keys]]:
    """The traces by name, one after the other; into ``missing`` goes what is not there."""
    for name in names:
        if name in _FILES:
            if directory is None or not (file := directory / f"{name}.npz").is_file():
                missing[name] = f"not found, skipped: no {name}.npz in {directory or 'any --traces directory'}"
                continue
            try:
                import numpy as np
            except ImportError as error:
                missing[name] = str(error)
                continue
            yield name, _as_keys(np.load(file)["keys"].tolist())
        else:
            yield name, _as_keys(_zipf(float(name.split("-")[1]), scans=name.endswith(_SCANS)))


def _as_keys(numbers: Sequence[int]) -> Keys:
    keys = [b"key:%d" % number for number in range(max(numbers) + 1)]
    return [keys[number] for number in numbers]


def _zipf(skew: float, *, scans: bool, keys: int = 50_000, requests: int = 300_000) -> list[int]:
    """Popular and rare keys in random order; a scan asks once for each of 5,000 keys, after every 25,000 others."""
    random = Random(1)
    weights = list(accumulate(rank**-skew for rank in range(1, keys + 1)))
    numbers = random.choices(range(keys), cum_weights=weights, k=requests)
    if not scans:
        return numbers
    scanned: list[int] = []
    for start in range(0, requests, 25_000):
        first = keys + start // 5
        scanned += [*numbers[start : start + 25_000], *range(first, first + 5_000)]
    return scanned


def _lru(keys: Keys, capacity: int) -> int:
    held: OrderedDict[bytes, _Node] = OrderedDict()
    hits = 0
    for key in keys:
        if held.get(key) is not None:
            hits += 1
            held.move_to_end(key)
        else:
            held[key] = _Node(key)
            if len(held) > capacity:
                held.popitem(last=False)
    return hits


def _belady(keys: Keys, capacity: int) -> int:
    """What goes is what is used again last. The next uses are known beforehand."""
    following, last = [0] * len(keys), dict[bytes, int]()
    for index in range(len(keys) - 1, -1, -1):
        following[index] = last.get(keys[index], len(keys) + index)  # never again: any order
        last[keys[index]] = index
    held: dict[bytes, int] = {}
    farthest: list[tuple[int, bytes]] = []
    hits = 0
    for key, next_use in zip(keys, following, strict=True):
        if key in held:
            hits += 1
        elif len(held) >= capacity:
            use, victim = heappop(farthest)
            while held.get(victim) != -use:  # it was used since
                use, victim = heappop(farthest)
            del held[victim]
        held[key] = next_use
        heappush(farthest, (-next_use, key))
    return hits


class _Node:
    __slots__ = ("filed", "key", "size", "used")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.size = 1
        self.used = self.filed = 0


def _own(keys: Keys, capacity: int) -> int:
    eviction = Eviction(capacity, capacity)
    held: dict[bytes, _Node] = {}
    hits = 0
    for key in keys:
        node = held.get(key)
        if node is not None:
            hits += 1
            node.used = eviction.now
        else:
            node = held[key] = _Node(key)
            for gone in eviction.add(node):
                del held[gone.key]
    return hits


def _theine() -> dict[str, Replay]:
    from theine import Cache

    def replay(keys: Keys, capacity: int) -> int:
        cache: Any = Cache(capacity)
        hits = 0
        for key in keys:
            _, hit = cache.get(key)
            if hit:
                hits += 1
            else:
                cache.set(key, key)
        cache.close()
        return hits

    return {"": replay}


def _cachebox() -> dict[str, Replay]:
    import cachebox

    def of(kind: Callable[[int], Any]) -> Replay:
        def replay(keys: Keys, capacity: int) -> int:
            cache = kind(capacity)
            hits = 0
            for key in keys:
                if cache.get(key) is None:
                    cache.insert(key, key)
                else:
                    hits += 1
            return hits

        return replay

    return {"FIFO": of(cachebox.FIFOCache), "LFU": of(cachebox.LFUCache), "LRU": of(cachebox.LRUCache)}


_CONTENDERS: dict[str, Contender] = {"nearcache": lambda: {"": _own}, "theine": _theine, "cachebox": _cachebox}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the traces are."""
    parser.add_argument(
        "--traces",
        type=Path,
        default=traces_directory(),
        metavar="DIR",
        help="where the real traces are, default %(default)s",
    )


def traces_directory() -> Path | None:
    """``$CACHE_TRACES``, else ``shared/traces`` beside the project, if there is one."""
    if named := os.environ.get("CACHE_TRACES"):
        return Path(named)
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "traces"
    return beside if beside.is_dir() else None
