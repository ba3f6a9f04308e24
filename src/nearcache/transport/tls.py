"""TLS: certificates and host names are checked, and what is refused is said so that it can be put right.

The files are read for each connection, so a certificate that was renewed is used without a restart.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, ConnectionFailed

if TYPE_CHECKING:
    from .endpoint import Endpoint

__all__ = ["explained", "tls_context"]

# What OpenSSL and Python say, and what to do about it; the first that fits.
_ADVICE = (
    (
        "not valid for",
        "it must be for the name or address in the URL, or that sentinels or nodes announce",
    ),
    ("certificate has expired", "the server needs a new one"),
    ("certificate verify failed", "ssl_ca_certs in the URL names the file of the authorities to trust"),
    ("alert certificate required", "the server asks for a client certificate: ssl_certfile and ssl_keyfile in the URL"),
    ("alert unknown ca", "the server does not trust the authority of the client certificate, ssl_certfile"),
    ("alert certificate expired", "the client certificate, ssl_certfile, has expired"),
    (
        "handshake operation timed out",
        "does the server speak TLS on that port? Without it the URL begins with redis://",
    ),
    ("handshake is taking longer", "does the server speak TLS on that port? Without it the URL begins with redis://"),
)
_CLIENT = "the server may ask for a client certificate: ssl_certfile and ssl_keyfile in the URL"
_UNTRUSTED = "the server may not trust the client certificate, ssl_certfile"
_PLAIN = "before it had answered; if it speaks TLS on that port, the URL begins with rediss://"


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """Certificates and host name are checked unless the URL says otherwise.

    Raises:
        ConfigurationError: a certificate or key cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=endpoint.ssl_ca_certs)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"TLS for {endpoint.address}: ssl_ca_certs={endpoint.ssl_ca_certs}: {error}"
        ) from error
    if endpoint.ssl_certfile:
        try:
            # A passphrase, because without one OpenSSL asks whoever sits at the terminal.
            context.load_cert_chain(endpoint.ssl_certfile, endpoint.ssl_keyfile, password="")
        except (OSError, ValueError) as error:
            files = f"ssl_certfile={endpoint.ssl_certfile}, ssl_keyfile={endpoint.ssl_keyfile}"
            raise ConfigurationError(
                f"TLS for {endpoint.address}: {files}: {error}; the key must be the certificate's, and not encrypted"
            ) from error
    context.check_hostname = endpoint.ssl_check_hostname
    return context


def explained(endpoint: Endpoint, error: Exception) -> Exception:
    """Why there is no connection, with what to do about it where TLS may be the reason; another error as it is.

    Args:
        endpoint: where it should have led.
        error: what came before the server's first answer.
    """
    said = str(error)
    if isinstance(error, ConnectionRefusedError):
        return error
    lost = isinstance(error, ssl.SSLError | ConnectionError) or "connection was lost" in said
    if not endpoint.tls:
        return ConnectionFailed(f"{said}, {_PLAIN}") if lost and endpoint.kind == "tcp" else error
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"certificate verify failed: {error.verify_message.rstrip('.')}"
    client = _UNTRUSTED if endpoint.ssl_certfile else _CLIENT  # a server that hangs up may drop its own last words
    advice = next((advice for text, advice in _ADVICE if text in said), client if lost else None)
    return ConnectionFailed(f"TLS: {said}; {advice}") if advice else error
