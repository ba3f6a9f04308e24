"""Forks, with real processes: what a child has of its parent's, and what becomes of the parent."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nearcache import AsyncCache, Cache, Settings, get_multi_redis_connection_manager
from nearcache.base import _NO_TIER
from nearcache.driving import beats
from nearcache.transport.thread_wire import ThreadWaiter
from nearcache.write_behind import AsyncWriteBehind

from ..lanes import LOOPS, each_new_loop, until_read
from ..programs import program, run
from ..servers import ClusterServers, ValkeyServer, wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.usefixtures("nothing_left"),
]


class Child:
    """A forked child that calls a function, and what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            signal.alarm(40)  # whatever holds it up, it ends
            try:
                os.write(writing, pickle.dumps(work()))
                status = 0
            except BaseException:  # noqa: BLE001  # told to the parent
                os.write(writing, pickle.dumps(traceback.format_exc()))
            finally:
                os._exit(status)
        os.close(writing)
        self._reading = reading

    def result(self) -> Any:
        """What the function returned; its exception fails the test."""
        with open(self._reading, "rb") as pipe:
            data = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert code == 0, pickle.loads(data) if data else f"the child ended with {code}"
        return pickle.loads(data)


def sockets() -> set[str]:
    """The sockets this process has open, as the kernel numbers them."""
    links = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:  # the one the list was read with
            continue
    return {link for link in links if link.startswith("socket:")}


def names(server: ValkeyServer, pid: int) -> list[bytes]:
    """The connections of nearcache's that a process has, by the word of the server."""
    lines = server.command("CLIENT", "LIST").splitlines()
    return [line for line in lines if f"-{pid:x}-".encode() in line and b"name=nearcache-" in line]


def settings(url: str, **more: Any) -> Settings:
    return Settings(redis_url=url, queue_redis_url=url, _env_file=None, **more)


def use(cache: AsyncCache, new_loop: Callable[[], asyncio.AbstractEventLoop], key: str) -> dict[str, Any]:
    """What a child makes of a cache, on a loop of its own."""
    complaints: list[str] = []
    sys.unraisablehook = lambda problem: complaints.append(repr(problem))
    handler = logging.Handler()
    handler.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("asyncio").addHandler(handler)

    async def story() -> dict[str, Any]:
        gc.collect()
        seen: dict[str, Any] = {"before": await cache.lookup("parent"), "complaints": complaints}
        seen["set"] = await cache.set(key, "child")
        seen["get"] = await cache.get(key)
        seen["near"] = (await cache.lookup(key)).tier
        await get_multi_redis_connection_manager().disconnect_all()
        return seen

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(story())


def check(seen: dict[str, Any]) -> None:
    assert (seen["before"].value, seen["before"].tier) == ("old", "server"), "the near tier begins empty"
    assert (seen["set"], seen["get"], seen["near"]) == (True, "child", "near")
    assert seen["complaints"] == [], "of what was collected"


# -- sockets


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("way", ["tcp", "unix", "tls"])
@each_new_loop
def test_a_child_of_a_running_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop], way: str, server: ValkeyServer, request: pytest.FixtureRequest
) -> None:
    server.command("FLUSHALL")
    url = server.url if way == "tcp" else server.unix_url
    if way == "tls":
        port, directory = request.getfixturevalue("tls_port")
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={directory / 'ca.crt'}"

    async def story() -> None:
        cache, manager = AsyncCache(60, "fork"), get_multi_redis_connection_manager()
        before = sockets()
        await cache.initialize(settings(url))
        cache.sync().initialize(settings(url))
        await cache.set("parent", "old")
        assert await cache.get("parent") == "old"
        assert cache.sync().get("other") is None
        await manager.get_client().ping()
        ours = sockets() - before
        assert len(ours) == 3, "the loop's, the threads', and redis-py's"
        child = Child(lambda: (sockets() & ours, use(cache, new_loop, "child")))
        inherited, seen = await asyncio.to_thread(child.result)
        assert inherited == set()
        check(seen)
        await say_elsewhere(url, "parent", "new")
        await until_read(lambda: cache.get("parent"), "new")
        assert cache.sync().get("child") == "child"
        assert await manager.get_client().ping()
        assert ours <= sockets(), "the parent's are as they were"
        assert manager.get_connection_status("cache").reconnects == 0
        await manager.disconnect_all()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


