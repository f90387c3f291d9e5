"""uv's cache and what uv locks are root's alone: whoever can open a lock file can hold it, and stop every build."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils import _environment_build as building
from ansible_collections.precog.fleet.plugins.module_utils import _miner_units as units
from ansible_collections.precog.fleet.tests.unit.test_environment_build import (
    Maker,
    _own_places,  # noqa: F401
    index,  # noqa: F401
    make,  # noqa: F401
)

HELD_S = 5.0
CACHE = building.CACHE  # the tests' own is elsewhere


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_can_open_what_uv_locks(make: Maker, monkeypatch):  # noqa: F811
    seen = {}
    check = building._check

    def look(*arguments):
        here = Path(arguments[-1])
        seen[here.name.partition("-")[0]] = mode(here)
        seen["work"] = mode(here.with_suffix(building.environment.WORK))
        check(*arguments)

    monkeypatch.setattr(building, "_check", look)
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
    assert f"InaccessiblePaths=-{units.CACHES}\n".encode() in template["precog-miner@.service"]
