"""A rollout from its beginning to its end, on a made-up host with a systemd: what runs then, and what is told of it."""

import errno
import json

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import compare, drain, rollout, size
from ansible_collections.precog.fleet.plugins.module_utils._miner import run as miner
from ansible_collections.precog.fleet.tests.unit.made_systemd import (
    CAN_NOT_START,
    PARAMS,
    UNITS,
    WANTS,
    gate_of,
    instance,
    know,
    made_plan,
    make_systemd,
    roll,
    statuses,
    store_of,
)

ONE, TWO = instance("one", "old", 8092), instance("two", "old", 8093)
NEW_ONE, NEW_TWO = instance("one", "new", 8092), instance("two", "new", 8093)
OLD = {"one": "old-one-8092", "two": "old-two-8093"}
NEW = {"one": "new-one-8092", "two": "new-two-8093"}
PORTS = {"one": [8092], "two": [8093]}
ENABLED = ["precog-miner@one.service", "precog-miner@one.socket", "precog-miner@two.service", "precog-miner@two.socket"]


@pytest.fixture
def host(memory):
    """A host that runs the release `old`, and has another, `new`."""
    made = make_systemd(memory / "host")
    know(made, made_plan("old", ONE, TWO), made_plan("new", NEW_ONE, NEW_TWO))
    return made


@pytest.fixture
def asked(host, monkeypatch):
    """What the gate was asked since the release `old` was rolled out."""
    found = gate_of(host, monkeypatch)
    roll(host, "old")
    found.clear()
    host.asked.clear()
    return found


def noted(host):
    return json.loads(host.at("/opt/precog/releases.json").read_text())


def test_a_good_release_takes_the_place_of_the_old(host, asked):
    outcome = roll(host, "new")
    assert outcome.failure == ""
    assert (host.current(), host.running(), host.listens(), host.enabled()) == ("new", NEW, PORTS, ENABLED)
    assert statuses(outcome)["miner:one"] == statuses(outcome)["miner:two"] == "changed"
    assert [name for kind, name in asked if kind == "soak"] == ["one", "two"]
    assert not roll(host, "new").changed


@pytest.mark.parametrize("why", ["it answers wrongly", CAN_NOT_START])
@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.usefixtures("asked")
def test_a_bad_release_is_gone_back_from(host, name, why):
    host.bad[NEW[name]] = why
    outcome = roll(host, "new")
    assert "This host is back on old, and that is healthy" in outcome.failure
    assert outcome.failure.startswith(f"{name}: ")
    assert (host.current(), host.running(), host.listens(), host.enabled()) == ("old", OLD, PORTS, ENABLED)
    assert not roll(host, "old").changed


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOSPC, "No space left on device"),
        HostError("systemd said no"),
        KeyError("prices"),
    ],
)
@pytest.mark.usefixtures("asked")
def test_whatever_goes_wrong_at_the_gate_the_host_goes_back(host, monkeypatch, error):
    real = rollout.ask.soak

    def broken(one, *about):
        if one.digest in NEW.values():
            raise error
        return real(one, *about)

    monkeypatch.setattr(rollout.ask, "soak", broken)
    outcome = roll(host, "new")
    assert str(error) in outcome.failure
    assert (host.current(), host.running()) == ("old", OLD)


@pytest.mark.usefixtures("asked")
def test_a_process_that_does_not_last_through_its_soak_makes_the_host_go_back(host, monkeypatch):
    """It answers rightly whenever it is asked, for systemd starts it again at once."""
    real = rollout.ask.soak

    def dies(one, *about):
        found = real(one, *about)
        if one.digest == NEW["one"]:
            host.run(["systemctl", "restart", "precog-miner@one.service"])
        return found

    monkeypatch.setattr(rollout.ask, "soak", dies)
    outcome = roll(host, "new")
    assert outcome.failure.startswith("one: its process ")
    assert "did not last through the soak" in outcome.failure
    assert (host.current(), host.running()) == ("old", OLD)


@pytest.mark.parametrize("step", ["_place_units", "_retire"])
@pytest.mark.usefixtures("asked")
def test_whatever_goes_wrong_at_a_step_the_host_goes_back(host, monkeypatch, step):
    real = getattr(rollout.Rollout, step)

    def broken(self, *args):
        if self.store.past().trying and not self.warnings:
            self.warnings.append("once")
            raise RuntimeError("nobody foresaw this")
        return real(self, *args)

    monkeypatch.setattr(rollout.Rollout, step, broken)
    outcome = roll(host, "new")
    assert outcome.failure.startswith("RuntimeError: nobody foresaw this. This host is back on old")
    assert (host.current(), host.running()) == ("old", OLD)


