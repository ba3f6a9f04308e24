"""Each testing tool does what it says, on ``memory://``; ``tests/integration/test_faults.py`` has real lanes."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nearcache import AsyncCache, Cache, NotInitialized, Settings
from nearcache.core.clock import Clock, clock
from nearcache.errors import CommandRefused, CommandTimeout, ConnectionFailed, LoadTimeout
from nearcache.testing import FakeClock, Faults, Sabotage, drop_pushes, ignore_marks, keep_tainted, sabotage
from nearcache.testing.links import Held, Verdict
from nearcache.transport.memory import get_store

TIMEOUT = Settings(_env_file=None).command_timeout


class Loader:
    """Counts its calls; waits until it is told to go on."""

    def __init__(self, value: object = "new") -> None:
        self.value = value
        self.calls = 0
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self) -> object:
        self.calls += 1
        self.began.set()
        await self.go_on.wait()
        return self.value


# -- the clock


def test_time_stands_still_until_it_is_advanced() -> None:
    time = FakeClock(start=1_000.0)
    before = time.monotonic()
    assert (time.monotonic(), time.wall()) == (before, 1_000.0)
    for _ in range(10):
        time.advance(0.1)
    assert (time.monotonic(), time.wall()) == (before + 1, 1_001.0)
    for seconds in (-1, float("nan")):
        with pytest.raises(ValueError, match="time does not go back"):
            time.advance(seconds)


def test_it_is_in_force_inside_the_block() -> None:
    with FakeClock() as outer, FakeClock() as inner:
        assert clock() == Clock(inner.monotonic, inner.wall, inner.after) != Clock(outer.monotonic, outer.wall)
    assert clock() == Clock()


def test_a_memory_store_belongs_to_its_clock() -> None:
    real = get_store("shared", 0, 10, 10_000)
    with FakeClock():
        faked = get_store("shared", 0, 10, 10_000)
        assert faked is not real
        assert faked is get_store("shared", 0, 10, 10_000)
    assert get_store("shared", 0, 10, 10_000) is real


def test_what_becomes_due_is_called_in_order_at_its_moment() -> None:
    time, seen = FakeClock(), []
    start = time.monotonic()

    def note(name: str) -> Callable[[], None]:
        return lambda: seen.append((name, time.monotonic() - start))

    def again() -> None:
        note("again")()
        time.after(1, again)

    time.after(2.5, note("later"))
    time.after(1, again)
    cancel = time.after(1.5, note("never"))
    cancel()
    cancel()
    time.after(0, note("now"))
    assert seen == [("now", 0)]
    time.advance(2.5)
    assert seen == [("now", 0), ("again", 1), ("again", 2), ("later", 2.5)]


@pytest.mark.parametrize("up", [11.0, 33_390.0, 4_000_003.0])
@pytest.mark.parametrize("kind", ["near", "remote"])
async def test_values_expire_however_long_the_machine_is_up(
    fake_clock: FakeClock,
    async_cache: AsyncCache,
    other: AsyncCache,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    up: float,
) -> None:
    monkeypatch.setattr(fake_clock, "_base", up)
    cache = async_cache if kind == "near" else other
    await async_cache.set("key", "value", ttl=60)
    fake_clock.advance(59.999)
    assert await cache.get("key") == "value"
    fake_clock.advance(0.001)
    assert await cache.get("key") is None


async def test_grace_and_age(fake_clock: FakeClock, async_cache: AsyncCache) -> None:
    await async_cache.set("key", "value", ttl=60, grace=30)
    fake_clock.advance(75)
    found = await async_cache.lookup("key")
    assert (found.state, found.age, found.remaining) == ("stale", 75, -15)
    fake_clock.advance(15)
    assert (await async_cache.lookup("key")).state == "absent"


async def test_a_fixture_made_before_the_clock_lives_on_it_all_the_same(
    async_cache: AsyncCache, fake_clock: FakeClock
) -> None:
    await async_cache.set("key", "value", ttl=60)
    fake_clock.advance(60)
    assert await async_cache.get("key") is None


async def test_a_soft_timeout_passes(fake_clock: FakeClock, async_cache: AsyncCache) -> None:
    await async_cache.set("key", "old", ttl=60, grace=600)
    fake_clock.advance(60)
    load = Loader()
    asking = asyncio.create_task(async_cache.get_or_set("key", load, soft_timeout=500, load_timeout=1_000))
    await load.began.wait()
    fake_clock.advance(499.5)
    await asyncio.sleep(0)
    assert not asking.done()
    fake_clock.advance(0.5)
    assert await asking == "old"
    load.go_on.set()
    assert await async_cache.get_or_set("key", Loader(), soft_timeout=10) == "new"  # the same flight


async def test_a_load_timeout_passes(fake_clock: FakeClock, async_cache: AsyncCache) -> None:
    load = Loader()
    asking = asyncio.create_task(async_cache.get_or_set("key", load, load_timeout=20))
    await load.began.wait()
    fake_clock.advance(19)
    await asyncio.sleep(0)
    assert not asking.done()
    fake_clock.advance(1)
    with pytest.raises(LoadTimeout):
        await asking


async def test_a_holder_goes_on_beating(fake_clock: FakeClock, async_cache: AsyncCache, other: AsyncCache) -> None:
    """However much time passes, nobody takes it for dead while it loads."""
    load = Loader()
    first = asyncio.create_task(async_cache.get_or_set("key", load))
    await load.began.wait()
    second = asyncio.create_task(other.get_or_set("key", load))
    for _ in range(10):
        await asyncio.to_thread(fake_clock.wait_for_timer, 0.6)  # the second one's look at whether the first one lives
        fake_clock.advance(2)
    load.go_on.set()
    assert await asyncio.gather(first, second) == ["new", "new"]
    assert load.calls == 1


def test_a_soft_timeout_passes_for_a_thread(fake_clock: FakeClock, sync_cache: Cache) -> None:
    sync_cache.set("key", "old", ttl=60, grace=600)
    fake_clock.advance(60)
    go_on, got = threading.Event(), []

    def load() -> str:
        assert go_on.wait(20)
        return "new"

    asking = threading.Thread(target=lambda: got.append(sync_cache.get_or_set("key", load, soft_timeout=0.5)))
    asking.start()
    fake_clock.wait_for_timer(0.5)
    assert not got
    fake_clock.advance(0.5)
    asking.join(20)
    assert got == ["old"]
    go_on.set()


def test_a_thread_that_loads_goes_on_beating(fake_clock: FakeClock, sync_cache: Cache, other: AsyncCache) -> None:
    calls, began, go_on, got = [], threading.Event(), threading.Event(), []

    def load() -> str:
        calls.append(1)
        began.set()
        assert go_on.wait(20)
        return "new"

    threads = [
        threading.Thread(target=lambda cache=cache: got.append(cache.get_or_set("key", load)))
        for cache in (sync_cache, other.sync())
    ]
    threads[0].start()
    assert began.wait(20)
    threads[1].start()
    for _ in range(10):
        fake_clock.wait_for_timer(0.6)  # the second one's look at whether the first one lives
        fake_clock.advance(2)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert (got, len(calls)) == (["new", "new"], 1)


def test_waiting_for_a_timer_that_nobody_sets_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearcache.testing.clock._PATIENCE", 0.01)
    time = FakeClock()
    time.after(2, lambda: None)
    time.wait_for_timer(2)
    with pytest.raises(TimeoutError):
        time.wait_for_timer(1.9)


# -- faults


def test_faults_need_a_cache_that_is_initialised() -> None:
    with pytest.raises(NotInitialized):
        Faults(AsyncCache())


async def test_fail_next_and_all(async_cache: AsyncCache, faults: Faults) -> None:
    faults.fail(times=2)
    assert [await async_cache.set("key", number) for number in range(4)] == [False, False, True, True]
    faults.fail()
    assert [await async_cache.set("key", number) for number in range(3)] == [False] * 3
    faults.heal()
    assert await async_cache.set("key", 1) is True
    assert async_cache.get_stats().errors == 5


def test_fail_for_threads(sync_cache: Cache, faults: Faults) -> None:
    faults.fail(ConnectionFailed("gone fishing"), times=1)
    with pytest.raises(ConnectionFailed, match="gone fishing"):
        sync_cache.ping()
    assert sync_cache.ping() == "PONG"


async def test_what_fails_is_not_sent(async_cache: AsyncCache, other: AsyncCache, faults: Faults) -> None:
    faults.fail()
    assert await async_cache.set("key", 1) is False
    assert await other.get("key") is None


async def test_match(async_cache: AsyncCache, other: AsyncCache, faults: Faults) -> None:
    await other.set_many({"a": 1, "b": 2})
    faults.fail(match="get")
    assert await async_cache.ping() == "PONG"
    assert await async_cache.get("a") is None
    faults.heal()
    faults.fail(match=lambda words: any(str(word).find("test:b") >= 0 for word in words))
    assert (await async_cache.get("a"), await async_cache.get("b")) == (1, None)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_refused_command_leaves_the_others_of_its_batch(
    async_cache: AsyncCache, other: AsyncCache, faults: Faults, kind: str
) -> None:
    await other.set("key", "value")
    faults.fail(CommandRefused("ERR not today"), match="PTTL", times=1)
    client = async_cache._core.client
    seen: list[list[object]] = []
    commands = [("EXISTS", b"test:key"), ("PTTL", b"test:key"), ("PING",), ("PTTL", b"test:key")]
    if kind == "sync":
        replies = client.thread_link().request_many(commands, seen.append)
    else:
        waiter = asyncio.get_running_loop().create_future()
        client.link().post_many(commands, waiter, seen.append)
        replies = await waiter
    assert [type(reply) for reply in replies] == [int, CommandRefused, bytes, int]
    assert seen == [replies]


async def test_timeouts_open_the_breaker(fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults) -> None:
    client, settings = async_cache._core.client, Settings(_env_file=None)
    faults.fail(CommandTimeout, times=settings.breaker_failures)
    for _ in range(settings.breaker_failures):
        assert client.breaker.state == "closed"
        with pytest.raises(CommandTimeout):
            await async_cache.ping()
    assert client.breaker.state == "open"
    with pytest.raises(ConnectionFailed, match="breaker"):
        await async_cache.ping()
    fake_clock.advance(settings.breaker_reset)
    assert client.breaker.state == "half-open"
    assert await async_cache.ping() == "PONG"
    assert client.breaker.state == "closed"


async def test_healing_closes_the_breaker(async_cache: AsyncCache, faults: Faults) -> None:
    """The store of ``memory://`` is there at once; no probe is needed."""
    client = async_cache._core.client
    faults.fail(CommandTimeout)
    while client.breaker.closed:
        await async_cache.get("key")
    faults.heal()
    assert client.breaker.closed
    assert await async_cache.ping() == "PONG"


