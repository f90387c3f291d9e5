"""What the playbooks' filters return: whether a release has to wait, and which names are one machine."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.precog.fleet.plugins.filter.one_machine import one_machine
from ansible_collections.precog.fleet.plugins.filter.rollout_hold import rollout_hold
from ansible_collections.precog.fleet.plugins.module_utils._settings import audit

TWELVE = [f"m{number}" for number in range(12)]


@pytest.mark.parametrize(
    ("count", "tolerated", "waits"),
    [
        (0, 0, False),
        (1, 0, True),
        (1, 1, False),
        (2, "1", True),
        (1, "5%", True),
        (1, "10%", False),
        (12, "100%", False),
        (0, "0%", False),
        (2, "12.5%", True),
    ],
)
def test_a_release_waits_for_more_hosts_than_are_tolerated(count, tolerated, waits):
    assert bool(rollout_hold(TWELVE[:count], 12, tolerated)) == waits


def test_the_reason_names_the_hosts_the_setting_and_what_to_do():
    assert rollout_hold(TWELVE[:6], 12, "5%") == (
        "6 of 12 miners could not be reached (m0, m1, m2, m3, m4 and 1 more), and miner_rollout_tolerated is 5%. "
        "Repair them, leave them out with --limit 'miners:!m0:!m1:!m2:!m3:!m4:!m5', or allow as many with "
        "-e miner_rollout_tolerated=6"
    )


@pytest.mark.parametrize("tolerated", ["some", "-1", "", None, True, "5 %", [1]])
def test_a_tolerance_that_is_neither_number_nor_share_is_refused(tolerated):
    with pytest.raises(AnsibleFilterError, match=r"miner_rollout_tolerated is .*: give the number of hosts"):
        rollout_hold([], 12, tolerated)


@pytest.mark.parametrize(
    ("machines", "twins"),
    [
        ({"a": "1", "b": "2"}, ""),
        ({"a": "", "b": ""}, ""),
        ({"b": "1", "a": "1", "c": "2"}, "a, b are one machine"),
        ({"a": "1", "b": "1", "c": "2", "d": "2"}, "c, d are one machine"),
    ],
)
def test_names_of_one_machine_are_found(machines, twins):
    told = one_machine(machines)
    assert (twins in told) if twins else told == ""
    assert len(told.splitlines()) <= 10


def test_many_machines_with_two_names_are_told_in_ten_lines():
    told = one_machine({f"{name}{number}": str(number) for number in range(50) for name in "ab"})
    assert len(told.splitlines()) <= 10
    assert "and 43 more machines" in told


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("id", "boot"), ("id", "boot"), True),
        (("id", "boot"), ("id", "x"), False),
        (("id", "boot"), ("x", "boot"), False),
    ],
    ids=["the same", "a clone", "a container beside it"],
)
def test_a_machine_is_known_by_its_id_and_its_boot(host, one, other, same):
    def identity(machine: str, boot: str) -> str:
        host.stage(audit.MACHINE_ID, machine.encode()).commit()
        host.stage(audit.BOOT_ID, boot.encode()).commit()
        return audit.identity(host)

    assert (identity(*one) == identity(*other)) == same
    assert len(identity(*one)) == 16
