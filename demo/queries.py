"""The questions the application answers. Each reads whole tables: a tenth of a second or more, every time."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Database:
    """The SQLite file; it blocks, so call it from a thread.

    Attributes:
        path: the file.
        queries: how many queries were begun.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.queries = 0
        self._lock = threading.Lock()

    def rows(self, sql: str, **parameters: object) -> list[Row]:
        with self._lock:
            self.queries += 1
        with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, parameters)]


database = Database(Path(".demo", "flights.sqlite"))


@dataclass
class AirportProfile:
    """An airport, as seen from New York."""

    faa: str
    name: str
    altitude: int
    flights: int
    carriers: list[str]
    busiest_hour: int | None
    mean_delay: float | None


def delays_by_carrier_and_month() -> list[Row]:
    return database.rows(
        """
        SELECT name AS airline, month, count(*) AS flights, round(avg(arr_delay), 1) AS mean_delay,
               sum(dep_time IS NULL) AS cancelled
        FROM flights JOIN airlines USING (carrier)
        GROUP BY carrier, month ORDER BY airline, month
        """
    )


def busiest_routes(limit: int) -> list[Row]:
    return database.rows(
        """
        SELECT origin, dest, count(*) AS flights, count(DISTINCT carrier) AS airlines,
               count(DISTINCT tailnum) AS planes, round(avg(air_time)) AS minutes
        FROM flights GROUP BY origin, dest ORDER BY flights DESC LIMIT :limit
        """,
        limit=limit,
    )


def worst_weather_hours(limit: int) -> list[Row]:
    return database.rows(
        """
        SELECT weather.time_hour, weather.origin, round(avg(dep_delay)) AS mean_delay, count(*) AS flights,
               wind_speed, precip, visib
        FROM flights JOIN weather ON weather.origin = flights.origin AND weather.time_hour = flights.time_hour
        GROUP BY weather.origin, weather.time_hour HAVING count(dep_delay) >= 5
        ORDER BY mean_delay DESC LIMIT :limit
        """,
        limit=limit,
    )


def delay_by_plane_age() -> list[Row]:
    return database.rows(
        """
        SELECT flights.year - planes.year AS age, count(DISTINCT tailnum) AS planes, count(*) AS flights,
               round(avg(arr_delay), 1) AS mean_delay
        FROM flights JOIN planes USING (tailnum)
        WHERE planes.year IS NOT NULL GROUP BY age ORDER BY age
        """
    )


def airport_profile(faa: str) -> AirportProfile | None:
    airports = database.rows("SELECT name, alt FROM airports WHERE faa = :faa", faa=faa)
    if not airports:
        return None
    hours = database.rows(
        """
        SELECT hour, count(*) AS flights, sum(arr_delay) AS delay, count(arr_delay) AS arrived
        FROM flights WHERE :faa IN (origin, dest) GROUP BY hour ORDER BY flights DESC
        """,
        faa=faa,
    )
    carriers = database.rows(
        """
        SELECT DISTINCT name FROM flights JOIN airlines USING (carrier)
        WHERE :faa IN (origin, dest) ORDER BY name
        """,
        faa=faa,
    )
    arrived = sum(hour["arrived"] for hour in hours)
    return AirportProfile(
        faa=faa,
        name=airports[0]["name"],
        altitude=airports[0]["alt"],
        flights=sum(hour["flights"] for hour in hours),
        carriers=[carrier["name"] for carrier in carriers],
        busiest_hour=hours[0]["hour"] if hours else None,
        mean_delay=round(sum(hour["delay"] or 0 for hour in hours) / arrived, 1) if arrived else None,
    )


def search_flights(origin: str, dest: str, month: int, day: int) -> list[Row]:
    return database.rows(
        """
        SELECT carrier || flight AS flight, airlines.name AS airline, manufacturer, sched_dep_time, dep_delay,
               arr_delay
        FROM flights JOIN airlines USING (carrier) LEFT JOIN planes USING (tailnum)
        WHERE origin = :origin AND dest = :dest AND month = :month AND day = :day
        ORDER BY sched_dep_time
        """,
        origin=origin,
        dest=dest,
        month=month,
        day=day,
    )
