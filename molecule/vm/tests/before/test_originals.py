"""Before anything is tuned: what the machine is like is written down, and it is worth tuning."""

from __future__ import annotations

import json


def test_the_originals_are_recorded(look, originals):
    state = look.state()
    assert state["values"]["vm.swappiness"] == "60"
    assert {area.split()[0] for area in state["swaps"]} == {"/swapfile", "/srv/extra", "/dev/zram0"}
    assert state["processors"]["policy0 scaling_governor"] == "schedutil"
    assert state["processors"]["policy1 scaling_governor"] == "schedutil"
    assert state["login"]["Max open files"].split()[0] == "1024"
    originals.write_text(json.dumps(state))
