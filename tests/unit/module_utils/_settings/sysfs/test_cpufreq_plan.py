"""The plan for CPU frequencies: a table of it, and any sequence of wishes on any driver."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._engine.ledger import Original
from ansible_collections.precog.fleet.plugins.module_utils._engine.managed import HEADER
from ansible_collections.precog.fleet.plugins.module_utils._settings.rivals import Found
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs import cpufreq, unit
from ansible_collections.precog.fleet.tests.unit.made_cpufreq import (
    ACTIVE,
    FOLDER,
    HIGHEST,
    LOWEST,
    PREFERENCES,
    give_back,
    make_cpu,
    tune,
)
from ansible_collections.precog.fleet.tests.unit.made_host import bend, files_of, untouched
from hypothesis import given, settings
from hypothesis import strategies as st

GOVERNOR, PREFERENCE = "policy0:governor", "policy0:energy_performance_preference"
PATH = f"{FOLDER}/policy0/scaling_governor"
EPP_PATH = f"{FOLDER}/policy0/energy_performance_preference"
SHARING = "shared kernel: belongs to the machine under this container (podman)"
TUNED = Found("tuned", ("cpu_governor",), "tuned.service is active", "all", "systemctl disable --now tuned.service")


def state(**changes):
    """One policy of intel_pstate in active mode, as at boot, with parts of it changed."""
    values = {GOVERNOR: "powersave", PREFERENCE: "balance_power", **changes.pop("values", {})}
    idle = changes.pop("idle", None)
    policy = cpufreq.Policy(
        "policy0",
        changes.pop("driver", "intel_pstate"),
        idle,
        {"governor": ("performance", "powersave"), "energy_performance_preference": tuple(PREFERENCES.split())},
        None,
    )
    return cpufreq.State(
        **{
            "policies": (policy,),
            "knobs": {name: cpufreq.Knob(cpufreq.path_of(name), value, idle, {}) for name, value in values.items()},
            "sharing": None,
            "lines": {},
            "rivals": (),
            "originals": {},
            "boot": "boot",
            **changes,
        }
    )


def known(desired="performance", value="powersave", preference="balance_power"):
    return {GOVERNOR: Original(value, None, "boot", desired, {EPP_PATH: preference})}


FULL = {GOVERNOR: "performance", PREFERENCE: "performance"}
OURS = {PATH: unit.Line(8, "performance")}
WRITTEN = [(PATH, "performance")]
BACK = [(PATH, "powersave"), (EPP_PATH, "balance_power")]
# state, wanted of every policy, status, writes, a part of the reason
PLANS = [
    (state(), {"governor": "performance"}, "changed", WRITTEN, ""),
    (state(values=FULL), {"governor": "performance"}, "changed", [], ""),
    (state(values=FULL, lines=OURS, originals=known()), {"governor": "performance"}, "ok", [], ""),
    (state(lines=OURS, originals=known()), {"governor": "performance"}, "drifted", WRITTEN, "was powersave"),
    (state(values=FULL, originals=known()), {"governor": "performance"}, "drifted", [], "lost its line"),
    (state(lines=OURS, originals=known("powersave")), {"governor": "performance"}, "changed", WRITTEN, ""),
    (state(rivals=(TUNED,)), {"governor": "performance"}, "overridden", WRITTEN, "tuned sets it again"),
    (state(), {"governor": "ondemand"}, "refused", [], "has only performance, powersave"),
    (state(driver="acpi-cpufreq"), {"governor": "ondemand"}, "changed", [(PATH, "ondemand")], ""),
    (state(idle="inactive"), {"governor": "performance"}, "unsupported", [], "inactive"),
    (state(sharing=SHARING), {"governor": "performance"}, "unsupported", [], "shared kernel"),
    (state(policies=(), knobs={}), {"governor": "performance"}, "unsupported", [], "no CPU frequency scaling"),
    (state(values=FULL, lines=OURS, originals=known()), {}, "changed", BACK, "given back: powersave"),
    (state(values={**FULL, GOVERNOR: "powersave"}, lines=OURS, originals=known()), {}, "changed", BACK[1:], "back"),
    (state(lines=OURS, originals=known()), {}, "changed", [], "given back: powersave"),
    (state(originals={GOVERNOR: Original("powersave", None, "earlier")}), {}, "ok", [], "was never applied"),
]


@pytest.mark.parametrize(("found", "wanted", "status", "writes", "reason"), PLANS)
def test_the_plan(found, wanted, status, writes, reason):
    (change,) = cpufreq.make_plan(found, cpufreq.Request(wanted, None, False))
    assert (change.verdict, list(change.writes)) == (status, writes)
    assert reason in change.row()["reason"]


def test_nothing_wanted_and_nothing_known_is_no_row():
    assert cpufreq.make_plan(state(), cpufreq.Request({}, None, False)) == []


def test_what_goes_wrong_is_taken_back_with_what_the_governor_moved():
    (change,) = cpufreq.make_plan(state(), cpufreq.Request({"governor": "performance"}, None, False))
    assert change.undo == tuple(BACK)
    assert change.original.companions == {EPP_PATH: "balance_power"}


# -- any sequence ---------------------------------------------------------------------------------------------------

FREQUENCY = st.none() | st.sampled_from([LOWEST, 1200000, 2400000, HIGHEST, 5, 10**9])
WISH = st.fixed_dictionaries(
    {},
    optional={
        "governor": st.sampled_from(["performance", "powersave", "schedutil", "conservative", "unmanaged", "nonsense"]),
        "energy_performance_preference": st.sampled_from([*PREFERENCES.split(), "unmanaged", "nonsense"]),
        "scaling_min_freq": FREQUENCY,
        "scaling_max_freq": FREQUENCY,
        "boost": st.sampled_from(["unmanaged", "enabled", "disabled"]),
        "state": st.sampled_from(["present", "present", "absent"]),
    },
).filter(lambda wish: (wish.get("scaling_min_freq") or 0) <= (wish.get("scaling_max_freq") or 10**10))
DRIVER = st.sampled_from(["acpi-cpufreq", "intel_cpufreq", *ACTIVE])


@settings(deadline=None, max_examples=60)
@given(DRIVER, st.lists(st.tuples(WISH, st.sampled_from(["", "reboot", "offline", "online"])), max_size=5))
def test_after_any_sequence_a_second_run_changes_nothing_and_every_byte_comes_back(driver, steps):
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        host = make_cpu(Path(folder) / "host", driver)
        before = without_boot(host)
        for wish, event in steps:
            tune(host, **wish)
            seen = untouched(host)
            again = tune(host, **wish)
            if not again.failures():  # what the kernel alone can refuse is tried each time
                assert (again.changed, untouched(host)) == (False, seen)
            assert host.file(0, "scaling_governor") != "nonsense"
            assert set(again.result()["summary"]) >= {change.status for change in again.changes}
            happen(host, event)
        host.set_offline()
        assert give_back(host).failures() == []
        assert without_boot(host) == before


def happen(host, event):
    if event == "reboot":
        offline, host.offline = host.offline, set()
        host.reboot()
        host.set_offline(*offline)
    elif event:
        host.set_offline(*((2, 3) if event == "offline" else ()))


def without_boot(host):
    """All files but the boot's id, and the list to which the kernel adds the governors that it has loaded."""
    passing = ("boot_id", "scaling_available_governors")
    return {path: seen for path, seen in files_of(host).items() if not path.endswith(passing)}


