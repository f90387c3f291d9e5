"""Runs on a target: times payloads as Ansible starts them with pipelining, given to a new Python on standard input.

Usage: python3 - RUNS PAYLOAD...; prints one JSON document. Needs the standard library of Python 3.9 only.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def processor_time() -> float:
    """Return what all children so far have used of the processor, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(payload: str) -> tuple[float, float, str]:
    """Return the wall time and processor time of one run, in seconds, and the last line of its output."""
    with Path(payload).open("rb") as file:
        before, began = processor_time(), time.perf_counter()
        done = subprocess.run([sys.executable], stdin=file, capture_output=True, check=False)
        seconds, used = time.perf_counter() - began, processor_time() - before
    lines = done.stdout.decode().strip().splitlines()
    if done.returncode or not lines:
        sys.exit(f"{payload} failed with code {done.returncode}: {done.stderr.decode()}")
    return seconds, used, lines[-1]


def main() -> None:
    """Take turns, one warm-up first, and print the times and the last result of each."""
    runs, payloads = int(sys.argv[1]), sys.argv[2:]
    seconds: dict[str, list[float]] = {payload: [] for payload in payloads}
    processor: dict[str, list[float]] = {payload: [] for payload in payloads}
    results = {payload: timed(payload)[-1] for payload in payloads}
    for _ in range(runs):
        for payload in payloads:
            taken, used, results[payload] = timed(payload)
            seconds[payload].append(taken)
            processor[payload].append(used)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "processor": processor,
                "results": {payload: json.loads(result) for payload, result in results.items()},
                "bytes": {payload: Path(payload).stat().st_size for payload in payloads},
                "python": sys.version.split()[0],
            }
        )
    )


main()
