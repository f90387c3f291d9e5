"""Measures what loading costs, and what a day of prices takes: `bin/bench-runtime footprint`."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

import numpy as np
from wanted import wanted

from precog_runtime.market.window import Window
from precog_runtime.settings import Settings
from precog_runtime.types import Series

ROUNDS = 7  # by default
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
WANTED_S, WANTED_MIB = 0.4, 70.0  # of loading
WANTED_MB = 4.2  # of a day of prices
DAY_S = 86400


def loaded(statement: str, rounds: int) -> tuple[float, float]:
    """Return the median of seconds and MiB of loading in a fresh process."""
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", CODE.format(statement=statement)], capture_output=True, check=True
            ).stdout.splitlines()[-1]
        )
        for _ in range(rounds)
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="the median of so many counts (%(default)s)")
    rounds = parser.parse_args().rounds
    found = {name: loaded(statement, rounds) for name, statement in LOADED.items()}
    ours = found["precog_runtime.serve"]
    print(f"{'loading':24}{'s':>8}{'MiB':>8}  to ours")
    for name, (seconds, mebibytes) in found.items():
        print(f"{name:24}{seconds:8.2f}{mebibytes:8.0f}  x{seconds / ours[0]:.1f}, x{mebibytes / ours[1]:.1f}")
    print(f"24 h of {len(Settings.assets)} assets: {window_mb():.2f} MB")
    wanted("import", ours[0], WANTED_S, "s")
    wanted("memory after the import", ours[1], WANTED_MIB, "MiB")
    wanted(f"24 h of {len(Settings.assets)} assets", window_mb(), WANTED_MB, "MB")


if __name__ == "__main__":
    main()
