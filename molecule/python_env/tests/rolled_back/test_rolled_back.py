"""After the rollback: as before, and a second one changes nothing."""

from __future__ import annotations


def test_nothing_is_left(host, is_as_recorded):
    assert is_as_recorded()
    assert not host.file("/opt/precog").exists
    assert not host.file("/var/cache/precog-fleet").exists


def test_a_second_rollback_changes_nothing(roll_back):
    assert roll_back().stats["changed"] == 0
