# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Upstream's miner on a host: one commit of its repository, checked out once, with our forward function in it.

A checkout is `ROOT/upstream/COMMIT` and never changes: `source/` is the repository's content and our drop-in,
`metadata/` what `importlib.metadata` reads of an installed package, as upstream asks for its own version. Both belong
on PYTHONPATH. It is made beside, and renamed when all of it is on disk. Callers hold the lock of the module's run.
"""

from __future__ import annotations

import errno
import glob
import json
import operator
import os
import re
import shutil
import stat
from typing import TYPE_CHECKING

from .._host.host import HostError, sync_folder
from .vcs import HASH, Git, GitFailed, full_or, name_of, repository, says_full, unreachable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from .._host.host import Host

ROOT = "/opt/precog"
PACKAGE = "precog"
MINER = "precog/miners/miner.py"
FORWARD = "precog_fleet"  # what --forward_function names
DROP_IN = f"precog/miners/{FORWARD}.py"
DROP_IN_TEXT = """\
# From precog-fleet: the forward function of precog_runtime (docs/runtime/axon.md).
from precog_runtime.axon import drop_in

forward = drop_in()
"""
WANTED_OF_ENVIRONMENT = ("bittensor", "precog_runtime")
COMPLETE = "complete.json"  # written last: with it a checkout is whole
PART = ".part"  # a checkout in the making
OLD = ".old"  # a checkout on its way out
LOOK_S = 60.0  # for git to tell what a name stands for
FETCH_S = 600.0  # for git to fetch one commit
SECTION = re.compile(r"\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
ASSIGNMENT = re.compile(r"""(name|version|python|requires-python)\s*=\s*(?:"([^"\\]*)"|'([^']*)')\s*(?:#.*)?""")
VERSION = re.compile(r"[0-9][0-9A-Za-z.!+-]*")
# Which versions of Python a package is for, as far as bounds tell; `^3.9` is poetry's way to say from 3.9 on.
BOUND = re.compile(r"(>=|<=|>|<|\^)\s*([0-9]+(?:\.[0-9]+){0,2})(?=\s*(?:,|$))")
WITHIN = {">=": operator.ge, "^": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
PYTHON = re.compile(r"^version(?:_info)?\s*=\s*([0-9]+(?:\.[0-9]+){0,2})", re.MULTILINE)  # in pyvenv.cfg


def commit(host: Host, upstream: Mapping[str, Any]) -> str:
    """Return the commit that repository and version stand for: 40 hexadecimal digits.

    A commit is taken at its word, at no cost; for a tag or a branch the repository is asked.

    :param upstream: `repository` and `version`, as the module miner_service documents them.
    :raises HostError: a bad value, no git, the repository can't be reached or has no such version.
    """
    where = repository(upstream)
    git = Git(host, where)
    version = str(upstream["version"]).lower()
    if HASH.fullmatch(version):
        return version
    name = name_of(upstream)
    wanted = [f"refs/tags/{name}", f"refs/tags/{name}^{{}}", f"refs/heads/{name}"]
    try:
        listed = git.run(["ls-remote", "--", git.url, *wanted], LOOK_S)
    except GitFailed as error:
        raise unreachable(where.url, error) from error
    refs = {ref: digest for digest, _tab, ref in (line.partition("\t") for line in listed.splitlines())}
    tag, branch = refs.get(wanted[1]) or refs.get(wanted[0]), refs.get(wanted[2])
    if tag and branch and tag != branch:
        raise HostError(
            f"upstream.version = {name} is a tag ({tag}) and a branch ({branch}) of {where.url}: name the commit"
        )
    found = tag or branch
    if not found:
        raise HostError(f"upstream.version = {name}: {where.url} has no such tag or branch")
    return found


def ensure(host: Host, upstream: Mapping[str, Any], commit: str, environment: str, root: str = ROOT) -> str:
    """Return the path of the checkout of a commit, made if it isn't there; a damaged one is made anew.

    :param commit: as `commit()` returned it.
    :param environment: the Python environment that it is to run in.
    :param root: the folder that the checkouts' folder is in.
    :raises HostError: it can't be made; nothing half-made is left, and what was there stays as it was.
    """
    _expect_environment(host, environment)
    path = f"{root}/upstream/{commit}"
    if not _is_whole(host.locate(path)):
        try:
            _make(Git(host, repository(upstream)), commit, host.locate(path))
        except OSError as error:
            raise HostError(full_or(error.errno, f"cannot make {path}: {error.strerror}", path)) from error
    return path


def other_python(host: Host, checkout: str, environment: str) -> str:
    """Return a warning where upstream's package is not for the Python of an environment; empty where it is."""
    wanted = _project(host.read_text(f"{checkout}/source/pyproject.toml")).get("requires-python", "")
    told = f"{environment}/pyvenv.cfg"
    has = PYTHON.search(host.read_text(told)) if host.exists(told) else None
    if not has or all(WITHIN[sign](_padded(has[1]), _padded(bound)) for sign, bound in BOUND.findall(wanted)):
        return ""
    return (
        f"the environment {environment} has Python {has[1]}, and upstream's package says that it is for {wanted}: it"
        " may fail at any time. Name another one of this host's as python_env_interpreter, or use a host with Debian 12"
    )


def _padded(version: str) -> tuple[int, ...]:
    return tuple(map(int, f"{version}.0.0".split(".")[:3]))


def remove_unused(host: Host, used: Collection[str], root: str = ROOT) -> list[str]:
    """Remove all checkouts but those of some commits, and what killed runs left; return the paths of what went.

    :raises OSError: something could not be removed.
    """
    folder = f"{root}/upstream"
    unused = [f"{folder}/{name}" for name in host.list_dir(folder) if name not in used]
    for path in unused:
        shutil.rmtree(host.locate(path))
    return unused


def _make(git: Git, commit: str, path: str) -> None:
    """Make a checkout beside its place, all of it on disk, and put it there."""
    folder, name = os.path.split(path)
    part, old = os.path.join(folder, f".{name}{PART}"), os.path.join(folder, f".{name}{OLD}")
    os.makedirs(folder, mode=0o755, exist_ok=True)
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        _fill(git, commit, part)
        _settle(part)
        _replace(part, path, old)
        sync_folder(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _replace(part: str, path: str, old: str) -> None:
    """Put a new checkout in place of an old one, if there is any; where that fails the old one is back."""
    if not os.path.lexists(path):
        os.rename(part, path)
        return
    os.rename(path, old)
    try:
        os.rename(part, path)
    except OSError:
        os.rename(old, path)
        raise


def _fill(git: Git, commit: str, part: str) -> None:
    source, told = os.path.join(part, "source"), f"{commit} of {git.told}"
    os.makedirs(source)
    _check_out(git, commit, os.path.join(part, "git"), source)
    if not os.path.isfile(os.path.join(source, MINER)):
        raise HostError(f"{told} is not laid out as upstream's miner is: it has no {MINER}")
    drop_in = os.path.join(source, DROP_IN)
    if os.path.lexists(drop_in):
        raise HostError(f"{told} has a {DROP_IN} of its own, where ours would go: rename theirs")
    version = _package_version(source, told)
    metadata = os.path.join(part, "metadata", f"{PACKAGE}-{version.replace('-', '_')}.dist-info")
    os.makedirs(metadata)
    _write(os.path.join(metadata, "METADATA"), f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {version}\n")
    _write(drop_in, DROP_IN_TEXT)
    _write(os.path.join(part, COMPLETE), json.dumps({"commit": commit, "from": git.told, "version": version}) + "\n")


def _check_out(git: Git, commit: str, store: str, source: str) -> None:
    """Put the content of one commit into a folder, through a repository of its own that is thrown away.

    One that is kept would save little (it is some hundred kB) and could be damaged by a kill.
    """
    try:
        git.run(["init", "--quiet", "--bare", "--template=", store], LOOK_S)
        git_dir = f"--git-dir={store}"
        _fetch(git, commit, git_dir)
        git.run([git_dir, f"--work-tree={source}", "checkout", "--quiet", "--force", commit, "--", "."], FETCH_S)
    except GitFailed as error:
        if says_full(error.said):
            raise HostError(full_or(errno.ENOSPC, "", source)) from error
        raise unreachable(git.told, error) from error
    shutil.rmtree(store)


def _fetch(git: Git, commit: str, git_dir: str) -> None:
    """Fetch one commit alone; from a server that only gives away what a name stands for, all that it names."""
    fetch = [git_dir, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules"]
    try:
        git.run([*fetch, "--depth=1", "--", git.url, commit], FETCH_S)
        return
    except GitFailed as error:
        if not re.search(r"not our ref|unadvertised object|couldn't find remote ref", error.said):
            raise
    git.run([*fetch, "--", git.url, "+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"], FETCH_S)
    try:
        git.run([git_dir, "cat-file", "-e", f"{commit}^{{commit}}"], LOOK_S)
    except GitFailed as error:
        raise HostError(f"upstream.version = {commit}: {git.told} has no such commit") from error


def _package_version(source: str, told: str) -> str:
    """Return the version that pyproject.toml gives the package.

    tomllib is there from Python 3.11 only; two strings in a table of their own are all that is wanted of it.
    """
    try:
        with open(os.path.join(source, "pyproject.toml"), encoding="utf-8", errors="replace") as file:
            values = _project(file.read())
    except FileNotFoundError:
        values = {}
    name, version = values.get("name", ""), values.get("version", "")
    if name.lower() != PACKAGE:
        raise HostError(f"{told} is not upstream's miner: its pyproject.toml does not name the package {PACKAGE}")
    if not VERSION.fullmatch(version):
        raise HostError(f"{told}: its pyproject.toml gives no version, which the miner asks for")
    return version


def _project(text: str) -> dict[str, str]:
    """Return `name`, `version` and `requires-python` of `[project]`, or else of poetry's tables, as plain strings."""
    tables: dict[str, dict[str, str]] = {}
    table: dict[str, str] = {}
    for line in text.splitlines():
        words = line.strip()
        section = SECTION.fullmatch(words)
        if words.startswith("["):
            table = tables.setdefault(section[1] if section else "", {})
        assigned = ASSIGNMENT.fullmatch(words)
        if assigned:
            table[assigned[1]] = assigned[2] if assigned[2] is not None else assigned[3]
    wanted = tables.get("tool.poetry.dependencies", {}).get("python", "")
    return {"requires-python": wanted, **tables.get("tool.poetry", {}), **tables.get("project", {})}


def _settle(top: str) -> None:
    """Let everyone read it and nobody but its owner write it, whatever the umask, and have all of it on disk."""
    for folder, _folders, names in os.walk(top):
        os.chmod(folder, 0o755)
        for path in (os.path.join(folder, name) for name in names):
            os.chmod(path, 0o755 if os.stat(path).st_mode & stat.S_IXUSR else 0o644)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_folder(folder)


def _write(path: str, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)


def _is_whole(path: str) -> bool:
    """Tell whether a checkout is complete and has what a start needs of it, our drop-in as it is now."""
    if not os.path.isfile(os.path.join(path, COMPLETE)) or not os.path.isfile(os.path.join(path, "source", MINER)):
        return False
    if not glob.glob(os.path.join(glob.escape(path), "metadata", f"{PACKAGE}-*.dist-info", "METADATA")):
        return False
    try:
        with open(os.path.join(path, "source", DROP_IN), encoding="utf-8") as file:
            return file.read() == DROP_IN_TEXT
    except OSError:
        return False


def _expect_environment(host: Host, environment: str) -> None:
    """Raise HostError unless an environment holds what upstream's miner needs beside its own repository."""
    packages = glob.glob(os.path.join(glob.escape(host.locate(environment)), "lib", "py*", "site-packages"))
    missing = [
        name for name in WANTED_OF_ENVIRONMENT if not any(os.path.isdir(os.path.join(path, name)) for path in packages)
    ]
    if missing:
        raise HostError(
            f"the environment {environment} has no {' and no '.join(missing)}, which the engine upstream needs: build"
            " it from the lock `upstream`"
        )