@pytest.mark.usefixtures("asked")
def test_a_step_back_that_fails_keeps_no_other_from_being_done_and_the_first_failure_is_told_first(host, monkeypatch):
    host.bad[NEW["two"]] = "it answers wrongly"
    real = host.run

    def run(argv):
        if "daemon-reload" in argv and "soak two" in host.asked:
            raise HostError("the bus is gone")
        return real(argv)

    monkeypatch.setattr(host, "run", run)
    outcome = roll(host, "new")
    assert outcome.failure.startswith("two: it answers wrongly")
    assert "the bus is gone" in outcome.failure
    assert (host.current(), host.running()) == ("old", OLD)


@pytest.mark.parametrize("what", ["note", "_prune"])
@pytest.mark.usefixtures("asked")
def test_what_fails_after_the_gate_is_a_warning(host, monkeypatch, what):
    full = OSError(errno.ENOSPC, "No space left on device")
    owner = rollout.Rollout if what == "_prune" else rollout.Store
    real = getattr(owner, what)

    def broken(self, *args):
        if what == "_prune" or not args[0].trying:
            raise full
        return real(self, *args)

    monkeypatch.setattr(owner, what, broken)
    outcome = roll(host, "new")
    assert outcome.failure == ""
    assert "No space left on device" in outcome.warnings[0]
    assert host.running() == NEW


@pytest.mark.usefixtures("asked")
def test_the_full_disk_that_stops_a_release_does_not_stop_the_way_back(host, monkeypatch):
    """Neither a secret, nor a unit, nor a note can be written any more."""
    host.bad[NEW["one"]] = "it answers wrongly"
    real = host.stage

    def full(path, *args):
        if host.known()["processes"]["one"]["digest"] == NEW["one"]:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return real(path, *args)

    monkeypatch.setattr(host, "stage", full)
    outcome = roll(host, "new")
    assert outcome.failure.startswith("one: it answers wrongly")
    assert (host.current(), host.running()) == ("old", OLD)


@pytest.mark.usefixtures("asked")
def test_on_the_way_back_all_instances_are_started_before_one_is_judged(host, asked):
    """Both of the old release are bad by now too, and a third that the new one has not."""
    third = instance("three", "old", 8094)
    know(host, made_plan("third", ONE, TWO, third))
    roll(host, "third")
    asked.clear()
    host.bad.update({NEW["two"]: "wrong", **dict.fromkeys(OLD.values(), "it got old")})
    outcome = roll(host, "new")
    assert outcome.failure.startswith("two: wrong")
    assert "one: it got old. two: it got old." in outcome.failure
    assert host.running() == {**OLD, "three": "old-three-8094"}
    assert statuses(outcome)["miner:one"] == "refused"


@pytest.mark.usefixtures("asked")
def test_an_instance_that_does_not_come_back_leaves_the_others_no_worse(host):
    host.bad.update({NEW["two"]: "wrong", OLD["one"]: CAN_NOT_START})
    outcome = roll(host, "new")
    assert "Going back to old did not bring it right either: one: " in outcome.failure
    assert host.running() == {"two": OLD["two"]}


# -- the past ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("asked")
def test_going_back_is_told_once_and_asked_again_changes_nothing(host):
    roll(host, "new")
    assert roll(host, "previous").changed
    assert (host.current(), host.running()) == ("old", OLD)
    again = roll(host, "previous")
    assert (again.changed, again.failure) == (False, "")
    assert "has gone back from new to old already" in again.warnings[0]
    assert (host.current(), host.running()) == ("old", OLD)


@pytest.mark.usefixtures("asked")
def test_a_host_that_went_back_by_itself_stays_where_a_fleet_goes_back(host):
    newest = instance("one", "newest", 8092)
    know(host, made_plan("newest", newest, NEW_TWO))
    roll(host, "new")
    host.bad[newest.digest] = "wrong"
    assert roll(host, "newest").failure
    assert not roll(host, "previous").changed
    assert host.running() == NEW


