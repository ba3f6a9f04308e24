"""Where one client connects: the URL grammar, and the value it is parsed into.

URLs are split by hand (RFC 3986, appendix B) rather than by ``urlsplit``, which drops tabs and newlines in
silence and quotes the credentials in some of its errors. The grammar is strict about ``@``: it may stand
once, before the host. Anything else (a password with an unescaped ``@``, ``/``, ``?`` or ``#``; a missing
host) means that we cannot tell where the credentials end: the error then shows the scheme and nothing more.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass, field, fields, replace
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

from nearcache.errors import ConfigurationError

__all__ = ["MAX_DB", "Endpoint", "Kind", "parse_host", "parse_url", "redact_url", "replace_db"]

Kind: TypeAlias = Literal["tcp", "unix", "sentinel", "cluster", "memory", "embedded"]

MAX_DB = 2**31 - 1  # the server parses a database number as a C int

_FORMS = (
    "redis://[user:password@]host[:port][/db] (or rediss, valkey, valkeys), "
    "unix://[user:password@]/path[?db=], "
    "redis+sentinel://host[:port],.../service[/db], redis+cluster://host[:port],...[/db], memory://[name], "
    "embedded://[path]"
)
_SERVERS = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}
_SCHEMES: dict[str, tuple[Kind, bool]] = {
    **{name: ("tcp", tls) for name, tls in _SERVERS.items()},
    **{f"{name}+sentinel": ("sentinel", tls) for name, tls in _SERVERS.items()},
    **{f"{name}+cluster": ("cluster", tls) for name, tls in _SERVERS.items()},
    "unix": ("unix", False),
    "memory": ("memory", False),
    "embedded": ("embedded", False),
}
_TLS_PARAMETERS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

_SPLIT = re.compile(r"([a-z][a-z0-9+.-]{0,31})://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.ASCII | re.IGNORECASE)
_HOST = re.compile(r"\w(?:[\w.-]*\w)?\.?")
_NODE = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::([0-9]{1,5}))?", re.ASCII)
_STORE = re.compile(r"[A-Za-z0-9._-]*")
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")  # the names Sentinel itself accepts


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one client connects, and as whom. Two endpoints are equal when every field is.

    Attributes:
        kind: what is at the other end.
        host: host name or IP address without brackets; for ``sentinel`` and ``cluster`` the first node's;
            for ``unix`` the socket's path; ``memory://name`` or ``embedded://path`` without a network.
        port: TCP port; 0 where there is none.
        db: database number.
        username: ACL user; None is the server's default user.
        password: never part of ``repr`` or ``str``.
        path: the unix socket, or the embedded server's data directory (None: a private, temporary one).
        name: the memory store's name; empty is the unnamed store.
        tls: whether the connection is encrypted.
        ssl_ca_certs: file of the certificate authorities to trust; None is the system's.
        ssl_certfile: the client's own certificate.
        ssl_keyfile: the private key of ``ssl_certfile``.
        ssl_check_hostname: whether the server's certificate must name ``host``.
        nodes: ``(host, port)`` of the sentinels, or of the cluster's nodes to ask first.
        service: the name of the primary that the sentinels watch.
    """

    kind: Kind
    host: str
    port: int = 0
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str | None = None
    name: str = ""
    tls: bool = False
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_check_hostname: bool = True
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""

    @property
    def address(self) -> str:
        """For people: ``host:port``, the socket's path, ``memory://name`` …; never credentials."""
        nodes = self.nodes or (((self.host, self.port),) if self.port else ())
        shown = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in nodes)
        return f"{shown}/{self.service}" if self.service else shown or self.host

    def __str__(self) -> str:
        return f"{self.address} db {self.db}"

    def with_db(self, db: int) -> Endpoint:
        """Return the same endpoint with another database."""
        return replace(self, db=db)

    def differences(self, other: Endpoint) -> tuple[str, ...]:
        """Name the fields in which ``other`` differs. Values are not included: one may be a password."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))


class _Parts(NamedTuple):
    scheme: str
    userinfo: str | None  # None: there is no "@"
    place: str  # what RFC 3986 calls the authority, without the userinfo
    path: str
    query: str


class _Problem(Exception):
    """What is wrong with a URL, in words that contain no part of it that may be a secret."""


def parse_url(url: str, *, variable: str, db: int = 0) -> Endpoint:
    """Parse the URL of a server.

    Schemes: ``redis`` ``rediss`` ``valkey`` ``valkeys``, each also with ``+sentinel`` and ``+cluster``;
    ``unix``, ``memory``, ``embedded``. User name, password and path are percent-decoded. The database is
    the last part of the path, or ``?db=``. TLS schemes take ``ssl_ca_certs``, ``ssl_certfile``,
    ``ssl_keyfile`` and ``ssl_check_hostname``. The port is 6379 unless given, a sentinel's 26379.

    Args:
        url: the URL.
        variable: the name of the setting it comes from, for the error.
        db: the database of a ``memory://`` or ``embedded://`` URL that names none. Other URLs mean 0.

    Raises:
        ConfigurationError: the URL is not one of these; the message shows it without its credentials.
    """
    try:
        return _parse(url, db)
    except _Problem as problem:
        message = f"{variable}={redact_url(url)!r}: {problem}"
    raise ConfigurationError(message)  # outside the handler: no context that could hold a part of the URL


def redact_url(url: object) -> str:
    """Return the URL without credentials and query; only the scheme, or ``***``, when in doubt."""
    match = _SPLIT.match(url) if isinstance(url, str) else None
    if match is None:
        return "***"
    try:
        parts = _split(match.string)
    except _Problem:
        return f"{match[1]}://***"
    if not _is_sound(parts):
        return f"{match[1]}://***"
    kind, _ = _SCHEMES[parts.scheme]
    user = "" if parts.userinfo is None else "***@"
    # Without "@" the path may be the rest of a password whose host was forgotten: show no more than a number.
    certain = kind in ("unix", "embedded") or user or re.fullmatch(r"(/-?[0-9]{0,5})?", parts.path)
    return f"{parts.scheme}://{user}{parts.place}{parts.path if certain else '/***'}"


def replace_db(url: str, db: int) -> str:
    """Return a valid URL with its database replaced."""
    parts = _split(url)
    kind, _ = _SCHEMES[parts.scheme]
    pairs = [pair for pair in parts.query.split("&") if pair and not re.match("db(=|$)", pair)]
    path = parts.path
    if kind in ("tcp", "cluster"):
        path = f"/{db}"
    elif kind == "sentinel":
        path = f"/{path.split('/')[1]}/{db}"
    else:
        pairs.append(f"db={db}")
    user = "" if parts.userinfo is None else f"{parts.userinfo}@"
    return f"{parts.scheme}://{user}{parts.place}{path}" + ("?" + "&".join(pairs) if pairs else "")


def parse_host(text: str) -> str | None:
    """Return a host name or IP address without the brackets of an IPv6 one, or None if it is neither."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        if ":" not in text:
            return None
    if ":" not in text:
        try:
            return text if _HOST.fullmatch(text) and text.encode("idna") else None
        except UnicodeError:  # a label of more than 63 characters
            return None
    import ipaddress  # few hosts are IPv6 addresses, and every process would pay for the import

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return text if text.isprintable() and not re.search(r"[\s/@?#\[\]]", text) else None


