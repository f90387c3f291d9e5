"""An instance that dies, or hangs, is started again. How long that takes is printed; the figure is for the reader."""

from __future__ import annotations


def back(host, signal, one, capsys):
    """Hit an instance, and wait until another process of it answers; return how often systemd has started it again."""
    seconds = host.check_output("python3 /var/lib/molecule/back.py %s %s %s", signal, one.service, str(one.port))
    with capsys.disabled():
        print(f"\n{one.engine} on {host.backend.get_hostname()}: answers {seconds} s after {signal}")
    return int(host.check_output("systemctl show -P NRestarts %s", one.service))


def test_killed_it_comes_back(host, miners, capsys):
    for one in miners:
        assert back(host, "SIGKILL", one, capsys) > 0


def test_hanging_it_is_killed_by_the_watchdog_and_comes_back(host, miners, capsys):
    one = miners[-1]
    assert back(host, "SIGSTOP", one, capsys) > 0
    journal = host.check_output("journalctl --unit=%s --no-pager -o cat", one.service)
    assert "Watchdog timeout" in journal
