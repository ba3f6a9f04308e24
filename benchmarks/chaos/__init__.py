"""``python -m benchmarks chaos``: an application under a steady load while its server fails in every way it can.

How it works
============

*The application* is the demo's, with routes of this benchmark added, in two processes behind uvicorn. They share a
server, and nothing else. Its data is an invented year of flights.

*The load* is open: every 2 ms (500 requests/s) one request is due, whether or not the others were answered, and its
time counts from when it was due. Of a hundred requests 40 are for the demo's routes and 25 for items that never change
(both are *held*: every process has them near when the fault begins), 30 read items that change, and 5 change one.

*Items* have a version, kept outside the cache in a file that all processes have mapped. To change an item is to raise
its version and then make the cache follow, in one of five ways: ``set``, ``delete``, ``invalidate_tags``,
``HTTPCache.purge``, and ``delete`` by a synchronous route. An item has one writer at a time.

*Faults*, each on fresh servers and a fresh application: ``kill`` (SIGKILL; an empty server comes back), ``freeze``
(SIGSTOP), ``full`` (no memory left for writes), ``readonly`` (it becomes a replica), ``sentinel`` and ``cluster`` (a
primary is killed, and replaced by a replica), and by a proxy in between ``reset`` (all connections, again and again),
``delay`` (of each reply, up to twice the deadline of a command) and ``truncate`` (connections end in the middle of a
reply).

What is reported
================

``errors``: answers other than 200, connections that broke, and requests not answered for 30 s.

``p99``: of requests for what is held, before, during and after, in milliseconds. *During* is from the fault until the
server can work again (``back``): it answers, thaws, has memory, has a new primary that takes writes.

``recovered``: seconds from ``back`` until both processes stored a value, and read it from the server.

``stale``: answers with a version older than one that a finished request had brought about before they were asked for,
and by how much at most, while the server was away and for a second after that. Without a server no process hears of
what another one changes.

``wrong``: answers that must never be: another item's, one from the future, or one that was never made; older than what
**this** process has changed (but for the second after a failover: the new primary may lack what the old one had
acknowledged).

``late``: stale ones at any other time: older than what was brought about more than a second before.

``forgotten``: when all is over, every item is asked for in each process, with its near tier and without: those that
are older than their version, and what the processes say they could not remember. ``made good``: writes and
invalidations that failed first.

``loads``: calls of loaders for items that never change, from the fault to the end, by the number of these items.

*Does it notice?* ``--break recovery`` lets the processes forget what failed: this must come out as ``forgotten``.
"""

from __future__ import annotations

from .conductor import CHOICES, add_arguments, run

__all__ = ["CHOICES", "add_arguments", "run"]
