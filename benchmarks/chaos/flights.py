"""An invented year of flights, in the files of the package that the demo reads."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from demo import data

__all__ = ["AIRPORTS", "write"]

AIRPORTS = ("ATL", "BOS", "CLT", "DEN", "LAX", "MCO", "MIA", "ORD", "SEA", "SFO")
_FLIGHTS = 20_000
_HOURS = 8760
_CARRIERS = ("AA", "B6", "DL", "UA", "WN")
_ORIGINS = ("EWR", "JFK", "LGA")


def write(directory: Path) -> None:
    """One CSV file per table."""
    rng = random.Random("flights")
    days = [(month, day) for month in range(1, 13) for day in range(1, 29)]
    rows: dict[str, list[list[object]]] = {
        "airlines": [[carrier, f"Airline {carrier}"] for carrier in _CARRIERS],
        "airports": [[faa, f"Airport {faa}", 40, -73, 13, -5, "A", "UTC"] for faa in (*AIRPORTS, *_ORIGINS)],
        "planes": [[f"N{n}", 1985 + n % 28, "Jet", "BOEING", "737", 2, 150, "NA", "Turbo-fan"] for n in range(500)],
        "weather": [],
        "flights": [],
    }
    for _ in range(_HOURS // 4):
        month, day = rng.choice(days)
        hour = rng.randrange(24)
        weather = [rng.randrange(100), 50, 60, 270, rng.randrange(40), "NA", 0, 1012, 10]
        rows["weather"].append([rng.choice(_ORIGINS), 2013, month, day, hour, *weather, _time(month, day, hour)])
    for number in range(_FLIGHTS):
        month, day = rng.choice(days)
        hour = rng.randrange(5, 23)
        delay = rng.choice(["NA", *range(-10, 60)])
        times = [hour * 100, hour * 100, delay, (hour + 3) * 100, (hour + 3) * 100, delay]
        route = [rng.choice(_ORIGINS), rng.choice(AIRPORTS), 150, 1000]
        flight = [rng.choice(_CARRIERS), number % 900, f"N{rng.randrange(500)}"]
        rows["flights"].append([2013, month, day, *times, *flight, *route, hour, 0, _time(month, day, hour)])
    for table, lines in rows.items():
        with (directory / f"{table}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[column.split()[0] for column in data.TABLES[table].split(", ")], *lines])


def _time(month: int, day: int, hour: int) -> str:
    return f"2013-{month:02}-{day:02}T{hour:02}:00:00Z"
