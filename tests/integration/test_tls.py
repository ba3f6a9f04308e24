"""TLS in every topology: who is let in, who is not, and what is said of it."""

from __future__ import annotations

import asyncio
import os
import pty
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import redis.exceptions

from nearcache import ConfigurationError, get_multi_redis_connection_manager
from nearcache.transport.endpoint import parse_url
from nearcache.transport.handshake import open_wire
from nearcache.transport.thread_wire import open_thread_wire
from nearcache.transport.tls import tls_context

from ..lanes import Versions, eventually, on_both_loops
from ..servers import ValkeyServer
from ..shells import BOTH, Shell, last_error, shell_at
from ..tls import Authority, TlsSentinel, TlsServer, tls_cluster

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("closing")]

manager = get_multi_redis_connection_manager()
Files = tuple[Path, Path]


class Papers:
    """Certificates, all of one authority but ``stranger``'s."""

    def __init__(self, directory: Path) -> None:
        self.authority = authority = Authority(directory)
        self.other = Authority(directory, "other")
        self.both = authority.sign("both", "localhost", "127.0.0.1")
        self.named = authority.sign("named", "localhost")
        self.elsewhere = authority.sign("elsewhere", "example.com", "192.0.2.1")
        self.expired = authority.sign("expired", "localhost", "127.0.0.1", ends=timedelta(days=-1))
        self.client = authority.sign("client")
        self.locked = authority.sign("locked", passphrase="secret")
        self.stranger = self.other.sign("stranger")

    def query(self, client: Files | None = None, *, authority: Authority | None = None) -> str:
        """The parameters of a URL."""
        own = f"&ssl_certfile={client[0]}&ssl_keyfile={client[1]}" if client else ""
        return f"?ssl_ca_certs={(authority or self.authority).certificate}{own}"


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def open_server(papers: Papers) -> Iterator[TlsServer]:
    """Takes any client."""
    with TlsServer(papers.authority, papers.both) as server:
        yield server


@pytest.fixture(scope="module")
def closed_server(papers: Papers) -> Iterator[TlsServer]:
    """Takes clients with a certificate of the authority's."""
    with TlsServer(papers.authority, papers.both, clients=True) as server:
        yield server


# Without a word of why when the server, which has closed, is sent more: that overtakes what it said.
ASKS = "the server (asks|may ask) for a client certificate: ssl_certfile and ssl_keyfile in the URL"

TOPOLOGIES = pytest.mark.parametrize("topology", ["standalone", "sentinel", "cluster"])


class Place:
    """Servers of one topology, and how to name them."""

    def __init__(self, topology: str, papers: Papers, files: Files, stack: ExitStack, *, clients: bool) -> None:
        self._topology = topology
        if topology == "cluster":
            self.servers = stack.enter_context(tls_cluster(papers.authority, files, clients=clients))
        else:
            self.servers = [stack.enter_context(TlsServer(papers.authority, files, clients=clients))]
        if topology == "sentinel":
            sentinel = TlsSentinel(self.servers[0], papers.authority, files, clients=clients)
            self.sentinel = stack.enter_context(sentinel)

    def url(self, host: str, query: str) -> str:
        if self._topology == "sentinel":
            return f"rediss+sentinel://{host}:{self.sentinel.port}/main/0{query}"
        scheme = "rediss+cluster" if self._topology == "cluster" else "rediss"
        return f"{scheme}://{host}:{self.servers[0].port}/0{query}"

    def announce_names(self) -> None:
        """What is announced is a host name from now on."""
        if self._topology == "sentinel":
            self.sentinel.announce("localhost")
        elif self._topology == "cluster":
            for server in self.servers:
                server.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname")
                server.command("CONFIG", "SET", "cluster-announce-hostname", "localhost")


async def works(shell: Shell, *, driver: bool = True) -> None:
    """Keys of every node are written and read, and the driver gets there too."""
    keys = [f"key{number}" for number in range(40)]
    assert await shell.set_many({key: key for key in keys}) is True
    assert await shell.get_many(keys) == {key: key for key in keys}
    if driver:
        assert await manager.get_client().get("nothing") is None


