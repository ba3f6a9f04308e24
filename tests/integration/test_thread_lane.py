"""The connection that threads share: right replies under contention, deadlines, losses, idleness, the end."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from nearcache.core.breaker import Breaker
from nearcache.errors import CommandRefused, CommandTimeout, ConnectionFailed, NotInitialized
from nearcache.tiers import remote
from nearcache.transport.endpoint import parse_url
from nearcache.transport.thread_lane import ThreadLane
from nearcache.transport.thread_wire import ThreadWire, open_thread_wire

from ..lanes import GREETING, INFO, TIME, Versions
from ..servers import Client, ValkeyServer, wait_until


class Bench:
    """Opens lanes, and closes them at the end."""

    def __init__(self) -> None:
        self.lanes: list[ThreadLane] = []
        self.states: list[str | None] = []
        self.breaker = Breaker(3, 1.0, lambda: 0.0)
        self.listener: Versions = Versions()

    def open(self, url: str, *, command_timeout: float = 5.0) -> ThreadLane:
        endpoint = parse_url(url, variable="url")
        lane = ThreadLane(
            lambda kill: open_thread_wire(
                endpoint,
                self.listener,
                command_timeout=command_timeout,
                connect_timeout=2.0,
                client_name="thread-lane",
                kill=kill,
                track_all=True,
            ),
            command_timeout=command_timeout,
            breaker=self.breaker,
            on_state=lambda lane, error: self.states.append(None if error is None else str(error)),
            listener=self.listener,
            track_all=True,
        )
        self.listener.lanes.append(lane)
        self.lanes.append(lane)
        return lane


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for lane in bench.lanes:
        lane.close()
    wait_until(
        lambda: not [t for t in threading.enumerate() if t.name == "nearcache-reconnect"], "reconnecting to have ended"
    )
    assert not watchers()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "nearcache-watch"]


def identity(lane: ThreadLane) -> int:
    """The id of the lane's connection; asking the lane would make it look."""
    assert lane._connection is not None
    assert lane._connection.client_id is not None
    return lane._connection.client_id


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_every_thread_gets_its_own_replies(bench: Bench, url: str, server: ValkeyServer) -> None:
    for n in range(400):
        server.command("SET", f"k{n}", n)
    lane = bench.open(url)

    def work(thread: int) -> int:
        wrong = 0
        for i in range(1_500):
            n = (thread * 31 + i * 7) % 399
            if i % 3:
                wrong += lane.request(("GET", f"k{n}")) != b"%d" % n
            else:
                replies = lane.request_many([("GET", f"k{n}"), ("ECHO", f"{thread}"), ("GET", f"k{n + 1}")])
                wrong += replies != [b"%d" % n, b"%d" % thread, b"%d" % (n + 1)]
        return wrong

    assert in_threads(16, work) == [0] * 16
    assert server.command("CLIENT", "LIST").count(b"name=thread-lane") == 1


def test_refusals_are_replies_and_large_values_pass(bench: Bench, url: str) -> None:
    lane = bench.open(url)
    assert isinstance(lane.request(("NOSUCH",)), CommandRefused)
    value = bytes(range(256)) * 4096
    assert (
        in_threads(4, lambda n: lane.request_many([("SET", f"big{n}", value), ("GET", f"big{n}")])[1] == value)
        == [True] * 4
    )


def test_a_frozen_server_costs_one_deadline_and_late_replies_reach_nobody(
    bench: Bench, fresh_server: ValkeyServer
) -> None:
    fresh_server.command("SET", "a", "a's")
    fresh_server.command("SET", "b", "b's")
    lane = bench.open(fresh_server.url, command_timeout=0.2)
    assert lane.request(("GET", "a")) == b"a's"
    fresh_server.pause()
    try:

        def ask(_: int) -> str:
            with pytest.raises(CommandTimeout, match=r"0\.2 s"):
                lane.request(("GET", "a"))
            return "late"

        assert in_threads(8, ask) == ["late"] * 8
        assert not bench.breaker.closed
    finally:
        fresh_server.resume()
    replies = in_threads(8, lambda n: lane.request(("GET", "b")))
    assert replies == [b"b's"] * 8
    assert lane.connects == 1, "the connection stays"
    assert bench.breaker.closed


