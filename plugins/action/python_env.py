# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Gives the module its lock and what the wheels are, and brings the host what it says it lacks.

A host with nothing to do is asked once. One that lacks something says so, gets Debian packages and wheels, and is asked
again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.precog.fleet.plugins.module_utils._miner.secrecy import is_secret_value
from ansible_collections.precog.fleet.plugins.plugin_utils import _secrets as secrets
from ansible_collections.precog.fleet.plugins.plugin_utils._action import Result
from ansible_collections.precog.fleet.plugins.plugin_utils._packages import PackagesAction

COLLECTION = Path(__file__).resolve().parents[2]
LOCKS = COLLECTION / "roles/python_env/files"
RUNTIME = "runtime"  # the project beside the collection, by the name that one gives it in `packages`
WHEEL = re.compile(r"[A-Za-z0-9][\w.+-]*\.whl")
# What a wheel is never made of, and what need not be looked at to know whether it is the same.
LEFT_OUT = {"__pycache__", "dist", "build", "tests", "bench"}


class ActionModule(PackagesAction):
    """The module's result, once the host has all that it takes."""

    MODULE = "precog.fleet.python_env"
    ADVICE = "Where there is no such package, choose another interpreter"

    def act(self, variables: dict[str, Any]) -> Result:
        """Run the module with the texts of its locks and what its wheels are."""
        args = self._arguments()
        if is_secret_value(args.get("index_url")) and not self._is_pipelining_enabled("new"):
            raise AnsibleError(secrets.unsafe(["python_env_index_url"]))
        return self.rounds(args, variables)

    def _arguments(self) -> dict[str, Any]:
        """Return the module's arguments; keeps the wheels by their SHA-256."""
        args = dict(self._task.args)
        if args.get("state", "present") == "absent":
            return {**args, "lock": "", "packages": []}
        args["system_packages"] = listed("system_packages", args.get("system_packages"))
        if args.get("lock") == "upstream":
            # Its miner does not start without git (GitPython looks for it when it is imported).
            args["system_packages"] = sorted({"git", *args["system_packages"]})
        args["lock"] = self._lock(str(args.get("lock") or "runtime"))
        if args.get("installer", "uv") == "uv":
            args["uv_lock"] = self._lock(str(args.get("uv_lock") or "uv"))
        given = [RUNTIME] if args.get("packages") is None else listed("packages", args["packages"])
        paths = [self._wheel(one) for one in given]
        args["packages"] = [describe(path) for path in paths]
        self._wheels = {one["sha256"]: path for one, path in zip(args["packages"], paths)}
        return args

    def _lock(self, name: str) -> str:
        """Return a lock's text: one of the role's own by its name, or a file of the control node."""
        own = LOCKS / f"{name}.txt"
        if re.fullmatch(r"[a-z]+", name) and own.is_file():
            return own.read_text(encoding="utf-8")
        return Path(self._find_needle("files", name)).read_text(encoding="utf-8")

    def _wheel(self, name: str) -> Path:
        """Return the path of a wheel: one of the control node, or the one that a project's folder makes."""
        if name == RUNTIME:
            project = COLLECTION / RUNTIME
            if not (project / "pyproject.toml").is_file():
                return brought_wheel()
        elif name.endswith(".whl"):
            return Path(self._find_needle("files", name))
        else:
            project = Path(name).expanduser()
            project = project if project.is_absolute() else Path(self._loader.path_dwim(name))
            if not (project / "pyproject.toml").is_file():
                raise AnsibleError(f"packages names {name}, which is neither a wheel nor a folder with pyproject.toml")
        return built(project)

    def bring(self, needs: dict[str, Any], args: dict[str, Any]) -> None:
        """Copy wheels into the task's own folder on the host, and tell the module where they are."""
        if not needs["wheels"]:
            return
        shell = self._connection._shell
        folder = shell.tmpdir or self._make_tmp_path()
        paths = {sha256: shell.join_path(folder, f"{sha256[:12]}.whl") for sha256 in needs["wheels"]}
        for sha256, path in paths.items():
            self._transfer_file(str(self._wheels[sha256]), path)
        self._fixup_perms2((folder, *paths.values()))
        args["packages"] = [{**one, "path": paths.get(one["sha256"], "")} for one in args["packages"]]


