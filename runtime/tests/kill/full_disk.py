"""Write against a limit of the size of files, which SQLite meets like a full disk; then lift it: full_disk.py FILE."""

from __future__ import annotations

import json
import resource
import sqlite3
import sys
import time

from made import PUT, SCHEMA, errors

from precog_runtime.metrics import Metrics
from precog_runtime.store import Store

path = sys.argv[1]
metrics = Metrics()
store = Store(path, SCHEMA, metrics, retry_s=0.01)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most))
for number in range(2000):
    store.put(PUT, [(number, "x" * 1000)])
told = {"flushed_when_full": store.flush(), "counted": errors(metrics, "store_unavailable") > 0}
told["alive"] = store.query("SELECT 1") in ([(1,)], [])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
end = time.monotonic() + 20
while not (flushed := store.flush()) and time.monotonic() < end:
    pass
told["flushed_with_room"] = flushed
store.close()
connection = sqlite3.connect(path)
told["rows"] = [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]
(told["integrity"],) = connection.execute("PRAGMA integrity_check").fetchone()
print(json.dumps(told))
