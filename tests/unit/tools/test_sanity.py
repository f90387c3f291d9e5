"""What tools/sanity.py makes of the artifact and of this machine's Pythons."""

from __future__ import annotations

import os

import pytest
import pythons
import sanity

WHEEL = "roles/python_env/files/precog_runtime-0.1.0-py3-none-any.whl"
GOOD = {
    *(f"{name}/file" for name in sanity.REQUIRED if "." not in name and name != "LICENSE"),
    *(name for name in sanity.REQUIRED if "." in name or name == "LICENSE"),
    *sanity.REQUIRED_FILES,
    "tests/config.yml",
    WHEEL,
}


def test_the_artifact_as_it_should_be():
    assert sanity.content_problems(GOOD) == []


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("molecule/default/molecule.yml", "not meant to be in it: molecule"),
        ("tests/unit/test_x.py", "not meant to be in it: tests/unit"),
        ("tests/sanity/ignore-2.19.txt", "not meant to be in it: tests/sanity"),
        (".cache/x", "not meant to be in it: .cache"),
        ("plugins/modules/__pycache__/x.txt", "a leftover: plugins/modules/__pycache__/x.txt"),
        ("roles/x/tasks/main.yml~", "a leftover: roles/x/tasks/main.yml~"),
    ],
)
def test_what_does_not_belong_is_told(more, problem):
    assert sanity.content_problems(GOOD | {more}) == [problem]


@pytest.mark.parametrize("missing", ["playbooks/site.yml", "LICENSE"])
def test_what_is_missing_is_told(missing):
    assert sanity.content_problems(GOOD - {missing}) == [f"missing: {missing}"]


def test_missing_wheel_of_the_runtime_is_reported():
    assert sanity.content_problems(GOOD - {WHEEL}) == [f"missing: {sanity.RUNTIME_WHEEL}"]


def interpreter(folder, version, works=True):
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"python{version}"
    program.write_text(f"#!/bin/sh\nexit {0 if works else 127}\n")
    program.chmod(0o755)


def test_a_shim_that_refuses_gives_way_to_the_python_it_hides(tmp_path):
    interpreter(tmp_path / "shims", "3.9", works=False)
    interpreter(tmp_path / "bin", "3.12")
    interpreter(tmp_path / "pyenv/versions/3.9.18/bin", "3.9")
    interpreter(tmp_path / "pyenv/versions/3.12.1/bin", "3.12")
    path = os.pathsep.join([str(tmp_path / "shims"), str(tmp_path / "bin")])
    environ = {"PATH": path, "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path / "pyenv")}
    expected = [str(tmp_path / "bin"), str(tmp_path / "pyenv/versions/3.9.18/bin")]
    assert pythons.search_path(environ).split(os.pathsep) == expected


def test_pip_keeps_this_users_settings(tmp_path):
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").write_text("[global]\ntimeout = 5\nfind-links = /a\n")
    environ = {"HOME": str(tmp_path), "PIP_FIND_LINKS": "/b", "PIP_CONFIG_FILE": "/nothing", "PATH": "/bin"}
    assert sanity.pip_settings(environ) == {"timeout": "5", "find-links": "/b"}
