"""Somebody changes a tuned host, in our files and by a rival's: one run tells them apart and repairs what is ours."""

from __future__ import annotations

import pytest

PAM = "/etc/security/limits.d/99-zz-precog-fleet.conf"
MANAGER = "/etc/systemd/system.conf.d/99-zz-precog-fleet.conf"
RIVAL = "/etc/security/limits.d/99-zzz-rival.conf"
ROOT, ALL, DEFAULT = "pam:root:nofile", "pam:*:core", "systemd:DefaultLimitNOFILE"


@pytest.fixture(scope="module")
def run(host, converge):
    """The role's run on a host that somebody has changed; the rival is removed again at the end."""
    host.check_output("sed -i 's/6000/5999/' %s", PAM)
    host.check_output("rm %s && systemctl daemon-reexec", MANAGER)
    try:
        host.check_output("echo '* hard core 9' > %s", RIVAL)
        yield converge()
    finally:
        host.check_output("rm -f %s", RIVAL)


def test_drift_on_disk_is_told_and_repaired(run, host, log_in):
    row = run.settings[ROOT]
    assert (row["status"], row["before"], row["after"]) == ("drifted", "3000:5999", "3000:6000")
    assert log_in("echo ulimit -Hn | sudo -i") == "6000"
    assert run.settings[DEFAULT]["status"] == "drifted"
    assert "lost its line" in run.settings[DEFAULT]["reason"]
    shown = host.check_output("systemctl show -p DefaultLimitNOFILE --value")
    assert shown.strip() == "16384"


def test_a_file_that_wins_is_named_and_does_win(run, log_in):
    row = run.settings[ALL]
    assert (row["status"], row["persisted"]) == ("overridden", "0:9")
    assert f"{RIVAL}:1 gives hard 9" in row["reason"]
    assert log_in("ulimit -Hc") != "0"


@pytest.mark.usefixtures("run")
def test_a_run_with_nothing_to_do_says_so(converge):
    again = converge()
    assert again.stats["changed"] == 0
    assert {row["status"] for row in again.settings.values()} <= {"ok", "overridden", "unsupported"}
