"""gunicorn and Celery, where they are installed: workers forked by a parent that has used the cache."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest

from ..servers import ValkeyServer, free_port, wait_until

needs_gunicorn = pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed")
needs_celery = pytest.mark.skipif(importlib.util.find_spec("celery") is None, reason="celery is not installed")

APP = """
    import os
    from nearcache import Cache, Settings

    cache = Cache(60, "prefork")
    cache.initialize(Settings(redis_url={url!r}, _env_file=None))
    cache.set("by the parent", os.getpid())
    assert cache.get("by the parent") == os.getpid()

    def write(key, value):
        with open({log!r}, "a") as file:
            file.write(f"{{key}} {{os.getpid()}}\\n")

    behind = cache.write_behind(write)
"""

WSGI = """
    def app(environ, start_response):
        behind.set(f"worker {os.getpid()}", 1)
        count = cache.get_or_set("load", lambda: os.getpid())
        body = f"{os.getpid()} {cache.get('by the parent')} {count}".encode()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]
"""

CELERY = """
    from celery import Celery
    from celery.signals import worker_process_shutdown
    from nearcache import get_multi_redis_connection_manager

    app = Celery("prefork", broker={url!r}, backend={url!r})

    @app.task
    def work(number):
        behind.set(f"worker {{os.getpid()}}", 1)
        count = cache.get_or_set("load", lambda: os.getpid())
        return os.getpid(), cache.get("by the parent"), count

    @worker_process_shutdown.connect
    def end(**_):
        get_multi_redis_connection_manager().close()
"""


def start(directory: Path, text: str, *command: str) -> subprocess.Popen[str]:
    (directory / "prefork_app.py").write_text(text)
    paths = os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-m", *command],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def answer(port: int) -> tuple[int, ...]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
        return tuple(map(int, response.read().split()))


def answers(port: int) -> bool:
    try:
        return bool(answer(port))
    except OSError:
        return False


@needs_gunicorn
def test_gunicorn_with_preload(url: str, server: ValkeyServer, tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    text = textwrap.dedent(APP.format(url=url, log=str(log))) + textwrap.dedent(WSGI)
    options = ("--preload", "-w", "3", "-b", f"127.0.0.1:{port}", "--log-level", "error", "prefork_app:app")
    with start(tmp_path, text, "gunicorn", *options) as process:
        try:
            wait_until(lambda: answers(port), "gunicorn to answer", seconds=30)
            seen = [answer(port) for _ in range(30)]
        finally:
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=30)
    workers, parents, loads = map(set, zip(*seen, strict=True))
    assert parents == {process.pid}
    assert len(loads) == 1, "one load in the fleet"
    assert loads <= workers | {int(line.split()[1]) for line in log.read_text().splitlines()}
    assert "Traceback" not in complaints
    assert f"raddr=('127.0.0.1', {server.port})" not in complaints, "gunicorn's own sockets are its own affair"
    assert all(line.split()[1] == line.split()[2] for line in log.read_text().splitlines()), "each writes its own"
    wait_until(lambda: server.command("CLIENT", "LIST").count(b"name=nearcache-") == 0, "all connections to end")


@needs_celery
def test_celery_s_prefork_pool(url: str, server: ValkeyServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = textwrap.dedent(APP.format(url=url, log=str(log))) + textwrap.dedent(CELERY.format(url=url))
    options = ("-A", "prefork_app", "worker", "-P", "prefork", "-c", "3", "-l", "error")
    with start(tmp_path, text, "celery", *options) as process:
        try:
            from celery import Celery

            app = Celery("prefork", broker=url, backend=url)
            sent = [app.send_task("prefork_app.work", (number,)) for number in range(30)]
            seen = [result.get(timeout=40) for result in sent]
            app.close()
        finally:
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=40)
    workers, parents, loads = map(set, zip(*seen, strict=True))
    assert len(parents) == len(loads) == 1
    assert not workers & parents
    written = [line.split() for line in log.read_text().splitlines()]
    assert len(written) == 30, "what was pending, too"
    assert all(name == pid for _, name, pid in written), "each writes its own"
    assert "Traceback" not in complaints
    wait_until(lambda: server.command("CLIENT", "LIST").count(b"name=nearcache-") == 0, "all connections to end")
