"""Measures what loading costs, and what a day of prices takes: `bin/bench-runtime footprint`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import numpy as np

from precog_runtime.market.window import Window
from precog_runtime.settings import Settings
from precog_runtime.types import Series

ROUNDS = 7
LOADED = {
    "precog_runtime.serve": "import precog_runtime.serve",
    "what upstream loads": "import bittensor, pandas, coinmetrics.api_client",
}
CODE = """
import json, sys, time
began = time.perf_counter()
{statement}
spent = time.perf_counter() - began
status = open("/proc/self/status").read()
print(json.dumps([spent, int(status.split("VmRSS:")[1].split()[0]) / 1024]))
"""
TARGETS = {"seconds": 0.4, "MiB": 70.0, "window MB": 4.2}
DAY_S = 86400


def loaded(statement: str) -> tuple[float, float]:
    """Return the median of seconds and MiB of loading in a fresh process."""
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", CODE.format(statement=statement)], capture_output=True, check=True
            ).stdout.splitlines()[-1]
        )
        for _ in range(ROUNDS)
    ]
    return statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)


def window_mb() -> float:
    """Return the size of a full day of every asset, MB."""
    times = np.arange(DAY_S, dtype=np.int64)
    windows = [Window(DAY_S) for _ in Settings.assets]
    for window in windows:
        window.extend(Series(times, np.full(DAY_S, 1.0)))
    return sum(window.nbytes for window in windows) / 1e6


def main() -> None:
    """Measure and print."""
    found = {name: loaded(statement) for name, statement in LOADED.items()}
    ours = found["precog_runtime.serve"]
    print(f"{'loading':24}{'s':>8}{'MiB':>8}  to ours")
    for name, (seconds, mebibytes) in found.items():
        print(f"{name:24}{seconds:8.2f}{mebibytes:8.0f}  x{seconds / ours[0]:.1f}, x{mebibytes / ours[1]:.1f}")
    print(f"24 h of {len(Settings.assets)} assets: {window_mb():.2f} MB")
    measured = {"seconds": ours[0], "MiB": ours[1], "window MB": window_mb()}
    for name, target in TARGETS.items():
        print(f"wanted: {name} <= {target:g}: {'met' if measured[name] <= target else 'not met'}")


if __name__ == "__main__":
    main()
