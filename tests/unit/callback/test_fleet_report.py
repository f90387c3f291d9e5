"""The report at the end of a run: its pure parts by tables, the plugin by real runs of ansible-playbook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import jsonschema
import pytest
import yaml
from ansible_collections.precog.fleet.plugins.callback import fleet_report
from ansible_collections.precog.fleet.tests.places import ROOT

SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())
SHARED = "shared kernel: it belongs to the machine underneath"


def setting(name, status="ok", **more):
    values = {"desired": "2", "before": "1", "after": "2", "persisted_before": None, "persisted": "2", "reason": ""}
    return {"name": name, "status": status, **values, **more}


def texts(lines):
    return [line.text for line in lines]


@pytest.mark.parametrize(
    ("result", "names"),
    [
        ({"settings": [setting("a"), setting("b")]}, ["a", "b"]),
        ({"results": [{"settings": [setting("a")]}, {"settings": [setting("b")]}]}, ["a", "b"]),
        ({"changed": False}, []),
        ({"settings": "some text of another collection's module"}, []),
        ({"settings": [1, {"name": "a"}, {"name": "b", "status": "odd"}, {"name": 1, "status": "ok"}]}, []),
        ({"settings": {"name": "a", "status": "ok"}}, []),
        ({"results": "text"}, []),
        ({"results": ["text", None]}, []),
        ({"_ansible_no_log": True, "settings": [setting("a")]}, []),
        ({"results": [{"_ansible_no_log": True, "settings": [setting("a")]}, {"settings": [setting("b")]}]}, ["b"]),
    ],
)
def test_settings_are_found_and_nothing_else_is_taken_for_one(result, names):
    assert [found["name"] for found in fleet_report.settings_of(result)] == names


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "unset"),
        (0, "0"),
        ("4096\t87380\t6291456", "4096 87380 6291456"),
        ("red\x1b[31m", "red?[31m"),
        ("\udcff", "?"),
        ("x" * 70, "x" * 57 + "..."),
    ],
)
def test_values_are_short_and_printable(value, shown):
    assert fleet_report.show(value) == shown


@pytest.mark.parametrize(
    ("names", "most", "text"),
    [
        ([], 2, ""),
        (["b", "a"], 2, "a, b"),
        (["m10", "m9", "m1"], 3, "m1, m9, m10"),
        (["a", "b", "c", "d"], 2, "a, b and 2 more"),
    ],
)
def test_lists_of_names_are_bounded(names, most, text):
    assert fleet_report.some(names, most) == text


LOOKED = {"part": "kernel_tuning", "where": ""}
MOVED = {"part": "kernel_tuning", "where": "run time", "status": "drifted", "after": "9", "before": "9"}
SET_BY_RUN = "this run set it (1 -> 2; next boot: unset -> 2), but the audit after it found it drifted"


@pytest.mark.parametrize(
    ("known", "new", "expected"),
    [
        (None, {"status": "changed"}, {"status": "changed"}),
        ({"status": "changed"}, {**LOOKED, "before": "2"}, {"status": "changed", "before": "1", "after": "2"}),
        ({"status": "drifted", "reason": "was 1"}, LOOKED, {"status": "drifted", "reason": "was 1", "before": "1"}),
        ({"status": "changed"}, MOVED, {"status": "drifted", "before": "1", "after": "9", "reason": SET_BY_RUN}),
        ({"status": "ok"}, {**MOVED, "reason": "was 9"}, {"status": "drifted", "before": "9", "reason": "was 9"}),
        ({**MOVED}, {"status": "drifted", "before": "9"}, {"status": "drifted", "before": "9", "after": "2"}),
        ({**MOVED}, LOOKED, {"status": "ok"}),
        ({"status": "refused"}, {**LOOKED, "status": "refused", "before": "8"}, {"status": "refused", "before": "1"}),
        ({"status": "unsupported"}, {**LOOKED, "status": "refused"}, {"status": "refused"}),
        ({"status": "changed"}, {"status": "ok", "before": "2"}, {"status": "changed", "before": "1", "after": "2"}),
        ({"status": "changed"}, {"status": "changed", "before": "2", "after": "3"}, {"before": "1", "after": "3"}),
        ({"status": "changed"}, {"status": "refused", "reason": "no"}, {"status": "refused", "reason": "no"}),
    ],
)
def test_a_row_keeps_what_the_run_did_and_takes_what_an_audit_adds(known, new, expected):
    rows = [None if row is None else {**setting("a"), **row} for row in (known, new)]
    found = fleet_report.merged(*rows)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"status": "changed"}, {"status": "drifted", "where": "run time and disk", "after": "1", "persisted": None}),
        ({"status": "changed", "before": "2"}, {"status": "drifted", "where": "disk"}),
        ({"status": "changed", "persisted_before": "2"}, {"status": "drifted", "where": "run time"}),
        ({"status": "unsupported"}, {"status": "unsupported", "where": "", "after": "2"}),
    ],
)
def test_a_row_of_a_role_in_check_mode_becomes_an_audits(row, expected):
    found = fleet_report.looked({**setting("a"), **row}, "miner_service")
    assert {key: found[key] for key in expected} == expected
    assert found["part"] == "miner_service"


def test_table_has_a_row_per_host_in_natural_order():
    hosts = {
        "miner-10": [setting("a"), setting("b", "changed")],
        "miner-2": [setting("a", "refused"), setting("b", "unsupported"), setting("c", "unsupported")],
    }
    lines = fleet_report.table(hosts, {})
    assert texts(lines) == [
        "host      ok  changed  drifted  overridden  unsupported  refused  unknown",
        "miner-2    -        -        -           -            2        1        -",
        "miner-10   1        1        -           -            -        -        -",
    ]
    assert [line.status for line in lines] == ["", "refused", "changed"]


def test_table_of_500_hosts_is_a_few_rows_with_the_worst_first():
    hosts = {f"miner-{number}": [setting("a")] for number in range(1, 500)}
    hosts["miner-500"] = [setting("a", "overridden")]
    lines = texts(fleet_report.table(hosts, {}))
    assert len(lines) == 3
    assert lines[0].startswith("500 hosts")
    assert lines[1].startswith("1: miner-500 ")
    assert lines[2].startswith("499: miner-1, miner-2 and 497 more")


def test_table_is_bounded_even_if_every_host_differs():
    hosts = {f"miner-{number}": [setting(str(key)) for key in range(number)] for number in range(1, 101)}
    lines = texts(fleet_report.table(hosts, {}))
    assert len(lines) == fleet_report.MAX_ROWS + 2
    assert lines[-1] == "  ... and 80 more groups of hosts"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "1 -> 2; next boot: unset -> 2"),
        ({"before": "2"}, "next boot: unset -> 2"),
        ({"persisted_before": "2"}, "1 -> 2"),
        ({"before": "2", "persisted_before": "2"}, ""),
    ],
)
def test_a_change_tells_run_time_and_next_boot(values, text):
    assert fleet_report.change(setting("a", "changed", **values)) == text


def test_a_release_that_had_to_wait_keeps_its_reason_though_the_audit_finds_the_same():
    held = {
        "name": "miner_release",
        "status": "drifted",
        "desired": "b",
        "before": "a",
        "after": "a",
        "reason": "waits",
    }
    held |= {"persisted_before": "a", "persisted": "a"}
    found = {**held, "part": "miner_service", "where": "run time", "reason": ""}
    assert fleet_report.merged(held, found) == held


def test_findings_are_grouped_by_reason_and_the_urgent_stand_first():
    hosts = {
        name: [
            setting("fine"),
            setting("plain", "changed"),
            setting("vm.a", "unsupported", reason=SHARED),
            setting("vm.b", "unsupported", reason=SHARED),
        ]
        for name in ("m1", "m2")
    }
    hosts["m1"].append(setting("net.x", "overridden", reason="/etc/sysctl.d/zz.conf:3", persisted="9"))
    hosts["m2"].append(setting("net.y", "refused", reason="EINVAL", after="1"))
    hosts["m2"].append(setting("net.z", "drifted", reason="changed by hand at run time", persisted_before="2"))
    assert texts(fleet_report.findings(hosts)) == [
        "refused: EINVAL",
        "  net.y = 2 (is 1) on m2",
        "overridden: /etc/sysctl.d/zz.conf:3",
        "  net.x (2 expected, the next boot gives 9) on m1",
        "drifted: changed by hand at run time",
        "  net.z (1 -> 2) on m2",
        f"unsupported: {SHARED}",
        "  vm.a, vm.b on m1, m2",
    ]


def test_a_finding_says_its_status_once_and_no_value_twice():
    row = setting("net.z", "drifted", reason="drifted at run time: was 9 9", after="9\t9", where="run time")
    assert texts(fleet_report.findings({"m1": [row]})) == ["drifted at run time: was 9 9", "  net.z (2 expected) on m1"]
    reason = fleet_report.merged(setting("net.z", "changed"), row)["reason"]
    assert reason.endswith("the audit after it found it drifted at run time: was 9 9")


def test_findings_of_500_hosts_stay_readable():
    hosts = {
        f"miner-{number}": [setting(f"vm.{key}", "unsupported", reason=SHARED) for key in range(9)]
        + [setting("net.x", "refused", reason=f"reason {number}")]
        for number in range(1, 501)
    }
    lines = texts(fleet_report.findings(hosts))
    assert len(lines) == fleet_report.MAX_FINDINGS + 1 + 2
    assert (
        lines[fleet_report.MAX_FINDINGS]
        == f"  ... and {1000 - fleet_report.MAX_FINDINGS} more lines of refused settings"
    )
    assert lines[-1] == ("  vm.0, vm.1, vm.2, vm.3 and 5 more on miner-1, miner-2, miner-3, miner-4 and 496 more")


def test_a_reason_from_a_host_cannot_steer_the_terminal():
    lines = texts(fleet_report.findings({"m": [setting("a", "unknown", reason="odd\x1b[2J\nline")]}))
    assert lines == ["unknown: odd?[2J", "    line", "  a = 2 on m"]


def test_no_findings_no_lines():
    assert fleet_report.findings({"m": [setting("a"), setting("b", "changed")]}) == []


def test_changes_share_a_line_if_hosts_share_them():
    hosts = {name: [setting("a"), setting("b", "changed", persisted_before="2")] for name in ("m1", "m2")}
    hosts["m3"] = [setting("b", "changed", before="7", persisted_before="2", reason="given back: 2")]
    hosts["m4"] = [setting("b", "changed", before="2", persisted_before="2")]
    assert texts(fleet_report.changes(hosts, 9)) == [
        "changed:",
        "  b: 1 -> 2 on m1, m2",
        "  b: 7 -> 2 (given back: 2) on m3",
        "  b: rewritten on m4",
    ]


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "report.json"
    fleet_report.write_json(str(path), {"a": 1})
    with pytest.raises(TypeError):
        fleet_report.write_json(str(path), {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        fleet_report.write_json(str(path), {"a": 2})
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


MODULE = """
#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

