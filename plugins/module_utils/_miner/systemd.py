# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The instances of the miner as systemd and /proc show them, and the commands that start and stop them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from .._host import psutil_facts
from .._host.host import HostError
from .plan import DIGEST
from .units import SERVICE, service, socket

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .._host.host import Host

PREFIX = f"{SERVICE}@"
POLL_S = 0.05  # between looks at a unit that is on its way
PROPERTIES = ("Id", "ActiveState", "SubState", "MainPID", "UnitFileState", "NRestarts", "Result", "IPEgressBytes")
JOURNAL_LINES = 200  # of several tries, each a traceback
TOLD_LINES = 4
# So many failed starts in a row are no accident.
MOST_RESTARTS = 3
NO_DATA = 2**64 - 1


class Live(NamedTuple):
    """An instance as it is now.

    :ivar active: systemd's ActiveState, "active" where it runs.
    :ivar state: ActiveState and SubState for an operator.
    :ivar pid: of the main process, 0 where none runs.
    :ivar enabled: whether the next boot starts it, and its socket, if it has one.
    :ivar restarts: how often systemd started it again by itself.
    :ivar digest: what the process runs, by its own environment; "" where none runs.
    :ivar filtered: whether what it sends and gets passes systemd's filter by address.
    """

    active: str = "inactive"
    state: str = "inactive (dead)"
    pid: int = 0
    enabled: bool = False
    restarts: int = 0
    digest: str = ""
    filtered: bool = False


def look(host: Host, names: Iterable[str]) -> dict[str, Live]:
    """Return the instances of these names, by name."""
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return {}
    units = [unit(name) for name in wanted for unit in (service, socket)]
    text = host.run(["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", *units])
    shown = {unit["Id"]: unit for unit in map(_fields, text.split("\n\n")) if "Id" in unit}
    return {name: _live(host, shown.get(service(name), {}), shown.get(socket(name), {})) for name in wanted}


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _live(host: Host, unit: Mapping[str, str], own_socket: Mapping[str, str]) -> Live:
    pid = int(unit.get("MainPID") or 0)
    return Live(
        active=unit.get("ActiveState", "inactive"),
        state=f"{unit.get('ActiveState', 'inactive')} ({unit.get('SubState', 'dead')})",
        pid=pid,
        # Where there is no file of it, there is no socket.
        enabled=unit.get("UnitFileState") == "enabled" and own_socket.get("UnitFileState", "") in ("enabled", ""),
        restarts=int(unit.get("NRestarts") or 0),
        digest=environment_of(host, pid).get(DIGEST, "") if pid else "",
        # "[no data]", or the highest number of all, where the kernel or a container allows no filter.
        filtered=unit.get("IPEgressBytes", "").isdigit() and int(unit["IPEgressBytes"]) != NO_DATA,
    )


def environment_of(host: Host, pid: int) -> dict[str, str]:
    """Return a process's environment as it was started with; of one that is gone, nothing."""
    try:
        text = host.read_text(f"/proc/{pid}/environ")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def memory(host: Host, pid: int) -> int:
    """Return how many bytes of memory a process and those that it started have; 0 if it is gone."""
    try:
        pages = int(host.read_text(f"/proc/{pid}/statm").split()[1])
    except (OSError, ValueError, LookupError):
        return 0
    try:
        below = host.read_text(f"/proc/{pid}/task/{pid}/children").split()
    except OSError:  # it has ended by now, or this kernel does not tell
        below = []
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(memory(host, int(child)) for child in below)


def runs(host: Host, pid: int, digest: str) -> bool:
    """Tell whether a process is one of those that run an instance of this digest."""
    return environment_of(host, pid).get(DIGEST) == digest


def hopeless(host: Host, name: str, restarts: int, since: float) -> str:
    """Return why an instance won't get ready any more, or "".

    :param restarts: how often systemd had started it again when this run told it to.
    :param since: when that was, seconds since the epoch.
    """
    live = look(host, [name])[name]
    if live.active != "failed" and live.restarts - restarts < MOST_RESTARTS:
        return ""
    return f"its process ends at start ({live.state}); it said: {last_words(host, name, since) or 'nothing'}"


def last_words(host: Host, name: str, since: float) -> str:
    """Return the last lines that an instance's process wrote since some time, in one."""
    # By the field that journald itself adds: anybody can write lines with the identifier of another (`logger -t`).
    origin = f"_SYSTEMD_UNIT={service(name)}"
    argv = [
        "journalctl",
        "--quiet",
        "--no-pager",
        "--output=cat",
        f"--lines={JOURNAL_LINES}",
        f"--since=@{since:.0f}",
        origin,
    ]
    try:
        lines = host.run(argv).splitlines()
    except HostError:
        return ""
    # Each line once, as a process that fails again and again says the same; its last ones name the cause.
    told = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    return " | ".join(told[-TOLD_LINES:])


