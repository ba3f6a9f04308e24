"""How processes and event loops end: what is pending is drained, nothing warns, nothing hangs."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Self

import pytest

from ..programs import STRICT, complaints_of, program, run
from ..servers import ValkeyServer

QUIET = ""

USED_ON_A_LOOP = """
    import uvloop

    async def main():
        cache = AsyncCache(60, "exit")
        await cache.initialize(settings)
        await cache.set("k", 1)
        print(await cache.get("k"))
"""
CLOSED_BY_HAND = """
    for last in (False, True):
        if last:
            print = id  # once is enough
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        gc.collect()
"""
NOTHING_NEAR = """
    cache = Cache(60, "exit")
    cache.initialize(settings)
    print(cache.get("k", 1))
"""
USED_BY_THREADS = """
    cache = Cache(60, "exit")
    cache.initialize(settings)
    cache.set("k", 1)
    print(cache.get("k"))
"""


@pytest.mark.parametrize(
    "end",
    [
        USED_ON_A_LOOP + "    asyncio.run(main())",
        USED_ON_A_LOOP + "    uvloop.run(main())",
        USED_ON_A_LOOP + "        await manager.disconnect_all()\n    asyncio.run(main())",
        USED_ON_A_LOOP + "        cache.sync().get('k')\n    asyncio.run(main())\n    kept = manager.client('cache')",
        USED_ON_A_LOOP + "        sys.exit(0)\n    asyncio.run(main())",
        USED_ON_A_LOOP + CLOSED_BY_HAND,
        USED_BY_THREADS,
        NOTHING_NEAR,
        USED_BY_THREADS + "    manager.close()",
        USED_BY_THREADS + "    atexit.register(manager.close)",
        USED_BY_THREADS + "    kept = (cache, cache._core.client.thread_link()._connection)",
        USED_BY_THREADS + "    cache.get_or_set('load', lambda: 1)\n    kept = cache._core.client",
        USED_BY_THREADS + "    sys.exit(0)",
    ],
    ids=[
        "asyncio",
        "uvloop",
        "disconnected",
        "both shells",
        "exit in a coroutine",
        "loop closed by hand",
        "threads",
        "nothing near",
        "closed",
        "closed at exit",
        "kept",
        "loaded",
        "exit",
    ],
)
def test_a_program_ends_without_a_word(end: str, url: str) -> None:
    assert run(end, url) == (0, ["1"], QUIET)


@pytest.mark.parametrize("new_loop", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_loops_closed_by_hand_one_after_the_other(new_loop: str, url: str) -> None:
    """As task queues do. Without ``-W error``: uvloop's ``close`` hangs with it when any connection is open."""
    text = f"""
        import uvloop
        cache = AsyncCache(60, "exit")
        async def main(number):
            await cache.initialize(settings)
            behind = cache.write_behind(lambda key, value: None)
            print(await cache.set("k", number), await cache.get("k"), len(cache._core.client._lanes))
            await behind.set("behind", 1)
        for number in range(4):
            loop = {new_loop}()
            loop.run_until_complete(main(number))
            loop.close()
            gc.collect()
    """
    assert run(text, url, strict=False) == (0, [f"True {number} 1" for number in range(4)], QUIET)


def test_daemon_threads_are_no_obstacle(url: str) -> None:
    text = (
        USED_BY_THREADS
        + """
    busy = threading.Barrier(9)
    def work(number):
        busy.wait()
        turn = 0
        while True:
            turn += 1
            cache.set(f"k{turn % 100}", turn)
            cache.get_or_set(f"load{turn % 100}", lambda: 1, ttl=0.01)
    async def work_on_loop():
        shared = AsyncCache(60, "exit")
        await shared.initialize(settings)
        busy.wait()
        while True:
            await shared.set("loop", 1)
    for number in range(7):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    threading.Thread(target=asyncio.run, args=(work_on_loop(),), daemon=True).start()
    busy.wait()
    """
    )
    assert run(text, url) == (0, ["1"], QUIET)


def test_who_ends_later_finds_the_cache_open(url: str) -> None:
    text = """
        @atexit.register
        def last():
            print(cache.set("last", 1), cache.get("last"), cache.get_or_set("load", lambda: 2))
            manager.close()
        cache = Cache(60, "exit")
        cache.initialize(settings)
        cache.get("k")
    """
    assert run(text, url) == (0, ["True 1 2"], QUIET)


