"""A log line per request: url, method, duration, hit ratio and statistics."""

import logging
import os
import sys

from fastapi import FastAPI
from fastapi.testclient import TestClient

from nearcache.http import RequestLogMiddleware, cache_plugin

os.environ.setdefault("REDIS_URL", "embedded://")
os.environ.setdefault("NEARCACHE_PREFIX", "example:")

app = FastAPI()
cache_plugin(app)
app.add_middleware(RequestLogMiddleware)  # added last, so it stands in front and sees cached answers, too


@app.get("/products")
async def products() -> list[str]:
    return ["book", "lamp"]


class Fields(logging.Formatter):
    """The fields on the record, as a structured log would take them."""

    def format(self, record: logging.LogRecord) -> str:
        names = ("url", "method", "status", "duration", "cache_hit_ratio", "cache_stats")
        return f"{record.getMessage()} | " + " ".join(f"{name}={getattr(record, name)}" for name in names)


def main() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Fields())
    logger = logging.getLogger("nearcache.http")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    with TestClient(app) as client:
        client.get("/products?page=1")
        client.get("/products?page=1")


if __name__ == "__main__":
    main()
