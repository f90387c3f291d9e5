"""After the role has run: psutil serves the modules, and what stands in a host's way is named."""

from __future__ import annotations

import re

import pytest

PYTHON = "/usr/bin/python3"
UNIT = """[Service]
ExecStart=/bin/sh -c 'sleep infinity & wait'
LimitNOFILE=123:456
User=nobody
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def tuned(host):
    """A rival by its unit's name, which is also a shell of nobody's with a child and limits of its own."""
    host.check_output("printf %%s %s > /etc/systemd/system/tuned.service", UNIT)
    host.check_output("systemctl enable --now tuned.service")
    yield "tuned.service"
    host.check_output("systemctl disable --now tuned.service && rm /etc/systemd/system/tuned.service")
    host.check_output("systemctl daemon-reload")


def test_psutil_serves_the_systems_python(host):
    assert host.package("python3-psutil").is_installed
    total = host.check_output("%s -c 'import psutil; print(psutil.virtual_memory().total)'", PYTHON)
    assert host.file("/proc/meminfo").contains(f"^MemTotal: *{int(total) // 1024} kB")


def test_a_good_host_has_nothing_to_do(converge, module):
    assert [check["name"] for check in module("host_preflight")["checks"] if not check["ok"]] == []
    run = converge()
    assert (run.code, run.changed) == (0, False)
    assert "[WARNING]" not in run.output


@pytest.mark.once
@pytest.mark.usefixtures("tuned")
def test_a_rival_is_named_and_stops_nothing(converge):
    run = converge()
    assert (run.code, run.changed) == (0, False)
    assert "rivals:tuned: found tuned.service is enabled and active; wanted no other tool" in run.output
    assert "systemctl disable --now tuned.service" in run.output


@pytest.mark.once
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("systemctl stop tuned.service", ["tuned.service is enabled"]),
        ("systemctl disable --now tuned.service", []),
    ],
)
def test_a_rival_is_what_systemd_takes_it_for(host, tuned, module, command, expected):
    host.check_output(command)
    try:
        checks = module("host_preflight")["checks"]
    finally:
        host.check_output(f"systemctl enable --now {tuned}")
    assert [check["found"] for check in checks if check["name"] == "rivals:tuned"] == expected


@pytest.mark.once
def test_without_root_it_says_how_to_become_root(converge):
    run = converge({"ansible_become": False})
    assert run.code != 0
    assert re.search(r"privileges: found user \d+, in a container .*; wanted root\. set become: true", run.output)


@pytest.mark.once
def test_memory_and_disk_that_are_not_there_are_named_with_figures(host, converge):
    total = int(host.check_output("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) // 1024
    run = converge({"preflight_minimum_memory_mb": 88888888, "preflight_minimum_disk_mb": {"/tmp": 77777777}})
    assert run.code != 0
    assert "(2 to do)" in run.output
    assert f"memory:total: found {total} MB in all; wanted 88888888 MB in all." in run.output
    assert re.search(r"disk:/tmp: found \d+ MB free; wanted 77777777 MB free", run.output)


@pytest.mark.once
def test_what_is_tolerated_is_a_warning(converge):
    run = converge({"preflight_minimum_memory_mb": 88888888, "preflight_tolerate": ["memory"]})
    assert run.code == 0
    assert "[WARNING]: memory:total: found" in run.output


class TestServiceFacts:
    def facts(self, module, unit):
        return module("psutil_facts", {"subset": [], "service": unit})["ansible_facts"]["precog_psutil"]["service"]

    def test_limits_are_those_in_force(self, host, tuned, module):
        found = self.facts(module, tuned.removesuffix(".service"))
        main = int(host.check_output("systemctl show --property=MainPID --value tuned.service"))
        assert [process["name"] for process in found["processes"]] == ["sh", "sleep"]
        assert (found["running"], found["main_pid"], found["processes"][0]["pid"]) == (True, main, main)
        for process in found["processes"]:
            limits = host.file(f"/proc/{process['pid']}/limits").content_string
            assert re.search(r"Max open files +123 +456 ", limits)
            assert process["rlimits"]["nofile"] == {"soft": 123, "hard": 456}
            descriptors = host.check_output("ls /proc/%s/fd", str(process["pid"])).split()
            assert process["open_files"] == len(descriptors)

    @pytest.mark.parametrize(
        ("unit", "load_state", "reason"),
        [
            ("no-such-unit.service", "not-found", "no-such-unit.service is not-found"),
            ("systemd-tmpfiles-setup.service", "loaded", "is active (exited) without a main process"),
        ],
    )
    @pytest.mark.once
    def test_a_unit_without_a_process_says_why(self, module, unit, load_state, reason):
        found = self.facts(module, unit)
        assert (found["running"], found["processes"], found["load_state"]) == (False, [], load_state)
        assert reason in found["reason"]


class TestWithoutPsutil:
    """Last, and in this order: the last of them installs it again."""

    REMEDY = re.compile(r"psutil is missing on this host for /usr/bin/python3[.0-9]*: apt-get install python3-psutil")

    @pytest.fixture(autouse=True)
    def removed(self, host):
        if host.package("python3-psutil").is_installed:
            host.check_output("apt-get -qq remove python3-psutil")

    def test_facts_fail_with_the_remedy(self, module):
        result = module("psutil_facts")
        assert self.REMEDY.match(result["msg"])

    @pytest.mark.once
    def test_one_who_installs_it_by_other_means_is_told(self, host, converge):
        run = converge({"preflight_install_psutil": "false"})  # text, as `-e preflight_install_psutil=false` gives
        assert run.code != 0
        assert self.REMEDY.search(run.output)
        assert not host.package("python3-psutil").is_installed

    @pytest.mark.once
    def test_one_who_does_without_it_gets_none(self, host, converge):
        run = converge({"preflight_install_psutil": False, "preflight_tolerate": ["psutil"]})
        assert (run.code, run.changed) == (0, False)
        assert not host.package("python3-psutil").is_installed

    @pytest.mark.once
    def test_a_check_run_says_what_would_be_installed(self, host, converge):
        assert host.package("python3-apt").is_installed
        run = converge({}, "--check")
        assert (run.code, run.changed) == (0, True)
        assert not host.package("python3-psutil").is_installed

    @pytest.mark.once
    def test_a_check_run_works_without_the_means_to_say_so(self, host, converge):
        """A minimal Debian has no python3-apt, without which ansible.builtin.apt fails in check mode."""
        host.check_output("apt-get -qq remove python3-apt")
        run = converge({}, "--check")
        assert (run.code, run.changed) == (0, False)
        assert "psutil is missing; a run without --check installs it" in run.output

    def test_a_run_installs_it(self, host, converge):
        run = converge()
        assert (run.code, run.changed) == (0, True)
        assert host.package("python3-psutil").is_installed
        assert not self.REMEDY.search(run.output)