async def test_a_late_reply_is_a_sign_of_life(fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults) -> None:
    breaker = async_cache._core.client.breaker
    faults.fail(CommandTimeout, times=1)
    faults.delay(0.5)
    await async_cache.get("key")
    asking = asyncio.create_task(async_cache.ping())
    await asyncio.sleep(0)
    assert breaker.failing
    fake_clock.advance(0.5)
    assert await asking == "PONG"
    assert not breaker.failing


async def test_faults_end_with_the_block(async_cache: AsyncCache) -> None:
    client = async_cache._core.client
    links = vars(client).copy()
    with Faults(async_cache) as outer, Faults(async_cache) as inner:
        outer.fail()
        inner.delay(1)
        assert vars(client).keys() - links.keys() == {"link", "thread_link"}
    assert vars(client) == links
    assert await async_cache.set("key", 1) is True


async def test_a_reply_comes_late(fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults) -> None:
    faults.delay(0.5, match="PING")
    asking = asyncio.create_task(async_cache.ping())
    await asyncio.sleep(0)
    fake_clock.advance(0.499)
    await asyncio.sleep(0)
    assert not asking.done()
    assert await async_cache.get("another") is None  # not held up
    fake_clock.advance(0.001)
    assert await asking == "PONG"


def test_a_reply_comes_late_to_a_thread(fake_clock: FakeClock, sync_cache: Cache, faults: Faults) -> None:
    faults.delay(0.5, times=1)
    got: list[str] = []
    asking = threading.Thread(target=lambda: got.append(sync_cache.ping()))
    asking.start()
    fake_clock.wait_for_timer(0.5)
    assert not got
    fake_clock.advance(0.5)
    asking.join(20)
    assert got == [sync_cache.ping()]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_reply_comes_late_in_real_time(async_cache: AsyncCache, faults: Faults, kind: str) -> None:
    faults.delay(0.05, times=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await (async_cache.ping() if kind == "async" else asyncio.to_thread(async_cache.sync().ping)) == "PONG"
    assert loop.time() - began > 0.04


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_reply_that_is_too_late_is_a_timeout(
    fake_clock: FakeClock, async_cache: AsyncCache, other: AsyncCache, faults: Faults, kind: str
) -> None:
    """The command is carried out, and its hook still sees the late reply."""
    client, seen = async_cache._core.client, list[list[object]]()
    commands = [("SET", b"test:key", b"1")]
    faults.delay(TIMEOUT + 1)
    asking: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    if kind == "async":
        client.link().post_many(commands, asking, seen.append)
    else:
        asking = asyncio.create_task(asyncio.to_thread(client.thread_link().request_many, commands, seen.append))
        await asyncio.to_thread(fake_clock.wait_for_timer, TIMEOUT)
    assert other._core.client.thread_link().request(("EXISTS", b"test:key")) == 1
    fake_clock.advance(TIMEOUT)
    with pytest.raises(CommandTimeout):
        await asking
    assert seen == []
    fake_clock.advance(1)
    assert seen == [[b"OK"]]


async def test_healing_lets_replies_arrive(fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults) -> None:
    faults.delay(0.5)
    asking = asyncio.create_task(async_cache.ping())
    await asyncio.sleep(0)
    faults.heal()
    assert await asking == "PONG"
    fake_clock.advance(1)


async def test_a_lost_connection_takes_its_replies_with_it(
    fake_clock: FakeClock, async_cache: AsyncCache, faults: Faults
) -> None:
    faults.delay(0.5)
    asking = asyncio.create_task(async_cache.ping())
    await asyncio.sleep(0)
    faults.disconnect()
    with pytest.raises(ConnectionFailed):
        await asking
    fake_clock.advance(1)


async def test_a_held_reply_arrives_once_or_never(faults: Faults) -> None:
    """Even when its timer is set off by another thread at the moment of healing, or of a lost connection."""
    for end, heard in ((Held.release, 1), (lambda held: held.lose(ConnectionFailed()), 0)):
        seen: list[list[object]] = []
        waiter = asyncio.get_running_loop().create_future()
        held = Held(faults, None, Verdict(None, {}, 60.0), waiter, seen.append, asyncio.get_running_loop())
        held.set_result([1])
        end(held)
        held.arrive()
        assert len(seen) == heard
        assert (waiter.exception() is None) is bool(heard)


async def test_after_a_lost_connection_the_server_is_asked_again(async_cache: AsyncCache, faults: Faults) -> None:
    await async_cache.set("key", 1)
    faults.fail(match="GET")
    assert await async_cache.get("key") == 1  # near
    faults.disconnect()
    misses = async_cache.get_stats().errors
    await async_cache.get("key")
    assert async_cache.get_stats().errors == misses + 1


async def test_dropped_pushes_leave_what_is_near_as_it_was(
    fake_clock: FakeClock, async_cache: AsyncCache, other: AsyncCache, faults: Faults
) -> None:
    await async_cache.set("key", "old")
    faults.drop_pushes()
    await other.set("key", "new")
    assert await async_cache.get("key") == "old"
    fake_clock.advance(Settings(_env_file=None).near_ttl)
    assert await async_cache.get("key") == "new"
    await async_cache.set("key", "own")
    assert await async_cache.get("key") == "own"
    assert await async_cache.clear() == 1
    assert await async_cache.get("key") is None
    faults.heal()
    await async_cache.set("key", "old")
    await other.set("key", "new")
    assert await async_cache.get("key") == "new"


# -- sabotage


async def overtaken(cache: AsyncCache, other: AsyncCache, time: FakeClock) -> object:
    """What a cache says after a write by another client overtook the reply to its read."""
    await other.set("key", "old")
    await cache.exists("nothing")
    with Faults(cache) as faults:
        faults.delay(0.5, match="GET")
        reading = asyncio.create_task(cache.get("key"))
        await asyncio.sleep(0)
        await other.set("key", "new")
        time.advance(0.5)
        assert await reading == "old"
    return await cache.get("key")


async def overwritten(cache: AsyncCache, other: AsyncCache, time: FakeClock) -> object:
    """What a cache says after another client wrote a key that it keeps."""
    await cache.set("key", "old")
    await other.set("key", "new")
    return await cache.get("key")


@pytest.mark.parametrize("story", [overtaken, overwritten])
async def test_nothing_is_stale(
    fake_clock: FakeClock, async_cache: AsyncCache, other: AsyncCache, story: Callable[..., object]
) -> None:
    assert await story(async_cache, other, fake_clock) == "new"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "switch", "story"),
    [
        ("marks", ignore_marks, overtaken),
        ("taint", keep_tainted, overtaken),
        ("pushes", drop_pushes, overtaken),
        ("pushes", drop_pushes, overwritten),
    ],
)
@pytest.mark.parametrize("by_name", [True, False])
async def test_a_sabotaged_tier_is_stale(
    fake_clock: FakeClock,
    async_cache: AsyncCache,
    other: AsyncCache,
    name: str,
    switch: Callable[[], Sabotage],
    story: Callable[..., object],
    *,
    by_name: bool,
) -> None:
    with sabotage(name) if by_name else switch():  # type: ignore[arg-type]
        assert await story(async_cache, other, fake_clock) == "old"  # type: ignore[misc]
    await async_cache.clear()
    assert await story(async_cache, other, fake_clock) == "new"  # type: ignore[misc]


