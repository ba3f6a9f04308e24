"""Values that only pickle can carry, where that was asked for: whoever can write a pickle can run code.

So a payload is unpickled only if it is a ``Pickled``, and one is made only of an envelope whose signature was right.
"""

from __future__ import annotations

import pickle
from typing import Any, Final

from nearcache.codec.convert import NATURAL, convert
from nearcache.codec.failures import Undecodable

__all__ = ["Pickled", "Verified", "decode", "dumps", "loads"]

_PROTOCOL: Final = 5

decode: Final = pickle.loads


class Verified(bytes):
    """An envelope as it was before it was sealed, from one whose seals were right."""

    __slots__ = ()


class Pickled(bytes):
    """A pickle that was verified."""

    __slots__ = ()


def dumps(value: Any) -> bytes:
    """Pickle a value. Raises whatever that raises, the user's own errors included."""
    return pickle.dumps(value, _PROTOCOL)


def loads(payload: Pickled, type: Any = NATURAL) -> Any:
    """Unpickle what ``dumps`` wrote, as it was or converted to ``type``.

    Raises:
        Undecodable: a class is not there any more, has changed, or does not fit ``type``.
    """
    try:
        value = decode(payload)
        return value if type is NATURAL or value.__class__ is type else convert(value, type)
    except Exception as error:
        raise Undecodable(str(error)) from error
