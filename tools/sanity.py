"""Builds the collection, installs it as a user would, and tests what was installed.

Usage: python tools/sanity.py [--core VERSION]

Run by `bin/test sanity`, in its Python environment. With --core, ansible-test is that of another ansible-core
(requirements/core-VERSION.txt), such as 2.21. All that is kept lies below $PRECOG_FLEET_CACHE.
"""

from __future__ import annotations

import configparser
import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import build_collection
import pythons

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
COLLECTION = "ansible_collections/precog/fleet"

# The artifact is what users get: whatever else turns up at its top was not meant to be in it (see galaxy.yml,
# build_ignore), and what is missing here they miss too.
REQUIRED = {
    "CHANGELOG.md",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "inventory",
    "meta",
    "playbooks",
    "plugins",
    "roles",
}
ALLOWED = REQUIRED | {"CONTRIBUTING.md", "SECURITY.md", "docs", "tests"}
ALLOWED_TESTS = {"config.yml"}
REQUIRED_FILES = {"meta/runtime.yml", "playbooks/site.yml", "plugins/modules/sysctl_profile.py"}
RUNTIME_WHEEL = "roles/python_env/files/precog_runtime-*.whl"
JUNK = ("__pycache__", ".pyc", ".pyo", "~", ".swp", ".orig", ".rej")


class SanityError(Exception):
    """A check failed; the message says what and how to mend it."""


def run(argv: Iterable[str | Path], cwd: Path, env: dict[str, str] | None = None) -> None:
    """Run a command with its output on the screen.

    :raises SanityError: it failed.
    """
    words = [str(word) for word in argv]
    print("+", *words, flush=True)
    code = subprocess.run(words, cwd=cwd, env=env, check=False, stdin=subprocess.DEVNULL).returncode
    if code:
        raise SanityError(f"`{' '.join(words[:3])}` failed with code {code}")


def build_and_install(work: Path) -> Path:
    """Return the folder of the collection, built from a clean export and installed from the artifact."""
    try:
        artifact = build_collection.build(work)
    except build_collection.BuildError as error:
        raise SanityError(str(error)) from error
    environment = os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(work)}
    run(["ansible-galaxy", "collection", "install", "--offline", "-p", work, artifact], work, environment)
    return work / COLLECTION


def content_problems(files: set[str]) -> list[str]:
    """Return what is wrong with an artifact that holds these files (paths below its top)."""
    tops = {name.split("/", 1)[0] for name in files}
    tests = {name.split("/")[1] for name in files if name.startswith("tests/")}
    problems = [f"missing: {name}" for name in sorted(REQUIRED - tops)]
    problems += [f"missing: {name}" for name in sorted(REQUIRED_FILES - files)]
    problems += [] if fnmatch.filter(files, RUNTIME_WHEEL) else [f"missing: {RUNTIME_WHEEL}"]
    problems += [f"not meant to be in it: {name}" for name in sorted(tops - ALLOWED)]
    problems += [f"not meant to be in it: tests/{name}" for name in sorted(tests - ALLOWED_TESTS)]
    problems += [f"a leftover: {name}" for name in sorted(files) if any(junk in name for junk in JUNK)]
    return problems


def check_content(collection: Path) -> None:
    """Compare the installed files with what the artifact has to hold, and nothing else.

    :raises SanityError: with all differences.
    """
    files = {path.relative_to(collection).as_posix() for path in collection.rglob("*") if not path.is_dir()}
    problems = content_problems(files)
    if problems:
        raise SanityError("the artifact's content (galaxy.yml, build_ignore):\n  " + "\n  ".join(problems))
    print(f"The artifact holds {len(files)} files, and nothing that should not be in it.", flush=True)


def check_playbooks(work: Path) -> None:
    """Resolve the site playbook from the installed collection, outside the checkout, and from the checkout.

    :raises SanityError: a playbook, role or module does not resolve.
    """
    elsewhere = work / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(work)}
    environment.pop("ANSIBLE_CONFIG", None)
    inventory = work / COLLECTION / "inventory"
    check = ["ansible-playbook", "--syntax-check"]
    run([*check, "-i", inventory, "precog.fleet.site"], elsewhere, environment)
    run([*check, "site.yml"], ROOT)


