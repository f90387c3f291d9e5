# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks that an environment contains what its lock says, file by file."""

from __future__ import annotations

import base64
import csv
import glob
import os
from typing import TYPE_CHECKING

from .._host.host import HostError
from . import check, lock
from . import plan as environment
from .pip import pip_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .._host.host import Host
    from .plan import Interpreter, Request

# Reads metadata alone: with -S nothing of the environment is imported. pip's parser comes from Debian's wheel.
DEPENDENCIES = """
import sys
from importlib.metadata import distributions
sys.path.append(sys.argv[1])
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name
found = {canonicalize_name(each.metadata["Name"]): each for each in distributions(path=sys.argv[2:])}
for name, each in sorted(found.items()):
    for wanted in map(Requirement, each.requires or ()):
        other = found.get(canonicalize_name(wanted.name))
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        if other is None or not wanted.specifier.contains(other.version, prereleases=True):
            has = "is not there" if other is None else "is " + other.version
            print(f"{name} {each.version} needs {wanted}, which {has}")
"""


def check_installed(
    host: Host, asked: Request, interpreter: Interpreter, pins: Mapping[str, str], here: str, cache: str
) -> None:
    """Find out whether what is installed is what was asked for, every file as its wheel had it.

    :param cache: of the installer; it is removed if it is damaged.
    :raises HostError: it is not.
    :raises OSError: the cache that it came from is damaged, and can't be removed.
    """
    wanted = {**pins, **{lock.normalised(one.name): one.version for one in asked.packages}}
    found = dict(_installed(here))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            what = f"{name} is {found.get(name) or 'not'} installed, {wanted.get(name) or 'not'} wanted"
            raise HostError(f"the environment is not what lock says, for {interpreter}: {what}. Run again")
    for path, digest in _recorded(here):
        if not os.path.isfile(path):
            raise HostError(f"{path} was not installed. Run again")
        if digest and digest != _record_digest(path):
            host.remove_tree(cache)
            raise HostError(f"{path} is not as its wheel has it: the cache was damaged and is removed. Run again")


def check_dependencies(interpreter: Interpreter, here: str) -> None:
    """Find out whether every package has what it depends on.

    Not by `pip check` or `uv pip check`: they start the environment's own Python, which runs code of packages (`.pth`
    files) as root.

    :raises HostError: one has not.
    """
    folders = library_folders(here)
    problems = environment.ask(interpreter.path, ["-I", "-S", "-c", DEPENDENCIES, pip_wheel(), *folders]).splitlines()
    if problems:
        listed = "; ".join(problems[: lock.MOST_TOLD])
        raise HostError(
            f"lock is incomplete: {listed}. Write it again with `uv pip compile`, which adds what is missing"
        )


def _dist_infos(here: str) -> list[str]:
    found = glob.glob(f"{glob.escape(here)}/lib*/p*/site-packages/*.dist-info")
    return sorted(set(map(os.path.realpath, found)))  # lib64 is lib


def library_folders(here: str) -> list[str]:
    return sorted(set(map(os.path.dirname, _dist_infos(here))))


def _installed(here: str) -> Iterator[tuple[str, str]]:
    for folder in _dist_infos(here):
        with open(f"{folder}/METADATA", encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").split(": ", 1) for line in file if line.startswith(("Name: ", "Version: ")))
        yield lock.normalised(fields["Name"]), fields["Version"]


def _recorded(here: str) -> Iterator[tuple[str, str]]:
    """Yield the files that packages say they have, with their digests ("" where a file has none)."""
    for folder in _dist_infos(here):
        with open(f"{folder}/RECORD", encoding="utf-8", newline="") as file:
            for path, digest, _size in csv.reader(file):
                if not path.endswith(".pyc"):
                    yield os.path.normpath(os.path.join(os.path.dirname(folder), path)), digest


def _record_digest(path: str) -> str:
    digest = bytes.fromhex(check.sha256(path))
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
