"""The benchmarks run and report every cell. How fast anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parent.parent
_QUICK = ("--rounds", "1", "--seconds", "0.05")


def _run(*arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """``python -m benchmarks``; ``without`` names a module that is not to be found."""
    program = f"import runpy, sys; {f'sys.modules[{without!r}] = None; ' if without else ''}"
    program += "runpy.run_module('benchmarks', run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=_ROOT, capture_output=True, text=True, timeout=50
    )


def _cells(report: dict[str, Any]) -> set[tuple[Any, ...]]:
    names = ("loop", "op", "size", "callers", "contender")
    return {tuple(cell[name] for name in names) for cell in report["cells"]}


def test_remote_measures_every_cell(tmp_path: Path) -> None:
    file = tmp_path / "remote.json"
    done = _run("remote", *_QUICK, "--only", "nearcache,lane,redis-py", "--json", str(file))
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    contenders = ("nearcache", "lane", "redis-py")
    loops = ("asyncio", "uvloop")
    assert _cells(report) == set(product(loops, ("GET", "SET"), (200, 5000), (1, 16, 128), contenders))
    for cell in report["cells"]:
        assert len(cell["rates"]) == 1
        assert cell["median"] == cell["rates"][0] > 0
    assert {cell["ratio"] for cell in report["cells"] if cell["contender"] == "redis-py"} == {1.0}
    assert {(each["loop"], each["op"]) for each in report["latency_ms"]} == set(product(loops, ("GET", "SET")))
    assert "redis 8" in report["environment"]["packages"]
    assert "GET 5000 bytes, uvloop" in done.stdout


def test_sync_measures_both_loops(tmp_path: Path) -> None:
    file = tmp_path / "sync.json"
    done = _run("sync", *_QUICK, "--only", "GET,200,1,4", "--json", str(file))
    assert done.returncode == 0, done.stderr
    contenders = ("nearcache", "redis-py")
    assert _cells(json.loads(file.read_text())) == set(
        product(("asyncio", "uvloop"), ("GET",), (200,), (1, 4), contenders)
    )


def test_eviction_replays_every_trace_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "eviction.json"
    chosen = ("--only", "web07,zipf-1.2,nearcache", "--rounds", "1", "--traces", str(tmp_path))
    done = _run("eviction", *chosen, "--json", str(file))
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert [(cell["trace"], cell["of_keys"]) for cell in report["cells"]] == [("zipf-1.2", "1%"), ("zipf-1.2", "10%")]
    for cell in report["cells"]:
        ratios = cell["ratios"]
        assert 0 < ratios["LRU"] < ratios["nearcache"] < ratios["Belady"] < 1
        share = (ratios["nearcache"] - ratios["LRU"]) / (ratios["Belady"] - ratios["LRU"])
        assert cell["shares"] == {"nearcache": pytest.approx(share)}
        assert min(cell["lru_ns"], cell["own_ns"]) > 0
    shares = [cell["shares"]["nearcache"] for cell in report["cells"]]
    assert report["contenders"]["nearcache"]["mean_share"] == pytest.approx(sum(shares) / 2)
    assert "web07        not measured: not found, skipped" in done.stdout


def test_eviction_without_a_library(tmp_path: Path) -> None:
    file = tmp_path / "eviction.json"
    done = _run("eviction", "--only", "zipf-1.2,1%,theine", "--rounds", "1", "--json", str(file), without="theine")
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert "theine" in report["missing"]
    assert [set(cell["ratios"]) for cell in report["cells"]] == [{"LRU", "Belady"}]


@pytest.mark.parametrize(("module", "missing"), [("coredis", "coredis"), ("uvloop", "uvloop")])
def test_what_is_not_installed_is_reported(module: str, missing: str, tmp_path: Path) -> None:
    file = tmp_path / "remote.json"
    chosen = "nearcache,coredis,GET,200,1"
    done = _run("remote", *_QUICK, "--only", chosen, "--json", str(file), without=module)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert missing in report["missing"]  # whoever has not installed the bench extra lacks others, too
    assert not any(missing in cell for cell in _cells(report))
    assert any("nearcache" in cell for cell in _cells(report))
    assert "not measured" in done.stdout


def test_a_word_that_names_nothing_is_refused() -> None:
    done = _run("remote", "--only", "nearcash")
    assert done.returncode == 2
    assert "nearcash: not among" in done.stderr


def _report(file: Path, *arguments: str, without: str = "") -> dict[str, Any]:
    done = _run(*arguments, "--json", str(file), without=without)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(file.read_text())
    return report | {"stdout": done.stdout}


def test_local_measures_every_way_to_a_hit(tmp_path: Path) -> None:
    ours = ("nearcache", "nearcache-memory")
    only = ",".join((*ours, "lru_cache", "cachebox"))
    quick = ("--rounds", "1", "--seconds", "0.001", "--only", only)
    report = _report(tmp_path / "local.json", "local", *quick, without="cachebox")
    assert "cachebox" in report["missing"]
    kinds = ("get", "async-get", "decorated", "async-decorated")
    cells = {(cell["kind"], cell["value"], cell["contender"]) for cell in report["cells"]}
    assert cells == {*product(kinds, ("str", "dict"), ours), *product(("decorated",), ("str", "dict"), ("lru_cache",))}
    assert all(cell["median_ns"] == cell["ns"][0] > 0 for cell in report["cells"])
    assert "str: nearcache/it" in report["stdout"]


def test_a_stampede_is_served_with_and_without_its_leader(tmp_path: Path) -> None:
    report = _report(tmp_path / "stampede.json", "stampede", "--rounds", "1", "--only", "nearcache")
    cells = {cell["scenario"]: cell for cell in report["cells"]}
    assert set(cells) == {"cold", "killed"}
    for cell in cells.values():
        assert cell["failed"] == 0
        assert 1 <= cell["loads"][0] <= 5, "one per process, and one more for who was killed"
        assert cell["commands"] > 0
        assert 0 < cell["wait_ms_p50"] <= cell["wait_ms_p99"] <= cell["wait_ms_longest"]


def test_invalidation_measures_every_write_and_reader(tmp_path: Path) -> None:
    quick = ("--rounds", "1", "--samples", "3", "--only", "set,delete,clear")
    report = _report(tmp_path / "invalidation.json", "invalidation", *quick)
    cells = {(cell["contender"], cell["operation"], cell["reader"]) for cell in report["cells"]}
    writes = {*product(("nearcache", "bare"), ("set", "delete")), ("nearcache", "clear")}
    assert cells == {(*write, reader) for write, reader in product(writes, ("async", "sync"))}
    for cell in report["cells"]:
        assert cell["never"] == 0
        assert len(cell["samples_ms"]) == len(cell["old_samples_ms"]) == 3
        assert all(0 <= old < ms for ms, old in zip(cell["samples_ms"], cell["old_samples_ms"], strict=True))


def test_http_asks_who_answers_from_its_cache(tmp_path: Path) -> None:
    chosen = ("--only", "nearcache,nearcache-remote,cashews")
    report = _report(tmp_path / "http.json", "http", *_QUICK, *chosen)
    cells = {cell["contender"]: cell for cell in report["cells"]}
    assert {*cells, *report["missing"]} == {"bare", "nearcache", "nearcache-remote", "cashews"}
    assert set(report["missing"]) <= {"cashews"}  # which is no development dependency
    for cell in cells.values():
        assert cell["requests_per_second"] == cell["rates"][0] > 0
        assert cell["of_bare"] == cell["rates"][0] / cells["bare"]["rates"][0]
        assert cell["cpu_us"] == cell["costs_us"][0] > 0
    assert cells["nearcache"]["commands"] < 0.5
    assert cells["nearcache-remote"]["commands"] >= 1
    assert "remote/it" in report["stdout"]


def test_memory_counts_what_entries_cost(tmp_path: Path) -> None:
    report = _report(tmp_path / "memory.json", "memory", "--only", "nearcache-memory,dict,str")
    traced = {cell["contender"]: cell["median"] for cell in report["cells"] if cell["way"] == "tracemalloc"}
    assert set(traced) == {"nearcache-memory", "dict"}
    assert all(200 < size < 5000 for size in traced.values()), "the values alone are 200 bytes each"


def test_capacity_counts_what_the_server_keeps(tmp_path: Path) -> None:
    cells = _report(tmp_path / "capacity.json", "capacity")["cells"]
    entries = {cell["size"]: cell for cell in cells if cell["what"] == "entry"}
    for size, cell in entries.items():
        assert size < cell["value alone"] < cell["entry"] < cell["entry with a tag"] < size + 500
    one, *_, ten = [cell["bytes"] for cell in cells if cell["what"] == "tracked key"]
    assert 50 < one < ten < 10 * one, "part of it is the key"
    assert 1_000 < cells[-1]["bytes"] < 100_000


def test_a_fault_that_is_none_is_refused() -> None:
    done = _run("coherence", "--faults", "kill,flood")
    assert done.returncode == 2
    assert "flood: not among kill, pause, stop, block" in done.stderr
