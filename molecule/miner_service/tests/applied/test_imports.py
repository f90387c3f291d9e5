"""What upstream's miner imports, under its unit's hardening: nothing but one check of polars' meets any of it."""

from __future__ import annotations

import pytest

UNITS, ROOT = "/etc/systemd/system", "/run/systemd/system"
# The unit of an instance under another name. Its folders are those of the instance, which goes on running.
OVER = """[Unit]
OnFailure=
[Service]
Type=oneshot
Restart=no
WatchdogSec=0
ExecStart=
ExecStart=/opt/precog/current/environment/bin/python -c 'import precog.miners.miner, precog.miners.base_miner'
"""
WITHOUT = "UnsetEnvironment=POLARS_SKIP_CPU_CHECK\n"


@pytest.fixture
def imported(name, host, miners):
    """Imports all of upstream's modules in an instance's sandbox, with changes; returns the code and what is said."""
    if name != "svc-12":
        pytest.skip("upstream's miner runs on svc-12")
    one, unit = miners[0], "molecule-imports@main.service"

    def run(changes=""):
        host.check_output("cp %s/precog-miner@.service %s/molecule-imports@.service", UNITS, ROOT)
        host.check_output("mkdir -p %s/%s.d && cp %s/%s.d/* %s/%s.d", ROOT, unit, UNITS, one.service, ROOT, unit)
        host.check_output("printf %%s %s >%s/%s.d/90.conf", OVER + changes, ROOT, unit)
        host.check_output("systemctl daemon-reload")
        since = host.check_output("date +%s.%N")
        code = host.run("systemctl start %s", unit).rc
        host.check_output("journalctl --sync")  # what it said may still be on its way
        return code, host.check_output("journalctl --since=@%s --unit=%s -o cat --no-pager", since, unit)

    yield run
    assert one.name == "main"
    host.check_output("rm -r %s/molecule-imports@* && systemctl daemon-reload && systemctl reset-failed", ROOT)
    assert host.service(one.service).is_running


@pytest.mark.full
def test_with_its_environment_all_is_imported_under_every_property(imported):
    code, said = imported()
    assert code == 0, said


@pytest.mark.full
def test_without_the_variable_polars_check_meets_memory_deny_write_execute_alone(imported):
    code, said = imported(WITHOUT)
    assert code != 0
    assert "could not execute mprotect for CPUID check" in said
    code, said = imported(WITHOUT + "MemoryDenyWriteExecute=no\n")
    assert code == 0, said
