# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Facts of a host and of its processes through psutil, as plain dictionaries ready for JSON.

Sizes are bytes, frequencies MHz, times seconds (points in time: since the epoch), unless said otherwise.
The one place that imports psutil, and only when a fact is asked for: the import costs more than the facts.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from .host import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SYSTEM_PYTHON = "/usr/bin/python3"

# Full by design, whatever the host does.
IMAGE_FILE_SYSTEMS = frozenset({"cramfs", "erofs", "iso9660", "squashfs"})


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


def _quiet(take: Callable[[], Any]) -> Any:
    """Call without psutil's warnings: in containers it complains of counters that are hidden, and says 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return take()


def _plain(found: Any) -> dict[str, Any]:
    return dict(found._asdict())
