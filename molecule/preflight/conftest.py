"""How the checks of this scenario run the role and its modules: as a user does."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Run:
    """One run of Ansible: its exit code and all it printed, in one line."""

    code: int
    output: str

    @property
    def changed(self) -> bool:
        """Whether the recap counts a change."""
        return " changed=0 " not in self.output


def ansible(*argv: str) -> subprocess.CompletedProcess:
    """Run one of Ansible's commands on the scenarios' inventory."""
    return subprocess.run(
        [argv[0], "--inventory", "molecule/inventory", *argv[1:]],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_FORCE_COLOR": "0",  # which Molecule sets
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def converge(host):
    """Run the role on the host, with variables of its own if wanted."""

    def run(variables: dict | None = None, *flags: str) -> Run:
        words = ["--limit", host.backend.get_hostname(), "--extra-vars", json.dumps(variables or {}), *flags]
        done = ansible("ansible-playbook", *words, str(HERE / "converge.yml"))
        return Run(done.returncode, " ".join((done.stdout + done.stderr).split()))

    return run


@pytest.fixture
def module(host):
    """Run a module on the host as root and return its result."""

    def run(name: str, arguments: dict | None = None) -> dict:
        words = ["--become", "--module-name", f"precog.fleet.{name}"]
        words += ["--args", json.dumps(arguments)] if arguments else []
        done = ansible("ansible", host.backend.get_hostname(), *words)
        assert " => {" in done.stdout, done.stdout + done.stderr
        return json.loads(done.stdout[done.stdout.index(" => {") + 4 :])

    return run
