"""The command line of bin/local-fleet."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from local_fleet import machine
from local_fleet.engine import Engine, basic_facts
from local_fleet.fleet import Fleet
from local_fleet.images import Images
from local_fleet.model import FleetError, Host, check_name, check_suite, parse_specs
from local_fleet.process import Failed, Runner, Stopped

INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    top = argparse.ArgumentParser(
        prog="bin/local-fleet", description="A fleet of Debian hosts in containers, reached over SSH."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start what is missing of a fleet, wait for it, write its inventory")
    up.add_argument("fleet", metavar="FLEET")
    up.add_argument("hosts", metavar="NAME=SUITE", nargs="+")
    up.add_argument(
        "--with",
        metavar="PACKAGE",
        dest="packages",
        action="append",
        default=[],
        help="a Debian package that the hosts come with; several are several options",
    )
    down = commands.add_parser("down", help="remove a fleet's containers and state, or some of its hosts")
    down.add_argument("fleet", metavar="FLEET")
    down.add_argument("hosts", metavar="HOST", nargs="*")
    status = commands.add_parser("status", help="show the hosts of a fleet, or of all")
    status.add_argument("fleet", metavar="FLEET", nargs="?")
    image = commands.add_parser("image", help="build a suite's image, unless it is there, and print its name")
    image.add_argument("suite", metavar="SUITE")
    commands.add_parser("machine", help="print this machine's own settings below /proc/sys, without counters")
    return top


def status_lines(hosts: Sequence[Host]) -> list[str]:
    """A line per host, in columns, with a heading."""
    rows = [("FLEET", "HOST", "SUITE", "ADDRESS", "STATE")]
    rows += [
        (host.fleet, host.name, host.suite, f"127.0.0.1:{host.port}", "running" if host.running else "stopped")
        for host in sorted(hosts)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def say(text: str) -> None:
    """Tells the user how it goes, apart from the results on standard output."""
    print(text, file=sys.stderr, flush=True)


def cache_folder(environ: dict[str, str]) -> Path:
    """Where images and fleets are kept: PRECOG_FLEET_CACHE, as bin/lib.sh sets it."""
    home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(environ.get("PRECOG_FLEET_CACHE") or home / "precog-fleet").absolute()


def execute(arguments: argparse.Namespace, runner: Runner, environ: dict[str, str]) -> list[str]:
    """Carries out a command and returns what it prints; raises FleetError."""
    if arguments.command == "machine":
        return [f"{key} = {value!r}" for key, value in sorted(machine.read_settings().items())]
    names = [arguments.fleet] if getattr(arguments, "fleet", None) else []
    problems = [problem for name in names for problem in check_name("fleet", name)]
    problems += check_suite(arguments.suite) if arguments.command == "image" else []
    if problems:
        raise FleetError(*problems)
    specs = parse_specs(arguments.hosts) if arguments.command == "up" else []
    cache = cache_folder(environ)
    engine = Engine(runner, cache, basic_facts(environ))
    images = Images(runner, engine, cache, environ, say)
    if arguments.command == "status":
        return status_lines(engine.hosts(arguments.fleet))
    if arguments.command == "image":
        return [images.ensure(arguments.suite)]
    fleet = Fleet(arguments.fleet, cache, runner, engine, images, say)
    if arguments.command == "up":
        return [str(fleet.up(specs, arguments.packages))]
    return [f"{arguments.fleet}: {fleet.down(arguments.hosts)} hosts removed"]


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Ends the command as Ctrl-C does: a signal handler."""
    raise KeyboardInterrupt


def run(carry_out: Callable[[Runner, dict[str, str]], list[str]]) -> int:
    """Carries out a command and prints what it returns.

    Returns the exit status: 0, 1 with errors printed, 130 when interrupted.
    """
    signal.signal(signal.SIGTERM, interrupt)
    runner = Runner()
    try:
        print("\n".join(carry_out(runner, dict(os.environ))))
    except FleetError as error:
        for problem in error.problems:
            say(f"Error: {problem}")
        return 1
    except Failed as failure:
        say(f"Error: {failure}")
        return 1
    except (KeyboardInterrupt, Stopped):
        runner.stop()
        say("Interrupted.")
        return INTERRUPTED
    return 0


def main(words: Sequence[str]) -> int:
    """Runs one command; returns the exit status: as `run`, and 2 for wrong usage."""
    arguments = parser().parse_args(words)
    return run(lambda runner, environ: execute(arguments, runner, environ))
