"""What stands in a host's way: the judgement by tables, the looking on made-up trees, the module as it is."""

from __future__ import annotations

import builtins
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.precog.fleet.plugins.module_utils._engine import options
from ansible_collections.precog.fleet.plugins.module_utils._host import host as host_module
from ansible_collections.precog.fleet.plugins.module_utils._host import kernel, psutil_facts
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._settings import preflight, preflight_options, rivals
from ansible_collections.precog.fleet.plugins.module_utils._settings.preflight_options import OPTIONS
from ansible_collections.precog.fleet.tests.places import ROOT
from ansible_collections.precog.fleet.tests.unit.made_preflight import GOOD
from hypothesis import given
from hypothesis import strategies as st

MODULE = "ansible_collections.precog.fleet.plugins.modules.host_preflight"
ROLE = ROOT / "roles" / "preflight"
TOLERABLE = OPTIONS["tolerate"]["choices"]

TUNED = rivals.Found(
    "tuned", ("sysctl",), "tuned.service is enabled", "sysctl keys", "systemctl disable --now tuned.service"
)
WANTED = preflight.Wanted(disk={"/etc": 16, "/tmp": 64}, memory=512, available_memory=64, psutil=False)
CONTAINER = {"container": "/run/systemd/container", "shared": ("vm/swappiness", "fs/file-max", "kernel/pid_max")}
NET_ONLY = {"net/ipv4/tcp_rmem": True, "vm/swappiness": False, "fs/file-max": False, "kernel/pid_max": False}
NOTHING = dict.fromkeys(NET_ONLY, False)


def one(facts, wanted, name):
    (check,) = [check for check in preflight.judge(facts, wanted) if check.name == name]
    return check


