"""Resource limits: the plan, the engine on top, what can't take effect, and what the module says."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.precog.fleet.plugins.module_utils._host.host import NOT_ROOT, HostError
from ansible_collections.precog.fleet.plugins.module_utils._settings.limits import limits
from ansible_collections.precog.fleet.plugins.modules import resource_limits
from ansible_collections.precog.fleet.tests.unit.made_host import (
    LEDGER,
    Killed,
    bend,
    files_of,
    rows,
    snapshot,
    statuses,
    untouched,
)
from ansible_collections.precog.fleet.tests.unit.made_limits import (
    DROP_IN,
    MAIN,
    MANAGER,
    PAM,
    absent,
    apply,
    make_limits_host,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ALL, ROOT, DEFAULT = "pam:*:nofile", "pam:root:nofile", "systemd:DefaultLimitNOFILE"
MINER = "unit:miner.service:LimitNOFILE"
REEXEC, RELOAD = ["systemctl", "daemon-reexec"], ["systemctl", "daemon-reload"]
SYSTEMD = {"systemd": {"nofile": "2048:4096"}}
SERVICE = {"services": {"miner": {"nofile": 65536}}}
EVERYTHING = {"profile": "guide", "parameters": {"alice": {"memlock": 64}}, **SERVICE}


@pytest.fixture
def host(memory):
    return make_limits_host(memory / "host")


def test_the_guide_covers_everyone_root_and_services(host):
    report = apply(host, profile="guide")
    assert statuses(report) == dict.fromkeys((ALL, ROOT, DEFAULT), "changed")
    assert host.text(PAM).split("\n")[1:] == ["*\t-\tnofile\t65536", "root\t-\tnofile\t65536", ""]
    assert host.text(MANAGER).split("\n")[1:] == ["[Manager]", "DefaultLimitNOFILE=65536:65536", ""]
    assert host.defaults["DefaultLimitNOFILE"] == "65536:65536"
    row = rows(report)[DEFAULT]
    assert (row["before"], row["after"], row["persisted_by"]) == ("1024:524288", "65536:65536", f"{MANAGER}:3")


MERGED = [
    ({}, {}, {ALL: "65536:65536", ROOT: "65536:65536", DEFAULT: "65536:65536"}),
    ({"*": None}, {"nofile": None}, {ROOT: "65536:65536"}),
    (
        {"*": {"nofile": None, "core": 0}, "root": {"nofile": "1:2"}},
        {"nofile": 5},
        {"pam:*:core": "0:0", ROOT: "1:2", DEFAULT: "5:5"},
    ),
    (
        {"1000:2000": {"nice": -5}},
        {"memlock": 1},
        {
            ALL: "65536:65536",
            ROOT: "65536:65536",
            DEFAULT: "65536:65536",
            "pam:1000:2000:nice": "-5:-5",
            "systemd:DefaultLimitMEMLOCK": "1024:1024",
        },
    ),
]


@pytest.mark.parametrize(("domains", "defaults", "expected"), MERGED)
def test_parameters_are_merged_over_the_profile(domains, defaults, expected):
    request = limits.understand("guide", domains, defaults, {})
    assert {setting.name: setting.text(pair) for setting, pair in request.desired.items()} == expected
    assert all(limits.Setting.of(name).name == name for name in expected)


def test_again_and_back(host):
    before = files_of(host)
    report = apply(host, **EVERYTHING)
    assert set(statuses(report).values()) == {"changed"}
    seen, told = untouched(host), len(host.commands)
    again = apply(host, **EVERYTHING)
    assert (set(statuses(again).values()), again.changed, untouched(host)) == ({"ok"}, False, seen)
    assert all(argv[1] == "show" for argv in host.commands[told:])

    back = absent(host)
    assert set(statuses(back).values()) == {"changed"}
    assert files_of(host) == before
    assert host.defaults == {}
    assert host.units["miner.service"] == {}
    assert json.loads(host.text(LEDGER)) == {"version": 1, "settings": {}, "files": {}}
    assert absent(host).changes == []


CASES = [
    (EVERYTHING, lambda _host: None),
    ({}, lambda host: apply(host, **EVERYTHING)),
    ({"profile": "guide"}, lambda host: apply(host, **EVERYTHING)),
    (EVERYTHING, lambda host: host.put(PAM, b"* - nofile 1\n\xff")),
    (EVERYTHING, lambda host: (apply(host, **EVERYTHING), host.put(PAM, "junk\n"))),
    (EVERYTHING, lambda host: (apply(host, **EVERYTHING), host.at(MANAGER).unlink())),
    (EVERYTHING, lambda host: host.put("/etc/security/limits.d/zzz.conf", "root - nofile 5\n")),
    (EVERYTHING, lambda host: host.put("/etc/systemd/system.conf.d/zzz.conf", "[Manager]\nDefaultLimitNOFILE=5\n")),
    (EVERYTHING, lambda host: host.forbid()),
    (EVERYTHING, lambda host: host.put("/proc/sys/fs/nr_open", "5000\n")),
    (
        {"services": {"minor": {"nofile": 5}}, "parameters": {"x y": {}, "root": {"nofle": 1, "nofile": "2:1"}}},
        lambda _: None,
    ),
    ({"parameters": {"root": {"nofile": "many"}}}, lambda host: apply(host, {"root": {"nofile": 5}})),
    ({"parameters": {"root": "many"}}, lambda host: apply(host, {"root": {"nofile": 5}})),
    (SYSTEMD, lambda host: (apply(host, **SYSTEMD), host.defaults.clear())),
    (SERVICE, lambda host: (apply(host, **SERVICE), host.units.pop("miner.service"))),
    ({}, lambda host: (apply(host, **SERVICE), host.units.pop("miner.service"))),
    (SYSTEMD, lambda host: host.at("/run/systemd/system/made").parent.rename(host.at("/run/systemd/gone"))),
]


@pytest.mark.parametrize(("wanted", "arrange"), CASES)
def test_check_mode_says_the_same_and_touches_nothing(host, wanted, arrange):
    arrange(host)
    before, seen = snapshot(host), untouched(host)
    predicted = apply(host, check=True, **wanted)
    assert (snapshot(host), untouched(host)) == (before, seen)
    real = apply(host, **wanted)
    assert rows(predicted) == rows(real)
    assert (predicted.changed, predicted.diff) == (real.changed, real.diff)


@pytest.mark.parametrize(("wanted", "arrange"), [case for case in CASES if case[0] is EVERYTHING])
def test_every_byte_comes_back(memory, wanted, arrange):
    host = make_limits_host(memory / "again")
    arrange(host)
    if host.at(LEDGER).exists():  # what the scenario itself applied is no original
        absent(host)
    before = files_of(host)
    apply(host, **wanted)
    absent(host)
    assert files_of(host) == before


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.sampled_from([b"* - nofile 5", b"* soft nofile 1\r\nroot -\r\n", b"\0"]))
def test_whatever_limits_conf_holds_it_is_never_touched(memory, content):
    host = make_limits_host(memory / os.urandom(8).hex())
    host.put(MAIN, content)
    before = files_of(host)
    apply(host, profile="guide")
    assert host.at(MAIN).read_bytes() == content
    absent(host)
    assert files_of(host) == before


WORDS = [
    *("*", "root", "alice", "@miners", "1000:", ":", "soft", "hard", "-", "nofile", "nproc", "chroot", "/jail", "-1"),
    *("[Manager]", "[Service]", "DefaultLimitNOFILE=", "LimitNOFILE=", "LimitNOFILE", "1:2", "infinity", "unlimited"),
    *("CapEff:", "1ffffffffff", "Max open files", "files", "9" * 5000, "65536", "0", "7", "pam_limits.so", "session"),
    *(
        "fs.nr_open",
        "=",
        ":",
        "#",
        ";",
        "\\",
        "\\\n",
        "\n",
        "\n",
        "\r\n",
        " ",
        " ",
        "\t",
        "\0",
        "\x85",
        "٣",
        "²",
        "\udcff",
    ),
]
ODD = st.lists(st.sampled_from(WORDS), max_size=14).map(
    lambda words: "".join(words).encode("utf-8", "surrogateescape")
) | st.binary(max_size=30)
BENT = st.tuples(st.integers(0, 90), st.sampled_from([word.encode("utf-8", "surrogateescape") for word in WORDS]))
OTHERS_FILES = [
    *(
        MAIN,
        PAM,
        MANAGER,
        DROP_IN,
        "/etc/security/limits.d/zz.conf",
        "/etc/systemd/system.conf",
        "/etc/sysctl.d/9.conf",
    ),
    *("/etc/systemd/system.conf.d/zz.conf", "/etc/systemd/system/miner.service.d/zz.conf", "/etc/pam.d/sshd"),
    *("/etc/systemd/system/miner.service", "/etc/passwd", "/etc/group", "/proc/sys/fs/nr_open"),
    *("/proc/1/status", "/proc/1/limits", "/proc/1/uid_map", "/proc/812/limits", "/proc/812/stat", "/proc/812/cgroup"),
]


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(OTHERS_FILES), ODD | BENT, min_size=1, max_size=5))
def test_whatever_files_and_processes_say_there_is_an_answer_and_every_byte_comes_back(odd):
    wanted = {**EVERYTHING, "parameters": {"alice": {"nofile": 5, "nproc": 7}, "@miners": {"memlock": 1}}}
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        host = make_limits_host(Path(folder) / "host")
        for path, odd_one in odd.items():
            old = host.at(path).read_bytes() if host.at(path).exists() else b""
            host.put(path, odd_one if isinstance(odd_one, bytes) else bend(old, *odd_one))
        before = files_of(host)
        predicted = statuses(apply(host, **wanted, check=True))
        assert files_of(host) == before
        assert statuses(apply(host, **wanted)).keys() == predicted.keys()
        changed = {path for path, seen in files_of(host).items() if before.get(path) != seen}
        assert {path for path in changed if not host.at(path).is_dir()} <= {PAM, MANAGER, DROP_IN}
        absent(host)
        assert files_of(host) == before


# -- what can't be -----------------------------------------------------------------------------------------------------


def test_trap_open_files_above_nr_open_are_refused_before_anything_is_written(host):
    host.put("/proc/sys/fs/nr_open", "60000\n")
    before = files_of(host)
    told = rows(apply(host, **EVERYTHING))
    for name in (ALL, ROOT, DEFAULT, MINER):
        assert told[name]["status"] == "refused"
        assert "65536 open files are more than fs.nr_open = 60000 now" in told[name]["reason"]
    assert told["pam:alice:memlock"]["status"] == "changed"
    assert set(files_of(host)) - set(before) == {PAM}
    assert "nofile" not in host.text(PAM)


@pytest.mark.parametrize(("most", "status"), [(65536, "changed"), (65535, "refused")])
def test_as_many_open_files_as_nr_open_are_fine(host, most, status):
    host.put("/proc/sys/fs/nr_open", f"{most}\n")
    assert rows(apply(host, profile="guide", check=True))[ROOT]["status"] == status


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (
            "/etc/sysctl.d/50-a.conf",
            "fs.nr_open = 4096 at the next boot, by /etc/sysctl.d/50-a.conf:1 (systemd-sysctl)",
        ),
        ("/etc/sysctl.conf", "fs.nr_open = 4096 at the next boot, by /etc/sysctl.d/99-sysctl.conf:1 (systemd-sysctl)"),
    ],
)
def test_trap_nr_open_of_the_next_boot_counts_too(host, path, told):
    host.put(path, "fs.nr_open = 4096\n")
    row = rows(apply(host, {"root": {"nofile": "unlimited"}}))[ROOT]
    assert (row["status"], row["persisted"]) == ("refused", None)
    assert told in rows(apply(host, profile="guide"))[ROOT]["reason"]


def test_a_refused_value_leaves_the_one_that_was_taken(host):
    apply(host, {"root": {"nofile": 4096}})
    for bad in ("2:1", 10**9, {"soft": 1}):
        assert rows(apply(host, {"root": {"nofile": bad}}))[ROOT]["status"] == "refused"
        assert "root\t-\tnofile\t4096" in host.text(PAM)
    assert rows(apply(host, {"root": ["nofile"]}))[ROOT]["status"] == "refused"
    assert "root\t-\tnofile\t4096" in host.text(PAM)


def test_trap_without_the_capability_nothing_above_process_1_is_written(host):
    host.forbid(20000)
    before = files_of(host)
    told = rows(apply(host, profile="guide", **SERVICE))
    assert {row["status"] for row in told.values()} == {"unsupported"}
    assert files_of(host) == before
    for row in told.values():
        assert "65536 can't take effect: process 1 itself is held to 20000 and has no CAP_SYS_RESOURCE" in row["reason"]
    assert rows(apply(host, {"root": {"nofile": 20000, "core": 5}}))[ROOT]["status"] == "changed"


def test_the_ceiling_is_told_in_the_unit_of_the_row(host):
    host.forbid()
    told = rows(apply(host, {"root": {"memlock": 9000}}, systemd={"memlock": 9000}))
    assert "9000 can't take effect: process 1 itself is held to 8192 " in told["pam:root:memlock"]["reason"]
    assert "9216000 can't take effect" in told["systemd:DefaultLimitMEMLOCK"]["reason"]


@pytest.mark.parametrize("line", ["CapEff:", "CapEff:\tzz", "CapEff:\t" + "f" * 40, "CapEff:\t²", ""])
def test_capabilities_that_cant_be_read_keep_nothing_out(host, line):
    host.forbid(20000)
    host.put("/proc/1/status", f"Name:\tsystemd\n{line}\n")
    assert rows(apply(host, profile="guide", check=True))[ROOT]["status"] == "changed"


@pytest.mark.parametrize("parent", ["x", "²", "-1", "9" * 5000])
def test_a_process_whose_parent_makes_no_sense_is_nobody_s_child(host, parent):
    host.start(813, parent, 1024, 5)
    assert "813" not in rows(apply(host, **SERVICE))[MINER]["reason"]


def test_the_capability_counts_in_the_first_user_namespace_only(host):
    host.put("/proc/1/limits", host.text("/proc/1/limits").replace("524288", "20000"))
    assert rows(apply(host, profile="guide", check=True))[ROOT]["status"] == "changed"
    host.put("/proc/1/uid_map", "0 100000 65536\n")
    assert rows(apply(host, profile="guide", check=True))[ROOT]["status"] == "unsupported"


BAD = [
    ({"parameters": {"root": {"nofle": 1}}}, "pam:root:nofle", "unknown", "is nofile meant?"),
    ({"parameters": {"root": {"chroot": "/x"}}}, "pam:root:chroot", "unknown", "no such item"),
    ({"parameters": {"root": {"NOFILE": None}}}, "pam:root:NOFILE", "unknown", "is nofile meant?"),
    ({"parameters": {"root": 5}}, "pam:root", "refused", "items and their values"),
    ({"parameters": {"a b": {}}}, "pam:a b", "refused", "is no domain"),
    ({"parameters": {"#": {}}}, "pam:#", "refused", "is no domain"),
    ({"parameters": {"": {}}}, "pam:", "refused", "is no domain"),
    ({"systemd": {"maxlogins": 5}}, "systemd:DefaultLimitMAXLOGINS", "refused", "a limit of logins"),
    ({"services": {"minr": {"nofile": 5}}}, "unit:minr.service:LimitNOFILE", "unknown", "is miner.service meant?"),
    ({"services": {"qqqqqq": {"nofile": 5}}}, "unit:qqqqqq.service:LimitNOFILE", "unknown", "no such service"),
    ({"services": {"../x": {"nofile": 5}}}, "unit:../x", "refused", "no name of a service"),
    ({"services": {"a.slice": {"nofile": 5}}}, "unit:a.slice", "refused", "no name of a service"),
    ({"services": {"a@": {"nofile": 5}}}, "unit:a@.service", "refused", "no name of a service"),
    ({"services": {"miner": {}, "miner.service": {}}}, "unit:miner.service", "refused", "given twice"),
]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(("wanted", "name", "status", "reason"), BAD)
def test_bad_input_is_told_and_the_rest_lands(host, wanted, name, status, reason, check):
    parameters = {"alice": {"core": 0}, **wanted.get("parameters", {})}
    told = rows(apply(host, **{**wanted, "parameters": parameters}, check=check))
    assert (told[name]["status"], reason in told[name]["reason"]) == (status, True), told[name]
    assert told["pam:alice:core"]["status"] == "changed"
    assert host.at(PAM).exists() != check


def test_a_masked_service(host):
    host.units.pop("miner.service")
    host.masked.add("miner.service")
    assert rows(apply(host, **SERVICE))[MINER]["status"] == "unsupported"


def test_without_pam_limits_or_systemd(host):
    host.put("/etc/pam.d/sshd", "# session required pam_limits.so\n")
    host.at("/run/systemd/system/made").unlink()
    host.at("/run/systemd/system").rmdir()
    told = rows(apply(host, profile="guide", **SERVICE))
    assert {row["status"] for row in told.values()} == {"unsupported"}
    assert "nothing in /etc/pam.d asks for pam_limits.so" in told[ROOT]["reason"]
    assert told[DEFAULT]["reason"] == told[MINER]["reason"] == "systemd does not run this host"
    assert host.commands == []


# -- who else decides --------------------------------------------------------------------------------------------------

RIVALS = [
    ("/etc/security/limits.d/zz.conf", "root soft nofile 5\n", ROOT, ":1 gives soft 5: remove that line"),
    ("/etc/security/limits.d/zz.conf", "\nroot -\n", ROOT, "zz.conf:2 exempts root from all limits"),
    (MAIN, "root -\n", ROOT, "limits.conf:1 exempts root"),
    ("/etc/security/limits.d/zz.conf", "0: - nofile 5\n", ROOT, "zz.conf:1 gives soft 5"),
    ("/etc/systemd/system.conf.d/zz.conf", "[Manager]\nDefaultLimitNOFILE=7\n", DEFAULT, "zz.conf:2 sets 7:7"),
    ("/etc/systemd/system/miner.service.d/zz.conf", "[Service]\nLimitNOFILE=7:8\n", MINER, "zz.conf:2 sets 7:8"),
    ("/run/systemd/system/service.d/zz.conf", "[Service]\nLimitNOFILE=7:8\n", MINER, "service.d/zz.conf:2 sets 7:8"),
]


@pytest.mark.parametrize(("path", "text", "name", "reason"), RIVALS)
def test_a_line_that_wins_over_ours_is_named(host, path, text, name, reason):
    host.put(path, text)
    row = rows(apply(host, profile="guide", **SERVICE))[name]
    assert row["status"] == "overridden"
    assert reason in row["reason"]
    assert row["persisted_by"].startswith(path) or "soft" in reason


HARMLESS = [
    (MAIN, "root - nofile 5\n* - nofile 6\n"),
    ("/etc/security/limits.d/10.conf", "root - nofile 5\n"),
    ("/etc/security/limits.d/zz.conf", "root - nofile 65536\n@root - nofile 5\n* - core 5\n"),
    ("/etc/security/limits.d/zz.conf.off", "root - nofile 5\n"),
    ("/etc/systemd/system.conf.d/10.conf", "[Manager]\nDefaultLimitNOFILE=7\n"),
    ("/etc/systemd/system.conf", "[Manager]\nDefaultLimitNOFILE=7\n"),
    ("/etc/systemd/system/miner.service", "[Service]\nLimitNOFILE=7\n"),
]


@pytest.mark.parametrize(("path", "text"), HARMLESS)
def test_a_line_that_loses_is_no_matter(host, path, text):
    host.put(path, text)
    assert set(statuses(apply(host, profile="guide", **SERVICE)).values()) == {"changed"}


def test_the_guides_own_lines_are_told_and_left_alone(host):
    lines = "* soft nofile 65536\n* hard nofile 65536\n" * 2
    host.put(MAIN, lines)
    row = rows(apply(host, profile="guide"))[ALL]
    assert row["status"] == "changed"
    assert "the guide's lines stand in /etc/security/limits.conf (line 1, 2, 3, 4) too" in row["reason"]
    assert host.text(MAIN) == lines


def test_who_has_lines_of_his_own_is_told_with_everyone(host):
    host.put(MAIN, "alice - nofile 5\nbob -\n@miners - core 1\n")
    reason = rows(apply(host, profile="guide"))[ALL]["reason"]
    assert reason == f"not for those with lines of their own: alice ({MAIN}:1), bob ({MAIN}:2)"


def test_a_user_or_group_that_the_host_does_not_know_is_told(host):
    told = rows(apply(host, {"rooot": {"core": 0}, "@miner": {"core": 0}, "@miners": {"core": 0}}))
    assert told["pam:rooot:core"]["reason"] == "/etc/passwd has no such user"
    assert told["pam:@miner:core"]["reason"] == "/etc/group has no such group"
    assert told["pam:@miners:core"]["reason"] == ""


def test_trap_tasks_bind_before_processes(host):
    host.tasks = {"DefaultTasksMax": "300", "miner.service": "200", "user": "100"}
    wanted = {"nproc": 250}
    told = rows(apply(host, {"alice": wanted}, systemd=wanted, services={"miner": wanted}))
    assert told["pam:alice:nproc"]["status"] == told["unit:miner.service:LimitNPROC"]["status"] == "overridden"
    assert "TasksMax=100 of users' slices" in told["pam:alice:nproc"]["reason"]
    assert "TasksMax=200 of miner.service binds before 250" in told["unit:miner.service:LimitNPROC"]["reason"]
    assert told["systemd:DefaultLimitNPROC"]["status"] == "changed"
    assert rows(apply(host, {"alice": {"nproc": 100}}))["pam:alice:nproc"]["status"] == "changed"


# -- drift, systemd and processes --------------------------------------------------------------------------------------


def test_drift_on_disk_is_told_and_repaired(host):
    apply(host, profile="guide", **SERVICE)
    host.put(PAM, host.text(PAM).replace("root\t-\tnofile\t65536", "root\t-\tnofile\t5"))
    host.put(DROP_IN, "[Service]\n")
    told = rows(apply(host, profile="guide", **SERVICE))
    assert (told[ROOT]["status"], told[ROOT]["before"], told[ROOT]["after"]) == ("drifted", "5:5", "65536:65536")
    assert "the managed file said 5:5" in told[ROOT]["reason"]
    assert told[MINER]["status"] == "drifted"
    assert told[ALL]["status"] == "ok"
    assert "LimitNOFILE=65536:65536" in host.text(DROP_IN)


@pytest.mark.parametrize(
    ("wanted", "command"), [(SYSTEMD, REEXEC), (SERVICE, RELOAD), ({**SYSTEMD, **SERVICE}, REEXEC)]
)
def test_trap_systemd_is_told_once_and_in_the_right_way(host, wanted, command):
    apply(host, **wanted)
    assert [argv for argv in host.commands if argv[1] != "show"] == [command]
    absent(host)
    assert [argv for argv in host.commands if argv[1] != "show"] == [command] * 2


def test_logins_alone_tell_systemd_nothing(host):
    apply(host, {"root": {"nofile": 5}})
    assert [argv for argv in host.commands if argv[1] != "show"] == []


@pytest.mark.parametrize(("wanted", "name", "command"), [(SYSTEMD, DEFAULT, REEXEC), (SERVICE, MINER, RELOAD)])
def test_what_systemd_was_never_told_it_is_told_by_the_next_run(host, wanted, name, command):
    apply(host, **wanted)
    host.defaults.clear()
    host.units["miner.service"] = {}
    host.commands.clear()
    row = rows(apply(host, **wanted))[name]
    assert "systemd had not read" in row["reason"]
    assert row["after"] == row["desired"]
    assert [argv for argv in host.commands if argv[1] != "show"] == [command]
    assert rows(apply(host, **wanted))[name]["status"] == "ok"


def test_a_run_killed_anywhere_is_made_up_for_by_the_next(memory):
    steps = 0
    while True:
        host = make_limits_host(memory / str(steps))
        before = files_of(host)
        host.steps_to_live = steps
        try:
            apply(host, **EVERYTHING)
        except Killed:
            host.steps_to_live = None
        else:
            break
        apply(host, **EVERYTHING)
        assert host.defaults["DefaultLimitNOFILE"] == host.units["miner.service"]["LimitNOFILE"] == "65536:65536"
        absent(host)
        assert files_of(host) == before
        steps += 1
    assert steps > 8


def test_trap_a_rollback_killed_anywhere_is_made_up_for_by_the_next_and_systemd_is_told(memory):
    for steps in range(100):
        host = make_limits_host(memory / str(steps))
        before, known = files_of(host), (dict(host.defaults), dict(host.units))
        apply(host, **EVERYTHING)
        host.steps_to_live = steps
        try:
            absent(host)
            finished = True
        except Killed:
            finished = False
        host.steps_to_live = None
        absent(host)
        assert (files_of(host), (host.defaults, host.units)) == (before, known)
        assert not absent(host).changed
        if finished:
            assert steps > 8
            return
    raise AssertionError("the run never ends")


def test_trap_what_a_run_left_beside_a_drop_in_that_it_never_noted_is_swept(host):
    host.put("/etc/systemd/system/idle.service.d/by-hand.conf", "[Service]\n")
    before = files_of(host)
    host.put("/etc/systemd/system/idle.service.d/.99-zz-precog-fleet.conf.precog-fleet.tmp", "[Serv")
    absent(host)
    assert files_of(host) == before


def test_what_a_restart_would_change_is_told_of_main_process_and_children(host):
    for _ in range(2):
        reason = rows(apply(host, **SERVICE))[MINER]["reason"]
        assert "812 has 1024:524288, 813 has 1024:524288" in reason
        assert "systemctl restart miner.service" in reason
    host.start(812, 1, 65536, 65536)
    assert "processes: 813 has 1024:524288" in rows(apply(host, **SERVICE))[MINER]["reason"]
    host.start(813, 812, 65536, 65536)
    assert rows(apply(host, **SERVICE))[MINER]["reason"] == ""


def test_trap_a_number_that_another_process_has_got_meanwhile_is_not_looked_at(host, monkeypatch):
    looks = iter(range(1000))
    read = host.read_text

    def reading(path):
        text = read(path)
        return text.replace(" 81300 ", f" {next(looks)} ") if path == "/proc/813/stat" else text

    monkeypatch.setattr(host, "read_text", reading)
    reason = rows(apply(host, **SERVICE))[MINER]["reason"]
    assert "812 has" in reason
    assert "813" not in reason


def test_after_a_reboot_all_is_given_back(host):
    before = files_of(host)
    apply(host, **EVERYTHING)
    boot = host.at("/proc/sys/kernel/random/boot_id")
    now = boot.read_bytes()
    host.set_key("kernel/random/boot_id", "22222222-2222-4222-8222-222222222222")
    assert set(statuses(apply(host, **EVERYTHING)).values()) == {"ok"}
    absent(host)
    host.set_key("kernel/random/boot_id", now.decode().strip())
    assert files_of(host) == before


def test_a_child_that_has_left_the_service_is_not_its_own(host):
    unit = "1:name=systemd:/system.slice/miner.service\n0::/\n"
    host.put("/proc/812/cgroup", unit)
    host.put("/proc/813/cgroup", unit.replace("service\n", "service/worker\n"))
    host.start(814, 812, 5, 5)
    host.put("/proc/814/cgroup", unit.replace("miner.service", "session-1.scope"))
    reason = rows(apply(host, **SERVICE))[MINER]["reason"]
    assert "812 has" in reason
    assert "813 has" in reason
    assert "814" not in reason


def test_a_service_that_is_not_running(host):
    row = rows(apply(host, services={"idle": {"nofile": 5}}))["unit:idle.service:LimitNOFILE"]
    assert (row["status"], row["reason"]) == ("changed", "not running: takes effect when it starts")


def test_a_service_that_is_gone_is_given_back(host):
    before = files_of(host)
    apply(host, **SERVICE)
    host.units.pop("miner.service")
    row = rows(absent(host))[MINER]
    assert "there is no such service any more" in row["reason"]
    assert files_of(host) == before


def test_a_service_taken_out_is_given_back_and_the_rest_stays(host):
    apply(host, profile="guide", **SERVICE)
    assert statuses(apply(host, profile="guide"))[MINER] == "changed"
    assert not host.at(DROP_IN).exists()
    assert statuses(apply(host, profile="guide")) == dict.fromkeys((ALL, ROOT, DEFAULT), "ok")


def test_a_systemd_that_does_not_answer_stops_the_run_before_it_begins(host):
    host.broken = True
    before = files_of(host)
    with pytest.raises(HostError, match="no systemd here"):
        apply(host, profile="guide")
    assert files_of(host) == before


@pytest.mark.parametrize("path", [PAM, MANAGER, DROP_IN])
def test_a_full_disk_leaves_all_as_it_was(host, path):
    before = files_of(host)
    host.disk_errors[f"commit {path}"] = errno.ENOSPC
    with pytest.raises(HostError, match="Free space"):
        apply(host, **EVERYTHING)
    assert files_of(host) == before


def test_a_damaged_ledger_is_told(host):
    original = {"value": "-", "configured": None, "boot": "x"}
    host.put(LEDGER, json.dumps({"version": 1, "settings": {PAM: {"pam:root:x": original}}, "files": {}}))
    with pytest.raises(HostError, match="damaged"):
        apply(host)


def test_a_lost_ledger_still_lets_our_files_go(host):
    before = files_of(host)
    apply(host, profile="guide")
    host.at(LEDGER).unlink()
    absent(host)
    assert files_of(host) == before


# -- the module --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(host, monkeypatch, capsys):
    """Run main() on the made-up host; return what it told Ansible."""
    monkeypatch.setattr(resource_limits, "Host", lambda: host)
    monkeypatch.setattr(limits.processes, "service", lambda _host, name: {"unit": name})
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def call(**arguments):
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            resource_limits.main()
        answer = json.loads(capsys.readouterr().out)
        assert bool(ended.value.code) is answer.get("failed", False)
        return answer

    return call


def test_the_module_applies_again_and_gives_back(run, host):
    before = files_of(host)
    first = run(services={"miner": {"nofile": 5}})
    assert (first["changed"], first["summary"]["changed"]) == (True, 4)
    assert first["psutil"] == {"services": {"miner": {"unit": "miner"}}}
    assert not run(services={"miner": {"nofile": 5}})["changed"]
    assert run(state="absent")["psutil"] == {"services": {}}
    assert files_of(host) == before


def test_the_module_fails_with_all_that_failed_and_warns_of_overrides(run, host, monkeypatch):
    warnings = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    host.put("/etc/security/limits.d/zz.conf", "root -\n")
    told = run(parameters={"*": {"nofile": "x"}}, services={"minr": {"nofile": 5}})
    assert told["failed"]
    assert told["msg"].startswith(
        "2 setting(s) can't be applied (the others are not affected):\npam:*:nofile = x: refused"
    )
    assert any("zz.conf:1 exempts root" in warning for warning in warnings)


def test_unsupported_fails_only_where_that_is_asked_for(run, host):
    host.forbid()
    assert run()["summary"]["unsupported"] == 3
    assert "3 setting(s)" in run(on_unsupported="fail")["msg"]


def test_without_root_the_remedy_is_told(run, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run()["msg"] == NOT_ROOT


def test_without_psutil_the_rest_is_done(run, monkeypatch):
    def missing(_host, _name):
        raise limits.PsutilMissingError("no psutil")

    monkeypatch.setattr(limits.processes, "service", missing)
    told = run(services={"miner": {"nofile": 5}})
    assert (told["changed"], told["psutil"]) == (True, {"error": "no psutil"})
