"""The command line: help, exit codes, and that a command loads only what it needs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest
from processes import done, environment

from precog_runtime import __version__
from precog_runtime.cli import COMMANDS
from precog_runtime.options import port_number


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


REFUSED = (
    ("serve", "--api-key=hush-hush"),
    ("serve", "--seed", "hush-hush"),
    ("serve", "--a=hush-hush"),  # an ambiguous abbreviation
    ("serve", "hush-hush"),
    ("hush-hush",),
    ("serve", "--log-level", "hush-hush"),
    ("serve", "--port", "hush-hush"),
)


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_an_argument_refused_at_start_never_repeats_its_value(words):
    ended = done(*words)
    assert ended.returncode == 2
    assert "hush" not in ended.stdout + ended.stderr
    assert "***" in ended.stderr or "--seed" in ended.stderr


@pytest.mark.parametrize("where", ["file", "environment"])
def test_the_key_is_in_no_log_wherever_it_was_given(tmp_path, where):
    key = "hush/hush hush"
    (tmp_path / "settings.json").write_text(json.dumps({"api_key": key} if where == "file" else {}))
    given = {} if where == "file" else {"PRECOG_RUNTIME_API_KEY": key}
    # Settings that are told, as they can't be used, with the key in them.
    options = ("--state-dir", f"/proc/{key}", "--model", f"/nowhere/{key}.py:Mine", "--port", 0)
    ended = done("serve", "--settings", tmp_path / "settings.json", *options, **given)
    told = [json.loads(line)["message"] for line in ended.stderr.splitlines() if line.startswith("{")]
    assert [line for line in told if "state_dir is '/proc/***'" in line]
    assert key not in "".join(told)


@pytest.mark.parametrize("command", ["serve", "simulate-market"])
def test_a_number_that_is_no_port_is_told_and_not_listened_at(command):
    ended = done(command, "--port", "70000")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "'70000' is no port. Give 0 to 65535" in ended.stderr


def test_ports_are_0_to_65535():
    assert [port_number(text) for text in ("0", "8092", "65535")] == [0, 8092, 65535]
    for text in ("65536", "-1", "+80", "80.5", "http", "", "\u0663"):
        with pytest.raises(argparse.ArgumentTypeError, match="no port"):
            port_number(text)


def test_serving_loads_no_data_frames_and_no_bittensor():
    code = "import sys, precog_runtime.serve; print(*sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    loaded = set(ended.stdout.split())
    assert "precog_runtime.engine" in loaded
    assert not loaded & {"pandas", "pyarrow", "bittensor", "tqdm", "requests", "scipy"}
