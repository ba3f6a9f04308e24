"""The two shells, and what the package exports, are what they say."""

from __future__ import annotations

import inspect

import nearcache
from nearcache import AsyncCache, Cache

ONLY_ASYNC = {"sync"}  # ``Cache`` is where it leads


def _methods(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_both_shells_have_the_same_methods_with_the_same_parameters_and_defaults() -> None:
    asynchronous, synchronous = _methods(AsyncCache), _methods(Cache)
    assert asynchronous.keys() - ONLY_ASYNC == synchronous.keys()
    for name, signature in synchronous.items():
        ours = [(p.name, p.kind, p.default) for p in signature.parameters.values()]
        theirs = [(p.name, p.kind, p.default) for p in asynchronous[name].parameters.values()]
        assert ours == theirs, name


def test_every_exported_name_is_there_and_documented() -> None:
    for name in nearcache.__all__:
        exported = getattr(nearcache, name)
        assert name == "__version__" or inspect.getdoc(exported), name


def test_the_other_names_for_the_cache() -> None:
    assert nearcache.EnhancedCacheManager is nearcache.CacheManager is AsyncCache


def test_public_methods_are_documented() -> None:
    for cls in (AsyncCache, Cache, nearcache.MultiRedisConnectionManager, nearcache.CacheServiceFactory):
        for name, member in inspect.getmembers(cls):
            if not name.startswith("_") and callable(member):
                assert inspect.getdoc(member), f"{cls.__name__}.{name}"