NO_MORE_THREADS = """
    def no_more(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")
    atexit.register(setattr, threading.Thread, "start", no_more)
"""


def test_an_exit_that_starts_no_thread(url: str) -> None:
    """As from Python 3.12 on: not for the writers, nor for reconnecting, nor for telling what is owed."""
    text = (
        """
    @atexit.register
    def last():
        behind.set("late", 1)
        print(cache.set("last", 1), cache.get("last"), cache.get_or_set("load", lambda: 2), behind.drain())
        manager.close()
    cache = Cache(60, "exit")
    behind = cache.write_behind(lambda key, value: say(key))
    cache.initialize(settings)
    """
        + NO_MORE_THREADS
    )
    ended = run(text, url)
    assert (ended.code, sorted(ended.lines), ended.complaints) == (0, ["True 1 2 0", "late"], QUIET)


# -- what is pending


def test_what_threads_write_behind_is_written(url: str) -> None:
    text = """
        def write(key, value):
            time.sleep(0.05)
            say(key)
        cache = Cache(60, "exit")
        cache.initialize(settings)
        behind = cache.write_behind(write)
        for number in range(20):
            behind.set(f"k{number:02}", number)
    """
    ended = run(text, url)
    assert (ended.code, sorted(ended.lines), ended.complaints) == (0, [f"k{n:02}" for n in range(20)], QUIET)


@pytest.mark.parametrize("runner", ["asyncio.run", "uvloop.run"])
def test_what_a_loop_writes_behind_is_written_on_another(runner: str, url: str) -> None:
    text = f"""
        import uvloop
        async def write(key, value):
            await asyncio.sleep(0.01)
            say(key)
        async def main():
            cache = AsyncCache(60, "exit")
            await cache.initialize(settings)
            behind = cache.write_behind(write)
            for number in range(20):
                await behind.set(f"k{{number:02}}", number)
        {runner}(main())
    """
    ended = run(text, url)
    assert (ended.code, sorted(ended.lines), ended.complaints) == (0, [f"k{n:02}" for n in range(20)], QUIET)


def test_a_writer_that_fails_is_given_up(url: str) -> None:
    text = """
        def write(key, value):
            raise OSError("the database is away")
        cache = Cache(60, "exit")
        cache.initialize(settings)
        cache.write_behind(write).set("k", 1)
    """
    began = time.monotonic()
    ended = run(text, url)
    assert time.monotonic() - began < 30, "bounded: about 10 s"
    assert ended.code == 0
    assert "write-behind of 'k' given up after 10 attempts" in ended.complaints


OWES = """
    import uvloop

    async def main():
        cache = AsyncCache(60, "exit")
        await cache.initialize(settings)
        print("ready", flush=True)
        sys.stdin.readline()  # until the server is frozen
        print(await cache.delete("k"), manager.get_connection_status("cache").owed, flush=True)
        sys.stdin.readline()  # until it is back, or gone
"""


