"""What a run of miner_service finds and tells, on a made host: files below a folder, and what systemctl says."""

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import difference, guarded
from ansible_collections.precog.fleet.plugins.module_utils._miner import run as miner
from ansible_collections.precog.fleet.plugins.module_utils._miner.model import File, Instance, Plan
from ansible_collections.precog.fleet.plugins.module_utils._miner.options import OPTIONS
from ansible_collections.precog.fleet.plugins.module_utils._miner.store import Past, Store

MAIN = Instance("main", "runtime", "127.0.0.1", 8092, "127.0.0.1", 8092, (), "0123456789ab")
DROP_IN = "precog-miner@main.service.d/10-instance.conf"
UNITS = {"precog-miner@.service": b"[Service]\n", DROP_IN: b"[Service]\nLimitNOFILE=4096:8192\n"}
RECORD = b'{"instances": [%s]}' % str(MAIN._asdict()).replace("'", '"').replace("()", "[]").encode()
PARAMS = {name: argument.get("default") for name, argument in OPTIONS.items()}
LIMITS = "Max open files            {}                 {}                files\n"


class MadeHost(Host):
    """A host whose systemctl shows one instance.

    :ivar shown: what it says of the unit.
    :ivar guarded: what it says of the guard's timer.
    :ivar asked: the commands that were run.
    """

    def __init__(self, root):
        super().__init__(root)
        self.guarded = "active"
        self.asked = []
        self.shown = {"ActiveState": "active", "SubState": "running", "MainPID": "7", "UnitFileState": "enabled"}

    def run(self, argv):
        self.asked.append(argv)
        assert argv[:2] == ["systemctl", "show"], argv
        if "--value" in argv:
            return f"{self.guarded}\n"
        fields = {"Id": "precog-miner@main.service", **self.shown, "NRestarts": "0"}
        return "".join(f"{name}={value}\n" for name, value in fields.items())


@pytest.fixture
def host(tmp_path):
    """A host that runs the release `one` as it should."""
    made = MadeHost(str(tmp_path))
    store = Store(made, "/opt/precog")
    for name in ("one", "two"):
        files = {"release.json": File(RECORD, 0o644), "instances/main/start": File(name.encode(), 0o755)}
        store.save(Plan(name, files, UNITS, {}, (MAIN,), ()), {})
    store.switch("one")
    store.note(Past(("one",)))
    for name, data in UNITS.items():
        made.stage(f"/etc/systemd/system/{name}", data).commit()
    for path, (data, meta) in guarded.files("/opt/precog").items():
        made.stage(path, data, meta).commit()
    made.stage("/proc/7/environ", b"PRECOG_MINER_DIGEST=0123456789ab\0PYTHONOPTIMIZE=1\0SECRET=x\0").commit()
    made.stage("/proc/7/limits", LIMITS.format(4096, 8192).encode()).commit()
    made.stage("/etc/passwd", b"root:x:0:0::/root:/bin/sh\nprecog-miner:x:990:990::/:/usr/sbin/nologin\n").commit()
    return made


def found(host, release="one"):
    outcome = miner.deploy(host, {**PARAMS, "release": release}, check_mode=True)
    return outcome, {row["name"]: row for row in outcome.settings}


def test_what_runs_as_wanted_is_ok_and_one_look(host):
    outcome, rows = found(host)
    assert not outcome.changed
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["miner:main"]["before"] == rows["miner:main"]["after"] == "0123456789ab active"
    assert rows["miner:main:nofile"]["after"] == "4096:8192"
    assert len(host.asked) == 2  # the instances, and the guard's timer


def test_missing_or_edited_guard_is_a_change_that_an_audit_reports(host):
    host.remove("/opt/precog/guard")
    host.stage("/etc/systemd/system/precog-fleet-guard.timer", b"[Timer]\n").commit()
    outcome, rows = found(host)
    assert outcome.changed
    assert rows["miner_guard"]["status"] == "changed"
    for path in ("/opt/precog/guard", "/etc/systemd/system/precog-fleet-guard.timer"):
        assert path in rows["miner_guard"]["reason"]
    assert rows["miner:main"]["status"] == "ok"


def test_guard_whose_timer_does_not_run_is_a_change(host):
    host.guarded = "inactive"
    outcome, rows = found(host)
    assert outcome.changed
    assert rows["miner_guard"]["reason"].endswith("precog-fleet-guard.timer")


def test_another_release_is_a_change_of_what_the_next_start_runs(host):
    outcome, rows = found(host, "two")
    assert outcome.changed
    assert (rows["miner:main"]["persisted_before"], rows["miner:main"]["persisted"]) == ("one", "two")
    assert outcome.diff[-1]["before"] == "release one\n"


def put(host, release, **files):
    """Write files of the instance main of a release."""
    for name, text in files.items():
        host.stage(f"/opt/precog/releases/{release}/instances/main/{name}", text.encode()).commit()


