"""What the scenarios' testinfra checks share: how to reach the hosts, and helpers that look at them without Ansible."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from local_vm.look import Look
from testinfra.host import Host

MOLECULE = Path(__file__).parent


def scenario_folder() -> Path:
    """The folder of the scenario that is being verified."""
    return MOLECULE / os.environ["MOLECULE_SCENARIO_NAME"]


def inventory_folder() -> Path:
    """Its inventory: one of its own, or the one that scenarios share."""
    own = scenario_folder() / "inventory"
    return own if own.is_dir() else MOLECULE / "inventory"


def where_the_fleet_is() -> Path:
    """Where bin/local-fleet or bin/local-vm keeps what it knows of the scenario's fleet; as bin/lib.sh says."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "molecule" if inventory_folder() == MOLECULE / "inventory" else scenario_folder().name.replace("_", "-")
    return Path(os.environ.get("PRECOG_FLEET_CACHE") or home / "precog-fleet") / "fleets" / name


@pytest.fixture(scope="session")
def fleet_folder() -> Path:
    """The folder with the fleet's ssh_config."""
    return where_the_fleet_is()


def members(inventory: dict, group: str) -> list[str]:
    """The names of the hosts of *group*, its children's too."""
    entry = inventory[group]
    below = [name for child, own in (entry.get("children") or {}).items() for name in members({child: own}, child)]
    return [*(entry.get("hosts") or {}), *below]


def scenario_hosts() -> list[str]:
    """The names of the hosts that the scenario is about."""
    scenario = os.environ["MOLECULE_SCENARIO_NAME"]
    inventory = yaml.safe_load((inventory_folder() / "hosts.yml").read_text())
    return members(inventory, "precog" if scenario == "default" else scenario)


def pytest_configure(config: pytest.Config) -> None:
    """Directs testinfra at the hosts of the scenario's group, over SSH and as root; files in a folder of its own."""
    scenario = os.environ["MOLECULE_SCENARIO_NAME"]
    # pytest sweeps it first, and another scenario may run beside this one.
    if config.option.basetemp:
        config.option.basetemp += f"-{scenario}"
    config.option.hosts = ",".join(f"ssh://{name}" for name in scenario_hosts())
    config.option.connection = "ssh"
    # One connection per host for all its checks, as each takes a third of a second of a core. pytest has no option of
    # testinfra's for it. The folder is short-lived, and short as socket names have to be.
    folder = Path(tempfile.mkdtemp(prefix="precog-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    shared = f"Host *\n  ControlPath {folder}/%C\nInclude {json.dumps(str(where_the_fleet_is() / 'ssh_config'))}\n"
    (folder / "ssh_config").write_text(shared)
    config.option.ssh_config = str(folder / "ssh_config")
    config.option.sudo = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves what is marked `once` to `bin/test full` on all hosts but one: it is much the same on each."""
    first = scenario_hosts()[0]
    for item in items:
        mark = item.get_closest_marker("once")
        if mark and f"ssh://{(*mark.args, first)[0]}" not in item.name:
            item.add_marker(pytest.mark.full)


class Kernel:
    """A host's sysctl keys, as the kernel itself shows them."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __getitem__(self, key: str) -> str:
        """The value of *key*, its fields separated by one blank each."""
        return " ".join(self._host.file(f"/proc/sys/{key.replace('.', '/')}").content_string.split())


@pytest.fixture(scope="module")
def kernel(host: Host) -> Kernel:
    """The sysctl keys of the host under test."""
    return Kernel(host)


@pytest.fixture(scope="module")
def look(host: Host, fleet_folder: Path) -> Look:
    """The host under test, as one sees it who logs in."""
    return Look(host.backend.get_hostname(), fleet_folder)


@dataclass(frozen=True)
class Run:
    """One run of ansible-playbook on one host: what it printed, its document, and the host's rows of it by name."""

    output: str
    document: dict
    settings: dict
    stats: dict


@pytest.fixture(scope="module")
def play(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Runs a playbook on the host under test alone, and expects an exit code of ansible-playbook."""
    name = host.backend.get_hostname()

    def run(playbook: Path, variables: dict | None = None, *, check: bool = False, code: int = 0) -> Run:
        report = tmp_path_factory.mktemp("report") / "report.json"
        inventories = [f"--inventory={path}" for path in (inventory_folder(), *scenario_folder().glob("groups.ini"))]
        command = ["ansible-playbook", *inventories, "--limit", name, str(playbook)]
        command += ["--extra-vars", json.dumps(variables or {})] + (["--check"] if check else [])
        root = MOLECULE.parent
        env = {**os.environ, "PRECOG_FLEET_REPORT": str(report), "ANSIBLE_CONFIG": str(root / "ansible.cfg")}
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        document = json.loads(report.read_text()) if report.exists() else {}
        about = document.get("hosts", {}).get(name, {})
        settings = {row["name"]: row for row in about.get("settings", [])}
        return Run(done.stdout + done.stderr, document, settings, about.get("stats", {}))

    return run


@pytest.fixture(scope="module")
def converge(play: Callable[..., Run]) -> Callable[..., Run]:
    """Runs the scenario's role on the host, with variables of its own if wanted."""

    def run(variables: dict | None = None, *, check: bool = False, expect_failure: bool = False) -> Run:
        return play(scenario_folder() / "converge.yml", variables, check=check, code=2 if expect_failure else 0)

    return run


@pytest.fixture(scope="module")
def roll_back(play: Callable[..., Run]) -> Callable[..., Run]:
    """Runs the scenario's rollback on the host."""

    def run(*, check: bool = False) -> Run:
        return play(scenario_folder() / "rollback.yml", check=check)

    return run
