"""The command line of bin/local-vm."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from local_fleet.cli import cache_folder, run, say
from local_fleet.model import FleetError, check_name, check_suite
from local_fleet.process import Runner

from local_vm.fleet import Fleet, is_running
from local_vm.image import Images
from local_vm.model import parse_specs


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    top = argparse.ArgumentParser(prog="bin/local-vm", description="Debian hosts in virtual machines, over SSH.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="boot new machines, wait for them, write their inventory")
    up.add_argument("fleet", metavar="FLEET")
    up.add_argument("machines", metavar="NAME=SUITE[,MEMORY]", nargs="+")
    for name, text in (
        ("kill", "take the power from a machine"),
        ("start", "boot a machine that is off"),
        ("reboot", "have a machine reboot itself, and wait for it"),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("fleet", metavar="FLEET")
        one.add_argument("machine", metavar="NAME")
    for name, text in (
        ("save", "save a running machine's memory and disk under a name"),
        ("restore", "put a machine back to a state that was saved"),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("fleet", metavar="FLEET")
        one.add_argument("machine", metavar="NAME")
        one.add_argument("state", metavar="STATE")
    for name, text in (("down", "remove a fleet's machines and state"), ("status", "show a fleet's machines")):
        commands.add_parser(name, help=text).add_argument("fleet", metavar="FLEET")
    image = commands.add_parser("image", help="build a suite's disk image, unless it is there, and print its folder")
    image.add_argument("suite", metavar="SUITE")
    return top


def execute(arguments: argparse.Namespace, runner: Runner, environ: dict[str, str]) -> list[str]:
    """Carries out a command and returns what it prints; raises FleetError."""
    cache = cache_folder(environ)
    images = Images(runner, cache, environ, say)
    if arguments.command == "image":
        problems = check_suite(arguments.suite)
        if problems:
            raise FleetError(*problems)
        return [str(images.ensure(arguments.suite).folder)]
    problems = check_name("fleet", arguments.fleet)
    if "state" in arguments:
        problems += check_name("state", arguments.state)
    if problems:
        raise FleetError(*problems)
    fleet = Fleet(arguments.fleet, cache, runner, images, say)
    if arguments.command == "up":
        return [str(fleet.up(parse_specs(arguments.machines)))]
    if arguments.command == "status":
        return [
            f"{one.name}  {one.suite}  127.0.0.1:{one.port}  {'running' if is_running(one) else 'off'}  {one.console}"
            for one in fleet.machines()
        ]
    if arguments.command == "down":
        return [f"{arguments.fleet}: {fleet.down()} machines removed"]
    if arguments.command == "save":
        fleet.save(arguments.machine, arguments.state)
        return [f"{arguments.machine}: saved as {arguments.state}"]
    if arguments.command == "restore":
        fleet.restore(arguments.machine, arguments.state)
        return [f"{arguments.machine}: restored to {arguments.state}"]
    act = {"kill": fleet.kill, "start": fleet.start, "reboot": fleet.reboot}[arguments.command]
    act(arguments.machine)
    return [f"{arguments.machine}: {'off' if arguments.command == 'kill' else 'booted'}"]


def main(words: Sequence[str]) -> int:
    """Runs one command; returns the exit status: 0, 1 with errors printed, 2 for wrong usage, 130 when interrupted."""
    arguments = parser().parse_args(words)
    return run(lambda runner, environ: execute(arguments, runner, environ))