# name of the check, what is different on the host, ok, severity, what `found` and `remedy` have to say
CASES = [
    ("os", {}, True, "error", "bookworm", ""),
    ("os", {"os_version": "13"}, True, "error", "", ""),
    (
        "os",
        {"os_id": "ubuntu", "os_version": "24.04", "os_name": "Ubuntu 24.04 LTS"},
        False,
        "warning",
        "Ubuntu",
        "--check",
    ),
    ("os", {"os_id": "ubuntu", "os_version": "22.04"}, False, "warning", "", "should work"),
    ("os", {"os_id": "ubuntu", "os_version": "20.04"}, False, "error", "", "install Debian 12 or 13"),
    ("os", {"os_version": "11", "os_name": "Debian 11"}, False, "error", "Debian 11", "install Debian 12 or 13"),
    ("os", {"os_version": "", "os_name": "Debian forky/sid"}, False, "error", "forky", "tolerate 'os'"),
    ("os", {"os_id": "", "os_version": "", "os_name": "unknown"}, False, "error", "unknown", "install"),
    ("python", {"python": (3, 9, 0)}, True, "error", "3.9.0 (/usr/bin/python3)", ""),
    ("python", {"python": (3, 8, 10)}, False, "error", "3.8.10", "ansible_python_interpreter"),
    ("python", {"python": (3, 13, 1)}, True, "error", "3.13.1", ""),
    ("privileges", {}, True, "error", "root", ""),
    ("privileges", {"euid": 1000}, False, "error", "user 1000", "ansible_become is false for this host"),
    ("privileges", CONTAINER, True, "error", "root, in a container (/run/systemd/container)", ""),
    ("privileges", {"outer_uid": 1000}, True, "error", "outside it user 1000", ""),
    ("systemd", {}, True, "error", "systemd", ""),
    ("systemd", {"systemd": False, "process_1": "tini"}, False, "error", "tini", "/lib/systemd/systemd"),
    ("proc_sys", {}, True, "error", "writable: net/ipv4/tcp_rmem, vm/swappiness", ""),
    ("proc_sys", {"writable": {}}, False, "error", "no /proc/sys", "mount"),
    ("proc_sys", {"writable": NOTHING}, False, "error", "read-only: net/ipv4/tcp_rmem", "remount"),
    ("proc_sys", {"writable": NET_ONLY}, False, "warning", "read-only: vm/swappiness", "remount"),
    ("proc_sys", {"writable": NOTHING, "euid": 1000}, False, "warning", "not known", "privileges"),
    # In a container what is the machine's is left alone, writable or not: nothing to warn of.
    ("proc_sys", CONTAINER, True, "error", "of the machine under this container: vm/swappiness", ""),
    ("proc_sys", {**CONTAINER, "writable": NET_ONLY}, True, "error", "writable: net/ipv4/tcp_rmem;", ""),
    ("proc_sys", {**CONTAINER, "writable": NOTHING}, False, "warning", "read-only: net/ipv4", "unsupported"),
    ("proc_sys", {**CONTAINER, "shared": tuple(NOTHING)}, False, "warning", "of the machine", "--network host"),
    ("disk:/etc", {}, True, "error", "5000 MB free", ""),
    ("disk:/etc", {"free_disk": {"/etc": 16}}, True, "error", "16 MB free", ""),
    ("disk:/etc", {"free_disk": {"/etc": 15}}, False, "error", "15 MB free", "free 1 MB more"),
    ("disk:/etc", {"free_disk": {"/etc": None}}, False, "error", "not known", "free 16 MB more"),
    ("memory:total", {}, True, "error", "3904 MB in all", ""),
    ("memory:total", {"memory_total": 511}, False, "error", "511 MB in all", "more memory"),
    ("memory:total", {"memory_total": None}, False, "error", "not known", "more memory"),
    ("memory:available", {"memory_available": 63}, False, "error", "63 MB available", "stop what"),
    ("memory:available", {"memory_available": 64}, True, "error", "64 MB", ""),
    ("psutil", {}, True, "warning", "5.9.4", ""),
    ("psutil", {"psutil": None}, False, "warning", "missing for /usr/bin/python3", "psutil is missing"),
    ("psutil", {"psutil": None, "psutil_packaged": False}, False, "error", "missing", "psutil is missing"),
    ("rivals", {}, True, "warning", "none", ""),
    ("rivals:tuned", {"rivals": (TUNED,)}, False, "warning", "tuned.service is enabled", "disable --now tuned.service"),
]


class TestJudge:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}"[:60])
    def test_one_check(self, case):
        name, change, ok, severity, found, remedy = case
        check = one(GOOD._replace(**change), WANTED, name)
        assert (check.ok, check.severity) == (ok, severity)
        assert found in check.found
        assert check.remedy == "" if ok else remedy in check.remedy

    def test_a_good_host_has_nothing_to_do(self):
        assert all(check.ok for check in preflight.judge(GOOD, WANTED))

    def test_everything_wrong_is_told_at_once(self):
        facts = GOOD._replace(os_version="11", euid=1000, systemd=False, memory_total=1)
        errors = preflight.failed(preflight.judge(facts, WANTED), "error")
        assert [check.name for check in errors] == ["os", "privileges", "systemd", "memory:total"]
        summary = preflight.summary(errors).splitlines()
        assert summary[0] == "This host can't be tuned yet (4 to do):"
        assert summary[4].startswith(
            "- memory:total: found 1 MB in all; wanted 512 MB in all. give the host more memory"
        )

    def test_missing_psutil_is_an_error_if_nobody_installs_it(self):
        check = one(GOOD._replace(psutil=None), WANTED._replace(psutil=True), "psutil")
        assert (check.ok, check.severity) == (False, "error")

    @pytest.mark.parametrize("name", ["os", "disk:/etc", "disk:/tmp", "memory:total", "memory:available"])
    def test_tolerated(self, name):
        facts = GOOD._replace(os_version="11", free_disk={}, memory_total=1, memory_available=1)
        assert one(facts, WANTED, name).severity == "error"
        check = one(facts, WANTED._replace(tolerate=(name.partition(":")[0],)), name)
        assert (check.ok, check.severity) == (False, "warning")

    def test_everything_that_can_be_an_error_can_be_tolerated(self):
        names = {check.name.partition(":")[0] for check in preflight.judge(GOOD, WANTED)} - {"rivals"}
        assert names == set(TOLERABLE)


