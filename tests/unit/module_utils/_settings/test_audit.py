"""The audit says of each setting what the role would find, and writes nothing."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import jsonschema
import pytest
import yaml
from ansible_collections.precog.fleet.plugins.action import host_audit as action
from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._engine.ledger import LOCK
from ansible_collections.precog.fleet.plugins.module_utils._settings import audit, parts, preflight, registry
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap import swap
from ansible_collections.precog.fleet.plugins.plugin_utils._payload import PACKAGE
from ansible_collections.precog.fleet.tests.places import ROOT
from ansible_collections.precog.fleet.tests.unit.made_cpufreq import make_cpu
from ansible_collections.precog.fleet.tests.unit.made_host import LEDGER, OURS, snapshot
from ansible_collections.precog.fleet.tests.unit.made_limits import PAM, make_limits_host
from ansible_collections.precog.fleet.tests.unit.made_preflight import GOOD
from ansible_collections.precog.fleet.tests.unit.made_swap import FSTAB, TABLE, Calls, make_swap

SWAPPINESS = "vm.swappiness"
SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())
ROWS = {"$defs": SCHEMA["$defs"], "type": "array", "minItems": 2, "items": {"$ref": "#/$defs/setting"}}
WANTED = {"profile": "none", "parameters": {SWAPPINESS: 10, "net.ipv4.tcp_rmem": [4096, 65536, 134217728]}}
FACTS = {"virtual_memory": {"total": 8 * 2**30}}
TOLERABLE = parts.PARTS["preflight"]["tolerate"]["choices"]


def params(part, given):
    return action.check({part: given})[part]


def look(host, given=None):
    return audit.look(host, "kernel_tuning", params("kernel_tuning", given or WANTED), FACTS)


def tune(host):
    subsystems = registry.subsystems("kernel_tuning", params("kernel_tuning", WANTED), FACTS)
    engine.run(host, subsystems, check_mode=False)


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
    assert SWAPPINESS in audit.told(finding.rows)
    assert snapshot(host) == before


TCP_RMEM = "net.ipv4.tcp_rmem"


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            {"name": "net.ipv4.tcp_rmm", "status": "unknown", "desired": "1", "reason": "no such key; is b meant?"},
            "net.ipv4.tcp_rmm = 1: unknown: no such key; is b meant?",
        ),
        (
            {"status": "refused", "desired": "-1", "reason": "the kernel says Invalid argument (EINVAL)"},
            f"{TCP_RMEM} = -1: refused: the kernel says Invalid argument (EINVAL)",
        ),
        ({"status": "drifted", "where": "run time and disk"}, f"{TCP_RMEM}: drifted (run time and disk)"),
        (
            {"status": "drifted", "where": "run time", "reason": "drifted at run time: was 4096 16384 999424"},
            f"{TCP_RMEM}: drifted at run time: was 4096 16384 999424",
        ),
        (
            {"status": "drifted", "where": "disk", "reason": "the managed file was edited"},
            f"{TCP_RMEM}: drifted (disk): the managed file was edited",
        ),
        ({"status": "overridden", "reason": "z.conf:1 sets it"}, f"{TCP_RMEM}: overridden: z.conf:1 sets it"),
    ],
)
def test_the_verdict_says_a_status_once_and_a_colon_before_the_reason(row, line):
    told = audit.told([{"name": TCP_RMEM, "desired": None, "where": "", "reason": "", **row}])
    assert told.splitlines()[1:] == [line]


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
    result = audit.result({"kernel_tuning": look(host)})
    assert "damaged" in result["errors"]["kernel_tuning"]
    assert result["settings"] == []
    assert result["unclean"] == ["kernel_tuning"]


def test_the_result_sums_up_all_parts(host):
    result = audit.result({"kernel_tuning": look(host), "limits": audit.Finding([], "")})
    assert result["summary"]["drifted"] == len(result["settings"]) == 2
    assert result["unclean"] == ["kernel_tuning"]
    assert {row["part"] for row in result["settings"]} == {"kernel_tuning"}


# part, how its host is made, what somebody does after the role has run there, the row, where it drifted
OTHER_PARTS = [
    ("limits", make_limits_host, lambda host: host.put(PAM, "root - nofile 5\n"), "pam:root:nofile", "disk"),
    (
        "cpu_governor",
        make_cpu,
        lambda host: host.set_file(0, "scaling_governor", "powersave"),
        "policy0:governor",
        "run time",
    ),
    ("swap", make_swap, lambda host: host.put(FSTAB, TABLE), "swap:/dev/vdb1", "disk"),
    ("swap", make_swap, lambda host: host.swapon("/dev/vdb1", 0), "swap:/dev/vdb1", "run time"),
]


@pytest.mark.parametrize(("part", "make", "disturb", "name", "where"), OTHER_PARTS)
def test_every_part_is_looked_at_by_its_own_plan(memory, monkeypatch, part, make, disturb, name, where):
    host = make(memory / part)
    monkeypatch.setattr(swap.swap_calls, "Calls", lambda: Calls(host))
    given = params(part, {"governor": "performance"} if part == "cpu_governor" else {})
    untuned = audit.look(host, part, given, FACTS)
    assert (row_of(untuned, name)["status"], untuned.is_clean) == ("drifted", False)
    engine.run(host, registry.subsystems(part, given, FACTS), check_mode=False)
    assert audit.look(host, part, given, FACTS).is_clean
    disturb(host)
    before = snapshot(host)
    finding = audit.look(host, part, given, FACTS)
    row = row_of(finding, name)
    assert (row["part"], row["status"], row["where"]) == (part, "drifted", where)
    jsonschema.validate([*untuned.rows, *finding.rows], ROWS)
    assert not finding.is_clean
    assert snapshot(host) == before


def test_what_nothing_but_the_command_line_keeps_off_has_drifted_on_disk(memory):
    host = make_swap(memory / "swap")
    host.put("/proc/cmdline", "systemd.swap=0\n")
    for path in ("/dev/vdb1", "/swap file"):
        del host.on[path]
    host.show()
    finding = audit.look(host, "swap", params("swap", {}), FACTS)
    row = row_of(finding, "swap:/dev/vdb1")
    assert (row["status"], row["where"], row["persisted_before"]) == ("drifted", "disk", "off")
    assert {found["name"].partition(":")[0] for found in finding.rows} == {"swap"}


def test_two_audits_at_once_say_the_same_and_wait_for_nobody(host):
    tune(host)
    host.set_key("vm/swappiness", "77")
    before = snapshot(host)
    with host.lock(LOCK), ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _number: look(host), range(2))
    assert first == second
    assert row_of(first)["status"] == "drifted"
    assert snapshot(host) == before


def test_an_audit_without_root_looks_at_nothing_and_tells_the_remedy(monkeypatch):
    monkeypatch.setattr(audit.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(audit, "look", lambda *_given: pytest.fail("it looked"))
    told = audit.run({"swap": params("swap", {})})
    assert (told["failed"], told["unclean"]) == (True, [])
    assert told["msg"] == (
        "root is required: run with become: true. If the play has become: true already, ansible_become is false for "
        "this host: remove it from the inventory or from -e."
    )


NOT_FIT = [
    ({"os_version": "11"}, {}),
    ({"euid": 1000}, {}),
    ({"psutil": None}, {}),
    ({"psutil": None}, {"require_psutil": True}),
    ({}, {"minimum_disk_mb": {"tmp": 1}}),
]


@pytest.fixture
def audited(monkeypatch, host):
    """Audit a tuned, made-up host as root, by what preflight sees there and is given; and what was looked at."""
    looked = []
    monkeypatch.setattr(audit, "Host", lambda: host)
    monkeypatch.setattr(audit.os, "geteuid", lambda: 0)
    monkeypatch.setattr(audit.psutil_facts, "facts", lambda _names: FACTS)
    monkeypatch.setattr(audit, "look", lambda _host, name, *_: looked.append(name) or audit.Finding([], ""))

    def run(seen, given):
        monkeypatch.setattr(preflight, "collect", lambda *_: GOOD._replace(**seen))
        parts = action.check({"preflight": given, "limits": {}, "swap": {}})
        return audit.run(parts), looked

    return run


@pytest.mark.parametrize(("seen", "given"), NOT_FIT)
def test_of_a_host_that_preflight_would_stop_or_change_nothing_else_is_looked_at(audited, seen, given):
    told, looked = audited(seen, given)
    assert told["unclean"] == ["preflight", "limits", "swap"]
    assert told.keys() & {"failed", "msg"} == set()
    assert looked == []


def test_of_a_fit_host_the_rest_is_looked_at_and_what_preflight_warns_of_is_told(audited):
    told, looked = audited({"memory_total": 1}, {"tolerate": ["memory"]})
    assert (told["unclean"], looked) == ([], ["limits", "swap"])
    (warning,) = told["warnings"]
    assert warning.startswith("memory:total: found 1 MB in all; wanted 512 MB in all.")


def test_a_psutil_that_nobody_installs_and_that_may_be_missing_stops_nothing(audited):
    told, looked = audited({"psutil": None}, {"require_psutil": True, "tolerate": ["psutil"]})
    assert (told["unclean"], looked) == ([], ["limits", "swap"])


def arguments_of(role):
    """Return what a role's one module call is given."""
    task = yaml.safe_load((ROOT / "roles" / role / "tasks/main.yml").read_text())[0]
    return next(value for key, value in task.items() if key.startswith("precog.fleet."))


