"""nearcache: a cache layer for Python services on Redis or Valkey.

The public names are loaded when they are first used, so importing the package costs next to nothing and loads
neither a server nor a framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aio import AsyncCache as AsyncCache
    from .cache import Cache as Cache
    from .connections import AllConnectionStatus as AllConnectionStatus
    from .connections import ConnectionStatus as ConnectionStatus
    from .connections import Health as Health
    from .connections import MultiRedisConnectionManager as MultiRedisConnectionManager
    from .connections import RedisClientType as RedisClientType
    from .connections import get_multi_redis_connection_manager as get_multi_redis_connection_manager
    from .core.found import Lookup as Lookup
    from .core.found import State as State
    from .core.keys import sanitize_key as sanitize_key
    from .core.loading import CurrentLoad as CurrentLoad
    from .core.loading import current_load as current_load
    from .core.policy import LoadOptions as LoadOptions
    from .core.policy import WriteOptions as WriteOptions
    from .core.stats import CacheStats as CacheStats
    from .errors import CodecError as CodecError
    from .errors import CommandRefused as CommandRefused
    from .errors import CommandTimeout as CommandTimeout
    from .errors import ConfigurationError as ConfigurationError
    from .errors import ConnectionFailed as ConnectionFailed
    from .errors import InvalidArgument as InvalidArgument
    from .errors import InvalidKey as InvalidKey
    from .errors import InvalidNamespace as InvalidNamespace
    from .errors import InvalidTTL as InvalidTTL
    from .errors import LoadError as LoadError
    from .errors import LoadTimeout as LoadTimeout
    from .errors import NearcacheError as NearcacheError
    from .errors import NotInitialized as NotInitialized
    from .errors import ServerError as ServerError
    from .errors import SettingsConflict as SettingsConflict
    from .errors import ValueTooLarge as ValueTooLarge
    from .errors import WouldDeadlock as WouldDeadlock
    from .services import CacheServiceFactory as CacheServiceFactory
    from .services import get_cache_cache_manager as get_cache_cache_manager
    from .services import get_cache_manager as get_cache_manager
    from .services import get_default_cache as get_default_cache
    from .services import get_queue_cache_manager as get_queue_cache_manager
    from .services import get_session_cache as get_session_cache
    from .services import get_temp_cache as get_temp_cache
    from .settings import Settings as Settings

    CacheManager = EnhancedCacheManager = AsyncCache

__version__ = "0.1.0"

_HOMES = {
    "aio": ["AsyncCache"],
    "cache": ["Cache"],
    "connections": [
        "AllConnectionStatus",
        "ConnectionStatus",
        "Health",
        "MultiRedisConnectionManager",
        "RedisClientType",
        "get_multi_redis_connection_manager",
    ],
    "core.found": ["Lookup", "State"],
    "core.keys": ["sanitize_key"],
    "core.loading": ["CurrentLoad", "current_load"],
    "core.policy": ["LoadOptions", "WriteOptions"],
    "core.stats": ["CacheStats"],
    "errors": [
        "CodecError",
        "CommandRefused",
        "CommandTimeout",
        "ConfigurationError",
        "ConnectionFailed",
        "InvalidArgument",
        "InvalidKey",
        "InvalidNamespace",
        "InvalidTTL",
        "LoadError",
        "LoadTimeout",
        "NearcacheError",
        "NotInitialized",
        "ServerError",
        "SettingsConflict",
        "ValueTooLarge",
        "WouldDeadlock",
    ],
    "services": [
        "CacheServiceFactory",
        "get_cache_cache_manager",
        "get_cache_manager",
        "get_default_cache",
        "get_queue_cache_manager",
        "get_session_cache",
        "get_temp_cache",
    ],
    "settings": ["Settings"],
}
_home = {name: (module, name) for module, names in _HOMES.items() for name in names}
_home["CacheManager"] = _home["EnhancedCacheManager"] = ("aio", "AsyncCache")

__all__ = [*sorted(_home), "__version__"]  # noqa: PLE0604 - they are strings


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _home[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
