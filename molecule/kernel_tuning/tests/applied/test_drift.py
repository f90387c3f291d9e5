"""Somebody changes a tuned host, one key at run time, one on disk, one by a rival file: one run of the role tells
them apart and repairs what is ours to repair."""

from __future__ import annotations

import pytest

FILE = "/etc/sysctl.d/99-zz-precog-fleet.conf"
RIVAL = "/etc/sysctl.d/99-zzz-rival.conf"
AT_RUN_TIME, ON_DISK, OVERRIDDEN = "net.ipv4.tcp_rmem", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_wmem"
WANTED = "4096 65536 134217728"


@pytest.fixture(scope="module")
def file_before(host):
    """The managed file as the scenario has applied it."""
    return host.file(FILE).content_string


@pytest.fixture(scope="module")
def run(host, converge, file_before):
    """The role's run on a host that somebody has changed; the rival is removed again at the end."""
    assert f"{ON_DISK} = 600" in file_before
    host.check_output("sysctl -w %s='4096 5000 6000'", AT_RUN_TIME)
    host.check_output("sed -i 's/= 600/= 777/' %s", FILE)
    try:
        host.check_output("echo '%s = 1 2 3' > %s", OVERRIDDEN, RIVAL)
        yield converge()
    finally:
        host.check_output("rm -f %s", RIVAL)


def test_drift_at_run_time_is_told_and_repaired(run, kernel):
    row = run.settings[AT_RUN_TIME]
    assert (row["status"], row["before"], row["after"]) == ("drifted", "4096 5000 6000", WANTED)
    assert "run time" in row["reason"]
    assert "disk" not in row["reason"]
    assert kernel[AT_RUN_TIME] == WANTED


def test_drift_on_disk_is_told_and_repaired(run, host, file_before):
    row = run.settings[ON_DISK]
    assert (row["status"], row["persisted_before"], row["persisted"]) == ("drifted", "777", "600")
    assert "disk" in row["reason"]
    assert "run time" not in row["reason"]
    assert host.file(FILE).content_string == file_before


def test_a_file_that_wins_at_the_next_boot_is_named(run):
    row = run.settings[OVERRIDDEN]
    assert (row["status"], row["persisted"], row["persisted_by"]) == ("overridden", "1 2 3", f"{RIVAL}:1")
    assert f"{RIVAL}:1" in row["reason"]


@pytest.mark.usefixtures("run")
def test_a_run_with_nothing_to_do_says_so(converge):
    again = converge()
    assert again.stats["changed"] == 0
    assert {row["status"] for row in again.settings.values()} == {"ok", "overridden", "unsupported"}