def test_a_silent_server_is_left_and_told_to_drop_the_old_connection(bench: Bench, fresh_server: ValkeyServer) -> None:
    lane = bench.open(fresh_server.url, command_timeout=0.1)
    lane.request(("SET", "key", "before"))
    fresh_server.pause()
    try:
        with pytest.raises(CommandTimeout):
            lane.request(("SET", "key", "old"))
        assert lane.connected, "one deadline is not enough"
        while lane.connected:
            with pytest.raises((CommandTimeout, ConnectionFailed)):
                lane.request(("SET", "key", "old"))
    finally:
        fresh_server.resume()
    wait_until(lambda: lane.connected, "the lane to be back")
    assert lane.request(("SET", "key", "new")) == b"OK"
    assert fresh_server.command("CLIENT", "LIST").count(b"name=thread-lane") == 1
    assert lane.request(("GET", "key")) == b"new"


def test_a_server_killed_in_mid_flight(bench: Bench, fresh_server: ValkeyServer) -> None:
    lane = bench.open(fresh_server.url)
    lane.open()
    fresh_server.pause()
    started = threading.Barrier(9)

    def ask(_: int) -> Exception:
        started.wait()
        with pytest.raises(ConnectionFailed) as caught:
            lane.request(("GET", "a"))
        return caught.value

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, n) for n in range(8)]
        started.wait()
        fresh_server.kill()
        errors = [future.result() for future in asking]
    assert len({id(error) for error in errors}) == 8, "an error of one's own: raising adds a traceback"
    assert not any(isinstance(error, CommandTimeout) for error in errors)
    with pytest.raises(ConnectionFailed):
        lane.request(("PING",))
    fresh_server.start()
    wait_until(lambda: lane.connected, "the lane to be back")
    assert lane.request(("PING",)) == b"PONG"
    assert bench.states[0] is None
    assert bench.states[-1] is None
    assert len(bench.states) >= 3


def test_a_connection_closed_while_idle_costs_no_command(
    bench: Bench, url: str, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearcache.transport.thread_lane._IDLE", 0.0)
    lane = bench.open(url)
    assert lane.request(("PING",)) == b"PONG"
    identity = lane.request(("CLIENT", "ID"))
    server.command("CLIENT", "KILL", "ID", identity)
    wait_until(lambda: b"name=thread-lane" not in server.command("CLIENT", "LIST"), "the connection to be gone")
    assert lane.request(("PING",)) == b"PONG"
    assert lane.connects == 2


def test_a_server_that_is_not_there(bench: Bench, fresh_server: ValkeyServer) -> None:
    fresh_server.kill()
    lane = bench.open(fresh_server.url)
    with pytest.raises(ConnectionFailed):
        lane.open()
    with pytest.raises(ConnectionFailed):
        lane.request(("PING",))
    fresh_server.start()
    wait_until(lambda: lane.connected, "the lane to be there")
    assert lane.request(("PING",)) == b"PONG"


def test_what_a_hook_stores_a_push_revokes(bench: Bench, url: str, server: ValkeyServer) -> None:
    lane = bench.open(url)

    def learn() -> None:
        def remember(replies: list[Any]) -> None:
            lane.counters[b"counter"] = int(replies[-1])

        lane.request_many([remote.read_counter(b"counter")], remember)

    learn()
    assert lane.tracks
    before = lane.counters[b"counter"]
    lane.request(("PING",))
    assert lane.counters[b"counter"] == before
    server.command("SET", "counter", before + 1)
    lane.request(("PING",))
    assert lane.counters == {}, "pushed ahead of the reply"
    learn()
    server.command("FLUSHALL")
    lane.request(("PING",))
    assert lane.counters == {}


def test_a_thread_that_is_interrupted_while_it_leads_leaves_no_other_hanging(
    bench: Bench, fresh_server: ValkeyServer
) -> None:
    lane = bench.open(fresh_server.url, command_timeout=10.0)
    lane.open()
    fresh_server.pause()
    outcomes: dict[str, BaseException | Any] = {}

    def ask(name: str) -> None:
        try:
            outcomes[name] = lane.request(("PING",))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is tested
            outcomes[name] = error

    leader = threading.Thread(target=ask, args=("leader",))
    leader.start()
    wait_until(lambda: lane._connection is not None and lane._connection.leader, "somebody to lead")
    follower = threading.Thread(target=ask, args=("follower",))
    follower.start()
    wait_until(lambda: lane._connection is not None and len(lane._connection.out) == 1, "somebody to follow")
    assert leader.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(leader.ident), ctypes.py_object(KeyboardInterrupt))
    fresh_server.resume()
    leader.join(20)
    follower.join(20)
    assert isinstance(outcomes["leader"], KeyboardInterrupt)
    assert outcomes["follower"] == b"PONG" or isinstance(outcomes["follower"], ConnectionFailed)
    wait_until(lambda: lane.connected, "the lane to be there")
    assert lane.request(("PING",)) == b"PONG"


