# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Facts of a host and of its processes through psutil, as plain dictionaries ready for JSON.

Sizes are bytes, frequencies MHz, times seconds (points in time: since the epoch), unless said otherwise.
The one place that imports psutil, and only when a fact is asked for: the import costs more than the facts.
"""

from __future__ import annotations

import importlib
import os
import re
import resource
import sys
import warnings
from typing import TYPE_CHECKING, Any

from ansible_collections.precog.fleet.plugins.module_utils._host import Host, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

UNLIMITED = -1  # a limit that isn't there; the kernel's RLIM_INFINITY as Python shows it
SYSTEM_PYTHON = "/usr/bin/python3"

# Full by design, whatever the host does.
IMAGE_FILE_SYSTEMS = frozenset({"cramfs", "erofs", "iso9660", "squashfs"})

# As systemd's own rule for unit names; rules out options and the patterns that `systemctl show` would expand.
UNIT_NAME = re.compile(r"[A-Za-z0-9:_\\@][A-Za-z0-9:_.\\@-]{0,254}")
UNIT_PROPERTIES = ("LoadState", "ActiveState", "SubState", "MainPID", "ControlGroup")

# /proc/PID/limits gives limits in words; `Max open files  1024  4096  files`.
LIMIT_LINE = re.compile(r"Max (?P<title>.+?)\s{2,}(?P<soft>\S+)\s+(?P<hard>\S+)")
LIMIT_TITLES = {
    "cpu time": "cpu",
    "file size": "fsize",
    "data size": "data",
    "stack size": "stack",
    "core file size": "core",
    "resident set": "rss",
    "processes": "nproc",
    "open files": "nofile",
    "locked memory": "memlock",
    "address space": "as",
    "file locks": "locks",
    "pending signals": "sigpending",
    "msgqueue size": "msgqueue",
    "nice priority": "nice",
    "realtime priority": "rtprio",
    "realtime timeout": "rttime",
}


class PsutilMissingError(Exception):
    """This Python has no psutil that can be imported; the message is `MISSING_REMEDY`."""


def is_system_python() -> bool:
    """Tell whether this Python is Debian's own, the one for which python3-psutil is made."""
    return sys.prefix == "/usr" and os.path.realpath(sys.executable) == os.path.realpath(SYSTEM_PYTHON)


def _remedy() -> str:
    """Say what to do in one line. Debian's package serves no virtual environment and no Python built by hand."""
    missing = f"psutil is missing on this host for {sys.executable}"
    if is_system_python():
        return f"{missing}: apt-get install python3-psutil, or run the role precog.fleet.preflight"
    return (
        f"{missing}: {sys.executable} -m pip install psutil, "
        f"or set ansible_python_interpreter to {SYSTEM_PYTHON} and run the role precog.fleet.preflight"
    )


MISSING_REMEDY = _remedy()


def load() -> Any:
    """Return the module psutil.

    :raises PsutilMissingError: it is not there, or made for another Python.
    """
    try:
        return importlib.import_module("psutil")
    except ImportError as error:
        raise PsutilMissingError(MISSING_REMEDY) from error


def version() -> str | None:
    """Return psutil's version, or None where it cannot be imported."""
    try:
        return str(load().__version__)
    except PsutilMissingError:
        return None


def cpu() -> dict[str, Any]:
    """Return the processors: how many, how fast, how busy.

    :return: `logical`, `physical` (None where the host doesn't say), `frequency_mhz` (`current`, `min`, `max`;
        None where there is none to be had), `load_average` (of 1, 5 and 15 minutes) and `percent_since_boot`, how
        much of all processors' time was used: a percentage of now would have to wait and watch.
    """
    psutil = load()
    return {
        "logical": psutil.cpu_count(),
        "physical": psutil.cpu_count(logical=False),
        "frequency_mhz": _frequency(psutil),
        "load_average": list(psutil.getloadavg()),
        "percent_since_boot": _busy_percent(psutil.cpu_times()),
    }


def _frequency(psutil: Any) -> dict[str, float | None] | None:
    # Missing in psutil for some machines; where cpufreq lacks its usual files psutil raises.
    try:
        found = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError):
        return None
    if found is None:
        return None
    # psutil says 0.0 for what /proc/cpuinfo, its last resort, does not have.
    return {name: getattr(found, name) or None for name in ("current", "min", "max")}


