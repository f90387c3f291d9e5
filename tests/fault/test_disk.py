"""A disk that is really full, and one that is really mounted read-only: on small file systems of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from ansible_collections.precog.fleet.tests.fault.cases import CASES, MOMENTS
from ansible_collections.precog.fleet.tests.places import ROOT

PROGRAM = "ansible_collections.precog.fleet.tests.fault.disk_program"


def _can_mount():
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _can_mount(), reason="needs root and a mount namespace")

LEDGER = "/var/lib/precog-fleet"
SAID = {"full": "No space left on device", "read-only": "Read-only file system"}
REMEDIES = {"full": "Free space on that file system", "read-only": "mount -o remount,rw"}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("part", ["etc", "var", ""])
@pytest.mark.parametrize("trouble", SAID)
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_changed_the_remedy_is_told_and_then_it_works(memory, name, trouble, part, moment):
    program = [sys.executable, "-m", PROGRAM, memory, name, trouble, part, moment]
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", *program],
        env={**os.environ, "PYTHONPATH": str(ROOT / ".ansible/collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    told = json.loads(done.stdout)

    named = {"etc": CASES[name].files, "var": [LEDGER], "": ["/"]}[part]
    for mode in ("check", "real"):
        error = told[mode]["error"]
        assert SAID[trouble] in error
        assert any(path in error for path in named), error
        assert "Nothing was changed." in error
        assert REMEDIES[trouble] in error
        assert told[mode]["changed_paths"] == []
        assert told[mode]["orders"] == []
        assert not told[mode]["forgot"]
    assert told["then"] == "settled"
    assert told["given back"]
