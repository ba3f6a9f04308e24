"""URLs: the grammar, the endpoint it gives, and errors that never show a credential."""

import dataclasses
import os
import re
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nearcache.errors import ConfigurationError
from nearcache.transport.endpoint import Endpoint, parse_host, parse_url, redact_url, replace_db


def parse(url: str, db: int = 0) -> Endpoint:
    return parse_url(url, variable="REDIS_URL", db=db)


def refusal(url: object) -> str:
    """The error's message, after checking that nothing hangs on the error that could say more."""
    with pytest.raises(ConfigurationError) as caught:
        parse(url)  # type: ignore[arg-type]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    message = str(caught.value)
    assert message.startswith("REDIS_URL=")
    return message


TCP: dict[str, Any] = {"kind": "tcp", "host": "h", "port": 6379}
TWO = (("a", 1), ("b", 6379))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", TCP),
        ("REDIS://h", TCP),
        ("valkey://h/", TCP),
        ("redis://h:1/2", {**TCP, "port": 1, "db": 2}),
        ("redis://h?db=3", {**TCP, "db": 3}),
        ("redis://my_host.example:65535", {**TCP, "host": "my_host.example", "port": 65535}),
        ("redis://127.0.0.1", {**TCP, "host": "127.0.0.1"}),
        ("redis://[::1]:7/1", {**TCP, "host": "::1", "port": 7, "db": 1}),
        ("redis://[fe80::1%eth0]", {**TCP, "host": "fe80::1%eth0"}),
        ("redis://user@h", {**TCP, "username": "user"}),
        ("redis://:pw@h", {**TCP, "password": "pw"}),
        ("redis://@h", TCP),
        ("redis://u:p:q@h", {**TCP, "username": "u", "password": "p:q"}),
        ("redis://u%40x:p%2F%40%3A%23%3F%25+@h", {**TCP, "username": "u@x", "password": "p/@:#?%+"}),
        ("rediss://h", {**TCP, "tls": True}),
        (
            "valkeys://h/1?ssl_ca_certs=/a%20b&ssl_certfile=/c+d&ssl_keyfile=/k&ssl_check_hostname=no",
            {**TCP, "db": 1, "tls": True, "ssl_ca_certs": "/a b", "ssl_certfile": "/c+d", "ssl_keyfile": "/k"}
            | {"ssl_check_hostname": False},
        ),
        ("unix:///run/v.sock", {"kind": "unix", "host": "/run/v.sock", "path": "/run/v.sock"}),
        (
            "unix://u:p@/run/a%20b.sock?db=4",
            {"kind": "unix", "host": "/run/a b.sock", "path": "/run/a b.sock", "db": 4}
            | {"username": "u", "password": "p"},
        ),
        (
            "redis+sentinel://u:p@a:1,b:6379/main/5",
            {"kind": "sentinel", "host": "a", "port": 1, "nodes": TWO, "service": "main", "db": 5}
            | {"username": "u", "password": "p"},
        ),
        (
            "rediss+sentinel://a/main?db=6",
            {
                "kind": "sentinel",
                "host": "a",
                "port": 26379,
                "nodes": (("a", 26379),),
                "service": "main",
                "db": 6,
            }
            | {"tls": True},
        ),
        ("valkey+cluster://a:1,b", {"kind": "cluster", "host": "a", "port": 1, "nodes": TWO}),
        (
            "valkeys+cluster://[::1]:1/2",
            {"kind": "cluster", "host": "::1", "port": 1, "nodes": (("::1", 1),), "db": 2, "tls": True},
        ),
        ("memory://", {"kind": "memory", "host": "memory://"}),
        (
            "memory://My.store?db=2",
            {"kind": "memory", "host": "memory://My.store", "name": "My.store", "db": 2},
        ),
        ("embedded://", {"kind": "embedded", "host": "embedded://"}),
        ("embedded:///d%20x", {"kind": "embedded", "host": "embedded:///d x", "path": "/d x"}),
    ],
)
def test_url_gives_endpoint(url: str, expected: dict[str, Any]) -> None:
    assert parse(url) == Endpoint(**expected)


