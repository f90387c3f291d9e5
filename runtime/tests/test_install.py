"""`pip install ./runtime` in a clean environment gives a `precog-runtime` that serves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import call, wait_until

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The folder of the commands of a fresh environment, into which a copy of the project was installed by pip."""
    folder = tmp_path_factory.mktemp("install")
    # A copy, as a build leaves files beside its sources.
    shutil.copytree(PROJECT, folder / "runtime", ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "bench"))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    command = [folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", folder / "runtime"]
    subprocess.run(command, check=True, env=clean())
    return folder / "venv/bin"


def clean():
    return {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}}


@contextmanager
def started(*words):
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=clean())
    try:
        yield json.loads(process.stdout.readline())["listening"]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.mark.full
def test_the_installed_command_serves_from_the_simulated_market(commands):
    ours = str(commands / "precog-runtime")
    with (
        started(ours, "simulate-market", "--port", "0") as market,
        started(ours, "serve", "--port", "0", "--api-url", market) as url,
    ):
        wait_until(lambda: call(f"{url}/readyz")[0] == 200)
        command = [ours, "load", url, "--bursts", "1", "--json"]
        loaded = subprocess.run(command, capture_output=True, text=True, check=False, env=clean())
        assert loaded.returncode == 0, loaded.stderr
    told = subprocess.run(
        [commands / "python", "-m", "pip", "list"], capture_output=True, text=True, check=True, env=clean()
    )
    assert "precog-runtime" in told.stdout
    assert "pandas" not in told.stdout