def owing(url: str, end: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*STRICT, program(OWES + end, url)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("runner", ["asyncio.run(main())", "uvloop.run(main())"])
def test_what_is_owed_is_told_at_exit(runner: str, fresh_server: ValkeyServer) -> None:
    with Says(owing(fresh_server.url, f"    {runner}")) as process:
        assert process.line() == "ready"
        fresh_server.command("SET", "exit:k", "old")
        fresh_server.pause()
        process.say()
        assert process.line() == "False 1"
        fresh_server.resume()
        code, complaints = process.end()
    assert (code, complaints) == (0, QUIET)
    assert fresh_server.command("EXISTS", "exit:k") == 0


@pytest.mark.parametrize("away", ["killed", "frozen"])
def test_what_is_owed_to_a_server_that_is_away_is_given_up(away: str, fresh_server: ValkeyServer) -> None:
    with Says(owing(fresh_server.url, "    asyncio.run(main())")) as process:
        assert process.line() == "ready"
        fresh_server.pause()
        process.say()
        assert process.line() == "False 1"
        if away == "killed":
            fresh_server.kill()
        began = time.monotonic()
        code, complaints = process.end()
        assert time.monotonic() - began < 20, "bounded: connect_timeout and command_timeout"
    assert code == 0
    assert "the process ends with 1 writes not made good" in complaints


class Says:
    """A program that is talked with."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Let it go on; how it ended, and its complaints."""
        _, complaints = self.process.communicate("\n", timeout=30)
        return self.process.returncode, complaints_of(complaints)


def test_a_write_that_nobody_waited_for_is_not_lost(url: str, server: ValkeyServer) -> None:
    """The loop ends around it. Whether it was carried out or not, what it meant to replace is not there any more."""
    text = """
        async def main():
            cache = AsyncCache(60, "exit")
            await cache.initialize(settings)
            for number in range(100):
                await cache.set(f"k{number}", "old")
            for number in range(100):
                asyncio.create_task(cache.set(f"k{number}", "new"))
            await asyncio.sleep(0)
        asyncio.run(main())
    """
    assert run(text, url) == (0, [], QUIET)
    text = """
        cache = Cache(60, "exit")
        cache.initialize(settings)
        print({cache.get(f"k{number}") for number in range(100)} - {"new", None})
    """
    assert run(text, url).lines == ["set()"]


# -- SIGTERM


def terminated(text: str, url: str) -> tuple[int, str, str]:
    """A program that is sent SIGTERM when it says that it is ready."""
    with subprocess.Popen(
        [*STRICT, program(text, url)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, complaints = process.communicate(timeout=30)
    return process.returncode, out, complaints_of(complaints)


PENDING = """
    go = threading.Event()  # the process is to end
    def write(key, value):
        go.wait()
        say(key)
"""
PENDING_ON_A_LOOP = """
    go = asyncio.Event()
    async def write(key, value):
        await go.wait()
        say(key)
"""
WRITTEN = "".join(f"k{number}\n" for number in range(4))


def test_sigterm_of_a_script_that_turns_it_into_an_exit(url: str) -> None:
    text = (
        PENDING
        + """
    def end(*_):
        go.set()
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    cache = Cache(60, "exit")
    cache.initialize(settings)
    behind = cache.write_behind(write)
    for _ in range(4):
        behind.set(f"k{_}", 1)
    print("ready", flush=True)
    time.sleep(60)
    """
    )
    code, out, complaints = terminated(text, url)
    assert (code, "".join(sorted(out.splitlines(keepends=True))), complaints) == (0, WRITTEN, QUIET)


def test_nobody_s_signal_handlers_are_changed(url: str) -> None:
    text = """
        before = [signal.getsignal(number) for number in signal.valid_signals()]
        cache = Cache(60, "exit")
        cache.initialize(settings)
        cache.write_behind(print).set("k", 1)
        cache.get_or_set("load", lambda: 1)
        print([signal.getsignal(number) for number in signal.valid_signals()] == before)
    """
    assert "True" in run(text, url).lines


def test_sigterm_of_a_loop_with_a_handler(url: str) -> None:
    text = (
        PENDING_ON_A_LOOP
        + """
    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, go.set)
        cache = AsyncCache(60, "exit")
        await cache.initialize(settings)
        behind = cache.write_behind(write)
        for _ in range(4):
            await behind.set(f"k{_}", 1)
        print("ready", flush=True)
        await go.wait()
        await manager.disconnect_all()
    asyncio.run(main())
    """
    )
    code, out, complaints = terminated(text, url)
    assert (code, "".join(sorted(out.splitlines(keepends=True))), complaints) == (0, WRITTEN, QUIET)


def test_sigterm_of_uvicorn(url: str) -> None:
    """It lets the application end, and then ends by the signal: what is pending has to be written in the lifespan."""
    text = (
        PENDING_ON_A_LOOP
        + """
    import contextlib
    import uvicorn
    from fastapi import FastAPI
    from nearcache.http import cache_plugin

    @contextlib.asynccontextmanager
    async def lifespan(app):
        behind = app.state.cache.write_behind(write)
        for number in range(4):
            await behind.set(f"k{number}", 1)
        print("ready", flush=True)
        yield
        go.set()

    app = FastAPI(lifespan=lifespan)
    cache_plugin(app, settings)
    uvicorn.run(app, port=0, log_level="error")
    """
    )
    code, out, complaints = terminated(text, url)
    assert ("".join(sorted(out.splitlines(keepends=True))), complaints) == (WRITTEN, QUIET)
    assert code in {0, -signal.SIGTERM}
