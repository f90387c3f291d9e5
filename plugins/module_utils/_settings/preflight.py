# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Is this host fit to be tuned: `collect` looks at it once, `judge` says what stands in the way, what to do.

Runs where nothing of ours is installed yet: without psutil, on any Python that Ansible itself still serves.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from .._host import kernel as host_kernel
from .._host import psutil_facts
from .._host.host import BECOME_OFF, HostError
from .rivals import Found, assignments, detect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .._host.host import Host

ERROR = "error"
WARNING = "warning"

TESTED_SYSTEMS = {"debian": ("12", "13")}
LIKELY_SYSTEMS = {"ubuntu": ("22.04", "24.04")}
MINIMUM_PYTHON = (3, 9)

# One key of each family that roles write, writable for root wherever the family is (all are 0644).
PROBES = ("net/ipv4/tcp_rmem", "vm/swappiness", "fs/file-max", "kernel/pid_max")

# What the folders are needed for; shown beside the figure.
DISK_USES = {
    "/etc": "the settings' own files",
    "/var/lib": "the record of original values, packages and Python environments",
    "/tmp": "temporary files of Ansible and pip",
}

MB = 1024 * 1024


class Facts(NamedTuple):
    """What `collect` saw. Sizes are MB of 1024 * 1024 bytes; None is what could not be told.

    :ivar writable: for each probe below /proc/sys that is there, whether it may be written.
    :ivar shared: the probes that belong to a machine underneath, which roles leave alone.
    """

    os_id: str
    os_version: str
    os_name: str
    python: tuple[int, int, int]
    executable: str
    euid: int
    outer_uid: int | None
    container: str | None
    systemd: bool
    process_1: str
    writable: Mapping[str, bool]
    shared: tuple[str, ...]
    rivals: tuple[Found, ...]
    free_disk: Mapping[str, int | None]
    memory_total: int | None
    memory_available: int | None
    psutil: str | None
    psutil_packaged: bool


class Wanted(NamedTuple):
    """What the user asks of a host, sizes in MB.

    :ivar psutil: a missing psutil is an error, as nobody is going to install it.
    :ivar tolerate: checks, by name up to the colon, whose errors are to be warnings.
    """

    disk: Mapping[str, int]
    memory: int
    available_memory: int
    psutil: bool
    tolerate: tuple[str, ...] = ()


class Check(NamedTuple):
    """One thing looked at; `severity` says what it would mean, or means, that it isn't `ok`."""

    name: str
    ok: bool
    found: str
    wanted: str
    severity: str
    remedy: str


def understand(params: Mapping[str, Any]) -> Wanted:
    """Return what is asked of a host. Pure.

    :param params: the checked arguments of the module.
    :raises HostError: one makes no sense.
    """
    return Wanted(
        disk={path: _wanted_size(path, size) for path, size in params["minimum_disk_mb"].items()},
        memory=params["minimum_memory_mb"],
        available_memory=params["minimum_available_memory_mb"],
        psutil=params["require_psutil"],
        tolerate=tuple(params["tolerate"]),
    )


def _wanted_size(path: str, size: Any) -> int:
    digits = str(size) if isinstance(size, (int, str)) else ""  # a template may give a number as text
    if not path.startswith("/") or not digits.isdecimal():
        raise HostError(
            f"minimum_disk_mb: {path!r}: {size!r} is no folder with a size. "
            "Give an absolute path and a whole number of MB, for instance /tmp: 64"
        )
    return int(digits)


def collect(host: Host, disk_paths: Iterable[str]) -> Facts:
    """Look at the host, changing nothing.

    :param disk_paths: folders, there or not, whose free space is to be told.
    :raises OSError: what every Linux host shows to everyone can't be read.
    """
    system = _os_release(host)
    memory = _memory(host)
    kernel = host_kernel.look(host)
    return Facts(
        os_id=system.get("ID", ""),
        os_version=system.get("VERSION_ID", ""),
        os_name=system.get("PRETTY_NAME") or system.get("ID") or "unknown",
        python=sys.version_info[:3],
        executable=sys.executable,
        euid=os.geteuid(),
        outer_uid=_outer_uid(host),
        container=kernel.container,
        systemd=host.is_dir("/run/systemd/system"),  # as sd_booted(3)
        process_1=_first_line(host, "/proc/1/comm") or "unknown",
        writable={key: host.may_write(f"/proc/sys/{key}") for key in PROBES if host.exists(f"/proc/sys/{key}")},
        shared=tuple(key for key in PROBES if kernel.sharing(key)),
        rivals=tuple(detect(host)),
        free_disk={path: _free_disk(host, path) for path in disk_paths},
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        psutil=psutil_facts.version(),
        psutil_packaged=psutil_facts.is_system_python(),
    )