def test_relative_embedded_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("embedded://data/x").path == os.path.join(os.getcwd(), "data", "x")
    monkeypatch.setenv("HOME", "/home/me")
    assert parse("embedded://~/x").path == "/home/me/x"


@pytest.mark.parametrize("url", ["memory://m", "embedded://"])
def test_default_database_is_for_urls_that_name_none(url: str) -> None:
    assert parse(url, db=3).db == 3
    assert parse(url + "?db=0", db=3).db == 0
    assert parse("redis://h", db=3).db == 0


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("", ["'***'", "accepted: redis://"]),
        (None, ["accepted: redis://"]),
        ("localhost:6379", ["'***'", "accepted: redis://"]),
        ("redsi://h", ["redsi://", "unknown scheme, did you mean redis://;", "valkeys+cluster", "embedded"]),
        ("http://h", ["http://", "unknown scheme", "redis, rediss,"]),
        ("redis+unix:///x", ["unknown scheme"]),
        ("redis://h:abc", ["'redis://***'", "port", "1 to 65535"]),
        ("redis://h:", ["port"]),
        ("redis://h:0", ["'redis://h:0'", "port", "1 to 65535"]),
        ("redis://u:p@h:70000", ["'redis://***@h:70000'", "port", "1 to 65535"]),
        ("redis://h:-1", ["port"]),
        ("redis://h:٣", ["port"]),
        ("redis://::1", ["[brackets]"]),
        ("redis://[nope]", ["host"]),
        ("redis://[::1", ["[brackets]"]),
        ("redis://", ["host is empty"]),
        ("redis:///0", ["host is empty"]),
        ("redis://:6379", ["host is empty"]),
        ("redis://u:p@", ["host is empty"]),
        ("redis://h%20x", ["host is not"]),
        ("redis://-h", ["host is not"]),
        ("redis://a,b", ["several hosts", "redis+sentinel://"]),
        ("redis+cluster://a,,b", ["host is empty"]),
        ("redis://h/-1", ["'redis://h/-1'", "database", "0 to"]),
        ("redis://h/abc", ["'redis://h/***'", "database"]),
        ("redis://u:p@h/abc", ["'redis://***@h/abc'", "database"]),
        ("redis://h/1/2", ["database"]),
        ("redis://h/99999999999", ["database", "2147483647"]),
        ("redis://h/2147483648", ["database", "2147483647"]),
        ("unix:///s?db=x", ["'unix:///s'", "database"]),
        ("memory://m?db=-1", ["'memory://m'", "database"]),
        ("redis://h/1?db=1", ["twice"]),
        ("redis://h?db=1&db=2", ["twice"]),
        ("redis://h?db=", ["empty"]),
        ("redis://h?socket_timeout=5", ["'socket_timeout'", "accepted: db", "rediss://"]),
        ("redis://h?ssl_ca_certs=/x", ["'ssl_ca_certs'", "rediss://"]),
        ("rediss://h?ssl=1", ["'ssl'", "ssl_ca_certs"]),
        ("rediss://h?ssl_check_hostname=maybe", ["ssl_check_hostname", "true"]),
        ("memory://m?x=1", ["'x'", "accepted: db"]),
        ("redis://h#x", ["'#'"]),
        ("redis://h ", ["white space"]),
        ("redis://h\n", ["white space"]),
        ("redis://h\tx", ["white space"]),
        ("redis://h\x00", ["control characters"]),
        ("redis://h\u2028x", ["white space"]),
        ("redis://:%ff@h", ["UTF-8"]),
        ("redis://:a%00b@h", ["NUL"]),
        ("unix://", ["three slashes"]),
        ("unix:///", ["three slashes"]),
        ("unix://run/v.sock", ["three slashes"]),
        ("redis+sentinel://h", ["names the service"]),
        ("redis+sentinel://h/", ["names the service"]),
        ("redis+sentinel://h/main/", ["names the service"]),
        ("redis+sentinel://h/main/x", ["database"]),
        ("memory://a/b", ["memory:// takes a name"]),
        ("memory://a:b", ["memory:// takes a name"]),
        ("memory://u:p@m", ["no user name"]),
        ("embedded://u:p@/d", ["no user name"]),
    ],
)
def test_bad_url_is_refused(url: object, parts: list[str]) -> None:
    message = refusal(url)
    for part in parts:
        assert part in message