def fill(root, files):
    for path, text in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            place.symlink_to(text[3:])
        else:
            place.write_text(text)
    return Host(str(root))


UNIT = "[Service]\nExecStart=/usr/sbin/tuned\n"
WANTS = "/etc/systemd/system/multi-user.target.wants"
UFW = {
    "/etc/ufw/ufw.conf": "# Set to yes to start on boot.\nENABLED=yes\nLOGLEVEL=low\n",
    "/etc/default/ufw": 'IPV6=yes\nIPT_SYSCTL=/etc/ufw/sysctl.conf\nIPT_MODULES=""\n',
    "/etc/ufw/sysctl.conf": "# net/ipv4/ip_forward=1\n\nnet/ipv4/conf/all/accept_redirects=0\n net/ipv4/tcp_sack = 1\n",
}

# what is on the host, then what is found: name and evidence
RIVAL_CASES = [
    ({}, None),
    ({"/lib/systemd/system/tuned.service": UNIT}, None),  # installed only
    (
        {"/lib/systemd/system/tuned.service": UNIT, f"{WANTS}/tuned.service": "-> /lib/systemd/system/tuned.service"},
        ("tuned", "tuned.service is enabled"),
    ),
    (
        {"/usr/lib/systemd/system/tlp.service": UNIT, "/run/systemd/units/invocation:tlp.service": "-> 6f1c"},
        ("tlp", "tlp.service is active"),
    ),
    (
        {
            "/etc/systemd/system/tuned.service": UNIT,
            f"{WANTS}/tuned.service": "-> ../tuned.service",
            "/run/systemd/units/invocation:tuned.service": "-> 6f1c",
        },
        ("tuned", "tuned.service is enabled and active"),
    ),
    # The package is gone and has left its link.
    ({f"{WANTS}/tuned.service": "-> /lib/systemd/system/tuned.service"}, None),
    # Masked.
    (
        {
            "/lib/systemd/system/tuned.service": UNIT,
            "/etc/systemd/system/tuned.service": "-> /dev/null",
            f"{WANTS}/tuned.service": "-> /lib/systemd/system/tuned.service",
        },
        None,
    ),
    # An init script: systemd makes a unit of it.
    (
        {
            "/run/systemd/generator.late/cpufrequtils.service": UNIT,
            "/run/systemd/generator.late/multi-user.target.wants/cpufrequtils.service": "-> ../cpufrequtils.service",
        },
        ("cpufrequtils", "cpufrequtils.service is enabled"),
    ),
    (
        {
            "/lib/systemd/system/power-profiles-daemon.service": UNIT,
            "/lib/systemd/system/graphical.target.requires/power-profiles-daemon.service": "-> ../x",
        },
        ("power-profiles-daemon", "power-profiles-daemon.service is enabled"),
    ),
    # Neighbours that tune nothing of ours.
    (
        {
            f"/lib/systemd/system/{name}": UNIT
            for name in ("irqbalance.service", "systemd-oomd.service", "multi-user.target.wants/irqbalance.service")
        },
        None,
    ),
    (UFW, ("ufw", "ufw is enabled, and IPT_SYSCTL=/etc/ufw/sysctl.conf in /etc/default/ufw")),
    ({**UFW, "/etc/ufw/ufw.conf": "ENABLED=no\n"}, None),
    ({**UFW, "/etc/default/ufw": "#IPT_SYSCTL=/etc/ufw/sysctl.conf\nIPT_SYSCTL=\n"}, None),
    ({**UFW, "/etc/ufw/sysctl.conf": "# nothing\n"}, None),
    ({name: text for name, text in UFW.items() if name != "/etc/ufw/sysctl.conf"}, None),
]


