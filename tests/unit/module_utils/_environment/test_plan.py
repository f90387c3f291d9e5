"""What is asked for, what is found, and what goes: the parts of python_env that touch nothing."""

from __future__ import annotations

import json

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._environment import check, errors
from ansible_collections.precog.fleet.plugins.module_utils._environment import plan as environment
from ansible_collections.precog.fleet.plugins.module_utils._environment.plan import Interpreter
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError

PYTHON = Interpreter("/usr/bin/python3.11", "cpython", "3.11.2", "3.11.2 (main) [GCC]")
PACKAGE = {"name": "one", "version": "1", "sha256": "a" * 64, "file": "one-1-py3-none-any.whl", "path": "/tmp/x"}
PARAMS = {
    "state": "present",
    "name": "miner",
    "root": "/opt/precog/env",
    "interpreter": "python3",
    "installer": "uv",
    "lock": "x==1",
    "uv_lock": "uv==1",
    "packages": [PACKAGE],
    "optimize": [1, 0, 1],
    "verify": "quick",
    "keep": 2,
    "in_use": [],
    "index_url": "",
    "system_packages": [],
}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "Miner"}, "name is 'Miner'"),
        ({"name": "../x"}, "name is '../x'"),
        ({"name": "x-" + "a" * 12}, "no 12 hexadecimal digits"),
        ({"root": "/opt"}, "root is '/opt'"),
        ({"root": "env"}, "root is 'env'"),
        ({"optimize": [3]}, "optimize is [3]"),
        ({"optimize": []}, "optimize is []"),
        ({"keep": 0}, "keep is 0"),
        ({"uv_lock": " "}, "uv_lock is empty"),
        ({"interpreter": ""}, "interpreter is empty"),
        ({"packages": [{"name": "one"}]}, "packages[0] has no version, sha256, file"),
        ({"packages": [{**PACKAGE, "file": "../one.whl"}]}, "packages[0].file is '../one.whl'"),
    ],
)
def test_what_can_not_be_is_told(given, told):
    with pytest.raises(HostError) as error:
        environment.request({**PARAMS, **given})
    assert told in str(error.value)


def test_all_of_it_is_told_at_once():
    with pytest.raises(HostError, match=r"name is .*; keep is"):
        environment.request({**PARAMS, "name": "", "keep": 0})


def name(interpreter=PYTHON, **given):
    return environment.folder_name(environment.request({**PARAMS, **given}), interpreter)


@pytest.mark.parametrize(
    "given",
    [
        {"lock": "x==2"},
        {"packages": []},
        {"packages": [{**PACKAGE, "sha256": "b" * 64}]},
        {"installer": "pip"},
        {"optimize": [0]},
        {"interpreter": PYTHON._replace(build="3.11.2 (main, another day) [GCC]")},
    ],
)
def test_whatever_an_environment_is_made_of_is_in_its_name(given):
    interpreter = given.pop("interpreter", PYTHON)
    assert name(interpreter, **given) != name()


@pytest.mark.parametrize(
    "given",
    [
        {"packages": [{**PACKAGE, "path": ""}]},
        {"optimize": [0, 1]},
        {"index_url": "https://example.invalid/simple"},
        {"uv_lock": "uv==2"},
        {"verify": "full"},
        {"keep": 5},
        {"system_packages": ["git"]},
    ],
)
def test_where_it_comes_from_is_not(given):
    assert name(**given) == name()


def test_the_name_is_the_links_and_a_digest():
    assert name().startswith("miner-")
    assert environment.DIGEST.fullmatch(name()[-12:])


@pytest.mark.parametrize(
    ("have", "keep", "needed", "gone"),
    [
        ({"a": 1, "b": 2, "c": 3}, 2, ["c"], ["a"]),
        ({"a": 1, "b": 2, "c": 3}, 1, ["c"], ["b", "a"]),
        ({"a": 1, "b": 2, "c": 3}, 1, ["c", "a"], ["b"]),
        ({"a": 1, "b": 2, "c": 3}, 3, ["c"], []),
        ({"a": 1, "b": 2}, 1, ["a", "b"], []),
        ({"a": 5, "b": 0, "c": 6}, 2, ["c"], ["b"]),
        ({}, 1, ["a"], []),
    ],
)
def test_the_oldest_that_nothing_needs_go(have, keep, needed, gone):
    assert environment.superfluous(have, keep, needed) == gone


def test_only_with_optimisation_is_bytecode_elsewhere():
    assert environment.variables("/env", 0) == {}
    assert environment.variables("/env", 1) == {"PYTHONOPTIMIZE": "1", "PYTHONPYCACHEPREFIX": "/env/pycache"}


@pytest.mark.parametrize(
    ("word", "package"),
    [("python3", "python3"), ("python3.12", "python3.12"), ("pypy3", "pypy3"), ("/usr/bin/python3", ""), ("ruby", "")],
)
def test_interpreters_that_debian_has(word, package):
    assert environment.debian_package(word) == package


def test_an_interpreter_is_asked_what_it_is():
    path = environment.program("python3")
    assert environment.inspect(path).path == path
    # The short way, for the one that runs this, has to say what the long one does.
    said = environment.ask(path, ["-I", "-S", "-c", environment.ASK])
    assert environment.inspect(path).build in said


