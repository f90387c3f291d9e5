"""After the rollback and a reboot: the machine is what it was before the first run, byte for byte."""

from __future__ import annotations

import json

import pytest

# The kernel computes these from the memory that is free early in a boot, which differs by a page or so.
COMPUTED = ("vm.user_reserve_kbytes", "net.ipv4.tcp_mem", "net.ipv4.udp_mem")


@pytest.fixture(scope="module")
def states(look, originals):
    """The state from before the first run, and that of now."""
    return json.loads(originals.read_text()), look.state()


def test_it_is_as_before_the_first_run(states):
    before, now = states
    for key in COMPUTED:
        assert key in before["values"]
        before["values"][key] = now["values"][key]
    assert now.keys() == before.keys()
    for part, value in before.items():
        assert now[part] == value, part


def test_nothing_of_ours_is_left(host):
    assert host.check_output("find /etc /var/lib/systemd -name '*precog-fleet*'") == ""
    assert json.loads(host.check_output("cat /var/lib/precog-fleet/ledger.json")) == {
        "version": 1,
        "settings": {},
        "files": {},
    }
