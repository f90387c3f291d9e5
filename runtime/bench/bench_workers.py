"""Where a function over 8 arrays of 1e6 floats is best run: in a row, in threads, in processes; numpy and pure Python.

`python bench/bench_workers.py [--rounds 3] [--workers 2]`. Each way gets a warm-up round, so that no start of a process
is counted; then the ways take turns. `Pool` is multiprocessing.Pool.map, the guide's ParallelProcessor. Shown are
medians of wall time, and how many times as fast as in a row.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt

from precog_runtime.metrics import Metrics
from precog_runtime.workers import WorkerPool

Array = npt.NDArray[np.float64]
Function = Callable[[Array], float]
ARRAYS, LENGTH = 8, 1_000_000


def heavy(values: Array) -> float:
    """Volatility of some smoothings: numpy that releases the GIL."""
    steps = np.log(np.exp(np.sin(values)) + 1.5)
    return float(np.sqrt(np.mean(np.square(np.diff(steps)))) + np.sum(np.abs(np.cos(steps))))


def pure(values: Array) -> float:
    """An exponential average in pure Python, which holds the GIL."""
    average = 0.0
    for value in values.tolist():
        average += 0.1 * (value - average) if value > average else 0.2 * (value - average)
    return average


async def in_a_row(function: Function, arrays: list[Array]) -> list[float]:
    """Run it for one after another."""
    return [function(array) for array in arrays]


def pooled(pool: WorkerPool, kind: str) -> Callable[[Function, list[Array]], Awaitable[list[float]]]:
    """Return a way through our pool."""

    async def run(function: Function, arrays: list[Array]) -> list[float]:
        return list(await asyncio.gather(*(pool.run(kind, function, array) for array in arrays)))

    return run


async def measure(rounds: int, workers: int) -> None:
    """Run all ways in turn, compare their results, and print."""
    random = np.random.default_rng(7)
    arrays = [random.standard_normal(LENGTH) for _ in range(ARRAYS)]
    pool = WorkerPool(workers, workers, Metrics())
    with multiprocessing.get_context("spawn").Pool(workers) as theirs:

        async def by_theirs(function: Function, given: list[Array]) -> list[float]:
            return await asyncio.get_running_loop().run_in_executor(None, theirs.map, function, given)

        ways = {
            "in a row": in_a_row,
            f"{workers} threads": pooled(pool, "numpy"),
            f"{workers} processes": pooled(pool, "python"),
            f"multiprocessing.Pool({workers})": by_theirs,
        }
        try:
            for function in (heavy, pure):
                await _compare(function, arrays, ways, rounds)
        finally:
            pool.close()


async def _compare(
    function: Function,
    arrays: list[Array],
    ways: dict[str, Callable[[Function, list[Array]], Awaitable[list[float]]]],
    rounds: int,
) -> None:
    expected = [function(array) for array in arrays]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            found = await way(function, arrays)
            if turn:
                times[name].append(time.perf_counter() - began)
            if found != expected:
                raise SystemExit(f"{name}: wrong results for {function.__name__}")
    base = statistics.median(times["in a row"])
    print(f"{function.__name__:32}{'median ms':>12}{'min':>10}{'x as fast':>12}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"  {name:30}{median * 1e3:12.0f}{min(seconds) * 1e3:10.0f}{base / median:12.2f}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way after the warm-up (3)")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes (2)")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.rounds, arguments.workers))


if __name__ == "__main__":
    main()
