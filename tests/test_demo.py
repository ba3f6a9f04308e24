"""The demo, on a few rows in the format of the package that it reads."""

from __future__ import annotations

import csv
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from demo import checks, data
from demo.visit import ENDPOINTS

from .servers import ValkeyServer

ROOT = Path(__file__).parent.parent
HOUR = "2013-07-04T12:00:00Z"
ROWS = {
    "airlines": [["AA", "American Airlines Inc."], ["DL", "Delta Air Lines Inc."]],
    "airports": [
        [faa, name, "40.6", "-73.7", "13", "-5", "A", "America/New_York"]
        for faa, name in [("JFK", "John F Kennedy Intl"), ("LAX", "Los Angeles Intl"), ("BOS", "Logan Intl")]
    ],
    "planes": [
        ["N1", "2004", "Fixed wing multi engine", "BOEING", "737", "2", "55", "NA", "Turbo-fan"],
        ["N2", "NA", "Fixed wing multi engine", "AIRBUS", "A320", "2", "182", "NA", "Turbo-fan"],
    ],
    "weather": [["JFK", "2013", "7", "4", "8", "75.0", "60", "59.37", "270", "10.4", "NA", "0", "1012", "10", HOUR]],
    "flights": [
        f"2013,7,4,{minute},800,{minute},1100,1100,-3,{carrier},{minute},{plane},JFK,{dest},330,2475,8,0,{HOUR}".split(
            ","
        )
        for minute in range(1, 7)
        for carrier, plane, dest in [("AA", "N1", "LAX"), ("DL", "N2", "BOS")]
    ]
    + [f"2013,7,4,NA,800,NA,NA,1100,NA,AA,7,NA,JFK,LAX,NA,2475,8,0,{HOUR}".split(",")],
}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A directory like the package's: CSV files, and the flights zipped."""
    directory = tmp_path / "csv"
    directory.mkdir()
    for table, rows in ROWS.items():
        header = [column.split()[0] for column in data.TABLES[table].split(", ")]
        with (directory / f"{table}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    with zipfile.ZipFile(directory / "flights.csv.zip", "w") as archive:
        archive.write(directory / "flights.csv", "flights.csv")
    (directory / "flights.csv").unlink()
    return directory


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / ".demo" / "flights.sqlite"


def start(sample: Path, *arguments: str, url: str = "embedded://") -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])  # it runs in another directory
    return subprocess.Popen(
        [sys.executable, "-m", "demo", "--data", str(sample), *arguments],
        cwd=sample.parent,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "REDIS_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def visit(sample: Path, url: str) -> tuple[int, dict[str, str], str]:
    """Exit code, verdict by title, and everything that was printed."""
    with start(sample, "--once", url=url) as process:
        output, _ = process.communicate()
    assert "Traceback" not in output, output
    titles = [*ENDPOINTS, *checks.CHECKS, "cache ", "queue ", "a request under way", "both clients"]
    lines = [line.split(maxsplit=1) for line in output.splitlines()]
    verdicts = {line[1]: line[0] for line in lines if line and line[0] in {"ok", "FAILED"}}
    found = {
        title.strip(): next((verdict for line, verdict in verdicts.items() if line.startswith(title)), "missing")
        for title in titles
    }
    return process.returncode, found, output


def test_a_visit_passes_every_check(sample: Path, database: Path) -> None:
    code, verdicts, output = visit(sample, "embedded://")
    assert set(verdicts.values()) == {"ok"}, output
    assert code == 0
    assert "the embedded server" in output
    assert "FAILED" not in output
    assert [path.name for path in database.parent.iterdir()] == ["flights.sqlite"]
    assert max(len(line) for line in output.splitlines() if not line.startswith("loaded")) <= 100


def test_a_server_that_is_away_fails_the_visit_but_not_the_application(sample: Path) -> None:
    with socket.socket() as closed:  # bound, and not listening
        closed.bind(("127.0.0.1", 0))
        code, verdicts, output = visit(sample, f"redis://:hunter2@127.0.0.1:{closed.getsockname()[1]}/0")
    assert code == 1
    assert verdicts["cache"] == verdicts["queue"] == verdicts["/delays"] == "FAILED"
    assert verdicts["hit ratio"] == "ok", "what is loaded without a server is kept in the process"
    assert verdicts["a request under way"] == "ok", output
    assert "hunter2" not in output


def test_a_server_without_database_1_fails_what_needs_it(sample: Path) -> None:
    with ValkeyServer("--databases", "1") as server:
        code, verdicts, output = visit(sample, server.url)
    failed = {title for title, verdict in verdicts.items() if verdict != "ok"}
    assert failed == {"queue", "health", "one key in db 0 and db 1", "TTLs of the services"}, output
    assert code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_then_ends_gracefully(sample: Path, number: signal.Signals) -> None:
    with start(sample) as process:
        assert process.stdout is not None
        serving = next(line for line in process.stdout if line.startswith("Serving"))
        url = serving.split()[-1].removesuffix("/docs")
        with urllib.request.urlopen(f"{url}/airports/JFK") as answer:
            assert answer.status == 200
        assert any("GET /airports/JFK 200" in line for line in process.stdout), "it ended without a word"
        process.send_signal(number)
        rest = process.stdout.read()
    assert "process" in rest.split("the embedded server")[1]
    assert "FAILED" not in rest
    assert "Traceback" not in rest
    assert process.returncode == 0


def test_a_directory_without_the_data_is_an_error_of_one_line(sample: Path) -> None:
    (sample / "planes.csv").unlink()
    with start(sample, "--once") as process:
        output, _ = process.communicate()
    assert output == f"demo: {sample} has neither planes.csv nor planes.csv.zip\n"
    assert process.returncode == 2


def no_progress(table: str, rows: int, share: float) -> None:
    """Nobody watches."""


def test_every_row_is_loaded_and_na_is_null(sample: Path, database: Path) -> None:
    seen: list[tuple[str, int, float]] = []
    assert data.load(sample, database, lambda *progress: seen.append(progress))
    with closing(sqlite3.connect(database)) as connection:
        counts = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ROWS}
        assert connection.execute("SELECT tailnum, dep_time FROM flights WHERE flight = 7").fetchall() == [(None, None)]
        assert connection.execute("SELECT year FROM planes").fetchall() == [(2004,), (None,)]
        assert connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'").fetchall() == []
    assert counts == {table: len(rows) for table, rows in ROWS.items()}
    assert {table: rows for table, rows, _ in seen} == counts
    assert seen[-1][2] == 1.0


