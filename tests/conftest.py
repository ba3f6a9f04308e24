"""Fixtures every test module may use: real servers, and an environment without settings of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from .servers import ValkeyServer

pytest_plugins = ["nearcache.testing.fixtures"]

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("nearcache", deadline=None)
hypothesis.settings.load_profile("nearcache")

_PREFIXES = ("REDIS_", "QUEUE_REDIS_", "NEARCACHE_")
_INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell says about Redis is none of a test's business."""
    for name in list(os.environ):
        if name.upper().startswith(_PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server() -> Iterator[ValkeyServer]:
    """The server all tests share. Take ``url``, which empties it, and never stop, pause or configure it."""
    with ValkeyServer() as shared:
        yield shared


@pytest.fixture
def url(server: ValkeyServer) -> str:
    """The shared server's URL; all its databases are empty."""
    server.command("FLUSHALL")
    return server.url


@pytest.fixture
def fresh_server() -> Iterator[ValkeyServer]:
    """A server of the test's own: to kill, pause, restart or configure."""
    with ValkeyServer() as own:
        yield own