def test_another_release_says_which_variables_and_files_differ_and_shows_no_secret(host):
    shared = 'MODE="a"\nOLD_TOKEN="hunter2"\nPROXY="http://me:hunter2@proxy"\n'
    put(
        host, "one", environment=f'{shared}PRECOG_MINER_DIGEST="aaa"\n', start="#!/bin/sh\nexec python serve --port 1\n"
    )
    other = shared.replace('"a"', '"b"').replace("hunter2", "hunter3") + 'PRECOG_MINER_DIGEST="bbb"\n'
    put(host, "two", environment=other, start="#!/bin/sh\nexec python serve --port 2 --token hunter3\n")
    outcome, rows = found(host, "two")
    assert (rows["miner_release"]["status"], rows["miner_release"]["before"], rows["miner_release"]["after"]) == (
        "changed",
        "one",
        "two",
    )
    shown = {part["before_header"]: (part["before"], part["after"]) for part in outcome.diff}
    assert shown["instances/main/environment (release one)"] == (
        'MODE="a"\nOLD_TOKEN=********\nPROXY="http://me:********@proxy"\n',
        'MODE="b"\nOLD_TOKEN=******** (another one)\nPROXY="http://me:********@proxy" (another one)\n',
    )
    assert shown["instances/main/start (release one)"] == (
        "exec\npython\nserve\n--port\n1\n",
        "exec\npython\nserve\n--port\n2\n--token\n********\n",
    )
    assert "release.json (release one)" not in shown
    assert "hunter" not in str(outcome.result())


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (None, b"x", ("", "a secret\n")),
        (b"x", b"y", ("a secret\n", "another secret\n")),
        (b"x", None, ("a secret\n", "")),
    ],
)
def test_of_a_secret_only_that_it_differs_is_shown(before, after, shown):
    (part,) = difference.secrets({"/etc/precog-miner/main.env": before}, {"/etc/precog-miner/main.env": after})
    assert (part["before"], part["after"]) == shown


def test_what_a_killed_run_was_trying_is_gated_again(host):
    Store(host, "/opt/precog").note(Past(("two",), "one"))
    outcome, rows = found(host)
    assert outcome.changed
    assert rows["miner:main"]["status"] == "changed"


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ({"ActiveState": "failed", "SubState": "failed", "MainPID": "0"}, "failed (failed)"),
        ({"ActiveState": "inactive", "SubState": "dead", "MainPID": "0"}, "inactive (dead)"),
        ({"ActiveState": "activating", "SubState": "start"}, "0123456789ab activating"),
    ],
)
def test_an_instance_that_does_not_run_is_told_as_it_is(host, shown, told):
    host.shown.update(shown)
    outcome, rows = found(host)
    assert outcome.changed
    assert (rows["miner:main"]["status"], rows["miner:main"]["before"]) == ("changed", told)


def test_an_instance_that_no_boot_would_start_is_a_change(host):
    host.shown["UnitFileState"] = "disabled"
    outcome, rows = found(host)
    assert outcome.changed
    assert rows["miner:main"]["status"] == "changed"


def test_a_process_of_another_release_is_told_by_its_own_environment(host):
    host.stage("/proc/7/environ", b"PRECOG_MINER_DIGEST=ffffffffffff\0").commit()
    _, rows = found(host)
    assert (rows["miner:main"]["status"], rows["miner:main"]["before"]) == ("changed", "ffffffffffff active")


@pytest.mark.parametrize(("soft", "hard"), [(1024, 8192), (4096, 4096), (20000, 20000)])
def test_a_limit_that_the_process_was_not_given_is_told(host, soft, hard):
    host.stage("/proc/7/limits", LIMITS.format(soft, hard).encode()).commit()
    _, rows = found(host)
    row = rows["miner:main:nofile"]
    assert (row["status"], row["desired"], row["after"]) == ("unsupported", "4096:8192", f"{soft}:{hard}")


def test_a_bound_that_the_host_does_not_enforce_is_told(host):
    text = UNITS[DROP_IN] + b"MemoryMax=1G\n"
    files = {"release.json": File(RECORD, 0o644), "instances/main/start": File(b"", 0o755)}
    store = Store(host, "/opt/precog")
    store.save(Plan("bounded", files, {**UNITS, DROP_IN: text}, {}, (MAIN,), ()), {})
    store.switch("bounded")
    store.note(Past(("bounded",)))
    host.stage(f"/etc/systemd/system/{DROP_IN}", text).commit()
    host.stage("/proc/7/cgroup", b"3:memory:/libpod-1\n").commit()
    _, rows = found(host, "bounded")
    row = rows["miner:main:memory_max"]
    assert (row["status"], row["desired"]) == ("unsupported", "1G")
    assert "don't give a unit a controller for memory" in row["reason"]


@pytest.mark.parametrize(("wanted", "fails"), [("report", False), ("fail", True)])
def test_whether_such_a_limit_fails_the_run(host, wanted, fails):
    host.stage("/proc/7/limits", LIMITS.format(1, 1).encode()).commit()
    outcome = miner.deploy(host, {**PARAMS, "release": "one", "on_unsupported": wanted}, check_mode=True)
    assert bool(outcome.failure) == fails
    assert ("miner:main:nofile" in outcome.failure) == fails


def test_facts_hold_the_variables_of_python_and_no_others(host):
    outcome, rows = found(host)
    assert outcome.instances["main"]["variables"] == {"PRECOG_MINER_DIGEST": "0123456789ab", "PYTHONOPTIMIZE": "1"}
    assert rows["miner:main"]["facts"] == outcome.instances["main"]


def test_without_an_environment_nothing_is_begun(host):
    with pytest.raises(HostError, match="miner_service_environment is empty"):
        miner.deploy(host, PARAMS, check_mode=False)
    assert host.asked == []
