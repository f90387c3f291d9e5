"""What the checks of this scenario compare with, and how they run the role."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
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


@dataclass(frozen=True)
class Run:
    """One run of ansible-playbook on one host: what it printed, and its row of the report."""

    output: str
    settings: dict
    stats: dict


def _play(host, report, playbook, variables, check, expect_failure):
    name = host.backend.get_hostname()
    done = subprocess.run(
        ["ansible-playbook", "--inventory", "molecule/inventory", "--limit", name]
        + ["--extra-vars", json.dumps(variables or {})]
        + (["--check"] if check else [])
        + [str(HERE / playbook)],
        cwd=ROOT,
        env={**os.environ, "PRECOG_FLEET_REPORT": str(report), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == expect_failure, done.stdout + done.stderr
    about = json.loads(report.read_text())["hosts"].get(name, {}) if report.exists() else {}
    report.unlink(missing_ok=True)
    settings = {row["name"]: row for row in about.get("settings", [])}
    return Run(done.stdout + done.stderr, settings, about.get("stats", {}))


@pytest.fixture(scope="module")
def report_file(tmp_path_factory):
    """Where a run leaves its report."""
    return tmp_path_factory.mktemp("report") / "report.json"


@pytest.fixture(scope="module")
def converge(host, report_file):
    """Run the role on the host, with variables of its own if wanted."""

    def run(variables=None, *, check=False, expect_failure=False):
        return _play(host, report_file, "converge.yml", variables, check, expect_failure)

    return run


@pytest.fixture(scope="module")
def roll_back(host, report_file):
    """Run the role's rollback on the host."""
    return lambda: _play(host, report_file, "rollback.yml", {}, False, False)
