"""Every exception nearcache raises, in one tree.

    NearcacheError
    ├── ConfigurationError         a setting, a URL or an option is wrong
    │   └── SettingsConflict       a client that is up was asked to connect elsewhere
    ├── NotInitialized             used before ``initialize`` or after ``disconnect_all``
    ├── InvalidArgument            a call was given something it cannot use (also a ValueError)
    │   ├── InvalidKey             empty, or not text
    │   ├── InvalidNamespace       empty, or not text
    │   └── InvalidTTL             zero, negative, not a number, not finite
    ├── CodecError                 a value cannot be encoded; ``path`` names the offending part
    │   └── ValueTooLarge          the encoded value is over ``NEARCACHE_MAX_VALUE``
    ├── LoadError                  a load ended without a result
    │   ├── LoadTimeout            it took longer than ``NEARCACHE_LOAD_TIMEOUT``
    │   └── WouldDeadlock          a blocking wait on the very thread that has to do the work
    └── ServerError                the server, or the way to it
        ├── ConnectionFailed       no connection, or it was lost while the command was under way
        │   └── CommandTimeout     the reply did not come within the deadline; the outcome is unknown
        └── CommandRefused         the server answered with an error

What a loader or writer of the user raises passes through as it is, never wrapped.
"""

from __future__ import annotations

__all__ = [
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
]


class NearcacheError(Exception):
    """The root: ``except NearcacheError`` catches whatever nearcache itself raises."""


class ConfigurationError(NearcacheError):
    """A setting, a URL or an option is wrong; the message names it and what is accepted."""


class SettingsConflict(ConfigurationError):
    """A client that is up was initialised again with other connection fields."""


class NotInitialized(NearcacheError):
    """A cache or client was used before ``initialize`` or after ``disconnect_all``."""


class InvalidArgument(NearcacheError, ValueError):
    """A call was given something it cannot use."""


class InvalidKey(InvalidArgument):
    """A key is empty or not text."""


class InvalidNamespace(InvalidArgument):
    """A namespace is empty or not text."""


class InvalidTTL(InvalidArgument):
    """A TTL is zero, negative, not finite or not a number of seconds."""


class CodecError(NearcacheError):
    """A value cannot be encoded.

    Attributes:
        path: where in the value the offending part is, written like Python: ``value['a'][3]``.
    """

    def __init__(self, message: str, path: str = "value") -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class ValueTooLarge(CodecError):
    """An encoded value is larger than ``NEARCACHE_MAX_VALUE``."""


class LoadError(NearcacheError):
    """A load ended without a result."""


class LoadTimeout(LoadError):
    """A load ran longer than ``NEARCACHE_LOAD_TIMEOUT``."""


class WouldDeadlock(LoadError):
    """A thread would have to wait for work that only the same thread can do."""


class ServerError(NearcacheError):
    """The server, or the way to it, failed."""


class ConnectionFailed(ServerError):
    """There is no connection, or it was lost while the command was under way."""


class CommandTimeout(ConnectionFailed):
    """No reply within the deadline. Whether the server carried the command out is not known."""


class CommandRefused(ServerError):
    """The server answered with an error; the message is the server's."""