@pytest.mark.usefixtures("asked")
def test_a_failed_going_back_is_not_forgotten(host):
    host.bad.update({NEW["one"]: "wrong", OLD["one"]: "it answers 503"})
    roll(host, "new")
    assert host.current() == "old"
    audit = roll(host, "old", check=True)
    assert audit.changed
    assert "without new passing the gate" in {row["name"]: row for row in audit.settings}["miner:one"]["reason"]
    assert "it answers 503" in roll(host, "old").failure
    assert "it answers 503" in roll(host, "old").failure
    host.bad.clear()
    assert roll(host, "old").failure == ""
    assert not roll(host, "old").changed


def test_what_a_killed_first_run_left_is_no_release_to_go_back_to(host, monkeypatch):
    gate_of(host, monkeypatch)
    host.bad[OLD["one"]] = "it answers wrongly"
    store = store_of(host)
    store.save(host.plans["old"], {})
    store.switch("old")
    store.note(rollout.Past((), "old"))
    assert host.current() == "old"
    host.bad[NEW["two"]] = "wrong"
    outcome = roll(host, "new")
    assert "There was no release before it" in outcome.failure
    assert (host.current(), host.running(), host.enabled()) == ("", {}, [])
    assert {row["persisted"] for row in outcome.settings if row["name"].startswith("miner:")} == {None}


@pytest.mark.usefixtures("asked")
def test_units_that_a_killed_run_wrote_are_read_by_systemd(host):
    """The files are as they are wanted, so nothing but the note tells that systemd knows others."""
    know(host, made_plan("more", ONE, TWO, nofile=4096))
    for name, data in host.plans["more"].units.items():
        host.stage(f"{UNITS}/{name}", data).commit()
    store = store_of(host)
    store.note(rollout.Past(("old",), "more"))
    outcome = roll(host, "more")
    assert outcome.failure == ""
    assert statuses(outcome)["miner:one:nofile"] == "ok"
    assert {row["after"] for row in outcome.settings if row["name"].endswith("nofile")} == {"4096:4096"}


@pytest.mark.usefixtures("asked")
def test_releases_are_not_removed_where_nobody_knows_which_were_good(host):
    roll(host, "new")
    know(host, made_plan("newer", NEW_ONE, TWO))
    host.at("/opt/precog/releases.json").write_text("{")
    outcome = roll(host, "newer")
    assert outcome.failure == ""
    assert "releases.json can't be read" in outcome.warnings[0]
    assert sorted(path.name for path in host.at("/opt/precog/releases").iterdir()) == ["new", "newer", "old"]
    assert roll(host, "new").warnings == []
    assert sorted(path.name for path in host.at("/opt/precog/releases").iterdir()) == ["new", "newer", "old"]


@pytest.mark.parametrize("keep", [0, -1])
@pytest.mark.usefixtures("asked")
def test_fewer_than_one_release_is_refused(host, keep):
    with pytest.raises(HostError, match=f"miner_service_keep is {keep}: give 1 or more"):
        roll(host, "new", keep=keep)
    assert host.running() == OLD


@pytest.fixture
def inventory(host, asked, monkeypatch):
    """Rolls out what the inventory says: the release `old`, with a link to its environment."""
    assert not asked
    plan, links = host.plans["old"], {"environment": "/opt/precog/env/miner-1"}
    store_of(host).save(plan, links)
    monkeypatch.setattr(miner, "_planned", lambda *_args, **_mode: (plan, links))
    monkeypatch.setattr(size, "small", lambda *_args: [])
    return lambda check=False: miner.deploy(host, PARAMS, check_mode=check)


START = "/opt/precog/releases/old/instances/one/start"


@pytest.mark.parametrize(
    "damage",
    [
        lambda host: host.at(START).chmod(0o644),
        lambda host: host.at(START).write_text("9999"),
        lambda host: host.at("/opt/precog/releases/old/environment").unlink(),
    ],
)
def test_a_release_that_was_mended_is_told(host, inventory, damage):
    assert not inventory().changed
    damage(host)
    for check in (True, False):
        outcome = inventory(check)
        assert (outcome.changed, statuses(outcome)["miner_release"]) == (True, "changed")
    assert (host.at(START).read_text(), host.at(START).stat().st_mode & 0o777) == ("8092\n", 0o755)
    assert host.running() == OLD
    assert not inventory().changed


TEMPLATE_UNIT = f"{UNITS}/precog-miner@.service"
HOLD = "1 of 12 miners could not be reached (m7), and miner_rollout_tolerated is 0"


@pytest.fixture
def held(host, asked, monkeypatch):
    """Rolls out an inventory that makes the release `new`, while releases are held."""
    assert not asked
    monkeypatch.setattr(miner, "_planned", lambda *_args, **_mode: (host.plans["new"], {}))
    monkeypatch.setattr(size, "small", lambda *_args: [])
    return lambda: miner.deploy(host, {**PARAMS, "hold": HOLD}, check_mode=False)


