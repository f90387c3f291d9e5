# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether memory can take back what swap areas hold.

The kernel's own check at swapoff is one of overcommit, which says yes by default: swapoff then runs the machine out of
memory, and is the first to be killed. So this is asked before.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..._host.host import Host
    from .tables import Active

CGROUP_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory")
MIB = 1024  # KiB
_NUMBER = re.compile(r"[0-9]{1,20}")


class Group(NamedTuple):
    """A control group with a memory limit and something in swap; bytes.

    :ivar used: memory that it can't give up by dropping page cache.
    """

    path: str
    limit: int
    used: int
    swapped: int


def shortage(available: int | None, areas: Sequence[Active], reserve: int, groups: Sequence[Group]) -> str | None:
    """Tell why areas must not be turned off, None if they may. Pure.

    What a zram area holds is counted like the rest: it is unpacked into memory before its own memory is freed.

    :param available: MemAvailable, KiB; None if it is not known.
    :param areas: in the order in which they would be turned off.
    :param reserve: KiB that have to stay available.
    """
    if not areas:
        return None
    if available is None:
        return "the kernel does not say how much memory is available"
    left = available
    for area in areas:
        left -= area.used
        if left < reserve:
            return (
                f"{area.path} holds {_mib(area.used)} in swap; of {_mib(available)} available, turning off the areas "
                f"up to it would leave {_mib(left)}, and {_mib(reserve)} are the reserve"
            )
    if any(area.used for area in areas):
        for group in groups:
            if group.used + group.swapped > group.limit:
                return (
                    f"the control group {group.path} holds {_mib(group.swapped // 1024)} in swap and "
                    f"{_mib(group.used // 1024)} in memory, above its limit of {_mib(group.limit // 1024)}"
                )
    return None


def _mib(kib: int) -> str:
    return f"{kib / MIB:.0f} MiB"


def groups(host: Host) -> list[Group]:
    """Return the control groups that have a memory limit and something in swap, of both versions of cgroups."""
    return [group for root in CGROUP_ROOTS for group in _below(host, root)]


def _below(host: Host, folder: str) -> Iterator[Group]:
    for name in host.list_dir(folder):
        path = f"{folder}/{name}"
        # Below a group without the memory controller there is none that has it.
        if path in CGROUP_ROOTS or not host.exists(f"{path}/memory.stat"):
            continue
        group = _second(host, path) or _first(host, path)
        if group is not None and group.swapped:
            yield group
        yield from _below(host, path)


def _second(host: Host, path: str) -> Group | None:
    """A group of version 2."""
    limit, used = _number(host, f"{path}/memory.max"), _number(host, f"{path}/memory.current")
    swapped = _number(host, f"{path}/memory.swap.current")
    if limit is None or used is None or swapped is None:
        return None
    return Group(path, limit, max(used - _cache(host, path, "file", "shmem"), 0), swapped)


def _first(host: Host, path: str) -> Group | None:
    """A group of version 1; without a limit the kernel shows a number beyond any memory."""
    limit, used = _number(host, f"{path}/memory.limit_in_bytes"), _number(host, f"{path}/memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    swapped = _statistics(host, path).get("total_swap", 0)
    return Group(path, limit, max(used - _cache(host, path, "total_cache", "total_shmem"), 0), swapped)


def _cache(host: Host, path: str, cache: str, shared: str) -> int:
    found = _statistics(host, path)
    return max(found.get(cache, 0) - found.get(shared, 0), 0)


def _statistics(host: Host, path: str) -> dict[str, int]:
    try:
        lines = [line.split() for line in host.read_text(f"{path}/memory.stat").split("\n")]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and _NUMBER.fullmatch(words[1])}


def _number(host: Host, path: str) -> int | None:
    try:
        text = host.read_text(path).strip()
    except OSError:
        return None
    return int(text) if _NUMBER.fullmatch(text) else None
