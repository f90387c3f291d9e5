"""A failure is a few lines of output, and the raw result is shown with -vvv only: real runs of ansible-playbook.

The roles, actions and the report are real; the modules are stand-ins that return as much as the real ones do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from ansible_collections.precog.fleet.plugins.module_utils._miner import options as miner_options
from ansible_collections.precog.fleet.plugins.module_utils._settings import parts
from ansible_collections.precog.fleet.plugins.plugin_utils import _brief
from ansible_collections.precog.fleet.tests.places import ROOT

SENTENCE = "It is what a gate says of an instance that answers too slowly for anybody to wait for it."
STAND_IN = """\
import json
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(%s, supports_check_mode=True)
row = {"desired": "1", "before": "2", "after": "2", "persisted_before": None, "persisted": None, "persisted_by": None}
rows = [{"name": f"raw.{number}", "status": "ok", "reason": "", **row} for number in range(40)]
rows.append({"name": "net.bad", "status": %r, "reason": %r, **row})
result = {"changed": False, "settings": rows, "unclean": ["limits"], "psutil": {"raw": list(range(60))}}
module.%s(msg=%r, **result)
"""
KEY = "2 setting(s) can't be applied:\nnet.bad = 1: unknown: no such key; is net.good meant?\nnet.ipv4.bad = 2: refused"
UNFIT = (
    "This host can't be tuned yet (1 to do):\n- privileges: found user 1000; wanted root. "
    "See that ansible_become is not false for this host, and that the user may run sudo."
)
GATE = f"main: p99 is 900 ms; the limit is 500. {SENTENCE} {SENTENCE} This host is back on 8da6, and that is healthy."


def stand_in(spec: dict, message: str, *, status: str = "unknown", end: str = "fail_json") -> str:
    return STAND_IN % (repr(spec), status, message, end, message)


MODULES = {
    "sysctl_profile": stand_in(parts.TUNING["kernel_tuning"], KEY),
    "miner_service": stand_in(miner_options.OPTIONS, GATE, status="refused"),
    "swap_state": stand_in(parts.TUNING["swap"], "\n".join(f"problem {number}" for number in range(30)), status="ok"),
    "host_preflight": stand_in(parts.PARTS["preflight"], UNFIT).replace('"settings": rows, ', ""),
    "cpu_governor": stand_in(parts.TUNING["cpu_governor"], "", status="drifted", end="exit_json")
    .replace("net.bad", "policy0:governor")
    .replace('"desired"', '"where": "run time", "desired"'),
    "host_audit": stand_in({"parts": {}, "code": {}}, "net.bad has moved", status="ok", end="exit_json"),
}


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """Runs a role on a host that is this machine; returns the lines that are printed after the task's heading."""
    folder = tmp_path_factory.mktemp("brief")
    collection = folder / "collections/ansible_collections/precog/fleet"
    for part in ("plugins/action", "plugins/callback", "plugins/filter", "plugins/plugin_utils", "roles", "meta"):
        shutil.copytree(ROOT / part, collection / part)
    shutil.copytree(ROOT / "plugins/module_utils", collection / "plugins/module_utils")
    shutil.copy(ROOT / "galaxy.yml", collection)
    (collection / "plugins/modules").mkdir()
    for name, text in MODULES.items():
        (collection / f"plugins/modules/{name}.py").write_text(text)
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"m1": host}, "vars": DEFAULTS}}))

    def run(role: str, *options: str, enabled: str = "precog.fleet.fleet_report") -> list[str]:
        tasks = [{"ansible.builtin.import_role": {"name": f"precog.fleet.{name}"}} for name in role.split()]
        (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        enabling = f"callbacks_enabled = {enabled}\n" if enabled else ""
        (folder / "ansible.cfg").write_text(f"[defaults]\ncallback_result_format = yaml\n{enabling}")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PRECOG_"))}
        place = {"ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"), "ANSIBLE_HOME": str(folder / "home")}
        argv = ["ansible-playbook", "-i", "hosts.yml", "play.yml", *options]
        done = subprocess.run(argv, cwd=folder, env={**kept, **place}, capture_output=True, text=True, check=False)
        run.code = done.returncode
        return (done.stdout + done.stderr).splitlines()

    run.folder = folder
    return run


