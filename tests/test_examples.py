"""Every file of ``examples/`` runs as a user runs it, without a warning, and prints what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nearcache

EXAMPLES = Path(__file__).parents[1] / "examples"
PACKAGE = str(Path(nearcache.__file__).parents[1])

# Regular expressions; each must match a line of the output, in this order, anything may stand between.
LINES: dict[str, list[str]] = {
    "advanced_operations": [
        r"ttl: (300|2\d\d)",
        "expire: True",
        r"ttl: 3[56]\d\d of a missing key: -2",
        "set_many: True",
        r"get_many: \{'c': 3, 'a': 1\}",
        "delete_many: 2",
        r"hit ratio: 66\.7 %, hits: 2, misses: 1",
        "after reset: 0",
        "ping: PONG",
    ],
    "api_response_caching": [
        "three callers at once",
        "  asking the database",
        r"all got \{'id': '123', 'name': 'Ada'\} True",
        r"later: \{'id': '123', 'name': 'Ada'\}",
    ],
    "basic_operations": [
        "stored: True",
        "user: João",
        r"in another namespace: \{'theme': 'dark'\}",
        "a miss: None or a default: default",
        "exists: True",
        "deleted: True",
        "exists: False",
        "cleared: 1",
        r"untouched: \{'data': 'temporary'\}",
    ],
    "cache_aside": [
        "  loading 1",
        r"user 1: \{'name': 'Ada'\}",
        r"user 1: \{'name': 'Ada'\}",
        r"  loading \['user:2'\]",
        r"users 1 and 2: \{'user:1': \{'name': 'Ada'\}, 'user:2': \{'name': 'Grace'\}\}",
        "  loading 3",
        "user 3: None",
        "user 3: None",
        "  loading 2",
        r"decorated: \{'name': 'Grace'\}",
        r"decorated: \{'name': 'Grace'\}",
        "  loading 2",
        r"decorated, invalidated: \{'name': 'Grace'\}",
    ],
    "cache_statistics": [
        r"cache client: connected=True db=0 server=valkey .*",
        r"queue client: connected=True db=1 server=valkey .*",
        r"cache: hit ratio 75 %, \{'hits': 3, 'misses': 1, 'sets': 1,.*\}",
        r"queue: hit ratio 0 %, \{'hits': 0, 'misses': 1, 'sets': 0,.*\}",
        r"after reset: 0 0\.0",
    ],
    "controllers": [
        "  asking the database for 7",
        r"profile: \{'profile': \{'id': '7', 'name': 'Ada'\}\}",
        r"profile: \{'profile': \{'id': '7', 'name': 'Ada'\}\}",
        r"login: \{'profile dropped': True\}",
        "  asking the database for 7",
        r"profile: \{'profile': \{'id': '7', 'name': 'Ada'\}\}",
    ],
    "custom_client": [
        r"<AsyncCache 'custom-namespace' on queue, ttl=7200> -> ready 7[12]\d\d",
        r"<AsyncCache 'daily' on reports, .*> -> \[1, 2, 3\]",
        "clients: cache, queue, reports",
    ],
    "direct_managers": [
        r"too early: .*await cache\.initialize\(settings\).*",
        r"route:/users: \[\{'id': 1\}, \{'id': 2\}\]",
        r"worker:stats: \{'done': 17\}",
        "the same object again: True",
    ],
    "error_handling": [
        "get: default",
        "set: False",
        "get_or_set: from the database",
        "errors counted: True",
        "health: degraded",
        "strict: ConnectionFailed; .*",
    ],
    "factory": [
        "app: cache client, 3600 s",
        "session: cache client, 86400 s",
        "temp: cache client, 300 s",
        "queue-cache: queue client, 1800 s",
        "queue-worker: queue client, 900 s",
        r"user:123 in the api cache: \{'name': 'Ada'\}",
        r"job:456 in the queue cache: \{'state': 'done'\}",
    ],
    "health": [
        r"before: Health\(status='down', .*\)",
        "cache: connected=True db=0 breaker=closed",
        "queue: connected=True db=1 breaker=closed",
        "cache: PONG",
        "queue: PONG",
        "both clients work",
        "readiness: 200 up",
    ],
    "http_routes": [
        r"an article: \{'article': 1, 'rendered': 1\}",
        r"from the cache, for every visitor: \{'article': 1, 'rendered': 1\} hit",
        "not modified: 304",
        r"inbox of anna: \{'rendered': 2\}",
        r"inbox of bert: \{'rendered': 3\}",
        r"inbox of anna: \{'rendered': 2\}",
        r"purged: \{'article': 1, 'rendered': 4\}",
    ],
    "initialisation": ["cache client: connected database 0", "queue client: connected database 1"],
    "logs": [
        r"INFO nearcache\.connections: cache client: .* db 0: connected \(valkey .*\)",
        r"DEBUG nearcache\.cache: Cache miss for example:app:route:_auth_me:user:123~[0-9a-f]{32}",
        r"DEBUG nearcache\.cache: Cache hit for example:app:route:_auth_me:user:123~[0-9a-f]{32}",
        r"\{'hits': 1, 'misses': 1, 'hit_ratio': 50\.0\}",
    ],
    "mixed_operations": [
        r"api: \{'name': 'API User Data'\}",
        r"queue: \{'job': 'Queue Job Data'\}",
        r"queue after clear\(\): None",
        r"api after the queue's clear\(\): \{'name': 'API User Data'\}",
    ],
    "namespaces": [
        "public: everybody's",
        "private: one user's",
        "sanitized: user_123_script value: user/123<script>",
        "sanitized: user_123_script value: user/123{script}",
        "stored key: example:private:user:123",
        "stored key: example:public:user:123",
        "stored key: example:public:user_123_script~[0-9a-f]{32}",
        "stored key: example:public:user_123_script~[0-9a-f]{32}",
        "cleared public: 3",
        "private is still there: True",
    ],
    "plugin": [
        r"first request: \{'calls of the route': 1\}",
        r"second request, from the cache: \{'calls of the route': 1\}",
        r"with a cookie, not from the cache: \{'calls of the route': 2\}",
        r"typed dependencies: \{'api': 'app', 'session': 'session'\}",
        r"on app\.state\.cache: 1 hit, 2 misses",
    ],
    "plugin_starlette": [
        r"first request: \{'visits': 1\}",
        r"second request, from the cache: \{'visits': 1\}",
        r"another URL: \{'visits': 2\}",
    ],
    "queue_coordination": [
        r"result:456: \{'rows': 1200\} 1[78]\d\d s left",
        r"worker:w1: \{'done': 17, 'failed': 1\} [89]\d\d s left",
    ],
    "ready_made": [
        r"app: value in app, 3[56]\d\d s left",
        r"session: value in session, 86[34]\d\d s left",
        r"temp: value in temp, (300|2\d\d) s left",
    ],
    "request_logging": [
        r"GET /products\?page=1 200 [\d.]+ ms, hit ratio 0\.0 % \| url=/products\?page=1 method=GET .*",
        r"GET /products\?page=1 200 .* duration=[\d.]+ cache_hit_ratio=50\.0 cache_stats=\{'hits': 1,.*\}",
    ],
    "sessions": [
        "session of user 123 since 2025-05-01",
        r"seconds left: 86[34]\d\d",
        "after logging out: None",
    ],
    "shutdown": [
        "working, ready: True",
        "all clients are disconnected, ready: False",
        "operations now raise NotInitialized",
    ],
    "synchronous": [
        r"get: \{'name': 'Ada'\} ttl: [56]\d",
        "  computing",
        "square: 144",
        "square, from the cache: 144",
    ],
    "troubleshooting": [
        r"ready: True \| prefix: example:",
        "queue client before anything uses it: False",
        "ping: PONG",
        r"ttl: [56]\d -1 -2",
        "types kept: True",
        r"refused: value\['rows'\]\[1\]: .*",
        "nothing was overwritten: True",
    ],
    "write_behind": [
        r"cached at once: \{'name': 'Ada'\}",
        r"in the database so far: \{\}",
        r"in the database, after 2 attempts: \{'user:7': \{'name': 'Ada'\}\}",
        "pending: 2",
        "drained, pending: 0",
        r"in the database, the last one: \{'name': 'Ada', 'city': 'Turin'\}",
    ],
    "write_through": [
        r"written: \{'name': 'Ada', 'city': 'Turin'\}",
        r"cached: \{'name': 'Ada', 'city': 'Turin'\}",
        r"in the database: \{'name': 'Ada', 'city': 'Turin'\}",
        "refused: nothing to change",
        r"still cached: \{'name': 'Ada', 'city': 'Turin'\}",
    ],
}

# How often a line may stand there: a loader that runs twice prints twice.
COUNTS = {
    "api_response_caching": {"  asking the database": 1},
    "cache_aside": {"  loading 1": 1, "  loading 3": 1, "  loading 2": 2},
    "controllers": {"  asking the database for 7": 2},
    "synchronous": {"  computing": 1},
}

STDERR = {
    "write_behind": r"write-behind of 'user:7' failed: ConnectionError\('the database is away'\).*\n"
    r"write-behind: the writer works again.*\n",
}

NEEDS_NO_SERVER = {"error_handling"}


def run(name: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {**os.environ, "PYTHONPATH": PACKAGE, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        cwd=directory,  # no .env of the developer's
        env=inherited | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=50,
    )


@pytest.mark.parametrize("name", sorted(LINES))
def test_example(name: str, url: str, tmp_path: Path) -> None:
    ended = run(name, tmp_path, REDIS_URL=url)

    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(STDERR.get(name, ""), ended.stderr), ended.stderr
    lines = iter(ended.stdout.splitlines())
    for pattern in LINES[name]:
        assert any(re.fullmatch(pattern, line) for line in lines), f"no line {pattern!r} in:\n{ended.stdout}"
    for line, count in COUNTS.get(name, {}).items():
        assert ended.stdout.splitlines().count(line) == count, ended.stdout


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(LINES)


def test_every_example_runs_on_a_bare_machine(tmp_path: Path) -> None:
    """Without REDIS_URL each starts a private server; all say so with the same line, one is tried."""
    ended = run("initialisation", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "queue client: connected database 1" in ended.stdout

    line = 'os.environ.setdefault("REDIS_URL", "embedded://")\n'
    lacking = {path.stem for path in EXAMPLES.glob("*.py") if line not in path.read_text("utf-8")}
    assert lacking == NEEDS_NO_SERVER
