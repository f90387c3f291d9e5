# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Python environments of a host: which one is asked for, which one is there, and what has to be done about it.

An environment lies in `ROOT/NAME-DIGEST`, the digest standing for all that it is made of, and is never changed once it
is complete; one that got damaged is made again as `ROOT/NAME-DIGEST.1`, and so on. `ROOT/NAME` is a link to the one in
use. How one is made is in build, what is checked of it in check; a run with nothing to do
loads only the latter.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from .._host import commands
from .._host.host import COMMAND_ENVIRONMENT, HostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._host.host import Host

LAYOUT = 2  # of an environment's folder; another one makes other environments of the same inputs
DIGITS = 12  # of a digest in a name
NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
DIGEST = re.compile(rf"[0-9a-f]{{{DIGITS}}}")
OWN = rf"-{DIGEST.pattern}(\.\d+)?"  # what follows the link's name in an environment's; a number, if it is a repair
FILE = re.compile(r"[A-Za-z0-9][\w.+-]*\.whl")
LEVELS = (0, 1, 2)  # of `python -O`
PROC = "/proc"
BUILDING, REMOVING, WORK = ".building", ".removing", ".work"
PATH = f"/usr/local/bin:{COMMAND_ENVIRONMENT['PATH']}"
# What Debian calls the interpreters that can be asked for by name.
DEBIAN_INTERPRETER = re.compile(r"python3(\.\d+)?|pypy3")
ASK = "import sys; print(sys.implementation.name); print(sys.version_info[:3]); print(sys.version)"


class Package(NamedTuple):
    """A wheel that the control node has: `path` is where it lies on the host, "" as long as it doesn't."""

    name: str
    version: str
    sha256: str
    file: str
    requires_python: str
    path: str


class Request(NamedTuple):
    """What is asked for, checked."""

    name: str
    root: str
    interpreter: str
    installer: str
    lock: str
    uv_lock: str
    packages: tuple[Package, ...]
    optimize: tuple[int, ...]
    full: bool
    keep: int
    in_use: tuple[str, ...]
    index_url: str
    system_packages: tuple[str, ...]

    @property
    def link(self) -> str:
        """The path that leads to the environment in use."""
        return f"{self.root}/{self.name}"


class Interpreter(NamedTuple):
    """An interpreter of the host.

    :ivar path: the program itself, links followed.
    :ivar version: such as `3.11.2`.
    :ivar build: what it says of itself in full, which another build of the same version does not.
    """

    path: str
    implementation: str
    version: str
    build: str

    def __str__(self) -> str:
        return f"{self.implementation} {self.version}"


class Missing(Exception):
    """The host lacks what the control node can bring: Debian packages, and wheels by their SHA-256."""

    def __init__(self, debian: Sequence[str], wheels: Sequence[str] = ()) -> None:
        super().__init__(", ".join((*debian, *wheels)))
        self.debian = list(debian)
        self.wheels = list(wheels)


class FullDiskError(HostError):
    """A program that builds an environment found the disk full."""


