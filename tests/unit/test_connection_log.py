"""What the log says of connections that come and go."""

from __future__ import annotations

import pytest

from nearcache.connection_log import ConnectionLog
from nearcache.testing import FakeClock

LOST = OSError("lost")


class Told:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = FakeClock()
        self.log = ConnectionLog(lambda: "cache client", self.clock.monotonic)
        self._caplog = caplog
        self._caplog.set_level("INFO", "nearcache.connections")

    def lines(self) -> list[str]:
        """What was said since the last time."""
        lines = [record.getMessage().removeprefix("cache client: ") for record in self._caplog.records]
        self._caplog.clear()
        return lines

    def lose_and_find(self, seconds: float = 0.1) -> None:
        self.log.down(LOST)
        self.clock.advance(seconds)
        self.log.up("valkey", first=False)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_a_loss_is_a_line_and_so_is_its_end(told: Told) -> None:
    told.log.up("valkey 9", first=True)
    told.log.down(LOST)
    told.log.down(LOST)
    told.clock.advance(2)
    told.log.up("valkey 9", first=False)
    told.log.up("valkey 9", first=False)
    assert told.lines() == ["connected (valkey 9)", "connection failed: lost", "reconnected after 2.0 s, 2 attempts"]


def test_an_outage_is_a_line_a_minute(told: Told) -> None:
    told.log.down(LOST)
    for _ in range(130):
        told.clock.advance(1)
        told.log.down(LOST)
    assert told.lines() == [
        "connection failed: lost",
        "still down after 60 s and 61 attempts: lost",
        "still down after 120 s and 121 attempts: lost",
    ]


def test_what_fails_again_and_again_is_counted(told: Told) -> None:
    for _ in range(3):
        told.lose_and_find()
    assert len(told.lines()) == 6
    for _ in range(1000):
        told.lose_and_find(0.1)
    assert told.lines() == [
        "connections fail again and again, from now on one line a minute: lost",
        "connections failed 600 times more: lost",
    ]


def test_after_a_minute_of_rest_it_is_told_again(told: Told) -> None:
    for _ in range(10):
        told.lose_and_find()
    told.lines()
    told.clock.advance(60)
    told.lose_and_find()
    assert told.lines() == ["connection failed: lost", "reconnected after 0.1 s, 1 attempts"]
