"""Write the log in a child, kill -9 it at a random moment, look, and again: killed.py FOLDER TIMES SEED.

The parent imports and forks; it opens the file with plain sqlite3 only. Each child begins by counting what its
predecessors wrote, writes on, and reports the number of requests that it knows to be on disk.
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

from precog_runtime.log import FILE, PredictionLog
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.types import Answer, AssetAnswer, Forecast, Request

ASSETS = ("btc", "eth", "tao_bittensor")
NOW = 1_700_000_000.0


def write(folder: str, pipe: int) -> None:
    settings, metrics = Settings(state_dir=folder), Metrics()
    log = PredictionLog(settings, metrics, lambda: NOW)
    ((requests,),) = log.store.query("SELECT count(*) FROM requests")
    answers = {asset: AssetAnswer(asset, Forecast(2.0, 1.0, 3.0), 0.0, "model") for asset in ASSETS}
    while True:
        for _ in range(20):
            log.record("axon", Request("", ASSETS, 0.0, "caller"), Answer(1_700_000_000, answers, {"x": "no"}), 0.001)
            requests += 1
        if log.store.flush() and not made.errors(metrics, "store_damaged"):
            os.write(pipe, b"%d\n" % requests)


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
promised = b"0"
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
            "promised": int(promised),
            **look(
                Path(folder) / FILE,
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
