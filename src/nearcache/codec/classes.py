"""Instances of the user's classes, taken apart into data and put together again.

An instance is stored as ``[reference, fields, ...]``: the reference is ``module:qualname``, the fields are
stored by name.
Data must never run code, so decoding

* looks a class up among the modules that are imported already, never imports one, and reads namespaces
  directly, past every ``__getattr__``;
* accepts only a class of the sort that was stored (enum, dataclass, Struct, pydantic model, named tuple)
  whose field names are the stored ones, so that bytes written by another release of the class are a miss;
* fills a bare instance without ``__init__``, ``__post_init__`` or validators. The one exception is a Struct
  with a ``__post_init__``: msgspec has no other way to make one. Its fields are set once more afterwards.

Classes that no module holds (made inside a function) are known to the process that encoded one, by a weak
reference, and only while no other live class has the same name.
"""

from __future__ import annotations

import sys
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, Flag
from functools import cached_property
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from uuid import UUID
from weakref import WeakKeyDictionary, WeakSet

import msgspec
from msgspec.structs import force_setattr

from nearcache.codec.failures import Refused, Undecodable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DATACLASS",
    "ENUM",
    "MODEL",
    "NAMED_TUPLE",
    "STRUCT",
    "class_of",
    "is_pydantic",
    "put_together",
    "take_apart",
    "to_builtins",
]

# The extension codes of values.py; stored, so they never change their meaning.
ENUM: Final = 32
DATACLASS: Final = 33
STRUCT: Final = 34
MODEL: Final = 35
NAMED_TUPLE: Final = 36


class Shape(NamedTuple):
    """What has to be known about a class. It must not refer to the class, which would keep it alive."""

    sort: int
    reference: str
    names: tuple[str, ...]
    slots: tuple[str, ...]
    computed: frozenset[str]


# type() and tuple for the type checkers, to which the user's classes are unknown.
class_of: Final = cast("Callable[[object], Any]", type)
_tuple: Final = cast("Any", tuple)

_shapes: WeakKeyDictionary[type, Shape] = WeakKeyDictionary()
_homeless: dict[str, WeakSet[type]] = {}


def take_apart(value: Any) -> tuple[int, list[Any]]:
    """The extension code of an instance, and its reference, fields and further parts.

    Raises:
        Refused: it is not an instance of a class that can be stored.
    """
    cls: Any = class_of(value)
    shape = _shapes.get(cls) or _shape_of_new(cls)
    sort, reference = shape.sort, shape.reference
    if sort == ENUM:
        return sort, [reference, {"value": value._value_}, None if isinstance(value, Flag) else value._name_]
    if sort == STRUCT:
        members = {name: _member(value, name) for name in shape.names}
        return sort, [reference, members, getattr(value, "__dict__", None) or None]
    state = _state(value, shape)
    if sort == MODEL:
        extra, private = (_member(value, f"__pydantic_{part}__", None) for part in ("extra", "private"))
        return sort, [reference, _members(state, shape), sorted(value.model_fields_set), extra, private]
    if sort == NAMED_TUPLE:
        content = list(_tuple.__iter__(value))
        if len(content) != len(shape.names):
            raise Refused(f"has {len(content)} items for the {len(shape.names)} fields of its class")
        state.update(zip(shape.names, content, strict=True))
    members = _members(state, shape)
    rest = {name: state[name] for name in state if name not in members and name not in shape.computed}
    return sort, [reference, members, rest or None]


def put_together(sort: int, parts: list[Any]) -> Any:
    """The instance that ``take_apart`` was given.

    Raises:
        Undecodable: its class is not here, of another sort, or has other fields.
    """
    reference, members, *more = parts
    cls = _find(reference)
    if cls is None:
        raise Undecodable(f"no class {reference} in this process")
    shape = _shapes.get(cls) or _shape_of_new(cls)
    if shape.sort != sort or shape.reference != reference or shape.names != tuple(members):
        raise Undecodable(f"{reference} has changed")
    return _REBUILD[sort](cls, shape, members, *more)


def to_builtins(sort: int, parts: list[Any]) -> Any:
    """The data of an instance without its class: a dict, a named tuple's tuple, an enum's value."""
    _, members, *more = parts
    if sort == ENUM:
        return members["value"]
    if sort == NAMED_TUPLE:
        return tuple(members.values())
    return {**members, **more[1]} if sort == MODEL and more[1] else members


def _enum(cls: Any, shape: Shape, members: dict[str, Any], name: str | None) -> Any:
    stored = members["value"]
    member = cls(stored) if name is None else cls._member_map_[name]
    # True == 1: an enum's value must be the same thing, not merely equal.
    if type(member._value_) is not type(stored) or member._value_ != stored:
        raise Undecodable(f"{shape.reference} has changed")
    return member


def _instance(cls: Any, shape: Shape, members: dict[str, Any], rest: dict[str, Any] | None) -> Any:
    instance: Any = object.__new__(cls)
    _restore(instance, shape, members)
    if rest:
        _restore(instance, shape, rest)
    return instance


def _struct(cls: Any, shape: Shape, members: dict[str, Any], rest: dict[str, Any] | None) -> Any:
    instance = cls(**members)
    if hasattr(cls, "__post_init__"):
        for name, content in members.items():
            force_setattr(instance, name, content)
    if rest:
        instance.__dict__.update(rest)
    return instance


