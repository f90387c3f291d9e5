# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks and creates the users that instances run as."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from .._host.host import HostError
from . import systemd

if TYPE_CHECKING:
    from .._host.host import Host

COMMENT = "Precog miner (made by precog.fleet)"  # of a user that is ours to remove
COMMENT_FIELD, FEWEST_FIELDS = 4, 4  # of /etc/passwd; of that and /etc/group
FIRST_FREE, NOBODY = 100, 65534  # Debian gives the user IDs below, and the last, to users of its own
NO_SHELLS = ("nologin", "false")


def user(host: Host, name: str) -> tuple[int, int] | None:
    """Return the numbers of a user and its group, or None if there is none of this name."""
    fields = _entry(host, "/etc/passwd", name)
    return (int(fields[2]), int(fields[3])) if fields else None


def _entry(host: Host, path: str, name: str) -> list[str]:
    """Return the fields of a user or a group, none where there is none of this name."""
    lines = (line.split(":") for line in host.read_text(path).splitlines())
    return next((fields for fields in lines if fields[0] == name and len(fields) >= FEWEST_FIELDS), [])


def expect_user(host: Host, name: str, instance: str = "") -> None:
    """Raise HostError unless a user is there that the miner can run as, or can be made.

    :param instance: whose it is; "" for what the names of all instances' users begin with.
    """
    fields, group = _entry(host, "/etc/passwd", name), _entry(host, "/etc/group", name)
    told = f"instances.{instance} would run as {name!r} (miner_service_user and its name)"
    told = told if instance else f"miner_service_user is {name!r}"
    remedy = "Name a user of the miner's own, such as precog-miner; one that is missing is made"
    if fields and fields[-1].rpartition("/")[2] not in NO_SHELLS:
        shell = fields[-1] or "/bin/sh"
        raise HostError(
            f"{told}, which is a login of this host (its shell is {shell}): it would have the keys. {remedy}"
        )
    if fields and not is_our_user(host, name):
        why = _others(host, int(fields[2]))
        if why:
            raise HostError(f"{told}, {why}: who takes over one of them would have the keys. {remedy}")
    if fields and not group:
        raise HostError(
            f"{told}, and this host has that user, but no group of its name, which the unit wants. {remedy}"
        )
    if group and not fields:
        raise HostError(
            f"{told}, and this host has a group of that name without the user: `groupdel {name}` if nobody is in it, "
            "or name another user"
        )


def _others(host: Host, number: int) -> str:
    """Say who else runs, or may run, as a user that was there before; "" for nobody."""
    if number < FIRST_FREE or number == NOBODY:
        return f"which is one of Debian's own users (ID {number}) that other services run as"
    for process in filter(str.isdigit, host.list_dir("/proc")):
        with suppress(OSError):
            status = host.read_text(f"/proc/{process}/status")
            if re.search(rf"^Uid:\s+{number}\s", status, re.MULTILINE) and systemd.PREFIX not in host.read_text(
                f"/proc/{process}/cgroup"
            ):
                return f"and other processes run as that user (process {process})"
    return ""


def expect_roots(host: Host, setting: str, path: str) -> None:
    """Raise HostError if somebody who is not root could replace what lies at a path: root runs code from there."""
    here = ""
    for part in host.locate(path)[len(host.root.rstrip("/")) :].strip("/").split("/"):
        here = f"{here}/{part}"
        meta = host.meta(here)
        if meta is None:
            return
        if meta.uid not in (0, os.geteuid()) or (meta.mode & 0o022 and not meta.mode & stat.S_ISVTX):
            raise HostError(
                f"{setting} is {path!r}, but {here} can be changed by others than root (owner ID {meta.uid}, mode "
                f"{meta.mode:04o}), who could replace the miners' code. Give {here} to root with mode 0755, or choose "
                "another folder, such as one below /opt"
            )


def is_our_user(host: Host, name: str) -> bool:
    """Tell whether a user was made by `make_user`."""
    fields = _entry(host, "/etc/passwd", name)
    return len(fields) > COMMENT_FIELD and fields[COMMENT_FIELD] == COMMENT


def our_users(host: Host) -> list[str]:
    """Return the users that were made by `make_user`."""
    lines = host.read_text("/etc/passwd").splitlines()
    return [name for name in (line.partition(":")[0] for line in lines) if is_our_user(host, name)]


def make_user(host: Host, name: str, home: str) -> None:
    """Make a user of the system, without a shell and without a password.

    :raises HostError: the system refused.
    """
    argv = ["useradd", "--system", "--user-group", "--no-create-home", f"--home-dir={home}"]
    host.run([*argv, "--shell=/usr/sbin/nologin", f"--comment={COMMENT}", name])