class TestRivals:
    @pytest.mark.parametrize(("files", "expected"), RIVAL_CASES)
    def test_detect(self, tmp_path, files, expected):
        found = rivals.detect(fill(tmp_path, files))
        assert [(rival.name, rival.evidence) for rival in found] == ([expected] if expected else [])

    def test_ufw_names_its_keys(self, tmp_path):
        (found,) = rivals.detect(fill(tmp_path, UFW))
        assert found.overrides == "net.ipv4.conf.all.accept_redirects, net.ipv4.tcp_sack"
        assert "/etc/ufw/sysctl.conf" in found.remedy

    @pytest.mark.parametrize("rival", rivals.RIVALS, ids=lambda rival: rival.name)
    def test_each_is_found_by_each_of_its_units(self, tmp_path, rival):
        for number, unit in enumerate(rival.units):
            files = {f"/lib/systemd/system/{unit}": UNIT, f"{WANTS}/{unit}": f"-> /lib/systemd/system/{unit}"}
            (found,) = rivals.detect(fill(tmp_path / str(number), files))
            assert (found.name, found.remedy) == (rival.name, f"systemctl disable --now {unit}")

    @pytest.mark.parametrize(
        ("settings", "ours_stay"),
        [
            (None, True),
            ("daemon = 1\nreapply_sysctl = 1\n", True),
            ("reapply_sysctl=True\n", True),
            ("# reapply_sysctl = 0\n", True),
            ("reapply_sysctl = 0\n", False),
            ("reapply_sysctl = no # why\n", False),
        ],
    )
    def test_tuned_overrides_sysctl_keys_only_without_reapply_sysctl(self, tmp_path, settings, ours_stay):
        files = {"/lib/systemd/system/tuned.service": UNIT, f"{WANTS}/tuned.service": "-> x"}
        (found,) = rivals.detect(
            fill(tmp_path, files if settings is None else {**files, "/etc/tuned/tuned-main.conf": settings})
        )
        assert ("those of ours stay" in found.overrides) == ours_stay
        assert found.overrides.startswith("sysctl keys") != ours_stay
        assert "CPU governor" in found.overrides

    def test_keys_that_tuned_does_not_reapply_are_named(self, tmp_path):
        files = {"/lib/systemd/system/tuned.service": UNIT, f"{WANTS}/tuned.service": "-> x"}
        settings = {"/etc/tuned/tuned-main.conf": "reapply_sysctl_exclude = net.ipv4.ip_forward, net.core.*\n"}
        (found,) = rivals.detect(fill(tmp_path, {**files, **settings}))
        assert "reapply_sysctl_exclude names (net.ipv4.ip_forward, net.core.*)" in found.overrides

    def test_bpftune_says_what_happens_to_its_tuner(self, tmp_path):
        files = {"/usr/lib/systemd/system/bpftune.service": UNIT, f"{WANTS}/bpftune.service": "-> x"}
        (found,) = rivals.detect(fill(tmp_path, files), rivals.SYSCTL)
        assert found.evidence == "bpftune.service is enabled"
        assert "net.ipv4.tcp_rmem" in found.overrides
        assert "until bpftune starts again" in found.overrides

    def test_only_those_of_one_subsystem(self, tmp_path):
        files = {**UFW, "/lib/systemd/system/auto-cpufreq.service": UNIT, f"{WANTS}/auto-cpufreq.service": "-> x"}
        host = fill(tmp_path, files)
        assert [rival.name for rival in rivals.detect(host, rivals.SYSCTL)] == ["ufw"]
        assert [rival.name for rival in rivals.detect(host, rivals.CPU_GOVERNOR)] == ["auto-cpufreq"]
        assert rivals.detect(host, rivals.THP) == []

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("A=1\nB=\"two words\"\nC='3'\n", {"A": "1", "B": "two words", "C": "3"}),
            ("A=1\nA=2\n", {"A": "2"}),
            ("# A=1\n  export B=2 # why\nC=\n", {"B": "2", "C": ""}),
            ('A="open\nB=2\n', {"B": "2"}),
            ("no assignment\n=3\n2A=4\n", {}),
        ],
    )
    def test_assignments(self, text, expected):
        assert rivals.assignments(text) == expected

    @given(
        st.text() | st.lists(st.sampled_from(["A", "=", "'", '"', "\\", "#", " ", "\n", "export ", "\0"])).map("".join)
    )
    def test_any_text_has_assignments_or_none(self, text):
        found = rivals.assignments(f"A={text}\nLAST=1\n")
        assert found["LAST"] == "1"
        assert all("\n" not in name for name in found)


