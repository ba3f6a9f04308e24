"""What the fuzzer begins from: one of each thing that is right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from nearcache.codec import values

if TYPE_CHECKING:
    from nearcache.codec import Codec

AES = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
HMAC = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
PASSWORD = "hunter2hunter2"
SECRETS = ("redis_password", "queue_redis_password", "redis_url", "queue_redis_url", "encryption_keys", "signing_keys")


@dataclass
class Point:
    """An instance."""

    x: int
    y: int


VALUES: list[Any] = [
    None,
    {"name": "Ada", "age": 36, "tags": ("a", "b"), 1: {2.5, b"x"}},
    [2**70, -(2**70), 1.5, float("nan"), "\ud800", bytearray(b"y"), frozenset({1})],
    {(1, 2): datetime(2025, 5, 1, 12, 30, tzinfo=ZoneInfo("Europe/Lisbon")), None: date(2025, 5, 1)},
    [datetime(2025, 5, 1, tzinfo=UTC), time(1, 2, 3), timedelta(days=-1, microseconds=5), Decimal("1.50"), UUID(int=5)],
    [re.compile("a+b", re.IGNORECASE), Point(1, 2), [[[[]]]]],
    ["the same text again"] * 20,
]
PAYLOADS = [values.dumps(value) for value in VALUES]
JSON = [b'{"a":[1,2.5,null,true],"b":"\\u00e9\\ud83d\\ude00"}', b'[{"name":"Ada","age":36}]', b"1e5", b'"x"', b"-0.0"]

_CUT = b"\x10\x20\x05"
STREAMS = [
    _CUT + stream
    for stream in (
        b"+OK\r\n$3\r\nabc\r\n*2\r\n:1\r\n$-1\r\n-ERR no\r\n",
        b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n:5\r\n$-1\r\n_\r\n,1.5\r\n",
        b"%1\r\n+a\r\n:1\r\n~2\r\n+b\r\n+c\r\n#t\r\n(123456789012345678901234567890\r\n",
        b">2\r\n$10\r\ninvalidate\r\n_\r\n=7\r\ntxt:abc\r\n*-1\r\n|1\r\n+k\r\n+v\r\n+x\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b">0\r\n",
        b"%1\r\n*0\r\n:1\r\n",
        b"*4294967295\r\n",
    )
]
TOLD = b"*2\r\n$10\r\n1700000000\r\n$2\r\n12\r\n$18\r\nmaster_replid:ab\r\n\r\n"
UNTOLD = b"*2\r\n:1\r\n:2\r\n-NOPERM\r\n"
HANDSHAKES = [
    bytes([flags]) + replies
    for flags, replies in (
        (0, b"%2\r\n+server\r\n+valkey\r\n+id\r\n:3\r\n+PONG\r\n" + TOLD + b"+OK\r\n"),
        (5, b"*4\r\n+server\r\n+redis\r\n+id\r\n:3\r\n+OK\r\n" + UNTOLD + b"+OK\r\n$9\r\nname=name \r\n+OK\r\n"),
        (3, b"-ERR unknown command\r\n+OK\r\n+OK\r\n:5\r\n+OK\r\n*2\r\n+1\r\n+2\r\n$0\r\n\r\n"),
        (2, b"-WRONGPASS no\r\n"),
        (0, b"*2\r\n*0\r\n:1\r\n+PONG\r\n"),
        (0, b"%0\r\n+PONG\r\n*2\r\n+" + b"9" * 400 + b"\r\n+1\r\n:1\r\n+OK\r\n"),
        (0, b"-NOAUTH no\r\n"),
    )
]
CHANGES = [bytes([codec, 0, at, 1]) + b"the value" * 10 for codec in range(3) for at in (2, 41, 60, 90)]
URLS = [
    b"redis://user:hunter2hunter2@localhost:6379/2",
    b"redis://user:p%40ss@h",
    b"rediss://h/0?ssl_ca_certs=/a&ssl_check_hostname=no",
    b"unix://:hunter2hunter2@/run/s.sock?db=3",
    b"redis+sentinel://a:1,b:2/main/1",
    b"valkeys+cluster://[::1]:7000,h/0",
    b"memory://name?db=1",
    b"embedded:///data",
]
SETTINGS = [
    bytes([number]) + text
    for number, text in (
        *(
            (0, b"localhost"),
            (1, b"6379"),
            (3, b"hunter2hunter2hunter2"),
            (10, b"redis://h/1"),
            (12, b"app:"),
            (13, b"yes"),
        ),
        *((14, b"10_000"), (15, b"64 MiB"), (16, b"60s"), (25, b"1.5 MB"), (27, AES.encode()), (28, HMAC.encode())),
        *((13, b"yes"), (29, b"false"), (17, b"1e3 ms"), (22, b"90m")),
    )
]


def envelopes(codec: Codec, key: bytes) -> list[bytes]:
    """Values as they are stored, some with all that a header can say."""
    return [
        *(codec.encode(value, key, 7) for value in VALUES),
        codec.encode(VALUES[1], key, 7, 5000, created_ms=5, load_ms=6, tags=[(b"t", 3), (b"", 0)]),
        *JSON,
    ]


def tampered(codecs: list[Codec], key: bytes) -> list[bytes]:
    """Values that were sealed by somebody else."""
    raws = [codec.encode(value, key, 7) for codec in codecs for value in VALUES[:2]]
    return raws + [codec.encode(VALUES[1], key, 7, tags=[(b"t", 3)]) for codec in codecs]


def stores(codec: Codec, key: bytes) -> list[bytes]:
    """A counter, a tag's counter, a value: see ``targets.stored``."""
    counters = [(b"7", b"3"), (b"7 9", b"3 5"), (b"", b""), (b"x", b"9x")]
    return [
        bytes([len(hard) + 32 * min(len(tag), 7)]) + hard.ljust(32) + tag.ljust(8) + raw
        for hard, tag in counters
        for raw in (*envelopes(codec, key)[-7:-4], b"")
    ]
