"""An instance that dies, or hangs, is started again."""

from __future__ import annotations

BACK_S = 5.0  # after a kill, for a client that asks all the time


def restarts(host, one):
    """How often systemd has started an instance again by itself."""
    return int(host.check_output("systemctl show -P NRestarts %s", one.service))


def test_killed_it_answers_again_in_time(host, miners, back):
    for one in miners:
        before = restarts(host, one)
        assert back("SIGKILL", one) <= BACK_S, one.name
        assert restarts(host, one) == before + 1


def test_hanging_it_is_killed_by_the_watchdog_and_comes_back(host, miners, back):
    one = miners[-1]
    before = restarts(host, one)
    back("SIGSTOP", one)
    assert restarts(host, one) > before
    journal = host.check_output("journalctl --unit=%s --no-pager -o cat", one.service)
    assert "Watchdog timeout" in journal
