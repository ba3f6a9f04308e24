"""Taking the parent's sockets away from a forked child, without a word to the server and without the parent's loop.

Theory of operation
-------------------
In a child the number of a socket leads to the parent's connection. Closing the transport would do harm: the loop would
tell its poller, which the child shares with its parent, to forget the connection, and the parent would never hear from
it again; TLS would say good-bye in the parent's name. Closing only the number would leave transports, and libuv's
handles, with a number that is some other file's by the time they close it. So what is behind the number is exchanged
for the null device: the connection has one holder less, and whoever still has the number may do with it what he likes.
"""

from __future__ import annotations

import os
import socket
import weakref
from contextlib import suppress
from typing import Protocol

from ..core.forking import forget_in_children

__all__ = ["Numbered", "close_in_children", "exchange", "hang_up"]


class Numbered(Protocol):
    """What has a file descriptor: a socket, a connection."""

    def fileno(self) -> int: ...


class _Descriptors:
    def __init__(self) -> None:
        self.open: weakref.WeakSet[Numbered] = weakref.WeakSet()

    def forget_in_child(self) -> None:
        for thing in list(self.open):
            exchange(thing.fileno())


_descriptors = _Descriptors()
forget_in_children(_descriptors)


def close_in_children(thing: Numbered) -> None:
    """No child is to keep what ``fileno`` leads to when the child is forked; -1 is nothing."""
    _descriptors.open.add(thing)


def exchange(number: int) -> None:
    """Let the null device take the place of a file. Only one thread may be there: the number is free for a moment."""
    if number < 0:
        return
    with suppress(OSError):
        os.close(number)  # first, for a process may have no other number left
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number, inheritable=False)
            os.close(null)


def hang_up(number: int) -> None:
    """End a connection, for the server at once, whose loop does not turn, and so does not close it."""
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