# The audit takes the arguments of all tuning roles.
DEFAULTS = {"miner_service_environment": "/opt/env"} | {
    name: value
    for role in ("kernel_tuning", "limits", "cpu_governor", "swap")
    for name, value in yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text()).items()
}


@pytest.mark.parametrize(
    ("role", "told"),
    [
        ("kernel_tuning", ["unknown: 2 setting(s) can't be applied:", "  net.bad = 1 on m1"]),
        ("miner_service", ["refused: main: p99 is 900 ms; the limit is 500.", f"    {SENTENCE}"]),
        ("swap", ["failed: m1", "  problem 0"]),
        ("preflight", ["failed: m1", *(f"  {line}" for line in _brief.lines_of(UNFIT))]),
    ],
)
def test_a_failure_is_short_and_told_whole_at_the_end(play, role, told):
    lines = play(role)
    assert set(told) <= set(lines), "\n".join(lines)
    assert len(lines) < 45
    assert not any("raw." in line for line in lines)
    fatal = lines.index(next(line for line in lines if line.startswith("fatal: [m1]: FAILED!")))
    assert lines.index("PLAY RECAP " + "*" * 69) - fatal < 10


def test_a_failure_is_told_whole_though_another_roles_finding_is_reported_too(play):
    lines = play("cpu_governor swap")
    assert {"  policy0:governor (1 expected, is 2) on m1", "failed: m1", "  problem 0"} <= set(lines), "\n".join(lines)


def test_without_the_report_a_failure_says_all_of_it_itself(play):
    lines = play("kernel_tuning", enabled="")
    assert any("net.ipv4.bad = 2: refused" in line for line in lines)
    assert len(lines) < 35


def test_verbose_shows_no_raw_result_of_an_audited_host(play):
    lines = play("audit", "-v")
    assert len(lines) < 40, "\n".join(lines)
    assert "m1    41        -" in "\n".join(lines)


def test_the_raw_result_is_shown_with_three_v(play):
    for role in ("kernel_tuning", "audit"):
        text = "\n".join(play(role, "-vvv"))
        assert "raw.39" in text
        assert "net.bad" in text


def test_a_value_of_the_wrong_kind_is_a_failure_that_names_variable_and_file(play):
    (play.folder / "group_vars").mkdir()
    (play.folder / "group_vars/all.yml").write_text("---\nkernel_tuning_parameters: [net.core.rmem_max]\n")
    try:
        lines = play("audit")
    finally:
        shutil.rmtree(play.folder / "group_vars")
    assert "  kernel_tuning_parameters is a list, but a dictionary is expected (group_vars/all.yml:2)" in lines
    assert play.code == 2
    assert "<class" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        ("short. And two sentences.", ["short. And two sentences."]),
        ("first: a | b", ["first: a", "b"]),
        (f"{SENTENCE} {SENTENCE}", [SENTENCE, SENTENCE]),
        ("\n".join("abcdefghij"), list("abcdefghij")),
        ("\n".join("abcdefghijkl"), [*"abcdefghi", "... and 3 more lines (-vvv shows them)"]),
        ("", []),
    ],
)
def test_a_message_has_ten_lines_at_most(message, lines):
    assert _brief.lines_of(message) == lines


def test_what_broke_keeps_its_traceback():
    broken = {"failed": True, "msg": "MODULE FAILURE", "exception": "Traceback ...", "module_stdout": "x" * 999}
    shown = _brief.brief(broken, 0, True)
    assert (shown["exception"], shown["msg"], "module_stdout" in shown) == ("Traceback ...", "MODULE FAILURE", False)
    assert _brief.brief(broken, 3, True) is broken
