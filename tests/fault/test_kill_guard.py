"""SIGKILL, of a rollout and then of the guard: its next start brings the host back to the release that was good."""

from __future__ import annotations

import shutil

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._miner import guard as miner_guard
from ansible_collections.precog.fleet.tests.fault.killing import killed_before
from ansible_collections.precog.fleet.tests.fault.test_kill_rollout import (
    BAD,
    CALLS,
    PLANS,
    check_comes,
    check_fails_well,
    check_is,
    check_not_torn,
    rolls,
)
from ansible_collections.precog.fleet.tests.unit.made_systemd import (
    MadeSystemd,
    gate_of,
    know,
    make_systemd,
    store_of,
)


def watch(host: MadeSystemd) -> None:
    guard = miner_guard.Guard("/opt/precog", str(host.tree), host.run)
    guard.watch()
    assert guard.faults == []


@pytest.fixture
def make(memory, monkeypatch):
    """Make a host that has these releases, by copying the first of its kind."""
    made = 0

    def fresh(*releases, cut_at=None):
        nonlocal made
        made += 1
        place, first = memory / f"host-{made}", memory / "-".join(["begin", *releases])
        host = MadeSystemd(place) if first.exists() else make_systemd(place)
        host.bad[BAD.instances[-1].digest] = "it answers wrongly"
        know(host, *PLANS.values())
        gate_of(host, monkeypatch)
        if first.exists():
            shutil.copytree(first, place, symlinks=True)
            host.recall(first.with_suffix(".systemd"))
        else:
            for release in releases:
                assert rolls(release)(host).failure == ""
            shutil.copytree(place, first, symlinks=True)
            host.keep(first.with_suffix(".systemd"))
        if cut_at is not None:
            killed_before(cut_at, host, rolls("second"), CALLS)
        return host

    return fresh


def check_back(host, *good):
    """What was good runs, and nothing else; where nothing was, nothing does."""
    past = store_of(host).past()
    assert past.trying == ""
    if past.good:
        check_is(host, PLANS[past.good[-1]])
        assert past.good == good or past.good[-1] == "second"
    else:
        check_not_torn(host)
        assert (host.current(), host.running(), host.listens(), host.enabled()) == ("", {}, {}, [])


@pytest.mark.full
@pytest.mark.parametrize("good", [(), ("first",)])
def test_rollout_killed_before_any_call_is_gone_back_from(make, good):
    for call in range(2000):
        host = make(*good)
        killed = killed_before(call, host, rolls("second"), CALLS)
        if store_of(host).past().trying:
            if call % 2:
                host.reboot()
            watch(host)
            check_back(host, *good)
            if call % 5 == 0:
                check_comes(host, "second")
        if not killed:
            assert call > 20
            return
    raise AssertionError("the run never ends")


@pytest.mark.full
@pytest.mark.parametrize("good", [(), ("first",)])
def test_guard_killed_before_any_call_does_the_rest_at_its_next_start(make, good):
    longest = next(call for call in range(1, 2000) if not killed_before(call, make(*good), rolls("second"), CALLS))
    # In the midst of the start of its instances, and at its end.
    cuts = [cut for cut in (longest * 2 // 3, longest - 1) if store_of(make(*good, cut_at=cut)).past().trying]
    assert cuts
    for cut_at in cuts:
        for call in range(2000):
            host = make(*good, cut_at=cut_at)
            killed = killed_before(call, host, watch, CALLS)
            check_not_torn(host)
            if call % 3 == 0:
                # A run that comes before the guard's next start.
                check_comes(host, "second")
            elif call % 3 == 1 and good:
                watch(host)
                check_fails_well(host)
            else:
                watch(host)
                check_back(host, *good)
            if not killed:
                break
        assert call > 10
