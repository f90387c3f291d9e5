"""The audit says of each setting what the role would find, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.precog.fleet.plugins.module_utils import _audit
from ansible_collections.precog.fleet.plugins.module_utils import _engine as engine
from ansible_collections.precog.fleet.tests.unit.made_host import LEDGER, OURS, snapshot

ROOT = Path(__file__).resolve().parents[2]
SWAPPINESS = "vm.swappiness"
WANTED = {"profile": "none", "parameters": {SWAPPINESS: 10, "net.ipv4.tcp_rmem": [4096, 65536, 134217728]}}
FACTS = {"virtual_memory": {"total": 8 * 2**30}}


def params(part, given):
    return ArgumentSpecValidator(_audit.PARTS[part].arguments).validate(given).validated_parameters


def look(host, given=None):
    return _audit.look(host, "kernel_tuning", params("kernel_tuning", given or WANTED), FACTS)


def tune(host):
    part = _audit.PARTS["kernel_tuning"]
    engine.run(host, part.subsystems(params("kernel_tuning", WANTED), FACTS), check_mode=False)


def row_of(finding, name=SWAPPINESS):
    return next(row for row in finding.rows if row["name"] == name)


def test_a_host_that_was_never_tuned_has_drifted_everywhere(host):
    before = snapshot(host)
    finding = look(host)
    assert (row_of(finding)["status"], row_of(finding)["where"]) == ("drifted", "run time and disk")
    assert not finding.is_clean
    assert snapshot(host) == before


def test_a_tuned_host_is_clean(host):
    tune(host)
    finding = look(host)
    assert {row["status"] for row in finding.rows} == {"ok"}
    assert {row["where"] for row in finding.rows} == {""}
    assert finding.is_clean


CASES = [
    (lambda host: host.set_key("vm/swappiness", "77"), "drifted", "run time", "was 77"),
    (lambda host: host.put(OURS, host.text(OURS).replace("= 10\n", "= 11\n")), "drifted", "disk", "said 11"),
    (lambda host: host.put("/etc/sysctl.d/99-zzz.conf", f"{SWAPPINESS} = 5\n"), "overridden", "", "99-zzz.conf:1"),
]


@pytest.mark.parametrize(("disturb", "status", "where", "reason"), CASES, ids=["run time", "disk", "overridden"])
def test_what_somebody_did_is_told_with_its_place(host, disturb, status, where, reason):
    tune(host)
    disturb(host)
    before = snapshot(host)
    finding = look(host)
    assert (row_of(finding)["status"], row_of(finding)["where"]) == (status, where)
    assert reason in row_of(finding)["reason"]
    assert not finding.is_clean
    assert SWAPPINESS in _audit.told(finding.rows)
    assert snapshot(host) == before


def test_a_managed_file_with_other_words_is_told_too(host):
    tune(host)
    host.put(OURS, "# mine\n" + host.text(OURS))
    finding = look(host)
    assert (row_of(finding, OURS)["status"], row_of(finding, OURS)["where"]) == ("drifted", "disk")
    assert not finding.is_clean


def test_a_container_that_can_have_no_more_is_clean(container):
    tune(container)
    finding = look(container)
    assert {row["name"]: row["status"] for row in finding.rows} == {
        SWAPPINESS: "unsupported",
        "net.ipv4.tcp_rmem": "ok",
    }
    assert finding.is_clean


def test_what_can_not_be_looked_at_is_no_finding_of_drift(host):
    host.put(LEDGER, "{")
    result = _audit.result({"kernel_tuning": look(host)})
    assert "damaged" in result["errors"]["kernel_tuning"]
    assert result["settings"] == []
    assert result["unclean"] == ["kernel_tuning"]


def test_the_result_sums_up_all_parts(host):
    result = _audit.result({"kernel_tuning": look(host), "limits": _audit.Finding([], "")})
    assert result["summary"]["drifted"] == len(result["settings"]) == 2
    assert result["unclean"] == ["kernel_tuning"]
    assert {row["part"] for row in result["settings"]} == {"kernel_tuning"}


def arguments_of(role):
    """Return what a role's one module call is given."""
    task = yaml.safe_load((ROOT / "roles" / role / "tasks/main.yml").read_text())[0]
    return next(value for key, value in task.items() if key.startswith("precog.fleet."))


@pytest.mark.parametrize("role", _audit.PARTS)
def test_the_audit_is_given_what_the_role_gives_its_module(role):
    assert arguments_of("audit")[role] == arguments_of(role)


@pytest.mark.parametrize("book", ["audit", "tune", "rollback"])
def test_every_part_is_in_every_playbook(book):
    text = (ROOT / "playbooks" / f"{book}.yml").read_text()
    assert set(_audit.PARTS) <= set(re.findall(r"precog\.fleet\.(\w+)", text))