def test_an_interpreter_that_can_not_be_run_is_told(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(HostError, match="failed with code 3: no"):
        environment.inspect(str(broken))
    with pytest.raises(HostError, match="can't be run"):
        environment.inspect(str(tmp_path))


# -- what is checked of one that is there ------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path):
    """A folder as a finished environment is."""
    top = tmp_path / "miner-0123456789ab"
    (top / "lib/__pycache__").mkdir(parents=True)
    (top / "bin").mkdir()
    (top / "bin/python").symlink_to("/usr/bin/python3")
    (top / "lib/one.py").write_text("1234")
    (top / "lib/__pycache__/one.pyc").write_text("code")
    (top / "lib64").symlink_to("lib")
    (top / check.MARKER).write_text(json.dumps({"files": check.listing(str(top))}))
    return top


def wrong(top, *, full=False):
    return check.damage(str(top), full=full)


def test_nothing_is_wrong_with_a_finished_one(finished):
    assert wrong(finished) == wrong(finished, full=True) == ""


def test_bytecode_that_somebody_left_is_no_damage(finished):
    (finished / "lib/__pycache__/two.pyc").write_text("more")
    assert wrong(finished) == ""


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda top: (top / "lib/one.py").write_text("12"), "lib/one.py has another size"),
        (lambda top: (top / "lib/one.py").unlink(), "lib/one.py is missing"),
        (lambda top: (top / "lib/__pycache__/one.pyc").unlink(), "lib/__pycache__/one.pyc is missing"),
        (lambda top: (top / "lib/more.py").write_text(""), "lib/more.py is not its own"),
        (lambda top: (top / "lib64").unlink(), "lib64 is missing"),
        (lambda top: (top / check.MARKER).unlink(), "it is not complete"),
        (lambda top: (top / check.MARKER).write_text("{"), "environment.json is damaged"),
        (lambda top: (top / check.MARKER).write_text("[]"), "environment.json is damaged"),
        (lambda top: (top / check.MARKER).write_text("{}"), "environment.json is damaged"),
    ],
)
def test_damage_is_told(finished, harm, told):
    harm(finished)
    assert wrong(finished) == told


def test_a_link_that_leads_elsewhere_is_damage(finished):
    (finished / "bin/python").unlink()
    (finished / "bin/python").symlink_to("/usr/bin/false")
    assert wrong(finished) == "bin/python is no link to /usr/bin/python3"


def test_an_interpreter_that_went_away_is_damage(finished):
    (finished / "bin/python").unlink()
    (finished / "bin/python").symlink_to("/nowhere/python3")
    (finished / check.MARKER).write_text(json.dumps({"files": check.listing(str(finished))}))
    assert wrong(finished) == "its interpreter /nowhere/python3 is missing"


def test_only_a_full_check_reads_what_has_the_same_size(finished):
    (finished / "lib/one.py").write_text("4321")
    assert wrong(finished) == ""
    assert wrong(finished, full=True) == "lib/one.py has another content"


def test_links_in_a_folder_are_not_followed(finished):
    (finished / "lib/etc").symlink_to("/etc")
    assert wrong(finished) == "lib/etc is not its own"


# -- what the installers' errors mean ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("error: Failed to write: No space left on device (os error 28)", "the disk is full"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("error: Hash mismatch for `numpy==2.0.0`\n\nExpected:", "a downloaded file of numpy==2.0.0 is not the one"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n"
            "    numpy==2.0.0 from https://x:\n        Expected",
            "a downloaded file of numpy==2.0.0 is not the one",
        ),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError('...')'\n"
            "ERROR: No matching distribution found for numpy==2.0.0",
            "the package index can't be reached",
        ),
        ("error: Failed to fetch: `http://x`\n  Caused by: dns error", "the package index can't be reached"),
        ("Because orjson==3.13.0 has no usable wheels and you", "orjson==3.13.0 has no wheel for pypy 3.9.16"),
        ("Because orjson==3.13.0 has no wheels with a matching", "orjson==3.13.0 has no wheel for pypy 3.9.16"),
        ("ERROR: No matching distribution found for orjson==3.13.0", "orjson==3.13.0 has no wheel for pypy 3.9.16"),
        ("Segmentation fault", "the installer failed. It said: Segmentation fault"),
        ("", "the installer failed. It said: nothing"),
    ],
)
def test_an_installers_error_is_explained(output, told):
    assert errors.explain(output, "pypy 3.9.16").startswith(told)


@pytest.mark.parametrize(
    ("output", "code", "told"),
    [
        ("", -9, "the compiler was ended by signal 9"),
        ("Traceback:\nBrokenProcessPool: A process was terminated", 1, "It said: BrokenProcessPool: A process was"),
        (
            "PermissionError: [Errno 13] Permission denied",
            1,
            "Look for a lack of memory (journalctl -k) or of /dev/shm",
        ),
        ("OSError: [Errno 28] No space left on device: '/x.pyc'", 1, "the disk is full. Free space there"),
    ],
)
def test_a_compilers_end_is_explained(output, code, told):
    assert told in errors.explain_compiler(output, code)


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("at https://me:p%40ss@index.example/simple/", "at https://***@index.example/simple/"),
        ("http://token@127.0.0.1:9/ and https://me:pass@x/", "http://***@127.0.0.1:9/ and https://***@x/"),
        ("one @ file:///tmp/one.whl, https://x/@y", "one @ file:///tmp/one.whl, https://x/@y"),
    ],
)
def test_no_password_is_told(output, told):
    assert errors.without_passwords(output) == told
