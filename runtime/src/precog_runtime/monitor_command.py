"""`precog-runtime monitor`: the monitor's summary of this host, or of a running service's host."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

from precog_runtime.errors import SettingError
from precog_runtime.metrics import Metrics
from precog_runtime.monitor import Figures, Monitor, thresholds
from precog_runtime.options import add_settings, given_settings
from precog_runtime.settings import Settings

PATH = "/monitor"
ANSWER_S = 10.0  # for a running service to answer
# How a person reads a figure: its title, its unit, and by what to multiply it.
SHOWN = {
    "host_cpu_ratio": ("CPU", "%", 100.0),
    "host_memory_used_ratio": ("memory", "%", 100.0),
    "host_disk_read_bytes_per_second": ("disk, read", "kB/s", 1e-3),
    "host_disk_written_bytes_per_second": ("disk, written", "kB/s", 1e-3),
    "host_network_received_bytes_per_second": ("network, received", "kB/s", 1e-3),
    "host_network_sent_bytes_per_second": ("network, sent", "kB/s", 1e-3),
}
COLUMNS = {"now": "current", "mean": "average", "max": "max", "min": "min"}


def table(figures: dict[str, dict[str, float | None]]) -> str:
    """Return a summary as lines for people; what can't be had is a dash."""
    lines = [f"{'':24}" + "".join(f"{title:>12}" for title in COLUMNS)]
    for name, (title, unit, factor) in SHOWN.items():
        values = [figures.get(name, {}).get(column) for column in COLUMNS.values()]
        cells = ["-" if value is None or math.isnan(value) else f"{value * factor:.1f}" for value in values]
        lines.append(f"{f'{title} ({unit})':24}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


async def sampled(settings: Settings, every_s: float, duration_s: float) -> dict[str, Figures]:
    """Sample this host for so many seconds, or until SIGINT or SIGTERM; return the summary of its figures."""
    times = max(1, round(duration_s / every_s))
    monitor = Monitor(Metrics(), every_s, times + 1, thresholds=thresholds(settings))
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    monitor.sample(loop.time())
    for _ in range(times):
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), every_s)
            break
        monitor.sample(loop.time())
    return {name: figures for name, figures in monitor.summary().items() if name.startswith("host_")}


def read(url: str) -> dict[str, Any]:
    """Return the summary of a running service.

    :param url: where it listens, for instance http://127.0.0.1:8092.
    :raises SettingError: there is none; says why.
    """
    try:
        with urllib.request.urlopen(url.rstrip("/") + PATH, timeout=ANSWER_S) as response:
            figures = json.load(response)["figures"]
            return dict(figures)
    except urllib.error.HTTPError as error:
        with error:
            reason = error.read(500).decode(errors="replace")
        raise SettingError(f"--url is {url!r}: it answers {error.code}: {reason}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "Give the URL of a running `precog-runtime serve`, for instance http://127.0.0.1:8092"
        raise SettingError(f"--url is {url!r}: no summary can be read: {error}. {hint}") from error


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--url",
        help="of a running `precog-runtime serve`, to print its summary (default: sample this host)",
    )
    parser.add_argument("--every-s", type=_positive, default=1.0, help="from sample to sample (default: %(default)g)")
    parser.add_argument("--duration-s", type=_positive, default=10.0, help="how long to sample (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print JSON: ratios, bytes, and the 95th percentile too")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    settings = given_settings(arguments)
    if arguments.url:
        figures = read(arguments.url)
    else:
        figures = asyncio.run(sampled(settings, arguments.every_s, arguments.duration_s))
    print(json.dumps(_plain(figures)) if arguments.json else table(figures))
    return 0


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    """Return a summary as JSON can carry it: null for what can't be had."""
    return {
        name: {key: None if value is None or math.isnan(value) else value for key, value in each.items()}
        for name, each in figures.items()
    }


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("it is not a number of seconds above 0")
    return value
