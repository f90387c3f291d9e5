"""`python -m bench.environment`: how long the runtime's Python environment takes, made by uv and by pip.

All on one local host, from the same lock, with cold caches each time, in turns. What is measured is the time on the
host: what the module says of itself, and for the guide's commands the time until they end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import fleet
from bench.figures import Target, ratio, series_table, target_lines
from bench.process import ROOT, BenchError, run

NAME, HOST, SUITE = "bench-environment", "env-1", "bookworm"
FIRST, UV, PIP, GUIDE = "uv, fetched first", "uv", "pip", "venv and pip"
CONTESTANTS = (FIRST, UV, PIP, GUIDE)
LIMIT = 0.5
PLACES = "/opt/precog/env/miner* /var/cache/precog-fleet /root/.cache /tmp/bench-venv"
TOOL = "/opt/precog/env/.tool-*"
# As the guide has it: no bytecode for -O, and none of the standard library's.
COMMANDS = (
    "python3 -m venv /tmp/bench-venv && "
    "/tmp/bench-venv/bin/pip install --quiet --no-cache-dir --compile --require-hashes -r /tmp/runtime.txt"
)
PREPARE = "apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-venv >/dev/null"


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    top = argparse.ArgumentParser(prog="bench.environment", description="Times uv and pip.")
    top.add_argument("--rounds", type=int, default=3, help="turns of each contestant (3)")
    top.add_argument("--json", type=Path, metavar="FILE", help="write every time to a file as well")
    return top


def say(text: str) -> None:
    """Tell how it goes, apart from the results on standard output."""
    print(text, file=sys.stderr, flush=True)


def module_seconds(output: str) -> float:
    """Return how long the module says that it took, from the output of `ansible`.

    :raises BenchError: it built nothing, or its output is not what it should be.
    """
    try:
        result = json.loads(output[output.index("=> {") + 3 :])
        seconds = result["seconds"]
        return float(seconds["all"] if "install" in seconds else "nothing")
    except (ValueError, KeyError) as error:
        raise BenchError(f"no environment was built:\n{output[-2000:]}") from error


class Host:
    """The host that everything is measured on."""

    def __init__(self, inventory: Path, work: Path) -> None:
        self._inventory = inventory
        self._env = {**fleet.ansible_environment(work), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}

    def ssh(self, command: str, stdin: str = "") -> float:
        """Run a command as root; returns seconds."""
        config = str(self._inventory.with_name("ssh_config"))
        return run(["ssh", "-F", config, HOST, "sudo", "sh", "-c", f"'{command}'"], stdin=stdin).seconds

    def prepare(self) -> None:
        """Bring what all of them need, and let Ansible open its connection."""
        self.ssh(PREPARE)
        self.ssh("cat >/tmp/runtime.txt", (ROOT / "roles/python_env/files/runtime.txt").read_text())

    def turn(self, contestant: str) -> float:
        """Make the environment once, with nothing there before; returns seconds."""
        if contestant == UV:
            self._module("uv")
        self.ssh(f"rm -rf {PLACES}{'' if contestant == UV else ' ' + TOOL}")
        if contestant == GUIDE:
            return self.ssh(COMMANDS)
        return module_seconds(self._module("pip" if contestant == PIP else "uv"))

    def _module(self, installer: str) -> str:
        arguments = json.dumps({"installer": installer})
        argv = ["ansible", "-i", str(self._inventory), HOST, "--become", "-m", "precog.fleet.python_env"]
        return run([*argv, "-a", arguments], env=self._env).output


def targets(series: Mapping[str, Sequence[float]]) -> list[Target]:
    """Return the figure to reach for each way of measuring it.

    With uv there and yet to be fetched; to pip by the same role with the same result, and to the guide's commands,
    which make less.
    """
    pairs = [(name, base) for base in (PIP, GUIDE) for name in (UV, FIRST)]
    return [Target(f"{name}, to {base}", ratio(series, name, base), LIMIT) for name, base in pairs]


def report(series: Mapping[str, Sequence[float]], machine: Mapping[str, Any]) -> list[str]:
    """Return what is printed; pure."""
    return [
        f"{machine['cores']} cores, load {machine['before']:.1f} before and {machine['after']:.1f} after; {SUITE}",
        "The runtime's environment, all caches cold",
        *series_table(series, {PIP: "to pip", GUIDE: "to the guide's"}),
        "",
        *target_lines(targets(series)),
    ]


def main(words: Sequence[str]) -> int:
    """Run the benchmark; 0 whether or not the targets are met, 1 if something failed."""
    arguments = parser().parse_args(words)
    before = os.getloadavg()[0]
    series: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory(prefix="precog-bench-") as work:
        try:
            up = run([fleet.LOCAL_FLEET, "up", NAME, f"{HOST}={SUITE}"]).output
            host = Host(Path(up.strip().splitlines()[-1]), Path(work))
            host.prepare()
            for number in range(arguments.rounds):
                for name in CONTESTANTS:
                    series[name].append(host.turn(name))
                told = ", ".join(f"{name} {times[-1]:.1f} s" for name, times in series.items())
                say(f"Round {number + 1} of {arguments.rounds}: {told}")
        except BenchError as error:
            say(f"Error: {error}")
            return 1
        finally:
            fleet.close_connections(Path(work) / "cp")
            run([fleet.LOCAL_FLEET, "down", NAME])
    machine = {"cores": len(os.sched_getaffinity(0)), "before": before, "after": os.getloadavg()[0]}
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "seconds": series}, indent=1) + "\n")
    print("\n".join(report(series, machine)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