@BOTH
@TOPOLOGIES
async def test_client_certificates_in_every_topology(topology: str, kind: str, papers: Papers) -> None:
    with ExitStack() as stack:
        place = Place(topology, papers, papers.both, stack, clients=True)
        shell = await shell_at(place.url("localhost", papers.query(papers.client)), kind)
        await works(shell)
        await manager.disconnect_all()
        await shell_at(place.url("localhost", papers.query()), kind)
        assert re.search(ASKS, last_error())


@BOTH
@TOPOLOGIES
async def test_what_is_announced_has_to_be_what_the_certificate_is_for(
    topology: str, kind: str, papers: Papers
) -> None:
    with ExitStack() as stack:
        place = Place(topology, papers, papers.named, stack, clients=False)
        url = place.url("localhost", papers.query())
        if topology != "standalone":
            shell = await shell_at(url, kind)
            await eventually(lambda: "not valid for '127.0.0.1'" in last_error(), "the address to be refused")
            assert await shell.set("key", 1) is False
            await manager.disconnect_all()
        place.announce_names()
        # redis-py's cluster client makes an address of "localhost", and of no other name.
        await works(await shell_at(url, kind), driver=topology != "cluster")


async def test_a_node_whose_name_is_not_known_is_where_the_answer_came_from(papers: Papers) -> None:
    with tls_cluster(papers.authority, papers.both) as servers:
        for server in servers:
            server.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname")
        shell = await shell_at(f"rediss+cluster://localhost:{servers[0].port}{papers.query()}", "async")
        assert await shell.set_many({f"key{number}": number for number in range(40)}) is True


REFUSED = {
    "no authority": (lambda papers: "", "both", "ssl_ca_certs in the URL names the file of the authorities to trust"),
    "another authority": (
        lambda papers: papers.query(authority=papers.other),
        "both",
        "certificate verify failed: self-signed certificate in certificate chain; ssl_ca_certs",
    ),
    "another name": (
        lambda papers: papers.query(),
        "elsewhere",
        "Hostname mismatch, certificate is not valid for 'localhost'; it must be for the name or address in the URL",
    ),
    "expired": (lambda papers: papers.query(), "expired", "certificate has expired; the server needs a new one"),
}


@BOTH
@pytest.mark.parametrize("what", REFUSED)
async def test_a_server_that_cannot_be_trusted(what: str, kind: str, papers: Papers) -> None:
    query, files, message = REFUSED[what]
    with TlsServer(papers.authority, getattr(papers, files)) as server:
        shell = await shell_at(f"rediss://localhost:{server.port}{query(papers)}", kind)
        assert message in last_error()
        assert message in manager.health().reasons[0]
        assert await shell.set("key", 1) is False
        assert server.command("DBSIZE") == 0


@pytest.mark.parametrize("what", ["another authority", "another name"])
async def test_the_driver_trusts_it_no_more(what: str, papers: Papers) -> None:
    query, files, _ = REFUSED[what]
    with TlsServer(papers.authority, getattr(papers, files)) as server:
        await shell_at(f"rediss://localhost:{server.port}{query(papers)}", "async")
        with pytest.raises(redis.exceptions.ConnectionError):
            await manager.get_client().set("key", 1)
        assert server.command("DBSIZE") == 0


@BOTH
async def test_names_unchecked_is_not_certificates_unchecked(kind: str, papers: Papers) -> None:
    with TlsServer(papers.authority, papers.elsewhere) as server:
        url = f"rediss://localhost:{server.port}"
        await works(await shell_at(f"{url}{papers.query()}&ssl_check_hostname=false", kind))
        await manager.disconnect_all()
        await shell_at(f"{url}{papers.query(authority=papers.other)}&ssl_check_hostname=false", kind)
        assert "certificate verify failed" in last_error()


@BOTH
async def test_a_client_that_the_server_does_not_trust(kind: str, papers: Papers, closed_server: TlsServer) -> None:
    await shell_at(f"rediss://localhost:{closed_server.port}{papers.query(papers.stranger)}", kind)
    assert re.search("the server (does not|may not) trust .*ssl_certfile", last_error())


