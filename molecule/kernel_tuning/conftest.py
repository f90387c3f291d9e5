"""What the checks of this scenario compare with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RECORD = HERE.parent / "record.py"
MACHINE_KEYS = ("vm", "fs", "kernel", "net/core", "net/ipv4")
RECORDED = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", ".")) / "machine.json"


@pytest.fixture(scope="session")
def machine_before():
    """The keys of the machine that runs the containers, as prepare.yml recorded them."""
    return json.loads(RECORDED.read_text())["values"]


@pytest.fixture
def machine_now():
    """The same keys now."""
    done = subprocess.run([sys.executable, RECORD, *MACHINE_KEYS], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["values"]


@dataclass(frozen=True)
class Originals:
    """What a host was like before the role touched it."""

    values: dict
    files: dict

    @classmethod
    def now(cls, host):
        """Return what the host is like now."""
        return cls(**json.loads(host.check_output("python3 /var/lib/molecule/record.py net/ipv4 -- /etc")))


@pytest.fixture
def originals(host):
    """What prepare.yml recorded on the host."""
    return Originals(**json.loads(host.file("/var/lib/molecule/originals.json").content_string))