def without_omit(given):
    looked_up = re.compile(r"lookup\('ansible\.builtin\.vars', '(\w+)', default=\w+\)")
    return {name: looked_up.sub(r"\1", value) if isinstance(value, str) else value for name, value in given.items()}


@pytest.mark.parametrize("role", parts.TUNING)
def test_the_audit_is_given_what_the_role_gives_its_module(role):
    assert without_omit(arguments_of("audit")[role]) == arguments_of(role)


def test_the_audit_is_given_what_preflight_gives_its_module():
    variables = yaml.safe_load((ROOT / "roles/audit/vars/main.yml").read_text())
    assert without_omit(variables["__audit_preflight"]) == arguments_of("preflight")


@pytest.mark.parametrize("book", ["tune", "rollback"])
def test_every_part_is_in_every_playbook(book):
    text = (ROOT / "playbooks" / f"{book}.yml").read_text()
    assert set(parts.TUNING) <= set(re.findall(r"precog\.fleet\.(\w+)", text))


def test_preflight_comes_first_rollback_goes_the_other_way_round_and_each_part_has_its_tag():
    _inventory, tune_play = yaml.safe_load((ROOT / "playbooks/tune.yml").read_text())
    _confirmation, balancers, miners, back, _limit = yaml.safe_load((ROOT / "playbooks/rollback.yml").read_text())
    named = (
        task["ansible.builtin.import_role"]["name"]
        for task in tune_play["tasks"]
        if "ansible.builtin.import_role" in task
    )
    first, *forward = [name.rpartition(".")[2] for name in named]
    _inventory, miner_play, balance, _limit = yaml.safe_load((ROOT / "playbooks/miner.yml").read_text())
    forward += [role["role"].rpartition(".")[2] for role in miner_play["roles"]]
    roles = [*miners["roles"], *back["roles"]]
    undone = [(role["role"].rpartition(".")[2], role["tags"], role["vars"]) for role in roles]
    assert [first, *forward] == [*parts.PARTS, "python_env", "miner_service"]
    assert balance["ansible.builtin.import_playbook"] == "precog.fleet.load_balancer"
    (balancer,) = balancers["roles"]
    assert balancer == {"role": "precog.fleet.load_balancer", "vars": {"load_balancer_state": "absent"}}
    assert undone == [(part, [part], {f"{part}_state": "absent"}) for part in reversed(forward)]


