"""Variables that can only be mistakes are refused before any host is asked: by tables, and by real runs of tune.yml.

The host of the runs can't be reached, so a run that gets as far as asking it ends with 4.
"""

from __future__ import annotations

import os
import subprocess
import time
from types import SimpleNamespace

import pytest
import yaml
from ansible_collections.precog.fleet.plugins.action import inventory_check as action
from ansible_collections.precog.fleet.plugins.plugin_utils import _names
from ansible_collections.precog.fleet.tests.places import ROOT

UNREACHABLE = 4
LOST = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


def unknown(name, *own):
    return _names.unknown(name, own, _names.options(), _names.of_playbooks())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("kernel_tuning_parametres", "the role kernel_tuning has no such variable; is kernel_tuning_parameters meant?"),
        ("limit_nofile", "this may be meant for the role limits; is limits_profile meant?"),
        ("miner_service_instance", "the role miner_service has no such variable; is miner_service_instances meant?"),
        ("miner_services_user", "this may be meant for the role miner_service; is miner_service_user meant?"),
        ("kernal_tuning_profile", "this may be meant for the role kernel_tuning; is kernel_tuning_profile meant?"),
        ("swaps_mode", "this may be meant for the role swap; is swap_mode meant?"),
        ("limits_zzz", "the role limits has no such variable; the nearest is limits_"),
        ("precog_batch", "no playbook reads it; is precog_batches meant?"),
        ("miner_rollout_batch", "no playbook reads it; is miner_rollout_batches meant?"),
    ],
)
def test_a_mistyped_variable_is_told_with_the_nearest_name(name, told):
    assert unknown(name).startswith(told)


@pytest.mark.parametrize(
    "name",
    [
        *(option for options in _names.options().values() for option in options),
        *("precog_batches", "miner_rollout_batches", "precog_known_variables"),
        *("python_env_result", "miner_service_result", "kernel_tuning_result", "audit_result"),
        *("snap_packages", "audio_group", "swap", "limits", "kernel_modules", "python_version", "miner_count", "suite"),
        *("limit", "memory_limit", "precog", "precog_wallet", "load_average"),
    ],
)
def test_a_variable_that_need_not_be_a_mistake_is_let_through(name):
    assert unknown(name) == ""


def test_variables_of_ones_own_are_let_through_if_they_are_listed():
    assert unknown("limits_mine")
    assert unknown("limits_mine", "limits_mine") == unknown("audit_log_days", "other", "audit_log_*") == ""
    assert unknown("limits_other", "limits_mine")


@pytest.mark.parametrize(
    ("name", "is_slip"),
    [
        *((name, True) for name in ("miner", "minerss", "mines", "mienrs", "minres", "iners")),
        *((name, False) for name in ("miners", "monitors", "minxxs", "min", "m")),
    ],
)
def test_one_slip_of_the_finger(name, is_slip):
    assert _names.mistyped(name, "miners") == is_slip


def test_the_tags_are_those_of_the_playbooks():
    parts = {"kernel_tuning", "limits", "cpu_governor", "swap", "miner", "python_env", "miner_service", "load_balancer"}
    assert _names.tags() - _names.SPECIAL_TAGS == parts


