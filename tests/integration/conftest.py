"""How the modules of this directory begin and end; each takes what it needs, in its ``pytestmark`` or by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from nearcache import get_multi_redis_connection_manager


@pytest.fixture
async def closing() -> AsyncIterator[None]:
    """After the test every client is disconnected."""
    yield
    await get_multi_redis_connection_manager().disconnect_all()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """After the test the manager is closed, and knows of no other servers than before."""
    manager = get_multi_redis_connection_manager()
    registered = dict(manager._registered)
    yield
    manager.close()
    manager._registered = registered
