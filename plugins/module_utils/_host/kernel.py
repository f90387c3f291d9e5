# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whose kernel is it: the one rule by which every subsystem leaves a shared kernel alone.

A container shares the kernel of the machine underneath. What that kernel does not keep per namespace belongs to that
machine, and a privileged container could change it for everyone there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .host import Host

# The first namespaces of a boot have fixed inode numbers (include/uapi/linux/nsfs.h, include/linux/proc_ns.h).
INITIAL_PID_NAMESPACE = "pid:[4026531836]"
INITIAL_IPC_NAMESPACE = "ipc:[4026531839]"
INITIAL_UTS_NAMESPACE = "uts:[4026531838]"

CONTAINER_MARKERS = ("/run/systemd/container", "/run/.containerenv", "/.dockerenv")

# Only the initial network namespace has this key, whatever the kernel's version: where a container shows it, the
# container runs in the machine's own network (`--network host`).
INITIAL_NETWORK_KEY = "/proc/sys/net/core/netdev_max_backlog"

# Below net/ but one for the whole kernel (writable from every namespace before Linux 4.12).
GLOBAL_NETWORK_KEYS = frozenset(
    {
        "net/netfilter/nf_conntrack_max",
        "net/netfilter/nf_conntrack_buckets",
        "net/netfilter/nf_conntrack_expect_max",
        "net/nf_conntrack_max",
    }
)
IPC_KEYS = frozenset({"kernel/sem", "kernel/sem_next_id"})
IPC_FAMILIES = ("kernel/msg", "kernel/shm", "fs/mqueue/")
UTS_KEYS = frozenset({"kernel/hostname", "kernel/domainname"})

SHARED = "shared kernel"


class Kernel(NamedTuple):
    """What of the kernel is this host's own.

    :ivar container: how the container was told, or None on a host that has the kernel to itself.
    """

    container: str | None
    own_network: bool
    own_ipc: bool
    own_uts: bool

    def sharing(self, sysctl_path: str | None = None) -> str | None:
        """Tell why something must be left alone here, or None if it is this host's own.

        :param sysctl_path: a key as a path below /proc/sys; without it, something that no namespace has of its own
            (swap, cpufreq, transparent huge pages).
        """
        if self.container is None or (sysctl_path is not None and self._is_namespaced(sysctl_path)):
            return None
        return f"{SHARED}: belongs to the machine under this container ({self.container})"

    def _is_namespaced(self, path: str) -> bool:
        if path.startswith("net/"):
            return self.own_network and path not in GLOBAL_NETWORK_KEYS
        if path in IPC_KEYS or path.startswith(IPC_FAMILIES):
            return self.own_ipc
        return path in UTS_KEYS and self.own_uts


def look(host: Host) -> Kernel:
    """Find out by looking whose kernel this is. Never raises."""
    return Kernel(
        container=_container(host),
        own_network=not host.exists(INITIAL_NETWORK_KEY),
        own_ipc=host.readlink("/proc/self/ns/ipc") != INITIAL_IPC_NAMESPACE,
        own_uts=host.readlink("/proc/self/ns/uts") != INITIAL_UTS_NAMESPACE,
    )


def _container(host: Host) -> str | None:
    for marker in CONTAINER_MARKERS:
        if host.exists(marker):
            return marker
    try:
        environment = host.read_text("/proc/1/environ").split("\0")
    except OSError:
        environment = []
    for variable in environment:
        if variable.startswith("container="):
            return f"{variable} of process 1"
    namespace = host.readlink("/proc/self/ns/pid")
    if namespace not in (None, INITIAL_PID_NAMESPACE):
        return f"process namespace {namespace}"
    return None
