"""SIGKILL in the midst of a rollout: the next run brings the host to the release that is wanted, whichever that is."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from typing import NamedTuple

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._miner import report
from ansible_collections.precog.fleet.plugins.module_utils._miner import run as miner
from ansible_collections.precog.fleet.tests.fault.killing import killed_before
from ansible_collections.precog.fleet.tests.unit.made_systemd import (
    PARAMS,
    TEMPLATE,
    UNITS,
    MadeSystemd,
    gate_of,
    instance,
    know,
    made_plan,
    make_systemd,
    roll,
)

SEED = int(os.environ.get("PRECOG_FLEET_SEED") or 55)
TURNS = int(os.environ.get("PRECOG_FLEET_TURNS") or 30)  # for each moment
# What changes anything that others can see; files are written beside, and renamed.
CALLS = ("rename", "unlink", "symlink", "mkdir", "rmdir")
GATE = {"drain_s": 0.001}

# The second has the ports of the first swapped, one of another number, another engine at one of them, higher limits,
# and one instance less and one more.
FIRST = made_plan(
    "first",
    instance("one", "1", 8092),
    instance("two", "1", 8093),
    instance("three", "1", 8094),
    instance("four", "1", 8095),
    instance("six", "1", 8096),
)
SECOND = made_plan(
    "second",
    instance("one", "2", 8093),
    instance("two", "2", 8092),
    instance("three", "2", 8094, "upstream"),
    instance("five", "2", 8095),
    instance("six", "2", 8097),
    nofile=4096,
)
# Its first instance is well, the other is not.
BAD = made_plan("bad", instance("one", "bad", 8093), instance("two", "bad", 8092))
PLANS = {plan.release: plan for plan in (FIRST, SECOND, BAD)}


def rolls(release: str) -> Callable[[MadeSystemd], report.Outcome]:
    return lambda host: roll(host, release, gate=GATE)


def withdraw(host: MadeSystemd) -> report.Outcome:
    return miner.withdraw(host, {**PARAMS, "gate": GATE}, check_mode=False)


class Moment(NamedTuple):
    """Which run is killed, and what was run before it."""

    before: tuple[str, ...]
    run: Callable[[MadeSystemd], report.Outcome]


MOMENTS = {
    "first release": Moment((), rolls("first")),
    "next release": Moment(("first",), rolls("second")),
    "bad release": Moment(("first",), rolls("bad")),
    "going back": Moment(("first", "second"), rolls("previous")),
    "absent": Moment(("first",), withdraw),
}


@pytest.fixture(params=MOMENTS)
def moment(request):
    return MOMENTS[request.param]


@pytest.fixture
def make(memory, monkeypatch):
    """Make a host at which a moment begins; each is a copy of the first."""
    made = 0

    def fresh(moment):
        nonlocal made
        made += 1
        place = memory / f"host-{made}"
        host = MadeSystemd(place) if made > 1 else make_systemd(place)
        host.bad[BAD.instances[-1].digest] = "it answers wrongly"
        know(host, *PLANS.values())
        gate_of(host, monkeypatch)
        if made == 1:
            for release in moment.before:
                assert rolls(release)(host).failure == ""
            shutil.copytree(place, memory / "begin", symlinks=True)
            host.keep(memory / "begin.systemd")
        else:
            shutil.copytree(memory / "begin", place, symlinks=True)
            host.recall(memory / "begin.systemd")
        return host

    return fresh


def check_not_torn(host):
    """No link dangles, and what is noted can be read."""
    assert host.current() in {"", *PLANS}
    noted = host.at("/opt/precog/releases.json")
    assert not noted.exists() or set(json.loads(noted.read_text())["good"]) <= {"first", "second"}
    for unit in host.enabled():
        file = unit if unit.endswith(".socket") else TEMPLATE
        assert host.at(f"{UNITS}/{file}").is_file(), f"a boot would look for {unit} and find nothing"


def check_is(host, plan):
    """The host is as if this release had never met any trouble."""
    check_not_torn(host)
    sockets = {one.name: [one.port] for one in plan.instances if one.engine == "runtime"}
    assert host.current() == plan.release
    assert host.running() == {one.name: one.digest for one in plan.instances}
    assert host.listens() == sockets
    services = {f"precog-miner@{one.name}.service" for one in plan.instances}
    assert set(host.enabled()) == services | {f"precog-miner@{name}.socket" for name in sockets}
    ours = {str(path.relative_to(host.at(UNITS))) for path in host.at(UNITS).rglob("*") if path.is_file()}
    assert {name for name in ours if name.startswith("precog-miner@") and "tmp" not in name} == set(plan.units)
    assert not list(host.at("/run/precog-miner").rglob("drain"))
    assert all(host.answers(one) == "" for one in plan.instances)


def check_comes(host, wanted):
    """The next run brings a release about, and one more finds nothing to do."""
    outcome = rolls(wanted)(host)
    assert outcome.failure == ""
    assert {row["status"] for row in outcome.settings} <= {"ok", "changed"}
    check_is(host, PLANS[wanted])
    assert not rolls(wanted)(host).changed
    if outcome.changed:
        assert not [path for path in host.at("/opt/precog/releases").iterdir() if path.name.startswith(".")]


def check_fails_well(host):
    """A bad release is refused still; what was good comes back, and where nothing was, nothing is left."""
    noted = host.at("/opt/precog/releases.json")
    # A host that was about to have nothing has nothing to go back to.
    good = json.loads(noted.read_text())["good"] if host.current() and noted.exists() else []
    outcome = rolls("bad")(host)
    assert "it answers wrongly" in outcome.failure
    if good:
        assert f"back on {good[-1]}, and that is healthy" in outcome.failure
        check_is(host, PLANS[good[-1]])
    else:
        assert "nothing runs on this host" in outcome.failure
        assert (host.current(), host.running(), host.listens(), host.enabled()) == ("", {}, {}, [])


NEXT = (
    lambda host: check_comes(host, "first"),
    lambda host: check_comes(host, "second"),
    check_fails_well,
)


@pytest.mark.full
def test_killed_before_any_call_that_others_see(make, moment):
    for call in range(2000):
        host = make(moment)
        killed = killed_before(call, host, moment.run, CALLS)
        check_not_torn(host)
        NEXT[call % len(NEXT)](host)
        if not killed:
            assert call > 20
            return
    raise AssertionError("the run never ends")


@pytest.mark.full
def test_killed_before_random_calls_up_to_three_times_in_a_row(make, moment):
    choices = random.Random(SEED)
    longest = next(call for call in range(20, 2000, 20) if not killed_before(call, make(moment), moment.run, CALLS))
    others = [rolls("second"), rolls("first"), rolls("bad")]
    kills = 0
    for turn in range(TURNS):
        host = make(moment)
        for run in [moment.run, *choices.sample(others, turn % 3)]:
            kills += killed_before(choices.randrange(longest), host, run, CALLS)
            check_not_torn(host)
        NEXT[choices.randrange(len(NEXT))](host)
    assert kills > TURNS // 2
