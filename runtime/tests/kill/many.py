"""One of several processes that write 3000 rows to one file: many.py FILE NAME."""

from __future__ import annotations

import json
import sys

from made import PUT, SCHEMA, errors

from precog_runtime.metrics import Metrics
from precog_runtime.store import Store

path, name = sys.argv[1:]
metrics = Metrics()
store = Store(path, SCHEMA, metrics, retry_s=0.01)
flushed = True
for number in range(300):
    store.put(PUT, [(number * 10 + each, name) for each in range(10)])
    if number % 10 == 0:
        flushed = store.flush() and flushed
flushed = store.flush() and flushed
store.close()
told = {"flushed": flushed, "unavailable": errors(metrics, "store_unavailable")}
print(json.dumps({**told, "damaged": errors(metrics, "store_damaged")}))
