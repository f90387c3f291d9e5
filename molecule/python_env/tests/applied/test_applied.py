"""The environment as those find it who run from it, and what is left of it when something goes wrong."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from packaging.markers import Marker

SCENARIO = Path(__file__).resolve().parents[2]
LOCK = SCENARIO.parents[1] / "roles/python_env/files/runtime.txt"
PURE = SCENARIO / "files/pypy.txt"
RECORDS = SCENARIO / "records.py"
MARKERS = """
import json, os, platform, sys
print(json.dumps({
    "os_name": os.name, "sys_platform": sys.platform, "platform_machine": platform.machine(),
    "platform_python_implementation": platform.python_implementation(), "platform_system": platform.system(),
    "python_version": "%d.%d" % sys.version_info[:2], "python_full_version": platform.python_version(),
    "implementation_name": sys.implementation.name, "extra": "",
}))
"""
LIST = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
)
USED = "import precog_runtime.cli, precog_runtime.serve, precog_runtime.runtime, uvloop"
ROOT = "/opt/precog/env"


def as_nobody(host, command):
    """What a command prints for a user who may write nowhere here."""
    return host.check_output(f"setpriv --reuid=nobody --regid=nogroup --clear-groups env -i {command}")


def run_python(host, program, *words):
    """What a program for Python prints on the host, as root."""
    text = base64.b64encode(program.encode()).decode()
    return host.check_output(f"echo {text} | base64 -d | python3 - {' '.join(words)}")


def pins_that_apply(lock, markers):
    """Versions by name of a lock's lines whose marker is true on a host; read by another library than the role's."""
    lines = re.findall(r"^([a-z][\w.-]*)==([^\s;\\]+)(?: ; ([^\\\n]+?))? \\$", lock, re.MULTILINE)
    assert len(lines) == len(re.findall(r"^\S+==", lock, re.MULTILINE))
    return {name: version for name, version, marker in lines if not marker or Marker(marker).evaluate(markers)}


def test_it_is_the_lock_and_the_runtime(host, environment):
    found = json.loads(as_nobody(host, f'{environment}/bin/python -c "{LIST}"'))
    del found["precog-runtime"]
    assert found == pins_that_apply(LOCK.read_text(), json.loads(run_python(host, MARKERS)))


def test_its_commands_run(host, environment):
    assert "serve" in as_nobody(host, f"{environment}/bin/precog-runtime --help")


@pytest.mark.parametrize("level", [0, 1])
def test_a_start_compiles_nothing(host, environment, level):
    variables = f"PYTHONOPTIMIZE=1 PYTHONPYCACHEPREFIX={environment}/pycache" if level else ""
    said = as_nobody(host, f'{variables} {environment}/bin/python -v -c "{USED}" 2>&1')
    read = [line for line in said.splitlines() if line.startswith("# code object from")]
    assert len(read) > 300
    assert [line for line in read if ".pyc'" not in line] == []
    assert any(".opt-1.pyc" in line for line in read) is bool(level)


def test_nobody_but_root_can_write_there(host):
    assert host.check_output(rf"find {ROOT} ! -type l \( -perm /022 -o ! -user root \)") == ""


def test_debians_own_folders_have_none_of_its_bytecode(host):
    assert host.check_output("find /usr/lib/python3* /usr/lib/pypy3* -name '*.opt-*.pyc' 2>/dev/null || true") == ""


def test_every_file_is_as_its_wheel_has_it(host, environment):
    found = json.loads(run_python(host, RECORDS.read_text(), environment))
    assert found["good"] > 1000
    assert (found["bad"], found["unknown"]) == ([], [])
    assert found["scripts"] == [f"#!{environment}/bin/python"]


def test_no_installer_is_in_it_and_pip_left_no_cache(host, environment):
    assert "uv = " in host.file(f"{environment}/pyvenv.cfg").content_string or host.backend.get_hostname() == "env-13"
    assert (
        host.check_output(f"ls {environment}/lib/python3*/site-packages | grep -ixE 'pip|uv|setuptools' || true") == ""
    )
    assert host.check_output("find / -xdev -type d -path '*/.cache/pip*' 2>/dev/null || true") == ""


def test_nothing_is_left_of_the_building(host):
    assert host.check_output(f"find {ROOT} /var/cache/precog-fleet -name '*.building' -o -name '*.work'") == ""


def test_pypy_runs_what_it_can(host):
    if host.backend.get_hostname() != "env-13":
        pytest.skip("this host has none")
    # The role installed it.
    assert "pypy3" not in host.file("/var/lib/molecule/packages").content_string.split()
    assert host.package("pypy3").is_installed
    said = host.check_output(f'{ROOT}/pypy/bin/python -c "import sys, cachetools, tenacity; print(sys.version)"')
    assert "PyPy" in said


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(host, converge, environment):
    """Runs the role and expects its failure; the environment in use has to stay the one in use."""

    def run(**variables):
        about = converge(variables, expect_failure=True)
        assert host.check_output(f"readlink -e {ROOT}/miner") == environment
        return " ".join(about.output.split())

    return run


@pytest.mark.once
def test_a_wrong_hash(host, refused, environment, tmp_path):
    digest = re.search(r"^tenacity==.*?sha256:(\w{64})", LOCK.read_text(), re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "lock.txt").write_text(f"tenacity==9.1.2 --hash=sha256:{digest}\n")
    told = refused(python_env_lock=str(tmp_path / "lock.txt"), python_env_packages=[])
    assert "a downloaded file of tenacity==9.1.2 is not the one that the lock has the hash of" in told
    assert f"{ROOT}/miner is still {environment.rsplit('/', 1)[1]}" in told
    assert json.loads(as_nobody(host, f'{environment}/bin/python -c "{LIST}"'))


@pytest.mark.full
def test_pypy_that_is_too_old_or_lacks_wheels(host, refused):
    told = refused(python_env_interpreter="pypy3", python_env_installer="uv")
    if host.backend.get_hostname() == "env-12":
        assert "wants Python >=3.10: choose another interpreter" in told
    else:
        assert re.search(r"\w+==[\d.]+ has no wheel for pypy 3\.11", told)


@pytest.fixture
def role(host, play, tmp_path):
    """Runs the role alone, on the host under test."""
    installer = "pip" if host.backend.get_hostname() == "env-13" else "uv"

    def run(*, code=0, **variables):
        task = {"hosts": "python_env", "gather_facts": False, "become": True, "roles": ["precog.fleet.python_env"]}
        (tmp_path / "play.yml").write_text(json.dumps([task]))
        given = {f"python_env_{name}": value for name, value in {"installer": installer, **variables}.items()}
        return play(tmp_path / "play.yml", given, code=code)

    return run


@pytest.fixture
def small(host):
    """Mounts a file system of so many MiB; afterwards it is gone."""

    def mount(size):
        host.check_output(f"mkdir /opt/small && mount -t tmpfs -o size={size}m,mode=755 small /opt/small")
        return "/opt/small/env"

    yield mount
    host.check_output("umount /opt/small && rmdir /opt/small")


def free(host):
    """The bytes that are left there."""
    return int(host.check_output("df --output=avail --block-size=1 /opt/small | tail -1"))


@pytest.mark.once
def test_too_small_a_disk(host, role, small):
    told = " ".join(role(code=2, root=small(24)).output.split())
    assert re.search(r"/opt/small/env has 2\d MB left, and another environment takes about 64 MB", told)
    assert "There is no environment yet" in told
    assert host.check_output("ls /opt/small/env") == ""


@pytest.mark.full
def test_a_disk_that_becomes_full(host, role, small):
    """With an environment before, which still works, and is as good as it was."""
    root = small(250)
    pure = {"lock": str(PURE), "packages": [], "root": root}
    role(**pure)
    before = host.check_output(f"readlink -e {root}/miner")
    # As much as is wanted at least, and less than the runtime takes.
    host.check_output(f"fallocate --length {free(host) - 70_000_000} /opt/small/filler")
    left = free(host)
    told = " ".join(role(code=2, root=root).output.split())
    assert "the disk is full. Free space there (df -h), then run again" in told
    assert f"Nothing was changed: {root}/miner is still {before.rsplit('/', 1)[1]}" in told
    assert host.check_output(f"readlink -e {root}/miner") == before
    assert free(host) >= left
    assert not host.file("/var/cache/precog-fleet/uv").exists
    assert as_nobody(host, f'{before}/bin/python -c "import cachetools, tenacity; print(1)"') == "1"
    assert role(**pure).stats["changed"] == 0


@pytest.mark.full
def test_another_cpython(host, role, environment):
    """One with a prefix of its own, by its path."""
    system = host.check_output("readlink -e /usr/bin/python3")
    version = system.rsplit("/", 1)[1]
    other = f"/opt/other/bin/{version}"
    host.check_output(f"mkdir -p /opt/other/bin /opt/other/lib && cp {system} {other}")
    host.check_output(f"ln -s /usr/lib/{version} /opt/other/lib/{version}")
    given = {"name": "other", "interpreter": other, "lock": str(PURE), "packages": []}
    try:
        role(**given)
        assert host.check_output(f"readlink -e {ROOT}/other/bin/python") == other
        asked = f'{ROOT}/other/bin/python -c "import sys, cachetools; print(sys.base_prefix)"'
        assert as_nobody(host, asked) == "/opt/other"
        assert role(**given).stats["changed"] == 0
        assert host.check_output(f"readlink -e {environment}/bin/python") == system
    finally:
        role(name="other", state="absent")
        host.check_output("rm -r /opt/other")


@pytest.mark.full
def test_damage_is_repaired(host, converge, environment):
    victim = host.check_output(f"ls {environment}/lib/python3.*/site-packages/aiohttp/web.py")
    host.check_output(f"echo >> {victim}")
    about = converge()
    row = about.settings["python_env:miner"]
    assert (row["status"], about.stats["changed"]) == ("changed", 1)
    assert "aiohttp/web.py has another size" in row["reason"]
    assert host.check_output(f"readlink -e {ROOT}/miner") == f"{environment}.1"
    assert not host.file(environment).exists
    assert as_nobody(host, f"{environment}.1/bin/python -c 'import aiohttp.web; print(1)'") == "1"
    assert converge().stats["changed"] == 0
