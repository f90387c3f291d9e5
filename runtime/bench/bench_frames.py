"""Reading a CSV of prices at 1 s, side by side in one run: the guide's way, pandas, pandas on pyarrow, ours.

    python bench/bench_frames.py [--rows 1000000] [--rounds 3]

Each way is measured in a process of its own: the best of the rounds in seconds, the frame in MiB, and by how many MiB
the process grew at the most. Our chunked processing is measured on the file, and on one of 4 times the rows.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from wanted import wanted

from precog_runtime.frames import PRICES, process, read

ASSETS = {"btc": 97000.0, "eth": 3400.0, "tao_bittensor": 450.0}
START = 1735689600
WANTED_S, WANTED_ROWS = 0.35, 1_000_000


def write(path: Path, rows: int) -> None:
    """Write prices as Coin Metrics does: all assets, second by second, times to the nanosecond with Z."""
    generator = np.random.default_rng(55)
    with path.open("w") as file:
        file.write("asset,time,ReferenceRateUSD\n")
        for first in range(0, rows, 30_000):
            seconds = np.datetime_as_string(np.arange(START + first // 3, START + first // 3 + 10_000).astype("M8[s]"))
            moves = 1 + 1e-4 * generator.standard_normal((10_000, 3))
            lines = [
                f"{asset},{second}.000000000Z,{price * move:.14g}\n"
                for second, row in zip(seconds, moves.tolist(), strict=True)
                for (asset, price), move in zip(ASSETS.items(), row, strict=True)
            ]
            file.writelines(lines[: rows - first])


def guide(path: str) -> pd.DataFrame:
    """Read in chunks of 10,000 rows and narrow each: a sketch of the guide's process_large_data and optimize_dtypes."""
    parts = []
    for chunk in pd.read_csv(path, chunksize=10_000):
        part = chunk.copy()
        for name in part.columns:
            if pd.api.types.is_float_dtype(part[name]):
                part[name] = pd.to_numeric(part[name], downcast="float")
            elif not pd.api.types.is_numeric_dtype(part[name]) and part[name].nunique() / len(part) < 0.5:
                part[name] = part[name].astype("category")
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def pandas_parse_dates(path: str) -> pd.DataFrame:
    """Read with pandas' own parser, the times too."""
    return pd.read_csv(path, parse_dates=["time"])


def pandas_pyarrow(path: str) -> pd.DataFrame:
    """Read with pandas on pyarrow."""
    return pd.read_csv(path, engine="pyarrow")


def ours(path: str) -> pd.DataFrame:
    """Read with precog_runtime."""
    return read(path)


def ours_typed(path: str) -> pd.DataFrame:
    """Read with precog_runtime, the types given."""
    return read(path, types=PRICES)


def ours_chunked(path: str) -> pd.DataFrame:
    """Sum the prices of each asset chunk by chunk."""

    def sums(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.groupby("asset", observed=True)[["ReferenceRateUSD"]].sum()

    return process(path, sums, reducer=lambda one, other: one.add(other, fill_value=0.0))


WAYS: dict[str, tuple[str, Callable[[str], pd.DataFrame]]] = {
    "guide": ("guide's chunks and dtypes (sketch)", guide),
    "default": ("pandas, default (times stay text)", pd.read_csv),
    "dates": ("pandas, parse_dates", pandas_parse_dates),
    "pyarrow": ("pandas, engine=pyarrow", pandas_pyarrow),
    "ours": ("ours: read", ours),
    "typed": ("ours: read, types=PRICES", ours_typed),
    "chunked": ("ours: process (sums by asset)", ours_chunked),
}


def peak_kib() -> int:
    """Return this process' peak of resident memory (ru_maxrss begins with what the parent had at the start)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise RuntimeError("/proc/self/status has no VmHWM: the peak of memory is known on Linux only")
    return int(found[1])


def measure(way: str, path: str, small: str, rounds: int) -> dict[str, float]:
    """Measure one way in this process.

    :param small: a file to warm up with, so that imports are counted neither as time nor as memory.
    """
    function = WAYS[way][1]
    function(small)
    before = peak_kib()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        frame = function(path)
        seconds.append(time.perf_counter() - start)
        size = int(frame.memory_usage(deep=True).sum())
        del frame
    return {"seconds": min(seconds), "frame": size / 2**20, "peak": (peak_kib() - before) / 1024}


def apart(way: str, path: Path, small: Path, rounds: int) -> dict[str, float]:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--file", str(path), "--small", str(small)]
    run = subprocess.run([*command, "--rounds", str(rounds)], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(run.stdout)
    return found


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=WANTED_ROWS, help="of the file (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts (3)")
    for name in ("--way", "--file", "--small"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.file, args.small, args.rounds)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        files = {size: Path(folder) / f"{size}.csv" for size in ("small", "plain", "large")}
        for size, rows in (("small", 3000), ("plain", args.rows), ("large", 4 * args.rows)):
            write(files[size], rows)
        print(f"{args.rows} rows, {files['plain'].stat().st_size / 2**20:.0f} MiB, pandas {pd.__version__}")
        print(f"{'':36} {'seconds':>8} {'x ours':>7} {'frame MiB':>10} {'peak MiB':>9}")
        found = {way: apart(way, files["plain"], files["small"], args.rounds) for way in WAYS}
        large = apart("chunked", files["large"], files["small"], 1)
        rows_of_table = [(WAYS[way][0], each) for way, each in found.items()]
        for label, each in [*rows_of_table, ("ours: process, 4 times the rows", large)]:
            ratio = each["seconds"] / found["ours"]["seconds"]
            print(f"{label:36} {each['seconds']:8.3f} {ratio:7.1f} {each['frame']:10.1f} {each['peak']:9.0f}")
        if args.rows == WANTED_ROWS:
            wanted(f"CSV of {WANTED_ROWS} rows to an optimised frame", found["ours"]["seconds"], WANTED_S, "s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
