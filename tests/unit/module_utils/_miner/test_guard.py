"""The guard: a host on which a rollout was cut short goes back by itself, and is otherwise left alone."""

import fcntl
import json
import subprocess

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host import host as host_module
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import compare, drain, guarded, rollout, run, units
from ansible_collections.precog.fleet.plugins.module_utils._miner import guard as miner_guard
from ansible_collections.precog.fleet.tests.unit.made_systemd import (
    PARAMS,
    TEMPLATE,
    UNITS,
    gate_of,
    instance,
    know,
    made_plan,
    make_systemd,
    roll,
    store_of,
)

ROOT = "/opt/precog"
OLD = made_plan("old", instance("one", "old", 8092), instance("two", "old", 8093), instance("three", "old", 8094))
# Two ports swapped, one engine without a socket, one instance less and one more.
NEW = made_plan(
    "new", instance("one", "new", 8093), instance("two", "new", 8092, "upstream"), instance("four", "new", 8095)
)


class Killed(BaseException):
    """What ends a run without any clean-up of its own."""


@pytest.fixture
def host(memory, monkeypatch):
    """A host on which no miner was ever."""
    made = make_systemd(memory / "host")
    know(made, OLD, NEW)
    gate_of(made, monkeypatch)
    return made


@pytest.fixture
def cut_short(host, monkeypatch):
    """Rolls a release out in a run that is killed at its gate: all that ran of it goes on running."""

    def cut(release):
        def kill(*_about):
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(rollout.ask, "wait_ready", kill)
            roll(host, release)
        host.asked.clear()

    return cut


def guard_of(host):
    return miner_guard.Guard(ROOT, str(host.tree), host.run)


def watch(host):
    """Have the guard look once, as its timer does; return it."""
    guard = guard_of(host)
    guard.watch()
    return guard


def check_runs(host, plan):
    """The host is as if no other release had ever come."""
    sockets = {one.name: [one.port] for one in plan.instances if one.engine == "runtime"}
    assert host.current() == plan.release
    assert host.running() == {one.name: one.digest for one in sorted(plan.instances)}
    assert host.listens() == dict(sorted(sockets.items()))
    services = {f"precog-miner@{one.name}.service" for one in plan.instances}
    assert set(host.enabled()) == services | {f"precog-miner@{name}.socket" for name in sockets}
    assert compare.ours(host) == plan.units
    assert all(host.answers(one) == "" for one in plan.instances)


@pytest.mark.parametrize("boot", [False, True])
def test_untested_release_of_a_killed_run_is_gone_back_from(host, cut_short, boot):
    roll(host, "old")
    cut_short("new")
    assert (host.current(), store_of(host).past().trying) == ("new", "new")
    if boot:
        host.reboot()
    guard = watch(host)
    check_runs(host, OLD)
    past = store_of(host).past()
    assert (past.good, past.trying, past.withdrawn) == (("old",), "", "new")
    assert "new did not pass its gate. This host is back on old" in guard.told
    assert guard.faults == []
    assert not roll(host, "old").changed


def test_drain_file_of_a_killed_run_goes_too(host, cut_short):
    roll(host, "old")
    cut_short("new")
    drain.mark(host, "one")
    watch(host)
    check_runs(host, OLD)


def test_release_that_was_good_for_no_time_leaves_nothing(host, cut_short):
    cut_short("new")
    guard = watch(host)
    assert (host.current(), host.running(), host.listens(), host.enabled()) == ("", {}, {}, [])
    assert compare.ours(host) == {}
    assert store_of(host).past().trying == ""
    assert "nothing runs now" in guard.told
    assert roll(host, "new").failure == ""


