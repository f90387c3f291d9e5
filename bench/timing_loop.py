"""Runs on a target: times payloads as Ansible starts them with pipelining, given to a new Python on standard input.

Usage: python3 - RUNS PAYLOAD...; prints one JSON document. Needs the standard library of Python 3.9 only.
"""

import json
import os
import subprocess
import sys
import time


def timed(payload):
    """Return the wall time of one run, in seconds, and the last line of its output."""
    with open(payload, "rb") as file:
        began = time.perf_counter()
        done = subprocess.run([sys.executable], stdin=file, capture_output=True, check=False)
        seconds = time.perf_counter() - began
    lines = done.stdout.decode().strip().splitlines()
    if done.returncode or not lines:
        sys.exit(f"{payload} failed with code {done.returncode}: {done.stderr.decode()}")
    return seconds, lines[-1]


def main():
    """Take turns, one warm-up first, and print the times and the last result of each."""
    runs, payloads = int(sys.argv[1]), sys.argv[2:]
    seconds = {payload: [] for payload in payloads}
    results = {payload: timed(payload)[1] for payload in payloads}
    for _ in range(runs):
        for payload in payloads:
            taken, results[payload] = timed(payload)
            seconds[payload].append(taken)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "results": {payload: json.loads(result) for payload, result in results.items()},
                "bytes": {payload: os.path.getsize(payload) for payload in payloads},
                "python": sys.version.split()[0],
            }
        )
    )


main()
