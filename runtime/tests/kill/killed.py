"""Write cache and log in a child, kill -9 it at a random moment, look, and again: killed.py FOLDER TIMES SEED.

The parent imports and forks; it opens the files with plain sqlite3 only. Each child begins by reading what its
predecessors wrote, writes on, and tells (number of forecasts and of requests) what it knows to be on disk.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

import made  # puts our sources on the path

from precog_runtime.cache import FILE as CACHE_FILE
from precog_runtime.cache import DiskCache
from precog_runtime.log import FILE as LOG_FILE
from precog_runtime.log import PredictionLog
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.types import Answer, AssetAnswer, Forecast, Request

ASSETS = ("btc", "eth", "tao_bittensor")
NOW = 1_700_000_000.0


def write(folder: str, pipe: int) -> None:
    settings, metrics = Settings(state_dir=folder), Metrics()
    cache, log = DiskCache(settings, metrics, lambda: NOW), PredictionLog(settings, metrics, lambda: NOW)
    ((forecasts,),) = cache.store.query("SELECT count(*) FROM forecasts")
    ((requests,),) = log.store.query("SELECT count(*) FROM requests")
    for number in range(forecasts):
        if cache.get(("model", "btc", number, 1)) is None:
            sys.exit(f"forecast {number} of {forecasts} is not there")
    answers = {asset: AssetAnswer(asset, Forecast(2.0, 1.0, 3.0), 0.0, "model") for asset in ASSETS}
    while True:
        for _ in range(20):
            cache.put(("model", "btc", forecasts, 1), Forecast(float(forecasts + 1), 1.0, 3.0))
            log.record("axon", Request("", ASSETS, 0.0, "caller"), Answer(1_700_000_000, answers, {"x": "no"}), 0.001)
            forecasts, requests = forecasts + 1, requests + 1
        if cache.store.flush() and log.store.flush() and not made.errors(metrics, "store_damaged"):
            os.write(pipe, b"%d,%d\n" % (forecasts, requests))


def look(path: Path, statements: dict[str, str]) -> dict[str, object]:
    connection = sqlite3.connect(path)
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    # A child that was killed before its first transaction leaves a file without tables, or none.
    known = statements if tables else {"integrity": statements["integrity"]}
    found = {"rows": 0, **{name: connection.execute(sql).fetchone()[0] for name, sql in known.items()}}
    connection.close()
    return found


folder, times, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
told = []
promised = b"0,0"
for _ in range(times):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        write(folder, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        for _ in range(chance.randint(0, 4)):
            promised = lines.readline()
        time.sleep(chance.uniform(0, 0.03))  # the random moment
        os.kill(child, signal.SIGKILL)
        promised = [promised, *lines.read().splitlines()][-1]
    _, status = os.waitpid(child, 0)
    told.append(
        {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "promised": [int(number) for number in promised.split(b",")],
            "cache": look(
                Path(folder) / CACHE_FILE,
                {"integrity": "PRAGMA integrity_check", "rows": "SELECT count(*) FROM forecasts"},
            ),
            "log": look(
                Path(folder) / LOG_FILE,
                {
                    "integrity": "PRAGMA integrity_check",
                    "rows": "SELECT count(*) FROM requests",
                    "torn": """SELECT count(*) FROM requests WHERE
                        (SELECT count(*) FROM answers WHERE request_id = id) != 3
                        OR (SELECT count(*) FROM refusals WHERE request_id = id) != 1""",
                    "orphans": "SELECT count(*) FROM answers WHERE request_id NOT IN (SELECT id FROM requests)",
                },
            ),
        }
    )
print(json.dumps(told))
