"""The command line of bin/bench: converge, prove, measure, print."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from bench import figures, fleet, target
from bench.contestants import AUDIT, FIRST, OURS, PING, PYINFRA, ROLES, STOCK, STOCK_ROLES, Contestant
from bench.figures import Target
from bench.keys import SYSCTL
from bench.lineup import lineup
from bench.process import BenchError, run

INTERRUPTED = 130
LIMITS = {PING: 1.5, STOCK: 0.25}
# Of all tuning roles, more than 30 settings: who, compared with whom, at most.
TUNING_LIMITS = (
    (ROLES, PING, 3.0),
    (ROLES, STOCK_ROLES, 0.25),
    (FIRST, PING, 1.3),
    (FIRST, PYINFRA, 1.0),
    (AUDIT, PING, 1.15),
)
MODULE_LIMIT = 1.25
PACKAGES = ("ansible-core", "ansible", "pyinfra")


class Results(NamedTuple):
    """All that was measured: wall times in seconds by contestant, and the modules' own on each host."""

    machine: dict[str, Any]
    rounds: dict[str, list[float]]
    modules: dict[str, target.Times]


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    top = argparse.ArgumentParser(prog="bin/bench", description="Measures kernel_tuning beside its rivals.")
    top.add_argument("--rounds", type=_count, default=7, help="turns of each contestant; the first is warm-up (7)")
    top.add_argument("--module-runs", type=_count, default=25, help="runs of each module on each host (25)")
    top.add_argument("--cold", action="store_true", help="close Ansible's SSH connections before every run")
    top.add_argument("--keep", action="store_true", help="leave the fleet up for the next run")
    top.add_argument("--json", type=Path, metavar="FILE", help="write every time to a file as well")
    return top


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError("a number of 1 or more is wanted")
    return int(word)


def say(text: str) -> None:
    """Tell how it goes, apart from the results on standard output."""
    print(text, file=sys.stderr, flush=True)


class Bench:
    """One run of the benchmark on a fleet that is up."""

    def __init__(self, hosts: fleet.Fleet, work: Path, *, cold: bool) -> None:
        self._hosts, self._work, self._cold = hosts, work, cold
        self._env = fleet.ansible_environment(work)
        self._lineup = lineup(SYSCTL, hosts.pyinfra_reach(), str(hosts.inventory))

    def run(self, rounds: int, module_runs: int) -> Results:
        """Converge, measure and return what came out.

        :raises BenchError: a contestant failed, or changed something when it should not.
        """
        machine = describe_machine(cold=self._cold)
        self._hosts.prepare()
        self._converge()
        times = self._rounds(rounds)
        say("Timing the modules on the hosts")
        modules = target.measure(self._hosts, self._lineup, str(self._work), self._env, module_runs)
        machine["load_after"] = os.getloadavg()
        return Results(machine, times, modules)

    def _converge(self) -> None:
        for contestant in self._lineup:
            say(f"Converging: {contestant.name}")
            for name, text in contestant.files.items():
                (self._work / name).write_text(text, encoding="utf-8")
            run(contestant.command(str(self._work)), env=self._env)
            if contestant.name != PING:
                self._hosts.expect(SYSCTL)

    def _rounds(self, count: int) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {contestant.name: [] for contestant in self._lineup}
        for number in range(count):
            # Each round another begins, so that none always follows the same one.
            first = number % len(self._lineup)
            for contestant in (*self._lineup[first:], *self._lineup[:first]):
                times[contestant.name].append(self._no_change_run(contestant))
            say(
                f"Round {number + 1} of {count}: "
                + ", ".join(f"{name} {all_[-1]:.2f} s" for name, all_ in times.items())
            )
        return times

    def _no_change_run(self, contestant: Contestant) -> float:
        if self._cold:
            fleet.close_connections(self._work / "cp")
        done = run(contestant.command(str(self._work)), env=self._env)
        objection = contestant.objection(done.output)
        if objection:
            raise BenchError(f"{contestant.name} was no no-change run: {objection}\n{done.output[-3000:]}")
        return done.seconds


def describe_machine(*, cold: bool) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "hosts": fleet.SUITES,
        "keys": len(SYSCTL),
        "connections": "cold" if cold else "warm",
    }


