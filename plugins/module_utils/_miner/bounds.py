# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which bounds of a miner's unit are not in force: systemd says nothing where the host's cgroups can't enforce one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from .units import SERVICE

if TYPE_CHECKING:
    from .._host.host import Host
    from .systemd import Live

CGROUPS = "/sys/fs/cgroup"


class Bound(NamedTuple):
    """A bound: the key of the unit, the controller of cgroups, and the file by which version 2 enforces it."""

    key: str
    controller: str
    file: str


BOUNDS = {
    "memory_high": Bound("MemoryHigh", "memory", "memory.high"),
    "memory_max": Bound("MemoryMax", "memory", "memory.max"),
    "tasks_max": Bound("TasksMax", "pids", "pids.max"),
}


def lacking(host: Host, unit: str, live: Live) -> dict[str, tuple[str, str]]:
    """Return what each bound that is not in force should be, and why it is not, by the instance's option.

    :param unit: the text of the instance's own part of the unit.
    """
    wanted = dict(re.findall(r"^(\w+)=(.+)$", unit, re.MULTILINE))
    try:
        groups = host.read_text(f"/proc/{live.pid}/cgroup") if live.pid else ""
    except OSError:  # it has ended by now
        groups = ""
    if not groups:
        return {}
    found = {
        option: (wanted[bound.key], f"this host's cgroups don't give a unit a controller for {bound.controller}")
        for option, bound in BOUNDS.items()
        if wanted.get(bound.key, "infinity") != "infinity" and not _enforced(host, groups, bound)
    }
    if wanted.get("IPAddressDeny") and not live.filtered:
        why = "this host can't filter a unit's packets by address: that takes cgroups of version 2, and BPF"
        found["ip_deny"] = (wanted["IPAddressDeny"], why)
    return found


def _enforced(host: Host, groups: str, bound: Bound) -> bool:
    """Tell whether a process's unit has a group with a controller.

    :param groups: its groups, as /proc has them.
    """
    for line in groups.splitlines():
        _number, controllers, path = line.split(":", 2)
        if controllers == "" and host.exists(f"{CGROUPS}{path}/{bound.file}"):
            return True
        # Version 1: the whole container's group is none of the unit.
        if bound.controller in controllers.split(",") and f"/{SERVICE}@" in path:
            return True
    return False
