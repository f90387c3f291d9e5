# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes a Python environment: beside its place, checked, compiled, and only then renamed to it.

No package is built and no hook of one is run: wheels only, each proved by a hash of the lock. pip comes from the wheel
that Debian has for ensurepip, and is not installed anywhere; uv comes from the index by its own lock.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._host import commands
from .._host.host import COMMAND_ENVIRONMENT, HostError, Meta, sync_folder
from . import check, errors, lock
from . import plan as environment
from .compiling import Compiler
from .installed import check_dependencies, check_installed, library_folders
from .pip import pip_wheel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._host.host import Host
    from .plan import Interpreter, Package, Request

CACHE = "/var/cache/precog-fleet/uv"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PASSED = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
TIMEOUT = 30  # seconds without a byte
BUILD_SECONDS = 3600.0  # for an installer as a whole, on the slowest of connections
PRIVATE = 0o700
MB = 10**6
BLOCK = 512  # bytes, as stat counts
SMALLEST = 64 * MB  # uv itself is 40, and the runtime's packages 90
# Values of markers, by PEP 508's names; and where the standard library lies.
PROBE = """
import json, os, platform, sys, sysconfig
implementation = sys.implementation.version
kind = {"alpha": "a", "beta": "b", "candidate": "rc"}.get(implementation.releaselevel)
print(json.dumps({
    "markers": {
        "os_name": os.name, "sys_platform": sys.platform, "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(), "platform_release": platform.release(),
        "platform_system": platform.system(), "platform_version": platform.version(), "extra": "",
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "python_full_version": platform.python_version(),
        "implementation_name": sys.implementation.name,
        "implementation_version": "{0.major}.{0.minor}.{0.micro}".format(implementation)
        + (kind + str(implementation.serial) if kind else ""),
    },
    "standard_library": sysconfig.get_path("stdlib"),
}))
"""


def build(host: Host, asked: Request, interpreter: Interpreter, name: str) -> dict[str, float]:
    """Make an environment.

    :param name: of its folder, which is not there yet.
    :return: seconds by step.
    :raises HostError: it can't be made; nothing is left of it, and whatever was there is as it was.
    :raises OSError: the disk is full, or can't be written to.
    """
    place = f"{asked.root}/{name}"
    here, work = (f"{asked.root}/.{name}{suffix}" for suffix in (environment.BUILDING, environment.WORK))
    about = json.loads(environment.ask(interpreter.path, ["-I", "-c", PROBE]))
    pins = lock.applying(expect(asked, interpreter), about["markers"])
    clock = Clock()
    compiler = Compiler(asked, interpreter, here, place)
    if environment.is_repair(name):
        # What was linked from the cache may be damaged there as well.
        host.remove_tree(CACHE)
    try:
        for folder in (here, work):
            host.remove_tree(folder)
            # uv locks files in both: who can open one can hold its lock, and no build would go on.
            os.makedirs(folder, mode=PRIVATE)
        compiler.begin(about["standard_library"])
        wheels = _take_wheels(asked.packages, work)
        installer = _Installer(host, asked, interpreter, here, work)
        clock.step("tools")
        installer.create(name)
        installer.install(_requirements(asked, wheels, work))
        clock.step("install")
        check_installed(host, asked, interpreter, pins, here, CACHE)
        check_dependencies(interpreter, here)
        clock.step("check")
        compiler.finish(library_folders(here))
        clock.step("compile")
        _finish(asked, interpreter, here, place, pins)
        os.chmod(here, 0o755)
        host.rename(here, place)
        clock.step("finish")
    except (HostError, OSError) as error:
        if _is_full(error):
            # It grew as much as the environment would have, and would leave the disk full.
            host.remove_tree(CACHE)
        raise
    finally:
        compiler.stop()
        for folder in (here, work):
            with suppress(OSError):
                host.remove_tree(folder)
    return clock.steps


def _is_full(error: HostError | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, environment.FullDiskError)


def expect_room(asked: Request, linked: str | None) -> None:
    """Find out whether there is room for another environment and for what is fetched for it.

    :param linked: the name of the one in use, from which its size is guessed.
    :raises HostError: there is not.
    """
    size, why = SMALLEST, "the least that one takes"
    if linked and (taken := _taken(f"{asked.root}/{linked}")) > size:
        size, why = taken, f"as {linked} does"
    _expect(asked.root, size, why)
    if asked.installer == "uv":
        _expect(CACHE, SMALLEST, "the least that is fetched")


def _taken(place: str) -> int:
    """Return how many bytes an environment takes, without what it shares with uv's cache as long as that is there."""
    shared = os.path.isdir(CACHE)
    found = [entry.stat(follow_symlinks=False) for _path, entry in check.walk(place)] if os.path.isdir(place) else []
    return sum(one.st_blocks * BLOCK for one in found if one.st_nlink == 1 or not shared)


