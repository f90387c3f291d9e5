"""Measures the burst through bittensor's real axon: K signed requests at once, from as many validators.

    bin/bench-runtime axon [--upstream CHECKOUT]

The axon has a process of its own, the simulated market (150 ms a request) another, the callers this one. States: hot
(the prices are there, the timestamp was asked before), missing (asked about the very second, prices are published 2 s
late), limited (the same with the API's limit of 10 requests in 6 s). A request's time counts from its sending until
its answer is read; CPU is the axon process's, user and system, during the bursts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from wanted import wanted

if TYPE_CHECKING:
    from axon_callers import Callers

HERE = Path(__file__).resolve().parent
STATES = {
    "hot": ("--publish-delay-s", "0", "--rate-limit", "0"),
    "missing": ("--publish-delay-s", "2", "--rate-limit", "0"),
    "limited": ("--publish-delay-s", "2", "--rate-limit", "10"),
}
OURS = ("ours", "ours, header fix only", "ours, bittensor as it is")
BASELINES = ("upstream", "blocking baseline")
WANTED_MS = {"hot": 200.0, "missing": 250.0, "limited": 250.0}  # p99 of ours
WANTED_CPU_MS = 2.5  # of a hot request
SETTLE_S = 1.0  # between bursts
WARM_S = 60.0  # at most, until a first answer is complete


@dataclass
class Result:
    """What was measured of one contestant in one state."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wrong: Counter[str] = field(default_factory=Counter)
    rss: int = 0

    def p(self, percentile: float) -> float:
        """Return a percentile of the times, ms."""
        return float(np.percentile(self.seconds, percentile)) * 1e3

    def cpu_ms(self) -> float:
        """Return the server's CPU per request, ms."""
        return self.cpu_s / len(self.seconds) * 1e3


@contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a server until the block is left."""
    running = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def told(running: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the JSON object that a server prints when it serves."""
    for line in running.stdout or ():
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise SystemExit(f"Error: a server ended with {running.wait()} before it served")


def measure(contestant: str, state: str, callers: Callers, args: argparse.Namespace, home: str) -> Result:
    """Measure one contestant in one state."""
    simulator = ("-m", "precog_runtime", "simulate-market", "--port", "0", "--latency-ms", str(args.latency_ms))
    with process(*simulator, *STATES[state]) as market:
        job = {
            "contestant": contestant,
            "market": told(market)["listening"].removesuffix("/v4") + "/v4",
            "upstream": args.upstream,
            "home": home,
            "port": free_port(),
            "hotkeys": [one.key.ss58_address for one in callers.validators],
        }
        with process(str(HERE / "axon_server.py"), json.dumps(job)) as server:
            hotkey = told(server)["hotkey"]
            return bursts(psutil.Process(server.pid), callers, state, hotkey, job["port"], args)


def bursts(server: psutil.Process, callers: Callers, state: str, hotkey: str, port: int, args: Any) -> Result:
    """Send bursts until there are enough, or their time is up; the first warms up and doesn't count."""
    warm_up(callers, hotkey, port)
    result, ends = Result(), 0.0
    for number in range(args.rounds + 1):
        timestamp = now()
        if state == "hot":
            callers.burst(timestamp, hotkey, port, 1)
        before = server.cpu_times()
        seconds, wrong = callers.burst(timestamp, hotkey, port)
        after = server.cpu_times()
        if number:
            result.seconds += seconds
            result.wrong.update(wrong)
            result.cpu_s += after.user + after.system - before.user - before.system
            if time.monotonic() > ends:
                break
        else:
            ends = time.monotonic() + args.most_s
        time.sleep(SETTLE_S)
    result.rss = server.memory_info().rss
    return result


def warm_up(callers: Callers, hotkey: str, port: int) -> None:
    """Ask until everything is answered."""
    ends = time.monotonic() + WARM_S
    while True:
        try:
            _, wrong = callers.burst(now(), hotkey, port, 1)
        except ConnectionError:
            wrong = ["not there yet"]
        if not wrong:
            return
        if time.monotonic() > ends:
            raise SystemExit(f"Error: after {WARM_S:g} s the answer is still {wrong[0]}")
        time.sleep(0.2)


def now() -> str:
    """Return the present second as validators write it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000000Z")


def free_port() -> int:
    """Return a port that an axon takes."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if 1024 < port < 65535:
            return port


def show(results: Mapping[tuple[str, str], Result], states: list[str], contestants: list[str]) -> None:
    """Print the table; ratios are of p99 to each baseline."""
    for state in states:
        print(f"\n{state:26}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms':>9}{'wrong':>9}{'RSS MiB':>9}  p99 against")
        for name in contestants:
            one = results[state, name]
            ratios = [
                f"{base} x{results[state, base].p(99) / one.p(99):.1f}"
                for base in BASELINES
                if base in contestants and base != name
            ]
            wrong = f"{sum(one.wrong.values())}/{len(one.seconds)}"
            print(
                f"  {name:24}{one.p(50):9.0f}{one.p(99):9.0f}{one.cpu_ms():9.2f}{wrong:>9}{one.rss / 2**20:9.0f}"
                f"  {', '.join(ratios)}"
            )
            for kind, count in one.wrong.most_common(3):
                print(f"    {count} x {kind}")


def judge(results: Mapping[tuple[str, str], Result], states: list[str]) -> None:
    """Print what was wanted of ours."""
    for state in states:
        one = results.get((state, "ours"))
        if one:
            wanted(f"p99 through the axon, {state}", one.p(99), WANTED_MS[state], "ms")
            if state == "hot":
                wanted("server CPU of a hot request on the axon", one.cpu_ms(), WANTED_CPU_MS, "ms")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    top = argparse.ArgumentParser(description="Measures the burst through bittensor's real axon.")
    top.add_argument("--callers", type=int, default=64, help="requests at once (%(default)s)")
    top.add_argument("--rounds", type=int, default=10, help="bursts that count, after one that warms up (%(default)s)")
    top.add_argument("--most-s", type=float, default=60, help="no further burst after so many seconds (%(default)s)")
    top.add_argument("--latency-ms", type=float, default=150, help="of the market's API (%(default)s)")
    top.add_argument("--states", default=",".join(STATES), help="by commas (%(default)s)")
    top.add_argument("--contestants", default="", help="by semicolons; default: all that there are")
    top.add_argument("--upstream", default="", help="a checkout of upstream's repository, to measure its own code")
    return top


def main() -> None:
    """Measure and print."""
    args = parser().parse_args()
    states = args.states.split(",")
    there = [*OURS, *(name for name in BASELINES if name != "upstream" or args.upstream)]
    contestants = [name for name in there if not args.contestants or name in args.contestants.split(";")]
    home = tempfile.mkdtemp(prefix="bench-axon-")
    os.environ["HOME"] = home  # bittensor makes folders there when it is imported
    try:
        callers = import_module("axon_callers").Callers(args.callers)
        results = {}
        for state in states:
            for name in contestants:
                print(f"{state}: {name}", file=sys.stderr, flush=True)
                results[state, name] = measure(name, state, callers, args, home)
        show(results, states, contestants)
        judge(results, states)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
