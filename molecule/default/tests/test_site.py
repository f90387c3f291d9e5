"""After site.yml: the hosts are as the inventory wants them, the audit says so, and all of it can be taken back."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[3]
AUDIT = ROOT / "playbooks/audit.yml"
SITE = ROOT / "site.yml"
TUNE = ROOT / "playbooks/tune.yml"
ROLLBACK = ROOT / "playbooks/rollback.yml"
FILE = "/etc/sysctl.d/99-zz-precog-fleet.conf"
READ = "net.ipv4.tcp_rmem"
WANTED = "4096 65536 134217728"
SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())


def test_values_run(kernel):
    assert kernel[READ] == WANTED


def test_values_are_kept(host):
    assert host.file(FILE).contains(READ)


def test_psutil_is_there(host):
    assert host.package("python3-psutil").is_installed


def test_a_second_run_changes_nothing(play):
    run = play(SITE)
    assert run.stats["changed"] == 0
    assert {"miner:main", "miner:market", "python_env:miner"} <= run.settings.keys()
    process = run.settings["miner:main"]["facts"]["process"]
    assert process["rlimits"]["nofile"]["soft"] > 1024
    assert min(process["open_files"], process["threads"], process["rss"]) > 0
    jsonschema.validate(run.document, SCHEMA)


def test_tuning_a_tuned_host_is_one_look(play):
    run = play(TUNE)
    assert run.stats["changed"] == 0
    # The inventory, the audit's arguments, the one look; no machine is there twice, none is reached again.
    assert (run.stats["ok"], run.stats["skipped"]) == (3, 3)
    jsonschema.validate(run.document, SCHEMA)


def test_a_tuned_host_without_root_is_stopped_by_preflight(play):
    assert "set become: true" in play(TUNE, {"ansible_become": False}, code=2).output


def test_what_preflight_warns_of_is_told_and_stops_nothing(play):
    run = play(TUNE, {"preflight_minimum_memory_mb": 88888888, "preflight_tolerate": ["memory"]})
    assert "memory:total: found" in run.output
    assert run.stats["ok"] == 3


# Holds dpkg's lock as unattended-upgrades does, until apt has waited for it for a while.
HOLD_LOCK = """
import fcntl, pathlib, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
pathlib.Path("/run/molecule-lock").touch()
def waits():
    return any(b"DPkg::Lock::Timeout" in path.read_bytes() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"))
end = time.monotonic() + 60
while time.monotonic() < end and not waits():
    time.sleep(0.1)
time.sleep(3)
"""


def test_psutil_that_somebody_removed_is_installed_again_though_dpkg_is_busy(host, play):
    host.check_output("apt-get -qq remove python3-psutil")
    assert play(TUNE, check=True).stats["failures"] == 0
    assert not host.package("python3-psutil").is_installed
    host.check_output("systemd-run --quiet --collect python3 -c %s", HOLD_LOCK)
    host.check_output("timeout 20 sh -c 'until test -e /run/molecule-lock; do sleep 0.1; done'; rm /run/molecule-lock")
    assert play(TUNE).stats["changed"] == 1
    assert host.package("python3-psutil").is_installed


def test_the_audit_of_a_tuned_host_is_clean(play):
    run = play(AUDIT)
    assert {row["status"] for row in run.settings.values()} == {"ok", "unsupported"}
    assert {row["part"] for row in run.settings.values() if "part" in row} == {
        "kernel_tuning",
        "limits",
        "cpu_governor",
        "swap",
        "python_env",
        "miner_service",
    }
    jsonschema.validate(run.document, SCHEMA)


def test_a_host_that_can_not_be_looked_at_is_no_drift(host, play):
    ledgers = ("/var/lib/precog-fleet/ledger.json", "/var/backups/precog-fleet/ledger.json")
    for ledger in ledgers:
        host.check_output("cp -p %s %s.kept && echo '{' > %s", ledger, ledger, ledger)
    try:
        assert "is damaged" in play(AUDIT, code=2).output
    finally:
        for ledger in ledgers:
            host.check_output("mv %s.kept %s", ledger, ledger)


def test_an_audit_without_root_could_not_look(play):
    assert "run with become: true" in play(AUDIT, {"ansible_become": False}, code=2).output


def lasting(value):
    """What of an audit's rows is the same at the next look: all but these figures of a process that runs."""
    if not isinstance(value, dict):
        return value
    return {key: lasting(each) for key, each in value.items() if key not in ("rss", "threads", "open_files")}


def test_two_audits_at_once_do_not_mind_each_other(play):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(play, [AUDIT, AUDIT])
    assert lasting(first.settings) == lasting(second.settings)


@pytest.mark.full
def test_rollback_and_tuning_again(host, kernel, play):
    play(ROLLBACK)
    assert not host.file(FILE).exists
    assert "precog-miner" not in host.file("/etc/passwd").content_string
    assert not host.file("/opt/precog/releases").exists
    assert kernel[READ] != WANTED
    assert play(ROLLBACK).stats["changed"] == 0
    run = play(SITE)
    assert (run.settings[READ]["status"], run.settings[READ]["after"]) == ("changed", WANTED)
    assert {run.settings[name]["status"] for name in ("miner:main", "python_env:miner")} == {"changed"}
    assert kernel[READ] == WANTED
    assert host.service("precog-miner@main").is_running
