"""Every Python sample of README.md and docs/ runs, in the order of its page, and prints what its comments say.

A sample is a fenced ``python`` block. The blocks of a page share their names, as one session of ``python -m asyncio``
does, with ``REDIS_URL`` naming a real server. Three comments are checked:

``expression  # -> text``      its ``repr`` is the text
``print(...)  # -> text``      it prints the text
``statement  # raises Name``   it raises that exception

A statement that prints, shows or raises anything else fails the test. Inside a function ``# ->`` stands at a
``print``; such lines are compared in order, when the block has ended.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import re
import tokenize
from inspect import CO_COROUTINE
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest

from nearcache import Settings, errors, get_multi_redis_connection_manager

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CLAIM = re.compile(r"#\s*(->|raises)\s+(.*?)\s*$")


class Block(NamedTuple):
    line: int
    language: str
    source: str


def blocks(text: str) -> list[Block]:
    return [Block(text.count("\n", 0, match.start(2)), match[1], match[2]) for match in _FENCE.finditer(text)]


def claims(source: str) -> dict[int, tuple[str, str]]:
    """What a block's comments say, by line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    return {line: (found[1], found[2]) for line, text in comments.items() if (found := _CLAIM.match(text))}


class Session:
    """Runs the blocks of one page."""

    def __init__(self, page: Path, runner: asyncio.Runner) -> None:
        self._page = page
        self._runner = runner
        self._names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        claimed = claims(block.source)
        printed: list[str] = []  # by functions of the block, to be compared with what is claimed inside of them
        for statement in ast.parse(block.source).body:
            assert statement.end_lineno is not None
            last = statement.end_lineno
            simple = not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            kind, expected = claimed.pop(last, ("", "")) if simple and not hasattr(statement, "body") else ("", "")
            where = f"{self._page.name}:{block.line + statement.lineno}"
            if kind == "raises":
                with pytest.raises(Exception) as raised:
                    self._execute(statement)
                assert type(raised.value).__name__ == expected, where
                continue
            shown, value = self._execute(statement)
            if kind == "->":
                actual = shown.rstrip("\n") if shown else repr(value)
                if ".ttl(" in ast.unparse(statement) and actual.lstrip("-").isdecimal() and int(actual) > 30:
                    assert int(expected) - 30 < int(actual) <= int(expected), where  # a slow machine
                else:
                    assert actual == expected, where
            else:
                printed += shown.splitlines()
        assert printed == [text for _, text in claimed.values()], f"{self._page.name}:{block.line}"

    def _execute(self, statement: ast.stmt) -> tuple[str, Any]:
        code = self._compile(statement)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            result = eval(code, self._names)
            if code.co_flags & CO_COROUTINE:
                result = self._runner.run(result)
        return output.getvalue(), result

    def _compile(self, statement: ast.stmt) -> CodeType:
        tree: ast.Module | ast.Expression = (
            ast.Expression(statement.value) if isinstance(statement, ast.Expr) else ast.Module([statement], [])
        )
        mode = "eval" if isinstance(tree, ast.Expression) else "exec"
        code = compile(tree, str(self._page), mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert isinstance(code, CodeType)
        return code


def run_page(page: Path, text: str) -> None:
    with asyncio.Runner() as runner:
        session = Session(page, runner)
        try:
            for block in blocks(text):
                if block.language == "python":
                    session.run(block)
        finally:
            runner.run(get_multi_redis_connection_manager().disconnect_all())


@pytest.fixture
def visitor(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user with a server and an empty directory."""
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.chdir(tmp_path)
    return url


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_samples(page: Path, visitor: str) -> None:
    text = page.read_text("utf-8")
    run_page(page, text)


def test_readme_on_a_real_server(visitor: str) -> None:
    """Its first sample needs no server; with the URL of one it prints the same."""
    page = ROOT / "README.md"
    text = page.read_text("utf-8")
    assert '"memory://"' in text
    run_page(page, text.replace('"memory://"', f'"{visitor}"'))


def test_python_is_marked_as_such() -> None:
    """A sample in a fence without a language would not be run."""
    for page in PAGES:
        for block in blocks(page.read_text("utf-8")):
            if block.language not in {"python", "sh", "text"}:
                with pytest.raises(SyntaxError):
                    ast.parse(block.source)


def test_settings_page_has_every_variable_and_default() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \| ", page, re.MULTILINE))
    falls_back = {name for name in rows if "REDIS_" in rows[name]}
    assert falls_back == {name for name in rows if name.startswith("QUEUE_REDIS_")} - {"QUEUE_REDIS_DB"}
    in_force = Settings(_env_file=None).describe()
    assert rows.keys() == in_force.keys()
    shown = {name: default.strip("`") for name, default in rows.items() if name not in falls_back}
    assert shown == {name: in_force[name] or "-" for name in shown}


def test_readme_draws_the_tree_of_errors() -> None:
    drawn = re.findall(r"^[│├└─ ]*([A-Z]\w+) {2,}", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(["NearcacheError", *drawn]) == sorted(errors.__all__)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


class TestChecker:
    """The checks themselves can fail."""

    def run(self, source: str) -> None:
        run_page(Path("page.md"), f"```python\n{source}\n```\n")

    @pytest.mark.parametrize(
        "source",
        [
            "1 + 1  # -> 2",
            "print('a', 1)  # -> a 1",
            "import asyncio\nawait asyncio.sleep(0, 'x')  # -> 'x'",
            "int('x')  # raises ValueError",
            "def f():\n    print(1)  # -> 1\nf()",
        ],
    )
    def test_right(self, source: str) -> None:
        self.run(source)

    @pytest.mark.parametrize(
        "source",
        [
            "1 + 1  # -> 3",
            "print('a')  # -> b",
            "print('unexpected')",
            "int('1')  # raises ValueError",
            "int('x')  # raises TypeError",
            "def f():\n    print(1)  # -> 2\nf()",
            "def f():\n    print(1)  # -> 1",
        ],
    )
    def test_wrong(self, source: str) -> None:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            self.run(source)