def _split(url: str) -> _Parts:
    if any(char.isspace() or not char.isprintable() for char in url):
        raise _Problem("contains white space or control characters; percent-encode them")
    match = _SPLIT.fullmatch(url)
    if match is None:
        raise _Problem(f"is not a URL; accepted: {_FORMS}")
    scheme, authority, path, query, fragment = match.groups(default="")
    userinfo, at, place = authority.rpartition("@")
    if "@" in userinfo + path + query or fragment:
        raise _Problem("has a second or misplaced '@', or a '#'; percent-encode: @ is %40, / %2F, ? %3F, # %23")
    return _Parts(scheme.lower(), userinfo if at else None, place, path, query)


def _is_sound(parts: _Parts) -> bool:
    """Whether what stands in the host's place can be shown, because it cannot be a piece of a password."""
    kind, _ = _SCHEMES.get(parts.scheme, (None, False))
    if kind in ("tcp", "sentinel", "cluster"):
        nodes = [_NODE.fullmatch(text) for text in parts.place.split(",")]
        single = kind != "tcp" or len(nodes) == 1
        return single and all(node and parse_host(node[1] or node[2] or "") for node in nodes)
    pattern = {"memory": _STORE.pattern, "unix": "", "embedded": ".*"}
    return kind is not None and re.fullmatch(pattern[kind], parts.place) is not None


