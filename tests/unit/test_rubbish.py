"""What a server should never say: an error of ours, whoever reads it."""

from __future__ import annotations

import pytest

from nearcache.transport.endpoint import Endpoint
from nearcache.transport.hello import shake_hands


def test_facts_and_times_that_are_none_are_not_known() -> None:
    for answer in ([[], 1, b"id", 5], {None: 1, b"id": 5}, [b"id", 5, b"server"]):
        conversation = shake_hands(Endpoint(kind="tcp", host="h"), "name", None, track_all=True)
        next(conversation)
        conversation.send([answer])
        with pytest.raises(StopIteration) as stop:
            conversation.send([b"PONG", [b"9" * 400, b"1"], b"OK"])
        assert stop.value.value.client_id == 5
        assert abs(stop.value.value.clock) < 10**12
