"""A disk that is really full, and one that is really mounted read-only: on small file systems of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = "ansible_collections.precog.fleet.tests.fault.disk_program"


def _can_mount():
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _can_mount(), reason="needs root and a mount namespace")

# trouble, which part of the tree lies on the small disk, what the error names
CASES = [
    ("full", "etc", "/etc/sysctl.d/99-zz-precog-fleet.conf: No space left on device", "Free space on that file system"),
    ("full", "var", "/var/lib/precog-fleet/ledger.json: No space left on device", "Free space on that file system"),
    ("full", "", "No space left on device", "Free space on that file system"),
    ("read-only", "etc", "/etc/sysctl.d/99-zz-precog-fleet.conf: Read-only file system", "mount -o remount,rw"),
    ("read-only", "var", "/var/lib/precog-fleet", "mount -o remount,rw"),
    ("read-only", "", "Read-only file system", "mount -o remount,rw"),
]


@pytest.mark.parametrize("moment", ["first apply", "change", "absent"])
@pytest.mark.parametrize(("trouble", "part", "names", "remedy"), CASES)
def test_nothing_is_changed_the_remedy_is_told_and_then_it_works(tmp_path, trouble, part, names, remedy, moment):
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-m", PROGRAM, tmp_path, trouble, part, moment],
        env={**os.environ, "PYTHONPATH": str(ROOT / ".ansible/collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    told = json.loads(done.stdout)

    for mode in ("check", "real"):
        assert names in told[mode]["error"]
        assert "Nothing was changed." in told[mode]["error"]
        assert remedy in told[mode]["error"]
        assert told[mode]["changed_paths"] == []
        assert told[mode]["kernel_writes"] == []
    assert told["then"] == "settled"
    assert told["absent"] == []
