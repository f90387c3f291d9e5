"""A run of the tests under `python -O` is one in each of its processes, or fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# What a worker of xdist, and a command that a test starts, tell of their level.
PROBE = """
import os, subprocess, sys
from processes import words

def test_levels():
    command = words()[: words().index("-m")]
    child = subprocess.run([*command, "-c", "import sys; print(sys.flags.optimize)"], capture_output=True, text=True)
    print("levels", os.environ["PYTEST_XDIST_WORKER"], sys.flags.optimize, child.stdout)
"""


def ran(folder: Path, *flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a test in a worker of xdist, as bin/test does."""
    (folder / "conftest.py").write_text((HERE / "conftest.py").read_text())
    (folder / "test_probe.py").write_text(PROBE)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "PYTHONOPT", "PRECOG"))}
    command = [sys.executable, *flags, "-m", "pytest", "-n1", "-rP", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(HERE), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.full
@pytest.mark.parametrize("level", ["0", "1"])
def test_the_level_reaches_xdists_workers_and_the_commands_that_tests_start(tmp_path, level):
    ended = ran(tmp_path, PYTHONOPTIMIZE=level, PRECOG_TEST_OPTIMIZE=level)
    assert ended.returncode == 0, ended.stdout
    assert f"levels gw0 {level} {level}" in ended.stdout


@pytest.mark.full
def test_a_run_whose_workers_have_another_level_fails(tmp_path):
    ended = ran(tmp_path, "-O", PRECOG_TEST_OPTIMIZE="1")
    assert ended.returncode != 0
    assert "set PYTHONOPTIMIZE" in ended.stdout + ended.stderr


@pytest.mark.full
def test_a_failing_assertion_fails_its_test_under_optimisation(tmp_path):
    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    ended = ran(tmp_path, PYTHONOPTIMIZE="1", PRECOG_TEST_OPTIMIZE="1")
    assert ended.returncode == 1
    assert "assert 1 == 2" in ended.stdout
