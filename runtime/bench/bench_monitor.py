"""What the monitor costs beside the guide's way: CPU per sample, and percent of a core at one sample a second.

`python bench/bench_monitor.py [--samples 2000] [--seconds 10]`. The guide's PerformanceMonitor samples in a thread and
waits one second in `cpu_percent(interval=1)` each time; here its waits are left out, and only CPU time is counted.

The last column is what a process uses that only samples once a second, ours with its look-outs for lag
of the event loop. It is more than the one before, as each sample finds the processor's caches cold, and grows with what
else the machine does; in a miner that is at work it lies between the two.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

import psutil
from wanted import wanted

from precog_runtime.metrics import Metrics
from precog_runtime.monitor import Monitor

WANTED = 0.1  # percent of a core at 1 Hz


class GuideMonitor:
    """PerformanceMonitor of the guide: its loop's body, without the waits."""

    def __init__(self, window_size: int = 100) -> None:
        names = ("cpu", "memory", "disk_io", "network_io")
        self.metrics: dict[str, deque[float]] = {name: deque(maxlen=window_size) for name in names}

    def sample(self) -> None:
        """Take one sample of its four figures, and look at its thresholds."""
        self.metrics["cpu"].append(psutil.cpu_percent(interval=None))
        self.metrics["memory"].append(psutil.virtual_memory().percent)
        disk_io = psutil.disk_io_counters()
        if disk_io:
            self.metrics["disk_io"].append(disk_io.read_bytes + disk_io.write_bytes)
        net_io = psutil.net_io_counters()
        if net_io:
            self.metrics["network_io"].append(net_io.bytes_sent + net_io.bytes_recv)
        for name in ("cpu", "memory"):
            average = sum(self.metrics[name]) / len(self.metrics[name])
            if average > 80:
                logging.getLogger("guide").info("High %s usage: %.1f%%", name, average)


def cost(sample: Callable[[], object], samples: int) -> float:
    """Return the CPU time of one sample, seconds."""
    for _ in range(20):
        sample()
    began = time.process_time()
    for _ in range(samples):
        sample()
    return (time.process_time() - began) / samples


def used(run: Callable[[], None]) -> float:
    """Return the part of a core that this process uses while something runs."""
    began, before = time.monotonic(), time.process_time()
    run()
    return (time.process_time() - before) / (time.monotonic() - began)


def run_ours(seconds: float) -> None:
    """Run our monitor at 1 Hz."""

    async def run() -> None:
        task = asyncio.ensure_future(Monitor(Metrics(), 1.0, warn=lambda _line: None).run())
        await asyncio.sleep(seconds)
        task.cancel()

    asyncio.run(run())


def run_guides(seconds: float) -> None:
    """Run the guide's at 1 Hz; which thread does it makes no difference to what it uses."""
    guide = GuideMonitor()
    for _ in range(round(seconds)):
        guide.sample()
        time.sleep(1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000, help="of each, back to back (2000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long it runs at 1 Hz (10)")
    arguments = parser.parse_args()
    samples = arguments.samples

    ours = Monitor(Metrics(), 1.0, warn=lambda _line: None)
    rows = {
        "monitor.py: 13 figures, rates, gauges": (
            cost(lambda: ours.sample(time.monotonic()), samples),
            used(lambda: run_ours(arguments.seconds)),
        ),
        "the guide's way: 4 figures": (
            cost(GuideMonitor().sample, samples),
            used(lambda: run_guides(arguments.seconds)),
        ),
    }
    print(f"{'':40}{'us a sample':>12}{'% of a core at 1 Hz':>22}{'% running alone':>18}")
    for name, (seconds, part) in rows.items():
        print(f"{name:40}{seconds * 1e6:12.0f}{seconds * 100:22.4f}{part * 100:18.4f}")
    (found, alone), (base, base_alone) = rows.values()
    print(f"{'ratio':40}{found / base:12.2f}{'':22}{alone / base_alone:18.2f}")
    wanted("monitor at 1 Hz, back to back", found * 100, WANTED, "% of a core")
    wanted("monitor at 1 Hz, running alone", alone * 100, WANTED, "% of a core")


if __name__ == "__main__":
    main()