@pytest.mark.parametrize("keys", [[b"counter"], None])
async def test_ignored_marks_let_an_outdated_version_in(async_cache: AsyncCache, keys: list[bytes] | None) -> None:
    """A tainted mark of a counter matters to ``marks``, not to ``taint``."""
    near = async_cache._core.tier
    link = async_cache._core.client.link()
    for name, learned in (("taint", False), ("marks", True)):
        with sabotage(name):  # type: ignore[arg-type]
            mark = near.mark(b"counter")
            near.revoked(keys)
            near.learn(link, b"counter", mark, (1, 0))
        assert (link.counters.pop(b"counter", None) is not None) is learned


# -- as a whole


PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


@pytest.mark.parametrize("plugin", ["pytest-asyncio", "anyio"])
def test_the_tests_of_the_page_pass(tmp_path: Path, plugin: str) -> None:
    """As a user has them: in a directory of their own, with nothing of ours but the fixtures."""
    samples = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    tests = [sample for sample in samples if "def test_" in sample]
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["nearcache.testing.fixtures"]\n')
    mark = "import pytest\n\npytestmark = pytest.mark.anyio\n\n" if plugin == "anyio" else ""
    (tmp_path / "test_page.py").write_text(mark + "\n\n".join(tests))
    options = ["-p", "no:valkey", "-p", "no:cacheprovider", "-W", "error", "-k", "not trio"]
    if plugin == "anyio":
        options += ["-p", "no:asyncio"]
    else:
        options += ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    assert f"{sum(test.count('def test_') for test in tests)} passed" in run.stdout


def test_nearcache_does_not_import_it_and_it_does_not_import_pytest() -> None:
    code = "import sys, nearcache; assert 'nearcache.testing' not in sys.modules; import nearcache.testing; "
    code += "assert not {'pytest', '_pytest'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
