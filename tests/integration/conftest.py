"""How the modules of this directory begin and end; each takes what it needs, in its ``pytestmark`` or by name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from nearcache import get_multi_redis_connection_manager


@pytest.fixture
async def closing() -> AsyncIterator[None]:
    """After the test every client is disconnected."""
    yield
    await get_multi_redis_connection_manager().disconnect_all()
