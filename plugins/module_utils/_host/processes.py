# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Facts of processes and of systemd's services: limits really in force, open files, threads, memory.

Sizes are bytes, times seconds since the epoch; a limit that is not there is `UNLIMITED`.
"""

from __future__ import annotations

import re
import resource
from typing import TYPE_CHECKING, Any

from .host import Host, HostError
from .psutil_facts import load

if TYPE_CHECKING:
    from collections.abc import Iterator

UNLIMITED = -1  # a limit that isn't there; the kernel's RLIM_INFINITY as Python shows it

# As systemd's own rule for unit names; rules out options and the patterns that `systemctl show` would expand.
UNIT_NAME = re.compile(r"[A-Za-z0-9:_\\@][A-Za-z0-9:_.\\@-]{0,254}")
UNIT_PROPERTIES = ("LoadState", "ActiveState", "SubState", "MainPID", "ControlGroup")

# /proc/PID/limits gives limits in words; `Max open files  1024  4096  files`.
_LIMIT = r"unlimited|[0-9]{1,20}"
LIMIT_LINE = re.compile(rf"Max (?P<title>.+?)\s{{2,}}(?P<soft>{_LIMIT})\s+(?P<hard>{_LIMIT})(?!\S)", re.ASCII)
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
