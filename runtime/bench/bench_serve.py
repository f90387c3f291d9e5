"""Measures the burst through `precog-runtime serve`: K requests at once, beside a blocking server in upstream's manner.

    bin/bench-runtime serve

The server has a process of its own, the simulated market (150 ms a request) another, the callers this one. The states
are those of bench_axon.py; CPU is the server process's, user and system, during the bursts.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
from bench_axon import SETTLE_S, STATES, WARM_S, Result, process, told
from wanted import wanted

from precog_runtime.load import ASSETS, Callers, burst

HERE = Path(__file__).resolve().parent
CONTESTANTS = {
    "serve": ("-m", "precog_runtime", "serve", "--port", "0", "--log-level", "error", "--monitor-s", "0", "--api-url"),
    "blocking baseline": (str(HERE / "serve_blocking.py"),),
}
WANTED_MS = 60.0  # p99, hot
WANTED_CPU_MS = 0.5  # of a hot request


async def bursts(url: str, server: psutil.Process, state: str, args: argparse.Namespace) -> Result:
    """Send bursts; the first warms up and doesn't count."""
    await warm_up(url)
    result = Result()
    async with Callers(url, args.callers) as callers:
        for number in range(args.rounds + 1):
            timestamp = int(time.time())
            if state == "hot":
                await burst(url, 1, timestamp=timestamp)
            await callers.burst(ASSETS[:1], timestamp - 30)  # opens the connections, which the CPU is not to count
            before = server.cpu_times()
            one = await callers.burst(ASSETS, timestamp)
            after = server.cpu_times()
            if number:
                result.seconds += list(one.latencies_s)
                result.wrong.update(Counter({kind: failures.count for kind, failures in one.failures.items()}))
                result.cpu_s += after.user + after.system - before.user - before.system
            await asyncio.sleep(SETTLE_S)
    result.rss = server.memory_info().rss
    return result


async def warm_up(url: str) -> None:
    """Ask until everything is answered."""
    ends = time.monotonic() + WARM_S
    while (await burst(url, 1)).failed:
        if time.monotonic() > ends:
            raise SystemExit(f"Error: after {WARM_S:g} s {url} does not answer")
        await asyncio.sleep(0.2)


def measure(contestant: str, state: str, args: argparse.Namespace) -> Result:
    """Measure one contestant in one state."""
    simulator = ("-m", "precog_runtime", "simulate-market", "--port", "0", "--latency-ms", str(args.latency_ms))
    with process(*simulator, *STATES[state]) as market:
        url = told(market)["listening"].removesuffix("/v4") + "/v4"
        with process(*CONTESTANTS[contestant], url) as server:
            return asyncio.run(bursts(told(server)["listening"], psutil.Process(server.pid), state, args))


def main() -> None:
    """Measure and print."""
    top = argparse.ArgumentParser(description="Measures the burst through `precog-runtime serve`.")
    top.add_argument("--callers", type=int, default=64, help="requests at once (%(default)s)")
    top.add_argument("--rounds", type=int, default=10, help="bursts that count, after one that warms up (%(default)s)")
    top.add_argument("--latency-ms", type=float, default=150, help="of the market's API (%(default)s)")
    top.add_argument("--states", default=",".join(STATES), help="by commas (%(default)s)")
    args = top.parse_args()
    for state in args.states.split(","):
        found = {}
        for name in CONTESTANTS:
            print(f"{state}: {name}", file=sys.stderr, flush=True)
            found[name] = measure(name, state, args)
        show(state, found)


def show(state: str, found: dict[str, Result]) -> None:
    """Print a table; the ratio is of p99."""
    ours = found["serve"]
    print(f"\n{state:20}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms':>9}{'wrong':>9}{'RSS MiB':>9}  p99 to serve's")
    for name, one in found.items():
        wrong, ratio = f"{sum(one.wrong.values())}/{len(one.seconds)}", f"x{one.p(99) / ours.p(99):.1f}"
        print(
            f"  {name:18}{one.p(50):9.1f}{one.p(99):9.1f}{one.cpu_ms():9.2f}{wrong:>9}{one.rss / 2**20:9.0f}  {ratio}",
            flush=True,
        )
    if state == "hot":
        wanted("p99 through serve, hot", ours.p(99), WANTED_MS, "ms")
        wanted("server CPU of a hot request in serve", ours.cpu_ms(), WANTED_CPU_MS, "ms")


if __name__ == "__main__":
    main()