options = {"settings": {"type": "list", "elements": "dict"}, "fail": {"type": "bool"}}
module = AnsibleModule(options, supports_check_mode=True)
if module.params["fail"]:
    module.fail_json(msg="as wanted", settings=module.params["settings"])
module.exit_json(changed=not module.check_mode, settings=module.params["settings"])
"""


@pytest.fixture
def play(tmp_path):
    """Runs a play with these tasks, or these plays, on the hosts m1 and m2 (both this machine).

    Returns its output and its document.
    """

    def run(tasks, *options, **environment):
        (tmp_path / "library").mkdir(exist_ok=True)
        (tmp_path / "library/made_up.py").write_text(MODULE.lstrip())
        (tmp_path / "ansible.cfg").write_text(
            "[defaults]\ncallbacks_enabled = precog.fleet.fleet_report\nlibrary = library\n"
            f"collections_path = {ROOT / '.ansible/collections'}\nlocal_tmp = {tmp_path}/local\n"
            f"[callback_fleet_report]\nreport = {environment.pop('report', 'report.json')}\n"
        )
        hosts = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = {"all": {"hosts": {"m1": hosts, "m2": hosts}}}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        plays = tasks if "hosts" in tasks[0] else [{"hosts": "all", "tasks": tasks}]
        (tmp_path / "play.yml").write_text(yaml.safe_dump([{"gather_facts": False, **one} for one in plays]))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PRECOG_"))}
        done = subprocess.run(
            ["ansible-playbook", "-i", "hosts.yml", "play.yml", *options],
            cwd=tmp_path,
            env={**kept, "ANSIBLE_HOME": str(tmp_path / "home"), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        report = tmp_path / "report.json"
        return done.stdout + done.stderr, json.loads(report.read_text()) if report.exists() else None

    return run


def task(*settings, **more):
    return {"made_up": {"settings": list(settings)}, **more}


def names_of(document, host):
    return {found["name"]: found["status"] for found in document["hosts"][host]["settings"]}


def test_a_run_ends_with_the_table_and_the_document(play, tmp_path):
    failing = {"made_up": {"fail": True, "settings": [setting("net.bad", "unknown", reason="did you mean net.good?")]}}
    output, document = play(
        [
            task(setting("net.a", "changed"), setting("net.b", "changed")),
            task(setting("net.b", "ok")),
            {"made_up": {"settings": "{{ [item] }}"}, "loop": [setting("net.c"), setting("net.d", "drifted")]},
            task(setting("net.secret"), no_log=True),
            {**failing, "when": "inventory_hostname == 'm2'"},
        ]
    )
    report = output.split("SETTINGS ***")[1].splitlines()[1:]
    assert report == [
        "host  ok  changed  drifted  overridden  unsupported  refused  unknown",
        "m1     1        2        1           -            -        -        -",
        "m2     1        2        1           -            -        -        1",
        "",
        "unknown: did you mean net.good?",
        "  net.bad = 2 on m2",
        "drifted",
        "  net.d (1 -> 2; next boot: unset -> 2) on m1, m2",
        "changed:",
        "  net.a: 1 -> 2; next boot: unset -> 2 on m1, m2",
        "  net.b: 1 -> 2; next boot: unset -> 2 on m1, m2",
        f"All settings of all hosts: {tmp_path / 'report.json'}",
    ]
    assert document["schema"] == 1
    assert document["check_mode"] is False
    assert (document["playbook"], document["unreachable"]) == ("play.yml", [])
    assert document["version"] == yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(document["time"])) < timedelta(minutes=5)
    expected = {"net.a": "changed", "net.b": "changed", "net.c": "ok", "net.d": "drifted"}
    assert names_of(document, "m1") == expected
    assert names_of(document, "m2") == {**expected, "net.bad": "unknown"}
    assert document["hosts"]["m1"]["settings"][0] == setting("net.a", "changed")
    assert document["hosts"]["m2"]["stats"] == {
        "ok": 4,
        "changed": 4,
        "failures": 1,
        "unreachable": 0,
        "skipped": 0,
        "rescued": 0,
        "ignored": 0,
    }


DRIFTED = setting("net.a", "drifted", before="240", after="999", desired="999", persisted="999", persisted_before="999")
FOUND_OK = setting("net.a", before="999", after="999", desired="999", persisted="999", persisted_before="999")


@pytest.mark.parametrize("more", [{"part": "kernel_tuning", "where": ""}, {}], ids=["host_audit", "role in check mode"])
def test_the_audit_at_the_end_of_a_run_does_not_hide_what_the_run_did(play, more):
    look = {**task({**FOUND_OK, **more}), "check_mode": True}
    output, document = play([task(DRIFTED), look])
    assert document["hosts"]["m1"]["settings"] == [DRIFTED]
    assert "m1     -        -        1" in output
    assert "net.a (240 -> 999) on m1, m2" in output


@pytest.mark.parametrize("options", [(), ("--check",)], ids=["run", "check mode"])
def test_plays_and_batches_add_up_to_one_row_a_setting(play, options):
    looked = {**DRIFTED, "part": "kernel_tuning", "where": "run time", "after": "240"}
    again = {**FOUND_OK, "part": "kernel_tuning", "where": ""}
    tune = {"hosts": "all", "serial": 1, "tasks": [task(looked), task(DRIFTED)]}
    audit = {"hosts": "all", "tasks": [{**task(again), "check_mode": True, "when": "not ansible_check_mode"}]}
    output, document = play([tune, audit], *options)
    assert [document["hosts"][host]["settings"] for host in ("m1", "m2")] == [[DRIFTED], [DRIFTED]]
    assert "m2     -        -        1" in output


def test_a_look_of_a_role_in_check_mode_is_no_change(play):
    look = {**task({**DRIFTED, "status": "changed"}), "check_mode": True}
    _output, document = play([look])
    (row,) = document["hosts"]["m1"]["settings"]
    assert (row["status"], row["before"], row["after"], row["where"]) == ("drifted", "240", "240", "run time")


def test_verbose_lists_each_change_and_check_mode_is_said(play, tmp_path):
    output, document = play(
        [task(setting("net.a", "changed"))],
        "--check",
        "-v",
        PRECOG_FLEET_REPORT=str(tmp_path / "report.json"),
        report="elsewhere.json",
    )
    assert "SETTINGS (check mode: nothing was changed) ***" in output
    assert "  net.a: 1 -> 2; next boot: unset -> 2 on m1, m2\n" in output
    assert document["check_mode"] is True
    assert not (tmp_path / "elsewhere.json").exists()


def test_without_settings_nothing_is_printed(play):
    output, document = play([{"ansible.builtin.debug": {"msg": "hello"}}])
    assert "SETTINGS" not in output
    assert "report.json" not in output
    assert document["hosts"]["m1"]["settings"] == []
    assert document["hosts"]["m1"]["stats"]["ok"] == 1


def test_a_host_that_failed_before_its_settings_is_named(play):
    output, _document = play(
        [
            {"ansible.builtin.fail": {"msg": "early"}, "when": "inventory_hostname == 'm2'"},
            task(setting("net.a")),
        ]
    )
    assert "m2    failed before any setting was known\n" in output


LOST = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


def test_where_every_host_is_down_there_is_still_a_table_and_a_document(play):
    output, document = play([task(setting("net.a"))], "-e", json.dumps(LOST))
    assert output.split("SETTINGS ***")[1].splitlines()[2:4] == ["m1    unreachable", "m2    unreachable"]
    assert document["unreachable"] == ["m1", "m2"]
    jsonschema.validate(document, SCHEMA)


def test_a_host_that_is_lost_on_the_way_keeps_its_settings_and_is_named(play):
    plays = [
        {"hosts": "all", "tasks": [task(setting("net.a"))]},
        {"hosts": "m2", "tasks": [{"ansible.builtin.ping": None, "vars": LOST}]},
    ]
    output, document = play(plays)
    assert "Unreachable before the run was done with them: m2\n" in output
    assert (document["unreachable"], names_of(document, "m2")) == (["m2"], {"net.a": "ok"})


def test_a_host_whose_task_failed_as_it_was_lost_is_unreachable_in_the_document(play, tmp_path):
    (tmp_path / "library").mkdir()
    lost = 'import json\nprint(json.dumps({"failed": True, "unreached": True, "msg": "it went down"}))\n'
    (tmp_path / "library/lost.py").write_text(f"#!/usr/bin/python\n# WANT_JSON\n{lost}")
    output, document = play([{"lost": None, "when": "inventory_hostname == 'm1'"}, task(setting("net.a"))])
    assert document["unreachable"] == ["m1"]
    assert "failed: m1\n  it went down\n" in output


FOUND = {**DRIFTED, "after": "240", "part": "kernel_tuning", "where": "run time"}


@pytest.mark.parametrize(
    ("parts", "hosts", "command"),
    [
        (["kernel_tuning"], 2, "-i hosts.yml precog.fleet.tune --limit m1,m2"),
        (["limits", "swap"], 1, "-i hosts.yml precog.fleet.tune --limit m1"),
        (["python_env"], 5, "-i hosts.yml precog.fleet.miner"),
        (["swap", "miner_service"], 1, "-i hosts.yml precog.fleet.site --limit m1"),
    ],
)
def test_an_audit_names_the_command_that_repairs_what_it_found(parts, hosts, command):
    rows = [{**FOUND, "name": part, "part": part} for part in parts]
    (line,) = fleet_report.repair({f"m{number + 1}": rows for number in range(hosts)}, ["hosts.yml"])
    assert line.text == f"To repair it: ansible-playbook {command}"


def test_an_audit_says_what_is_expected_and_a_run_what_it_did(play):
    found = play([task(FOUND)])[0]
    assert "  net.a (999 expected, is 240) on m1, m2\n" in found
    assert re.search(r"^To repair it: ansible-playbook -i hosts.yml precog.fleet.tune --limit m1,m2$", found, re.M)
    repaired = play([task(FOUND), task(DRIFTED)])[0]
    assert "  net.a (240 -> 999) on m1, m2\n" in repaired
    assert "To repair it" not in repaired
    on_disk = {**FOUND, "where": "disk", "after": "999", "persisted": "5"}
    assert fleet_report.values(on_disk) == "999 expected, the next boot gives 5"


def test_another_release_stands_first_among_the_changes():
    rows = [setting("a", "changed"), setting("miner_release", "changed", before="8da6", after="cf38", persisted=None)]
    assert texts(fleet_report.changes({"m1": rows}, 1)) == [
        "changed:",
        "  miner_release: 8da6 -> cf38 on m1",
        "  ... and 1 more changes (-v shows more of them)",
    ]


def test_a_report_that_cannot_be_written_is_a_warning(play, tmp_path):
    (tmp_path / "file").write_text("")
    output, document = play([task(setting("net.a"))], report=str(tmp_path / "file/report.json"))
    assert document is None
    assert "was not written" in " ".join(output.split())  # warnings are wrapped
    assert "m1     1" in output
    assert "All settings of all hosts:" not in output


def test_colour_is_for_terminals(play):
    tasks = [task(setting("net.a", "changed"))]
    assert "\x1b[" not in play(tasks)[0].split("SETTINGS")[1]
    assert "\x1b[0;33mm1 " in play(tasks, ANSIBLE_FORCE_COLOR="1")[0].split("SETTINGS")[1]