@on_both_loops
async def test_loops_hear_why_they_are_turned_away(papers: Papers, closed_server: TlsServer) -> None:
    endpoint = parse_url(f"rediss://localhost:{closed_server.port}{papers.query()}", variable="url")
    with pytest.raises(Exception, match=ASKS):
        await open_wire(endpoint, command_timeout=5.0, client_name="test")


@BOTH
async def test_a_certificate_that_is_renewed_is_used_without_a_restart(kind: str, tmp_path: Path) -> None:
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(first.certificate.read_bytes())
    with TlsServer(second, second.sign("server", "localhost")) as server:
        shell = await shell_at(f"rediss://localhost:{server.port}?ssl_ca_certs={trusted}", kind)
        assert "verify failed" in last_error()
        trusted.write_bytes(second.certificate.read_bytes())
        await eventually(lambda: manager.get_connection_status("cache").connected, "a connection")
        assert await shell.set("key", 1) is True


def test_an_encrypted_key_asks_nobody_for_its_passphrase(papers: Papers) -> None:
    """OpenSSL asks at the controlling terminal: here is one, in a child of its own."""
    endpoint = parse_url(f"rediss://localhost:1{papers.query(papers.locked)}", variable="url")
    pid, terminal = pty.fork()
    if pid == 0:
        code = 1
        try:
            tls_context(endpoint)
        except ConfigurationError:
            code = 0
        finally:
            os._exit(code)
    try:
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        os.close(terminal)


MISFITS = {
    "encrypted key": (lambda papers: papers.query(papers.locked), "the key must be the certificate's, and not encr"),
    "another's key": (
        lambda papers: papers.query((papers.client[0], papers.stranger[1])),
        "key values mismatch",
    ),
    "no such file": (lambda papers: "?ssl_ca_certs=/nowhere/ca.crt", "ssl_ca_certs=/nowhere/ca.crt: "),
    "no certificates in it": (lambda papers: f"?ssl_ca_certs={papers.client[1]}", "ssl_ca_certs=/"),
    "no such certificate": (lambda papers: "?ssl_certfile=/nowhere/c.crt", "ssl_certfile=/nowhere/c.crt, "),
}


@BOTH
@pytest.mark.parametrize("what", MISFITS)
async def test_files_that_do_not_fit(what: str, kind: str, papers: Papers) -> None:
    query, message = MISFITS[what]
    with pytest.raises(ConfigurationError, match=message):
        await shell_at(f"rediss://localhost:1{query(papers)}", kind)
    with pytest.raises(ConfigurationError, match=message):
        manager.get_client()


@BOTH
async def test_tls_to_a_server_without_it(kind: str, papers: Papers, server: ValkeyServer) -> None:
    await shell_at(f"rediss://localhost:{server.port}{papers.query()}", kind, connect_timeout=0.3)
    assert "does the server speak TLS on that port? Without it the URL begins with redis://" in last_error()


@BOTH
async def test_no_tls_to_a_server_with_it(kind: str, open_server: TlsServer) -> None:
    await shell_at(f"redis://localhost:{open_server.port}", kind)
    assert "if it speaks TLS on that port, the URL begins with rediss://" in last_error()


@BOTH
async def test_sentinels_without_tls_are_not_asked(kind: str, papers: Papers, server: ValkeyServer) -> None:
    """The scheme is for servers and sentinels alike."""
    url = f"rediss+sentinel://localhost:{server.port}/main{papers.query()}"
    await shell_at(url, kind, connect_timeout=0.6)
    assert "names the primary; the last: TLS: " in last_error()


async def test_threads_hear_the_server_out(papers: Papers, closed_server: TlsServer) -> None:
    endpoint = parse_url(f"rediss://localhost:{closed_server.port}{papers.query(papers.client)}", variable="url")
    wire = await asyncio.to_thread(
        open_thread_wire, endpoint, Versions(), command_timeout=5.0, connect_timeout=5.0, client_name="test"
    )
    assert wire.tracks
    wire.sock.close()
