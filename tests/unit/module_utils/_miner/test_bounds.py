"""What an instance takes of its host at most, and that it can write nothing in /run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._miner import bounds as miner_bounds
from ansible_collections.precog.fleet.plugins.module_utils._miner import drain, instances
from ansible_collections.precog.fleet.plugins.module_utils._miner.systemd import Live
from ansible_collections.precog.fleet.tests.unit.module_utils._miner.test_plan import plan, problems, section

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


# -- what the host enforces -------------------------------------------------------------------------------------------

UNIT = "system.slice/system-precog\\x2dminer.slice/precog-miner@main.service"
TEXT = "[Service]\nMemoryMax=40%\nTasksMax=512\nIPAddressDeny=169.254.169.254/32\n"
GROUPS = {
    "version 2": (f"0::/{UNIT}\n", True, set()),
    "version 2 without controllers": (f"0::/{UNIT}\n", False, {"memory_max", "tasks_max"}),
    "version 1": (f"3:memory:/{UNIT}\n2:pids:/{UNIT}\n1:name=systemd:/{UNIT}\n", False, set()),
    "a container's own group alone": (
        f"3:memory:/libpod-1\n2:pids:/libpod-1\n1:name=systemd:/libpod-1/{UNIT}\n0::/libpod-1/{UNIT}\n",
        False,
        {"memory_max", "tasks_max"},
    ),
}


@pytest.mark.parametrize(("groups", "files", "lacking"), GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("filtered", [True, False])
def test_a_bound_that_is_not_in_force_is_told(tmp_path, groups, files, lacking, filtered):
    host = Host(str(tmp_path))
    host.stage("/proc/7/cgroup", groups.encode()).commit()
    for name in ("memory.max", "pids.max") if files else ():
        host.stage(f"/sys/fs/cgroup/{UNIT}/{name}", b"1").commit()
    found = miner_bounds.lacking(host, TEXT, Live(pid=7, filtered=filtered))
    assert set(found) == lacking | (set() if filtered else {"ip_deny"})
    assert miner_bounds.lacking(host, "[Service]\nMemoryMax=infinity\n", Live(pid=7)) == {}
    assert miner_bounds.lacking(host, TEXT, Live(pid=8)) == {}, "a process that has ended"


# -- the network ------------------------------------------------------------------------------------------------------


def addresses(made):
    service = section(made.units["precog-miner@main.service.d/10-instance.conf"], "Service")
    return service.get("IPAddressDeny"), service.get("IPAddressAllow")


def test_the_metadata_of_clouds_can_not_be_reached():
    assert addresses(plan()) == ("169.254.169.254/32 fd00:ec2::254/128", None)


def test_what_is_allowed_is_all_that_can_be_reached():
    made = plan({"main": {"ip_allow": ["192.0.2.0/24", "2001:db8::1"]}})
    assert addresses(made) == ("any", "localhost 192.0.2.0/24 2001:db8::1/128")


def test_nothing_is_denied_if_that_is_said():
    assert addresses(plan({"main": {"ip_deny": []}})) == (None, None)


@pytest.mark.parametrize("value", ["192.0.2.1", ["192.0.2.1/8"], ["example.org"], [{}]])
@pytest.mark.parametrize("option", ["ip_deny", "ip_allow"])
def test_what_is_no_network_is_refused(option, value):
    (told,) = problems({"main": {option: value}})
    assert told.startswith(f"instances.main.{option}: ")


def test_the_hosts_dns_is_not_cut_off():
    (told,) = problems(resolvers=["169.254.169.254"])
    assert told.startswith("instances.main.ip_deny: '169.254.169.254/32' covers this host's DNS server")
    assert plan({"main": {"ip_deny": []}}, resolvers=["169.254.169.254"]).instances
    assert plan(resolvers=["127.0.0.53", "fe80::1%eth0", "169.254.169.253"]).instances


def test_d_bus_is_out_of_reach():
    service = section(plan().units["precog-miner@.service"], "Service")
    assert "-/run/dbus" in service["InaccessiblePaths"].split()
    assert service["IPAccounting"] == "yes"
