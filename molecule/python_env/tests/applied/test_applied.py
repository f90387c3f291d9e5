"""The environment as those find it who run from it, and what is left of it when something goes wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

LOCK = Path(__file__).resolve().parents[4] / "roles/python_env/files/runtime.txt"
LIST = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
)
USED = "import precog_runtime.cli, precog_runtime.serve, precog_runtime.runtime, uvloop"
ROOT = "/opt/precog/env"


def as_nobody(host, command):
    """What a command prints for a user who may write nowhere here."""
    return host.check_output(f"setpriv --reuid=nobody --regid=nogroup --clear-groups env -i {command}")


def test_it_is_the_lock_and_the_runtime(host, environment):
    found = json.loads(as_nobody(host, f'{environment}/bin/python -c "{LIST}"'))
    assert "precog-runtime" in found
    assert found.keys() - {"precog-runtime"} == {
        name for name in re.findall(r"^([a-z][\w.-]*)==", LOCK.read_text(), re.MULTILINE) if name in found
    }
    for name, version in found.items():
        if name != "precog-runtime":
            assert re.search(rf"^{re.escape(name)}=={re.escape(version)}(?=[ ;\\])", LOCK.read_text(), re.MULTILINE)
    assert {"aiohttp", "numpy", "uvloop"} <= found.keys()


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


def test_every_file_is_as_the_marker_has_it(host, environment):
    files = json.loads(host.file(f"{environment}/environment.json").content_string)["files"]
    plain = {path: entry for path, entry in files.items() if isinstance(entry, list)}
    out = host.check_output(f"cd {environment} && find . -type f ! -name environment.json -print0 | xargs -0 sha256sum")
    sums = {path.removeprefix("./"): digest for digest, path in (line.split("  ", 1) for line in out.splitlines())}
    assert sums == {path: digest for path, (_size, digest) in plain.items()}


def test_nothing_is_left_of_the_building(host):
    assert host.check_output(f"find {ROOT} /var/cache/precog-fleet -name '*.building' -o -name '*.work'") == ""


def test_pypy_runs_what_it_can(host):
    if host.backend.get_hostname() != "env-13":
        pytest.skip("this host has none")
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


def test_a_wrong_hash(host, refused, environment, tmp_path):
    digest = re.search(r"^tenacity==.*?sha256:(\w{64})", LOCK.read_text(), re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "lock.txt").write_text(f"tenacity==9.1.2 --hash=sha256:{digest}\n")
    told = refused(python_env_lock=str(tmp_path / "lock.txt"), python_env_packages=[])
    assert "a downloaded file of tenacity==9.1.2 is not the one that the lock has the hash of" in told
    assert f"{ROOT}/miner is still {environment.rsplit('/', 1)[1]}" in told
    assert json.loads(as_nobody(host, f'{environment}/bin/python -c "{LIST}"'))


def test_pypy_that_is_too_old_or_lacks_wheels(host, refused):
    told = refused(python_env_interpreter="pypy3", python_env_installer="uv")
    if host.backend.get_hostname() == "env-12":
        assert "wants Python >=3.10: choose another interpreter" in told
    else:
        assert re.search(r"\w+==[\d.]+ has no wheel for pypy 3\.11", told)


def test_a_full_disk(host, converge):
    host.check_output("mkdir /opt/small && mount -t tmpfs -o size=24m small /opt/small")
    try:
        told = " ".join(converge({"python_env_root": "/opt/small/env"}, expect_failure=True).output.split())
        assert "Free space" in told
        assert "There is no environment yet" in told
        assert host.check_output("ls /opt/small/env") == ""
    finally:
        host.check_output("umount /opt/small && rmdir /opt/small")


def test_damage_is_repaired(host, converge, environment):
    victim = host.check_output(f"ls {environment}/lib/python3.*/site-packages/aiohttp/web.py")
    host.check_output(f"echo >> {victim}")
    about = converge()
    row = about.settings["python_env:miner"]
    assert (row["status"], about.stats["changed"]) == ("changed", 1)
    assert "aiohttp/web.py has another size" in row["reason"]
    assert converge().stats["changed"] == 0
