"""After the rollback: as before, and a second one changes nothing."""

from __future__ import annotations


def test_no_file_and_no_area_was_touched(is_as_recorded):
    assert is_as_recorded()


def test_a_second_rollback_changes_nothing(roll_back):
    assert roll_back().stats["changed"] == 0
