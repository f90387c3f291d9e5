"""After the rollback: byte for byte what an independent record says was there before, and logins as before."""

from __future__ import annotations

import json


def test_all_files_below_etc_are_as_before(etc_now, etc_before):
    assert etc_now() == etc_before


def test_systemd_has_its_own_defaults_again(host):
    shown = host.check_output("systemctl show -p DefaultLimitNOFILE -p DefaultLimitNOFILESoft")
    assert shown == host.file("/var/lib/molecule/defaults").content_string.strip()


def test_our_limits_are_gone_from_logins_and_new_services(log_in, host, open_files):
    assert log_in("ulimit -Hn") != "8192"
    assert log_in("echo ulimit -Hn | sudo -i") != "6000"
    shown = host.check_output("systemd-run --quiet --wait --pipe cat /proc/self/limits")
    assert open_files(shown)[0] != 2048


def test_the_service_starts_without_its_drop_in(host, family, open_files):
    host.check_output("systemctl restart molecule-miner.service")
    assert {open_files(pid) for pid in family()} != {(5000, 10000)}


def test_nothing_is_left_in_the_ledger(host):
    ledger = json.loads(host.file("/var/lib/precog-fleet/ledger.json").content_string)
    assert (ledger["settings"], ledger["files"]) == ({}, {})


def test_a_second_rollback_changes_nothing(roll_back):
    assert roll_back().stats["changed"] == 0
