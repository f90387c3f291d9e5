"""The four hosts: brought up and taken down by bin/local-fleet, and looked at over SSH."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.process import ROOT, BenchError, run

NAME = "bench"
SUITES = {"bench-1": "bookworm", "bench-2": "bookworm", "bench-3": "trixie", "bench-4": "trixie"}
LOCAL_FLEET = str(ROOT / "bin" / "local-fleet")

# The modules of the collection are measured with psutil, as the role preflight leaves a host.
_INSTALL_PSUTIL = (
    "python3 -c 'import psutil' 2>/dev/null || "
    "{ sudo apt-get -qq update && sudo apt-get -qq install -y --no-install-recommends python3-psutil; }"
)


class Fleet:
    """The hosts once they are up."""

    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory
        self.ssh_config = inventory.with_name("ssh_config")
        self.known_hosts = inventory.with_name("known_hosts")

    @property
    def hosts(self) -> list[str]:
        """Their names."""
        return sorted(SUITES)

    def ssh(self, host: str, *command: str, stdin: str = "") -> str:
        """Run a command on a host and return its output.

        :raises BenchError: it failed.
        """
        return run(["ssh", "-F", str(self.ssh_config), host, shlex.join(command)], stdin=stdin).output

    def everywhere(self, *command: str) -> dict[str, str]:
        """Run a command on all hosts at once and return each one's output.

        :raises BenchError: it failed on one.
        """
        with ThreadPoolExecutor(len(SUITES)) as pool:
            return dict(zip(self.hosts, pool.map(lambda host: self.ssh(host, *command), self.hosts), strict=True))

    def prepare(self) -> None:
        """Install what the hosts lack."""
        self.everywhere("sh", "-c", _INSTALL_PSUTIL)

    def expect(self, values: Mapping[str, str]) -> None:
        """Make sure that every host's kernel has these values.

        :raises BenchError: one has not.
        """
        paths = [f"/proc/sys/{key.replace('.', '/')}" for key in values]
        for host, text in self.everywhere("cat", *paths).items():
            found = dict(zip(values, (" ".join(line.split()) for line in text.splitlines()), strict=True))
            wrong = [f"{key} is {found[key]}, not {value}" for key, value in values.items() if found[key] != value]
            if wrong:
                raise BenchError(f"{host} was not converged: {'; '.join(wrong)}")

    def pyinfra_reach(self) -> dict[str, dict[str, str]]:
        """Return for pyinfra how each host is reached: by the same key and the same known hosts."""
        reach = {
            "ssh_config_file": str(self.ssh_config),
            "ssh_known_hosts_file": str(self.known_hosts),
            "ssh_strict_host_key_checking": "yes",
        }
        return dict.fromkeys(self.hosts, reach)


def up() -> Fleet:
    """Start the fleet, or what is missing of it."""
    specs = [f"{name}={suite}" for name, suite in sorted(SUITES.items())]
    output = run([LOCAL_FLEET, "up", NAME, *specs]).output
    return Fleet(Path(output.strip().splitlines()[-1]))


def down() -> None:
    """Remove it."""
    run([LOCAL_FLEET, "down", NAME])


def close_connections(folder: Path) -> None:
    """End the SSH connections that Ansible keeps, whose sockets lie in a folder."""
    for socket in _sockets(folder):
        try:
            run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "host"])
        except BenchError as error:
            print(f"Warning: {error}", file=sys.stderr)


def _sockets(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.glob("*") if path.is_socket()) if folder.is_dir() else ()


def ansible_environment(work: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment in which every contestant runs: the project's ansible.cfg, and nothing of the user's.

    :param work: a folder with a short path: the SSH sockets lie below.
    :param base: instead of this process's environment.
    """
    kept = {name: value for name, value in (base or os.environ).items() if not name.startswith("ANSIBLE_")}
    return {
        **kept,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(work / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(work / "cp"),
        # As in ansible.cfg, but longer than any contestant's turn, so that no round finds a connection cold.
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=600s -o PreferredAuthentications=publickey",
    }
