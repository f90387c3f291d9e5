"""The module swap_state: its documentation against its arguments, and what it says to Ansible."""

from __future__ import annotations

import json
import os
from functools import partial

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.precog.fleet.plugins.module_utils._host.host import NOT_ROOT
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap import swap
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap.tables import MARKER
from ansible_collections.precog.fleet.plugins.modules import swap_state
from ansible_collections.precog.fleet.tests.unit.made_swap import Calls, make_swap

FACTS = {"virtual_memory": {"available": 1}, "swap_memory": {"total": 2}}


@pytest.fixture
def host(memory):
    return make_swap(memory / "host")


@pytest.fixture
def warnings(monkeypatch):
    told = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda _module, text: told.append(text))
    return told


@pytest.fixture
def run(host, monkeypatch, capsys):
    """Run main() on the made-up host; return what it told Ansible."""
    monkeypatch.setattr(swap_state, "Host", lambda: host)
    monkeypatch.setattr(swap.swap_calls, "Calls", partial(Calls, host))
    monkeypatch.setattr(swap_state.psutil_facts, "facts", lambda _names: {**FACTS, "on": len(host.on)})
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def call(**arguments):
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            swap_state.main()
        answer = json.loads(capsys.readouterr().out)
        assert bool(ended.value.code) is answer.get("failed", False)
        return answer

    return call


def test_off_again_and_back(run, host):
    first = run()
    assert (first["changed"], first["summary"]["changed"]) == (True, 3)
    assert first["psutil"] == {"before": {**FACTS, "on": 3}, "after": {**FACTS, "on": 0}}
    again = run()
    assert (again["changed"], again["summary"]["ok"]) == (False, 3)
    assert run(state="absent")["changed"]
    assert not run(state="absent")["changed"]
    assert host.on == {"/dev/zram0": 100, "/dev/vdb1": 7, "/swap file": -2}


def test_untouched_changes_nothing_and_gives_back(run, host):
    told = run(mode="untouched")
    assert (told["changed"], told["settings"]) == (False, [])
    run()
    assert run(mode="untouched")["changed"]
    assert len(host.on) == 3


@pytest.mark.parametrize(("word", "left"), [(False, 0), (True, 3)])
def test_the_booleans_that_yaml_makes_of_bare_words_are_understood(run, host, word, left):
    assert run(mode=word)["changed"] is not word
    assert len(host.on) == left


def test_check_mode_changes_nothing(run, host):
    told = run(_ansible_check_mode=True, _ansible_diff=True)
    assert told["changed"]
    assert told["psutil"]["after"] == told["psutil"]["before"]
    assert {row["after"] for row in told["settings"]} == {"off"}
    assert MARKER in next(part["after"] for part in told["diff"] if part["after_header"] == "/etc/fstab")
    assert len(host.on) == 3


def test_too_little_memory_fails_with_the_figures(run, host):
    told = run(memory_reserve_mb=8192)
    assert told["failed"]
    assert "8192 MiB are the reserve" in told["msg"]
    assert "lower memory_reserve_mb" in told["msg"]
    assert len(host.on) == 3


def test_a_reserve_below_zero_is_refused(run):
    assert "must be 0 or more" in run(memory_reserve_mb=-1)["msg"]


def test_unsupported_fails_only_where_that_is_asked_for(run, host):
    host.put("/run/systemd/container", "x")
    assert run()["summary"]["unsupported"] == 1
    assert "swap = off: unsupported: shared kernel" in run(on_unsupported="fail")["msg"]
    assert len(host.on) == 3
    assert run(shared_kernel="apply")["summary"]["changed"] == 3


def test_what_overrides_and_hibernation_are_warnings(run, host, warnings):
    host.put("/proc/cmdline", "resume=/dev/vdb1")
    wants = host.at("/etc/systemd/system/multi-user.target.wants")
    wants.mkdir()
    (wants / "zramswap.service").symlink_to("/usr/lib/systemd/system/zramswap.service")
    assert run()["summary"]["overridden"] == 1
    hibernation, override = warnings
    assert "hibernation" in hibernation
    assert override.startswith(
        "swap:/dev/zram0: /etc/systemd/system/multi-user.target.wants/zramswap.service activates"
    )


def test_what_stands_in_the_way_is_told(run, host):
    host.put("/var/lib/precog-fleet/ledger.json", "{")
    told = run()
    assert "ledger.json is damaged" in told["msg"]
    assert told["settings"] == []


def test_without_root_the_remedy_is_told(run, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run()["msg"] == NOT_ROOT
