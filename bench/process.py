"""Commands as child processes, timed, and none left behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GRACE = 5  # seconds that a command has to end by itself


class BenchError(Exception):
    """The benchmark can't go on; the message says why and what was seen."""


class Done(NamedTuple):
    """A command that has ended: its output (both streams) and wall time in seconds."""

    output: str
    seconds: float


def run(argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: str = "") -> Done:
    """Run a command to its end in the repository's root; what it started is ended with it on an interruption.

    :raises BenchError: it failed; the message has the end of its output.
    """
    began = time.perf_counter()
    try:
        child = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise BenchError(f"cannot run {argv[0]}: {error.strerror}") from error
    try:
        output, _ = child.communicate(stdin)
    except BaseException:
        _end(child)
        raise
    seconds = time.perf_counter() - began
    if child.returncode:
        tail = "\n".join(output.splitlines()[-30:])
        raise BenchError(f"{shlex.join(argv)} failed with code {child.returncode}:\n{tail}")
    return Done(output, seconds)


def _end(child: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(GRACE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