def _os_release(host: Host) -> dict[str, str]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            return assignments(host.read_text(path))
        except OSError:
            continue
    return {}


def _first_line(host: Host, path: str) -> str:
    try:
        return host.read_text(path).partition("\n")[0].strip()
    except OSError:
        return ""


def _outer_uid(host: Host) -> int | None:
    """Return who root is outside this user namespace: 0 unless it is one of an unprivileged user's."""
    fields = _first_line(host, "/proc/self/uid_map").split()
    return int(fields[1]) if len(fields) == 3 and fields[0] == "0" else None


def _memory(host: Host) -> dict[str, int]:
    """Read /proc/meminfo, whose `kB` are 1024 bytes, as MB."""
    lines = (line.split() for line in host.read_text("/proc/meminfo").splitlines())
    return {fields[0].rstrip(":"): int(fields[1]) // 1024 for fields in lines if len(fields) == 3}


def _free_disk(host: Host, path: str) -> int | None:
    """Return what root may still write at a path, or at what there is of it: none if the inodes are used up."""
    while not host.exists(path) and path != "/":
        path = path.rpartition("/")[0] or "/"
    try:
        found = os.statvfs(host.locate(path))
    except OSError:
        return None
    # Btrfs and others make inodes as needed, and count none.
    return 0 if found.f_files and not found.f_ffree else found.f_bfree * found.f_frsize // MB


def judge(facts: Facts, wanted: Wanted) -> list[Check]:
    """Return every check, in an order to read them in. Pure."""
    checks = [
        _system(facts),
        _python(facts),
        _privileges(facts),
        _init(facts),
        _proc_sys(facts),
        *_disks(facts, wanted),
        *_memories(facts, wanted),
        _psutil_check(facts, wanted),
        *_rival_checks(facts),
    ]
    return [_finished(check, wanted.tolerate) for check in checks]


def _finished(check: Check, tolerate: tuple[str, ...]) -> Check:
    if check.name.partition(":")[0] in tolerate:
        check = check._replace(severity=WARNING)
    return check._replace(remedy="") if check.ok else check


def _listed(systems: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{name.capitalize()} {' or '.join(versions)}" for name, versions in systems.items())


def _system(facts: Facts) -> Check:
    if facts.os_version in TESTED_SYSTEMS.get(facts.os_id, ()):
        return Check("os", True, facts.os_name, _listed(TESTED_SYSTEMS), ERROR, "")
    if facts.os_version in LIKELY_SYSTEMS.get(facts.os_id, ()):
        remedy = "it should work but is not what this collection is tested on: try one host with --check first"
        return Check("os", False, facts.os_name, _listed(TESTED_SYSTEMS), WARNING, remedy)
    remedy = f"install {_listed(TESTED_SYSTEMS)}, or tolerate 'os' and try one host with --check first"
    return Check("os", False, facts.os_name, _listed(TESTED_SYSTEMS), ERROR, remedy)


def _python(facts: Facts) -> Check:
    found = f"{'.'.join(map(str, facts.python))} ({facts.executable})"
    wanted = f"{'.'.join(map(str, MINIMUM_PYTHON))} or later"
    remedy = "set ansible_python_interpreter to a later Python of this host"
    return Check("python", facts.python[:2] >= MINIMUM_PYTHON, found, wanted, ERROR, remedy)


def _privileges(facts: Facts) -> Check:
    found = f"user {facts.euid}"
    if facts.euid == 0 and facts.outer_uid:
        found = f"root of a user namespace, outside it user {facts.outer_uid}"
    elif facts.euid == 0:
        found = "root"
    if facts.container:
        found += f", in a container ({facts.container})"
    remedy = (
        f"set become: true (ansible-playbook --become), and let the user run sudo (--ask-become-pass). {BECOME_OFF}"
    )
    return Check("privileges", facts.euid == 0, found, "root", ERROR, remedy)


def _init(facts: Facts) -> Check:
    found = "systemd" if facts.systemd else facts.process_1
    remedy = "boot with systemd; a container: podman run --systemd=always IMAGE /lib/systemd/systemd"
    return Check("systemd", facts.systemd, found, "systemd as process 1", ERROR, remedy)


def _proc_sys(facts: Facts) -> Check:
    wanted = "writable"
    if facts.euid != 0:
        return Check("proc_sys", False, "not known without root", wanted, WARNING, "see privileges")
    if not facts.writable:
        return Check("proc_sys", False, "no /proc/sys", wanted, ERROR, "mount -t proc proc /proc")
    own = {key: writable for key, writable in facts.writable.items() if key not in facts.shared}
    found = _proc_sys_found(facts, own)
    if own and all(own.values()):
        return Check("proc_sys", True, found, wanted, ERROR, "")
    if facts.container:
        remedy = (
            "the rest is left alone and reported as unsupported; "
            "a container has net.* of its own, writable, with --privileged and without --network host"
        )
        return Check("proc_sys", False, found, wanted, WARNING, remedy)
    remedy = "mount -o remount,rw /proc/sys, or see what restricts root here (a security module, the SSH service)"
    return Check("proc_sys", False, found, wanted, WARNING if any(own.values()) else ERROR, remedy)


def _proc_sys_found(facts: Facts, own: Mapping[str, bool]) -> str:
    parts = {
        "writable": [key for key, writable in own.items() if writable],
        "read-only": [key for key, writable in own.items() if not writable],
        "of the machine under this container": [key for key in facts.writable if key in facts.shared],
    }
    return "; ".join(f"{what}: {', '.join(keys)}" for what, keys in parts.items() if keys)


def _disks(facts: Facts, wanted: Wanted) -> Iterator[Check]:
    for path, minimum in sorted(wanted.disk.items()):
        free = facts.free_disk.get(path)
        use = DISK_USES.get(path, "as asked")
        remedy = f"free {minimum - (free or 0)} MB more on the file system of {path}, or ask for less"
        ok = free is not None and free >= minimum
        yield Check(f"disk:{path}", ok, _size(free, "free"), f"{minimum} MB free: {use}", ERROR, remedy)


def _memories(facts: Facts, wanted: Wanted) -> Iterator[Check]:
    total, available = facts.memory_total, facts.memory_available
    yield Check(
        "memory:total",
        total is not None and total >= wanted.memory,
        _size(total, "in all"),
        f"{wanted.memory} MB in all",
        ERROR,
        "give the host more memory, or ask for less",
    )
    yield Check(
        "memory:available",
        available is not None and available >= wanted.available_memory,
        _size(available, "available"),
        f"{wanted.available_memory} MB available",
        ERROR,
        "stop what uses the memory (ps --sort=-rss -eo rss,pid,comm | head), or ask for less",
    )


def _size(size: int | None, what: str) -> str:
    return "not known" if size is None else f"{size} MB {what}"


def _psutil_check(facts: Facts, wanted: Wanted) -> Check:
    # Debian's package cannot help another Python: nobody but the user can.
    severity = ERROR if wanted.psutil or not facts.psutil_packaged else WARNING
    found = facts.psutil or f"missing for {facts.executable}"
    return Check("psutil", facts.psutil is not None, found, "psutil", severity, psutil_facts.MISSING_REMEDY)


def _rival_checks(facts: Facts) -> Iterator[Check]:
    wanted = "no other tool that tunes the same settings"
    if not facts.rivals:
        yield Check("rivals", True, "none", wanted, WARNING, "")
    for rival in facts.rivals:
        remedy = f"it overrides: {rival.overrides}. Leave these to one tool: {rival.remedy}"
        yield Check(f"rivals:{rival.name}", False, rival.evidence, wanted, WARNING, remedy)


def failed(checks: Iterable[Check], severity: str) -> list[Check]:
    """Return the checks that failed with this severity."""
    return [check for check in checks if not check.ok and check.severity == severity]


def describe(check: Check) -> str:
    """Say in one line what is wrong and what to do."""
    return f"{check.name}: found {check.found}; wanted {check.wanted}. {check.remedy}"


def summary(errors: list[Check]) -> str:
    """Say everything that has to be done before this host can be tuned."""
    return "\n- ".join([f"This host can't be tuned yet ({len(errors)} to do):", *map(describe, errors)])
