"""Asking the real kernel without changing it."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host import trial
from ansible_collections.precog.fleet.tests.places import ROOT

NET = "/proc/sys/net/ipv4"
KEEPALIVE = f"{NET}/tcp_keepalive_time"
RETRIES = f"{NET}/tcp_syn_retries"  # 1 to 127


def _can_unshare():
    return os.geteuid() == 0 and subprocess.run(["unshare", "-n", "-i", "-u", "true"], check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not _can_unshare(), reason="needs root and namespaces")

TRIABLE = [
    (KEEPALIVE, True),
    (f"{NET}/tcp_rmem", True),
    ("/proc/sys/net/ipv6/conf/all/forwarding", True),
    ("/proc/sys/net/core/somaxconn", True),
    ("/proc/sys/kernel/sem", True),
    ("/proc/sys/kernel/shmmax", True),
    (f"{NET}/tcp_congestion_control", False),  # a try would load a module
    (f"{NET}/tcp_allowed_congestion_control", False),
    ("/proc/sys/net/core/rmem_max", False),
    ("/proc/sys/vm/swappiness", False),
    ("/proc/sys/kernel/semx", False),
    ("/sys/kernel/mm/transparent_hugepage/enabled", False),
    ("/etc/passwd", False),
]


@pytest.mark.parametrize(("path", "triable"), TRIABLE)
def test_only_what_a_namespace_has_of_its_own_is_tried(path, triable):
    assert trial.is_triable(path) is triable


def _network():
    """All that /proc/sys/net/ipv4 holds at its top; deeper keys may be moved by others meanwhile."""
    found = {}
    for place in Path(NET).iterdir():
        try:
            found[place.name] = place.read_text()
        except OSError:
            continue
    return found


@needs_namespaces
def test_what_the_kernel_refuses_is_known_and_this_machine_stays_as_it_is():
    before, sem = _network(), Path("/proc/sys/kernel/sem").read_text()
    control = next(iter({"reno", "cubic"} - {before["tcp_congestion_control"].strip()}))

    refused = trial.refusals(
        [
            (RETRIES, "0"),
            (KEEPALIVE, "600"),
            (f"{NET}/tcp_rmem", "0 0 0"),
            (f"{NET}/tcp_wmem", "4096 20000 5000000"),
            (f"{NET}/ip_forward", "1"),
            (f"{NET}/ip_default_ttl", "10abc"),
            (f"{NET}/tcp_fin_timeout", "99999999999999999999"),
            (f"{NET}/tcp_congestion_control", control),
            (f"{NET}/no_such_key", "1"),
            ("/proc/sys/kernel/sem", "250 32000 100 4096"),
            ("/proc/sys/vm/swappiness", "9999"),
        ]
    )

    assert refused == {
        RETRIES: errno.EINVAL,
        f"{NET}/tcp_rmem": errno.EINVAL,
        f"{NET}/ip_default_ttl": errno.EINVAL,
        f"{NET}/tcp_fin_timeout": errno.EINVAL,
    }
    assert _network() == before
    assert Path("/proc/sys/kernel/sem").read_text() == sem


def test_nothing_to_try_starts_no_process(monkeypatch):
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert trial.refusals([("/proc/sys/vm/swappiness", "1"), (f"{NET}/tcp_congestion_control", "bbr")]) == {}


def test_without_the_right_to_make_namespaces_nothing_is_known():
    # Imported before the rights go: where this tree lies, another user may not even look.
    code = (
        "import os; from ansible_collections.precog.fleet.plugins.module_utils._host import trial;"
        "os.getuid() or (os.setgroups([]), os.setuid(65534));"
        f"print(trial.refusals([({RETRIES!r}, '0')]))"
    )
    root = ROOT / ".ansible/collections"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code], env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "{}\n"


@needs_namespaces
def test_no_child_is_left_behind():
    trial.refusals([(KEEPALIVE, "7200")])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