def pip_settings(environ: dict[str, str]) -> dict[str, str]:
    """Return pip's own settings of this user (files, then PIP_ variables), as one flat section."""
    home = Path(environ["HOME"])
    folders = (home / ".pip", Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip")
    parser = configparser.RawConfigParser()
    parser.read([*(folder / "pip.conf" for folder in folders), environ.get("PIP_CONFIG_FILE", os.devnull)])
    settings: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            settings.update(parser.items(section))
    for name, value in environ.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            settings[name[4:].lower().replace("_", "-")] = value
    return settings


def prepare_home(cache: Path, python: Path) -> Path:
    """Make a home for ansible-test, which keeps its environments there and hides most variables from pip.

    Its pip settings are this user's, and its get-pip is ours: the real one is fetched from a host of its own.
    """
    settings = pip_settings(dict(os.environ))
    home = cache / "ansible-test"
    bootstrap = home / ".ansible/test/cache"
    bootstrap.mkdir(parents=True, exist_ok=True)
    (home / ".config/pip").mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {value}".replace("\n", "\n  ") for name, value in settings.items()]
    (home / ".config/pip/pip.conf").write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
    shutil.copyfile(ROOT / "tools/get_pip.py", bootstrap / f"get_pip_{pip_version(python).replace('.', '_')}.py")
    return home


def pip_version(python: Path) -> str:
    """Return the version of pip that the ansible-test beside this interpreter puts into its environments."""
    probe = (
        "from ansible_test._internal.python_requirements import get_venv_packages as packages;"
        "from ansible_test._internal.host_configs import VirtualPythonConfig as Config;"
        "print(packages(Config(version='3.12', path=''))['pip'])"
    )
    argv = [str(python), "-c", probe]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def ansible_test(collection: Path, cache: Path, programs: Path) -> None:
    """Run every sanity test on every Python that is here; what cannot run is named by ansible-test itself.

    :param programs: the folder of ansible-test and its interpreter.
    :raises SanityError: a test failed.
    """
    environ = dict(os.environ)
    path = f"{programs}{os.pathsep}{pythons.search_path(environ)}"
    environment = environ | {"PATH": path, "HOME": str(prepare_home(cache, programs / "python"))}
    run([programs / "ansible-test", "sanity", "--color", "no"], collection, environment)


@contextmanager
def work_folder(cache: Path) -> Iterator[Path]:
    """Give a folder that is gone afterwards."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="sanity-") as name:
        yield Path(name)


def programs(arguments: list[str], cache: Path) -> Path:
    """Return the folder with the ansible-test that is asked for: this environment's, or another version's.

    :raises SanityError: no Python of this machine runs that version.
    """
    if not arguments:
        return Path(sys.executable).parent
    version = arguments[-1]
    if arguments[:-1] != ["--core"] or version not in pythons.CORES:
        raise SanityError(f"{' '.join(arguments)}: expected --core and one of {', '.join(pythons.CORES)}")
    environment = pythons.core(version, cache)
    if environment is None:
        raise SanityError(f"ansible-core {version} runs on Python {', '.join(pythons.CORES[version])}: install one")
    return environment / "bin"


def main(arguments: list[str]) -> int:
    """Run all checks, also after one failed; returns 1 if one did."""
    cache = Path(os.environ["PRECOG_FLEET_CACHE"])
    bin_folder = programs(arguments, cache)
    problems: list[str] = []
    with work_folder(cache) as work:
        collection = build_and_install(work)
        checks = (
            partial(check_content, collection),
            partial(check_playbooks, work),
            partial(ansible_test, collection, cache, bin_folder),
        )
        for check in checks:
            try:
                check()
            except SanityError as error:
                problems.append(str(error))
    for problem in problems:
        print(f"Error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