# Letters of which no message has six in a row, and all that means something in a URL.
PASSWORDS = st.text("qxzjwkQXZJWKéλ1@:/?#[]%&=,.-_+ \n", min_size=6, max_size=24)


def leaks(password: str, text: str) -> bool:
    """Whether the text holds six characters in a row of the password, a letter among them."""
    pieces = {password[i : i + 6] for i in range(len(password) - 5)}
    return any(piece in text and any(map(str.isalpha, piece)) for piece in pieces)


BROKEN = [
    "redis://user:{}@h:x",
    "redis://user:{}@h:0",
    "redis://user:{}@/0",
    "redis://user:{}@h/-1",
    "redis://user:{}@h/1/2",
    "redis://user:{}@h?nope=1",
    "redis://user:{}@h\n",
    "redis://user:{}@[::1",
    "redis://{}@",
    "redis://user:{}@h@h",
    "redis://h?password={}",
    "redsi://user:{}@h",
    "user:{}@h:6379",
    "redis:user:{}@h",
    "unix://user:{}@h/path",
    "unix://user:{}/path",
    "memory://user:{}@m",
    "embedded://user:{}@/d",
    "redis+sentinel://user:{}@a,b",
    "redis+cluster://user:{}@a,b:x",
]


@given(template=st.sampled_from(BROKEN), password=PASSWORDS, escape=st.booleans())
def test_no_error_shows_a_password(template: str, password: str, escape: bool) -> None:
    url = template.format(quote(password, safe="") if escape else password)
    assume(not re.fullmatch("unix://.*@/.*", url))  # then this one is right
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    report = "".join(traceback.format_exception(caught.value, chain=True))
    assert not leaks(password, report)


@given(
    password=st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda s: "\0" not in s),
    db=st.integers(0, 99),
)
def test_any_escaped_password_round_trips(password: str, db: int) -> None:
    endpoint = parse(f"redis://user:{quote(password, safe='')}@h/{db}")
    assert (endpoint.username, endpoint.password, endpoint.host, endpoint.db) == ("user", password, "h", db)


@given(st.text())
def test_any_text_is_an_endpoint_or_a_configuration_error(text: str) -> None:
    try:
        parse(text)
    except ConfigurationError as error:
        message = str(error)
    else:
        message = ""
    assert message.isprintable()


