"""What an instance takes of its host at most, and that it can write nothing in /run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils import _miner_drain as drain
from ansible_collections.precog.fleet.plugins.module_utils import _miner_instances as instances
from ansible_collections.precog.fleet.plugins.module_utils._host import Host
from ansible_collections.precog.fleet.tests.unit.test_miner_plan import plan, section

MINER = 61234  # a user ID that nobody has


def bounds(made, name="main"):
    service = section(made.units[f"precog-miner@{name}.service.d/10-instance.conf"], "Service")
    return service.get("MemoryMax"), service.get("TasksMax")


def many(number, **options):
    return {f"m{port}": {"port": 8000 + port, **options} for port in range(number)}


@pytest.mark.parametrize(("number", "memory"), [(1, "80%"), (2, "40%"), (3, "26%"), (12, "6%"), (100, "1%")])
def test_instances_share_the_hosts_memory(number, memory):
    made = plan(many(number))
    assert {bounds(made, name) for name in many(number)} == {(memory, "512")}


def test_bounds_that_are_given_stand_and_empty_means_none():
    made = plan({"main": {"memory_max": "1G", "tasks_max": ""}, "two": {"port": 9000, "memory_max": ""}})
    assert bounds(made) == ("1G", None)
    assert bounds(made, "two") == (None, "512")


def test_a_share_that_is_too_small_is_warned_of():
    made = plan(many(4), memory_mb=600)
    assert len(made.warnings) == 4
    assert made.warnings[0].startswith("instances.m0.memory_max: 'auto' is 20% of this host's memory, 120 MB")
    assert not plan(many(4), memory_mb=2000).warnings
    assert not plan(many(4, memory_max="1G"), memory_mb=600).warnings


def test_the_miner_can_write_nothing_in_run():
    service = section(plan().units["precog-miner@.service"], "Service")
    assert service["ReadOnlyPaths"] == "/run"
    assert "RuntimeDirectory" not in service
    assert service["Environment"] == "RUNTIME_DIRECTORY=/run/precog-miner/%i"
    assert service["ExecStartPre"].endswith("-o root -g root -m 0755 /run/precog-miner /run/precog-miner/%i")


@pytest.fixture
def folder(tmp_path):
    """An instance's folder as releases from before left it: the miner's own."""
    made = tmp_path / "run/precog-miner/main"
    made.mkdir(parents=True, mode=0o700)
    os.chown(made, MINER, MINER)
    return made


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("planted", ["folder", "full folder", "link", "file"])
def test_what_a_miner_put_in_the_drain_files_place_stops_nothing(tmp_path, folder, planted):
    place = folder / "drain"
    if planted == "link":
        place.symlink_to("/etc/passwd")
    elif planted == "file":
        place.touch()
    else:
        place.mkdir()
        (place / "x").touch() if planted == "full folder" else None
    host = Host(str(tmp_path))
    drain.mark(host, "main")
    assert place.is_file()
    assert not place.is_symlink()
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o7777) == (0, 0o755)
    drain.unmark(host, "main")
    assert not list(folder.iterdir())
    drain.forget(host, "main")
    assert not Path(tmp_path / "run/precog-miner").exists()


def test_auto_is_what_nothing_says():
    assert (instances.DEFAULTS["memory_max"], instances.DEFAULTS["tasks_max"]) == ("auto", "auto")
