"""Unix sockets: how they are named, what is said of those that do not work, and coming back after a restart."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from nearcache import get_multi_redis_connection_manager

from ..lanes import eventually
from ..servers import ValkeyServer
from ..shells import BOTH, last_error, shell_at

pytestmark = pytest.mark.usefixtures("closing")

manager = get_multi_redis_connection_manager()


class SocketServer(ValkeyServer):
    """A server without a port, on a socket of that name."""

    def __init__(self, name: str, *config: str) -> None:
        super().__init__(*config, tcp=False)
        self.socket_path = str(self.directory / name)


@pytest.fixture
def directory() -> Iterator[Path]:
    server = ValkeyServer()  # not started: it makes a directory with a short name
    yield server.directory
    shutil.rmtree(server.directory, ignore_errors=True)


@BOTH
@pytest.mark.parametrize("name", ["a b", "100%", "%20", "where?", "a#b", "user@host:1", "grüße", "tab\there"])
async def test_any_path(name: str, kind: str) -> None:
    with SocketServer(name) as server:
        server.command("ACL", "SETUSER", "us:er", "on", ">pass/word@", "~*", "+@all")
        credentials = f"{quote('us:er', safe='')}:{quote('pass/word@', safe='')}"
        shell = await shell_at(f"unix://{credentials}@{quote(server.socket_path)}?db=3", kind)
        assert await shell.set("key", 1) is True
        assert server.command("EXISTS", "app:key", db=3) == 1
        assert await manager.get_client().exists("app:key") == 1
        users = server.command("CLIENT", "LIST")
        assert users.count(b"user=us:er") == 2, "the driver's connection, too"
        status = manager.get_connection_status("cache")
        assert (status.host, status.port, status.db) == (server.socket_path, 0, 3)


@BOTH
async def test_a_wrong_password(kind: str) -> None:
    with ValkeyServer(password="right", tcp=False) as server:
        await shell_at(server.unix_url.replace("right", "wrong"), kind)
        assert last_error() == "the server refused the credentials: WRONGPASS"


@BOTH
async def test_coming_back_after_a_restart(kind: str) -> None:
    with SocketServer("again") as server:
        shell = await shell_at(server.unix_url, kind)
        assert await shell.set("key", 1) is True
        server.kill()
        await eventually(lambda: not manager.get_connection_status("cache").connected, "the loss to be noticed")
        assert await shell.set("key", 2) is False
        assert await shell.get_or_set("key", lambda: "loaded") == "loaded"
        server.start()
        await eventually(lambda: manager.get_connection_status("cache").connected, "a connection")
        assert await shell.set("key", 3) is True
        assert await shell.get("key") == 3


def missing(directory: Path) -> Path:
    return directory / "none"


def abandoned(directory: Path) -> Path:
    """A server that was killed leaves its socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(directory / "old"))
    return directory / "old"


def no_socket(directory: Path) -> Path:
    (directory / "file").write_text("")
    return directory / "file"


def forbidden(directory: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    path = abandoned(directory)
    path.chmod(0)
    return path


BROKEN = {
    "missing": (missing, "No such file or directory"),
    "abandoned": (abandoned, "Connection refused"),
    "no socket": (no_socket, "Connection refused"),
    "forbidden": (forbidden, "Permission denied"),
    "too long": (lambda directory: directory / ("x" * 120), "path too long"),
}


@BOTH
@pytest.mark.parametrize("what", BROKEN)
async def test_a_socket_that_does_not_work(what: str, kind: str, directory: Path) -> None:
    make, message = BROKEN[what]
    path = make(directory)
    shell = await shell_at(f"unix://{path}", kind)
    assert message in last_error()
    (reason,) = manager.health().reasons
    assert str(path) in reason
    assert await shell.get_or_set("key", lambda: 1) == 1