def test_no_inventory_of_the_repository_has_a_mistake():
    shown = {"-i": [ROOT / "inventory/hosts.yml", ROOT / "molecule/inventory/hosts.yml"]}
    for path in shown["-i"]:
        argv = ["ansible-inventory", "-i", str(path), "--list"]
        listed = yaml.safe_load(subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for host, variables in listed["_meta"]["hostvars"].items():
            assert list(action.Checker().problems(variables)) == [], host


@pytest.fixture
def tune(tmp_path):
    """Runs a playbook on hosts that can't be reached, with these variables in group_vars/precog.yml."""

    def run(variables: str, *options: str, playbook: str = "tune") -> tuple[int, str]:
        (tmp_path / "group_vars").mkdir()
        (tmp_path / "group_vars/precog.yml").write_text(f"---\n{variables}")
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"precog": {"hosts": {"m1": LOST, "m2": LOST}}}))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PRECOG_"))}
        place = {
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".ansible/collections"),
            "ANSIBLE_HOME": str(tmp_path / "home"),
            "ANSIBLE_CALLBACKS_ENABLED": "precog.fleet.fleet_report",
            "ANSIBLE_SSH_RETRIES": "0",
        }
        argv = ["ansible-playbook", "-i", "hosts.yml", f"precog.fleet.{playbook}", *options]
        done = subprocess.run(argv, cwd=tmp_path, env={**kept, **place}, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


TYPOS = """\
kernel_tuning_parametres: {vm.swappiness: 1}
limit_nofile: 5
miner_service_hotkeys: a-secret
swap_mode: maybe
cpu_governor_governor: "{{ nothing_yet | default('performance') }}"
"""


@pytest.mark.parametrize("playbook", ["tune", "audit"])
def test_mistakes_are_refused_by_name_file_and_host_before_a_host_is_asked(tune, playbook):
    code, output = tune(TYPOS, playbook=playbook)
    assert code == 2, output
    told = output[output.index("failed: m1") :].splitlines()[2:6]
    assert told == [
        "  kernel_tuning_parametres (group_vars/precog.yml:2): the role kernel_tuning has no such variable; "
        "is kernel_tuning_parameters meant? [m1, m2]",
        "  limit_nofile (group_vars/precog.yml:3): this may be meant for the role limits; "
        "is limits_profile meant? [m1, m2]",
        "  miner_service_hotkeys is another kind of value, but a dictionary is expected (group_vars/precog.yml:4) "
        "[m1, m2]",
        "  swap_mode is 'maybe', but one of off, on, untouched is expected (group_vars/precog.yml:5) [m1, m2]",
    ]
    assert "UNREACHABLE" not in output
    assert "a-secret" not in output
    assert "If an unknown one is your own, list it in precog_known_variables" in output


def test_a_value_of_the_wrong_kind_comes_without_the_advice_for_unknown_names(tune):
    code, output = tune("kernel_tuning_parameters: [vm.swappiness]\nswap_mode: maybe\n")
    assert code == 2, output
    assert "kernel_tuning_parameters is a list, but a dictionary is expected" in output
    assert "precog_known_variables" not in output


def test_a_mistake_on_the_command_line_is_refused_too(tune):
    code, output = tune("swap_mode: 'off'\n", "-e", "limits_parametres=1")
    assert code == 2
    assert "limits_parametres: the role limits has no such variable; is limits_parameters meant?" in output


@pytest.mark.parametrize(("options", "expected"), [((), 2), (("--limit", "precog"), UNREACHABLE)], ids=["all", "limit"])
def test_a_mistake_of_a_load_balancer_is_refused_unless_a_limit_leaves_it_out(tune, tmp_path, options, expected):
    balancers = {"load_balancers": {"hosts": {"lb": {**LOST, "load_balancer_stat": "absent"}}}}
    (tmp_path / "balancers.yml").write_text(yaml.safe_dump(balancers))
    code, output = tune("swap_mode: 'off'\n", "-i", "balancers.yml", *options)
    assert code == expected, output
    assert ("is load_balancer_state meant? [lb]" in output) == (expected == 2)


def test_the_documented_escape_lets_a_variable_through(tune):
    code, output = tune("limit_nofile: 5\naudit_log_days: 9\nprecog_known_variables: [limit_nofile, audit_log_*]\n")
    assert code == UNREACHABLE, output


def test_500_hosts_cost_a_fraction_of_a_second():
    """CPU time of the check itself, the reading of the roles' specifications included."""
    shared = {"kernel_tuning_parameters": {"vm.swappiness": 1}, "limits_systemd": {}, "precog_batches": [1]}
    hosts = {f"m{number}": {**shared, **{f"own_{key}": key for key in range(40)}} for number in range(500)}
    hostvars = SimpleNamespace(raw_get=hosts.get, _variable_manager=None)
    began = time.process_time()
    checker = action.Checker()
    found = [why for _host, own in action.inventory(hostvars, hosts) for why in checker.problems(own)]
    assert (found, time.process_time() - began < 2) == ([], True)
