"""The module: its documentation against its arguments, and what it says to Ansible."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.precog.fleet.plugins.module_utils._engine import model
from ansible_collections.precog.fleet.plugins.module_utils._host.host import NOT_ROOT
from ansible_collections.precog.fleet.plugins.modules import sysctl_profile
from ansible_collections.precog.fleet.tests.places import ROOT
from ansible_collections.precog.fleet.tests.unit.made_host import GUIDE, MadeHost, snapshot

MODULE = "ansible_collections.precog.fleet.plugins.modules.sysctl_profile"
FACTS = {"virtual_memory": {"total": 16 * 2**30}}
SWAP = "vm.swappiness"


@pytest.fixture
def run(host, monkeypatch, capsys):
    """Run main() on the made-up host; return what it told Ansible."""
    monkeypatch.setattr(sysctl_profile, "Host", lambda: host)
    monkeypatch.setattr(sysctl_profile.psutil_facts, "facts", lambda _names: FACTS)
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def call(**arguments):
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            sysctl_profile.main()
        answer = json.loads(capsys.readouterr().out)
        assert bool(ended.value.code) is answer.get("failed", False)
        return answer

    return call


def test_apply_again_and_back(run, host):
    before = snapshot(host, ledger=False)
    settings = len(GUIDE) + 1  # huge pages
    first = run(transparent_hugepage="never")
    assert first["changed"]
    assert first["summary"] == {**dict.fromkeys(model.STATUSES, 0), "changed": settings}
    assert first["psutil"] == FACTS
    assert host.value("vm/swappiness") == "10"

    again = run(transparent_hugepage="never")
    assert not again["changed"]
    assert again["summary"]["ok"] == settings

    assert run(state="absent")["changed"]
    assert not run(state="absent")["changed"]
    assert snapshot(host, ledger=False) == before


def test_check_mode_shows_before_and_after_and_changes_nothing(run, host):
    before = snapshot(host)
    told = run(_ansible_check_mode=True, _ansible_diff=True, profile="none", parameters={SWAP: 10})
    assert told["changed"]
    assert (told["settings"][0]["before"], told["settings"][0]["after"]) == ("60", "10")
    assert told["diff"][1]["before"] == "vm.swappiness = 60\n"
    assert snapshot(host) == before


BAD = {
    "vm.swapiness": (1, "unknown: this kernel has no such key; is vm.swappiness meant?"),
    "vm/../x": (1, "refused: not a key: it has an empty, `.` or `..` part, and must stay below /proc/sys"),
    "vm.dirty_ratio": (True, "refused: is a boolean: write 0 or 1"),
    "net.ipv4.tcp_rmem": ([1, 2], "refused: the key has 3 field(s)"),
    "kernel.core_pattern": ({"a": 1}, "refused: is a dictionary"),
}


@pytest.mark.parametrize("check", [True, False])
def test_bad_names_and_values_fail_with_all_of_them_told_and_the_rest_lands(run, host, check):
    parameters = {name: value for name, (value, _reason) in BAD.items()}
    told = run(_ansible_check_mode=check, profile="none", parameters={**parameters, SWAP: 10})
    assert told["failed"]
    assert told["msg"].startswith("5 setting(s) can't be applied (the others are not affected):\n")
    for name, (_value, reason) in BAD.items():
        assert name in told["msg"]
        assert reason in told["msg"]
    assert {row["name"]: row["status"] for row in told["settings"]}[SWAP] == "changed"
    assert host.value("vm/swappiness") == ("60" if check else "10")


def test_unsupported_fails_only_where_that_is_asked_for(run, host):
    host.put("/run/systemd/container", "x")
    host.at("/proc/sys/net/core/netdev_max_backlog").unlink()
    arguments = {"profile": "none", "parameters": {SWAP: 10}}
    assert run(**arguments)["summary"]["unsupported"] == 1
    assert "vm.swappiness = 10: unsupported: shared kernel" in run(**arguments, on_unsupported="fail")["msg"]
    assert host.value("vm/swappiness") == "60"
    assert run(**arguments, on_unsupported="fail", shared_kernel="apply")["summary"]["changed"] == 1
    assert host.value("vm/swappiness") == "10"


def test_an_override_is_a_warning(run, host, monkeypatch):
    warnings = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    host.put("/etc/sysctl.conf", "vm.swappiness = 80\n")
    told = run(profile="none", parameters={SWAP: 10})
    assert told["summary"]["overridden"] == 1
    (warning,) = warnings
    assert warning.startswith("vm.swappiness: /etc/sysctl.conf:1 sets vm.swappiness = 80 (sysctl --system)")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".hidden", "a b", "a\nb", "-x", "x" * 300])
def test_a_name_that_makes_no_file_is_refused(run, host, name):
    before = snapshot(host)
    assert "is no name for a file" in run(name=name)["msg"]
    assert snapshot(host) == before


@pytest.mark.parametrize("argument", ["bandwidth_mbit", "round_trip_ms"])
def test_a_path_of_nothing_is_refused(run, argument):
    assert "must be 1 or more" in run(profile="bandwidth_delay", **{argument: 0})["msg"]


def test_the_computed_profile_without_psutil_says_what_is_missing(run, monkeypatch):
    monkeypatch.setattr(sysctl_profile.psutil_facts, "facts", lambda _names: {"error": "no psutil"})
    told = run(profile="bandwidth_delay")
    assert "not known without psutil" in told["msg"]
    assert told["psutil"] == {"error": "no psutil"}
    assert run()["changed"]


def test_what_stands_in_the_way_is_told(run, host):
    host.put("/var/lib/precog-fleet/ledger.json", "{")
    told = run()
    assert "ledger.json is damaged" in told["msg"]
    assert told["settings"] == []
    assert "exception" not in told


def test_without_root_the_remedy_is_told():
    """On this very machine, as a user whom a namespace of users makes of us: nothing is looked at."""
    argv = ["unshare", "--user"] if os.geteuid() == 0 else []
    if argv and subprocess.run([*argv, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces of users here")
    done = subprocess.run(
        [*argv, sys.executable, "-m", MODULE],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {"profile": "none", "_ansible_check_mode": True}}),
        env={"PYTHONPATH": str(ROOT / ".ansible/collections"), "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    assert told["failed"]
    assert told["msg"] == NOT_ROOT


def test_the_made_up_host_is_a_host():
    """The module talks to it as to the real one."""
    assert issubclass(MadeHost, sysctl_profile.Host)
