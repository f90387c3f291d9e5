"""Installs the built artifact as an operator would, and uses it: imports, syntax, then site and audit on a local fleet.

Usage: python tools/installed.py [--no-fleet]

Each version of ansible-core that the collection is for has an environment with nothing else in it, a home of its own,
no checkout in sight, and the ansible.cfg of the README. Without --no-fleet, two hosts in containers are tuned and run a
miner (`bin/local-fleet`, the fleet `installed`, removed at the end), and every version audits them. All that is kept
lies below $PRECOG_FLEET_CACHE.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import build_collection
import pythons

ROOT = Path(__file__).resolve().parent.parent
FLEET = "installed"
HOSTS = {"miner-1": "bookworm", "miner-2": "trixie"}
INSTALLED = ".ansible/collections/ansible_collections/precog/fleet"
# ansible_collections is a namespace package: with its parent on sys.path each file of plugins/ has a module name.
IMPORT_ALL = """\
import importlib, pathlib, sys
top = pathlib.Path(".ansible/collections")
sys.path.insert(0, str(top))
files = sorted((top / "ansible_collections/precog/fleet/plugins").rglob("*.py"))
for file in files:
    importlib.import_module(".".join(file.relative_to(top).with_suffix("").parts))
from ansible_collections.precog.fleet.plugins.action import miner_service
assert miner_service.VaultHelper, "this ansible-core doesn't say where a value comes from: no warning of open hotkeys"
print(f"  {len(files)} files of plugins import")
"""


class InstalledError(Exception):
    """The installed collection doesn't work; the message says what failed."""


class Control:
    """A control node: a home with the installed collection, and one version of ansible-core."""

    def __init__(self, environment: Path, home: Path) -> None:
        """Take the environment's programs and this home, and no variable of this process."""
        self.home = home
        self.bin = environment / "bin"
        self.variables = {"HOME": str(home), "PATH": f"{self.bin}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run a program of the environment in the home folder, and return its output.

        :raises InstalledError: it failed; with its output.
        """
        command = [str(self.bin / program), *map(str, arguments)]
        print("+", program, *arguments, flush=True)
        done = subprocess.run(
            command,
            cwd=self.home,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InstalledError(f"{program} failed with code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def prepare(self, artifact: Path) -> None:
        """Install the artifact with the README's command, and write the README's ansible.cfg."""
        self.home.mkdir()
        (self.home / "ansible.cfg").write_text(documented_configuration(), encoding="utf-8")
        self.run("ansible-galaxy", "collection", "install", artifact)

    def check_syntax_and_imports(self) -> None:
        """Import every plugin, and load every playbook with all that it imports."""
        (self.home / "import_all.py").write_text(IMPORT_ALL, encoding="utf-8")
        print(self.run("python", "import_all.py"), end="")
        names = [f"precog.fleet.{path.stem}" for path in sorted((self.home / INSTALLED / "playbooks").glob("*.yml"))]
        self.run("ansible-playbook", "--syntax-check", "-i", f"{INSTALLED}/inventory", *names)

    def play(self, playbook: str, inventories: list[Path]) -> None:
        """Run a playbook of the collection on the fleet.

        :raises InstalledError: it failed, or its output has no report of each host.
        """
        given = [word for path in inventories for word in ("-i", path)]
        output = self.run("ansible-playbook", *given, f"precog.fleet.{playbook}")
        table = re.search(r"^host +ok .*\n(?:.+\n)+", output, re.MULTILINE)
        if not table or not all(re.search(rf"^{host} ", table[0], re.MULTILINE) for host in HOSTS):
            raise InstalledError(f"{playbook}: the output has no report with a row for each host:\n{output}")
        print(table[0], end="", flush=True)


def documented_configuration() -> str:
    """Return the ansible.cfg that the README asks for.

    :raises InstalledError: the README has none.
    """
    found = re.search(r"```ini\n(\[defaults\]\n.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise InstalledError("README.md: no block ```ini that begins with [defaults]")
    return found[1]


def inventories(work: Path) -> list[Path]:
    """Write an operator's inventory of the fleet's hosts; return it with the fleet's own files."""
    own = work / "hosts.yml"
    lines = ["precog:", "  children:", "    miners:", "      hosts:", *(f"        {host}:" for host in HOSTS)]
    own.write_text("\n".join([*lines, ""]), encoding="utf-8")
    cache = Path(os.environ["PRECOG_FLEET_CACHE"])
    return [own, cache / "fleets" / FLEET / "inventory.yml", ROOT / "tools/local_fleet/market.yml"]


def local_fleet(*arguments: str) -> None:
    """Run bin/local-fleet.

    :raises InstalledError: it failed.
    """
    code = subprocess.run([ROOT / "bin/local-fleet", *arguments], stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        raise InstalledError(f"bin/local-fleet {' '.join(arguments)} failed with code {code}")


def use_on_fleet(controls: list[Control], work: Path) -> None:
    """Run site from the first control node, and an audit from each, on a fleet that is removed at the end.

    :raises InstalledError: a run failed.
    """
    local_fleet("down", FLEET)
    try:
        local_fleet("up", FLEET, *(f"{host}={suite}" for host, suite in HOSTS.items()))
        files = inventories(work)
        controls[0].play("site", files)
        for control in controls:
            control.play("audit", files)
    finally:
        local_fleet("down", FLEET)


def install(artifact: Path, work: Path) -> list[Control]:
    """Return a control node for each version of ansible-core that runs on this machine."""
    controls = []
    for version, candidates in pythons.CORES.items():
        environment = pythons.core(version, Path(os.environ["PRECOG_FLEET_CACHE"]))
        if environment is None:
            print(
                f"== ansible-core {version}: not tested, as none of Python {', '.join(candidates)} is on this machine"
            )
            continue
        print(f"== ansible-core {version}", flush=True)
        controls.append(Control(environment, work / version))
        controls[-1].prepare(artifact)
        controls[-1].check_syntax_and_imports()
    return controls


def main(arguments: list[str]) -> int:
    """Run all of it; returns 1 at the first thing that fails."""
    try:
        with tempfile.TemporaryDirectory(prefix="precog-fleet-installed-") as name:
            work = Path(name)
            controls = install(build_collection.build(work), work)
            if "--no-fleet" not in arguments:
                use_on_fleet(controls, work)
    except (InstalledError, build_collection.BuildError, subprocess.CalledProcessError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
