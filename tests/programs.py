"""Programs of a test's own: what they print, how they end, and what they complain of."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from typing import NamedTuple

__all__ = ["STRICT", "Ended", "complaints_of", "program", "run"]

STRICT = (sys.executable, "-X", "dev", "-W", "error", "-c")
"""Runs a program with every warning an error, and every check of asyncio's."""

# What asyncio's debug mode says of a slow machine.
_SLOW = re.compile(r"^Executing <.*> took [0-9.]+ seconds\n", re.MULTILINE)

_BEGIN = """
import asyncio, atexit, gc, os, signal, sys, threading, time
from nearcache import AsyncCache, Cache, Settings, get_multi_redis_connection_manager

def say(text):
    # in one piece, whoever else prints
    sys.stdout.write(f"{{text}}\\n")
    sys.stdout.flush()

manager = get_multi_redis_connection_manager()
settings = Settings(redis_url={url!r}, queue_redis_url={url!r}, _env_file=None)
"""


class Ended(NamedTuple):
    """How a program ended: the lines it printed, and its complaints."""

    code: int
    lines: list[str]
    complaints: str


def program(text: str, url: str) -> str:
    """The text of a program that has imported what these tests need, and has ``settings`` for ``url``."""
    return _BEGIN.format(url=url) + textwrap.dedent(text)


def complaints_of(stderr: str) -> str:
    """What a program said that it should not have said."""
    return _SLOW.sub("", stderr)


def run(text: str, url: str = "", *, strict: bool = True) -> Ended:
    """Run a program until it ends; ``strict`` makes every warning an error and every check of asyncio's."""
    start = STRICT if strict else (sys.executable, "-c")
    done = subprocess.run([*start, program(text, url)], capture_output=True, text=True, timeout=50)
    return Ended(done.returncode, done.stdout.splitlines(), complaints_of(done.stderr))