def _busy_percent(times: Any) -> float:
    total = sum(times) - times.guest - times.guest_nice  # both are within user and nice already
    return round(100 * (1 - (times.idle + times.iowait) / total), 1) if total else 0.0


def virtual_memory() -> dict[str, Any]:
    """Return memory: `total`, `available`, `used`, `free`, `buffers`, `cached`, … in bytes; `percent` used."""
    return _plain(_quiet(load().virtual_memory))


def swap_memory() -> dict[str, Any]:
    """Return swap: `total`, `used`, `free`, `sin`, `sout` (since boot) in bytes; `percent` used."""
    return _plain(_quiet(load().swap_memory))


def disks() -> list[dict[str, Any]]:
    """Return the file systems on disks, each once, and the root whatever it is on, by mount point.

    Network file systems are left out (a dead server would hang the call), as are images such as squashfs,
    files that containers have mounted over others, and what can't be looked at.

    :return: for each `device`, `mountpoint`, `fstype`, `options`, and `total`, `used`, `free` (for users other
        than root) in bytes, `percent` used.
    """
    psutil = load()
    roots = [mount for mount in psutil.disk_partitions(all=True) if mount.mountpoint == "/"]
    mounts = {mount.mountpoint: mount for mount in [*psutil.disk_partitions(all=False), *roots]}
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(mounts):  # what is mounted elsewhere once more comes later, or is as good
        disk = _disk(psutil, mounts[path])
        if disk:
            found.setdefault(disk["device"], disk)
    return list(found.values())


def _disk(psutil: Any, mount: Any) -> dict[str, Any] | None:
    if mount.fstype in IMAGE_FILE_SYSTEMS or not Host().is_dir(mount.mountpoint):
        return None
    try:
        usage = psutil.disk_usage(mount.mountpoint)
    except OSError:
        return None
    return {
        "device": mount.device,
        "mountpoint": mount.mountpoint,
        "fstype": mount.fstype,
        "options": mount.opts,
        **_plain(usage),
    }


def net_io() -> dict[str, Any]:
    """Return what the network interfaces counted since they came up.

    :return: `total` (over all, the loopback included) and `nics` by name, each with `bytes_sent`,
        `bytes_recv`, `packets_sent`, `packets_recv`, `errin`, `errout`, `dropin`, `dropout`.
    """
    psutil = load()
    # nowrap=False: the kernel's figures as they are; correcting overflows needs a process that stays.
    nics = {name: _plain(counted) for name, counted in psutil.net_io_counters(pernic=True, nowrap=False).items()}
    fields = sorted({field for nic in nics.values() for field in nic})
    return {"total": {field: sum(nic[field] for nic in nics.values()) for field in fields}, "nics": nics}


def boot_time() -> float:
    """Return when the kernel started; in a container that of the machine underneath."""
    return float(load().boot_time())


FACTS: dict[str, Callable[[], Any]] = {
    "cpu": cpu,
    "virtual_memory": virtual_memory,
    "swap_memory": swap_memory,
    "disks": disks,
    "net_io": net_io,
    "boot_time": boot_time,
}


def facts(subset: Iterable[str] = tuple(FACTS)) -> dict[str, Any]:
    """Return the facts asked for, each under its name in `FACTS`; what is not asked for costs nothing.

    Without psutil the one entry is `error`, the remedy: who reports facts beside other work says so, goes on.

    :raises KeyError: there is no such fact.
    """
    wanted = {name: FACTS[name] for name in subset}
    try:
        return {name: take() for name, take in wanted.items()}
    except PsutilMissingError as error:
        return {"error": str(error)}


def process(pid: int) -> dict[str, Any] | None:
    """Return a running process as it is, or None if there is none (any more) with this number.

    All figures are of one and the same process: its identity (number and start) is checked again at the end.

    :return: `pid`, `name`, `create_time`, `threads`, `rss` (bytes), `open_files` (how many descriptors are
        open, sockets and pipes too; None where only its owner may know) and `rlimits`: for each limit by the
        name that limits.conf gives it (`nofile`), `soft` and `hard`, where -1 is unlimited; units as those of
        setrlimit(2).
    """
    psutil = load()
    try:
        found = psutil.Process(pid)
        described = _describe(psutil, found)
        # A number is given again once its process is gone; is_running compares the start too. A zombie has ended.
        return described if found.is_running() and found.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):  # ZombieProcess is a NoSuchProcess
        return None