TREE = {
    "/etc/os-release": 'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
    "/proc/meminfo": "MemTotal:        4096000 kB\nMemAvailable:    2048512 kB\nHugePages_Total:       0\n",
    "/proc/1/comm": "systemd\n",
    "/proc/1/environ": "HOME=/\0TERM=linux\0",
    "/proc/self/uid_map": "         0          0 4294967295\n",
    "/proc/self/ns/pid": "-> pid:[4026531836]",
    "/proc/sys/net/ipv4/tcp_rmem": "4096 131072 6291456\n",
    "/proc/sys/net/core/netdev_max_backlog": "1000\n",
    "/proc/sys/vm/swappiness": "60\n",
    "/run/systemd/system/.keep": "",
}


class TestCollect:
    def test_what_a_host_shows(self, tmp_path):
        facts = preflight.collect(fill(tmp_path, TREE), ["/etc"])
        assert (facts.os_id, facts.os_version, facts.os_name) == ("debian", "13", "Debian GNU/Linux 13 (trixie)")
        assert (facts.memory_total, facts.memory_available) == (4000, 2000)
        assert (facts.systemd, facts.process_1) == (True, "systemd")
        assert (facts.euid, facts.outer_uid, facts.container) == (os.geteuid(), 0, None)
        assert facts.writable == {"net/ipv4/tcp_rmem": True, "vm/swappiness": True}
        assert facts.shared == ()
        assert facts.rivals == ()
        assert facts.python == sys.version_info[:3]
        assert facts.executable == sys.executable
        assert facts.psutil == psutil_facts.version()

    def test_container_shares_what_is_not_of_a_namespace(self, tmp_path):
        files = {**TREE, "/run/systemd/container": "podman"}
        del files["/proc/sys/net/core/netdev_max_backlog"]  # only the machine's own network has it
        facts = preflight.collect(fill(tmp_path, files), [])
        assert facts.container == "/run/systemd/container"
        assert facts.shared == ("vm/swappiness", "fs/file-max", "kernel/pid_max")

    def test_root_of_a_user_namespace(self, tmp_path):
        files = {**TREE, "/proc/self/uid_map": "0 1000 1\n1 100000 65536\n"}
        assert preflight.collect(fill(tmp_path, files), []).outer_uid == 1000

    def test_what_is_missing(self, tmp_path):
        facts = preflight.collect(fill(tmp_path, {"/proc/meminfo": ""}), [])
        assert (facts.os_id, facts.os_version, facts.os_name) == ("", "", "unknown")
        assert (facts.systemd, facts.process_1) == (False, "unknown")
        assert (facts.memory_total, facts.memory_available) == (None, None)
        assert facts.writable == {}

    def test_os_release_of_the_vendor(self, tmp_path):
        files = {**TREE, "/usr/lib/os-release": TREE["/etc/os-release"]}
        del files["/etc/os-release"]
        assert preflight.collect(fill(tmp_path, files), []).os_id == "debian"

    def test_free_disk_of_what_is_not_there_yet(self, tmp_path):
        host = fill(tmp_path, TREE)
        space = os.statvfs(tmp_path)
        free = space.f_bfree * space.f_frsize // 1024**2
        found = preflight.collect(host, ["/etc", "/var/lib/precog-fleet/new"]).free_disk
        assert found == {
            "/etc": pytest.approx(free, abs=100),
            "/var/lib/precog-fleet/new": pytest.approx(free, abs=100),
        }

    def test_locked_key(self, tmp_path):
        """A bind mount that is read-only refuses root too; access(2) tells without a write."""
        host = fill(tmp_path, TREE)
        place = tmp_path / "proc/sys/vm"
        code = (
            f"mount --bind {place} {place} && mount -o remount,bind,ro {place} && exec {sys.executable} -c "
            f"'from {preflight.__name__} import *; from {Host.__module__} import Host; "
            f'print(collect(Host("{host.root}"), []).writable)\''
        )
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", code], capture_output=True, text=True, check=False, env=environment()
        )
        if "unshare failed" in done.stderr:
            pytest.skip("only root can mount")
        assert done.stdout == "{'net/ipv4/tcp_rmem': True, 'vm/swappiness': False}\n"


