"""The command line: help, exit codes, and that a command loads only what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from processes import done, environment

from precog_runtime import __version__
from precog_runtime.cli import COMMANDS


def test_help_names_every_command():
    ended = done("--help")
    assert ended.returncode == 0
    for name in COMMANDS:
        assert name in ended.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    ended = done(command, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--log-level" in ended.stdout


def test_the_version():
    assert done("--version").stdout == f"precog-runtime {__version__}\n"


@pytest.mark.parametrize("words", [[], ["nonsense"], ["serve", "--nonsense"]])
def test_a_wrong_use_is_2(words):
    ended = done(*words)
    assert ended.returncode == 2
    assert "usage:" in ended.stderr


def test_serving_loads_no_data_frames_and_no_bittensor():
    code = "import sys, precog_runtime.serve; print(*sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    loaded = set(ended.stdout.split())
    assert "precog_runtime.engine" in loaded
    assert not loaded & {"pandas", "pyarrow", "bittensor", "tqdm", "requests", "scipy"}
