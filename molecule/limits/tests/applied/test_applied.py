"""After the role has run: what logins get, what services get, and what systemd and the files say."""

from __future__ import annotations

import pytest

PAM = "/etc/security/limits.d/99-zz-precog-fleet.conf"
MANAGER = "/etc/systemd/system.conf.d/99-zz-precog-fleet.conf"
DROP_IN = "/etc/systemd/system/molecule-miner.service.d/99-zz-precog-fleet.conf"
LIMITS = "ulimit -Sn; ulimit -Hn"


def test_a_user_who_logs_in_over_ssh_has_the_limits_of_everyone(log_in):
    assert log_in(LIMITS).split() == ["4096", "8192"]
    assert log_in("ulimit -Hc") == "0"


@pytest.mark.parametrize("become", ["sudo -i", "sudo su", "sudo su -"])
def test_root_has_his_own(log_in, become):
    assert log_in(f"echo '{LIMITS}' | {become}").split() == ["3000", "6000"]


def test_a_service_that_starts_now_has_the_defaults(host, open_files):
    shown = host.check_output("systemd-run --quiet --wait --pipe cat /proc/self/limits")
    assert open_files(shown) == (2048, 16384)


def test_systemd_has_read_the_defaults(host):
    shown = host.check_output("systemctl show -p DefaultLimitNOFILE -p DefaultLimitNOFILESoft")
    assert set(shown.split()) == {"DefaultLimitNOFILE=16384", "DefaultLimitNOFILESoft=2048"}


@pytest.mark.parametrize("path", [PAM, MANAGER, DROP_IN])
def test_files_are_roots_and_for_all_to_read(host, path):
    file = host.file(path)
    assert (file.user, file.group, file.mode) == ("root", "root", 0o644)


def test_no_other_file_was_touched(etc_now, etc_before):
    now = etc_now()
    assert set(now) - set(etc_before) == {PAM, MANAGER, DROP_IN}
    assert {path: now.get(path) for path in etc_before} == etc_before


def test_originals_are_for_root_only(host):
    assert host.file("/var/lib/precog-fleet/ledger.json").mode == 0o600


def test_the_guides_own_lines_are_told_and_left_alone(host, converge):
    row = converge().settings["pam:*:nofile"]
    assert row["status"] == "ok"
    assert "the guide's lines stand in /etc/security/limits.conf" in row["reason"]
    assert host.file("/etc/security/limits.conf").content_string.count("nofile 65536") == 4


def test_trap_a_limit_that_can_not_take_effect_is_told_and_not_written(host, converge, open_files):
    """Whether it can is asked of the kernel itself: systemd takes 65536 without a word, and may give less."""
    shown = host.check_output("systemd-run --quiet --wait --pipe -p LimitNOFILE=65536 cat /proc/self/limits")
    given = open_files(shown)[1]
    row = converge().settings["pam:nobody:nofile"]
    assert (row["status"] == "unsupported") == (given < 65536)
    assert (str(given) in row["reason"]) == (given < 65536)
    assert ("nobody" in host.file(PAM).content_string) == (given == 65536)


def test_a_running_service_is_left_running_and_a_restart_brings_its_limits(host, converge, family, open_files):
    name = "unit:molecule-miner.service:LimitNOFILE"
    before = family()
    assert len(before) == 2
    row = converge().settings[name]
    assert family() == before
    if open_files(before[0]) != (5000, 10000):
        assert "a restart brings it to the running processes" in row["reason"]
        assert all(f"{pid} has {':'.join(map(str, open_files(pid)))}" in row["reason"] for pid in before)
    host.check_output("systemctl restart molecule-miner.service")
    assert {open_files(pid) for pid in family()} == {(5000, 10000)}
    again = converge()
    assert (again.settings[name]["status"], again.settings[name]["reason"]) == ("ok", "")
    assert again.stats["changed"] == 0
