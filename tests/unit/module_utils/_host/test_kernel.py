"""Whose kernel it is: the markers of a container, and the keys that a namespace has of its own."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host import kernel

OWN = kernel.Kernel(container="/run/.containerenv", own_network=True, own_ipc=True, own_uts=True)
NOTHING_OWN = kernel.Kernel(container="/run/.containerenv", own_network=False, own_ipc=False, own_uts=False)
MACHINE = kernel.Kernel(container=None, own_network=False, own_ipc=False, own_uts=False)

# key, namespaced at all
KEYS = [
    ("net/ipv4/tcp_rmem", True),
    ("net/core/somaxconn", True),
    ("net/core/rmem_max", True),  # by its family; the kernel shows it read-only in a container
    ("net/netfilter/nf_conntrack_tcp_timeout_established", True),
    ("net/netfilter/nf_conntrack_max", False),
    ("net/netfilter/nf_conntrack_buckets", False),
    ("net/nf_conntrack_max", False),
    ("kernel/sem", True),
    ("kernel/msgmax", True),
    ("kernel/shmmax", True),
    ("kernel/shm_rmid_forced", True),
    ("fs/mqueue/msg_max", True),
    ("kernel/hostname", True),
    ("kernel/domainname", True),
    ("kernel/semantics", False),
    ("kernel/pid_max", False),
    ("kernel/yama/ptrace_scope", False),
    ("vm/swappiness", False),
    ("vm/net/ipv4", False),
    ("fs/file-max", False),
    ("fs/nr_open", False),
]


@pytest.mark.parametrize(("path", "namespaced"), KEYS)
def test_trap_only_some_keys_are_namespaced(path, namespaced):
    assert (OWN.sharing(path) is None) is namespaced
    assert (
        NOTHING_OWN.sharing(path) == "shared kernel: belongs to the machine under this container (/run/.containerenv)"
    )
    assert MACHINE.sharing(path) is None


def test_trap_swap_cpufreq_and_huge_pages_are_never_a_container_s_own():
    assert "shared kernel" in OWN.sharing()
    assert MACHINE.sharing() is None


@pytest.mark.parametrize(
    ("own", "key"), [("own_network", "net/ipv4/tcp_rmem"), ("own_ipc", "kernel/sem"), ("own_uts", "kernel/hostname")]
)
def test_each_namespace_counts_for_itself(own, key):
    only = kernel.Kernel("docker", **{name: name == own for name in ("own_network", "own_ipc", "own_uts")})
    assert [path for path in ("net/ipv4/tcp_rmem", "kernel/sem", "kernel/hostname") if only.sharing(path) is None] == [
        key
    ]


def test_a_machine_has_its_kernel_to_itself(host):
    assert kernel.look(host) == kernel.Kernel(None, own_network=False, own_ipc=False, own_uts=False)


MARKERS = [
    ("/run/systemd/container", "podman", "/run/systemd/container"),
    ("/run/.containerenv", "", "/run/.containerenv"),
    ("/.dockerenv", "", "/.dockerenv"),
    ("/proc/1/environ", "PATH=/bin\0container=lxc\0", "container=lxc of process 1"),
]


@pytest.mark.parametrize(("path", "content", "told"), MARKERS)
def test_a_container_is_told_by_any_marker(host, path, content, told):
    host.put(path, content)
    assert kernel.look(host).container == told


def test_a_container_is_told_by_its_namespace_alone(container):
    """Trap: don't trust virtualization_type."""
    container.at("/run/systemd/container").unlink()
    assert kernel.look(container).container == "process namespace pid:[4026532736]"


def test_other_words_of_process_1_are_no_marker(host):
    host.put("/proc/1/environ", "mycontainer=x\0CONTAINER=y\0")
    assert kernel.look(host).container is None


def test_a_container_has_namespaces_of_its_own(container):
    found = kernel.look(container)
    assert (found.own_network, found.own_ipc, found.own_uts) == (True, True, True)


def test_a_container_in_the_machine_s_network_is_told_by_a_key_of_the_first_namespace(container):
    container.set_key("net/core/netdev_max_backlog", "1000")
    found = kernel.look(container)
    assert (found.own_network, found.own_ipc) == (False, True)


def test_nothing_to_look_at_is_no_error(memory):
    from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host

    (memory / "empty").mkdir()
    assert kernel.look(Host(str(memory / "empty"))).container is None