def listed(name: str, given: object) -> list[str]:
    """Return what a role's setting lists. Text is split at commas, as Ansible does it for modules.

    :raises ValueError: it is no list of texts.
    """
    items = given.split(",") if isinstance(given, str) else [] if given is None else given
    if not isinstance(items, list) or not all(isinstance(one, str) for one in items):
        raise ValueError(f"python_env_{name} is {given!r}: a list of texts is expected, such as [git, jq]")
    return [one.strip() for one in items if one.strip()]


def describe(path: Path) -> dict[str, str]:
    """Return what the module wants to know of a wheel.

    :raises ValueError: it is none.
    """
    if not WHEEL.fullmatch(path.name):
        raise ValueError(f"packages: {path} is not named as a wheel is (NAME-VERSION-...-any.whl)")
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(path) as file:
            names = [name for name in file.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            metadata = HeaderParser().parsestr(file.read(names[0]).decode())
    except (zipfile.BadZipFile, IndexError) as error:
        raise ValueError(f"packages: {path} is no wheel: it has no metadata that can be read") from error
    return {
        "name": str(metadata["Name"]),
        "version": str(metadata["Version"]),
        "sha256": hashlib.sha256(data).hexdigest(),
        "file": path.name,
        "requires_python": str(metadata["Requires-Python"] or ""),
        "path": "",
    }


def brought_wheel() -> Path:
    """Return the runtime's wheel that an installed collection brings (tools/build_collection.py puts it there).

    :raises AnsibleError: there is none, or more than one.
    """
    wheels = sorted(LOCKS.glob("precog_runtime-*.whl"))
    if len(wheels) != 1:
        found = f"{len(wheels)} wheels of it are" if wheels else "no wheel of it is"
        raise AnsibleError(
            f"python_env_packages names {RUNTIME}, but {found} in {LOCKS}, and there is no project "
            f"{COLLECTION / RUNTIME}. Build the collection by tools/build_collection.py and install that artifact, or "
            "name a wheel of precog-runtime in python_env_packages"
        )
    return wheels[0]


def cache() -> Path:
    """Return the folder where wheels are kept that were made of projects."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PRECOG_FLEET_CACHE") or home / "precog-fleet") / "wheels"


def built(project: Path) -> Path:
    """Return the wheel of a project, made by hatchling if this is the first time that its files are seen.

    :raises AnsibleError: it can't be made.
    """
    folder = cache() / f"{project.name}-{sources(project)}"
    with held(folder.with_name(f"{folder.name}.lock")):
        ready = sorted(folder.glob("*.whl"))
        return ready[0] if ready else build(project, folder)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Let one process at a time in: each host of a fleet has one of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sources(project: Path) -> str:
    """Return what tells a project's files from all others, as far as its wheel depends on them."""
    seen = hashlib.sha256()
    for top, folders, names in os.walk(project):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.startswith("."))
        for path in (Path(top, name) for name in sorted(names) if not name.startswith(".")):
            seen.update(f"{path.relative_to(project)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return seen.hexdigest()[:12]


def build(project: Path, folder: Path) -> Path:
    """Make a project's wheel, without looking at an index.

    :raises AnsibleError: its build failed, or hatchling is not installed here.
    """
    beside = folder.with_name(f"{folder.name}.building")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(beside)]
    # The same files make the same wheel, whenever and by whomever.
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1580601600", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
    wheels = sorted(beside.glob("*.whl"))
    if done.returncode or not wheels:
        said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise AnsibleError(
            f"no wheel could be made of {project}: {said}. It is made by hatchling, which has to be installed beside "
            "ansible-core (requirements/control.txt)"
        )
    folder.mkdir(exist_ok=True)
    return wheels[0].replace(folder / wheels[0].name)
