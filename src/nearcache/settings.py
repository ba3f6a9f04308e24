"""Environment → typed, frozen settings; secrets that never print.

pydantic-settings' own environment source also reads a variable with a field's bare name (``PREFIX``,
``GRACE``) as soon as that name is accepted as a keyword, and keeps rejected values in its errors. So the
variables are collected here, by their exact names, and go through the model as keywords; of a
``ValidationError`` only the fields' names and our own descriptions of what is accepted are used.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypedDict, Unpack

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from nearcache import _setting_kinds as kinds
from nearcache.codec.sealing import ENCRYPTION_SIZES, SIGNING_SIZES
from nearcache.errors import ConfigurationError
from nearcache.transport.endpoint import Endpoint, parse_url, replace_db

__all__ = ["ConfigurationWarning", "Settings", "SettingsValues"]

EnvFile: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
Duration: TypeAlias = float | str | timedelta
Size: TypeAlias = int | str
Secret: TypeAlias = str | SecretStr | None

_SECRETS = frozenset({"redis_password", "queue_redis_password", "redis_url", "queue_redis_url"}) | {
    "encryption_keys",
    "signing_keys",
}
# An empty variable of these counts as not set: that is how compose files leave a variable out.
_MAY_BE_EMPTY = _SECRETS | {"redis_username"}


class ConfigurationWarning(UserWarning):
    """A variable looks like one of ours but is none: most likely a spelling mistake."""


class SettingsValues(TypedDict, total=False):
    """The keywords of ``Settings`` and what each takes; the same meaning and units as the fields."""

    redis_host: str
    redis_port: int | str
    redis_username: str | None
    redis_password: Secret
    redis_db: int | str
    queue_redis_host: str
    queue_redis_port: int | str
    queue_redis_username: str | None
    queue_redis_password: Secret
    queue_redis_db: int | str
    redis_url: Secret
    queue_redis_url: Secret
    prefix: str
    near_enabled: bool | str
    near_entries: int | str
    near_bytes: Size
    near_ttl: Duration
    command_timeout: Duration
    connect_timeout: Duration
    soft_timeout: Duration
    max_in_flight: int | str
    load_timeout: Duration
    grace: Duration
    breaker_failures: int | str
    breaker_reset: Duration
    recovery_entries: int | str
    read_from: str
    max_value: Size
    compress_min: Size
    encryption_keys: Secret
    signing_keys: Secret
    pickle: bool | str


def _twin(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data[name]


def _queue_url(data: dict[str, Any]) -> SecretStr | None:
    url: SecretStr | None = data["redis_url"]
    return None if url is None else SecretStr(replace_db(url.get_secret_value(), data["queue_redis_db"]))


class Settings(BaseSettings, frozen=True):  # type: ignore[misc]  # BaseSettings is not frozen
    """Everything nearcache can be told: keywords first, then the environment, ``.env`` and the defaults.

    A field's variable is its name in upper case, with ``NEARCACHE_`` before it unless it begins with
    ``REDIS_`` or ``QUEUE_REDIS_``. No other variable is read; an unknown ``NEARCACHE_*`` is a
    ``ConfigurationWarning``. An empty ``QUEUE_REDIS_*``, user name, password or URL variable counts as not
    set; a user name, password or URL that is None or ``""`` as a keyword means none.

    Durations are seconds: a number, a ``timedelta``, or text with a unit (``ms`` ``s`` ``m`` ``h`` ``d``).
    Sizes are bytes: an int, or text with a unit (``B``, ``KiB`` ``MiB`` …, or ``kB`` ``MB`` … in thousands).

    Settings are frozen, hashable and equal by value. No secret is part of their ``repr``, ``str`` or JSON.

    Args:
        _env_file: the ``.env`` file, or several, the later win; None reads none. A missing one is no error.

    Raises:
        ConfigurationError: once, naming every variable that is wrong and what it accepts; also for an unknown
            keyword and for a ``.env`` that cannot be read.
    """

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    redis_host: Annotated[str, kinds.HOST] = Field("localhost", description="Host of the cache client's server.")
    redis_port: Annotated[int, kinds.PORT] = Field(6379, description="TCP port of the cache client's server.")
    redis_username: Annotated[str | None, kinds.TEXT] = Field(None, description="ACL user; None is the default user.")
    redis_password: Annotated[SecretStr | None, kinds.PASSWORD] = Field(None, description="Password; None sends none.")
    redis_db: Annotated[int, kinds.DB] = Field(0, description="Database number of the cache client.")
    queue_redis_host: Annotated[str, kinds.HOST] = Field(
        default_factory=_twin("redis_host"),
        description="Host of the queue client's server; redis_host unless set.",
    )
    queue_redis_port: Annotated[int, kinds.PORT] = Field(
        default_factory=_twin("redis_port"),
        description="Port of the queue client's server; redis_port unless set.",
    )
    queue_redis_username: Annotated[str | None, kinds.TEXT] = Field(
        default_factory=_twin("redis_username"),
        description="The queue client's ACL user; redis_username unless set.",
    )
    queue_redis_password: Annotated[SecretStr | None, kinds.PASSWORD] = Field(
        default_factory=_twin("redis_password"), description="Its password; redis_password unless set."
    )
    queue_redis_db: Annotated[int, kinds.DB] = Field(1, description="Database number of the queue client.")
    redis_url: Annotated[SecretStr | None, kinds.url("REDIS_URL")] = Field(
        None, description="One URL for the cache client; wins over its parts."
    )
    queue_redis_url: Annotated[SecretStr | None, kinds.url("QUEUE_REDIS_URL")] = Field(
        default_factory=_queue_url,
        description="The queue client's URL; redis_url with the database queue_redis_db unless set.",
    )
    prefix: Annotated[str, kinds.PREFIX] = Field(
        "", description="Put before every key, so that two applications can share a database."
    )
    near_enabled: Annotated[bool, kinds.FLAG] = Field(True, description="Whether values are also kept in this process.")
    near_entries: Annotated[int, kinds.count()] = Field(10_000, description="Most near entries per client.")
    near_bytes: Annotated[int, kinds.size(1, 2**40)] = Field(64 * 2**20, description="Most near bytes per client.")
    near_ttl: Annotated[float, kinds.duration()] = Field(60.0, description="Seconds a near entry lives at most.")
    command_timeout: Annotated[float, kinds.duration()] = Field(1.0, description="Seconds until a command has failed.")
    connect_timeout: Annotated[float, kinds.duration()] = Field(2.0, description="Seconds until connecting has failed.")
    soft_timeout: Annotated[float, kinds.duration()] = Field(
        0.02, description="Seconds after which a near copy or a stale value answers, if there is one."
    )
    max_in_flight: Annotated[int, kinds.count()] = Field(
        100_000, description="Commands waiting on one connection; more wait their turn."
    )
    load_timeout: Annotated[float, kinds.duration()] = Field(
        30.0, description="Seconds: a load's hard limit and its lease."
    )
    grace: Annotated[float, kinds.duration(zero=True)] = Field(
        0.0, description="Seconds after its TTL for which a value may still serve as stale."
    )
    breaker_failures: Annotated[int, kinds.count()] = Field(
        5, description="Failures in a row after which a client stops asking its server."
    )
    breaker_reset: Annotated[float, kinds.duration()] = Field(1.0, description="Seconds until it asks again.")
    recovery_entries: Annotated[int, kinds.count()] = Field(
        10_000, description="Writes and invalidations kept for replay: failed, or acknowledged in the last 10 s."
    )
    read_from: Annotated[Literal["primary", "prefer_replica"], kinds.READ_FROM] = Field(
        "primary", description="Who of a Sentinel's or a cluster's servers answers reads of values."
    )
    max_value: Annotated[int, kinds.size(1, 512 * 2**20)] = Field(
        16 * 2**20, description="Bytes; a larger encoded value is refused. The server's own limit is 512 MiB."
    )
    compress_min: Annotated[int, kinds.size(0, 2**40)] = Field(
        1024, description="Bytes; a larger value is compressed when that helps."
    )
    encryption_keys: Annotated[SecretStr | None, kinds.keys(ENCRYPTION_SIZES)] = Field(
        None, description="AES keys; the first encrypts what is stored, all decrypt; None stores it in clear."
    )
    signing_keys: Annotated[SecretStr | None, kinds.keys(SIGNING_SIZES)] = Field(
        None, description="HMAC keys; the first signs what is stored, all verify; None signs nothing."
    )
    pickle: Annotated[bool, kinds.FLAG] = Field(
        False, description="Whether values that cannot be stored otherwise are pickled; needs signing_keys."
    )

    def __init__(self, *, _env_file: EnvFile = ".env", **values: Unpack[SettingsValues]) -> None:
        known = type(self).model_fields
        given: dict[str, Any] = {**values}
        if strangers := [name for name in given if name not in known]:
            raise ConfigurationError("; ".join(f"unknown setting {n!r}{_hint(n, known, str)}" for n in strangers))
        ours = set(map(_variable, known))
        environment = {**_read_env_files(_env_file, ours), **_ours(os.environ, ours)}
        for name in sorted(environment.keys() - ours):
            hint = _hint(name.removeprefix("NEARCACHE_"), known, _variable)
            warnings.warn(f"unknown variable {name}{hint}", ConfigurationWarning, stacklevel=2)
        given = {name: environment[_variable(name)] for name in known if _variable(name) in environment} | given
        for name in _SECRETS & given.keys():  # pydantic-settings can be told to log what it gets
            if given[name] is not None and not isinstance(given[name], SecretStr):
                given[name] = SecretStr(given[name])
        wrong: list[str] = []
        try:
            super().__init__(_env_file=None, **given)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False):
                name = str(detail["loc"][0])
                if detail["type"] == "complete":
                    wrong.append(detail["msg"])
                elif name in given:  # otherwise a fallback that its own wrong twin kept from being resolved
                    shown = "(not shown)" if name in _SECRETS else _shown(given[name])
                    wrong.append(f"{_variable(name)}={shown}: expected {detail['msg']}")
        if not wrong and self.pickle and self.signing_keys is None:
            wrong.append("NEARCACHE_PICKLE=true: needs NEARCACHE_SIGNING_KEYS, because only a signed pickle is read")
        if not wrong and self.read_from != "primary" and not self._replicated:
            wrong.append(f"NEARCACHE_READ_FROM={self.read_from}: needs a +sentinel:// or +cluster:// URL")
        if wrong:  # outside the handler: a context would still hold what was given
            raise ConfigurationError("\n".join(wrong))

    if not TYPE_CHECKING:  # type checkers know from ``frozen=True`` that assigning is an error

        def __setattr__(self, name: str, value: object) -> None:
            """Refuse; pydantic's own refusal prints the value, and that may be a password."""
            raise ConfigurationError(f"settings are frozen: pass {name!r} to Settings() instead")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keep pydantic-settings from reading anything itself: see the top of the module."""
        return (init_settings,)

    def endpoint(self, client: Literal["cache", "queue"]) -> Endpoint:
        """Return where a client connects: its URL if there is one, else the parts.

        A ``memory://`` or ``embedded://`` URL without ``?db=`` takes the client's own database setting; any
        other URL without a database means database 0.
        """
        if client not in ("cache", "queue"):
            raise ConfigurationError(f"unknown client {_shown(client)}; accepted: 'cache', 'queue'")
        prefix = "redis_" if client == "cache" else "queue_redis_"
        part = {name: getattr(self, prefix + name) for name in ("host", "port", "username", "password", "db", "url")}
        if part["url"] is not None:
            url = part["url"].get_secret_value()
            return parse_url(url, variable=_variable(prefix + "url"), db=part["db"])
        password = part["password"]
        return Endpoint(
            kind="tcp",
            host=part["host"],
            port=part["port"],
            db=part["db"],
            username=part["username"],
            password=None if password is None else password.get_secret_value(),
        )

    @property
    def _replicated(self) -> bool:
        return any(self.endpoint(client).kind in ("sentinel", "cluster") for client in ("cache", "queue"))

    def describe(self) -> dict[str, str]:
        """Return variable → value in force, for people: units, secrets masked, ``-`` where nothing is set."""
        rows: dict[str, str] = {}
        for name, info in type(self).model_fields.items():
            kind = next((data for data in info.metadata if isinstance(data, kinds.Kind)), None)
            value = getattr(self, name)
            rows[_variable(name)] = "-" if value is None or kind is None else kind.show(value)
        return rows


def _variable(name: str) -> str:
    return name.upper() if name.startswith(("redis_", "queue_redis_")) else f"NEARCACHE_{name.upper()}"


def _ours(variables: Mapping[str, str | None], ours: Collection[str]) -> dict[str, str]:
    """Keep what is set and may be meant for us, by name."""
    empty = {_variable(name) for name in _MAY_BE_EMPTY}
    return {
        name: value
        for name, value in variables.items()
        if value is not None
        and (value or not (name in empty or name.startswith("QUEUE_REDIS_")))
        and (name in ours or name.startswith("NEARCACHE_"))
    }


def _read_env_files(files: EnvFile, ours: Collection[str]) -> dict[str, str]:
    if files is None:
        return {}
    merged: dict[str, str] = {}
    for file in [files] if isinstance(files, (str, os.PathLike)) else files:
        path, problem = os.path.expanduser(file), None
        try:
            with open(path, encoding="utf-8") as stream:
                merged |= _ours(dotenv_values(stream=stream), ours)
        except FileNotFoundError:
            continue
        except OSError as error:
            problem = error.strerror or type(error).__name__
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 at byte {error.start}"
        if problem:  # outside the handlers: a UnicodeDecodeError holds the whole file
            raise ConfigurationError(f"cannot read the settings file {os.path.abspath(path)!r}: {problem}")
    return merged


def _hint(name: str, known: Collection[str], write: Callable[[str], str]) -> str:
    from difflib import get_close_matches  # only an error needs it

    close = get_close_matches(name.lower().removeprefix("nearcache_"), known, n=1)
    return f", did you mean {write(close[0])!r}?" if close else f"; known: {', '.join(map(write, known))}"


def _shown(value: object) -> str:
    """Write a rejected value for an error; what may be or hold a password is left out."""
    if isinstance(value, str):
        text = value if len(value) <= 60 else f"{value[:60]}…"
        return f"{kinds.MASK!r}" if "@" in value or "://" in value else repr(text)
    if isinstance(value, int) and abs(value) >= 10**60:  # Python refuses to write very long ones
        return "<int>"
    plain = value is None or isinstance(value, (int, float, timedelta))
    return repr(value) if plain else f"<{type(value).__name__}>"
