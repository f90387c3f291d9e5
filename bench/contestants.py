"""Who takes part: what each is given, the command that runs it, and how its output proves that nothing changed. Pure.

The plays are built here, not kept as files, so that they differ in nothing but their tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PING, OURS, STOCK, PYINFRA = "ping", "kernel_tuning", "stock loop", "pyinfra"
AUDIT, FIRST, ROLES, STOCK_ROLES = "audit", "audit first", "tuning roles", "stock tuning"

# With the keys: 30 settings and more. Below the hard limits that a container without CAP_SYS_RESOURCE is held to.
LIMITS: dict[str, dict[str, Any]] = {
    "*": {"nofile": 16384, "nproc": 8192, "core": 0},
    "root": {"nofile": 16384, "nproc": 8192, "core": 0},
}
TUNING_ROLES = ("kernel_tuning", "limits", "cpu_governor", "swap")

# Each writes a file of its own, so that none undoes what another has done.
STOCK_FILE = "/etc/sysctl.d/90-bench-stock.conf"
PYINFRA_FILE = "/etc/sysctl.d/91-bench-pyinfra.conf"

_RECAP = re.compile(r"^(?P<host>\S+) +: ok=(?P<ok>\d+) +(?P<counts>.*)$", re.MULTILINE)
_COUNT = re.compile(r"(\w+)=(\d+)")
_LOOP_ITEM = re.compile(r"^ok: \[[^\]]+\] => \(item=", re.MULTILINE)
_GRAND_TOTAL = re.compile(r"Grand total +(?P<all>\d+) +(?P<success>\S+) +(?P<error>\S+) +(?P<same>\S+)")


@dataclass(frozen=True)
class Contestant:
    """One way to keep the keys.

    :ivar files: what it needs in the work folder, by name.
    :ivar argv: its command, run in the repository's root; `{work}` stands for the work folder.
    :ivar objection: tells from the output why a run was no full no-change run, "" if it was one.
    """

    name: str
    files: Mapping[str, str]
    argv: Sequence[str]
    objection: Callable[[str], str]

    def command(self, work: str) -> list[str]:
        """Return the command for a work folder."""
        return [word.replace("{work}", work) for word in self.argv]


def play(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the one play of a contestant: all settings but its tasks or roles are the same for all."""
    return [{"name": "Bench", "hosts": "all", "gather_facts": False, "become": True, **body}]


def ping_play() -> list[dict[str, Any]]:
    """One ping task: what a task costs at the least."""
    return play({"tasks": [{"name": "Ping", "ansible.builtin.ping": {}}]})


def our_play(keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """Our role with these keys and no profile."""
    variables = {"kernel_tuning_profile": "none", "kernel_tuning_parameters": dict(keys)}
    return play({"roles": [{"role": "precog.fleet.kernel_tuning"}], "vars": variables})


def tuning_variables(keys: Mapping[str, str]) -> dict[str, Any]:
    """What all tuning roles are given: the keys, and limits of logins and services."""
    return {
        "kernel_tuning_profile": "none",
        "kernel_tuning_parameters": dict(keys),
        "limits_profile": "none",
        "limits_parameters": LIMITS,
        "limits_systemd": {"nofile": 16384},
    }


def roles_play(keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """All tuning roles, one after another."""
    roles = [{"role": f"precog.fleet.{name}"} for name in TUNING_ROLES]
    return play({"roles": roles, "vars": tuning_variables(keys)})


def as_groups(hosts: Sequence[str]) -> dict[str, Any]:
    """Return an inventory that puts the hosts into the group that the project's own playbooks are for."""
    return {"precog": {"hosts": {host: {} for host in hosts}}}


def stock_roles_play(keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """The same settings with stock modules: what a playbook written by hand does."""
    body = stock_play(keys)[0]
    pam = {"dest": "/etc/security/limits.d/90-bench-stock.conf", "limit_type": "-", "use_min": False}
    items = [[domain, item, value] for domain, limits in LIMITS.items() for item, value in limits.items()]
    fields = {"domain": "{{ item.0 }}", "limit_item": "{{ item.1 }}", "value": "{{ item.2 }}"}
    swap = {"path": "/etc/fstab", "regexp": r"^([^#].*\sswap\s.*)$", "replace": r"# \1"}
    manager = {"dest": "/etc/systemd/system.conf.d", "mode": "0755"}
    drop_in = {**manager, "dest": f"{manager['dest']}/90-bench-stock.conf", "mode": "0644"}
    look = "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor || true"
    tasks = [
        *body["tasks"],
        {"name": "Set each limit", "community.general.pam_limits": {**pam, **fields}, "loop": items},
        {"name": "Make a folder", "ansible.builtin.file": {"path": manager["dest"], "state": "directory"}},
        {
            "name": "Set the default limit",
            "ansible.builtin.copy": {**drop_in, "content": "[Manager]\nDefaultLimitNOFILE=16384\n"},
        },
        {"name": "Keep swap off at boot", "ansible.builtin.replace": swap},
        {"name": "Look at swap", "ansible.builtin.command": "cat /proc/swaps", "changed_when": False},
        {"name": "Look at the governor", "ansible.builtin.shell": look, "changed_when": False},
    ]
    return play({**body, "tasks": tasks})


def stock_play(keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """The stock module in a loop, told to look at the running value as well, as the others do."""
    options = {
        "name": "{{ item.key }}",
        "value": "{{ item.value }}",
        "sysctl_set": True,
        "reload": False,
        "sysctl_file": STOCK_FILE,
    }
    task = {"name": "Set each key", "ansible.posix.sysctl": options, "loop": "{{ bench_keys | dict2items }}"}
    return play({"tasks": [task], "vars": {"bench_keys": dict(keys)}})


def pyinfra_inventory(fleet: Mapping[str, Mapping[str, str]], keys: Mapping[str, str]) -> str:
    """Return pyinfra's inventory: a Python file with its hosts.

    :param fleet: how each host is reached, as pyinfra's own host data.
    """
    data = {"sysctl": dict(keys), "persist_file": PYINFRA_FILE}
    return f"hosts = {[(name, {**reach, **data}) for name, reach in sorted(fleet.items())]!r}\n"


def ansible_objection(output: str, hosts: Sequence[str], *, items: int = 0, skips: bool = False) -> str:
    """Tell from ansible-playbook's output why it was no full no-change run.

    :param items: how many items of a loop each host must have been through.
    :param skips: whether tasks may have been skipped.
    """
    recap = {match["host"]: match for match in _RECAP.finditer(output)}
    if sorted(recap) != sorted(hosts):
        return f"the recap is about {sorted(recap)}, not {sorted(hosts)}"
    for host, match in sorted(recap.items()):
        counts = {name: int(value) for name, value in _COUNT.findall(match["counts"])}
        bad = [f"{name}={value}" for name, value in counts.items() if value and not (skips and name == "skipped")]
        if bad or "changed" not in counts or not int(match["ok"]):
            return f"{host}: ok={match['ok']} {' '.join(bad)}"
    done = len(_LOOP_ITEM.findall(output))
    return f"{done} loop items were ok, not {items * len(hosts)}" if done != items * len(hosts) else ""


def pyinfra_objection(output: str, operations: int) -> str:
    """Tell from pyinfra's output why it was no full no-change run of so many operations (over all hosts)."""
    match = _GRAND_TOTAL.search(output)
    if match is None:
        return "the output has no grand total"
    wanted = {"all": str(operations), "success": "-", "error": "-", "same": str(operations)}
    return "" if match.groupdict() == wanted else f"{match.group()}, not {operations} without a change"