def reload(host: Host) -> None:
    """Have systemd read its units again."""
    host.run(["systemctl", "daemon-reload"])


def start(host: Host, name: str, sockets: Sequence[str], *, new_socket: bool) -> None:
    """Start an instance, or start it again, now and at every boot; its readiness is not waited for.

    The socket stays open meanwhile, so that requests wait instead of being refused; unless it is another one now.

    :param sockets: its socket unit, if it has one.
    """
    enable(host, name, sockets)
    forgive(host, name)
    if sockets and (new_socket or not is_active(host, sockets[0])):
        host.run(["systemctl", "stop", service(name)])
        host.run(["systemctl", "restart", *sockets])
    host.run(["systemctl", "--no-block", "restart", service(name)])


def enable(host: Host, name: str, sockets: Sequence[str]) -> None:
    """Have every boot start an instance."""
    host.run(["systemctl", "--quiet", "enable", service(name), *sockets])


def stop(host: Host, names: Iterable[str]) -> None:
    """Stop instances, now and at every boot; what isn't there is fine.

    The sockets first, or a request would start the service again.
    """
    for name in names:
        for unit in (socket(name), service(name)):
            if unit_file_state(host, unit):
                host.run(["systemctl", "--quiet", "disable", "--now", unit])
        forgive(host, name)


def halt(host: Host, name: str) -> None:
    """Stop an instance for now, and its socket, so that what they listen at is free; what isn't there is fine."""
    known = [unit for unit in (socket(name), service(name)) if unit_file_state(host, unit)]
    if known:
        host.run(["systemctl", "stop", *known])


def drop_socket(host: Host, name: str) -> None:
    """Stop an instance's socket, now and at every boot, with the service that it holds up; none is fine."""
    if unit_file_state(host, socket(name)):
        host.run(["systemctl", "stop", socket(name), service(name)])
        host.run(["systemctl", "--quiet", "disable", socket(name)])


def holders(port: int) -> dict[int, str]:
    """Return the processes that listen at a TCP port of this machine, names by number, as far as psutil can tell."""
    try:
        psutil = psutil_facts.load()
    except psutil_facts.PsutilMissingError:
        return {}
    try:
        found = psutil.net_connections(kind="tcp")
        numbers = {one.pid for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid}
        return {number: psutil.Process(number).name() for number in sorted(numbers)}
    except (OSError, psutil.Error):
        return {}


def forgive(host: Host, name: str) -> None:
    """Forget how often an instance's units failed, which would keep them from being started.

    As a pattern, since naming a unit that systemd has not loaded is an error.
    """
    host.run(["systemctl", "reset-failed", f"{PREFIX}{name}.*"])


def is_active(host: Host, unit: str) -> bool:
    """Tell whether a unit is active; one that is not there isn't."""
    return host.run(["systemctl", "show", "--property=ActiveState", "--value", "--", unit]).strip() == "active"


def unit_file_state(host: Host, unit: str) -> str:
    """Return "enabled", "disabled" and the like; "" where systemd knows no such unit file."""
    return host.run(["systemctl", "show", "--property=UnitFileState", "--value", "--", unit]).strip()


def wait_until_gone(host: Host, name: str, pid: int, most_s: float) -> None:
    """Wait until a process has ended that was told to: it answers until then, and would pass for its successor.

    :param most_s: seconds; after these, nobody waits for it any longer.
    """
    deadline = time.monotonic() + most_s
    while pid and look(host, [name])[name].pid == pid and time.monotonic() < deadline:
        time.sleep(POLL_S)


def settled(host: Host, name: str, most_s: float) -> Live:
    """Return an instance that answers once its unit is active too: it tells systemd a moment later.

    :param most_s: seconds; after these, it is returned as it is.
    """
    deadline = time.monotonic() + most_s
    while True:
        live = look(host, [name])[name]
        if live.active != "activating" or time.monotonic() > deadline:
            return live
        time.sleep(POLL_S)


def strangers(host: Host, name: str, ports: Iterable[int], digest: str) -> list[str]:
    """Return who else listens at an instance's ports.

    :param digest: of the instance; what runs it is none.
    """
    live = look(host, [name])[name]
    own = {live.pid, *([1] if is_active(host, socket(name)) else [])}
    return [
        f"port {port} is held by {holder} (process {pid})"
        for port in sorted(ports)
        for pid, holder in holders(port).items()
        if pid not in own and not runs(host, pid, digest)
    ]
