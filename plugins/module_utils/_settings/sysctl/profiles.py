# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The profiles of kernel values. Pure: facts in, keys and values out."""

from __future__ import annotations

from typing import Any, NamedTuple

GUIDE = "guide"
BANDWIDTH_DELAY = "bandwidth_delay"
NONE = "none"
NAMES = (GUIDE, BANDWIDTH_DELAY, NONE)

# The values of the Precog performance guide, "Linux Kernel Optimizations" and "CPU and Memory Optimizations".
_GUIDE: dict[str, Any] = {
    "net.core.rmem_max": 134217728,
    "net.core.wmem_max": 134217728,
    "net.core.rmem_default": 65536,
    "net.core.wmem_default": 65536,
    "net.ipv4.tcp_rmem": [4096, 65536, 134217728],
    "net.ipv4.tcp_wmem": [4096, 65536, 134217728],
    "vm.swappiness": 10,
    "vm.vfs_cache_pressure": 50,
}
# No single socket's buffer may take more of the memory than this, however long and fat the path.
_MEMORY_SHARE = 32
_PAGE = 4096
_INT_MAX = 2**31 - 1
# What Linux starts with (net/ipv4/tcp.c, net/core/sock.c): a computed value never goes below.
_CORE_DEFAULT = 212992
_READ_DEFAULT = (4096, 131072, 6291456)
_WRITE_DEFAULT = (4096, 16384, 4194304)


class Path(NamedTuple):
    """The network path that a profile is computed for: bandwidth in Mbit/s, round-trip time in ms."""

    bandwidth: int
    round_trip: int

    @property
    def product(self) -> int:
        """The bandwidth-delay product in bytes: what is under way on a path used to the full."""
        return self.bandwidth * 1_000_000 // 8 * self.round_trip // 1000


DEFAULT_PATH = Path(bandwidth=1000, round_trip=100)


def values(name: str, memory: int | None, path: Path, originals: dict[str, str]) -> dict[str, Any]:
    """Return a profile's keys and values.

    :param memory: the host's memory in bytes, for the computed profiles.
    :param originals: values from before the first run, by name; those that are known bound computed ones from below.
    :raises ValueError: a fact is missing that the profile is computed from.
    """
    if name == NONE:
        return {}
    if name == GUIDE:
        return dict(_GUIDE)
    if memory is None:
        raise ValueError(f"the profile {name} is computed from the host's memory, which is not known without psutil")
    return _bandwidth_delay(memory, path, originals)


def _bandwidth_delay(memory: int, path: Path, originals: dict[str, str]) -> dict[str, Any]:
    """Return buffers that keep a path of this product full.

    Twice the product, as the kernel takes up to half of a buffer for its own book-keeping (tcp_adv_win_scale), at most
    1/32 of the memory and what the kernel's type holds, in whole pages.
    """
    bound = min(memory // _MEMORY_SHARE, _INT_MAX)
    largest = min(-(-2 * path.product // _PAGE), bound // _PAGE) * _PAGE

    def vector(name: str, default: tuple[int, int, int]) -> list[int]:
        known = originals.get(name, "").split()
        floor = [int(field) for field in known] if len(known) == 3 else [0, 0, 0]
        low, middle, high = (max(pair) for pair in zip(default, floor))
        return [low, middle, max(high, largest)]

    read, write = vector("net.ipv4.tcp_rmem", _READ_DEFAULT), vector("net.ipv4.tcp_wmem", _WRITE_DEFAULT)
    core = {
        "net.core.rmem_max": max(read[2], int(originals.get("net.core.rmem_max", _CORE_DEFAULT))),
        "net.core.wmem_max": max(write[2], int(originals.get("net.core.wmem_max", _CORE_DEFAULT))),
    }
    return {
        **core,
        "net.ipv4.tcp_rmem": read,
        "net.ipv4.tcp_wmem": write,
        "net.ipv4.tcp_mtu_probing": 1,
        "net.ipv4.tcp_slow_start_after_idle": 0,
        "vm.swappiness": _GUIDE["vm.swappiness"],
        "vm.vfs_cache_pressure": _GUIDE["vm.vfs_cache_pressure"],
    }