@given(user=st.text("abc:@/?#[]", max_size=4), password=PASSWORDS, host=st.text("h.:@/?#[],1", max_size=6))
def test_unescaped_password_is_redacted_or_understood(user: str, password: str, host: str) -> None:
    """Whatever the password breaks in the URL, it is either parsed or shown nowhere."""
    url = f"redis://{user}:{password}@{host}"
    shown = redact_url(url)
    assert not leaks(password, shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@h:1/2", "redis://***@h:1/2"),
        ("REDISS://h/1?ssl_keyfile=/k", "rediss://h/1"),
        ("unix://u:p@/run/s", "unix://***@/run/s"),
        ("redis+sentinel://:p@a,b/main/1", "redis+sentinel://***@a,b/main/1"),
        ("memory://m?db=1", "memory://m"),
        ("redis://u:p@ss@h", "redis://***"),
        ("redis://u:p/ss@h", "redis://***"),
        ("redis://user:hunter2", "redis://***"),
        ("hunter2", "***"),
        (None, "***"),
    ],
)
def test_redact_url(url: object, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://u:p@h/3", "h:6379"),
        ("redis://[::1]", "[::1]:6379"),
        ("unix://u:p@/run/s", "/run/s"),
        ("redis+sentinel://u:p@a:1,[::1]/main", "a:1,[::1]:26379/main"),
        ("redis+cluster://a:1,b:2", "a:1,b:2"),
        ("memory://m", "memory://m"),
        ("memory://", "memory://"),
        ("embedded:///d", "embedded:///d"),
        ("embedded://", "embedded://"),
    ],
)
def test_address_and_str(url: str, address: str) -> None:
    endpoint = parse(url)
    assert endpoint.address == address
    assert str(endpoint) == f"{address} db {endpoint.db}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:p%40@h",
        "redis://h/2",
        "redis://h?db=2",
        "rediss://h?ssl_keyfile=/k&db=2&ssl_certfile=/c",
        "unix://u:p@/s?db=2",
        "unix:///s",
        "redis+sentinel://a,b/main",
        "redis+sentinel://a,b/main/2",
        "redis+cluster://a,b/2",
        "memory://m",
        "embedded:///d?db=2",
    ],
)
def test_replace_db_changes_the_database_only(url: str) -> None:
    assert parse(replace_db(url, 7)) == parse(url).with_db(7)


def test_password_never_prints() -> None:
    endpoint = parse("redis://user:hunter22@h")
    assert endpoint.password == "hunter22"
    for text in (repr(endpoint), str(endpoint), f"{endpoint}", endpoint.address, repr([endpoint])):
        assert "hunter22" not in text


def test_differences_names_fields_only() -> None:
    one = parse("redis://user:hunter22@h")
    other = parse("redis://user:hunter33@i:7/1")
    assert one.differences(other) == ("host", "port", "db", "password")
    assert one.differences(parse("redis://user:hunter22@h:6379/0")) == ()


def test_endpoint_is_frozen_and_hashable() -> None:
    endpoint = parse("redis://h")
    with pytest.raises(dataclasses.FrozenInstanceError):
        endpoint.port = 1  # type: ignore[misc]
    assert len({endpoint, parse("redis://h:6379/0"), endpoint.with_db(1)}) == 2


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("h", "h"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("[h]", None),
        ("h:1", None),
        ("", None),
        ("a b", None),
        ("::1%a b", None),
    ],
)
def test_parse_host(text: str, host: str | None) -> None:
    assert parse_host(text) == host


def test_a_parameter_without_a_value_may_be_a_piece_of_a_password() -> None:
    assert "hunter" not in refusal("redis://user:12?hunter")


@pytest.mark.parametrize(
    "url", ["redis://[]", "redis://[]:7/0", "redis+cluster://h:1,[]:7/0", "redis+sentinel://[]/main"]
)
def test_brackets_around_nothing(url: str) -> None:
    with pytest.raises(ConfigurationError, match="the host is not a host name or an IP address"):
        parse_url(url, variable="REDIS_URL")
    assert redact_url(url).endswith("://***")


@pytest.mark.parametrize("host", ["a" * 64, f"cache.{'a' * 64}.example", "a..b", "é" * 60])
@pytest.mark.parametrize("form", ["redis://{}:7", "redis+cluster://h:1,{}:7", "redis+sentinel://{}:7/main"])
def test_a_name_that_no_name_server_takes(host: str, form: str) -> None:
    """Sockets raise a UnicodeError for it."""
    with pytest.raises(ConfigurationError, match="the host is not a host name or an IP address"):
        parse_url(form.format(host), variable="REDIS_URL")


@pytest.mark.parametrize("host", ["a" * 63, f"my_cache.{'a' * 63}.example.", "é" * 40])
def test_a_name_that_they_take(host: str) -> None:
    assert parse_url(f"redis://{host}:7", variable="REDIS_URL").host == host