def _parse(url: object, default_db: int) -> Endpoint:
    if not isinstance(url, str) or not url:
        raise _Problem(f"is not a URL; accepted: {_FORMS}")
    parts = _split(url)
    if parts.scheme not in _SCHEMES:
        raise _Problem(f"unknown scheme{_hint(parts.scheme)}; accepted schemes: {', '.join(_SCHEMES)}")
    kind, tls = _SCHEMES[parts.scheme]
    if kind in ("memory", "embedded"):
        return _local(kind, parts, default_db)
    username, password = _credentials(parts.userinfo)
    if kind == "unix":
        if parts.place or len(parts.path) < 2:
            raise _Problem("unix:// takes the absolute path of a socket, with three slashes: unix:///run/valkey.sock")
        path = _decoded(parts.path)
        db = _db(_query(parts.query, ("db",)).get("db"), 0)
        return Endpoint(kind=kind, host=path, path=path, db=db, username=username, password=password)
    nodes = _nodes(parts.place, 26379 if kind == "sentinel" else 6379)
    if kind == "tcp" and nodes[1:]:
        raise _Problem("names several hosts; that takes redis+sentinel:// or redis+cluster://")
    host, port = nodes[0]
    service, number = _service(parts.path) if kind == "sentinel" else ("", parts.path[1:])
    query = _query(parts.query, ("db", *_TLS_PARAMETERS) if tls else ("db",))
    if number and "db" in query:
        raise _Problem("names its database twice, in the path and as ?db=; leave one out")
    if "ssl_keyfile" in query and "ssl_certfile" not in query:
        raise _Problem("names ssl_keyfile without ssl_certfile, the certificate it is for")
    return Endpoint(
        kind=kind,
        host=host,
        port=port,
        db=_db(number or query.get("db"), 0),
        username=username,
        password=password,
        tls=tls,
        ssl_ca_certs=query.get("ssl_ca_certs"),
        ssl_certfile=query.get("ssl_certfile"),
        ssl_keyfile=query.get("ssl_keyfile"),
        ssl_check_hostname=_boolean(query.get("ssl_check_hostname", "true")),
        nodes=() if kind == "tcp" else nodes,
        service=service,
    )


def _local(kind: Kind, parts: _Parts, default_db: int) -> Endpoint:
    if parts.userinfo is not None:
        raise _Problem(f"{kind}:// takes no user name and no password")
    db = _db(_query(parts.query, ("db",)).get("db"), default_db)
    if kind == "memory":
        if parts.path or not _STORE.fullmatch(parts.place):
            raise _Problem("memory:// takes a name of A-Z a-z 0-9 . _ - or nothing: memory://sessions")
        return Endpoint(kind=kind, host=f"memory://{parts.place}", name=parts.place, db=db)
    given = _decoded(parts.place + parts.path)
    # Absolute from now on: the data must not move when the process changes its directory.
    path = os.path.abspath(os.path.expanduser(given)) if given else None
    return Endpoint(kind=kind, host=f"embedded://{path or ''}", path=path, db=db)


def _credentials(userinfo: str | None) -> tuple[str | None, str | None]:
    username, _, password = (userinfo or "").partition(":")
    return _decoded(username) or None, _decoded(password) or None


def _nodes(place: str, default_port: int) -> tuple[tuple[str, int], ...]:
    """Parse ``host[:port],…``. A port of other than 1 to 5 digits may be a password."""
    nodes: list[tuple[str, int]] = []
    for text in place.split(","):
        match = _NODE.fullmatch(text)
        if match is None:
            raise _Problem("the port must be a whole number from 1 to 65535, an IPv6 address needs [brackets]")
        written, _, _ = text.rpartition(":") if match[3] else (text, "", "")
        host = parse_host(written)
        if host is None:
            raise _Problem("the host is empty" if not written else "the host is not a host name or an IP address")
        port = int(match[3]) if match[3] else default_port
        if match[3] and not 1 <= port <= 65535:
            raise _Problem("the port must be a whole number from 1 to 65535")
        nodes.append((host, port))
    return tuple(nodes)


def _service(path: str) -> tuple[str, str]:
    service, slash, number = path[1:].partition("/")
    if not _SERVICE.fullmatch(service) or (slash and not number):
        raise _Problem("a sentinel URL names the service, then perhaps a database: redis+sentinel://host/service/0")
    return service, number


def _db(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > MAX_DB:
        raise _Problem(f"the database must be a whole number from 0 to {MAX_DB}")
    return int(text)


def _query(text: str, accepted: tuple[str, ...]) -> dict[str, str]:
    query: dict[str, str] = {}
    for pair in filter(None, text.split("&")):
        name, equals, value = pair.partition("=")
        if name not in accepted:
            hint = f" {name!r}" if equals and re.fullmatch("[a-z_]{1,32}", name) else ""
            tls = "" if len(accepted) > 1 else "; ssl_* go with rediss:// and valkeys://"
            raise _Problem(f"unknown parameter{hint}; accepted: {', '.join(accepted)}{tls}")
        if name in query or not value:
            raise _Problem(f"parameter {name!r} is given twice or is empty")
        query[name] = _decoded(value)
    return query


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise _Problem(f"ssl_check_hostname must be one of {', '.join(_BOOLEANS)}")
    return _BOOLEANS[text.lower()]


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded:
        raise _Problem("the percent-encoded text is not UTF-8, or contains a NUL")
    return decoded


def _hint(scheme: str) -> str:
    from difflib import get_close_matches  # only an error needs it

    close = get_close_matches(scheme, _SCHEMES, n=1)
    return f", did you mean {close[0]}://" if close else ""