def test_a_leader_that_vanished_holds_nobody_up_for_ever(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt may hit a thread between taking the lead and leading."""
    monkeypatch.setattr("nearcache.transport.thread_lane._NET", 0.0)
    lane = bench.open(url, command_timeout=0.2)
    lane.open()
    assert lane._connection is not None
    lane._connection.leader = object()
    with pytest.raises(CommandTimeout):
        lane.request(("PING",))
    wait_until(lambda: lane.connected, "a new connection")
    assert lane.request(("PING",)) == b"PONG"


def test_whatever_goes_wrong_in_an_attempt_there_is_another(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = count(1)

    def unlucky(*arguments: Any, **options: Any) -> ThreadWire:
        if next(attempts) in (1, 2):  # the caller's own attempt, and one in the background
            raise RuntimeError("nobody thought of this")
        return connect(*arguments, **options)

    connect = open_thread_wire
    monkeypatch.setitem(globals(), "open_thread_wire", unlucky)
    lane = bench.open(url)
    with pytest.raises(ConnectionFailed, match="nobody thought of this"):
        lane.open()
    wait_until(lambda: lane.connected, "the third attempt")
    assert lane.request(("PING",)) == b"PONG"
    assert bench.states == ["nobody thought of this", "nobody thought of this", None]


def test_closing_lets_what_is_in_flight_finish(bench: Bench, fresh_server: ValkeyServer) -> None:
    lane = bench.open(fresh_server.url)
    lane.open()
    fresh_server.pause()
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(lane.request, ("PING",))
        wait_until(lambda: lane._connection is not None and lane._connection.leader, "it to be asked")
        closing = pool.submit(lane.close)
        fresh_server.resume()
        assert asking.result() == b"PONG"
        closing.result()
    lane.close()
    with pytest.raises(NotInitialized):
        lane.request(("PING",))
    wait_until(lambda: b"name=thread-lane" not in fresh_server.command("CLIENT", "LIST"), "the connection to be gone")


def test_a_server_that_speaks_something_else(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        lane = bench.open(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ConnectionFailed):
            lane.open()
        lane.close()
        thread.join()


def test_a_server_that_trickles_holds_nobody_longer_than_the_deadline(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                for reply in (GREETING, b"+PONG\r\n" + TIME + INFO + b"+OK\r\n", b"$1000\r\n"):
                    connection.recv(1000)
                    connection.sendall(reply)
                while not over.wait(0.01):
                    connection.sendall(b"x")

        thread = threading.Thread(target=answer)
        thread.start()
        lane = bench.open(f"redis://127.0.0.1:{listener.getsockname()[1]}", command_timeout=0.1)
        try:
            with pytest.raises(CommandTimeout):
                lane.request(("GET", b"key"))
        finally:
            over.set()
            lane.close()
            thread.join()


# -- hooks, interrupts and ends


def test_a_hook_that_raises_fails_its_own_caller_only(bench: Bench, fresh_server: ValkeyServer) -> None:
    lane = bench.open(fresh_server.url)
    lane.open()
    fresh_server.pause()
    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(lane.request, ("BLPOP", "nothing", 0.1))
        wait_until(lambda: lane._connection is not None and lane._connection.waiting, "somebody to lead")
        broken = pool.submit(lane.request_many, [("PING",)], lambda replies: int(replies[0]))
        fresh_server.resume()
        assert leading.result() is None
        with pytest.raises(ValueError, match="invalid literal"):
            broken.result()
    assert lane.request(("PING",)) == b"PONG"
    assert lane.connects == 1


def test_a_revocation_that_fails_costs_the_connection(bench: Bench, url: str, server: ValkeyServer) -> None:
    class Broken(Versions):
        def revoked(self, keys: list[bytes] | None) -> None:
            super().revoked(keys)
            raise ZeroDivisionError

    bench.listener = Broken()
    lane = bench.open(url)
    lane.request(("GET", "k"))
    server.command("SET", "k", 1)
    with pytest.raises(ConnectionFailed, match="ZeroDivisionError"):
        lane.request(("PING",))
    assert bench.listener.heard == [[b"k"], "lost"]
    wait_until(lambda: lane.connected, "the lane to be back")
    assert lane.request(("PING",)) == b"PONG"


def test_a_loss_is_told_before_there_can_be_a_new_connection(bench: Bench, url: str) -> None:
    class Slow(Versions):
        def lost(self, link: object) -> None:
            super().lost(link)
            with pytest.raises(ConnectionFailed):
                in_threads(1, lambda _: lane.request(("PING",)))
            connects.append(lane.connects)

    connects: list[int] = []
    bench.listener = Slow()
    lane = bench.open(url)
    lane.open()
    assert lane._connection is not None
    lane._lose(lane._connection, ConnectionFailed("cut"))
    assert connects == [1]
    wait_until(lambda: lane.connected, "the lane to be back")
    assert lane.request(("PING",)) == b"PONG"
    assert lane.connects == 2
    assert bench.listener.heard == ["lost"]
    bench.listener.lost = lambda link: None  # type: ignore[method-assign]  # no more questions at the end


def test_who_was_interrupted_before_its_command_was_sent_asks_nothing(bench: Bench, fresh_server: ValkeyServer) -> None:
    lane = bench.open(fresh_server.url)
    lane.open()
    fresh_server.pause()
    interrupted: list[BaseException] = []

    def ask() -> None:
        try:
            lane.request(("SET", "k", "v"))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is tested
            interrupted.append(error)

    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(lane.request, ("PING",))
        wait_until(lambda: lane._connection is not None and lane._connection.waiting, "somebody to lead")
        follower = threading.Thread(target=ask)
        follower.start()
        wait_until(lambda: lane._connection is not None and lane._connection.out, "somebody to follow")
        assert lane._connection is not None
        assert follower.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(follower.ident), ctypes.py_object(KeyboardInterrupt))
        # Sleeping on a lock it notices when it wakes: this wakes it without an answer.
        lane._connection.out[0].rouse()
        follower.join(20)
        fresh_server.resume()
        assert leading.result() == b"PONG"
    assert isinstance(interrupted[0], KeyboardInterrupt)
    assert lane.request(("GET", "k")) is None
    assert lane.connects == 1


@pytest.mark.parametrize("interrupted", [(), (2, 3)], ids=["nobody", "those who are woken first"])
def test_threads_that_sleep_are_woken_by_each_other(
    interrupted: tuple[int, ...], bench: Bench, fresh_server: ValkeyServer
) -> None:
    lane = bench.open(fresh_server.url, command_timeout=60.0)  # nobody is woken by that
    lane.open()
    fresh_server.pause()
    outcomes: dict[int, BaseException | Any] = {}

    def ask(number: int) -> None:
        try:
            outcomes[number] = lane.request(("ECHO", str(number)))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is tested
            outcomes[number] = error

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_until(
            lambda n=number: (wire := lane._connection) is not None and len(wire.waiting) + len(wire.out) == n + 1,  # type: ignore[misc]
            "it to wait",
        )
    for number in interrupted:
        ident = threads[number].ident
        assert ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt))
    fresh_server.resume()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == list(range(8))
    for number, outcome in outcomes.items():
        assert outcome == b"%d" % number or (number in interrupted and isinstance(outcome, KeyboardInterrupt))
    assert lane.connects == 1


def test_a_long_outage_ends(bench: Bench, fresh_server: ValkeyServer) -> None:
    lane = bench.open(fresh_server.url)
    lane.open()
    lane._attempts = 5_000
    fresh_server.kill()
    with pytest.raises(ConnectionFailed):
        lane.request(("PING",))
    wait_until(lambda: len(bench.states) > 3, "several attempts")
    fresh_server.start()
    wait_until(lambda: lane.connected, "the lane to be back")


def test_closing_while_a_connection_is_being_made(bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = ThreadWire.talk

    def closed_meanwhile(wire: ThreadWire, conversation: Any) -> Any:
        greeting = talk(wire, conversation)
        lane.close()
        return greeting

    monkeypatch.setattr(ThreadWire, "talk", closed_meanwhile)
    lane = bench.open(url)
    with pytest.raises(NotInitialized):
        lane.open()
    assert not lane.connected


# -- watching


def test_what_is_pushed_to_an_idle_lane_is_heard(bench: Bench, url: str, server: ValkeyServer) -> None:
    lane = bench.open(url)
    lane.request(("GET", "k"))
    lane.watch()
    lane.watch()
    assert len(watchers()) == 1
    for n in range(20):
        bench.listener.heard.clear()
        server.command("SET", "k", n)
        wait_until(lambda: bench.listener.heard, "the push to be heard")
        assert bench.listener.heard == [[b"k"]]
        assert lane.request(("GET", "k")) == b"%d" % n
    lane.close()
    assert watchers() == []


def test_a_look_at_an_idle_connection_waits_for_nothing(bench: Bench, url: str) -> None:
    """The watcher saw something, and a leader has read it meanwhile."""
    lane = bench.open(url, command_timeout=300.0)
    lane.open()
    assert lane._connection is not None
    assert not lane._look(lane._connection)
    assert lane.request(("PING",)) == b"PONG"


def test_an_idle_process_is_never_woken(bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 0

    def counted() -> float:
        nonlocal rounds
        rounds += 1
        return time.monotonic()

    monkeypatch.setattr("nearcache.transport.thread_watch.monotonic", counted)
    lane = bench.open(url)
    lane.watch()
    lane.open()
    wait_until(lambda: rounds, "the watcher to have begun")
    time.sleep(0.2)  # for what does not happen there is no event
    assert rounds < 5


def test_watching_disturbs_nobody(bench: Bench, url: str, server: ValkeyServer) -> None:
    lane = bench.open(url)
    lane.watch()
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            server.command("SET", f"k{n % 8}", n)

    def read(thread: int) -> int:
        pause = threading.Event()
        wrong = 0
        for n in range(300):
            lane.request(("GET", f"k{thread}"))
            wrong += lane.request(("ECHO", f"{thread}.{n}")) != f"{thread}.{n}".encode()
            pause.wait(0.004 * (n % 10 == 0))  # so that watcher and readers take turns
        return wrong

    writing = threading.Thread(target=write)
    writing.start()
    try:
        assert in_threads(8, read) == [0] * 8
    finally:
        stop.set()
        writing.join()
    assert lane.connects == 1
    assert bench.listener.heard


def test_the_end_of_an_idle_connection_is_heard_and_the_next_is_watched(
    bench: Bench, url: str, server: ValkeyServer
) -> None:
    lane = bench.open(url)
    lane.watch()
    lane.open()
    for times in (1, 2, 3):
        server.command("CLIENT", "KILL", "ID", identity(lane))
        wait_until(lambda times=times: bench.listener.heard == ["lost"] * times, "the loss to be heard")
        wait_until(lambda times=times: lane.connects == times + 1 and lane.connected, "a new connection")
    wait_until(lambda: len(watchers()) == 1, "the old watchers to be gone")
    lane.request(("GET", "k"))
    server.command("SET", "k", 1)
    wait_until(lambda: bench.listener.heard == ["lost"] * 3 + [[b"k"]], "the push to be heard")


def test_a_server_that_hangs_up_on_everybody_is_not_stormed(bench: Bench) -> None:
    visits: list[float] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                visits.append(time.monotonic())
                for answer in (GREETING, b"+PONG\r\n" + TIME + INFO + b"+OK\r\n"):
                    connection.recv(1000)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        lane = bench.open(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        lane.watch()
        lane.open()
        wait_until(lambda: len(visits) >= 8, "a few visits")
        lane.close()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert visits[7] - visits[0] > 0.05, "full jitter up to 0.04, 0.08, 0.16, 0.32, 0.5 and 0.5 s"


def test_a_lane_that_was_forgotten_leaves_no_watcher(url: str) -> None:
    bench = Bench()
    lane = bench.open(url)
    lane.watch()
    lane.open()
    assert len(watchers()) == 1
    bench.lanes.clear()
    bench.listener.lanes.clear()
    del lane
    wait_until(lambda: not watchers(), "the watcher to have ended")


def test_a_forked_child_watches_anew(bench: Bench, url: str, server: ValkeyServer) -> None:
    lane = bench.open(url)
    lane.watch()
    lane.request(("GET", "k"))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            lane.forget_in_child()
            lane.request(("GET", "child"))
            assert not watchers()
            lane.watch()
            server.command("SET", "told", 1)
            wait_until(lambda: [b"child"] in bench.listener.heard, "the push to be heard")
            lane.close()
            status = len(watchers()) + (bench.listener.heard.count("lost") != 2)
        finally:
            os._exit(status)
    with Client(server.socket_path) as own:
        wait_until(lambda: own.command("GET", "told") == b"1", "the child to have read")
        own.command("SET", "child", 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        own.command("SET", "k", 2)
    wait_until(lambda: [b"k"] in bench.listener.heard, "the parent's connection to be as it was")
    assert lane.connects == 1
