"""`precog-runtime doctor`: looks whether all that the runtime needs is there, and says what to do about what isn't."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil

from precog_runtime.errors import RuntimeFault, SourceError
from precog_runtime.metrics import Metrics
from precog_runtime.options import add_settings, described, given_settings
from precog_runtime.settings import Settings
from precog_runtime.store import folder_trouble

OK, WARNING, ERROR = "ok", "warning", "error"
NEEDED = ("aiohttp", "cachetools", "numpy", "orjson", "prometheus-client", "psutil", "tenacity")
TESTED = ((3, 11), (3, 13))
FILES = 4096  # open files: 64 validators, their connections, the API's, SQLite's, and room
MEMORY_MB = 256
OFF_S = 2.0  # a clock this far off asks for prices that aren't there yet, or answers with old ones


class Finding(NamedTuple):
    """What a check found."""

    check: str
    level: str
    told: str


def python() -> Iterator[Finding]:
    """Look at the interpreter and its packages."""
    version = sys.version_info[:2]
    told = f"{platform.python_implementation()} {platform.python_version()}, optimisation {sys.flags.optimize}"
    tested = TESTED[0] <= version <= TESTED[1]
    yield Finding("python", OK if tested else WARNING, told if tested else f"{told}: untried. Use 3.11 to 3.13")
    for name in NEEDED:
        try:
            yield Finding(f"package {name}", OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(f"package {name}", ERROR, "missing. Install precog-runtime with its dependencies")


def host() -> Iterator[Finding]:
    """Look at the limits and the memory of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft in (resource.RLIM_INFINITY, -1) or soft >= FILES
    remedy = "" if enough else f": {FILES} are wanted. Raise LimitNOFILE of the service, or `ulimit -n`"
    yield Finding("open files", OK if enough else WARNING, f"{soft}{remedy}")
    free = psutil.virtual_memory().available // 2**20
    told = f"{free} MB available, {psutil.cpu_count()} CPUs"
    yield Finding("memory", OK if free >= MEMORY_MB else WARNING, told)


def state(settings: Settings) -> Iterator[Finding]:
    """Look whether the state's folder can be written."""
    if not settings.state_dir:
        yield Finding("state", WARNING, "state_dir is not set: cache and log of predictions are lost at the end")
        return
    if trouble := folder_trouble(settings.state_dir):
        told = f"state_dir {settings.state_dir}: {trouble}. Give a folder that can be written"
        yield Finding("state", ERROR, told)
        return
    yield Finding("state", OK, settings.state_dir)


def model(settings: Settings) -> Iterator[Finding]:
    """Load the model, and have it make a forecast from simulated prices."""
    from precog_runtime.forecast.model import check, load
    from precog_runtime.simulator.prices import prices

    try:
        loaded = load(settings.model)
        at = int(time.time())
        series = prices("btc", at - loaded.lookback_s, at, seed=1, regime="calm")
        began = time.perf_counter()
        made = loaded.forecast("btc", at, series)
        check("btc", made)
        spent = (time.perf_counter() - began) * 1000
    except RuntimeFault as fault:
        yield Finding("model", ERROR, str(fault))
    except Exception as error:  # whatever an operator's model raises
        yield Finding("model", ERROR, f"{settings.model}: {type(error).__name__}: {error}")
    else:
        yield Finding("model", OK, f"{loaded.name}: {made.low:.0f} to {made.high:.0f} USD in {spent:.1f} ms")


def source(settings: Settings) -> Iterator[Finding]:
    """Ask the source for the newest prices, once."""
    yield from asyncio.run(_source(settings))


async def _source(settings: Settings) -> list[Finding]:
    from precog_runtime.market.coinmetrics import CoinMetrics

    client = CoinMetrics(settings, Metrics())
    now = int(time.time())
    try:
        found = await client.fetch(settings.assets, now - 60, now, settings.api_timeout_s)
    except SourceError as error:
        remedy = "Is api_url right, and is the network there? Try `precog-runtime simulate-market` meanwhile"
        return [Finding("source", ERROR, f"{settings.api_url}: {error}. {remedy}")]
    finally:
        await client.close()
    findings = []
    for asset in settings.assets:
        series = found.get(asset, ())
        if not len(series):
            findings.append(Finding(f"source {asset}", ERROR, "no price of the last minute. Is the name right?"))
        else:
            age = now - int(found[asset].times[-1])
            late = age > settings.fresh_s + OFF_S
            remedy = ": late, or this clock is ahead (`timedatectl`)" if late else ""
            findings.append(Finding(f"source {asset}", WARNING if late else OK, f"newest price {age} s old{remedy}"))
    return findings


def bittensor() -> Iterator[Finding]:
    """Tell whether the axon front end can be used; without bittensor it is not wanted."""
    try:
        version = importlib.metadata.version("bittensor")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("bittensor", OK, "not installed: only `serve` can be used")
        return
    right = version.startswith("9.")
    remedy = "" if right else ": the axon front end wants 9.9 to 9.x"
    yield Finding("bittensor", OK if right else ERROR, version + remedy)
    if right and sys.flags.optimize:
        yield Finding("bittensor", WARNING, "python -O removes checks that it relies on: unset PYTHONOPTIMIZE")


def examine(settings: Settings, offline: bool) -> Iterator[Finding]:
    """Make all checks."""
    with_settings: list[Callable[[Settings], Iterator[Finding]]] = [state, model, *([] if offline else [source])]
    yield from python()
    yield from host()
    for check in with_settings:
        yield from check(settings)
    yield from bittensor()


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--offline", action="store_true", help="don't ask the source of prices")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--list-settings", action="store_true", help="print the settings in force, and end")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    settings = given_settings(arguments)
    if arguments.list_settings:
        for name, told in described().items():
            value = "***" if name == "api_key" and settings.api_key else getattr(settings, name)
            print(f"{name} = {value!r}\n    {told}")
        return 0
    findings = []
    for finding in examine(settings, arguments.offline):
        findings.append(finding)
        if not arguments.json:
            print(f"{finding.level:8} {finding.check:24} {finding.told}", flush=True)
    if arguments.json:
        print(json.dumps([finding._asdict() for finding in findings]))
    return int(any(finding.level == ERROR for finding in findings))
