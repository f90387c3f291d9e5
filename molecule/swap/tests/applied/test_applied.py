"""In a container swap is the machine's: the role says so, and touches nothing."""

from __future__ import annotations

import pytest


def test_no_file_and_no_area_is_touched(is_as_recorded):
    assert is_as_recorded()


@pytest.mark.parametrize("mode", ["off", "on"])
def test_the_role_says_whose_swap_it_is(converge, is_as_recorded, mode):
    about = converge({"swap_mode": mode})
    (row,) = about.settings.values()
    assert (row["name"], row["desired"], row["status"]) == ("swap", mode, "unsupported")
    assert row["reason"].startswith("shared kernel")
    assert about.stats["changed"] == 0
    assert is_as_recorded()


def test_an_empty_file_masks_a_unit_of_this_systemd(host):
    """How units are kept off where swap is the host's own; the same for every kind of unit."""
    host.check_output("touch /run/systemd/system/precog-empty.service && systemctl daemon-reload")
    try:
        assert host.check_output("systemctl show -P LoadState precog-empty.service") == "masked"
    finally:
        host.check_output("rm /run/systemd/system/precog-empty.service && systemctl daemon-reload")