def test_a_held_release_waits_and_is_reported(host, held):
    outcome = held()
    assert (outcome.failure, outcome.changed) == ("", False)
    assert host.running() == OLD
    assert statuses(outcome)["miner_release"] == "drifted"
    assert any(f"the release new has to wait, and this host keeps old: {HOLD}" in text for text in outcome.warnings)


def test_while_a_release_is_held_what_drifted_is_repaired(host, held):
    host.run(["systemctl", "stop", "precog-miner@one.service"])
    host.at(TEMPLATE_UNIT).write_text("[Service]\n# somebody was here\n")
    outcome = held()
    assert (outcome.failure, outcome.changed) == ("", True)
    assert host.running() == OLD
    assert "somebody" not in host.at(TEMPLATE_UNIT).read_text()
    assert not held().changed


def test_nothing_waits_where_the_release_that_is_wanted_runs_already(host, held, monkeypatch):
    monkeypatch.setattr(miner, "_planned", lambda *_args, **_mode: (host.plans["old"], {}))
    outcome = held()
    assert (outcome.failure, outcome.changed) == ("", False)
    assert "drifted" not in statuses(outcome).values()
    assert not [text for text in outcome.warnings if "has to wait" in text]


@pytest.mark.parametrize("unit", ["precog-miner@one.service", "precog-miner@one.socket"])
@pytest.mark.usefixtures("asked")
def test_what_no_boot_would_start_is_enabled(host, unit):
    (host.at(WANTS[unit.rpartition(".")[2]]) / unit).unlink()
    assert roll(host, "old").failure == ""
    assert (host.enabled(), host.running()) == (ENABLED, OLD)
    assert not roll(host, "old").changed


# -- sockets and ports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["upstream", "simulator"])
@pytest.mark.usefixtures("asked")
def test_a_socket_that_the_new_engine_has_not_is_stopped_before_its_unit_goes(host, engine):
    know(host, made_plan("other", instance("one", "other", 8092, engine), TWO))
    assert roll(host, "other").failure == ""
    assert host.listens() == {"two": [8093]}
    assert "precog-miner@one.socket" not in host.enabled()
    assert host.running() == {**OLD, "one": "other-one-8092"}
    assert roll(host, "old").failure == ""
    assert (host.listens(), host.running(), host.enabled()) == (PORTS, OLD, ENABLED)


SWAPPED = instance("one", "swapped", 8093), instance("two", "swapped", 8092)
SHIFTED = instance("one", "shifted", 8093), instance("two", "shifted", 8094)


@pytest.mark.parametrize("instances", [SWAPPED, SWAPPED[::-1], SHIFTED])
@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.usefixtures("asked")
def test_ports_can_be_swapped_and_shifted_and_back(host, instances, bad):
    know(host, made_plan("moved", *instances))
    if bad:
        host.bad[instances[1].digest] = "wrong"
    outcome = roll(host, "moved")
    if bad:
        assert "back on old, and that is healthy" in outcome.failure
        assert (host.listens(), host.running()) == (PORTS, OLD)
    else:
        assert outcome.failure == ""
        assert host.listens() == {one.name: [one.port] for one in instances}
        assert roll(host, "old").failure == ""
        assert (host.listens(), host.running()) == (PORTS, OLD)


@pytest.mark.usefixtures("asked")
def test_an_instance_can_have_the_port_of_one_that_goes(host):
    know(host, made_plan("fewer", instance("one", "fewer", 8093)))
    assert roll(host, "fewer").failure == ""
    assert (host.listens(), host.running()) == ({"one": [8093]}, {"one": "fewer-one-8093"})
    assert not list(host.at(UNITS).glob("*two*"))
    assert roll(host, "old").failure == ""
    assert (host.listens(), host.running()) == (PORTS, OLD)


@pytest.mark.usefixtures("asked")
def test_engines_that_listen_by_themselves_swap_ports_too(host):
    own = instance("one", "own", 8099, "simulator"), instance("two", "own", 8100, "simulator")
    swapped = instance("one", "moved", 8100, "simulator"), instance("two", "moved", 8099, "simulator")
    know(host, made_plan("own", *own), made_plan("moved", *swapped))
    assert roll(host, "own").failure == ""
    assert roll(host, "moved").failure == ""
    assert host.running() == {"one": "moved-one-8100", "two": "moved-two-8099"}


