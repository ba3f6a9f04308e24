"""``python -m benchmarks coherence``: look for a value that no reader may see, while everything that can fail does.

How it works
============

*Origin.* For every key there is a number outside the cache, in a file that all processes have mapped: the truth a
cache is a copy of. Each key has **one** writer. It adds one to the origin, then makes the cache follow: by ``set``,
``delete``, ``expire``, ``clear`` or its tags. A write that failed, or whose outcome is unknown, is tried again until
it is acknowledged, and only then is the origin raised again. So at any time the versions up to *acknowledged* (A) are
settled, and at most one more is in flight: A <= origin <= A + 1. Readers ``get``, ``get_many``, ``get_or_set`` and call
decorated functions; what they load is the origin's number at that moment, which a slow loader hands over late. A value
carries the number of its key and its version; dicts are spoilt after they were read, so that a copy that is shared by
mistake shows up as a wrong value.

*Who.* Four processes; in each two event loops (asyncio, and uvloop where installed) with several reading tasks and a
writing one, and threads that read and write; all with ``near=True`` and ``near=False`` caches on one client. Half of
the keys are read with the near tier only, because other reads could repair what is wrong. Every few milliseconds
another key is hot, the same one for everybody, so that writes meet reads.

*Faults*, each by its own name: ``kill`` (``CLIENT KILL`` of one or all connections of nearcache), ``pause`` (``CLIENT
PAUSE`` for 50 to 800 ms), ``stop`` (``SIGSTOP`` of the server for as long), ``block`` (``time.sleep`` on an event
loop). The deadline of a command is 300 ms, so some of the pauses exceed it and some do not.

*Rounds.* After every second the faults end, the writers finish, a moment later the readers, and every cache of every
process is asked for every key. A stale copy that nobody in its process can tell from a current one shows up there.

What is a violation
===================

Let a read of key *k* in process *P* begin at *s*, end at *e*, and return version *v*; a miss says nothing.

1. ``wrong value``: it is not a value of *k*, whole, in its own type.
2. ``from the future``: *v* > origin(k) at *e*. The writer raises the origin before it writes.
3. ``went back``: *v* < floor(P, k) at *s*, where the floor is the largest version that P is bound to know:

   a. what any read in P, by any task, thread, loop and cache, had *returned* before *s*;
   b. what a writer in P had been *acknowledged* before *s*: of ``set`` v the value itself, and of ``delete``, ``clear``
      and ``invalidate_tags`` after the origin became v, that nothing older is left. ``expire`` promises this from the
      end of the new time to live on (and 10 ms), or at once if there was nothing to expire. ``expire_tags`` promises
      nothing of the kind: what it expired may serve as stale, while a load is slow or fails.

   The floor is taken when the read begins: of reads that overlap, either may return the older version, and a caller may
   be given the result of a load that had begun before it came, but only while nobody in P knew better.
4. ``raised``: a read raised anything but its own loader's error.
5. ``stale after rest``: all writes are acknowledged, the server answers, two seconds have passed, and a read returns
   what is not the origin's version. ``lost after rest``: ``get`` misses what ``get_or_set`` has just returned: a cache
   that keeps nothing would never be wrong.
6. ``not acknowledged``: a write failed for 20 seconds on end.

One kind of read does not raise the floor (it is held against it, though): a load gives the origin's number, which may
be the version in flight, and may not get stored, because a write was quicker or the server was away. The cache may then
rightly answer with the settled version. So what ``get_or_set`` and decorated functions return does not count where it
is a version that a loader *of this process* gave; as soon as ``get`` returns the same, it does.

What a cache answers while the server is away, from a near copy for instance, is held against the same floor.

Not promised, hence not checked: how soon a write in one process is seen in another while there are faults. The number
of reads ``behind`` (older than what was acknowledged when they ended) shows that writes and reads do meet.

Reads and writes of the table are of single, aligned 8-byte words: one machine instruction each. The clock of the time
lines is ``CLOCK_MONOTONIC``, which all processes share. The seed decides which operations each actor does, in which
order; which key is hot when they come to it, and how they interleave, is the machine's affair.

*Does it notice?* ``--break marks``, ``--break pushes`` and ``--break taint`` switch a safety of nearcache off in the
workers: each must make it fail, and the run ends with the round in which it does. *Does it cry wolf?*
``NEARCACHE_NEAR_ENABLED=false`` and ``--only get,get_many`` leave reads that the server answers one by one: with all
faults there must be no violation.
"""

from __future__ import annotations

from .conductor import CHOICES, add_arguments, run

__all__ = ["CHOICES", "add_arguments", "run"]
