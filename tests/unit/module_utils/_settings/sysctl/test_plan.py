"""The plan for sysctl keys, without any host: parameters over a profile, and what comes of each state."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._engine.ledger import Original
from ansible_collections.precog.fleet.plugins.module_utils._host import kernel
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl.files import Fragment
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl.plan import make_plan
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl.request import Request, understand
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl.state import KeyState, State

OWNER = "/etc/sysctl.d/99-zz-precog-fleet.conf"
PROFILE = {"vm.swappiness": 10, "net.ipv4.tcp_rmem": [4096, 65536, 134217728], "net.ipv4.ip_forward": 0}
PATHS = {"vm/swappiness": "10", "net/ipv4/tcp_rmem": "4096 65536 134217728", "net/ipv4/ip_forward": "0"}

# parameters, what is desired other than the profile's, what is no longer, what is removed, names of bad ones
UNDERSTOOD = [
    ({}, {}, [], set(), []),
    ({"vm.swappiness": 1}, {"vm/swappiness": "1"}, [], set(), []),
    ({"vm/swappiness": "1"}, {"vm/swappiness": "1"}, [], set(), []),
    ({"vm.swappiness": None}, {}, ["vm/swappiness"], {"vm/swappiness"}, []),
    ({"kernel.panic": 5}, {"kernel/panic": "5"}, [], set(), []),
    ({"kernel.panic": None}, {}, [], {"kernel/panic"}, []),
    ({"net.ipv4.conf.all.forwarding": 1}, {"net/ipv4/conf/all/forwarding": "1"}, ["net/ipv4/ip_forward"], set(), []),
    (
        {"net.ipv4.conf.all.forwarding": None},
        {},
        ["net/ipv4/ip_forward"],
        {"net/ipv4/conf/all/forwarding"},
        [],
    ),
    ({"vm.swappiness": True}, {}, ["vm/swappiness"], set(), ["vm.swappiness"]),
    ({"vm.swappiness": 1, "vm/swappiness": 2}, {}, ["vm/swappiness"], set(), ["vm.swappiness", "vm/swappiness"]),
    ({"vm.swappiness": 1, "vm/swappiness": 1}, {}, ["vm/swappiness"], set(), ["vm.swappiness", "vm/swappiness"]),
    ({"vm.swappiness": None, "vm/swappiness": 1}, {}, ["vm/swappiness"], set(), ["vm.swappiness", "vm/swappiness"]),
    ({"../x": 1, 5: 1}, {}, [], set(), ["../x", "5"]),
]


@pytest.mark.parametrize(("parameters", "more", "gone", "removed", "bad"), UNDERSTOOD)
def test_parameters_go_over_the_profile(parameters, more, gone, removed, bad):
    request = understand(PROFILE, parameters)
    assert request.desired == {**{path: value for path, value in PATHS.items() if path not in gone}, **more}
    assert request.removed == removed
    assert [one.name for one in request.bad] == bad


def test_what_is_refused_is_held_not_released():
    assert understand(PROFILE, {"vm.swappiness": {}}).held == {"vm/swappiness"}
    assert understand(PROFILE, {"net.ipv4.conf.all.forwarding": True}).held == {"net/ipv4/ip_forward"}
    assert understand(PROFILE, {"vm.swappiness": 1}).held == frozenset()


MACHINE = kernel.Kernel(None, own_network=False, own_ipc=False, own_uts=False)
NOTE = Original("60", None, "now", "10")


def state(keys, **changes):
    defaults = {"kernel": MACHINE, "fragments": (), "own_lines": {}, "originals": {}, "boot": "now"}
    defaults |= {"nearest": {}, "congestion": frozenset(), "modules": {}, "loaded": True, "request": Request({})}
    return State(keys=keys, **{**defaults, **changes})


def plan(found, desired, **request):
    return make_plan(found, Request(desired, **request), owner=OWNER, apply_shared=False)


def key(value, *, writable=True):
    return KeyState(exists=True, value=value, writable=writable)


SWAP = "vm/swappiness"
MANAGED = {"originals": {"vm.swappiness": NOTE}, "own_lines": {SWAP: "10"}}
# state, desired, status, writes, line, whether an original is noted
PLANS = [
    (state({SWAP: key("60")}), {SWAP: "10"}, "changed", ["10"], "10", True),
    (state({SWAP: key("10")}), {SWAP: "10"}, "changed", [], "10", True),
    (state({SWAP: key("10")}, **MANAGED), {SWAP: "10"}, "ok", [], "10", False),
    (state({SWAP: key("10")}, **MANAGED), {SWAP: "0xa"}, "ok", [], "0xa", False),
    (state({SWAP: key("33")}, **MANAGED), {SWAP: "10"}, "drifted", ["10"], "10", False),
    (state({SWAP: key("10")}, **MANAGED), {SWAP: "20"}, "changed", ["20"], "20", False),
    (state({SWAP: key("10")}, **{**MANAGED, "own_lines": {}}), {SWAP: "10"}, "drifted", [], "10", False),
    (state({SWAP: key("60", writable=False)}), {SWAP: "10"}, "unsupported", [], None, False),
    (state({SWAP: KeyState(exists=False)}, nearest={SWAP: ""}), {SWAP: "10"}, "unknown", [], None, False),
    (state({SWAP: KeyState(exists=True, action=True)}), {SWAP: "10"}, "refused", [], None, False),
    (state({SWAP: key("60")}), {SWAP: "ten"}, "refused", [], None, False),
    (state({SWAP: key("10")}, **MANAGED), {SWAP: "ten"}, "refused", [], "10", False),
    (state({SWAP: key("10")}, **MANAGED), {}, "changed", ["60"], None, False),
    (state({SWAP: key("60")}, **MANAGED), {}, "changed", [], None, False),
    (state({SWAP: KeyState(exists=False)}, nearest={SWAP: ""}, **MANAGED), {}, "changed", [], None, False),
    (state({SWAP: key("10", writable=False)}, **MANAGED), {}, "changed", [], None, False),
    # a note of a run that was cut off: in this boot it stands, in another it is void unless the file has the line
    (
        state({SWAP: key("10")}, originals={"vm.swappiness": Original("60", None, "now")}),
        {SWAP: "10"},
        "changed",
        [],
        "10",
        False,
    ),
    (
        state({SWAP: key("60")}, originals={"vm.swappiness": Original("7", None, "old")}),
        {SWAP: "10"},
        "changed",
        ["10"],
        "10",
        True,
    ),
    (
        state({SWAP: key("10")}, originals={"vm.swappiness": Original("60", None, "old")}, own_lines={SWAP: "10"}),
        {SWAP: "10"},
        "ok",
        [],
        "10",
        False,
    ),
]


@pytest.mark.parametrize(("found", "desired", "status", "writes", "line", "noted"), PLANS)
def test_the_plan_of_one_key(found, desired, status, writes, line, noted):
    (change,) = plan(found, desired).changes
    assert change.status == status
    assert [value for _path, value in change.writes] == writes
    assert change.line == line
    assert (change.original is not None) is noted
    assert change.forget is not bool(desired)


def test_the_original_has_what_others_configured():
    others = [Fragment("/etc/sysctl.d/10-x.conf", "vm.swappiness = 70\n"), Fragment(OWNER, "vm.swappiness = 5\n")]
    (change,) = plan(state({SWAP: key("42")}, fragments=others), {SWAP: "10"}).changes
    assert change.original == Original("42", "70", "now")
    assert change.persisted_before == "5"


def test_what_is_held_keeps_its_line():
    found = state({SWAP: key("10")}, **MANAGED)
    made = plan(found, {}, held=frozenset({SWAP}))
    assert (made.changes, made.kept) == ([], {"vm.swappiness": "10"})


def test_a_switch_between_counterparts_passes_the_original_on():
    keys = {"vm/dirty_bytes": key("4096"), "vm/dirty_ratio": key("0")}
    note = Original("0", None, "now", "4096", companions={"vm/dirty_ratio": "20"})
    made = plan(state(keys, originals={"vm.dirty_bytes": note}), {"vm/dirty_ratio": "10"})

    ratio, released = sorted(made.changes, key=lambda change: change.forget)
    assert ratio.original == Original("20", None, "now", companions={"vm/dirty_bytes": "0"})
    assert (released.name, released.forget, released.writes) == ("vm.dirty_bytes", True, ())


def test_giving_back_0_of_a_pair_is_done_by_its_counterpart():
    """Trap: writing 0 to dirty_bytes is EINVAL."""
    keys = {"vm/dirty_bytes": key("4096"), "vm/dirty_ratio": key("0")}
    note = Original("0", None, "now", "4096", companions={"vm/dirty_ratio": "20"})
    (change,) = plan(state(keys, originals={"vm.dirty_bytes": note}), {}).changes
    assert change.writes == (("/proc/sys/vm/dirty_ratio", "20"),)
    assert change.undo == (("/proc/sys/vm/dirty_bytes", "4096"),)


def test_ip_forward_gives_interfaces_back_too():
    base = "net/ipv4/conf"
    keys = {
        "net/ipv4/ip_forward": key("1"),
        f"{base}/eth0/forwarding": key("1"),
        f"{base}/eth1/forwarding": key("1"),
        f"{base}/all/accept_redirects": key("0"),
    }
    before = {f"{base}/eth0/forwarding": "1", f"{base}/eth1/forwarding": "0", f"{base}/all/accept_redirects": "1"}
    note = Original("0", None, "now", "1", companions={**before, f"{base}/gone/forwarding": "1"})
    (change,) = plan(state(keys, originals={"net.ipv4.ip_forward": note}), {}).changes
    assert change.writes == (("/proc/sys/net/ipv4/ip_forward", "0"), (f"/proc/sys/{base}/eth0/forwarding", "1"))