@pytest.mark.usefixtures("asked")
def test_what_a_killed_run_left_running_is_out_of_the_way_too(host):
    """It switched to `mid`, and died before the process of `own` was gone from its port."""
    know(
        host,
        made_plan("own", instance("two", "own", 8100, "simulator"), instance("one", "own", 8099, "simulator")),
        made_plan("mid", instance("two", "mid", 8100, "simulator"), instance("one", "mid", 8101, "simulator")),
        made_plan("new", instance("two", "new", 8099, "simulator"), instance("one", "new", 8101, "simulator")),
    )
    roll(host, "own")
    store = store_of(host)
    store.save(host.plans["mid"], {})
    store.note(rollout.Past(("own",), "mid"))
    store.switch("mid")
    assert roll(host, "new").failure == ""
    assert host.running() == {"one": "new-one-8101", "two": "new-two-8099"}


@pytest.mark.usefixtures("asked")
def test_who_holds_a_port_is_told(host, monkeypatch):
    monkeypatch.setattr(rollout.systemd, "holders", lambda port: {4711: "nginx"} if port == 8094 else {})
    know(host, made_plan("moved", instance("one", "moved", 8094), TWO))
    host.broken["restart precog-miner@one.socket"] = HostError("Job for precog-miner@one.socket failed")
    outcome = roll(host, "moved")
    assert "Job for precog-miner@one.socket failed; port 8094 is held by nginx (process 4711)" in outcome.failure


# -- draining ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def drained(host, asked, monkeypatch):
    """The names that were drained, each with what ran at the end of its time."""
    assert not asked
    seen = []

    def sleep(seconds):
        if seconds == 2.0:
            seen.extend((name, host.running().get(name)) for name in sorted(drain.marked(host)))

    monkeypatch.setattr(rollout.time, "sleep", sleep)
    return seen


GATE = {"gate": {"drain_s": 2}}


def test_a_running_instance_is_drained_before_it_is_stopped(host, drained):
    assert roll(host, "new", **GATE).failure == ""
    assert drained == [("one", OLD["one"]), ("two", OLD["two"])]
    assert drain.marked(host) == frozenset()


def test_a_live_instance_is_drained_after_a_killed_run_too(host, drained):
    store_of(host).note(rollout.Past(("gone",), "new"))
    roll(host, "new", **GATE)
    assert drained == [("one", OLD["one"]), ("two", OLD["two"])]


def test_what_no_balancer_asks_is_not_drained(host, drained):
    know(host, made_plan("own", instance("one", "own", 8099, "simulator"), instance("two", "own", 8100, "upstream")))
    assert roll(host, "own", **GATE).failure == ""
    drained.clear()
    assert roll(host, "new", **GATE).failure == ""
    assert drained == []


def test_an_instance_that_a_release_drops_is_drained_and_stopped_when_the_others_have_passed(host, drained):
    know(host, made_plan("fewer", NEW_ONE))
    host.bad[NEW["one"]] = "wrong"
    pid = host.known()["processes"]["two"]["pid"]
    assert roll(host, "fewer", **GATE).failure
    assert host.known()["processes"]["two"]["pid"] == pid
    host.bad.clear()
    know(host, made_plan("fewer", NEW_ONE))
    drained.clear()
    assert roll(host, "fewer", **GATE).failure == ""
    assert drained == [("one", OLD["one"]), ("two", OLD["two"])]
    assert (host.running(), host.enabled()) == ({"one": NEW["one"]}, ENABLED[:2])
    assert not list(host.at(UNITS).rglob("*two*"))


def test_what_is_in_the_way_is_drained_once(host, drained):
    know(host, made_plan("moved", *SWAPPED))
    assert roll(host, "moved", **GATE).failure == ""
    assert drained == [("one", OLD["one"]), ("two", OLD["two"])]
    know(host, made_plan("fewer", instance("one", "fewer", 8092)))
    drained.clear()
    assert roll(host, "fewer", **GATE).failure == ""
    assert drained == [("two", "swapped-two-8092"), ("one", "swapped-one-8093")]


def test_what_is_taken_away_is_drained_first(host, drained):
    miner.withdraw(host, {**PARAMS, **GATE}, check_mode=False)
    assert drained == [("one", OLD["one"]), ("two", OLD["two"])]
    assert (host.running(), host.listens(), host.enabled()) == ({}, {}, [])


