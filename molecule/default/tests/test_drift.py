"""Somebody moves what site.yml has set: the audit reports what and where, changes nothing, and site.yml repairs it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[3]
AUDIT = ROOT / "playbooks/audit.yml"
SITE = ROOT / "site.yml"
TUNE = ROOT / "playbooks/tune.yml"
FILE = "/etc/sysctl.d/99-zz-precog-fleet.conf"
READ, WRITE = "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"
WANTED = "4096 65536 134217728"
SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())


@pytest.fixture(scope="module")
def audit_of_a_moved_host(host, play):
    """The audit after somebody moved one key at run time and one on disk."""
    host.check_output("sysctl -w %s='4096 5000 6000'", READ)
    host.check_output("sed -i 's/^%s = .*/%s = 4096 1 2/' %s", WRITE, WRITE, FILE)
    return play(AUDIT, code=2)


def test_the_audit_tells_drift_at_run_time_from_drift_on_disk(audit_of_a_moved_host):
    found = audit_of_a_moved_host.settings
    assert (found[READ]["status"], found[READ]["where"], found[READ]["before"]) == (
        "drifted",
        "run time",
        "4096 5000 6000",
    )
    assert (found[WRITE]["status"], found[WRITE]["where"]) == ("drifted", "disk")
    assert found[WRITE]["persisted_before"] == "4096 1 2"
    jsonschema.validate(audit_of_a_moved_host.document, SCHEMA)


def test_what_is_shown_is_the_summary_and_not_every_setting(audit_of_a_moved_host):
    assert "drifted" in audit_of_a_moved_host.output
    assert "persisted_by" not in audit_of_a_moved_host.output


def test_the_audit_changes_nothing(audit_of_a_moved_host, host, kernel):
    assert audit_of_a_moved_host.stats["changed"] == 0
    assert kernel[READ] == "4096 5000 6000"
    assert host.file(FILE).contains("4096 1 2")


@pytest.mark.usefixtures("audit_of_a_moved_host")
def test_a_host_that_is_not_fit_is_not_touched(kernel, play):
    run = play(TUNE, {"preflight_minimum_memory_mb": 88888888}, code=2)
    assert "This host can't be tuned yet (1 to do)" in run.output
    assert run.stats["changed"] == 0
    assert kernel[READ] == "4096 5000 6000"


@pytest.mark.usefixtures("audit_of_a_moved_host")
def test_site_reports_a_repair_as_drifted_though_the_audit_at_its_end_finds_it_ok(kernel, play):
    foreseen = play(SITE, check=True).settings[READ]
    assert (foreseen["status"], foreseen["before"], foreseen["after"]) == ("drifted", "4096 5000 6000", WANTED)
    assert kernel[READ] == "4096 5000 6000"
    run = play(SITE)
    assert (run.settings[READ]["status"], run.settings[READ]["before"]) == ("drifted", "4096 5000 6000")
    assert (run.settings[WRITE]["status"], run.settings[WRITE]["persisted_before"]) == ("drifted", "4096 1 2")
    assert f"{READ} (4096 5000 6000 -> {WANTED})" in run.output
    assert run.stats["changed"] == 1
    jsonschema.validate(run.document, SCHEMA)
    assert {row["status"] for row in play(SITE).settings.values()} == {"ok", "unsupported"}
