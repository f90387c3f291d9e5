"""The module cpu_governor: its documentation against its arguments, and what it says to Ansible."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.precog.fleet.plugins.module_utils._engine import model
from ansible_collections.precog.fleet.plugins.module_utils._host.host import NOT_ROOT
from ansible_collections.precog.fleet.plugins.modules import cpu_governor
from ansible_collections.precog.fleet.tests.unit.made_cpufreq import make_cpu
from ansible_collections.precog.fleet.tests.unit.made_host import snapshot


@pytest.fixture
def machine(memory):
    return make_cpu(memory / "cpu")


@pytest.fixture
def run(machine, monkeypatch, capsys):
    """Run main() on the made-up host; return what it told Ansible."""

    def facts(names):
        assert names == ["cpu"]
        fast = machine.policies and machine.governors() == ["performance", "performance"]
        return {"cpu": {"frequency_mhz": {"current": 3600.0 if fast else 800.0, "min": 800.0, "max": 3600.0}}}

    monkeypatch.setattr(cpu_governor, "Host", lambda: machine)
    monkeypatch.setattr(cpu_governor.psutil_facts, "facts", facts)
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def call(**arguments):
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            cpu_governor.main()
        answer = json.loads(capsys.readouterr().out)
        assert bool(ended.value.code) is answer.get("failed", False)
        return answer

    return call


def current(answer):
    """The current frequency of psutil before and after."""
    return tuple(answer["psutil"]["cpu_freq"][moment]["current"] for moment in ("before", "after"))


def test_apply_again_and_back(run, machine):
    before = snapshot(machine, ledger=False)
    first = run()
    assert first["changed"]
    assert first["summary"] == {**dict.fromkeys(model.STATUSES, 0), "changed": 2}
    assert current(first) == (800.0, 3600.0)
    again = run()
    assert (again["changed"], again["summary"]["ok"], current(again)) == (False, 2, (3600.0, 3600.0))
    assert run(state="absent")["changed"]
    assert not run(state="absent")["changed"]
    assert {path: seen for path, seen in snapshot(machine, ledger=False).items() if seen[0] == "file"} == {
        path: seen for path, seen in before.items() if seen[0] == "file"
    }


def test_check_mode_changes_nothing(run, machine):
    before = snapshot(machine)
    told = run(_ansible_check_mode=True, _ansible_diff=True)
    assert (told["changed"], current(told)) == (True, (800.0, 800.0))
    assert told["settings"][0]["after"] == "performance"
    assert snapshot(machine) == before


def test_a_governor_that_does_not_exist_fails_with_the_list(run):
    told = run(governor="fast")
    assert told["failed"]
    assert told["msg"].startswith("2 setting(s) can't be applied")
    assert "policy0:governor = fast: refused" in told["msg"]
    assert "lists powersave, schedutil, performance" in told["msg"]


def test_no_scaling_fails_only_where_it_is_required(run, machine):
    for file in machine.at("/sys/devices/system/cpu/cpufreq").rglob("*"):
        if file.is_file():
            file.unlink()
    for folder in machine.at("/sys/devices/system/cpu/cpufreq").iterdir():
        folder.rmdir()
    machine.policies = {}
    assert run()["summary"]["unsupported"] == 1
    told = run(required=True)
    assert "cpufreq = performance: refused: required, but no CPU frequency scaling" in told["msg"]
    assert "set cpu_governor_required: false" in told["msg"]


def test_an_override_is_a_warning(run, machine, monkeypatch):
    warnings = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    link = machine.at("/run/systemd/units/invocation:tuned.service")
    link.parent.mkdir(parents=True)
    link.symlink_to("0123")
    assert run()["summary"]["overridden"] == 2
    assert warnings[0].startswith("policy0:governor: tuned sets it again (tuned.service is active)")


def test_what_stands_in_the_way_is_told(run, machine):
    machine.put("/var/lib/precog-fleet/ledger.json", "{")
    told = run()
    assert "ledger.json is damaged" in told["msg"]
    assert told["settings"] == []


def test_without_psutil_the_work_is_done(run, monkeypatch):
    monkeypatch.setattr(cpu_governor.psutil_facts, "facts", lambda _names: {"error": "no psutil"})
    told = run()
    assert (told["changed"], told["psutil"]) == (True, {"error": "no psutil"})


def test_without_root_the_remedy_is_told(run, machine, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = snapshot(machine)
    assert run()["msg"] == NOT_ROOT
    assert snapshot(machine) == before
