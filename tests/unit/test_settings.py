"""Settings: where values come from, what they accept, and secrets that never print."""

import json
import logging
import os
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearcache.errors import ConfigurationError
from nearcache.settings import ConfigurationWarning, Settings, SettingsValues

FIELDS = list(Settings.model_fields)
DEFAULTS = {
    "redis_host": "localhost",
    "redis_port": 6379,
    "redis_username": None,
    "redis_password": None,
    "redis_db": 0,
    "queue_redis_host": "localhost",
    "queue_redis_port": 6379,
    "queue_redis_username": None,
    "queue_redis_password": None,
    "queue_redis_db": 1,
    "redis_url": None,
    "queue_redis_url": None,
    "prefix": "",
    "near_enabled": True,
    "near_entries": 10_000,
    "near_bytes": 64 * 1024 * 1024,
    "near_ttl": 60.0,
    "command_timeout": 1.0,
    "connect_timeout": 2.0,
    "soft_timeout": 0.02,
    "max_in_flight": 100_000,
    "load_timeout": 30.0,
    "grace": 0.0,
    "breaker_failures": 5,
    "breaker_reset": 1.0,
    "recovery_entries": 10_000,
    "read_from": "primary",
    "max_value": 16 * 1024 * 1024,
    "compress_min": 1024,
    "encryption_keys": None,
    "signing_keys": None,
    "pickle": False,
}
# In base64: 32 bytes, 16, and 32 in the URL-safe alphabet without padding.
AES = "hunterAESkeyhunterAESkeyhunterAESkeyhunterA="
AES_128 = "hunterAESkeyhunterAESA=="
HMAC = "hunter_HMAC-hunter_HMAC-hunter_HMAC-hunter_"
DURATIONS = [
    "near_ttl",
    "command_timeout",
    "connect_timeout",
    "soft_timeout",
    "load_timeout",
    "breaker_reset",
]
COUNTS = ["near_entries", "max_in_flight", "breaker_failures", "recovery_entries"]
SIZES = ["near_bytes", "max_value"]


def variable(name: str) -> str:
    return name.upper() if "redis" in name else f"NEARCACHE_{name.upper()}"


def build(**values: Any) -> Settings:
    """Settings from keywords of any type: what a type checker would refuse is what is tested here."""
    return Settings(**values)