def environment():
    # The system's Python finds Ansible here too.
    libraries = Path(importlib.util.find_spec("ansible").origin).parents[1]
    return {**os.environ, "PYTHONPATH": f"{ROOT / '.ansible/collections'}:{libraries}"}


def run_module(before="", python=sys.executable, **arguments):
    """Run the module as Ansible does, in a process of its own; return its result and exit code."""
    code = (
        f"{before}from ansible.module_utils.testing import patch_module_args\n"
        f"from {MODULE} import main\n"
        f"with patch_module_args({arguments!r}):\n    main()\n"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, env=environment())
    assert done.stderr == ""
    return json.loads(done.stdout), done.returncode


class TestModule:
    TOLERANT = tuple(TOLERABLE)  # whatever machine the tests run on

    def test_reports_every_check_and_changes_nothing(self):
        result, code = run_module(tolerate=list(self.TOLERANT))
        assert code == 0
        assert result["changed"] is False
        names = [check["name"] for check in result["checks"]]
        assert names[:5] == ["os", "python", "privileges", "systemd", "proc_sys"]
        assert {"disk:/etc", "disk:/tmp", "disk:/var/lib", "memory:total", "memory:available", "psutil"} <= set(names)
        assert all(set(check) == set(preflight.Check._fields) for check in result["checks"])

    def test_psutil_is_there(self):
        result, _ = run_module(tolerate=list(self.TOLERANT))
        assert result["psutil"]["installed"] is True
        assert result["psutil"]["version"] == psutil_facts.version()
        assert result["psutil"]["remedy"] is None

    def test_a_failure_is_one_of_ours_and_no_crash(self):
        """Ansible shows a traceback for a failure without settings."""
        result, code = run_module(minimum_memory_mb=88888888, tolerate=[name for name in TOLERABLE if name != "memory"])
        assert (code, result["settings"]) == (1, [])
        assert "memory:total: found" in result["msg"]

    def test_works_without_psutil_and_says_what_to_do(self):
        before = "import sys; sys.modules['psutil'] = None\n"
        result, code = run_module(before, tolerate=list(self.TOLERANT))
        assert code == 0
        assert result["psutil"]["installed"] is False
        assert "psutil is missing on this host for" in result["psutil"]["remedy"]
        tolerant = [name for name in self.TOLERANT if name != "psutil"]
        result, code = run_module(before, tolerate=tolerant, require_psutil=True)
        assert code == 1
        assert "(1 to do)" in result["msg"]

    def test_warns_of_what_is_tolerated(self):
        result, _ = run_module(tolerate=list(self.TOLERANT), minimum_memory_mb=99999999)
        assert any("memory:total: found " in str(warning) for warning in result["warnings"])

    @pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no Python of the system")
    def test_warns_of_a_missing_psutil_only_where_it_stays_missing(self):
        """The role installs it next, but not in a check run."""
        before = "import sys; sys.modules['psutil'] = None\n"
        for check_mode in (False, True):
            arguments = {"tolerate": list(self.TOLERANT), "_ansible_check_mode": check_mode}
            result, code = run_module(before, "/usr/bin/python3", **arguments)
            assert code == 0
            warned = [str(text) for text in result.get("warnings", []) if "psutil" in str(text)]
            assert len(warned) == check_mode
            assert all("'psutil is missing; a run without --check installs it'" in text for text in warned)
        arguments["require_psutil"] = True
        result, _code = run_module(before, "/usr/bin/python3", **arguments)
        assert any("apt-get install python3-psutil" in str(text) for text in result["warnings"])

    def test_too_much_asked_for_names_the_figures(self):
        result, code = run_module(
            tolerate=[name for name in self.TOLERANT if name not in ("disk", "memory")],
            minimum_memory_mb=99999999,
            minimum_disk_mb={"/tmp": "88888888"},
        )
        assert code == 1
        assert re.search(r"memory:total: found \d+ MB in all; wanted 99999999 MB in all", result["msg"])
        assert re.search(r"disk:/tmp: found \d+ MB free; wanted 88888888 MB free: temporary files", result["msg"])
        assert "(2 to do)" in result["msg"]
        assert result["checks"]

    def test_same_in_check_mode(self):
        arguments = {"tolerate": list(self.TOLERANT), "minimum_disk_mb": {}}
        names = []
        for check_mode in (False, True):
            result, code = run_module(**arguments, _ansible_check_mode=check_mode)
            assert code == 0
            names.append([check["name"] for check in result["checks"]])
        assert names[0] == names[1]

    @pytest.mark.parametrize(
        "sizes",
        [{"tmp": 1}, {"/tmp": -1}, {"/tmp": "much"}, {"/tmp": True}, {"/tmp": 1.5}, {"/tmp": {"a": 1}}, {"/tmp": ""}],
    )
    def test_sizes_that_are_none(self, sizes):
        result, code = run_module(minimum_disk_mb=sizes)
        assert code == 1
        assert "Give an absolute path and a whole number of MB" in result["msg"]

    def test_tolerating_what_is_no_check(self):
        result, code = run_module(tolerate=["everything"])
        assert code == 1
        assert "must be one or more of: os, python" in result["msg"]


