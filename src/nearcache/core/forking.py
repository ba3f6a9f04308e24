"""Who has to forget, in a forked child, what is its parent's.

Theory of operation
-------------------
A child begins with a copy of everything but the threads. What it must not take over:

- *Connections.* Two processes that read one socket get each other's replies, and as long as a child has the descriptor
  open, the server does not see the parent's end. ``transport/descriptors.py`` takes the sockets away.
- *Event loops.* They are the parent's, down to what the kernel polls for them, which both share: so no transport may be
  closed through its loop, and none may be collected, because collecting closes it, or complains. What belongs to one
  is kept, untouched, until the child ends.
- *Locks, and what they protect.* Another thread may have held one, and left what it was changing half done. Nothing is
  taken apart: both are made anew.
- *Work under way*: loads, leases, values on their way to a writer. The parent does it. What is owed to the server is
  the exception: telling it twice does no harm.

Whatever has such state is told of the fork, in no particular order, before anything else runs in the child.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forgetful", "forget_in_children", "keep"]


class Forgetful(Protocol):
    """What knows what it has to forget."""

    def forget_in_child(self) -> None: ...


_told: weakref.WeakSet[Forgetful] = weakref.WeakSet()
_kept: list[object] = []


def forget_in_children(thing: Forgetful) -> None:
    """Call its ``forget_in_child`` in every child that is forked while it is there."""
    _told.add(thing)


def keep(*things: object) -> None:
    """In a child: never collect these, which belong to the parent's event loops."""
    _kept.extend(things)


def _forget() -> None:
    for thing in list(_told):
        thing.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