async def say_elsewhere(url: str, key: str, value: str) -> None:
    """Another process writes."""
    text = f"""
        cache = Cache(60, "fork")
        cache.initialize(settings)
        print(cache.set({key!r}, {value!r}))
    """
    assert await asyncio.to_thread(run, text, url) == (0, ["True"], "")


ORPHAN = """
    import uvloop
    async def main():
        cache = AsyncCache(60, "orphan")
        await cache.initialize(settings)
        cache.sync().initialize(settings)
        await cache.get("k")
        cache.sync().get("k")
        await manager.get_client().ping()
        child = os.fork()
        if child == 0:
            signal.alarm(40)
            sys.stdin.read()
            os._exit(0)
        print(os.getpid(), flush=True)
        await asyncio.sleep(60)
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_connections_end_with_the_parent_though_a_child_lives(loop: str, url: str, server: ValkeyServer) -> None:
    text = program(f"{ORPHAN}    {loop}.run(main())", url)
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert len(names(server, pid)) == 2
        before = len(server.command("CLIENT", "LIST").splitlines())
        parent.kill()
        wait_until(lambda: not names(server, pid), "the server to see the parent's end")
        wait_until(
            lambda: len(server.command("CLIENT", "LIST").splitlines()) == before - 3, "the end of redis-py's, too"
        )
        parent.stdin.close()  # the child, which has lived until now


def test_a_child_that_ends_in_order_disturbs_nobody(url: str) -> None:
    """It runs the parent's clean-up, through the parent's loop: ``sys.exit`` in a coroutine."""
    text = """
        async def main():
            cache = AsyncCache(60, "fork")
            await cache.initialize(settings)
            await cache.set("k", 1)
            child = os.fork()
            if child == 0:
                sys.exit(3)
            # In this thread: what the child does to the poller both share is not to be hidden by this one's turns.
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(await cache.get("k"), (await cache.lookup("none")).state)
            print(manager.get_connection_status("cache").reconnects)
            await manager.disconnect_all()

        asyncio.run(main())
    """
    ended = run(text, url)
    assert (ended.code, ended.lines) == (0, ["3", "1 absent", "0"])


@pytest.mark.parametrize("runner", ["asyncio.run", "uvloop.run"])
def test_a_child_s_own_files_stay_open(runner: str, url: str) -> None:
    """The transports it was copied with close their numbers when the loop is ended: none may be a file of its own."""
    text = f"""
        import uvloop
        async def main():
            cache = AsyncCache(60, "fork")
            await cache.initialize(settings)
            cache.sync().initialize(settings)
            cache.sync().get("k")
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                files = [open(os.devnull) for _ in range(50)]
                atexit.register(lambda: [os.fstat(file.fileno()) for file in files] and os._exit(3))
                sys.exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            os._exit(0)

        {runner}(main())
    """
    ended = run(text, url, strict=False)
    assert (ended.code, ended.lines) == (0, ["3"]), ended.complaints


def test_a_process_without_a_free_descriptor_forks_well(url: str) -> None:
    """In a program of its own: libuv, if this process has a loop of its make, would end such a child."""
    text = """
        import resource
        import warnings
        def sockets():
            links = []
            for entry in os.listdir("/proc/self/fd"):
                try:
                    links.append(os.readlink(f"/proc/self/fd/{entry}"))
                except FileNotFoundError:
                    pass
            return {link for link in links if link.startswith("socket:")}
        before = sockets()
        cache = Cache(60, "fork")
        cache.initialize(settings)
        cache.set("k", 1)
        ours = sockets() - before
        reading, writing = os.pipe()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (writing + 1, hard))
        taken = []
        try:
            while True:
                taken.append(os.dup(writing))
        except OSError:
            pass
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork while there are threads, from Python 3.12 on
        child = os.fork()
        for number in taken:
            os.close(number)
        if child == 0:
            os._exit(10 * len(sockets() & ours) + (cache.get("k") != 1))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print(len(ours) > 0, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), cache.get("k"))
        manager.close()
    """
    assert run(text, url, strict=False) == (0, ["True 0 1"], "")


# -- locks


def test_forks_while_sixteen_threads_use_the_cache(url: str) -> None:
    """Whatever the threads hold at that moment, a child is not held up."""
    cache, memory = Cache(60, "many"), Cache(60, "many", "memory")
    manager = get_multi_redis_connection_manager()
    manager.register("memory", "memory://forks")
    for each in (cache, memory):
        each.initialize(settings(url, near_entries=100))
    written: list[str] = []
    behind = cache.write_behind(lambda key, value: written.append(key))
    stop, problems = threading.Event(), []

    def work(number: int) -> None:
        turn = 0
        try:
            while not stop.is_set():
                turn += 1
                for each in (cache, memory):
                    key = f"{number % 4}-{turn % 200}"
                    each.set(key, number)
                    each.get(key)
                    each.get_or_set(f"load-{turn % 50}", lambda: 1, ttl=0.01)
                    each.delete(key)
                behind.set(f"{number % 4}", turn)
        except BaseException as error:
            problems.append(error)
            raise

    def in_child() -> list[Any]:
        done = []
        for each in (cache, memory):
            for turn in range(50):
                each.set(f"child-{turn}", turn)
                done.append(each.get(f"child-{turn}") == turn)
                done.append(each.get_or_set(f"load-{turn}", lambda: 2) in (1, 2))
        done.append(behind.pending == 0)
        done.append(behind.set("child", 1))
        done.append(behind.drain() == 0 and written[-1] == "child")
        with beats._lock:
            pass
        manager.register(f"more-{os.getpid()}", "memory://more")
        return done

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            child = Child(in_child)
            assert all(child.result())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert "child" not in written


def locks() -> list[tuple[str, Any]]:
    """Every lock of every object of nearcache's, and whose it is, found by looking into all there are."""
    found: dict[int, tuple[str, Any]] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        module = str(kind.__module__)
        if (
            not module.startswith("nearcache")
            or module.startswith("nearcache.testing")
            or isinstance(thing, ThreadWaiter)
            or thing is _NO_TIER
        ):
            continue  # a waiter's is made locked, and nobody ever locks that of the tier of no client
        slots = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
        for value in (*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)):
            for lock in value if isinstance(value, list) else [value]:
                inner = lock._cond if isinstance(lock, threading.Event) else lock  # type: ignore[attr-defined]
                if hasattr(inner, "acquire") and hasattr(inner, "release"):
                    found[id(inner)] = kind.__name__, inner
    return list(found.values())


