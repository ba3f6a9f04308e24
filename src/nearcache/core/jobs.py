"""What is to be loaded, for one key or for several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import InvalidArgument
from .found import Found
from .policy import Policy

__all__ = ["Job", "one", "several"]


class Job(NamedTuple):
    """What is to be loaded.

    Attributes:
        names: the caller's keys by stored key.
        call: makes the call of the loader, for the caller's keys that are missing.
        values: which value of what the loader returned is whose, by stored key.
        seen: what the read before found.
        type: what the caller wants the values to be; what is no such thing is as good as nothing.
        forced: load even if there is a fresh value by now.
    """

    names: Mapping[bytes, str]
    call: Callable[[list[str]], Any]
    values: Callable[[list[bytes], Any], Mapping[bytes, Any]]
    policy: Policy
    seen: Mapping[bytes, Found]
    type: Any
    forced: bool = False


def one(name: str, key: bytes, loader: Callable[[], Any], policy: Policy, found: Found, type: Any) -> Job:
    return Job({key: name}, lambda _: loader(), lambda _, loaded: {key: loaded}, policy, {key: found}, type)


def several(
    names: Mapping[bytes, str],
    loader: Callable[[list[str]], Any],
    policy: Policy,
    seen: Mapping[bytes, Found],
    type: Any,
) -> Job:
    return Job(names, loader, lambda asked, loaded: _by_stored_key(asked, names, loaded), policy, seen, type)


def _by_stored_key(asked: list[bytes], names: Mapping[bytes, str], loaded: Any) -> dict[bytes, Any]:
    if not isinstance(loaded, Mapping):
        raise InvalidArgument(
            f"the loader of get_or_set_many returns a mapping from key to value, not {type(loaded).__name__}"
        )
    return {key: loaded[names[key]] for key in asked if names[key] in loaded}
