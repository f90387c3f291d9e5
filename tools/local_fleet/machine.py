"""The machine underneath: its settings, which a fleet leaves alone, and the limit that many hosts run into."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from local_fleet.model import FleetError, Problem

_PROC = Path("/proc/sys")
_PROCESSES = Path("/proc")
# What a host's systemd and logind hold as root. With fewer left, systemd starts and SSH is never ready.
INOTIFY_PER_HOST = 6
_NET = Path("/sys/class/net")
# What differs at every look, as counters do; what comes and goes with network interfaces; and IPv4 forwarding, which
# the container engine switches on for its bridge (`restore` gives it back).
_NOT_SETTINGS = re.compile(
    r"fs/(dentry-state|file-nr|inode-nr|inode-state|quota/.*|aio-nr|binfmt_misc/.*)"
    r"|kernel/(ns_last_pid|random/.*|pty/nr|cap_last_cap|tainted|perf_event_max_sample_rate|hung_task_detect_count)"
    r"|net/netfilter/nf_conntrack_count|vm/stat_refresh|.*stable_secret"
    r"|net/ipv[46]/(conf|neigh)/(?!all/|default/).*"
    r"|net/ipv4/(ip_forward|conf/.*/(forwarding|accept_redirects))"
)


def is_setting(key: str) -> bool:
    """Whether *key*, a path below /proc/sys, is something that stays as it was set."""
    return not _NOT_SETTINGS.fullmatch(key)


def read_settings() -> dict[str, str]:
    """All readable settings below /proc/sys, by their path there."""
    settings = {}
    for folder, _, names in os.walk(_PROC):
        for name in names:
            path = Path(folder, name)
            key = str(path.relative_to(_PROC))
            if is_setting(key) and path.stat().st_mode & 0o444:
                try:
                    settings[key] = path.read_text(errors="replace").strip()
                except OSError:  # some refuse to be read though their mode allows it
                    continue
    return settings


def _forwarding() -> dict[str, str]:
    """The settings a container engine's bridge changes: IPv4 forwarding, and what the kernel derives from it."""
    paths = [
        _PROC / "net/ipv4/ip_forward",
        *_PROC.glob("net/ipv4/conf/*/forwarding"),
        *_PROC.glob("net/ipv4/conf/*/accept_redirects"),
    ]
    return {str(path.relative_to(_PROC)): path.read_text().strip() for path in paths}


def _interfaces() -> list[str]:
    return sorted(path.name for path in _NET.iterdir())


def _boot_id() -> str:
    return (_PROC / "kernel/random/boot_id").read_text().strip()


def remember(file: Path) -> None:
    """Notes in *file* how forwarding is set, before the first container of this boot changes it."""
    if file.exists() and json.loads(file.read_text())["boot"] == _boot_id():
        return
    note = {"boot": _boot_id(), "interfaces": _interfaces(), "settings": _forwarding()}
    file.write_text(json.dumps(note, indent=1))


def restore(file: Path) -> None:
    """Gives back what *file* notes, unless the machine rebooted or someone else's network appeared since then."""
    if not file.exists():
        return
    note = json.loads(file.read_text())
    file.unlink()
    if note["boot"] == _boot_id() and set(_interfaces()) <= set(note["interfaces"]):
        for key, value in to_restore(note["settings"], _forwarding()):
            (_PROC / key).write_text(value)


def to_restore(before: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str]]:
    """What to write, in order, so that *now* becomes *before*; ip_forward first, as it rewrites the others."""
    master = "net/ipv4/ip_forward"
    changed = [key for key in before if key in now and before[key] != now[key]]
    if master not in changed:
        return [(key, before[key]) for key in sorted(changed)]
    return [(master, before[master])] + [(key, before[key]) for key in sorted(before) if key in now and key != master]


def inotify_in_use() -> int:
    """The inotify instances that this user's processes hold, containers' included: what the kernel's limit counts."""
    return sum(_instances(folder) for folder in _PROCESSES.glob("[0-9]*"))


def _instances(process: Path) -> int:
    """The inotify instances of one process of this user, given by its folder below /proc; 0 for other processes."""
    try:
        if process.stat().st_uid != os.geteuid():
            return 0
        return sum("inotify" in str(entry.readlink()) for entry in (process / "fd").iterdir())
    except OSError:  # it has ended
        return 0


def check_inotify(new: int, running: Mapping[str, int]) -> None:
    """Check that *new* hosts find enough inotify instances; *running* has the number of running hosts by fleet.

    Raises FleetError with the limit, what uses it and what to do.
    """
    limit = int((_PROC / "fs/inotify/max_user_instances").read_text())
    used, needed = inotify_in_use(), new * INOTIFY_PER_HOST
    if used + needed <= limit:
        return
    fleets = ", ".join(f"{name} ({count} hosts)" for name, count in sorted(running.items())) or "none"
    remedies = [f"remove a fleet (bin/local-fleet down {name})" for name in sorted(running)[:1]]
    remedies.append(f"raise the limit (sysctl -w fs.inotify.max_user_instances={4 * limit})")
    raise FleetError(
        Problem(
            f"{new} new hosts need about {needed} inotify instances, and {max(0, limit - used)} are free: "
            f"fs.inotify.max_user_instances is {limit}, {used} are in use. Running fleets: {fleets}",
            f"To continue, {' or '.join(remedies)}.",
        )
    )