def request(params: Mapping[str, Any]) -> Request:
    """Return what the module's arguments ask for.

    :raises HostError: something of it can't be; all of it is told in one message.
    """
    packages, problems = _packages(params["packages"])
    name, root = params["name"], os.path.normpath(params["root"])
    levels = tuple(sorted(set(params["optimize"])))
    if not NAME.fullmatch(name) or DIGEST.fullmatch(name[-DIGITS:]):
        problems.append(
            f"name is {name!r}: up to 40 lower-case letters, digits, - and _ are wanted, a letter first, and no "
            f"{DIGITS} hexadecimal digits at its end, which tell environments apart"
        )
    if not os.path.isabs(root) or root.count("/") < 2:
        problems.append(f"root is {params['root']!r}: a folder below one at the top is wanted, such as /opt/precog/env")
    if not set(levels) <= set(LEVELS) or not levels:
        problems.append(f"optimize is {params['optimize']!r}: a list of 0, 1 and 2 is wanted, as in PYTHONOPTIMIZE")
    if params["keep"] < 1:
        problems.append(f"keep is {params['keep']}: 1 or more, as the environment in use counts")
    if params["installer"] == "uv" and params["state"] == "present" and not params["uv_lock"].strip():
        problems.append("uv_lock is empty: the lock of uv itself is wanted, or installer: pip")
    if not params["interpreter"].strip():
        problems.append("interpreter is empty: name one, such as python3 or pypy3")
    if problems:
        raise HostError("; ".join(problems))
    return Request(
        name=name,
        root=root,
        interpreter=params["interpreter"].strip(),
        installer=params["installer"],
        lock=params["lock"],
        uv_lock=params["uv_lock"],
        packages=packages,
        optimize=levels,
        full=params["verify"] == "full",
        keep=params["keep"],
        in_use=tuple(params["in_use"]),
        index_url=params["index_url"],
        system_packages=tuple(params["system_packages"]),
    )


def _packages(given: Sequence[Mapping[str, Any]]) -> tuple[tuple[Package, ...], list[str]]:
    packages, problems = [], []
    for number, one in enumerate(given):
        fields = {field: str(one.get(field) or "") for field in Package._fields}
        wrong = [field for field in ("name", "version", "sha256", "file") if not fields[field]]
        if wrong:
            problems.append(f"packages[{number}] has no {', '.join(wrong)}")
        elif not FILE.fullmatch(fields["file"]):
            problems.append(f"packages[{number}].file is {fields['file']!r}: a wheel's name is wanted (.whl)")
        packages.append(Package(**fields))
    return tuple(packages), problems


def program(word: str) -> str:
    """Return the path of an interpreter asked for by name or path, links followed; "" if it is not there."""
    found = shutil.which(word, path=PATH)
    return os.path.realpath(found) if found else ""


def inspect(path: str) -> Interpreter:
    """Ask an interpreter what it is. The one that runs this is not started again for it.

    :raises HostError: it can't be run.
    """
    if path == os.path.realpath(sys.executable):
        numbers = ".".join(map(str, sys.version_info[:3]))
        return Interpreter(path, sys.implementation.name, numbers, sys.version)
    said = ask(path, ["-I", "-S", "-c", ASK])
    implementation, numbers, build = said.split("\n", 2)
    return Interpreter(path, implementation, ".".join(re.findall(r"\d+", numbers)), build.rstrip("\n"))


