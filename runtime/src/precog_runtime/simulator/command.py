"""`precog-runtime simulate-market`: the simulated market data API in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from precog_runtime import service
from precog_runtime.errors import SettingError
from precog_runtime.options import port_number
from precog_runtime.simulator import faults as fault
from precog_runtime.simulator.prices import ASSETS, REGIMES

if TYPE_CHECKING:
    from precog_runtime.simulator.server import Config

USAGE = 2


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=port_number, default=8099, help="0 lets the system choose (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of prices and faults (default %(default)s)")
    parser.add_argument("--regime", default="mixed", help=f"one of {', '.join(REGIMES)} (default %(default)s)")
    parser.add_argument(
        "--assets", default=",".join(ASSETS), help="by commas; any name has prices (default %(default)s)"
    )
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of each request (default %(default)s)")
    parser.add_argument(
        "--publish-delay-s", type=float, default=0.0, help="age of the newest price (default %(default)s)"
    )
    parser.add_argument(
        "--rate-limit", type=int, default=10, help="requests by address and period, 0: any (%(default)s)"
    )
    parser.add_argument("--rate-period-s", type=float, default=6.0, help="(default %(default)s)")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="may be repeated; POST /control changes them later, with the token in PRECOG_SIMULATOR_TOKEN. Default: "
        + " ".join(f"{name}={value}" for name, value in fault.settings(fault.Faults()).items()),
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    from precog_runtime.simulator.server import TOKEN, Config

    try:
        config = Config(
            host=args.host,
            port=args.port,
            seed=args.seed,
            regime=args.regime,
            assets=tuple(dict.fromkeys(part.strip() for part in args.assets.split(",") if part.strip())),
            latency_ms=args.latency_ms,
            publish_delay_s=args.publish_delay_s,
            rate_limit=args.rate_limit,
            rate_period_s=args.rate_period_s,
            token=os.environ.get(TOKEN, ""),
            faults=fault.merged(fault.Faults(), _pairs(args.fault)),
        )
    except SettingError as error:
        return _usage(str(error))
    return _loop()(_serve(config))


async def _serve(config: Config) -> int:
    from precog_runtime.simulator.server import start

    try:
        server = await start(config)
    except OSError as error:
        return _usage(f"can't listen on {config.host} port {config.port}: {error}. Give another --host or --port")
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    print(json.dumps({"listening": server.url}), flush=True)
    service.notify("READY=1", f"STATUS=Listening at {server.url}")
    reporting = asyncio.ensure_future(service.report_alive())
    await ended.wait()
    reporting.cancel()
    service.notify("STOPPING=1")
    await server.close()
    return 0


def _loop() -> Callable[[Coroutine[Any, Any, int]], int]:
    """Return what runs a coroutine: on uvloop, which is faster, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for each in given:
        name, sign, value = each.partition("=")
        if not sign:
            raise SettingError(f"--fault {each!r} has no value. Give NAME=VALUE, for instance drop=0.1")
        pairs[name.strip()] = value.strip()
    return pairs


def _usage(message: str) -> int:
    print(f"Error: {message}", file=sys.stderr)
    return USAGE
