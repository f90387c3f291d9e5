"""The unit's text: what is written into it is read out of it, and any text can be read."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs import unit
from hypothesis import given
from hypothesis import strategies as st

FOLDER = "/sys/devices/system/cpu/cpufreq"
PATHS = [f"{FOLDER}/policy{number}/{name}" for number in (0, 11) for name in ("scaling_governor", "scaling_max_freq")]
WRITES = st.dictionaries(
    st.sampled_from([*PATHS, f"{FOLDER}/boost"]), st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
)


@given(WRITES)
def test_what_is_written_is_read(writes):
    text = unit.render(writes.items())
    found = unit.parse(text, unit.DROP_IN)
    assert {path: line.value for path, line in found.items()} == writes
    lines = text.split("\n")
    assert all(f" {path}'" in lines[line.number - 1] for path, line in found.items())


@given(st.text() | st.text("ExecStart=-/bin/sh c'echo >\n policy0"), st.text())
def test_any_text_can_be_read(text, drop_in):
    assert unit.parse(text, drop_in) == {}
    unit.parse(text, unit.DROP_IN)


LINE = f"ExecStart=-/bin/sh -c 'echo performance > {FOLDER}/policy0/scaling_governor'"


@pytest.mark.parametrize(
    ("line", "drop_in", "found"),
    [
        (LINE, unit.DROP_IN, True),
        (f"  {LINE} ", unit.DROP_IN, True),
        (LINE, "[Unit]\nWants=a.service precog-fleet-cpu.service b.service\n", True),
        (LINE, "", False),
        (LINE, "[Unit]\nWants=\n", False),
        (LINE, "[Unit]\n#Wants=precog-fleet-cpu.service\n", False),
        (LINE, "[Unit]\nWants=other-precog-fleet-cpu.service\n", False),
        (f"#{LINE}", unit.DROP_IN, False),
        (LINE.replace("/sys/devices/system/cpu", "/etc"), unit.DROP_IN, False),
        (f"{LINE} && reboot", unit.DROP_IN, False),
    ],
)
def test_a_line_counts_only_where_something_wants_the_unit(line, drop_in, found):
    assert bool(unit.parse(f"[Service]\n{line}\n", drop_in)) is found


def test_of_two_lines_about_the_same_the_last_counts():
    text = f"{LINE}\n{LINE.replace('performance', 'powersave')}\n"
    assert unit.parse(text, unit.DROP_IN) == {f"{FOLDER}/policy0/scaling_governor": unit.Line(2, "powersave")}


LOW, HIGH = f"{FOLDER}/policy0/scaling_min_freq", f"{FOLDER}/policy0/scaling_max_freq"


@pytest.mark.parametrize("writes", [[(LOW, "5"), (HIGH, "9")], [(HIGH, "9"), (LOW, "5")]])
@pytest.mark.parametrize("limits", [(1, 3), (1, 20), (10, 20), (5, 9), (20, 20)])
def test_both_limits_are_reached_from_any(writes, limits):
    low, high = limits
    for path, value in unit.in_order([("x/y", "1"), *writes]):
        wanted = (low, int(value)) if path == HIGH else (int(value), high) if path == LOW else (low, high)
        if wanted[0] <= wanted[1]:  # crossed ones are refused
            low, high = wanted
    assert (low, high) == (5, 9)


def test_one_limit_is_written_once():
    assert unit.in_order([(HIGH, "9"), ("x/y", "1")]) == [(HIGH, "9"), ("x/y", "1")]
