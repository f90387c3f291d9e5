"""How the checks of this scenario log in and look at processes."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

OPEN_FILES = re.compile(r"Max open files\s+(\d+)\s+(\d+)")


@pytest.fixture
def log_in(host, request):
    """Run a shell command in an SSH session of its own, as the user who logs in; returns what it printed."""
    config = request.config.option.ssh_config

    def run(command: str) -> str:
        argv = ["ssh", "-F", config, "-o", "ControlMaster=no", "-o", "ControlPath=none", host.backend.get_hostname()]
        return subprocess.run([*argv, command], capture_output=True, text=True, check=True).stdout.strip()

    return run


@pytest.fixture
def open_files(host):
    """The soft and hard limit of open files that the kernel shows in a text, or of a process."""

    def read(source: int | str) -> tuple[int, int]:
        text = source if isinstance(source, str) else host.check_output("cat /proc/%s/limits", str(source))
        soft, hard = OPEN_FILES.search(text).groups()
        return int(soft), int(hard)

    return read


@pytest.fixture
def family(host):
    """The main process and the children of the scenario's service."""

    def find() -> list[int]:
        main = host.check_output("systemctl show --property MainPID --value molecule-miner.service")
        # systemd says that a service is started before it has its program and its limits: its child comes after both.
        children = host.check_output("timeout 30 sh -c %s", f"until pgrep --parent {main}; do sleep 0.1; done")
        return [int(main), *map(int, children.split())]

    return find


def files_now(host) -> dict[str, str]:
    """What makes every file below /etc the file it is."""
    return json.loads(host.check_output("python3 /var/lib/molecule/record.py -- /etc"))["files"]


@pytest.fixture
def etc_now(host):
    """The files below /etc as they are."""
    return lambda: files_now(host)


@pytest.fixture
def etc_before(host):
    """The files below /etc as prepare.yml recorded them."""
    return json.loads(host.file("/var/lib/molecule/originals.json").content_string)["files"]
