"""After the rollback: byte for byte and value for value what an independent record says was there before."""

from __future__ import annotations

import json


def test_all_files_below_etc_are_as_before(host, originals):
    assert originals.now(host).files == originals.files


def test_all_values_are_as_before(host, originals):
    assert originals.now(host).values == originals.values


def test_nothing_is_left_in_the_ledger(host):
    ledger = json.loads(host.file("/var/lib/precog-fleet/ledger.json").content_string)
    assert ledger["settings"] == {}
    assert ledger["files"] == {}


def test_no_key_of_the_machine_underneath_moved(machine_before, machine_now):
    assert {key: value for key, value in machine_now.items() if machine_before.get(key, value) != value} == {}


def test_a_second_rollback_changes_nothing(roll_back):
    assert roll_back().stats["changed"] == 0
