"""What this scenario's checks share: the instances as vars/ describes them, the secrets, and what was recorded."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

SCENARIO = Path(__file__).parent
PROJECT = SCENARIO.parents[1]
os.environ["ANSIBLE_VAULT_PASSWORD_FILE"] = str(SCENARIO / "vault-password.sh")
MADE = Path(os.environ.get("ANSIBLE_HOME") or Path.home() / ".ansible") / "miner-service"

STATE = "/var/lib/precog-miner"


@dataclass(frozen=True)
class Instance:
    """What is expected of an instance.

    *port* is where it serves HTTP; *axon* the port of its axon, *hotkey* the name of what it signs with. *unit* holds
    properties of its unit, *variables* those of its process's environment, where None is one that isn't there.
    """

    name: str
    engine: str
    port: int
    axon: int = 0
    hotkey: str = ""
    nofile: tuple[int, int] = (4096, 8192)
    nproc: tuple[int, int] | None = None
    nice: int = 0
    cpus: str = ""
    unit: dict = field(default_factory=dict)
    variables: dict = field(default_factory=dict)

    @property
    def service(self):
        return f"precog-miner@{self.name}.service"

    def pid(self, host):
        return int(host.check_output("systemctl show -P MainPID %s", self.service))

    def environ(self, host):
        """The environment of its process, as root reads it."""
        text = host.check_output(f"tr '\\0' '\\n' </proc/{self.pid(host)}/environ")
        return dict(line.split("=", 1) for line in text.splitlines())


MARKET = Instance("market", "simulator", 8900, unit={"OOMScoreAdjust": "300"})
INSTANCES = {
    "svc-12": [
        MARKET,
        Instance(
            "main",
            "upstream",
            9091,
            axon=8091,
            hotkey="default",
            nice=2,
            unit={"MemoryHigh": str(2 << 30)},
            variables={"PYTHONOPTIMIZE": None},
        ),
        Instance("second", "upstream", 9093, axon=8093, hotkey="other", variables={"PYTHONOPTIMIZE": None}),
    ],
    "svc-13": [
        MARKET,
        Instance(
            "one",
            "runtime",
            8092,
            nice=3,
            nproc=(500, 1000),
            cpus="0",
            unit={"OOMScoreAdjust": "-100", "TasksMax": "200"},
            variables={"PYTHONOPTIMIZE": "1", "PRECOG_RUNTIME_DEADLINE_S": "5"},
        ),
        Instance(
            "two",
            "runtime",
            8093,
            nofile=(5000, 5000),
            unit={"MemoryMax": str(1 << 30), "OOMScoreAdjust": "-500"},
            variables={
                "PYTHONOPTIMIZE": None,
                "PRECOG_RUNTIME_DEADLINE_S": "7",
                "MOLECULE_SAYS": 'blanks, "quotes", a \\ and a $dollar',
            },
        ),
    ],
}


@pytest.fixture(scope="module")
def name(host):
    """The name of the host under test."""
    return host.backend.get_hostname()


@pytest.fixture(scope="module")
def instances(name):
    """The instances of the host under test."""
    return INSTANCES[name]


@pytest.fixture(scope="module")
def miners(instances):
    """Those of them that answer for prices."""
    return [one for one in instances if one.engine != "simulator"]


def opened(vault):
    """Return what a vaulted text holds."""
    argv = ["ansible-vault", "decrypt", "--output=-"]
    return subprocess.run(argv, input=vault, check=True, capture_output=True, text=True).stdout


class Vaulted(yaml.SafeLoader):
    """Reads a file of Ansible's with vaulted texts in it, opened."""


Vaulted.add_constructor("!vault", lambda loader, node: opened(loader.construct_scalar(node)))


@pytest.fixture
def back(host):
    """Hits an instance with a signal; returns the seconds until another process of it answers."""
    command = "python3 /var/lib/molecule/back.py %s %s %s"
    return lambda signal, one: float(host.check_output(command, signal, one.service, str(one.port)))


@pytest.fixture(scope="session")
def vault():
    """The file of secrets that prepare.yml made, opened."""
    return yaml.load((MADE / "secrets.yml").read_text(), Vaulted)


@pytest.fixture(scope="session")
def secrets(vault):
    """What must be found nowhere: the parts of the hotkeys that sign, and the key of the API."""
    hotkeys = {name: json.loads(text) for name, text in vault["miner_service_hotkeys"].items()}
    signing = {
        f"{part} of {name}": str(hotkey[part]).removeprefix("0x")
        for name, hotkey in hotkeys.items()
        for part in ("secretPhrase", "secretSeed", "privateKey")
    }
    return {**signing, "api_key": vault["miner_service_api_key"]}


@pytest.fixture(scope="session")
def made():
    """The folder of what prepare.yml made."""
    return MADE


@pytest.fixture
def verbose_run(name, tmp_path):
    """Runs the scenario's role on the host as verbosely as anyone would; returns what it said, and its report."""

    def run(variables=None, *, code=0):
        given, report = tmp_path / "given.json", tmp_path / "report.json"
        given.write_text(json.dumps(variables or {}))
        env = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "PRECOG_FLEET_REPORT": str(report)}
        command = ["ansible-playbook", "--inventory", str(SCENARIO.parent / "inventory"), "--limit", name, "-vvv"]
        command += ["--diff", f"--extra-vars=@{given}", str(SCENARIO / "converge.yml")]
        done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout
        return done.stdout + done.stderr, report.read_text()

    return run


@pytest.fixture
def is_as_recorded(host):
    """Tell whether what prepare.yml recorded is as it was."""
    what = "python3 record.py -- /etc/systemd /opt /usr/local; sha256sum /etc/passwd /etc/group /etc/*shadow"
    return lambda: (
        host.check_output(f"cd /var/lib/molecule && ({what})")
        == host.file("/var/lib/molecule/originals").content_string.rstrip("\n")
    )