def test_a_drain_file_that_a_killed_run_left_is_removed(host, asked):
    host.at("/run/precog-miner/one/drain").touch()
    assert roll(host, "old", check=True).changed
    assert roll(host, "old").failure == ""
    assert not host.at("/run/precog-miner/one/drain").exists()
    assert not roll(host, "old").changed
    assert asked == []


@pytest.mark.usefixtures("asked")
def test_no_drain_file_is_left_where_a_start_fails(host):
    host.broken["restart precog-miner@one.service"] = HostError("systemd said no")
    assert "systemd said no" in roll(host, "new", gate={"drain_s": 0.01}).failure
    assert drain.marked(host) == frozenset()


@pytest.mark.parametrize("act", [drain.mark, drain.unmark])
@pytest.mark.parametrize("where", ["drain", "."])
def test_draining_follows_no_link_of_the_miners(host, act, where):
    """The instance's folder is the miner's own."""
    passwd = host.at("/etc/passwd").read_bytes()
    folder = host.at("/run/precog-miner/one")
    if where == "drain":
        folder.mkdir(exist_ok=True)
        (folder / "drain").symlink_to(host.at("/etc/passwd"))
        act(host, "one")
        assert (folder / "drain").exists() == (act is drain.mark)
        assert not (folder / "drain").is_symlink()
    else:
        folder.symlink_to(host.at("/etc"))
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            act(host, "one")
        assert sorted(path.name for path in host.at("/etc").iterdir()) == ["passwd", "systemd"]
    assert host.at("/etc/passwd").read_bytes() == passwd


# -- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("asked")
def test_of_a_failure_each_instance_tells_what_is_true_of_it(host):
    host.bad[NEW["two"]] = "it answers wrongly"
    outcome = roll(host, "new")
    rows = {row["name"]: row for row in outcome.settings}
    assert (rows["miner:two"]["status"], rows["miner:two"]["reason"]) == ("refused", outcome.failure)
    assert rows["miner:one"]["status"] == "ok"
    assert rows["miner:one"]["reason"] == "it was started, and has gone back with the host: two failed"
    assert {row["persisted"] for row in (rows["miner:one"], rows["miner:two"])} == {"old"}


@pytest.mark.usefixtures("asked")
def test_a_failure_of_no_instance_has_a_row_of_its_own(host):
    host.broken["daemon-reload"] = HostError("the bus is gone")
    outcome = roll(host, "new")
    assert statuses(outcome)["miner"] == "refused"
    assert [row["reason"] for row in outcome.settings if row["status"] == "refused"] == [outcome.failure]


@pytest.mark.usefixtures("asked")
def test_what_can_not_be_told_never_hides_a_failure(host, monkeypatch):
    host.bad[NEW["one"]] = "it answers wrongly"
    monkeypatch.setattr(compare, "ours", lambda _host, real=compare.ours: after(host, real))

    def after(host, real):
        if "this host is well again" in host.asked:
            raise OSError(errno.EIO, "Input/output error")
        return real(host)

    settle = rollout.Rollout._settle
    monkeypatch.setattr(
        rollout.Rollout,
        "_settle",
        lambda self, past: (settle(self, past), host.asked.append("this host is well again")),
    )
    outcome = roll(host, "new")
    assert outcome.failure.startswith("one: it answers wrongly")
    assert "Input/output error" in outcome.warnings[0]


@pytest.mark.usefixtures("asked")
def test_limits_are_those_of_the_units_in_force(host):
    know(host, made_plan("more", NEW_ONE, NEW_TWO, nofile=4096))
    for outcome in (roll(host, "more", check=True), *bad_once(host)):
        assert {statuses(outcome)[f"miner:{name}:nofile"] for name in ("one", "two")} == {"ok"}


def bad_once(host):
    host.bad[NEW["one"]] = "wrong"
    yield roll(host, "more")
    host.bad.clear()
    know(host, made_plan("more", NEW_ONE, NEW_TWO, nofile=4096))
    yield roll(host, "more")


@pytest.mark.usefixtures("asked")
def test_a_process_that_has_ended_has_no_limits_to_tell(host, monkeypatch):
    host.bad[NEW["one"]] = "it answers wrongly"
    real = host.read_text

    def read_text(path):
        if path.endswith("/limits"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return real(path)

    monkeypatch.setattr(host, "read_text", read_text)
    outcome = roll(host, "new")
    assert outcome.failure.startswith("one: it answers wrongly")
    assert outcome.warnings == []
