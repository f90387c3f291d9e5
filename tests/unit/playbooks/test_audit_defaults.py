"""The role audit takes the variables of the tuning roles, whose defaults a play has only if it knows these roles."""

from __future__ import annotations

import re

import pytest
import yaml
from ansible_collections.precog.fleet.tests.places import ROOT

TUNING = {"kernel_tuning", "limits", "cpu_governor", "swap"}


def roles_of(play):
    """The roles that a play runs or imports."""
    listed = [one["role"] for one in play.get("roles", [])]
    imported = [
        task["ansible.builtin.import_role"]["name"] for task in play.get("tasks", []) if "import_role" in str(task)
    ]
    return {name.rpartition(".")[2] for name in [*listed, *imported]}


PLAYS = [
    pytest.param(play, id=f"{path.stem}:{play['name']}")
    for path in sorted((ROOT / "playbooks").glob("*.yml"))
    for play in yaml.safe_load(path.read_text())
    if "audit" in {one["role"].rpartition(".")[2] for one in play.get("roles", [])}
]


def test_role_takes_a_variable_of_each_tuning_role():
    text = (ROOT / "roles/audit/tasks/main.yml").read_text()
    assert set(re.findall(r"\{\{ (\w+?)_state \}\}", text)) == TUNING


@pytest.mark.parametrize("play", PLAYS)
def test_play_with_the_audit_knows_the_defaults_of_the_tuning_roles(play):
    looks_at_preflight = any(one.get("vars", {}).get("audit_preflight") for one in play["roles"])
    assert roles_of(play) >= TUNING | ({"preflight"} if looks_at_preflight else set())
