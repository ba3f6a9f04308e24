"""For tests of code that uses nearcache: time that passes on command, faults on command, safeties switched off.

``memory://`` stands in for the server. pytest fixtures are in ``nearcache.testing.fixtures``; nothing else here needs
pytest.
"""

from .clock import FakeClock
from .faults import Faults
from .sabotage import Sabotage, drop_pushes, ignore_marks, keep_tainted, sabotage

__all__ = ["FakeClock", "Faults", "Sabotage", "drop_pushes", "ignore_marks", "keep_tainted", "sabotage"]
