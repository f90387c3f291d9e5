"""After the rollback there is, as before it, nothing of ours."""

from __future__ import annotations


def test_nothing_in_etc_is_different(files_before, files_now):
    assert files_now == files_before


def test_no_unit_is_left(host):
    assert "precog-fleet-cpu" not in host.check_output("systemctl list-unit-files --no-legend --no-pager")