def plain(settings: Settings) -> dict[str, Any]:
    values = {name: getattr(settings, name) for name in FIELDS}
    return {n: v.get_secret_value() if hasattr(v, "get_secret_value") else v for n, v in values.items()}


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty directory, and an environment in which nothing is ours."""
    for name in list(os.environ):
        if re.match("REDIS_|QUEUE_REDIS_|NEARCACHE_", name):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults() -> None:
    assert plain(Settings()) == DEFAULTS


SAMPLES: dict[str, tuple[str, object]] = {
    "redis_host": ("10.0.0.1", "10.0.0.1"),
    "redis_port": ("7000", 7000),
    "redis_username": ("me", "me"),
    "redis_password": ("hunter22", "hunter22"),
    "redis_db": ("3", 3),
    "queue_redis_host": ("q", "q"),
    "queue_redis_port": ("7001", 7001),
    "queue_redis_username": ("you", "you"),
    "queue_redis_password": ("hunter33", "hunter33"),
    "queue_redis_db": ("4", 4),
    "redis_url": ("redis://h/1", "redis://h/1"),
    "queue_redis_url": ("memory://x", "memory://x"),
    "prefix": ("app-1:v2._", "app-1:v2._"),
    "near_enabled": ("off", False),
    "near_entries": ("20_000", 20_000),
    "near_bytes": ("1 MiB", 1024 * 1024),
    "near_ttl": ("5m", 300.0),
    "command_timeout": ("1.5", 1.5),
    "connect_timeout": ("3 s", 3.0),
    "soft_timeout": ("7ms", 0.007),
    "max_in_flight": ("5", 5),
    "load_timeout": ("1h", 3600.0),
    "grace": ("1d", 86400.0),
    "breaker_failures": ("9", 9),
    "breaker_reset": ("250 ms", 0.25),
    "recovery_entries": ("1", 1),
    "read_from": ("primary", "primary"),
    "max_value": ("2 MB", 2_000_000),
    "compress_min": ("0", 0),
    "encryption_keys": (f" {AES} ,{AES_128}", f" {AES} ,{AES_128}"),
    "signing_keys": (HMAC, HMAC),
    "pickle": ("no", False),
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_from_env_file_environment_and_keyword(
    name: str, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    text, value = SAMPLES[name]
    assert plain(build(**{name: text}))[name] == value
    (nowhere / ".env").write_text(f'{variable(name)}="{text}"\n')
    assert plain(Settings())[name] == value
    assert plain(Settings(_env_file=None))[name] == DEFAULTS[name]
    (nowhere / ".env").unlink()
    monkeypatch.setenv(variable(name), text)
    assert plain(Settings())[name] == value


def test_keyword_beats_environment_beats_env_file(monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    (nowhere / ".env").write_text("REDIS_HOST=file\nREDIS_PORT=1\nREDIS_DB=1\nREDIS_PASSWORD=from-file\n")
    monkeypatch.setenv("REDIS_PORT", "2")
    monkeypatch.setenv("REDIS_DB", "2")
    settings = Settings(redis_db=3, redis_password=None)
    assert (settings.redis_host, settings.redis_port, settings.redis_db) == ("file", 2, 3)
    assert settings.redis_password is None


def test_no_other_variable_is_read(monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    names = [n.upper() for n in FIELDS if "redis" not in n] + FIELDS + [variable(n).lower() for n in FIELDS]
    for name in names:
        monkeypatch.setenv(name, "!")
    foreign = "DATABASE_URL=postgres://u:p@h\nREDIS_MAX_CONNECTIONS=x\nPREFIX=!\nbroken line\nexport A='\n"
    (nowhere / ".env").write_text(foreign)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plain(Settings()) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("NEARCACHE_NEAR_TLL", "did you mean 'NEARCACHE_NEAR_TTL'"),
        ("NEARCACHE_REDIS_HOST", "did you mean 'REDIS_HOST'"),
        ("NEARCACHE_ZZZZZZ", "known: REDIS_HOST,"),
    ],
)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_unknown_variable_of_ours_warns(
    name: str, hint: str, place: str, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    if place == "file":
        (nowhere / ".env").write_text(f"{name}=hunter22")
    else:
        monkeypatch.setenv(name, "hunter22")
    with pytest.warns(ConfigurationWarning) as caught:
        settings = Settings()
    assert plain(settings) == DEFAULTS
    (warning,) = caught
    assert warning.filename == __file__
    assert name in str(warning.message)
    assert hint in str(warning.message)
    assert "hunter22" not in str(warning.message)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("redis_hots", "'redis_host'"),
        ("REDIS_HOST", "'redis_host'"),
        ("nearcache_prefix", "'prefix'"),
        ("zzzzz", "known:"),
    ],
)
def test_unknown_keyword(name: str, hint: str) -> None:
    message = refusal(lambda: build(**{name: "hunter22"}))
    assert f"unknown setting {name!r}" in message
    assert hint in message
    assert "hunter22" not in message


def test_queue_parts_fall_back_one_by_one() -> None:
    settings = Settings(redis_host="a", redis_port=1, redis_username="u", redis_password="p", redis_db=5)
    queue = settings.endpoint("queue")
    assert (queue.host, queue.port, queue.username, queue.password, queue.db) == ("a", 1, "u", "p", 1)
    queue = Settings(redis_host="a", redis_port=1, redis_username="u", queue_redis_port=2).endpoint("queue")
    assert (queue.host, queue.port, queue.username, queue.password) == ("a", 2, "u", None)
    cache = Settings(queue_redis_host="a", queue_redis_port=1).endpoint("cache")
    assert (cache.host, cache.port) == ("localhost", 6379)


@pytest.mark.parametrize(
    ("name", "fallback"),
    [
        ("REDIS_USERNAME", None),
        ("REDIS_PASSWORD", None),
        ("REDIS_URL", None),
        ("QUEUE_REDIS_HOST", "localhost"),
        ("QUEUE_REDIS_PORT", 6379),
        ("QUEUE_REDIS_USERNAME", None),
        ("QUEUE_REDIS_PASSWORD", None),
        ("QUEUE_REDIS_DB", 1),
        ("QUEUE_REDIS_URL", None),
    ],
)
def test_empty_variable_counts_as_not_set(name: str, fallback: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert getattr(Settings(), name.lower()) == fallback


@pytest.mark.parametrize("name", ["REDIS_HOST", "REDIS_PORT", "REDIS_DB", "NEARCACHE_GRACE"])
def test_other_empty_variables_are_errors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert refusal(Settings).startswith(f"{name}='': expected ")


GOOD: list[tuple[str, object, object]] = [
    ("redis_host", "[::1]", "::1"),
    ("redis_host", "::1", "::1"),
    ("redis_password", "", None),
    ("redis_username", "", None),
    ("redis_url", "", None),
    ("redis_port", "65535", 65535),
    ("redis_db", 0, 0),
    ("near_enabled", "YES", True),
    ("near_enabled", False, False),
    ("near_ttl", timedelta(minutes=1), 60.0),
    ("near_ttl", 5, 5.0),
    ("near_ttl", " .5 s ", 0.5),
    ("near_ttl", "1e-3", 0.001),
    ("near_ttl", "9 MS", 0.009),
    ("grace", 0, 0.0),
    ("grace", "3650 d", 3650 * 86400.0),
    ("near_bytes", 1, 1),
    ("near_bytes", "16KiB", 16384),
    ("near_bytes", "1.5 kb", 1500),
    ("near_bytes", "512 b", 512),
    ("max_value", "512 MiB", 512 * 1024 * 1024),
]


@pytest.mark.parametrize(("name", "given_value", "value"), GOOD)
def test_accepted_value(name: str, given_value: object, value: object) -> None:
    result = plain(build(**{name: given_value}))[name]
    assert result == value
    assert type(result) is type(value)


NOT_NUMBERS: list[object] = [
    "",
    "abc",
    "1 2",
    "1__x",
    "٣",
    "0x10",
    "nan",
    "inf",
    True,
    None,
    [],
    {},
    b"1",
    float("nan"),
    float("inf"),
]
BAD: list[tuple[str, object]] = [
    *[("redis_host", v) for v in ("", " ", "a b", "a/b", "h:1", "h\n", "[h]", "h,i", "redis://h", "-h", 1, None, b"h")],
    *[("queue_redis_host", v) for v in ("", None)],
    *[
        (n, v)
        for n in ("redis_port", "queue_redis_port")
        for v in (*NOT_NUMBERS, 0, -1, 65536, 1.0, "1.0", "1e3", 10**400)
    ],
    *[(n, v) for n in ("redis_db", "queue_redis_db") for v in (*NOT_NUMBERS, -1, "-1", 2**31, 0.0)],
    *[(n, v) for n in ("redis_username", "redis_password") for v in (1, b"hunter22", "hun\0ter22", ["hunter22"])],
    *[("prefix", v) for v in ("a b", "a~", "é", "a\n", "{x}", "*", 1, None)],
    *[("near_enabled", v) for v in ("", "maybe", 1, 0, None, "2")],
    *[(n, v) for n in COUNTS for v in (*NOT_NUMBERS, 0, -1, 1.5, "1.5", 10**9 + 1, timedelta(1))],
    *[
        (n, v)
        for n in SIZES
        for v in (*NOT_NUMBERS, 0, -1, "1.5", "64 M", "1 s", 1.0, "2 TiB", "1e999999999", timedelta(1))
    ],
    *[("compress_min", v) for v in (*NOT_NUMBERS, -1)],
    *[
        (n, v)
        for n in DURATIONS
        for v in (*NOT_NUMBERS, 0, "0 s", -1, "-1", "1 w", "1 KiB", 1e300, timedelta(0), "1e-999")
    ],
    *[("grace", v) for v in (*NOT_NUMBERS, -0.1, timedelta(seconds=-1), "3651d", timedelta.max, 10**400)],
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_refused_value(name: str, value: object) -> None:
    message = refusal(lambda: build(**{name: value}))
    assert message.startswith(f"{variable(name)}=")
    assert ": expected " in message
    assert message.count("\n") == 0
    assert "hunter22" not in message


@pytest.mark.parametrize("name", ["redis_url", "queue_redis_url"])
@pytest.mark.parametrize(
    "value", ["http://h", "redis://u:hunter22@h:x", b"redis://:hunter22@h", 1, "redis://:hun@hunter22@h"]
)
def test_bad_url_is_found_when_settings_are_built(name: str, value: object) -> None:
    message = refusal(lambda: build(**{name: value}))
    assert message.startswith(f"{name.upper()}='")
    assert message.count("\n") == 0
    assert "hunter22" not in message


def test_one_error_lists_every_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "abc")
    monkeypatch.setenv("NEARCACHE_GRACE", "-1")
    monkeypatch.setenv("REDIS_URL", "redsi://u:hunter22@h")
    lines = refusal(lambda: build(redis_host="", redis_password=b"hunter22")).splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_PASSWORD",
        "REDIS_URL",
        "NEARCACHE_GRACE",
    ]
    assert lines[1] == "REDIS_PORT='abc': expected a whole number from 1 to 65535"
    assert "hunter22" not in "".join(lines)


def test_a_url_put_into_another_variable_is_not_shown() -> None:
    for value in ("redis://:hunter22@h", "u:hunter22@h", {"password": "hunter22"}):
        assert "hunter22" not in refusal(lambda value=value: build(redis_host=value))  # type: ignore[misc]


def test_unreadable_env_file(nowhere: Path) -> None:
    (nowhere / ".env").mkdir()
    message = refusal(Settings)
    assert str(nowhere / ".env") in message
    assert "directory" in message
    loop = nowhere / "loop"
    loop.symlink_to(loop)
    assert str(loop) in refusal(lambda: Settings(_env_file=loop))
    binary = nowhere / "binary"
    binary.write_bytes(b"REDIS_PASSWORD=hunter22\n\xff")
    message = refusal(lambda: Settings(_env_file=str(binary)))
    assert str(binary) in message
    assert "UTF-8" in message
    assert "hunter22" not in message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_env_file_without_permission(nowhere: Path) -> None:
    (nowhere / ".env").touch(mode=0)
    assert "Permission denied" in refusal(Settings)


def test_env_files(nowhere: Path) -> None:
    (nowhere / "one").write_text("REDIS_PORT=1\nREDIS_HOST=one\n", encoding="utf-8-sig")
    (nowhere / "two").write_text("REDIS_HOST=two # comment\nREDIS_PASSWORD='é #1'\n", encoding="utf-8")
    settings = Settings(_env_file=["one", nowhere / "two", "missing"])
    assert (settings.redis_host, settings.redis_port) == ("two", 1)
    assert settings.endpoint("cache").password == "é #1"


@pytest.mark.parametrize(
    ("values", "cache", "queue"),
    [
        ({}, "localhost:6379 db 0", "localhost:6379 db 1"),
        ({"redis_db": 2, "queue_redis_db": 2}, "localhost:6379 db 2", "localhost:6379 db 2"),
        ({"redis_url": "redis://h/5", "redis_host": "x", "redis_db": 3}, "h:6379 db 5", "h:6379 db 1"),
        ({"redis_url": "redis://h?db=5", "queue_redis_db": 7}, "h:6379 db 5", "h:6379 db 7"),
        ({"redis_url": "redis://h", "redis_db": 3}, "h:6379 db 0", "h:6379 db 1"),
        ({"redis_url": "redis://h", "queue_redis_url": None}, "h:6379 db 0", "localhost:6379 db 1"),
        ({"queue_redis_url": "redis://q/3"}, "localhost:6379 db 0", "q:6379 db 3"),
        ({"redis_url": "unix:///s"}, "/s db 0", "/s db 1"),
        ({"redis_url": "redis+sentinel://a/main"}, "a:26379/main db 0", "a:26379/main db 1"),
        ({"redis_url": "memory://"}, "memory:// db 0", "memory:// db 1"),
        (
            {"redis_url": "memory://m", "redis_db": 4, "queue_redis_db": 5},
            "memory://m db 4",
            "memory://m db 5",
        ),
        ({"queue_redis_url": "memory://m", "queue_redis_db": 5}, "localhost:6379 db 0", "memory://m db 5"),
        ({"redis_url": "embedded:///d?db=2"}, "embedded:///d db 2", "embedded:///d db 1"),
    ],
)
def test_endpoints(values: dict[str, Any], cache: str, queue: str) -> None:
    settings = build(**values)
    assert str(settings.endpoint("cache")) == cache
    assert str(settings.endpoint("queue")) == queue


def test_a_number_too_long_to_write() -> None:
    assert refusal(lambda: build(redis_port=10**5000)) == "REDIS_PORT=<int>: expected a whole number from 1 to 65535"


def test_unknown_client() -> None:
    settings = Settings()
    assert "'cache', 'queue'" in refusal(lambda: settings.endpoint("reports"))  # type: ignore[arg-type]


SECRET_VALUES: dict[str, Any] = {
    "redis_password": "hunter22",
    "queue_redis_password": "hunter33",
    "redis_url": "redis://u:hunter44@h",
    "queue_redis_url": "redis://u:hunter55@h",
    "encryption_keys": AES,
    "signing_keys": HMAC,
}


def test_secrets_never_print(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    caplog.set_level(logging.DEBUG)
    for name, value in SECRET_VALUES.items():
        monkeypatch.setenv(variable(name), value)
    settings = Settings()
    assert plain(settings) | SECRET_VALUES == plain(settings)
    shown = [
        *(repr(settings), str(settings), f"{settings}", f"{settings!r}", "%s" % settings),  # noqa: UP031
        *(
            settings.model_dump_json(),
            repr(settings.model_dump()),
            json.dumps(settings.model_dump(mode="json")),
        ),
        *(repr(settings.describe()), repr(dict(settings)), repr(settings.endpoint("cache")), caplog.text),
    ]
    logging.getLogger("nearcache").warning("in force: %s", settings)
    for text in (*shown, caplog.text):
        assert "hunter" not in text


@pytest.mark.parametrize("name", FIELDS)
def test_frozen_and_the_refusal_shows_no_value(name: str) -> None:
    settings = Settings()
    with pytest.raises(ConfigurationError) as caught:
        setattr(settings, name, "hunter22")
    assert "hunter22" not in str(caught.value)
    assert caught.value.__context__ is None
    assert plain(settings) == DEFAULTS


@given(
    password=st.text("qxzjwkQXZJWKéλ1@:/?#[]%&=,.-_+ \n\0", min_size=6, max_size=24),
    values=st.fixed_dictionaries({"redis_port": st.sampled_from(["x", 0]), "near_ttl": st.sampled_from(["?", -1])}),
    template=st.sampled_from(["redis://user:{}@h:x", "redis://user:{}@", "{}", "redsi://{}@h", "redis://:{}@h"]),
)
def test_no_error_shows_a_secret(password: str, values: dict[str, Any], template: str) -> None:
    secrets = {"redis_password": password, "redis_url": template.format(password)}
    with pytest.raises(ConfigurationError) as caught:
        build(_env_file=None, **secrets, **values)
    report = "".join(traceback.format_exception(caught.value))
    assert not any(password[i : i + 6] in report for i in range(len(password) - 5))


@pytest.mark.parametrize("name", ["encryption_keys", "signing_keys"])
@pytest.mark.parametrize(
    "text",
    [
        *("hunter", "hunter,", f"{AES},", f",{AES}", f"{AES};{AES}", f"{AES}!", f"hunter!{AES}", f"{AES[:-2]}é="),
        *(f"{AES},hunter", "hunter" * 8, "hunter00" * 8, f"{AES[:20]} {AES[20:]}", " ", ",", f"{AES}\0"),
    ],
)
def test_keys_that_are_none_fail_at_once_and_are_not_shown(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(**{name: text})
    sizes = {"encryption_keys": "16 or 32", "signing_keys": "32"}[name]
    accepted = f"base64 of {sizes} random bytes, or several with commas between, the newest first"
    assert str(caught.value) == f"{variable(name)}=(not shown): expected {accepted}"
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


def test_a_short_key_does_not_sign() -> None:
    assert build(encryption_keys=AES_128).encryption_keys is not None
    assert "base64 of 32 random bytes" in refusal(lambda: build(signing_keys=AES_128))


def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARCACHE_ENCRYPTION_KEYS", "")
    assert Settings(signing_keys="").encryption_keys is None
    assert Settings(signing_keys="").signing_keys is None


@pytest.mark.parametrize("url", ["redis+sentinel://h/main", "valkeys+cluster://h", "redis+cluster://a,b"])
def test_replicas_are_read_where_there_may_be_some(url: str) -> None:
    assert build(redis_url=url, read_from="prefer_replica").read_from == "prefer_replica"
    assert build(queue_redis_url=url, read_from="prefer_replica").read_from == "prefer_replica"
    for other in ("redis://h", "unix:///s", "memory://", "embedded://"):
        message = refusal(lambda other=other: build(redis_url=other, read_from="prefer_replica"))  # type: ignore[misc]
        assert message == "NEARCACHE_READ_FROM=prefer_replica: needs a +sentinel:// or +cluster:// URL"
    assert "expected primary or prefer_replica" in refusal(lambda: build(redis_url=url, read_from="replica"))


def test_pickle_only_with_a_signature() -> None:
    assert build(pickle=True, signing_keys=HMAC).pickle
    assert "NEARCACHE_SIGNING_KEYS" in refusal(lambda: build(pickle=True))
    assert "NEARCACHE_SIGNING_KEYS" in refusal(lambda: build(pickle=True, encryption_keys=AES))


def test_equal_and_hashable_by_value() -> None:
    one, same = (
        build(near_ttl="1m", redis_password="p"),
        build(near_ttl=60, redis_password="p", redis_port=6379),
    )
    assert one == same
    assert hash(one) == hash(same)
    assert one != build(near_ttl="1m", redis_password="q")


def test_describe_has_a_row_per_variable_with_units() -> None:
    rows = build(redis_password="hunter22", redis_url="redis://u:hunter22@h/2", grace="90m").describe()
    assert list(rows) == [variable(name) for name in FIELDS]
    expected = {
        "REDIS_USERNAME": "-",
        "REDIS_PASSWORD": "********",
        "REDIS_URL": "redis://***@h/2",
        "QUEUE_REDIS_URL": "redis://***@h/1",
        "NEARCACHE_NEAR_ENABLED": "true",
        "NEARCACHE_NEAR_ENTRIES": "10_000",
        "NEARCACHE_NEAR_BYTES": "64 MiB",
        "NEARCACHE_SOFT_TIMEOUT": "20 ms",
        "NEARCACHE_GRACE": "5400 s",
    }
    assert rows | expected == rows


@given(seconds=st.floats(0.001, 1000), size=st.integers(1, 2**40))
def test_what_describe_shows_can_be_read_back(seconds: float, size: int) -> None:
    settings = Settings(_env_file=None, near_ttl=seconds, near_bytes=size)
    rows = settings.describe()
    again = build(_env_file=None, near_ttl=rows["NEARCACHE_NEAR_TTL"], near_bytes=rows["NEARCACHE_NEAR_BYTES"])
    assert again.near_ttl == pytest.approx(seconds)
    assert again.near_bytes == size


def test_every_field_is_typed_and_described() -> None:
    assert list(SettingsValues.__annotations__) == FIELDS == list(DEFAULTS)
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_env_example_names_every_variable_with_its_default(nowhere: Path) -> None:
    text = (Path(__file__).parents[2] / ".env.example").read_text(encoding="utf-8")
    active = re.sub(r"^# ([A-Z_]+=)", r"\1", text, flags=re.MULTILINE)
    assert re.findall(r"^([A-Z_]+)=", active, flags=re.MULTILINE) == [variable(name) for name in FIELDS]
    (nowhere / ".env").write_text(active, encoding="utf-8")
    assert plain(Settings()) == DEFAULTS


def test_settings_need_no_redis_client() -> None:
    code = "import sys, nearcache.settings; assert 'redis' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