TEXT = st.sampled_from(["", "\n", "junk", "\x00", "é", "1 2 3", "-1", "٣", "performance", "9" * 400])


@settings(deadline=None, max_examples=60)
@given(DRIVER, st.dictionaries(st.integers(0, 11), TEXT | st.none(), max_size=4), WISH)
def test_whatever_sysfs_says_a_run_has_an_answer(driver, changed, wish):
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        host = make_cpu(Path(folder) / "host", driver, {0: "0 1"})
        files = sorted(host.at(f"{FOLDER}/policy0").iterdir())
        for number, text in changed.items():
            place = files[number % len(files)]
            if text is None:
                place.unlink(missing_ok=True)
            else:
                place.write_text(text)
        for check in (True, False):
            tune(host, check=check, **wish)


UNIT_TEXT = unit.render([(PATH, "performance"), (f"{FOLDER}/boost", "1")]).encode()
WORDS = [
    b"[Service]",
    b"ExecStart=-/bin/sh -c 'echo ",
    b" > ",
    PATH.encode(),
    b"'",
    b"Wants=",
    unit.NAME.encode(),
    b"\\",
]
WORDS += [b"performance", b"$(reboot)", b"9" * 5000, b"\n", b"\r\n", b" ", b"\0", b"\xff", b"#"]
LINES = (
    st.binary(max_size=30)
    | st.lists(st.sampled_from(WORDS), max_size=10).map(b"".join)
    | st.builds(bend, st.just(UNIT_TEXT), st.integers(0, 60), st.sampled_from(WORDS))
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from([unit.FILE, unit.WANT]), LINES, min_size=1))
def test_whatever_stands_in_the_place_of_our_unit_comes_back_byte_for_byte(odd):
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        host = make_cpu(Path(folder) / "host")
        for path, content in odd.items():
            host.put(path, content)
        # What bears our header is ours, left by a ledger that is lost: it goes.
        foreign = {path for path, content in odd.items() if not content.startswith(HEADER.encode())}
        before = without_boot(host)
        tune(host, check=True)
        assert without_boot(host) == before
        tune(host)
        assert not tune(host).changed
        give_back(host)
        ours = {unit.FILE, unit.WANT} - foreign
        assert without_boot(host) == {path: seen for path, seen in before.items() if path not in ours}