def test_whatever_another_thread_has_locked_is_free_in_the_child(url: str) -> None:
    manager = get_multi_redis_connection_manager()
    shared = {id(manager._lock), id(beats._lock)}
    others = {id(lock) for _, lock in locks()} - shared  # what earlier tests have left
    manager.register("memory", "memory://forks")
    cache, memory = Cache(60, "locks"), Cache(60, "locks", "memory")
    for each in (cache, memory):
        each.initialize(settings(url))
    behind = cache.write_behind(lambda key, value: None)
    behind.set("k", 1)

    def everything() -> bool:
        gc.collect()
        stuck = []
        for owner, lock in locks():
            if lock.acquire(blocking=False):
                lock.release()
            else:
                stuck.append(owner)
        assert set(stuck) <= {"ThreadWire"}, "the parent's connection, which nobody uses any more"
        for each in (cache, memory):
            assert each.set("k", 1, tags=["t"])
            assert each.get("k") == 1
            assert each.get_or_set("load", lambda: 2) == 2
            each.invalidate_tags("t")
            each.delete("k")
            assert each.clear() is not None
        assert behind.set("k", 2)
        assert behind.drain() == 0
        manager.register(f"more-{os.getpid()}", f"memory://more-{os.getpid()}")
        done = threading.Event()
        beats.join(done, lambda: None)
        done.set()
        manager.close()
        return True

    assert behind.drain() == 0
    all_locked, forked = threading.Event(), threading.Event()
    count: list[int] = []
    found = [(owner, lock) for owner, lock in locks() if id(lock) not in others]

    def lock_all() -> None:
        held = [lock for _, lock in found if lock.acquire(blocking=False)]
        count.append(len(held))
        all_locked.set()
        forked.wait()
        for lock in held:
            lock.release()

    thread = threading.Thread(target=lock_all)
    thread.start()
    assert all_locked.wait(10)
    child = Child(everything)
    forked.set()
    thread.join()
    assert child.result()
    assert count[0] > 80, "those of the write-behind queue alone are 65"


