# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The guard on a host: its program, its units, and whether they are as they should be."""

from __future__ import annotations

import linecache
from typing import TYPE_CHECKING

from .._host.host import HostError, Meta
from . import guard, systemd
from .units import GUARD, UNIT_ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._host.host import Host

TIMER = "precog-fleet-guard.timer"
# Enabled by a file, not by a link of `systemctl enable`: it comes and goes with the units.
WANT = "multi-user.target.d/precog-fleet-guard.conf"
EVERY_S = 60
NOTICE = "# Written by precog.fleet.miner_service: the next run undoes what is changed here.\n"


def program(root: str) -> str:
    """Return where the guard's program lies."""
    return f"{root}/guard"


def files(root: str) -> dict[str, tuple[bytes, Meta]]:
    """Return the guard's files by path.

    :param root: the folder of the releases.
    :raises HostError: the program's text is not part of this module.
    """
    # Not by its path: a module runs from a zip file.
    text = "".join(linecache.getlines(str(guard.__file__), vars(guard)))
    if not text:
        raise HostError("the text of the guard (guard.py) is missing: install the collection again")
    units = {GUARD: _service(root), TIMER: _timer(), WANT: f"[Unit]\nWants={GUARD} {TIMER}\n"}
    found = {f"{UNIT_ROOT}/{name}": ((NOTICE + unit).encode(), Meta(0o644, 0, 0)) for name, unit in units.items()}
    return {program(root): (text.encode(), Meta(0o755, 0, 0)), **found}


def _service(root: str) -> str:
    # Its own notices and what systemd warns of are logged, but not each start: that would be two lines a minute.
    return (
        "[Unit]\n"
        "Description=Go back from a release of the Precog miner that did not pass its gate\n"
        "[Service]\n"
        "Type=oneshot\n"
        f"ExecStart=/usr/bin/python3 -I {program(root)}\n"
        "TimeoutStartSec=300\n"
        "SyslogIdentifier=precog-fleet-guard\n"
        "LogLevelMax=notice\n"
    )


def _timer() -> str:
    return (
        "[Unit]\n"
        "Description=Look for a release of the Precog miner that did not pass its gate\n"
        "[Timer]\n"
        f"OnActiveSec={EVERY_S}s\n"
        f"OnUnitInactiveSec={EVERY_S}s\n"
        "AccuracySec=5s\n"
    )


def amiss(host: Host, root: str) -> list[str]:
    """Return what of the guard is missing or differs: paths, and the timer if it does not run."""
    wanted = files(root)
    found = [path for path, (data, meta) in wanted.items() if not _is(host, path, data, meta)]
    return found or ([] if systemd.is_active(host, TIMER) else [TIMER])


def _is(host: Host, path: str, data: bytes, meta: Meta) -> bool:
    return (
        host.readlink(path) is None and host.is_file(path) and host.meta(path) == meta and host.read_bytes(path) == data
    )


def install(host: Host, root: str) -> None:
    """Put the guard in place.

    :raises OSError: a file can't be written.
    :raises HostError: systemd refused.
    """
    _place(host, files(root))
    systemd.reload(host)
    host.run(["systemctl", "restart", TIMER])


def _place(host: Host, wanted: Mapping[str, tuple[bytes, Meta]]) -> None:
    for path, (data, meta) in wanted.items():
        if host.readlink(path) is not None:
            host.remove(path)
        if not _is(host, path, data, meta):
            host.stage(path, data, meta).commit()


def there(host: Host, root: str) -> list[str]:
    """Return the guard's files that are there."""
    return [path for path in files(root) if host.exists(path) or host.readlink(path) is not None]


def remove(host: Host, root: str) -> None:
    """Remove the guard.

    :raises OSError: a file can't be removed.
    :raises HostError: systemd refused.
    """
    if systemd.is_active(host, TIMER):
        host.run(["systemctl", "stop", TIMER])
    for path in reversed(list(files(root))):
        host.remove(path)
    host.remove_if_empty(f"{UNIT_ROOT}/{WANT.partition('/')[0]}")
    systemd.reload(host)