BAD = [
    ({"kernel_tuning": {"profile": "fast"}}, "profile"),
    ({"preflight": {"tolerate": ["everything"]}}, "tolerate"),
    ({"limits": {"parameters": 5}}, "parameters"),
    ({"swap": {"memory_reserve_mb": "much"}}, "memory_reserve_mb"),
    ({"cpu_governor": {"governer": "performance"}}, "governer"),
    ({"swop": {}}, "swop"),
]


@pytest.mark.parametrize(("given", "name"), BAD, ids=[name for _, name in BAD])
def test_arguments_are_checked_as_the_roles_own_modules_do(given, name):
    with pytest.raises(ValueError, match=name):
        action.check(given)


def test_a_value_of_the_wrong_kind_is_told_by_the_roles_variable_and_without_a_class():
    given = {
        "kernel_tuning": {"parameters": ["a"], "name": {}},
        "swap": {"memory_reserve_mb": "much", "mode": "maybe"},
        "preflight": {"require_psutil": "sometimes"},
    }
    told = []
    for part, params in given.items():
        with pytest.raises(ValueError) as error:
            action.check({part: params})
        told += str(error.value).splitlines()
    assert told == [
        "kernel_tuning_parameters is a list, but a dictionary is expected",
        "kernel_tuning_file_name is a dictionary, but text is expected",
        "swap_memory_reserve_mb is 'much', but a whole number is expected",
        "swap_mode is 'maybe', but one of off, on, untouched is expected",
        "preflight_install_psutil is 'sometimes', but true or false is expected",
    ]


