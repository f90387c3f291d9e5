"""Every setting of the guide is in force: after site.yml, and once more after a reboot that nobody helped."""

from __future__ import annotations

from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[4] / "playbooks/audit.yml"
# As the guide has them.
VALUES = {
    "net.core.rmem_max": "134217728",
    "net.core.wmem_max": "134217728",
    "net.core.rmem_default": "65536",
    "net.core.wmem_default": "65536",
    "net.ipv4.tcp_rmem": "4096 65536 134217728",
    "net.ipv4.tcp_wmem": "4096 65536 134217728",
    "vm.swappiness": "10",
    "vm.vfs_cache_pressure": "50",
}
OPEN_FILES = "Max open files"
FILES = "65536 65536"
MINUTE = 60
DROP_IN = "/etc/systemd/system/sleeper.service.d/99-zz-precog-fleet.conf"


@pytest.fixture(scope="module")
def now(look):
    """What the machine is like."""
    return look.now()


@pytest.fixture(scope="module")
def has_rebooted(host, now):
    """Whether the machine has booted since the run that tuned it."""
    return now["booted"] > host.file(DROP_IN).mtime.timestamp()


def test_the_kernels_values(look):
    values = look.record()["values"]
    assert {key: values[key] for key in VALUES} == VALUES


def test_huge_pages(now):
    assert "[madvise]" in now["huge pages"]


@pytest.mark.parametrize("root", [False, True], ids=["operator", "root"])
def test_a_fresh_login_may_open_as_many_files(look, root):
    assert look.login_limits(root=root)[OPEN_FILES] == FILES


def test_a_service_without_limits_of_its_own_may_as_well(now):
    assert now["new service"][OPEN_FILES] == FILES


def test_a_managed_service_may_too_from_its_next_start_on(now, has_rebooted):
    assert now["service as declared"] == ["65536", "65536"]
    assert (now["service"][OPEN_FILES] == FILES) == has_rebooted


def test_every_policy_has_the_governor_and_its_bounds(now):
    assert now["processors"] == {
        f"{policy} {name}": value
        for policy in ("policy0", "policy1")
        for name, value in (
            ("scaling_governor", "performance"),
            ("scaling_min_freq", "800000"),
            ("scaling_max_freq", "3200000"),
        )
    }


def test_boost_is_on_and_used(now):
    assert now["boost"] == "1"
    assert now["frequencies"] == ["3200000"] * 2


def test_no_swap_is_active(now):
    assert now["swaps"] == []


def test_the_boot_brought_it_within_a_minute(now, has_rebooted):
    assert now["unit result"] == "success"
    if has_rebooted:
        assert now["unit finished"] < now["boot finished"] + MINUTE


def test_the_audit_finds_nothing(play):
    about = play(AUDIT)
    assert {row["status"] for row in about.settings.values()} == {"ok"}
    assert about.stats["changed"] == 0
