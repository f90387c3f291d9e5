# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host is like, as far as its limits go: files, what systemd has loaded, processes, and what bounds them all."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..._host import processes as host_processes
from ..._host import rlimits as values
from ..._host.host import HostError
from ..._host.rlimits import INFINITY, ITEMS, Pair
from ..sysctl import files as sysctl_files
from . import pam, systemd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..._engine.ledger import Original
    from ..._host.host import Host

SYSTEMD_RUNS = "/run/systemd/system"  # sd_booted(3)
NR_OPEN = "fs/nr_open"
CAP_SYS_RESOURCE = 24  # include/uapi/linux/capability.h
ALL_USERS = ["0", "0", "4294967295"]  # the initial user namespace's map
PROPERTIES = ("Id", "Names", "LoadState", "FragmentPath", "MainPID", "TasksMax")
_PID = re.compile(r"[0-9]{1,10}")
HALVES = ("", "Soft")  # LimitNOFILE is the hard limit, LimitNOFILESoft the soft one


class Process(NamedTuple):
    """A running process and the limits that the kernel holds it to, by item."""

    pid: int
    limits: Mapping[str, Pair]


class Unit(NamedTuple):
    """A service as systemd has it loaded.

    :ivar state: `loaded`, `not-found`, `masked` and so on.
    :ivar texts: its files' contents by path, in the order in which systemd reads them.
    :ivar limits: what a start of it would give, by item.
    :ivar tasks: how many tasks its control group may have.
    :ivar processes: the main process first; none if it is not running.
    :ivar near: the name that may have been meant, of one that does not exist.
    """

    state: str
    texts: Mapping[str, str] = {}
    limits: Mapping[str, Pair] = {}
    tasks: int = INFINITY
    processes: tuple[Process, ...] = ()
    near: str = ""


class Bound(NamedTuple):
    """What no limit of open files may exceed: the kernel's value, or the one that a file gives it at the next boot."""

    value: int
    place: str


@dataclass(frozen=True)
class State:
    """All that the plan needs to know of a host.

    :ivar pam_texts, manager_texts: contents by path, in the order in which they are read.
    :ivar booted: whether systemd runs the host.
    :ivar defaults: what systemd has loaded as DefaultLimit…, by item.
    :ivar first: process 1's own limits, where it may not raise them; None where it may.
    :ivar tasks: how many tasks services may have (key "") and users' sessions, by domain.
    """

    boot: str
    originals: Mapping[str, Original]
    pam_texts: dict[str, str] = field(default_factory=dict)
    pam_used: bool = True
    subjects: Mapping[str, pam.Subject] = field(default_factory=dict)
    strangers: frozenset[str] = frozenset()
    manager_texts: Mapping[str, str] = field(default_factory=dict)
    booted: bool = True
    defaults: Mapping[str, Pair] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)
    first: Mapping[str, Pair] | None = None
    bounds: tuple[Bound, ...] = ()
    tasks: Mapping[str, int] = field(default_factory=dict)


def read(host: Host, originals: Mapping[str, Original], domains: Iterable[str], units: Iterable[str]) -> State:
    """Read everything the plan asks for.

    :param domains, units: those wanted and those managed so far.
    """
    booted = host.is_dir(SYSTEMD_RUNS)
    passwd, group = _text(host, "/etc/passwd"), _text(host, "/etc/group")
    subjects = {domain: pam.subject(domain, passwd, group) for domain in domains}
    manager = _show(host, [])[0] if booted else {}
    return State(
        boot=host.boot_id(),
        originals=originals,
        pam_texts=pam.read(host),
        pam_used=pam.is_used(host),
        subjects=subjects,
        strangers=frozenset(domain for domain in subjects if _is_strange(domain, passwd, group)),
        manager_texts=systemd.read_manager(host),
        booted=booted,
        defaults=_limits(manager, "Default") if booted else {},
        units=read_units(host, sorted(units)) if booted else {},
        first=_first(host),
        bounds=tuple(_bounds(host)),
        tasks={"": _count(manager.get("DefaultTasksMax", ""))},
    )


def _text(host: Host, path: str) -> str:
    try:
        return host.read_text(path)
    except OSError:
        return ""


def _is_strange(domain: str, passwd: str, group: str) -> bool:
    """Tell whether a domain names a user or group that the host's own files don't have."""
    if domain == pam.EVERYONE or ":" in domain or domain == "%":
        return False
    names = (line.partition(":")[0] for line in (group if domain[0] in "@%" else passwd).split("\n"))
    return domain.lstrip("@%") not in names


def _bounds(host: Host) -> Iterable[Bound]:
    """Yield what bounds open files: now, and by each loader of kernel values at the next boot."""
    now = _integer(_text(host, f"/proc/sys/{NR_OPEN}"))
    if now is not None:
        yield Bound(now, "now")
    fragments = sysctl_files.read_fragments(host)
    for loader in sysctl_files.LOADERS:
        line = sysctl_files.Boot(fragments, loader).deciding(NR_OPEN)
        then = None if line is None else _integer(line.value or "")
        if line is not None and then is not None:
            yield Bound(then, f"at the next boot, by {line.place} ({loader})")


def _integer(text: str) -> int | None:
    try:
        return int(text.strip(), 0)
    except ValueError:
        return None