def targets(rounds: Mapping[str, Sequence[float]], modules: Mapping[str, target.Times]) -> list[Target]:
    """Return the figures to reach, with what was measured."""
    own = {host: times.seconds for host, times in modules.items()}
    tuning = [
        Target(f"{name}, to {base}", figures.ratio(rounds, name, base), limit) for name, base, limit in TUNING_LIMITS
    ]
    return [
        Target("no-change run, to a ping task", figures.ratio(rounds, OURS, PING), LIMITS[PING]),
        Target("no-change run, to the stock loop", figures.ratio(rounds, OURS, STOCK), LIMITS[STOCK]),
        Target("module's own time, to ping's (worst host)", figures.worst_ratio(own, OURS, PING), MODULE_LIMIT),
        *tuning,
    ]


def report(results: Results) -> list[str]:
    """Return what is printed; pure."""
    machine, counted = results.machine, counting(results)
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"{machine['date']}: {machine['cores']} cores, load {machine['load_before'][0]:.1f} before and "
        f"{machine['load_after'][0]:.1f} after, Linux {machine['kernel']}, Python {machine['python']}",
        f"{versions}; {len(machine['hosts'])} hosts, {machine['keys']} keys, {machine['connections']} connections",
        "",
        f"No-change run, whole command ({len(counted[PING])} rounds that count)",
        *figures.series_table(counted, {PING: "to ping", STOCK: "to stock"}),
        "",
        "The modules' own time on the target (the stock loop's: of one key out of all)",
    ]
    for host, times in results.modules.items():
        lines += [f"{host}, {machine['hosts'][host]}, Python {times.python}"]
        lines += figures.series_table(times.seconds, {PING: "to ping"}, unit="ms", processor=times.processor)
    lines += ["", *figures.target_lines(targets(counted, results.modules))]
    if PYINFRA in counted and machine["connections"] == "warm":
        lines += ["", "pyinfra connects anew each time; --cold makes all do so."]
    return lines


def counting(results: Results) -> dict[str, Sequence[float]]:
    """Return the rounds that count, by contestant."""
    return {name: figures.without_warm_up(times) for name, times in results.rounds.items()}


def document(results: Results) -> dict[str, Any]:
    """Return the JSON report: every time, the warm-up apart."""
    counted = counting(results)
    return {
        "machine": results.machine,
        "warm_up": {name: times[0] for name, times in results.rounds.items()},
        "runs": figures.series_document(counted),
        "modules": {
            host: {
                "python": times.python,
                "bytes": times.sizes,
                "wall": figures.series_document(times.seconds),
                "processor": figures.series_document(times.processor),
            }
            for host, times in results.modules.items()
        },
        "targets": [{**one._asdict(), "met": one.met} for one in targets(counted, results.modules)],
    }


def measure(arguments: argparse.Namespace) -> Results:
    """Bring the fleet up, measure, and clean up whatever happened."""
    # Not below the cache: a socket's path has room for about a hundred characters only.
    work = Path(tempfile.mkdtemp(prefix="precog-bench-"))
    try:
        say("Starting four hosts")
        bench = Bench(fleet.up(), work, cold=arguments.cold)
        return bench.run(arguments.rounds, arguments.module_runs)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _clean_up(work, keep=arguments.keep)


def _clean_up(work: Path, *, keep: bool) -> None:
    fleet.close_connections(work / "cp")
    shutil.rmtree(work, ignore_errors=True)
    if keep:
        say("The fleet stays up: bin/local-fleet down bench removes it.")
        return
    try:
        fleet.down()
    except BenchError as error:
        say(f"Warning: {error}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(words: Sequence[str]) -> int:
    """Run the benchmark; 0 whether or not the targets are met, 1 if a contestant failed, 130 when interrupted."""
    arguments = parser().parse_args(words)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    began = time.monotonic()
    try:
        results = measure(arguments)
        if arguments.json:
            arguments.json.write_text(json.dumps(document(results), indent=1) + "\n", encoding="utf-8")
    except (BenchError, OSError) as error:
        say(f"Error: {error}")
        return 1
    except KeyboardInterrupt:
        say("Interrupted.")
        return INTERRUPTED
    say(f"Done in {time.monotonic() - began:.0f} s")
    print("\n".join(report(results)))
    return 0