class TestSameInEveryPlace:
    """Defaults stand in the role, its specification and the module."""

    OPTIONS = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text())

    def test_role(self):
        assert {name: option["default"] for name, option in self.OPTIONS.items()} == self.DEFAULTS

    @pytest.mark.parametrize(
        "name", ["minimum_disk_mb", "minimum_memory_mb", "minimum_available_memory_mb", "tolerate"]
    )
    def test_role_and_module(self, name):
        assert OPTIONS[name]["default"] == self.DEFAULTS[f"preflight_{name}"]

    def test_choices(self):
        assert self.OPTIONS["preflight_tolerate"]["choices"] == TOLERABLE

    def test_each_folder_says_what_it_is_for(self):
        assert set(preflight.DISK_USES) == set(self.DEFAULTS["preflight_minimum_disk_mb"])


@pytest.mark.parametrize("module", [options, preflight_options, host_module, kernel, preflight, psutil_facts, rivals])
def test_what_preflight_loads_loads_on_a_python_that_is_too_old(module):
    """Before Python 3.9 no built-in type takes another in brackets: here neither does."""
    old = {
        kind.__name__: type(kind.__name__, (kind,), {"__class_getitem__": None}) for kind in (dict, list, set, tuple)
    }
    package = module.__name__.rpartition(".")[0]
    names = {"__name__": module.__name__, "__package__": package, "__builtins__": {**vars(builtins), **old}}
    exec(compile(Path(module.__file__).read_text(), module.__file__, "exec"), names)