# -- work under way


def test_a_loader_that_forks(url: str, server: ValkeyServer) -> None:
    """The child goes on with a load that is its parent's: it gets its value, stores nothing, and frees no lease."""
    cache = Cache(60, "fork")
    cache.initialize(settings(url))
    parent = os.getpid()
    children: list[int] = []

    def load() -> str:
        child = os.fork()
        if child == 0:
            return "child"
        children.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        children.extend(server.command("EXISTS", key) for key in server.command("KEYS", "*~lease"))
        return "parent"

    value = None
    try:
        value = cache.get_or_set("k", load)
    finally:
        if os.getpid() != parent:
            os._exit(0 if value == "child" else 1)
    assert value == "parent"
    assert children == [0, 1], "the child's end, and the lease that is still the parent's"
    assert cache.get("k") == "parent"


def _load_in_child(pipe: Any, cache: AsyncCache) -> None:
    async def story() -> Any:
        return await cache.get_or_set("other", lambda: "child's")

    pipe.send(asyncio.run(story()))
    get_multi_redis_connection_manager().close()


@each_new_loop
def test_a_process_started_in_the_middle_of_a_load(new_loop: Callable[[], asyncio.AbstractEventLoop], url: str) -> None:
    cache = AsyncCache(60, "fork")
    context = multiprocessing.get_context("fork")

    async def load() -> str:
        ours, theirs = context.Pipe()
        process = context.Process(target=_load_in_child, args=(theirs, cache))
        process.start()
        with ours, theirs:
            answer = await asyncio.to_thread(ours.recv)
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
        return f"{answer} and mine"

    async def story() -> None:
        await cache.initialize(settings(url))
        loads = [cache.get_or_set("k", load) for _ in range(3)]
        assert await asyncio.gather(*loads) == ["child's and mine"] * 3
        assert cache.get_stats().loads == 1
        assert await cache.get("other") == "child's"
        await get_multi_redis_connection_manager().disconnect_all()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


def test_what_is_pending_is_written_by_the_parent_alone(url: str, tmp_path: Path) -> None:
    cache, log = Cache(60, "fork"), tmp_path / "log"
    cache.initialize(settings(url))
    go = threading.Event()

    def write(key: str, value: Any) -> None:
        if value != "child":
            go.wait()
        with log.open("a") as file:
            file.write(f"{key}={value}\n")

    behind = cache.write_behind(write)
    for number in range(10):
        behind.set(f"k{number}", "parent")

    def in_child() -> tuple[int, int, int]:
        pending = behind.pending
        behind.set("own", "child")
        left = behind.drain()
        get_multi_redis_connection_manager().close()
        return pending, left, behind.pending

    assert Child(in_child).result() == (0, 0, 0)
    assert behind.pending == 10
    go.set()
    assert behind.drain() == 0
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(["own=child", *(f"k{number}=parent" for number in range(10))])