def test_nothing_is_done_while_a_run_holds_the_lock(host, cut_short):
    roll(host, "old")
    cut_short("new")
    path = host.at(miner_guard.LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        guard = watch(host)
    assert (guard.told, host.asked, host.current()) == ("", [], "new")
    watch(host)
    check_runs(host, OLD)


def test_nothing_is_done_without_a_run_that_was_cut_short(host):
    watch(host)
    roll(host, "old")
    host.asked.clear()
    assert (watch(host).told, host.asked) == ("", [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"good": 1, "trying": "new"}', '{"good": []}'])
def test_nothing_is_done_on_a_past_that_can_not_be_read(host, text):
    roll(host, "old")
    host.at(f"{ROOT}/releases.json").write_text(text)
    host.asked.clear()
    assert (watch(host).told, host.asked) == ("", [])


def test_repair_of_a_good_release_is_left_to_the_next_run(host):
    """It was good before: what is on its way to it, or back to it, is nothing untested."""
    roll(host, "old")
    roll(host, "new")
    store_of(host).note(store_of(host).past()._replace(trying="old"))
    host.asked.clear()
    assert (watch(host).told, host.asked, store_of(host).past().trying) == ("", [], "old")


def test_untested_release_is_left_for_the_good_one_that_the_next_run_was_on_its_way_to(host, cut_short):
    roll(host, "old")
    cut_short("new")
    store_of(host).note(store_of(host).past()._replace(trying="old"))
    watch(host)
    check_runs(host, OLD)
    assert store_of(host).past().trying == "old"  # the next run gates it
    host.asked.clear()
    assert (watch(host).told, host.asked) == ("", [])


def test_good_release_that_is_no_longer_whole_is_passed_over(host, cut_short):
    third = made_plan("third", instance("one", "third", 8092))
    know(host, third)
    for release in ("old", "third"):
        roll(host, release)
    cut_short("new")
    host.at(f"{ROOT}/releases/third/instances/one/start").unlink()
    watch(host)
    check_runs(host, OLD)


def test_one_instance_that_can_not_start_keeps_no_other_from_it(host, cut_short):
    roll(host, "old")
    cut_short("new")
    host.broken["restart precog-miner@one.socket"] = HostError("Address already in use")
    guard = watch(host)
    assert guard.faults == ["one could not be started: Address already in use"]
    assert set(host.running()) >= {"two", "three"}
    assert store_of(host).past().trying == ""


def test_what_systemd_refuses_is_tried_again(host, cut_short):
    roll(host, "old")
    cut_short("new")
    host.broken["daemon-reload"] = HostError("systemd said no")
    with pytest.raises(HostError):
        watch(host)
    assert (host.current(), store_of(host).past().trying) == ("old", "new")
    host.broken.clear()
    watch(host)
    check_runs(host, OLD)


def test_no_command_waits_for_a_unit_that_waits_for_the_guard(host, cut_short):
    roll(host, "old")
    cut_short("new")
    watch(host)
    starts = [line for line in host.asked if "start " in line and line.endswith(".service")]
    assert starts
    assert all("--no-block" in line for line in starts)


def test_past_is_written_as_the_store_writes_it(host, cut_short):
    roll(host, "old")
    cut_short("new")
    watch(host)
    written = host.at(f"{ROOT}/releases.json").read_text()
    store_of(host).note(store_of(host).past())
    assert host.at(f"{ROOT}/releases.json").read_text() == written
    assert set(json.loads(written)) == {"good", "trying", "withdrawn", "unsure", "barred"}


def test_its_places_are_those_of_the_module():
    """It imports nothing of ours."""
    assert miner_guard.LOCK == rollout.LOCK
    assert miner_guard.UNIT_ROOT == units.UNIT_ROOT
    assert miner_guard.RUN == units.RUN
    assert f"{miner_guard.PREFIX}.service" == TEMPLATE == compare.TEMPLATE
    assert miner_guard.DROP_IN == compare.DROP_IN
    assert miner_guard.TEMPORARY_SUFFIX == host_module.TEMPORARY_SUFFIX


# -- its installation -------------------------------------------------------------------------------------------------


def test_each_rollout_installs_and_repairs_it(host):
    outcome = roll(host, "old")
    assert [row["status"] for row in outcome.settings if row["name"] == "miner_guard"] == ["changed"]
    program = host.at(f"{ROOT}/guard")
    assert (program.stat().st_mode & 0o777, host.known()["guarded"]) == (0o755, True)
    assert program.read_text().endswith("raise SystemExit(main())\n")
    assert "precog-fleet-guard.timer" in host.at(f"{UNITS}/multi-user.target.d/precog-fleet-guard.conf").read_text()
    assert not roll(host, "old").changed
    program.write_text("")
    assert roll(host, "old", check=True).changed
    assert program.read_text() == ""
    assert roll(host, "old").changed
    assert program.read_text()
    assert not roll(host, "old").changed


def test_it_is_in_place_before_anything_is_switched(host, cut_short):
    roll(host, "old")
    host.at(f"{ROOT}/guard").unlink()
    cut_short("new")
    assert host.at(f"{ROOT}/guard").is_file()


def test_withdrawal_removes_it_first(host):
    roll(host, "old")
    host.asked.clear()
    run.withdraw(host, PARAMS, check_mode=False)
    assert guarded.there(host, ROOT) == []
    assert not host.at(f"{UNITS}/multi-user.target.d").exists()
    assert not host.known()["guarded"]
    changing = [line for line in host.asked if " show " not in line]
    assert changing[0] == "systemctl stop precog-fleet-guard.timer"
    assert not run.withdraw(host, PARAMS, check_mode=False).changed


def test_it_is_started_at_boot_and_then_again_and_again(host):
    roll(host, "old")
    at_boot = host.at(f"{UNITS}/multi-user.target.d/precog-fleet-guard.conf").read_text()
    assert "Wants=precog-fleet-guard.service precog-fleet-guard.timer" in at_boot.splitlines()
    timer = host.at(f"{UNITS}/precog-fleet-guard.timer").read_text().splitlines()
    assert {"OnActiveSec=60s", "OnUnitInactiveSec=60s"} <= set(timer)
    service = host.at(f"{UNITS}/precog-fleet-guard.service").read_text().splitlines()
    assert {"Type=oneshot", f"ExecStart=/usr/bin/python3 -I {ROOT}/guard"} <= set(service)


def test_instances_wait_for_it_at_boot():
    template = units.common(units.Places(ROOT, "/var/lib/precog-miner", "precog-miner", False))[TEMPLATE]
    [after] = [line for line in template.decode().splitlines() if line.startswith("After=")]
    assert "precog-fleet-guard.service" in after


def test_a_command_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(miner_guard, "COMMAND_S", 0.2)
    with pytest.raises(subprocess.TimeoutExpired):
        miner_guard.command(["sleep", "3"])