def _expect(place: str, size: int, why: str) -> None:
    folder = place
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    system = os.statvfs(folder)
    left = system.f_bavail * system.f_frsize
    if left < size:
        raise HostError(
            f"the disk is too full: {place} has {left / MB:.0f} MB left, and another environment takes about "
            f"{size / MB:.0f} MB ({why}). Free space there (df -h), then run again"
        )


class Clock:
    """How long the steps took, in seconds."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self._last = time.monotonic()

    def step(self, name: str) -> None:
        """End a step."""
        now = time.monotonic()
        self.steps[name], self._last = round(now - self._last, 2), now


def expect(asked: Request, interpreter: Interpreter) -> list[lock.Pin]:
    """Return what the lock pins, once it is known that an environment can be made of it at all.

    :raises HostError: the lock can't be used, or the interpreter is not one that the packages take.
    """
    pins = lock.parse(asked.lock)
    wrong = [one for one in asked.packages if not lock.satisfies(interpreter.version, one.requires_python)]
    if wrong:
        told = ", ".join(f"{one.name} {one.version} wants Python {one.requires_python}" for one in wrong)
        raise HostError(
            f"interpreter is {asked.interpreter}, which is {interpreter} here, but {told}: choose another interpreter"
        )
    return pins


def _take_wheels(packages: Sequence[Package], work: str) -> dict[str, str]:
    """Copy the wheels that the control node brought, and return their paths by SHA-256."""
    absent = [one.sha256 for one in packages if not one.path]
    if absent:
        raise environment.Missing([], absent)
    taken = {}
    for one in packages:
        path = os.path.join(work, one.file)
        try:
            shutil.copyfile(one.path, path)
        except FileNotFoundError as error:
            raise HostError(f"the wheel {one.file} is not at {one.path}: bring it, and run again") from error
        found = check.sha256(path)
        if found != one.sha256:
            raise HostError(
                f"the wheel {one.file} has the SHA-256 {found}, not {one.sha256}: it was changed on its way"
            )
        taken[one.sha256] = path
    return taken


def _requirements(asked: Request, wheels: Mapping[str, str], work: str) -> str:
    """Write the requirements of the lock and of the wheels as one file, and return its path."""
    own = [f"{one.name} @ file://{wheels[one.sha256]} --hash=sha256:{one.sha256}\n" for one in asked.packages]
    path = os.path.join(work, "requirements.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(asked.lock.rstrip("\n") + "\n" + "".join(own))
    return path


def _close_cache(host: Host) -> None:
    """Make uv's cache root's alone: whoever can open its lock file can hold the lock, and stop every build.

    A cache that others could open is removed first, because one of them may still hold the lock.
    """
    private = Meta(PRIVATE, os.geteuid(), os.getegid())
    if host.exists(CACHE) and host.meta(CACHE) != private:
        host.remove_tree(CACHE)
    host.make_folder(CACHE, private)


class _Installer:
    """uv or pip, with how it is called."""

    def __init__(self, host: Host, asked: Request, interpreter: Interpreter, here: str, work: str) -> None:
        self._asked, self._interpreter, self._here = asked, interpreter, here
        self._work = work
        if asked.installer == "uv":
            _close_cache(host)
        self._tool = _tool(host, asked, work) if asked.installer == "uv" else ""

    def create(self, name: str) -> None:
        """Make the environment itself, with nothing in it, not even pip.

        :param name: what a shell shows in which it is activated.
        """
        if self._tool:
            # The standard library's bytecode is there already.
            options = [
                "--quiet",
                "--no-config",
                "--no-project",
                "--offline",
                "--no-python-downloads",
                "--allow-existing",
            ]
            options += ["--python", self._interpreter.path, "--cache-dir", CACHE, "--prompt", name]
            _run([self._tool, "venv", *options, self._here], self._asked, str(self._interpreter))
        else:
            options = ["--without-pip", "--symlinks", "--prompt", name]
            environment.ask(self._interpreter.path, ["-I", "-m", "venv", *options, self._here])

    def install(self, requirements: str) -> None:
        """Install exactly what a file of requirements with hashes says."""
        if self._tool:
            self._uv("install", *UV_OPTIONS, "--requirements", requirements)
        else:
            self._pip("install", *PIP_OPTIONS, "--requirement", requirements)

    def _uv(self, command: str, *arguments: str) -> None:
        options = ["--quiet", "--python", f"{self._here}/bin/python", "--cache-dir", CACHE]
        # Settings of the host's own are for its own index.
        options += ["--no-config"] if self._asked.index_url else []
        _run([self._tool, "pip", command, *options, *arguments], self._asked, str(self._interpreter))

    def _pip(self, command: str, *arguments: str) -> None:
        argv = [f"{self._here}/bin/python", "-m", "pip", command, *arguments]
        _run(argv, self._asked, str(self._interpreter), {"PYTHONPATH": pip_wheel(), "TMPDIR": self._work})


# The lock is complete: nothing is resolved, so that nothing can come in by the back door.
UV_OPTIONS = ("--require-hashes", "--no-build", "--no-deps", "--link-mode", "hardlink", "--no-python-downloads")
PIP_OPTIONS = (
    *("--quiet", "--require-hashes", "--only-binary", ":all:", "--no-deps", "--no-cache-dir"),
    # Compiled later, for every level at once, and with the paths that it will have.
    "--no-compile",
)


def _tool(host: Host, asked: Request, work: str) -> str:
    """Return the path of uv, which is made of its lock if it is not there."""
    digest = hashlib.sha256(asked.uv_lock.encode()).hexdigest()[: environment.DIGITS]
    lock.parse(asked.uv_lock, "uv_lock")
    folder, made = f"{asked.root}/.tool-{digest}", f"{asked.root}/.tool-{digest}{environment.BUILDING}"
    if not host.is_file(f"{folder}/bin/uv"):
        requirements = os.path.join(work, "uv.txt")
        with open(requirements, "w", encoding="utf-8") as file:
            file.write(asked.uv_lock)
        host.remove_tree(made)
        argv = [sys.executable, "-m", "pip", "install", *PIP_OPTIONS]
        options = ["--target", made, "--requirement", requirements]
        try:
            _run([*argv, *options], asked, "this system's Python", {"PYTHONPATH": pip_wheel(), "TMPDIR": work})
            host.remove_tree(folder)
            os.sync()
            host.rename(made, folder)
        finally:
            host.remove_tree(made)
    return f"{folder}/bin/uv"


def _run(argv: Sequence[str], asked: Request, interpreter: str, more: Mapping[str, str] | None = None) -> None:
    """Run an installer.

    :raises HostError: it failed; the message says what that means.
    """
    env = {**COMMAND_ENVIRONMENT, **{name: os.environ[name] for name in PASSED if name in os.environ}}
    env |= {
        "UV_HTTP_TIMEOUT": str(TIMEOUT),
        "PIP_DEFAULT_TIMEOUT": str(TIMEOUT),
        "PIP_RETRIES": "2",
        "UV_HTTP_RETRIES": "2",
    }
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1"}
    if os.path.exists(CERTIFICATES):
        env |= {"SSL_CERT_FILE": CERTIFICATES, "PIP_CERT": CERTIFICATES}
    if asked.index_url:
        # Not among the arguments, which everybody on the host can read: it may have a password.
        env |= {"UV_DEFAULT_INDEX": asked.index_url, "PIP_INDEX_URL": asked.index_url, "PIP_CONFIG_FILE": os.devnull}
    env |= more or {}
    try:
        done = commands.run(argv, env=env, cwd="/", seconds=BUILD_SECONDS, errors="replace")
    except OSError as error:
        raise HostError(f"cannot run {argv[0]}: {error.strerror}") from error
    if done.returncode:
        said = errors.without_passwords(done.stdout + done.stderr)
        kind = environment.FullDiskError if errors.is_full_disk(said) else HostError
        raise kind(errors.explain(said, interpreter))


def _finish(asked: Request, interpreter: Interpreter, here: str, place: str, pins: Mapping[str, str]) -> None:
    """Give scripts the path that they will have, and write the marker."""
    for path in [*sorted(glob.glob(f"{glob.escape(here)}/bin/*")), f"{here}/pyvenv.cfg"]:
        if not os.path.islink(path):
            _replace(path, here.encode(), place.encode())
    with suppress(FileNotFoundError):
        os.unlink(f"{here}/.lock")  # uv's
    about: dict[str, Any] = {
        **environment.inputs(asked, interpreter),
        "made": int(time.time()),
        "installed": {**pins, **{one.name: one.version for one in asked.packages}},
        "files": check.listing(here),
    }
    marker = f"{here}/{check.MARKER}"
    # Everything else is on the disk before the marker is.
    os.sync()
    with open(marker, "w", encoding="utf-8") as file:
        json.dump(about, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(here)


def _replace(path: str, old: bytes, new: bytes) -> None:
    """Replace a path in a file, which gets an inode of its own: the old one may be the cache's too."""
    with open(path, "rb") as file:
        data = file.read()
    if old in data:
        mode = os.stat(path).st_mode
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(data.replace(old, new))
        os.chmod(path, mode)
