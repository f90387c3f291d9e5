"""An instance that dies, or hangs, is started again; one that can't start is tried again after a pause."""

from __future__ import annotations

import time

import pytest

BACK_S = 30.0  # after a kill, for a client that asks all the time; docs/speed.md has what was measured


def restarts(host, one):
    """How often systemd has started an instance again by itself."""
    return int(host.check_output("systemctl show -P NRestarts %s", one.service))


def test_killed_it_answers_again_in_time(host, miners, back):
    for one in miners:
        before = restarts(host, one)
        assert back("SIGKILL", one) <= BACK_S, one.name
        assert restarts(host, one) == before + 1


@pytest.mark.once("svc-13")
def test_hanging_it_is_killed_by_the_watchdog_and_comes_back(host, miners, back):
    one = miners[-1]
    before = restarts(host, one)
    back("SIGSTOP", one)
    assert restarts(host, one) > before
    journal = host.check_output("journalctl --unit=%s --no-pager -o cat", one.service)
    assert "Watchdog timeout" in journal


TRIES, PATIENCE_S = 5, 60
BROKEN = "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=100ms\n"
# As the role has them, but a third: tries within 20 s, and then a pause of 20 s.
WITHIN, PAUSE = "[Unit]\nStartLimitIntervalSec=20\n", "[Timer]\nOnActiveSec=\nOnActiveSec=20s\n"


@pytest.fixture
def broken(host, miners):
    """An instance whose process ends at once, by drop-ins of an operator's own; called, it is whole again."""
    one, root = miners[-1], "/etc/systemd/system"
    service, timer = f"{root}/{one.service}.d", f"{root}/precog-miner@{one.name}.timer.d"
    parts = {f"{service}/20-broken.conf": BROKEN, f"{service}/20-short.conf": WITHIN, f"{timer}/20-short.conf": PAUSE}
    try:
        host.check_output("mkdir %s", timer)
        for path, text in parts.items():
            host.check_output("printf %s >%s", text, path)
        host.check_output("systemctl daemon-reload")
        yield one, lambda: host.check_output("rm %s && systemctl daemon-reload", f"{service}/20-broken.conf")
    finally:
        host.check_output("rm -rf %s %s/20-*.conf && systemctl daemon-reload", timer, service)
        # A test that failed leaves it failed, and tried as often as systemd allows.
        host.check_output("systemctl reset-failed %s && systemctl start %s", one.service, one.service)


def until(told, wanted):
    """Wait until something is as wanted; fail after a while, with what it is."""
    deadline = time.monotonic() + PATIENCE_S
    while (now := told()) != wanted:
        assert time.monotonic() < deadline, now
        time.sleep(0.2)


@pytest.mark.full
def test_one_that_can_not_start_is_tried_five_times_and_after_a_pause_again(host, broken):
    one, mend = broken
    host.check_output("systemctl reset-failed %s", one.service)
    since = host.check_output("date +%s.%N")

    def said(words):
        return host.check_output("journalctl --since=@%s --unit=%s -o cat", since, one.service).count(words)

    def state(unit):
        return host.check_output("systemctl show -P ActiveState %s", unit)

    host.run("systemctl restart %s", one.service)
    until(lambda: said("Start request repeated too quickly") > 0, True)
    assert said("Main process exited") == TRIES
    assert (state(one.service), state(f"precog-miner@{one.name}.timer")) == ("failed", "active")
    mend()
    until(lambda: state(one.service), "active")


@pytest.mark.once("svc-13")
def test_a_damaged_release_is_mended_by_the_next_run_and_nothing_is_started_again(host, miners, converge):
    pids = [one.pid(host) for one in miners]
    folder = host.check_output("readlink -f /opt/precog/current")
    files = [f"{folder}/instances/{miners[0].name}/start", f"{folder}/units/precog-miner@.service"]
    before = [host.file(path).content_string for path in files]
    host.check_output("echo '# damaged' >>%s && rm %s", *files)
    converge()
    assert [host.file(path).content_string for path in files] == before
    assert host.check_output("stat -c %%a %s", files[0]) == "755"
    assert [one.pid(host) for one in miners] == pids
    assert converge().stats["changed"] == 0
