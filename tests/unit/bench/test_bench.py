"""The pure part of bench/: statistics, the table, and how a no-change run is proven. Nothing is timed here."""

from __future__ import annotations

import json
import sys

import pytest
from ansible_collections.precog.fleet.tests.places import ROOT

sys.path.insert(0, str(ROOT))

from bench import contestants, figures
from bench.keys import SYSCTL
from bench.lineup import lineup

SERIES = {"ping": [1.0, 3.0, 2.0], "ours": [3.0, 3.0, 9.0]}
HOSTS = ["a", "b"]
RECAP = "PLAY RECAP ***\na   : ok=1    changed=0    unreachable=0    failed=0    skipped=0\n"
BOTH = RECAP + "b   : ok=2    changed=0    unreachable=0    failed=0    skipped=0\n"


def test_summary():
    assert figures.summarize([1.0, 3.0, 2.0, 10.0]) == (2.5, 1.0, 10.0, 4)
    with pytest.raises(ValueError, match="no times"):
        figures.summarize([])


@pytest.mark.parametrize(("rounds", "counted"), [([9.0, 1.0, 2.0], [1.0, 2.0]), ([9.0], [9.0]), ([], [])])
def test_first_round_is_warm_up(rounds, counted):
    assert list(figures.without_warm_up(rounds)) == counted


def test_ratios_are_of_medians():
    assert figures.ratio(SERIES, "ours", "ping") == 1.5
    assert figures.worst_ratio({"x": SERIES, "y": {"ping": [1.0], "ours": [1.25]}}, "ours", "ping") == 1.5


@pytest.mark.parametrize(("ratio", "met"), [(1.49, True), (1.5, True), (1.51, False)])
def test_target(ratio, met):
    target = figures.Target("x", ratio, 1.5)
    assert target.met is met
    assert figures.target_lines([target])[1].split()[-2:] == (["1.50x", "met"] if met else ["not", "met"])


def test_table():
    assert figures.series_table(SERIES, {"ping": "to ping"}) == [
        "      median s   min   max  to ping",
        "ping      2.00  1.00  3.00     1.00",
        "ours      3.00  3.00  9.00     1.50",
    ]
    used = figures.series_table(SERIES, {"ping": "to ping"}, processor={"ping": [0.5], "ours": [1.0]})
    assert [line.split()[-2:] for line in used] == [["to", "ping"], ["0.50", "1.00"], ["1.00", "2.00"]]
    assert figures.series_table({"ping": [0.1]}, {}, unit="ms")[1].split() == ["ping", "100.0", "100.0", "100.0"]


@pytest.mark.parametrize(
    ("output", "items", "objection"),
    [
        (BOTH, 0, ""),
        (RECAP, 0, "the recap is about"),
        ("", 0, "the recap is about []"),
        (BOTH.replace("changed=0", "changed=1", 1), 0, "a: ok=1 changed=1"),
        (BOTH.replace("failed=0", "failed=1"), 0, "failed=1"),
        (BOTH.replace("ok=2", "ok=0"), 0, "b: ok=0"),
        (BOTH.replace("skipped=0", "skipped=1"), 0, "skipped=1"),
        (BOTH, 1, "0 loop items were ok, not 2"),
        ("ok: [a] => (item={'key': 'x'})\nok: [b] => (item={'key': 'x'})\n" + BOTH, 1, ""),
    ],
)
def test_ansible_proves_that_nothing_changed(output, items, objection):
    found = contestants.ansible_objection(output, HOSTS, items=items)
    assert objection in found
    assert bool(objection) is bool(found)


@pytest.mark.parametrize(
    ("total", "fine"),
    [("96 - - 96", True), ("96 1 - 95", False), ("96 - 1 95", False), ("95 - - 95", False), ("", False)],
)
def test_pyinfra_proves_that_nothing_changed(total, fine):
    output = f"    Grand total    {'   '.join(total.split())}\n" if total else "nothing"
    assert (contestants.pyinfra_objection(output, 96) == "") is fine


def test_contestants_differ_in_their_tasks_only():
    plays = [contestants.ping_play(), contestants.our_play(SYSCTL), contestants.stock_play(SYSCTL)]
    settings = [{key: play[key] for key in ("hosts", "gather_facts", "become")} for (play,) in plays]
    assert settings == [{"hosts": "all", "gather_facts": False, "become": True}] * 3


def test_lineup():
    found = lineup(SYSCTL, {"a": {"ssh_config_file": "/c"}, "b": {}}, "hosts.yml")
    assert [one.name for one in found] == [
        "ping",
        "kernel_tuning",
        "stock loop",
        "pyinfra",
        "tuning roles",
        "audit",
        "audit first",
        "stock tuning",
    ]
    assert found[2].command("/w") == ["ansible-playbook", "-i", "hosts.yml", "/w/stock-loop.yml"]
    assert "('b'," in found[3].files["inventory.py"]
    assert found[5].argv[-1] == "playbooks/audit.yml"
    assert found[6].argv[-1] == "playbooks/tune.yml"
    assert json.loads(found[6].files["groups.yml"])["precog"]["hosts"].keys() == {"a", "b"}


def test_keys():
    assert len(SYSCTL) == 24
    assert list(SYSCTL) == sorted(SYSCTL)
    assert all(key.startswith("net.ipv4.") and value == " ".join(value.split()) for key, value in SYSCTL.items())


def test_a_skipped_task_is_an_objection_unless_the_audit_skips_its_failure():
    output = BOTH.replace("skipped=0", "skipped=4")
    assert contestants.ansible_objection(output, HOSTS) == "a: ok=1 skipped=4"
    assert contestants.ansible_objection(output, HOSTS, skips=True) == ""
    by_name = {one.name: one for one in lineup(SYSCTL, {host: {} for host in HOSTS}, "hosts.yml")}
    assert by_name["audit"].objection(output) == ""
    assert by_name["audit first"].objection(output) != ""  # a role was run
    assert contestants.ansible_objection(output.replace("changed=0", "changed=1"), HOSTS, skips=True) != ""


def test_all_tuning_roles_have_thirty_settings_and_more():
    limits = sum(len(items) for items in contestants.LIMITS.values())
    assert len(SYSCTL) + limits + len(contestants.tuning_variables(SYSCTL)["limits_systemd"]) > 30
