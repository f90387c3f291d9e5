"""uv's cache and what uv locks are root's alone: whoever can open a lock file can hold it, and stop every build."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._environment import build as building
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import units
from ansible_collections.precog.fleet.tests.unit.made_environment import pin
from ansible_collections.precog.fleet.tests.unit.module_utils._environment.test_build import (
    Maker,
    _own_places,  # noqa: F401
    index,  # noqa: F401
    make,  # noqa: F401
)

HELD_S = 60.0  # for longer than a build takes
CACHE = building.CACHE  # the tests' own is elsewhere


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_can_open_what_uv_locks(make: Maker, monkeypatch):  # noqa: F811
    seen = {}
    check = building.check_installed

    def look(*arguments):
        here = Path(arguments[-2])
        seen[here.name.partition("-")[0]] = mode(here)
        seen["work"] = mode(here.with_suffix(building.environment.WORK))
        check(*arguments)

    monkeypatch.setattr(building, "check_installed", look)
    made = make()
    assert seen == {".miner": 0o700, "work": 0o700}
    assert mode(Path(building.CACHE)) == 0o700
    assert mode(Path(made["environment"])) == 0o755


@pytest.mark.parametrize("left_open", [0o755, 0o711])
def test_a_lock_held_in_a_cache_that_was_open_to_others_stops_no_build(make: Maker, left_open):  # noqa: F811
    make()
    cache = Path(building.CACHE)
    cache.chmod(left_open)
    lock = os.open(cache / ".lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    release = threading.Timer(HELD_S, os.close, [lock])
    release.start()
    try:
        make(lock=make.params["lock"] + "# another\n")
        assert release.is_alive(), "the build waited for the lock"
    finally:
        release.cancel()
        release.join()
    assert mode(cache) == 0o700


def test_the_cache_is_hidden_from_the_miners():
    assert CACHE.startswith(f"{units.CACHES}/")
    template = units.common(units.Places("/opt/precog", "/var/lib/precog-miner", "precog-miner", False))
    assert f"InaccessiblePaths=-{units.CACHES} ".encode() in template["precog-miner@.service"]


@pytest.mark.parametrize("installer", ["uv", pytest.param("pip", marks=pytest.mark.full)])
def test_no_code_of_a_package_runs_while_an_environment_is_made(make: Maker, tmp_path, installer):  # noqa: F811
    """Python runs the lines of .pth files at each start, and who makes an environment is root."""
    trace = tmp_path / "ran"
    line = f"import os; os.close(os.open({str(trace)!r}, os.O_CREAT))\n"
    wheel = make.index.add("three", "3.0", files={"three.pth": line})
    made = make(installer=installer, lock=make.params["lock"] + pin(wheel))
    assert list(Path(made["environment"]).glob("lib/*/site-packages/three.pth"))
    assert not trace.exists()
    make.python("-c", "")
    assert trace.exists()


METADATA = "Metadata-Version: 2.1\nName: three\nVersion: 3.0\nRequires-Dist: "
NEEDS = {
    "what is not there": ("absent>=1", "three 3.0 needs absent>=1, which is not there"),
    "a later one": ("one>=2", "three 3.0 needs one>=2, which is 1.0"),
    "what is there": ("One>=1,<2", ""),
    "what another system needs": ('absent ; sys_platform == "win32"', ""),
    "what an extra needs": ('absent ; extra == "more"', ""),
    "something of an extra": ("one[more]==1.0", ""),
}


@pytest.mark.parametrize(("needs", "told"), NEEDS.values(), ids=NEEDS)
def test_what_a_package_depends_on_has_to_be_there(make: Maker, needs, told):  # noqa: F811
    wheel = make.index.add("three", "3.0", files={"INFO/METADATA": f"{METADATA}{needs}\n"})
    given = {"lock": make.params["lock"] + pin(wheel)}
    if not told:
        assert make(**given)["changed"]
        return
    with pytest.raises(HostError, match=re.escape(told)):
        make(**given)