def _describe(psutil: Any, found: Any) -> dict[str, Any]:
    with found.oneshot():
        return {
            "pid": found.pid,
            "name": found.name(),
            "create_time": found.create_time(),
            "threads": found.num_threads(),
            "rss": found.memory_info().rss,
            "open_files": _open_files(psutil, found),
            "rlimits": _rlimits(psutil, found),
        }


def _open_files(psutil: Any, found: Any) -> int | None:
    try:
        return int(found.num_fds())
    except psutil.AccessDenied:
        return None


def _rlimits(psutil: Any, found: Any) -> dict[str, dict[str, int]]:
    try:
        pairs = {name: found.rlimit(getattr(psutil, constant)) for name, constant in _limit_names(psutil)}
    except psutil.AccessDenied:
        # prlimit(2) of another user's process wants CAP_SYS_RESOURCE, which root lacks in many containers;
        # the kernel shows the same limits to everyone here.
        pairs = parse_limits(Host().read_text(f"/proc/{found.pid}/limits"))
    return {name: {"soft": _limit(soft), "hard": _limit(hard)} for name, (soft, hard) in pairs.items()}


def _limit_names(psutil: Any) -> Iterator[tuple[str, str]]:
    for constant in dir(psutil):
        if constant.startswith("RLIMIT_"):
            yield constant[len("RLIMIT_") :].lower(), constant


def _limit(value: int) -> int:
    return UNLIMITED if value == resource.RLIM_INFINITY else value


def parse_limits(text: str) -> dict[str, tuple[int, int]]:
    """Read /proc/PID/limits: soft and hard by limits.conf's names, -1 for unlimited, unknown lines left out."""
    limits = {}
    for match in map(LIMIT_LINE.match, text.splitlines()):
        if match and match["title"] in LIMIT_TITLES:
            limits[LIMIT_TITLES[match["title"]]] = (_limit_word(match["soft"]), _limit_word(match["hard"]))
    return limits


def _limit_word(word: str) -> int:
    return UNLIMITED if word == "unlimited" else int(word)


def service(host: Host, unit: str) -> dict[str, Any]:
    """Return a systemd unit's main process and all its descendants.

    :param unit: its name; without a suffix it is a service.
    :return: `unit`, `running`, `reason` (why no process is shown, or None), `load_state`, `active_state`,
        `sub_state`, `main_pid`, `control_group` (each None where it isn't known) and `processes`, the main
        process first, each as `process` returns it.
    :raises PsutilMissingError: as `load`.
    """
    load()
    name = unit if "." in unit else f"{unit}.service"
    try:
        states = _unit_states(host, name)
    except HostError as error:
        return _service(name, {}, [], " ".join(str(error).split()))
    main_pid = int(states.get("MainPID") or 0)
    return _service(name, states, _family(main_pid) if main_pid else [], _why_not(name, states))


def _unit_states(host: Host, name: str) -> dict[str, str]:
    if not UNIT_NAME.fullmatch(name):
        raise HostError(f"{name!r} is no unit's name: letters, digits and :-_.\\@ only, such as cron.service")
    text = host.run(["systemctl", "show", f"--property={','.join(UNIT_PROPERTIES)}", "--", name])
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _service(name: str, states: dict[str, str], processes: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    return {
        "unit": name,
        "running": bool(processes),
        "reason": None if processes else reason,
        "load_state": states.get("LoadState"),
        "active_state": states.get("ActiveState"),
        "sub_state": states.get("SubState"),
        "main_pid": int(states.get("MainPID") or 0) or None,
        "control_group": states.get("ControlGroup") or None,
        "processes": processes,
    }


def _why_not(name: str, states: dict[str, str]) -> str:
    if states.get("LoadState") != "loaded":
        return f"{name} is {states.get('LoadState', 'unknown')}: systemctl status {name} says more"
    if states.get("ActiveState") != "active":
        state = f"{states.get('ActiveState')} ({states.get('SubState')})"
        return f"{name} is {state}: journalctl -u {name} says why"
    return f"{name} is active ({states.get('SubState')}) without a main process"


def _family(pid: int) -> list[dict[str, Any]]:
    """Return a process and its descendants; those that end meanwhile are left out."""
    psutil = load()
    try:
        members = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []
    return [found for found in map(process, members) if found is not None]


def _quiet(take: Callable[[], Any]) -> Any:
    """Call without psutil's warnings: in containers it complains of counters that are hidden, and says 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return take()


def _plain(found: Any) -> dict[str, Any]:
    return dict(found._asdict())
