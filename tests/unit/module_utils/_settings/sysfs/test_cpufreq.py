"""CPU frequency: the engine on a made-up sysfs that behaves like the kernel's."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs import unit
from ansible_collections.precog.fleet.tests.unit.made_cpufreq import (
    ACTIVE,
    BOOT_ID,
    CPU,
    FOLDER,
    HIGHEST,
    LOWEST,
    UNIT,
    WANT,
    give_back,
    make_cpu,
    tune,
)
from ansible_collections.precog.fleet.tests.unit.made_host import (
    LEDGER,
    Killed,
    files_of,
    rows,
    snapshot,
    statuses,
    untouched,
)

GOVERNORS = ["policy0:governor", "policy2:governor"]
PREFERENCE = "energy_performance_preference"
DRIVERS = ("acpi-cpufreq", "intel_cpufreq", *ACTIVE)


@pytest.fixture
def make(memory):
    """Build hosts, each in a folder of its own."""
    made = iter(range(10**6))
    return lambda *arguments, **options: make_cpu(memory / f"cpu{next(made)}", *arguments, **options)


def ledger(host):
    """What is in the ledger; one that was never written has nothing."""
    return json.loads(host.text(LEDGER)) if host.exists(LEDGER) else EMPTY


EMPTY = {"version": 1, "settings": {}, "files": {}}

# What is asked for, by a name; on every driver that has it.
WISHES = {
    "the guide's": {},
    "preference": {"governor": "powersave", PREFERENCE: "power"},
    "preference alone": {"governor": "unmanaged", PREFERENCE: "balance_power"},
    "preference with performance": {PREFERENCE: "performance"},
    "limits": {"scaling_min_freq": 1200000, "scaling_max_freq": 2400000},
    "upper limit": {"governor": "unmanaged", "scaling_max_freq": 2400000},
    "boost": {"boost": "disabled"},
    "everything": {
        PREFERENCE: "performance",
        "scaling_min_freq": HIGHEST,
        "scaling_max_freq": HIGHEST,
        "boost": "disabled",
    },
}


CASES = [(driver, wish) for driver in DRIVERS for wish in WISHES]
# Nothing is left to be done where only what the driver lacks is asked for.
CASES.remove(("acpi-cpufreq", "preference alone"))
HARDEST = [
    ("acpi-cpufreq", "the guide's"),
    ("intel_cpufreq", "limits"),
    *((driver, wish) for driver in ACTIVE for wish in ("the guide's", "preference", "everything")),
]


@pytest.fixture(params=CASES, ids=" ".join)
def case(request, make):
    """A host and a wish."""
    driver, wish = request.param
    return make(driver), WISHES[wish]


def test_apply_again_reboot_and_back(case):
    host, wish = case
    before = files_of(host)
    first = tune(host, **wish)
    assert first.changed
    lacking = PREFERENCE in wish and host.driver == "acpi-cpufreq"
    assert set(statuses(first).values()) == ({"changed", "unsupported"} if lacking else {"changed"})
    applied = {name: row["after"] for name, row in rows(first).items()}
    for row in first.result()["settings"]:
        if row["status"] == "changed":
            assert row["after"] == row["desired"] == row["persisted"]
            number = int(row["persisted_by"].removeprefix(f"{UNIT}:"))
            line = host.text(UNIT).split("\n")[number - 1]
            assert "no_turbo" in line or "boost" in line or f"echo {row['desired']} >" in line

    host.kernel_writes.clear()
    seen = untouched(host)
    again = tune(host, **wish)
    assert not again.changed
    assert (host.kernel_writes, untouched(host)) == ([], seen)
    assert set(statuses(again).values()) <= {"ok", "unsupported"}

    host.reboot()
    after_boot = tune(host, **wish)
    assert not after_boot.changed
    assert {name: row["after"] for name, row in rows(after_boot).items()} == applied

    host.set_key(BOOT_ID, "11111111-1111-4111-8111-111111111111")
    assert give_back(host).changed
    assert files_of(host) == before
    assert ledger(host) == EMPTY
    assert give_back(host).changes == []


def test_check_mode_says_the_same_and_touches_nothing(case):
    host, wish = case
    for moment in ("first", "again", "absent"):
        wanted = {"state": "absent"} if moment == "absent" else wish
        before, seen = snapshot(host), untouched(host)
        predicted = tune(host, check=True, **wanted)
        assert (snapshot(host), untouched(host)) == (before, seen)
        real = tune(host, **wanted)
        assert (rows(predicted), predicted.changed, predicted.diff) == (rows(real), real.changed, real.diff)


@pytest.mark.full
@pytest.mark.parametrize("case", HARDEST, indirect=True, ids=" ".join)
def test_killed_anywhere_the_next_run_mends_it_and_every_byte_comes_back(case, make):
    model, wish = case
    before = files_of(model)
    for steps in range(1000):
        host = make(model.driver)
        host.steps_to_live = steps
        try:
            tune(host, **wish)
            finished = True
        except Killed:
            finished = False
        host.steps_to_live = None
        if steps % 2:
            give_back(host)
            assert files_of(host) == before
        tune(host, **wish)
        assert not tune(host, **wish).changed
        give_back(host)
        assert files_of(host) == before
        assert ledger(host) == EMPTY
        if finished:
            assert steps > 4
            return
    raise AssertionError("the run never ends")


@pytest.mark.full
@pytest.mark.parametrize("case", HARDEST, indirect=True, ids=" ".join)
def test_killed_while_giving_back(case, make):
    model, wish = case
    before = files_of(model)
    for steps in range(1000):
        host = make(model.driver)
        tune(host, **wish)
        host.steps_to_live = steps
        try:
            give_back(host)
            finished = True
        except Killed:
            finished = False
        host.steps_to_live = None
        give_back(host)
        assert files_of(host) == before
        if finished:
            return
    raise AssertionError("the run never ends")


def test_a_disk_that_says_no_at_the_end_takes_the_values_back(case):
    host, wish = case
    before = files_of(host)
    host.disk_errors[f"commit {WANT}"] = errno.ENOSPC
    with pytest.raises(HostError, match="Free space"):
        tune(host, **wish)
    assert files_of(host) == before


def test_a_row_for_each_policy_not_for_each_processor(make):
    host = make("acpi-cpufreq", {0: "0 1", 2: "2", 10: "10 11"})
    report = tune(host)
    assert list(rows(report)) == ["policy0:governor", "policy2:governor", "policy10:governor"]
    assert host.governors() == ["performance"] * 3
    assert report.diff[-1]["before"].startswith("policy0:governor = schedutil\n")


def test_the_unit_and_what_wants_it(make):
    host = make()
    tune(host, scaling_max_freq=2000000, scaling_min_freq=1000000, boost="disabled")
    assert host.text(WANT).split("\n")[1:] == ["[Unit]", "Wants=precog-fleet-cpu.service", ""]
    lines = host.text(UNIT).splitlines()
    (after,) = [line for line in lines if line.startswith("After=")]
    rivals = ("tuned", "power-profiles-daemon", "tlp", "auto-cpufreq", "ondemand", "cpufrequtils")
    assert {f"{name}.service" for name in rivals} < set(after.removeprefix("After=").split())
    assert "Type=oneshot" in lines
    assert [line for line in lines if line.startswith("ExecStart")][:4] == [
        f"ExecStart=-/bin/sh -c 'echo performance > {FOLDER}/policy0/scaling_governor'",
        f"ExecStart=-/bin/sh -c 'echo 2000000 > {FOLDER}/policy0/scaling_max_freq'",
        f"ExecStart=-/bin/sh -c 'echo 1000000 > {FOLDER}/policy0/scaling_min_freq'",
        f"ExecStart=-/bin/sh -c 'echo 2000000 > {FOLDER}/policy0/scaling_max_freq'",
    ]
    assert lines[-1] == f"ExecStart=-/bin/sh -c 'echo 0 > {FOLDER}/boost'"
    assert host.commands == [["systemctl", "daemon-reload"]]


def test_systemd_itself_finds_nothing_wrong_with_the_unit(make, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is needed: apt-get install systemd")
    host = make()
    tune(host)
    file = tmp_path / unit.NAME
    file.write_text(host.text(UNIT))
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.NAME in line]) == (0, [])


def test_without_a_running_systemd_none_is_told(make):
    host = make()
    host.at("/run/systemd/system").rmdir()
    assert tune(host).changed
    assert host.commands == []


def test_a_new_governor_is_a_change_and_no_drift(make):
    host = make()
    tune(host)
    report = tune(host, governor="powersave")
    assert statuses(report) == dict.fromkeys(GOVERNORS, "changed")
    give_back(host)
    assert host.governors() == ["schedutil", "schedutil"]


def test_drift_at_run_time_and_on_disk(make):
    host = make()
    tune(host)
    host.set_file(0, "scaling_governor", "powersave")
    row = rows(tune(host))["policy0:governor"]
    assert (row["status"], row["reason"]) == ("drifted", "drifted at run time: was powersave")

    line = f"echo {{}} > {FOLDER}/policy2"
    host.put(UNIT, host.text(UNIT).replace(line.format("performance"), line.format("powersave")))
    report = tune(host)
    row = rows(report)["policy2:governor"]
    assert (row["status"], row["persisted_before"], row["persisted"]) == ("drifted", "powersave", "performance")
    assert statuses(report)["policy0:governor"] == "ok"

    host.at(WANT).unlink()
    report = tune(host)
    assert statuses(report) == dict.fromkeys(GOVERNORS, "drifted")
    assert "lost its line" in rows(report)["policy0:governor"]["reason"]
    assert not tune(host).changed


def test_what_is_no_longer_asked_for_is_given_back(make):
    host = make("intel_pstate")
    tune(host, governor="powersave", **{PREFERENCE: "power"}, scaling_max_freq=2000000, boost="disabled")
    report = tune(host, governor="powersave")
    assert {host.file(0, PREFERENCE), host.file(2, PREFERENCE)} == {"balance_performance"}
    assert host.file(0, "scaling_max_freq") == str(HIGHEST)
    assert host.text(f"{CPU}/intel_pstate/no_turbo") == "0\n"
    assert rows(report)["boost"]["reason"] == "given back: enabled"
    assert list(rows(tune(host, governor="powersave"))) == GOVERNORS
    tune(host, governor="unmanaged")
    assert not host.exists(UNIT)
    assert ledger(host) == EMPTY


# -- traps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
def test_trap_a_governor_that_does_not_exist(make, driver):
    host = make(driver)
    before = files_of(host)
    report = tune(host, governor="perfomance")
    row = rows(report)["policy0:governor"]
    assert row["status"] == "refused"
    assert host.file(0, "scaling_available_governors").replace(" ", ", ") in row["reason"]
    assert row["reason"].count("performance") == 1
    assert bool(host.kernel_writes) is (driver not in ACTIVE)  # in active mode no module could bring it
    assert files_of(host) == before
    assert ledger(host) == EMPTY


def test_trap_an_unlisted_governor_is_loaded_by_the_kernel(make):
    host = make()
    assert statuses(tune(host, governor="Conservative")) == dict.fromkeys(GOVERNORS, "changed")
    assert host.governors() == ["conservative", "conservative"]


def test_a_bad_governor_does_not_keep_the_rest_from_landing(make):
    host = make()
    report = tune(host, governor="nonsense", scaling_max_freq=2000000)
    assert statuses(report)["policy2:scaling_max_freq"] == "changed"
    assert "governor" not in host.text(UNIT)
    assert host.text(UNIT).count("echo 2000000") == 2


@pytest.mark.parametrize("driver", ACTIVE)
def test_trap_ebusy_a_preference_under_performance_is_refused_before_it_is_written(make, driver):
    host = make(driver)
    report = tune(host, **{PREFERENCE: "balance_power"})
    row = rows(report)[f"policy0:{PREFERENCE}"]
    assert row["status"] == "refused"
    assert "EBUSY" in row["reason"]
    assert statuses(report)["policy0:governor"] == "changed"
    assert not [value for _path, value in host.kernel_writes if value != "performance"]
    assert PREFERENCE not in host.text(UNIT)


def test_in_passive_mode_the_preference_is_free(make):
    host = make("intel_cpufreq")
    assert set(statuses(tune(host, **{PREFERENCE: "balance_power"})).values()) == {"changed"}


@pytest.mark.parametrize("driver", ACTIVE)
def test_trap_the_governor_moves_the_preference_and_the_rollback_moves_it_back(make, driver):
    host = make(driver)
    host.set_file(0, PREFERENCE, "power")
    tune(host)
    assert host.file(0, PREFERENCE) == "performance"
    host.reboot()
    give_back(host)
    assert (host.file(0, "scaling_governor"), host.file(0, PREFERENCE)) == ("powersave", "power")


@pytest.mark.parametrize("driver", ACTIVE)
def test_another_governor_later_has_the_preference_of_before_ours(make, driver):
    host = make(driver)
    before = files_of(host)
    tune(host)
    tune(host, governor="powersave")
    assert host.file(0, PREFERENCE) == "balance_performance"
    give_back(host)
    assert files_of(host) == before


def test_in_passive_mode_a_preference_set_by_hand_stays(make):
    host = make("intel_cpufreq")
    tune(host)
    host.set_file(0, PREFERENCE, "power")
    give_back(host)
    assert host.file(0, PREFERENCE) == "power"


@pytest.mark.parametrize("driver", ACTIVE)
def test_a_preference_taken_over_later_has_the_original_of_before_the_governor(make, driver):
    host = make(driver)
    before = files_of(host)
    tune(host)
    tune(host, **{PREFERENCE: "performance"})
    released = tune(host)
    assert "as soon as the governor is no longer performance" in rows(released)[f"policy0:{PREFERENCE}"]["reason"]
    assert not tune(host).changed
    give_back(host)
    assert files_of(host) == before


@pytest.mark.parametrize("driver", ACTIVE)
def test_a_preference_first_the_governor_later(make, driver):
    host = make(driver)
    before = files_of(host)
    tune(host, governor="powersave", **{PREFERENCE: "power"})
    bad = tune(host, **{PREFERENCE: "power"})
    assert statuses(bad)[f"policy0:{PREFERENCE}"] == "refused"
    tune(host)
    give_back(host)
    assert files_of(host) == before


@pytest.mark.parametrize("driver", ACTIVE)
def test_a_preference_holds_when_the_governor_moves_under_it(make, driver):
    host = make(driver)
    tune(host)
    report = tune(host, governor="powersave", **{PREFERENCE: "performance"})
    assert statuses(report) == {
        "policy0:governor": "changed",
        f"policy0:{PREFERENCE}": "changed",
        "policy2:governor": "changed",
        f"policy2:{PREFERENCE}": "changed",
    }
    assert host.file(0, PREFERENCE) == "performance"


def test_trap_default_reads_back_as_another_word(make):
    host = make("intel_pstate")
    before = files_of(host)
    host.set_file(0, PREFERENCE, "power")
    arguments = {"governor": "powersave", PREFERENCE: "default"}
    row = rows(tune(host, **arguments))[f"policy0:{PREFERENCE}"]
    assert (row["status"], row["before"], row["after"]) == ("changed", "power", "balance_performance")
    again = tune(host, **arguments)
    assert not again.changed
    assert "shows it as balance_performance" in rows(again)[f"policy0:{PREFERENCE}"]["reason"]
    give_back(host)
    assert host.file(0, PREFERENCE) == "power"
    host.set_file(0, PREFERENCE, "balance_performance")
    assert files_of(host) == before


def test_an_unknown_preference_names_the_list(make):
    row = rows(tune(make("intel_pstate"), governor="powersave", **{PREFERENCE: "turbo"}))[f"policy0:{PREFERENCE}"]
    assert row["status"] == "refused"
    assert "has only default, performance, balance_performance" in row["reason"]


def test_a_driver_without_preferences(make):
    row = rows(tune(make(), **{PREFERENCE: "performance"}))[f"policy0:{PREFERENCE}"]
    assert (row["status"], row["reason"]) == ("unsupported", f"the driver acpi-cpufreq has no {PREFERENCE}")


@pytest.mark.parametrize("old_kernel", [True, False])
def test_trap_an_inactive_policy_is_unsupported_and_not_written(make, old_kernel):
    host = make()
    host.old_kernel = old_kernel
    host.set_offline(2, 3)
    row = rows(tune(host))["policy2:governor"]
    assert (row["status"], row["before"]) == ("unsupported", None)
    assert "all processors of this policy are offline" in row["reason"]
    assert "policy2" not in host.text(UNIT) + str(host.kernel_writes)
    assert not tune(host).changed
    host.set_offline(3)  # one of two is enough
    assert statuses(tune(host)) == {"policy0:governor": "ok", "policy2:governor": "changed"}


def test_trap_an_absent_online_file_means_online(make):
    host = make("acpi-cpufreq", {0: "0"})
    assert not host.exists(f"{CPU}/cpu0/online")
    assert statuses(tune(host)) == {"policy0:governor": "changed"}


def test_a_policy_that_goes_to_sleep_keeps_its_line_and_is_given_back_when_it_wakes(make):
    host = make()
    before = files_of(host)
    tune(host)
    host.set_offline(2, 3)
    report = tune(host)
    assert (report.changed, statuses(report)["policy2:governor"]) == (False, "unsupported")
    assert "policy2" in host.text(UNIT)
    row = rows(give_back(host))["policy2:governor"]
    assert row["status"] == "unsupported"
    assert "not given back yet" in row["reason"]
    assert not give_back(host).changed
    host.set_offline()
    assert give_back(host).changed
    assert files_of(host) == before
    assert ledger(host) == EMPTY


def test_a_policy_that_is_gone(make):
    host = make()
    tune(host)
    shutil.rmtree(host.at(f"{FOLDER}/policy2"))
    report = tune(host)
    assert (report.changed, statuses(report)["policy2:governor"]) == (False, "unsupported")
    assert "policy2" in host.text(UNIT)
    assert "nothing to give back" in rows(give_back(host))["policy2:governor"]["reason"]
    assert ledger(host) == EMPTY
    assert not host.exists(UNIT)


def test_trap_no_cpufreq_at_all_is_one_unsupported_row(make):
    host = make("none", {})
    before = snapshot(host, ledger=False)
    report = tune(host, scaling_max_freq=2000000, boost="enabled")
    (row,) = report.result()["settings"]
    assert (row["name"], row["status"], report.changed) == ("cpufreq", "unsupported", False)
    assert "no CPU frequency scaling on this host" in row["reason"]
    assert report.failures() == []
    assert snapshot(host, ledger=False) == before


@pytest.mark.parametrize("container", [True, False])
@pytest.mark.parametrize("check", [True, False])
def test_required_says_what_to_do(make, container, check):
    host = make("none", {}, container=container)
    (failure,) = tune(host, required=True, check=check).failures()
    assert failure.status == "refused"
    assert "or set cpu_governor_required: false here" in failure.reason
    assert ("shared kernel" in failure.reason) is container


def test_required_is_content_with_one_policy(make):
    assert tune(make(), required=True).failures() == []


def test_scaling_that_went_away_and_came_back(make):
    host = make()
    before = files_of(host)
    tune(host)
    away = host.at(FOLDER).rename(host.tree / "away")
    report = tune(host)
    assert (set(statuses(report).values()), report.changed) == ({"unsupported"}, False)
    away.rename(host.at(FOLDER))
    assert not tune(host).changed
    give_back(host)
    assert files_of(host) == before


def test_trap_a_container_leaves_it_to_the_machine_underneath(make):
    host = make(container=True)
    before = snapshot(host, ledger=False)
    report = tune(host, boost="disabled")
    (row,) = report.result()["settings"]
    assert (row["name"], row["status"]) == ("cpufreq", "unsupported")
    assert row["reason"].startswith("shared kernel")
    assert not report.changed
    assert snapshot(host, ledger=False) == before
    assert statuses(tune(host, shared_kernel="apply")) == dict.fromkeys(GOVERNORS, "changed")
    give_back(host)
    assert host.governors() == ["schedutil", "schedutil"]


@pytest.mark.parametrize("first", [(LOWEST, 1000000), (3000000, HIGHEST), (1000000, 2000000)])
@pytest.mark.parametrize("second", [(LOWEST, 1000000), (3000000, HIGHEST), (1500000, 1500000)])
def test_limits_never_cross_on_the_way(make, first, second):
    host = make()
    before = files_of(host)
    for lower, upper in (first, second, first):
        report = tune(host, scaling_min_freq=lower, scaling_max_freq=upper)
        assert report.failures() == []
        assert (host.file(0, "scaling_min_freq"), host.file(0, "scaling_max_freq")) == (str(lower), str(upper))
    give_back(host)
    assert files_of(host) == before


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"scaling_max_freq": HIGHEST + 1}, "the hardware goes from 800000 to 3600000 kHz"),
        ({"scaling_min_freq": 1}, "the hardware goes from 800000 to 3600000 kHz"),
    ],
)
def test_trap_what_the_kernel_would_clamp_is_refused_with_the_bounds(make, wish, reason):
    host = make()
    (name,) = wish
    row = rows(tune(host, **wish))[f"policy0:{name}"]
    assert (row["status"], row["reason"]) == ("refused", reason)
    assert name not in host.text(UNIT)


def test_a_limit_beyond_the_other_says_so(make):
    host = make()
    host.set_file(0, "scaling_max_freq", "2000000")
    host.set_file(0, "scaling_min_freq", "1500000")
    low = rows(tune(host, scaling_max_freq=1000000))["policy0:scaling_max_freq"]
    high = rows(tune(host, scaling_min_freq=3000000))["policy0:scaling_min_freq"]
    assert (low["status"], low["reason"]) == ("refused", "below scaling_min_freq, which is 1500000: set both")
    assert (high["status"], high["reason"]) == ("refused", "above scaling_max_freq, which is 2000000: set both")


@pytest.mark.parametrize(
    ("driver", "path", "raw"),
    [("acpi-cpufreq", f"{FOLDER}/boost", "0"), ("intel_pstate", f"{CPU}/intel_pstate/no_turbo", "1")],
)
def test_boost_by_either_switch(make, driver, path, raw):
    host = make(driver)
    row = rows(tune(host, boost="disabled"))["boost"]
    assert (row["before"], row["after"], row["persisted"]) == ("enabled", "disabled", "disabled")
    assert host.text(path) == f"{raw}\n"
    assert f"echo {raw} > {path}" in host.text(UNIT)


def test_boost_that_the_firmware_has_locked_is_refused(make):
    host = make("intel_pstate")
    host.fixed[f"{CPU}/intel_pstate/no_turbo"] = errno.EPERM
    report = tune(host, boost="disabled")
    assert statuses(report)["boost"] == "refused"
    assert "EPERM" in rows(report)["boost"]["reason"]
    assert "no_turbo" not in host.text(UNIT)


def test_no_switch_for_boost(make):
    host = make()
    tune(host, boost="disabled")
    host.at(f"{FOLDER}/boost").unlink()
    row = rows(tune(host, boost="disabled"))["boost"]
    assert (row["status"], row["reason"]) == ("unsupported", "the driver has no switch for it")
    assert "boost" not in host.text(UNIT).replace(unit.NAME, "")
    assert "nothing to give back" in rows(give_back(host))["boost"]["reason"]
    assert ledger(host) == EMPTY


def test_read_only_sysfs_is_unsupported(make):
    host = make()
    host.at(f"{FOLDER}/policy0/scaling_governor").chmod(0o444)
    assert rows(tune(host))["policy0:governor"]["reason"] == "read-only here"


# -- rivals ---------------------------------------------------------------------------------------------------------

RIVALS = ["tuned", "power-profiles-daemon", "tlp", "auto-cpufreq", "ondemand"]


def enable(host, name):
    host.put(f"/usr/lib/systemd/system/{name}.service", "[Service]\n")
    place = host.at(f"/etc/systemd/system/multi-user.target.wants/{name}.service")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(f"/usr/lib/systemd/system/{name}.service")


@pytest.mark.parametrize("name", RIVALS)
def test_trap_a_rival_that_sets_it_again_is_named(make, name):
    host = make()
    enable(host, name)
    for report in (tune(host), tune(host)):
        row = rows(report)["policy0:governor"]
        assert row["status"] == "overridden"
        assert f"{name} sets it again ({name}.service is enabled): systemctl disable --now {name}" in row["reason"]
    assert not report.changed
    assert host.governors() == ["performance", "performance"]
    assert all(change.verdict != "overridden" for change in give_back(host).changes)


@pytest.mark.parametrize("name", ["cpufrequtils", "cpupower"])
def test_a_rival_that_our_unit_comes_after_is_named_and_does_not_override(make, name):
    host = make()
    enable(host, name)
    tune(host)
    row = rows(tune(host))["policy0:governor"]
    assert row["status"] == "ok"
    assert f"{name} sets it at boot too, before precog-fleet-cpu.service" in row["reason"]


def test_where_no_governor_is_asked_for_rivals_of_it_are_nothing_to_us(make):
    host = make()
    enable(host, "tuned")
    assert statuses(tune(host, governor="unmanaged", boost="disabled")) == {"boost": "changed"}


# -- input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"governor": "a b"}, "is no name that the kernel could know"),
        ({"governor": "$(reboot)"}, "is no name that the kernel could know"),
        ({"governor": "'"}, "is no name that the kernel could know"),
        ({"governor": ""}, "is no name that the kernel could know"),
        ({"governor": "x" * 99}, "is no name that the kernel could know"),
        ({PREFERENCE: "128"}, "is no name that the kernel could know"),
        ({"scaling_min_freq": 0}, "kHz are wanted"),
        ({"scaling_max_freq": -5}, "kHz are wanted"),
        ({"scaling_min_freq": 3, "scaling_max_freq": 2}, "scaling_min_freq = 3 is above scaling_max_freq = 2"),
    ],
)
def test_parameters_that_make_no_sense(make, wish, told):
    with pytest.raises(HostError, match=told):
        tune(make(), **wish)


def test_nothing_wanted_and_nothing_managed_is_no_row(make):
    host = make()
    report = tune(host, governor="unmanaged")
    assert (report.changes, report.changed, host.exists(UNIT)) == ([], False, False)


def test_a_file_of_somebody_elses_in_our_place_comes_back(make):
    host = make()
    host.put(UNIT, b"[Service]\n# \xff by hand\n", 0o600)
    before = files_of(host)
    tune(host)
    give_back(host)
    assert files_of(host) == before


def test_a_lost_ledger_still_lets_our_files_go(make):
    host = make()
    tune(host)
    host.at(LEDGER).unlink()
    give_back(host)
    assert not host.exists(UNIT)
    assert not host.exists(WANT)


def test_with_another_subsystem_in_one_run(make):
    from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs import cpufreq, thp
    from ansible_collections.precog.fleet.tests.unit.made_cpufreq import params

    host = make()
    both = [thp.TransparentHugePages("never"), cpufreq.subsystem(params())]
    assert engine.run(host, both, check_mode=False).changed
    assert not engine.run(host, both, check_mode=False).changed
