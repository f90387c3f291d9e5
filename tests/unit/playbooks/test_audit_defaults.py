"""The audit stands alone: a variable that nothing sets is left out of its call, and the module's default holds, which
has to be the role's."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml
from ansible_collections.precog.fleet.plugins.action import host_audit
from ansible_collections.precog.fleet.plugins.module_utils._settings import parts
from ansible_collections.precog.fleet.tests.places import ROOT

FIXED = {"only_file"}  # what the roles give without a variable
INVERTED = {"require_psutil"}


def defaults_of(role):
    return yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text())


@pytest.mark.parametrize("role", parts.PARTS)
def test_role_and_module_have_the_same_defaults(role):
    defaults = defaults_of(role)
    names = {name: f"{role}_{host_audit.VARIABLES.get((role, name), name)}" for name in parts.PARTS[role]}
    taken = {name: variable for name, variable in names.items() if name not in FIXED}
    assert set(taken.values()) == set(defaults)
    for name, variable in taken.items():
        default = parts.PARTS[role][name].get("default")
        assert defaults[variable] == (not default if name in INVERTED else default), variable


def test_audit_role_takes_every_variable_of_the_roles_if_it_is_set():
    text = (ROOT / "roles/audit/tasks/main.yml").read_text() + (ROOT / "roles/audit/vars/main.yml").read_text()
    for role in parts.PARTS:
        for variable in defaults_of(role):
            assert re.search(
                rf"\{{\{{ (not )?lookup\('ansible\.builtin\.vars', '{variable}', default=(omit|true)\)", text
            )


@pytest.mark.parametrize("book", ["audit", "tune"])
def test_play_with_the_audit_loads_no_role_for_its_defaults(book):
    first = yaml.safe_load((ROOT / f"playbooks/{book}.yml").read_text())[0]
    assert [one["role"] for one in first["roles"]] == ["precog.fleet.audit"]
    assert "tasks" not in first


@pytest.mark.parametrize("variable", ["limits_services", "preflight_install_psutil"])
def test_template_with_a_typo_is_an_error_and_not_the_default(tmp_path, variable):
    """By the real role: it would pass for a host without the override, and the override would be lost."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "roles": [{"role": "precog.fleet.audit", "vars": {"audit_preflight": True}}],
        "vars": {variable: "{{ typo }}", "ansible_become": False},
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    argv = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "'typo' is undefined" in done.stdout + done.stderr
