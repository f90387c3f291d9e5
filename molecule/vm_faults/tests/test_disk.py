"""A disk without room and one that can't be written, both for real: told, nothing changed, and then it works."""

from __future__ import annotations

import re

import pytest

FILL = """
import os
fd = os.open("/full", os.O_WRONLY | os.O_CREAT, 0o600)
end, step = 0, 2**30
while step >= 4096:
    try:
        os.posix_fallocate(fd, end, step)
        end += step
    except OSError:
        step //= 2
os.fsync(fd)
"""
READ_ONLY = "timeout 60 sh -c 'until grep -q \"^/dev/[^ ]* / ext4 ro\" /proc/mounts; do sleep 0.1; done'"


@pytest.fixture(scope="module")
def untuned(machine):
    """What the machine is like before its first run. Each test begins in a saved state, and leaves the disk behind."""
    return machine.seen()


def make_room(machine):
    """Memory for what Ansible unpacks: it is the modules that shall meet the disk."""
    machine.host.check_output("mount -t tmpfs -o mode=1777 none /tmp")


def refused(machine, trouble, **variables):
    """Check that a run is refused for a disk, names a file, and leaves everything as it is."""
    before = machine.seen(), machine.ledger()
    run = machine.tune(**variables, code=2)
    said = " ".join(run.output.split())
    assert re.search(rf"/(etc|var/lib/precog-fleet)\S*: {trouble}\. Nothing was changed\.", said), run.output
    assert (machine.seen(), machine.ledger()) == before


def test_a_full_disk_changes_nothing(machine, untuned):
    make_room(machine)
    machine.host.check_output("python3 -c %s", FILL)
    # Not for root either.
    assert "No space left on device" in machine.host.run("dd if=/dev/urandom of=/full.probe count=1").stderr
    for part in ("kernel_tuning", "limits"):
        refused(machine, "No space left on device", parts=[part])

    machine.host.check_output("rm /full")
    machine.tune()
    assert machine.seen().values["vm.swappiness"] == "10" != untuned.values["vm.swappiness"]
    machine.tune("absent")
    assert machine.seen() == untuned


def test_a_read_only_root_loses_nothing(machine, untuned):
    machine.be_tuned()
    make_room(machine)
    # As the kernel does it when a disk fails: without asking who has files open.
    machine.host.check_output(f"echo u >/proc/sysrq-trigger && {READ_ONLY}")
    for part in ("limits", "kernel_tuning"):
        refused(machine, "Read-only file system", wanted="absent", parts=[part])

    machine.host.check_output("mount -o remount,rw /")
    machine.tune("absent")
    assert machine.seen() == untuned