def ask(path: str, arguments: Sequence[str]) -> str:
    """Return what an interpreter prints.

    :raises HostError: it can't be run, or is too old for what it is asked.
    """
    try:
        done = commands.run([path, *arguments], env=COMMAND_ENVIRONMENT)
    except OSError as error:
        raise HostError(f"the interpreter {path} can't be run: {error.strerror}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
        raise HostError(f"the interpreter {path} failed with code {done.returncode}: {last}")
    return done.stdout


def debian_package(interpreter: str) -> str:
    """Return the Debian package of an interpreter asked for by name, "" where there is none to guess."""
    return interpreter if DEBIAN_INTERPRETER.fullmatch(interpreter) else ""


def inputs(asked: Request, interpreter: Interpreter) -> dict[str, Any]:
    """Return all that an environment is made of: what its digest is over. Where it is fetched from is no part of it."""
    return {
        "layout": LAYOUT,
        "lock": hashlib.sha256(asked.lock.encode()).hexdigest(),
        "packages": sorted([one.name, one.version, one.sha256] for one in asked.packages),
        "interpreter": list(interpreter),
        "installer": asked.installer,
        "optimize": list(asked.optimize),
    }


def folder_name(asked: Request, interpreter: Interpreter) -> str:
    """Return the name of the folder of the environment asked for."""
    text = json.dumps(inputs(asked, interpreter), sort_keys=True)
    return f"{asked.name}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"


def variables(environment: str, level: int) -> dict[str, str]:
    """Return what a process of an environment needs in its own environment to start without compiling anything.

    Bytecode for -O lies in a folder of its own, with that of the standard library, for which Debian has none.
    """
    if not level:
        return {}
    return {"PYTHONOPTIMIZE": str(level), "PYTHONPYCACHEPREFIX": f"{environment}/pycache"}


def linked(host: Host, asked: Request) -> str | None:
    """Return the name of the environment that the link leads to, whether or not it is there."""
    target = host.readlink(asked.link)
    return None if target is None else os.path.basename(target)


def environments(host: Host, asked: Request) -> list[str]:
    """Return the names of all environments of this name, complete or not."""
    pattern = re.compile(f"{re.escape(asked.name)}{OWN}")
    return [name for name in host.list_dir(asked.root) if pattern.fullmatch(name)]


def alike(host: Host, asked: Request, name: str) -> list[str]:
    """Return the names of the environments that are made of the same as another, in the order of their making."""
    return sorted((one for one in environments(host, asked) if _stem(one) == _stem(name)), key=_repairs)


def repaired(name: str) -> str:
    """Return the name of what takes the place of a damaged environment: processes may still run from that."""
    return f"{_stem(name)}.{_repairs(name) + 1}"


def is_repair(name: str) -> bool:
    """Tell whether an environment takes the place of a damaged one."""
    return _repairs(name) > 0


def _stem(name: str) -> str:
    return name.partition(".")[0]


def _repairs(name: str) -> int:
    return int(name.partition(".")[2] or 0)


def remains(host: Host, asked: Request) -> list[str]:
    """Return the names of what killed runs left."""
    suffixes = "|".join(map(re.escape, (BUILDING, REMOVING, WORK)))
    pattern = re.compile(rf"\.({re.escape(asked.name)}{OWN}|tool-[0-9a-f]+)({suffixes})")
    return [name for name in host.list_dir(asked.root) if pattern.fullmatch(name)]


def users(asked: Request) -> dict[str, list[str]]:
    """Return which links lead to each environment of this root, by the environment's name."""
    found: dict[str, list[str]] = {}
    for link in sorted(path for pattern in asked.in_use for path in glob.glob(pattern)):
        folder, name = os.path.split(os.path.realpath(link))
        if folder == os.path.realpath(asked.root):
            found.setdefault(name, []).append(link)
    return found


def processes(asked: Request, names: Sequence[str]) -> dict[str, list[str]]:
    """Return which processes run from each environment of this root, by the environment's name.

    An environment's `python` is a link, so what counts is by which path one was started, and what it has loaded.
    """
    found: dict[str, list[str]] = {}
    for process in sorted(filter(str.isdigit, os.listdir(PROC)), key=int):
        seen = _started_by(f"{PROC}/{process}") + _read(f"{PROC}/{process}/maps")
        for name in names:
            if os.fsencode(f"{os.path.realpath(asked.root)}/{name}/") in seen:
                found.setdefault(name, []).append(f"process {process}")
    return found


def _started_by(process: str) -> bytes:
    """Return the path that a process was started by, links to an environment followed."""
    program = _read(f"{process}/cmdline").split(b"\0", 1)[0]
    folder, name = os.path.split(program)
    return os.path.join(os.path.realpath(folder), name) + b"\n" if os.path.isabs(program) else b""


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it ended
        return b""


def superfluous(have: Mapping[str, float], keep: int, needed: Sequence[str]) -> list[str]:
    """Return which environments go. Pure.

    :param have: when each was made, in seconds, by its name.
    :param keep: how many stay, those that are needed included.
    :param needed: those that stay in any case.
    """
    staying = [name for name in have if name in needed]
    others = sorted((name for name in have if name not in needed), key=lambda name: (-have[name], name))
    return others[max(0, keep - len(staying)) :]