def test_a_part_that_is_not_given_is_left_out():
    assert action.check({"swap": {"mode": "off"}}) == {"swap": params("swap", {"mode": "off"})}
    assert action.check({}) == {}


def launched(code, cwd, parts):
    """Return what the module printed, run as Ansible runs it: its text on standard input, the arguments put in."""
    source = (ROOT / "plugins/modules/host_audit.py").read_text()
    text = json.dumps({"parts": parts, "code": code})
    script = source.replace("<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>", text)
    command = [sys.executable, "-I", "-S"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_module_brings_all_code_that_it_needs(tmp_path):
    """Without Ansible and without site-packages, which a host may lack, and with quotes in every argument."""
    odd = {"net.core.somaxconn": "'''\"\"\"\\"}
    given = {"kernel_tuning": {"parameters": odd}, "preflight": {"require_psutil": True, "tolerate": TOLERABLE}}
    checked = action.check({name: given.get(name, {}) for name in parts.PARTS})
    told = launched(action.CODE, tmp_path, checked)
    assert told["errors"] == {}
    assert {row["part"] for row in told["settings"]} == set(parts.TUNING)
    assert list(tmp_path.iterdir()) == []


def archive_with(source):
    """Return an archive whose audit is this source."""
    buffer = io.BytesIO(base64.b64decode(action.CODE))
    with zipfile.ZipFile(buffer) as old:
        files = {name: old.read(name) for name in old.namelist()}
    files[f"{PACKAGE.replace('.', '/')}/_settings/audit.py"] = source.encode()
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return base64.b64encode(new.getvalue()).decode()


def test_a_name_that_is_no_text_reaches_ansible(tmp_path):
    told = launched(archive_with("def run(parts): return {'msg': 'é \\udcff'}\n"), tmp_path, {})
    assert told == {"msg": "é �"}


def answered(monkeypatch, module, given):
    """Return what the action makes of what the module said."""
    task = mock.Mock(async_val=0, args=given, diff=False, check_mode=False)
    plugin = action.ActionModule(task, mock.Mock(), mock.Mock(), None, None, mock.Mock())
    monkeypatch.setattr(plugin, "_execute_module", lambda **_call: dict(module))
    return plugin.run()


TOLD = [
    ({"changed": False, "unclean": ["swap"]}, {"changed": False, "unclean": ["swap"]}),
    ({"failed": True, "unclean": ["swap"], "errors": {"swap": "x"}}, {"failed": True}),
    ({"failed": True, "exception": "a crash", "msg": "x"}, {"failed": True, "msg": "x"}),
    ({"changed": False, "unclean": []}, {"changed": False, "unclean": []}),
]


@pytest.mark.parametrize(("module", "expected"), TOLD, ids=["drift", "error", "crash", "clean"])
def test_what_could_not_be_looked_at_is_a_failure_and_drift_is_none(module, expected, monkeypatch):
    result = answered(monkeypatch, module, {})
    assert {key: result[key] for key in expected} == expected
    assert "unreachable" not in result
    assert result.get("failed") == expected.get("failed")


def test_a_host_where_the_module_could_not_even_run_is_left_to_preflight(monkeypatch):
    result = answered(
        monkeypatch, {"failed": True, "exception": "a crash", "msg": "no sudo"}, {"preflight": {}, "swap": {}}
    )
    assert result["unclean"] == ["preflight", "swap"]
    assert "no sudo" in result["warnings"][0]
    assert result.keys() & {"failed", "exception", "unreachable"} == set()


def test_what_a_fit_host_could_not_be_looked_at_for_is_a_failure_too(monkeypatch):
    module = {"failed": True, "unclean": ["swap"], "errors": {"swap": "x"}}
    assert answered(monkeypatch, module, {"preflight": {}, "swap": {}})["failed"]


def test_a_wrong_argument_is_told_before_a_host_is_asked(monkeypatch):
    plugin = action.ActionModule(mock.Mock(async_val=0, args={"swap": 5}), *[mock.Mock() for _ in range(5)])
    monkeypatch.setattr(plugin, "_execute_module", lambda **_call: pytest.fail("a host was asked"))
    result = plugin.run()
    assert (result["failed"], result["msg"]) == (True, "swap is 5, but a dictionary is expected")