def test_a_second_start_loads_nothing_unless_the_files_changed(sample: Path, database: Path) -> None:
    assert data.load(sample, database, no_progress)
    assert not data.load(sample, database, no_progress)
    with (sample / "airlines.csv").open("a") as file:
        file.write("UA,United Air Lines Inc.\n")
    assert data.load(sample, database, no_progress)
    database.write_bytes(b"not a database" * 100)
    assert data.load(sample, database, no_progress)


def test_an_interrupted_load_leaves_nothing_behind(sample: Path, database: Path) -> None:
    def interrupt(table: str, rows: int, share: float) -> None:
        if table == "flights":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.load(sample, database, interrupt)
    assert list(database.parent.iterdir()) == []
    assert data.load(sample, database, no_progress)


def broken_files() -> Iterator[tuple[str, bytes, str]]:
    yield (
        "airlines.csv",
        b"code,name\nAA,American\n",
        "airlines: the columns are code, name; expected carrier, name",
    )
    yield "airlines.csv", b"carrier,name\nAA\n", "airlines.csv, after 0 rows"
    yield "airlines.csv", b"carrier,name\nAA,\xff\n", "airlines.csv, after 0 rows"
    yield "flights.csv.zip", b"not a zip file", "flights.csv.zip"


@pytest.mark.parametrize(("name", "content", "message"), list(broken_files()))
def test_a_broken_file_is_named(sample: Path, database: Path, name: str, content: bytes, message: str) -> None:
    (sample / name).write_bytes(content)
    with pytest.raises(data.DataError) as caught:
        data.load(sample, database, no_progress)
    assert message in str(caught.value)
    assert not database.exists()
