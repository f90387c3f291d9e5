"""Going back lasts: a release that the operator went back from is not made again by the same inventory."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.tests.unit.made_systemd import (
    gate_of,
    instance,
    inventory_of,
    know,
    made_plan,
    make_systemd,
    roll,
    store_of,
)

FIRST, SECOND, THIRD = (instance("one", version, 8092) for version in ("first", "second", "third"))


@pytest.fixture
def host(memory, monkeypatch):
    made = make_systemd(memory / "host")
    know(made, made_plan("first", FIRST), made_plan("second", SECOND), made_plan("third", THIRD))
    gate_of(made, monkeypatch)
    return made


@pytest.fixture
def inventory(host, monkeypatch):
    return inventory_of(host, monkeypatch)


@pytest.fixture
def withdrawn(host, inventory):
    """A host that went back from the release `second`, because it was told to."""
    assert inventory("first").failure == inventory("second").failure == ""
    assert (roll(host, "previous").failure, host.current()) == ("", "first")
    return host


@pytest.mark.parametrize("check", [True, False])
def test_withdrawn_release_is_refused_with_the_command_that_lifts_it(withdrawn, inventory, check):
    before = withdrawn.known()
    for _time in range(2):
        outcome = inventory("second", check=check)
        assert outcome.failure.endswith("\n-e miner_service_allow_withdrawn=second")
        assert "this host keeps first" in outcome.failure
        assert (outcome.changed, outcome.release) == (False, "second")
        assert outcome.settings[-1]["status"] == "drifted"
    assert len(outcome.failure.splitlines()) == 3
    assert (withdrawn.known(), withdrawn.current()) == (before, "first")


def test_instance_that_somebody_stopped_is_repaired_though_the_inventory_makes_a_withdrawn_release(
    withdrawn, inventory
):
    withdrawn.run(["systemctl", "stop", "precog-miner@one.service"])
    audited = inventory("second", check=True)
    assert (audited.changed, withdrawn.running()) == (True, {})
    outcome = inventory("second")
    assert "was withdrawn" in outcome.failure
    assert (set(withdrawn.running()), withdrawn.current()) == ({"one"}, "first")
    assert {row["name"]: row["status"] for row in outcome.settings}["miner:one"] == "changed"


def test_operator_can_lift_it(withdrawn, inventory):
    assert inventory("second", allow_withdrawn="first").failure
    assert (inventory("second", allow_withdrawn="second").failure, withdrawn.current()) == ("", "second")
    assert not inventory("second").changed


@pytest.mark.parametrize("other", ["first", "third"])
def test_inventory_that_makes_another_release_lifts_it(withdrawn, inventory, other):
    assert (inventory(other).failure, withdrawn.current()) == ("", other)
    assert not inventory(other).changed
    assert (inventory("second").failure, withdrawn.current()) == ("", "second")


def test_another_release_that_is_rejected_does_not_lift_it(withdrawn, inventory):
    withdrawn.bad[THIRD.digest] = "it answers wrongly"
    assert inventory("third").failure
    assert inventory("third", check=True).changed
    assert "was withdrawn" in inventory("second").failure


def test_asking_again_to_go_back_does_not_lift_it(withdrawn, inventory):
    assert not roll(withdrawn, "previous").changed
    assert "was withdrawn" in inventory("second").failure


def test_going_further_back_does_not_lift_it(withdrawn, inventory):
    assert inventory("third").failure == ""
    assert (roll(withdrawn, "previous").failure, withdrawn.current()) == ("", "first")
    store_of(withdrawn).note(store_of(withdrawn).past()._replace(good=("zero", "first")))
    know(withdrawn, made_plan("zero", instance("one", "zero", 8092)))
    assert (roll(withdrawn, "zero").failure, withdrawn.current()) == ("", "zero")
    for release in ("third", "first"):
        assert "was withdrawn" in inventory(release).failure


def test_release_that_its_gate_rejected_may_be_tried_again_until_the_operator_goes_back(host, inventory):
    assert inventory("first").failure == ""
    host.bad[SECOND.digest] = "it answers wrongly"
    assert inventory("second").failure
    assert inventory("second").failure
    assert not roll(host, "previous").changed
    assert "was withdrawn" in inventory("second").failure


def test_release_that_a_killed_run_had_begun_is_withdrawn_by_going_back(host, inventory):
    assert inventory("first").failure == ""
    store = store_of(host)
    store.save(host.plans["second"], {})
    store.note(store.past()._replace(trying="second"))
    store.switch("second")
    assert (roll(host, "previous").failure, host.current()) == ("", "first")
    assert "was withdrawn" in inventory("second").failure