def _model(
    cls: Any,
    shape: Shape,
    members: dict[str, Any],
    fields_set: list[str],
    extra: dict[str, Any] | None,
    private: dict[str, Any] | None,
) -> Any:
    instance = object.__new__(cls)
    object.__setattr__(instance, "__dict__", members)
    object.__setattr__(instance, "__pydantic_fields_set__", set(fields_set))
    if not cls.__pydantic_root_model__:  # a root model has none of these, and no slots for them
        object.__setattr__(instance, "__pydantic_extra__", extra)
        object.__setattr__(instance, "__pydantic_private__", private)
    return instance


def _named_tuple(cls: Any, shape: Shape, members: dict[str, Any], rest: dict[str, Any] | None) -> Any:
    instance = _tuple.__new__(cls, members.values())
    if rest:
        _restore(instance, shape, rest)
    return instance


_REBUILD: Final[dict[int, Any]] = {
    ENUM: _enum,
    DATACLASS: _instance,
    STRUCT: _struct,
    MODEL: _model,
    NAMED_TUPLE: _named_tuple,
}


def _member(value: Any, name: str, *default: Any) -> Any:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        if default:
            return default[0]
        raise Refused(f"has no value in its field {name!r}; set it first") from None


def _state(value: Any, shape: Shape) -> dict[str, Any]:
    state: dict[str, Any] = dict(getattr(value, "__dict__", ()))
    for name in shape.slots:
        if (content := _member(value, name, Undecodable)) is not Undecodable:
            state[name] = content
    return state


def _members(state: dict[str, Any], shape: Shape) -> dict[str, Any]:
    try:
        return {name: state[name] for name in shape.names}
    except KeyError as missing:
        raise Refused(f"has no value of its own in its field {missing}; set it first") from None


def _restore(instance: Any, shape: Shape, content: dict[str, Any]) -> None:
    """Write to the slots and to ``__dict__`` themselves: other descriptors are the user's code."""
    if shape.slots:
        content = dict(content)
        for name in shape.slots:
            if name in content:
                object.__setattr__(instance, name, content.pop(name))
    if content:
        instance.__dict__.update(content)


def is_pydantic(cls: type) -> bool:
    """Whether a class is a pydantic model; pydantic itself is not imported to find out."""
    pydantic = sys.modules.get("pydantic.main")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def _sort_of(cls: Any) -> int | None:
    if issubclass(cls, Enum):
        return ENUM
    if is_pydantic(cls):
        return MODEL
    if issubclass(cls, msgspec.Struct):
        return STRUCT
    bases: tuple[type, ...] = cls.__mro__
    if tuple in bases and isinstance(getattr(cls, "_fields", None), tuple):
        return NAMED_TUPLE
    # object.__new__ makes no instance of a class that builds on another builtin than object.
    ours = all(base is object or base.__flags__ & _HEAP for base in bases)
    return DATACLASS if ours and is_dataclass(cls) else None


_HEAP: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE: defined by a class statement


def _names_of(cls: Any, sort: int) -> tuple[str, ...]:
    if sort == ENUM:
        return ("value",)
    if sort == DATACLASS:
        return tuple(field.name for field in dataclass_fields(cls))
    names = {STRUCT: "__struct_fields__", MODEL: "model_fields", NAMED_TUPLE: "_fields"}[sort]
    return tuple(getattr(cls, names))


def _shape_of_new(cls: type) -> Shape:
    sort = _sort_of(cls)
    if sort is None:
        raise Refused(_remedy(cls))
    reference = f"{cls.__module__}:{cls.__qualname__}"
    found = _held_by_module(reference)
    if found is None:
        _homeless.setdefault(reference, WeakSet()).add(cls)
    elif found is not cls:
        raise Refused(
            f"is of a class that is no longer the one named {reference} (reloaded, or defined twice); "
            "make it again from the current class"
        )
    slots: list[str] = []
    computed: set[str] = set()
    if sort in (DATACLASS, NAMED_TUPLE):
        for base in cls.__mro__:
            for name, content in vars(base).items():
                if type(content) is MemberDescriptorType:
                    slots.append(name)
                elif isinstance(content, cached_property):
                    computed.add(name)
    shape = Shape(sort, reference, _names_of(cls, sort), tuple(slots), frozenset(computed))
    _shapes[cls] = shape
    return shape


def _find(reference: str) -> type | None:
    found = _held_by_module(reference)
    if found is None:
        alike = list(_homeless.get(reference, ()))
        found = alike[0] if len(alike) == 1 else None
    return found


def _held_by_module(reference: str) -> type | None:
    module, _, qualname = reference.partition(":")
    holder: Any = sys.modules.get(module)
    if holder is None:
        return None
    # object.__getattribute__: a lazy module would import itself if it were asked in the usual way.
    namespace = object.__getattribute__(holder, "__dict__")
    for name in qualname.split("."):
        holder = namespace.get(name)
        if not isinstance(holder, type):
            return None
        namespace = vars(holder)
    return holder if isinstance(holder, type) else None


_KNOWN: Final = (
    str,
    bytes,
    int,
    float,
    list,
    tuple,
    set,
    frozenset,
    dict,
    bytearray,
    datetime,
    date,
    Decimal,
    UUID,
)


def _remedy(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    for base in _KNOWN:
        if issubclass(cls, base):
            plain = base.__name__
            return f"is a {name}, a subclass of {plain} that would lose its type; store {plain}(...) of it"
    return (
        f"is a {name}, which cannot be stored; store plain data, a dataclass, a msgspec Struct "
        "or a pydantic model, or the parts it is made of"
    )
