"""Locks: what they pin, what is no lock, and which markers hold."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._environment import lock
from ansible_collections.precog.fleet.plugins.module_utils._environment.lock import Pin
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.tests.places import ROOT

LOCKS = ROOT / "roles/python_env/files"
ONE, TWO = "a" * 64, "b" * 64
CPYTHON = {
    "python_version": "3.11",
    "python_full_version": "3.11.2",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "extra": "",
}
PYPY = {**CPYTHON, "platform_python_implementation": "PyPy", "implementation_name": "pypy"}


def test_pins_are_read_with_their_markers():
    text = f"""
# a comment
Typing_Extensions==4.1.0 ; python_version < '3.13' \\
    --hash=sha256:{ONE} \\
    --hash=sha256:{TWO}
    # via aiohttp
uvicorn[standard]==0.30.1 --hash=sha256:{ONE}
"""
    assert lock.parse(text) == [
        Pin("typing-extensions", "4.1.0", "python_version < '3.13'"),
        Pin("uvicorn", "0.30.1", ""),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("numpy==2.0.0", "line 1 has no hash: numpy==2.0.0"),
        (f"numpy>=2 --hash=sha256:{ONE}", "line 1 is no pin of the form name==version: numpy>=2"),
        (f"numpy==2.* --hash=sha256:{ONE}", "line 1 is no pin"),
        ("--index-url https://example.invalid/simple", "line 1 is no pin"),
        ("-e .", "line 1 is no pin"),
        ("\n-r other.txt", "line 2 is no pin"),
        (f"thing @ https://example.invalid/thing.whl --hash=sha256:{ONE}", "line 1 is no pin"),
        ("numpy==2.0.0 --hash=sha256:abc", "no pin"),
        (f"numpy==2.0.0 --hash=md5:{ONE}", "no pin"),
        ("# nothing\n", "lock is empty"),
        ("", "lock is empty"),
        ("\n".join(f"p{n}==1" for n in range(9)), "line 5 has no hash: p4==1; and 4 more"),
    ],
)
def test_what_no_hash_vouches_for_is_refused(text, told):
    with pytest.raises(HostError, match="lock") as error:
        lock.parse(text)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("marker", "cpython", "pypy"),
    [
        ("", True, True),
        ("platform_python_implementation == 'CPython'", True, False),
        ("implementation_name != 'cpython' and sys_platform == 'linux'", False, True),
        ("python_full_version < '3.12'", True, True),
        ("python_full_version >= '3.11.3'", False, False),
        ("python_version >= '3.9'", True, True),
        ("'3.10' <= python_version", True, True),
        ("python_version == '3.11.0'", True, True),
        ("python_version in '3.10 3.11'", True, True),
        ("python_version not in '3.10 3.11'", False, False),
        ("(sys_platform == 'win32' or sys_platform == 'linux') and platform_machine == 'x86_64'", True, True),
        ("sys_platform == 'win32' or sys_platform == 'darwin'", False, False),
        ("extra == 'dev'", False, False),
    ],
)
def test_markers(marker, cpython, pypy):
    assert (lock.applies(marker, CPYTHON), lock.applies(marker, PYPY)) == (cpython, pypy)


@pytest.mark.parametrize(
    "marker", ["no_such == '1'", "sys_platform", "__import__('os') == ''", "sys_platform ==", "python_version < 'x'"]
)
def test_a_marker_that_can_not_be_understood_is_told(marker):
    with pytest.raises(HostError, match="can't be understood"):
        lock.applies(marker, CPYTHON)


def test_of_several_pins_the_one_that_applies_counts():
    pins = [Pin("numpy", "1", "python_version < '3.11'"), Pin("numpy", "2", "python_version >= '3.11'")]
    assert lock.applying(pins, CPYTHON) == {"numpy": "2"}


@pytest.mark.parametrize(
    ("number", "specifier", "expected"),
    [
        ("3.11.2", "", True),
        ("3.11.2", ">=3.10", True),
        ("3.9.16", ">=3.10", False),
        ("3.11.2", ">=3.9,<3.12", True),
        ("3.12.0", ">=3.9,<3.12", False),
        ("3.11.2", "!=3.11.*", False),
        ("3.11.2", "==3.11.*", True),
        ("3.11.2", "==3.11.2", True),
        ("3.12.1", "~=3.11", True),
        ("3.12.1", "~=3.11.0", False),
        ("3.11.2", "===3.11.2", True),  # a rarer clause: the installer decides
    ],
)
def test_what_a_package_takes(number, specifier, expected):
    assert lock.satisfies(number, specifier) is expected


@pytest.mark.parametrize("name", ["runtime", "upstream", "uv"])
def test_the_locks_of_the_role_can_be_used(name):
    pins = lock.applying(lock.parse((LOCKS / f"{name}.txt").read_text()), CPYTHON)
    expected = {"runtime": "aiohttp", "upstream": "bittensor", "uv": "uv"}[name]
    assert expected in pins


def test_upstreams_lock_has_the_pins_that_import_together():
    pins = {pin.name: lock.version(pin.version) for pin in lock.parse((LOCKS / "upstream.txt").read_text())}
    assert (9, 9) <= pins["bittensor"] < (10,)
    assert pins["async-substrate-interface"] < (2,)
    assert pins["coinmetrics-api-client"] < (2026,)
    assert pins["pandas"] < (3,)
    assert {"gitpython", "pytz"} <= pins.keys()


def test_the_lock_of_uv_is_the_one_that_this_repository_uses():
    assert (LOCKS / "uv.txt").read_bytes() == (LOCKS.parents[2] / "requirements/uv.txt").read_bytes()
