# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compiles the bytecode of a Python environment, for each level of optimisation that will run, on all cores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from .._host import commands
from .._host.host import COMMAND_ENVIRONMENT, HostError
from . import errors
from .plan import FullDiskError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .plan import Interpreter, Request

# Bytecode without -O lies beside the sources, as everyone expects it; that for -O below one folder, with that of the
# standard library. The paths in it are those that the sources will have. compileall tells of no failure apart from that
# of its workers, so what it left out is tried once more: a file that does not compile is no failure, as packages have
# templates and examples with them, and whatever else is in the way ends this.
COMPILE = """
import compileall, importlib.util, json, os, py_compile, re, sys
given = json.loads(sys.argv[1])
here, there, levels = given["here"], given["there"], given["levels"]

def write(path, data, mode=0o666, plain=importlib._bootstrap_external._write_atomic):
    plain(path, data, mode)
    try:
        with open(path, "r+b", buffering=0) as file:
            done = file.seek(0, os.SEEK_END)
            while done < len(data):
                done += file.write(data[done:])
    except OSError:
        os.unlink(path)
        raise

# Python before 3.14 does not notice that a file was written only in part: the next write says why.
importlib._bootstrap_external._write_atomic = write
if given["prefix"]:
    # For this process, and for the workers, which may be started anew instead of forked.
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = given["prefix"]

def left(folder, left_out):
    for top, _folders, names in os.walk(folder):
        for path in (os.path.join(top, name) for name in names if name.endswith(".py")):
            if os.path.isfile(path) and not left_out.search(path):
                for level in levels:
                    code = importlib.util.cache_from_source(path, optimization=level or "")
                    if not os.path.exists(code):
                        yield path, code, level

for folder in given["folders"]:
    left_out = re.compile("^%s/(.*/)?(%s)/" % (re.escape(folder), "|".join(given["left_out"])))
    moved = {"stripdir": here, "prependdir": there} if given["moved"] else {}
    compileall.compile_dir(folder, optimize=levels, rx=left_out, quiet=2, force=True, workers=0, **moved)
    for path, code, level in left(folder, left_out):
        told = there + path[len(here):] if given["moved"] else path
        try:
            py_compile.compile(path, code, told, doraise=True, optimize=level)
        except py_compile.PyCompileError as error:
            if isinstance(error.exc_value, MemoryError):
                raise
"""
TESTS = ("test", "tests", "idlelib")  # the larger part of numpy's source; no miner imports it
LEFT_OUT = (
    *("lib2to3", "tkinter", "turtledemo", "ensurepip", "pydoc_data"),
    *("site-packages", "dist-packages"),
)


class Compiler:
    """Compiles all that the environment can import, for each level of optimisation."""

    def __init__(self, asked: Request, interpreter: Interpreter, here: str, place: str) -> None:
        self._interpreter, self._here, self._place = interpreter, here, place
        self._plain = [level for level in asked.optimize if not level]
        self._optimised = [level for level in asked.optimize if level]
        self._running: list[subprocess.Popen[bytes]] = []

    def begin(self, standard_library: str) -> None:
        """Start with the standard library, while the packages are still on their way."""
        if self._optimised:
            self._start([standard_library], self._optimised, prefixed=True)

    def finish(self, folders: Sequence[str]) -> None:
        """Compile the packages, and wait until all is done.

        :param folders: where they lie.
        :raises HostError: something of it was not compiled, though it can be.
        """
        for levels, prefixed in ((self._plain, False), (self._optimised, True)):
            if levels:
                self._start(folders, levels, prefixed=prefixed)
        for process in self._running:
            _out, said = process.communicate()
            if process.returncode:
                raise _failure(said.decode(errors="replace"), process.returncode)
        compiled = f"{self._here}/pycache"
        if os.path.isdir(compiled + self._here):
            os.makedirs(os.path.dirname(compiled + self._place), exist_ok=True)
            os.rename(compiled + self._here, compiled + self._place)

    def stop(self) -> None:
        """End what still runs."""
        for process in self._running:
            if process.poll() is None:
                # With its workers, which are of its group.
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()

    def _start(self, folders: Sequence[str], levels: Sequence[int], *, prefixed: bool) -> None:
        moved = folders[0].startswith(self._here)
        given = {
            "folders": folders,
            "levels": levels,
            "prefix": f"{self._here}/pycache" if prefixed else None,
            "moved": moved,
            "here": self._here,
            "there": self._place,
            "left_out": TESTS if moved else (*TESTS, *LEFT_OUT),
        }
        # Not -I, by which workers would not look at their environment.
        argv = [self._interpreter.path, "-s", "-B", "-c", COMPILE, json.dumps(given)]
        process = commands.start(argv, env=COMMAND_ENVIRONMENT, cwd="/", out=subprocess.DEVNULL, alone=True)
        self._running.append(process)


def _failure(output: str, code: int) -> HostError:
    kind = FullDiskError if errors.is_full_disk(output) else HostError
    return kind(errors.explain_compiler(output, code))
