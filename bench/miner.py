"""`bin/bench miner`: what a run costs where the miner is as wanted, and how soon and how fast the miner answers.

On four local hosts: the no-change run of python_env and miner_service beside as many ping tasks as it may cost, with
one instance and with several; the time until a killed miner answers again; a burst of requests through `serve`.
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
from bench.figures import Target, ratio, series_table, target_lines, without_warm_up
from bench.process import ROOT, BenchError, run

PINGS, ONE, MANY = "4 ping tasks", "1 instance", "6 instances"
INSTANCES = {ONE: 1, MANY: 6}
FIRST_PORT, MARKET_PORT = 8092, 8900
CALLERS = 64
NO_CHANGE_LIMIT, BACK_LIMIT_S, BURST_LIMIT_MS = 1.0, 5.0, 80.0
BATCHES = ["100%"]  # as one play has its pings; by default the hosts are done in three batches, one after the other
PING_PLAY = [
    {
        "name": "Ping",
        "hosts": "miners",
        "gather_facts": False,
        "tasks": [{"name": f"Ping {number}", "ansible.builtin.ping": {}} for number in range(4)],
    }
]
# Kills the miner, asks until it answers, and prints how many seconds that took. A request waits in the socket.
KILL = f"""
import os, signal, subprocess, time, urllib.request
show = ["systemctl", "show", "--property=MainPID", "--value", "precog-miner@one.service"]
os.kill(int(subprocess.check_output(show)), signal.SIGKILL)
began = time.monotonic()
while True:
    try:
        urllib.request.urlopen("http://127.0.0.1:{FIRST_PORT}/predict", b"{{}}", 30).read()
        break
    except OSError:
        time.sleep(0.02)
