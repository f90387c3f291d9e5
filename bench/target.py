"""A module's own time, measured on the target: what is left of a run without Ansible and the network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import contestants
from bench.contestants import Contestant
from bench.fleet import Fleet
from bench.process import BenchError, run

LOOP = Path(__file__).with_name("timing_loop.py")
REMOTE = "/home/operator/.ansible/tmp"
# The module that each contestant sends to the hosts.
MODULES = {contestants.PING: "ping", contestants.OURS: "sysctl_profile", contestants.STOCK: "sysctl"}


class Times(NamedTuple):
    """The runs on one host: wall time and processor time in seconds and payload size in bytes, by contestant."""

    python: str
    seconds: dict[str, list[float]]
    processor: dict[str, list[float]]
    sizes: dict[str, int]


def measure(
    fleet: Fleet, lineup: Sequence[Contestant], work: str, env: Mapping[str, str], runs: int
) -> dict[str, Times]:
    """Return the times of each contestant's module on every host, one host after another.

    The payloads are Ansible's own, left behind by one run of each contestant; of the stock loop, that of one key.

    :raises BenchError: a payload is missing, failed, or changed something.
    """
    fleet.everywhere("rm", "-rf", REMOTE)
    for contestant in lineup:
        if contestant.name in MODULES:
            run(contestant.command(work), env={**env, "ANSIBLE_KEEP_REMOTE_FILES": "1"})
    try:
        return {host: _measure_host(fleet, host, runs) for host in fleet.hosts}
    finally:
        fleet.everywhere("rm", "-rf", REMOTE)


def _measure_host(fleet: Fleet, host: str, runs: int) -> Times:
    found = fleet.ssh(host, "find", REMOTE, "-name", "AnsiballZ_*.py").split()
    paths = {name: _payload(found, module, host) for name, module in MODULES.items()}
    # One session: the loop's overhead is the same for all. Root, as the contestants become.
    text = fleet.ssh(host, "sudo", "python3", "-", str(runs), *paths.values(), stdin=LOOP.read_text())
    return parse(json.loads(text), paths, host)


def _payload(found: Sequence[str], module: str, host: str) -> str:
    for path in found:
        if Path(path).name == f"AnsiballZ_{module}.py":
            return path
    raise BenchError(f"{host}: Ansible left no payload of {module} in {REMOTE}")


def parse(document: Mapping[str, Any], paths: Mapping[str, str], host: str) -> Times:
    """Return what the loop measured; pure.

    :raises BenchError: a module changed something or failed.
    """
    for name, path in paths.items():
        result = document["results"][path]
        if result.get("changed") or result.get("failed"):
            raise BenchError(f"{host}: the module of {name} was no no-change run: {json.dumps(result)[:500]}")
    return Times(
        python=document["python"],
        seconds={name: document["seconds"][path] for name, path in paths.items()},
        processor={name: document["processor"][path] for name, path in paths.items()},
        sizes={name: document["bytes"][path] for name, path in paths.items()},
    )
