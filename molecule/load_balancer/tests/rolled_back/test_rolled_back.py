"""After the rollback: no balancer, and a second one changes nothing."""

from __future__ import annotations


def test_nothing_is_left(host):
    assert not host.file("/etc/precog-load-balancer.cfg").exists
    assert not host.file("/etc/systemd/system/precog-load-balancer.service").exists
    assert host.check_output("systemctl show -P LoadState precog-load-balancer.service") == "not-found"
    assert not host.socket("tcp://127.0.0.1:8080").is_listening


def test_a_second_rollback_changes_nothing(roll_back):
    assert roll_back().stats["changed"] == 0