print(time.monotonic() - began)
"""
LOAD = "/opt/precog/current/environment/bin/precog-runtime"


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    top = argparse.ArgumentParser(prog="bin/bench miner", description="Times the miner's roles, and the miner.")
    top.add_argument("--rounds", type=int, default=5, help="turns of each contestant; the first is warm-up (5)")
    top.add_argument("--kills", type=int, default=3, help="how often each host's miner is killed (3)")
    return top


def say(text: str) -> None:
    """Tell how it goes, apart from the results on standard output."""
    print(text, file=sys.stderr, flush=True)


def variables(count: int) -> dict[str, Any]:
    """Return the variables of so many miners, beside a market."""
    names = ["one", "two", "three", "four", "five", "six"][:count]
    miners = {name: {"port": FIRST_PORT + number} for number, name in enumerate(names)}
    return {
        "miner_rollout_batches": BATCHES,
        "miner_service_instances": {"market": {"engine": "simulator", "port": MARKET_PORT}, **miners},
        "miner_service_variables": {"PRECOG_RUNTIME_API_URL": f"http://127.0.0.1:{MARKET_PORT}/v4"},
        # What is measured here is a run without a gate; on two cores some thirty processes start at once.
        "miner_service_gate": {"soak_s": 0.5, "p99_ms": 10000, "p99_slack_ms": 10000, "deadline_ms": 20000},
    }


class Bench:
    """One run of the benchmark on a fleet that is up."""

    def __init__(self, hosts: fleet.Fleet, work: Path) -> None:
        self._hosts, self._work = hosts, work
        self._env = fleet.ansible_environment(work)
        self._inventory = work / "hosts.json"
        self._inventory.write_text(json.dumps({"miners": {"hosts": dict.fromkeys(hosts.hosts)}}))
        (work / "ping.yml").write_text(json.dumps(PING_PLAY))

    def no_change(self, rounds: int) -> dict[str, Sequence[float]]:
        """Return the seconds of no-change runs, and of pings, taken in turns."""
        times: dict[str, list[float]] = {PINGS: [], ONE: [], MANY: []}
        for name, count in INSTANCES.items():
            say(f"Converging: {name}")
            self._play(str(ROOT / "playbooks/miner.yml"), count)
            for number in range(rounds):
                ping, ours = self._play(str(self._work / "ping.yml"), 0), self._still(count)
                times[PINGS].append(ping)
                times[name].append(ours)
                say(f"Round {number + 1} of {rounds}: {PINGS} {ping:.2f} s, {name} {ours:.2f} s")
        return {name: without_warm_up(series) for name, series in times.items()}

    def back(self, kills: int) -> list[float]:
        """Return the seconds from a kill -9 to the next answer, host by host."""
        return [float(self._ssh(host, "python3", "-c", KILL)) for host in self._hosts.hosts for _kill in range(kills)]

    def burst(self) -> list[float]:
        """Return the p99 of bursts in milliseconds, host by host; all have to be answered rightly."""
        argv = [LOAD, "load", "--requests", str(CALLERS), "--mark-s", "0", "--json", "--log-level", "error"]
        found = []
        for host in self._hosts.hosts:
            output = self._ssh(host, *argv, f"http://127.0.0.1:{FIRST_PORT}")
            # Its progress stands in the same output.
            summary, _end = json.JSONDecoder().raw_decode(output[output.index("{") :])
            found.append(float(summary["latency_ms"]["p99"]))
        return found

    def _still(self, count: int) -> float:
        return self._play(str(ROOT / "playbooks/miner.yml"), count, unchanged=True)

    def _play(self, playbook: str, count: int, *, unchanged: bool = False) -> float:
        given = json.dumps(variables(count)) if count else "{}"
        inventories = ["-i", str(self._hosts.inventory), "-i", str(self._inventory)]
        done = run(["ansible-playbook", *inventories, "--extra-vars", given, playbook], env=self._env)
        if unchanged and done.output.count("changed=0 ") != len(self._hosts.hosts):
            raise BenchError(f"it was no no-change run:\n{done.output[-3000:]}")
        return done.seconds

    def _ssh(self, host: str, *command: str) -> str:
        return self._hosts.ssh(host, "sudo", *command)


def machine() -> str:
    """Return what it was measured on."""
    return f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; {len(fleet.SUITES)} hosts"


def report(series: Mapping[str, Sequence[float]], back: Sequence[float], burst: Sequence[float]) -> list[str]:
    """Return what is printed of the figures; pure.

    :param series: seconds of runs, by contestant.
    :param back: seconds from each kill to the next answer.
    :param burst: the p99 of each host's bursts in milliseconds.
    """
    no_change = [Target(f"{name}, to {PINGS}", ratio(series, name, PINGS), NO_CHANGE_LIMIT) for name in INSTANCES]
    return [
        "No-change run of python_env and miner_service, whole command, all hosts in one batch "
        f"(--extra-vars '{json.dumps({'miner_rollout_batches': BATCHES})}')",
        *series_table(series, {PINGS: "to 4 pings"}),
        "",
        *target_lines(no_change),
        "",
        f"Killed, and back: {min(back):.1f} to {max(back):.1f} s in {len(back)} kills",
        held(f"back after kill -9, worst of {len(back)}", max(back), BACK_LIMIT_S, "s"),
        f"{CALLERS} requests at once through serve, p99 by host: {', '.join(f'{value:.0f}' for value in burst)} ms",
        held("p99 of a burst, worst host", max(burst), BURST_LIMIT_MS, "ms"),
    ]


def held(name: str, measured: float, limit: float, unit: str) -> str:
    """Return a line: a figure, its limit, and whether it is met."""
    return f"{name}: {measured:.1f} {unit}, at most {limit:g} {unit}: {'met' if measured <= limit else 'not met'}"


def main(words: Sequence[str]) -> int:
    """Run the benchmark; 0 whether or not the targets are met, 1 if something failed."""
    arguments = parser().parse_args(words)
    with tempfile.TemporaryDirectory(prefix="precog-bench-") as work:
        try:
            hosts = fleet.up()
            hosts.prepare()
            bench = Bench(hosts, Path(work))
            series = bench.no_change(arguments.rounds)
            say("Killing miners, and sending bursts")
            print("\n".join([machine(), *report(series, bench.back(arguments.kills), bench.burst())]))
        except BenchError as error:
            say(f"Error: {error}")
            return 1
        finally:
            fleet.close_connections(Path(work) / "cp")
            fleet.down()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