def _first(host: Host) -> Mapping[str, Pair] | None:
    """Return process 1's limits where it can't raise them: no program of the host can then."""
    status, limits = _text(host, "/proc/1/status"), _text(host, "/proc/1/limits")
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]{1,16})$", status, re.MULTILINE)
    if capabilities is None or not limits:
        return None
    # Only in the initial user namespace does the capability count (kernel/sys.c, do_prlimit).
    initial = _text(host, "/proc/1/uid_map").split() in ([], ALL_USERS)
    if initial and int(capabilities[1], 16) >> CAP_SYS_RESOURCE & 1:
        return None
    return _kernel_limits(limits)


def _kernel_limits(text: str) -> dict[str, Pair]:
    found = host_processes.parse_limits(text)
    return {item: Pair(*(INFINITY if number < 0 else number for number in pair)) for item, pair in found.items()}


def _show(host: Host, units: Sequence[str]) -> list[dict[str, str]]:
    """Return what systemd says of units, in their order; of itself if none is named."""
    limits = [systemd.directive(item) + half for item, about in ITEMS.items() if about.of_process for half in HALVES]
    names = [*PROPERTIES, *limits] if units else [*(f"Default{limit}" for limit in limits), "DefaultTasksMax"]
    answer = host.run(["systemctl", "show", f"--property={','.join(names)}", "--", *units])
    return [_pairs(block) for block in answer.strip("\n").split("\n\n")]


def _pairs(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.split("\n") if "=" in line)


def _limits(properties: Mapping[str, str], prefix: str = "") -> dict[str, Pair]:
    names = {item: f"{prefix}{systemd.directive(item)}" for item, about in ITEMS.items() if about.of_process}
    return {
        item: Pair(_count(properties.get(f"{name}Soft", "")), _count(properties.get(name, "")))
        for item, name in names.items()
    }


def _count(text: str) -> int:
    return values.to_int(text) if text.isascii() and text.isdigit() else INFINITY


def read_defaults(host: Host) -> dict[str, Pair]:
    """Return what systemd has loaded as limits of all services.

    :raises HostError: it does not answer.
    """
    return _limits(_show(host, [])[0], "Default")


def read_units(host: Host, names: Sequence[str], *, processes: bool = True) -> dict[str, Unit]:
    """Return services by name.

    :param processes: look at the processes too.
    :raises HostError: systemd does not answer.
    """
    if not names:
        return {}
    table = _processes_by_parent(host) if processes else {}
    return {name: _unit(host, name, shown, table) for name, shown in zip(names, _show(host, names))}


def _unit(host: Host, name: str, shown: Mapping[str, str], table: Mapping[int, list[int]]) -> Unit:
    state = shown.get("LoadState", "unknown")
    if state != "loaded":
        return Unit(state, near=systemd.nearest(host, name) if state == "not-found" else "")
    names = [name, *(other for other in shown.get("Names", "").split() if other != name)]
    main = _count(shown.get("MainPID", "0"))
    return Unit(
        state,
        texts=systemd.read_unit(host, shown.get("FragmentPath", ""), names),
        limits=_limits(shown),
        tasks=_count(shown.get("TasksMax", "")),
        processes=tuple(_family(host, main, table)) if main and table else (),
    )


def read_tasks(host: Host, uid: int) -> int:
    """Return how many tasks the sessions of a user may have together, INFINITY where systemd does not say."""
    try:
        shown = host.run(["systemctl", "show", "--property=TasksMax", "--", f"user-{uid}.slice"])
    except HostError:
        return INFINITY
    return _count(_pairs(shown).get("TasksMax", ""))


def _stat(host: Host, pid: int) -> tuple[int, str] | None:
    """Return a process's parent and start, None if it is gone. Its name may hold blanks and brackets."""
    fields = _text(host, f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[1]), fields[19]) if len(fields) > 19 and _PID.fullmatch(fields[1]) else None


def _processes_by_parent(host: Host) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for name in host.list_dir("/proc"):
        about = _stat(host, int(name)) if _PID.fullmatch(name) else None
        if about is not None:
            children.setdefault(about[0], []).append(int(name))
    return children


def _control_group(host: Host, pid: int) -> str:
    """Return the control group by which systemd knows a process, "" if it is gone."""
    lines = [line.split(":", 2) for line in _text(host, f"/proc/{pid}/cgroup").split("\n") if line.count(":") > 1]
    paths = {controller: path for _number, controller, path in lines}
    return paths.get("name=systemd") or paths.get("", "")


def _family(host: Host, pid: int, table: Mapping[int, list[int]]) -> Iterable[Process]:
    """Yield a process and its descendants with their limits; those that end meanwhile are left out.

    What has left the service's control group is no longer its own: sshd's children are sessions of users.
    """
    group = _control_group(host, pid)
    todo = [pid]
    while todo:
        member = todo.pop(0)
        before = _stat(host, member)
        if not f"{_control_group(host, member)}/".startswith(f"{group}/"):
            continue
        limits = _text(host, f"/proc/{member}/limits")
        # A number is given again once its process is gone: the start tells.
        if before is not None and limits and _stat(host, member) == before:
            yield Process(member, _kernel_limits(limits))
        todo += table.get(member, [])
