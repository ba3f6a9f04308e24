"""What is done to the server, and to the connections to it, while the actors act."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress

import redis

__all__ = ["Faults"]

_WEIGHTS = {"kill": 6, "pause": 1, "stop": 1}  # blocking an event loop is for the workers
_BETWEEN = (0.05, 0.5)  # seconds
_HELD_UP = (0.05, 0.8)  # seconds


class Faults:
    """Faults of the kinds in ``kinds``, chosen by the seed.

    Attributes:
        injected: how many of each kind.
    """

    def __init__(self, port: int, kinds: tuple[str, ...], seed: int) -> None:
        self._client = redis.Redis(port=port)
        self._server = int(self._client.info("server")["process_id"])
        self._rng = random.Random(f"faults {seed}")
        self._kinds = [kind for kind in _WEIGHTS if kind in kinds]
        self.injected = Counter[str]()

    def inject(self, seconds: float) -> None:
        """Go on for so long; then all is well again."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self._rng.uniform(*_BETWEEN)))
            if self._kinds and time.monotonic() < end:
                weights = [_WEIGHTS[kind] for kind in self._kinds]
                kind = self._rng.choices(self._kinds, weights)[0]
                getattr(self, f"_{kind}")()
                self.injected[kind] += 1
        self._client.client_unpause()

    def commands(self) -> int:
        """Commands the server has carried out so far."""
        return int(self._client.info("stats")["total_commands_processed"])

    def close(self) -> None:
        self._client.close()

    def _kill(self) -> None:
        """One connection of nearcache, and now and then every one."""
        connections = [each["id"] for each in self._client.client_list() if each["name"].startswith("nearcache")]
        some = connections if self._rng.random() < 0.1 else self._rng.sample(connections, min(1, len(connections)))
        for connection in some:
            with suppress(redis.ResponseError):  # it has gone already
                self._client.client_kill_filter(_id=connection)

    def _pause(self) -> None:
        seconds = self._rng.uniform(*_HELD_UP)
        self._client.client_pause(round(seconds * 1000))
        time.sleep(seconds)

    def _stop(self) -> None:
        os.kill(self._server, signal.SIGSTOP)
        try:
            time.sleep(self._rng.uniform(*_HELD_UP))
        finally:
            os.kill(self._server, signal.SIGCONT)