@each_new_loop
def test_what_is_pending_on_a_loop_is_written_by_the_parent_alone(
    new_loop: Callable[[], asyncio.AbstractEventLoop], url: str
) -> None:
    cache = AsyncCache(60, "fork")
    written: list[str] = []

    async def story() -> None:
        await cache.initialize(settings(url))
        go = asyncio.Event()

        async def write(key: str, value: Any) -> None:
            if value == "parent":
                await go.wait()
            written.append(f"{key}={value}")

        behind: AsyncWriteBehind = cache.write_behind(write)
        for number in range(10):
            await behind.set(f"k{number}", "parent")

        async def in_child() -> tuple[int, list[str]]:
            pending = behind.pending
            await behind.set("own", "child")
            await get_multi_redis_connection_manager().disconnect_all()
            return pending, written

        def work() -> Any:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                return runner.run(in_child())

        child = Child(work)
        assert await asyncio.to_thread(child.result) == (0, ["own=child"])
        go.set()
        await get_multi_redis_connection_manager().disconnect_all()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())
    assert sorted(written) == [f"k{number}=parent" for number in range(10)]


def test_both_make_good_what_could_not_be_written(fresh_server: ValkeyServer) -> None:
    cache = Cache(60, "fork")
    cache.initialize(settings(fresh_server.url))
    cache.set("k", "old")
    fresh_server.pause()
    cache.delete("k")
    manager = get_multi_redis_connection_manager()
    assert manager.get_connection_status("cache").owed == 1

    def in_child() -> tuple[int, Any, int]:
        owed = manager.get_connection_status("cache").owed
        fresh_server.resume()
        wait_until(lambda: cache.set("mine", 1), "the child to reach the server")
        return owed, cache.get("k"), manager.get_connection_status("cache").owed

    assert Child(in_child).result() == (1, None, 0)
    wait_until(lambda: not manager.get_connection_status("cache").owed, "the parent to have made it good, too")
    assert cache.get("k") is None


# -- servers that fork


def _serve(cache: Cache, pipe: Any) -> None:
    """A worker of a prefork pool: takes keys until there are no more."""
    while (key := pipe.recv()) is not None:
        pipe.send((os.getpid(), cache.get_or_set(key, lambda: f"by {os.getpid()}")))
    get_multi_redis_connection_manager().close()


@pytest.mark.parametrize("warm", [True, False], ids=["used before", "not used before"])
def test_a_prefork_pool_whose_parent_preloads(warm: bool, url: str) -> None:
    """As Celery's workers: the cache is made, and perhaps used, by the parent."""
    cache = Cache(60, "pool")
    cache.initialize(settings(url))
    if warm:
        assert cache.get_or_set("warm", lambda: "by the parent") == "by the parent"
    context = multiprocessing.get_context("fork")
    pipes, workers = [], []
    for _ in range(4):
        ours, theirs = context.Pipe()
        worker = context.Process(target=_serve, args=(cache, theirs))
        worker.start()
        theirs.close()
        pipes.append(ours)
        workers.append(worker)
    answers = []
    for key in ("warm", "one", "one"):
        for pipe in pipes:
            pipe.send(key)
        answers.append([pipe.recv() for pipe in pipes])
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send(None)
        worker.join(10)
        pipe.close()
        assert worker.exitcode == 0
    for by_key in answers:
        assert len({value for _, value in by_key}) == 1, "one load in the fleet"
    assert [value == "by the parent" for _, value in answers[0]] == [warm] * 4
    assert {value for _, value in answers[1]} == {cache.get("one")}


def test_a_child_of_a_cluster_s_client() -> None:
    with ClusterServers() as cluster:
        cache = Cache(60, "fork")
        before = sockets()
        cache.initialize(settings(cluster.url))
        for number in range(20):
            cache.set(f"k{number}", number)
        ours = sockets() - before

        def in_child() -> tuple[int, list[int]]:
            return len(sockets() & ours), [cache.get(f"k{number}") for number in range(20)]

        assert len(ours) == 3 + 2, "one to each primary, and a pair that wakes who looks for others"
        assert Child(in_child).result() == (0, list(range(20)))
        assert [cache.get(f"k{number}") for number in range(20)] == list(range(20))
        get_multi_redis_connection_manager().close()
