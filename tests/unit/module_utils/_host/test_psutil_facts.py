"""psutil's facts against what the kernel itself says, and the module around them."""

from __future__ import annotations

import json
import os
import pwd
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.precog.fleet.plugins.module_utils._host import processes
from ansible_collections.precog.fleet.plugins.module_utils._host import psutil_facts as host_facts
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.modules import psutil_facts
from ansible_collections.precog.fleet.tests.places import ROOT
from hypothesis import given
from hypothesis import strategies as st

COLLECTIONS = ROOT / ".ansible" / "collections"
MODULE = "ansible_collections.precog.fleet.plugins.modules.psutil_facts"
NO_PSUTIL = "import sys; sys.modules['psutil'] = None\n"  # `import psutil` then fails as if it were not installed

SLEEPER = """
import resource, time
resource.setrlimit(resource.RLIMIT_NOFILE, (321, 654))
files = [open("/dev/null") for _ in range(9)]
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def running(code, python=sys.executable, **options):
    """A Python process that has said that it is ready."""
    process = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, **options)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def sleeper():
    with running(SLEEPER) as process:
        yield process


def proc(pid, name):
    return Path(f"/proc/{pid}/{name}").read_text()


def status(pid):
    return dict(line.split(":\t", 1) for line in proc(pid, "status").splitlines() if ":\t" in line)


class TestProcess:
    def test_limits_in_force(self, sleeper):
        limits = processes.process(sleeper.pid)["rlimits"]
        assert limits["nofile"] == {"soft": 321, "hard": 654}

    def test_every_limit_of_the_kernel_is_there(self, sleeper):
        found = {
            name: (limit["soft"], limit["hard"]) for name, limit in processes.process(sleeper.pid)["rlimits"].items()
        }
        assert found == processes.parse_limits(proc(sleeper.pid, "limits"))
        assert len(found) == len(proc(sleeper.pid, "limits").splitlines()) - 1

    def test_unlimited_is_minus_one(self, sleeper):
        assert "Max cpu time              unlimited            unlimited" in proc(sleeper.pid, "limits")
        assert processes.process(sleeper.pid)["rlimits"]["cpu"] == {"soft": -1, "hard": -1}

    def test_the_rest_is_what_proc_says(self, sleeper):
        found = processes.process(sleeper.pid)
        assert found["pid"] == sleeper.pid
        assert found["name"] == proc(sleeper.pid, "comm").strip()
        assert found["threads"] == int(status(sleeper.pid)["Threads"])
        assert found["open_files"] == len(list(Path(f"/proc/{sleeper.pid}/fd").iterdir())) >= 12
        pages = int(proc(sleeper.pid, "statm").split()[1])  # in step with the processors only now and then
        assert found["rss"] == pytest.approx(pages * resource.getpagesize(), rel=0.2)
        assert abs(found["create_time"] - time.time()) < 60

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process")
    def test_another_users_process_without_the_right_to_ask(self):
        """prlimit(2) wants CAP_SYS_RESOURCE for another user's process, and root in a container lacks it."""
        nobody = pwd.getpwnam("nobody")
        probe = f"import json; from {processes.__name__} import process; print(json.dumps(process(int(input()))))"
        with running(SLEEPER, "/usr/bin/python3", user=nobody.pw_uid, group=nobody.pw_gid) as process:
            found = json.loads(_without_capabilities(probe, str(process.pid)))
        assert found["rlimits"]["nofile"] == {"soft": 321, "hard": 654}
        assert found["rlimits"]["cpu"] == {"soft": -1, "hard": -1}
        assert found["open_files"] is None  # only its owner may know
        assert found["threads"] == 1

    def test_gone(self):
        process = subprocess.Popen(["true"])
        process.wait()
        assert processes.process(process.pid) is None

    def test_zombie(self):
        process = subprocess.Popen(["true"])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert status(process.pid)["State"].startswith("Z")
        assert processes.process(process.pid) is None
        process.wait()

    def test_reused_number_is_another_process(self, sleeper, monkeypatch):
        """The process ends while it is looked at, and its number goes to a process that started later."""
        import psutil

        describe = processes._describe

        def describe_then_replace(module, found):
            described = describe(module, found)
            found._create_time -= 5  # what a psutil.Process of the process before would hold
            if hasattr(found, "_ident"):
                found._ident = (found.pid, found._ident[1] - 5)
            return described

        monkeypatch.setattr(processes, "_describe", describe_then_replace)
        assert psutil.pid_exists(sleeper.pid)
        assert processes.process(sleeper.pid) is None


def _without_capabilities(code, given):
    drop = "-sys_resource,-sys_ptrace,-dac_override,-dac_read_search"
    done = subprocess.run(
        ["setpriv", "--bounding-set", drop, "--inh-caps", drop, sys.executable, "-c", code],
        input=given,
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    return done.stdout


def environment():
    return {**os.environ, "PYTHONPATH": str(COLLECTIONS)}


class TestParseLimits:
    def test_words_and_numbers(self):
        text = (
            "Limit                     Soft Limit           Hard Limit           Units     \n"
            "Max open files            1024                 524288               files     \n"
            "Max locked memory         unlimited            unlimited            bytes     \n"
            "Max nice priority         0                    0                    \n"
            "Max of some later kernel  1                    2                    things    \n"
        )
        assert processes.parse_limits(text) == {"nofile": (1024, 524288), "memlock": (-1, -1), "nice": (0, 0)}

    @pytest.mark.parametrize("word", ["x", "-1", "٣", "unlimitedly", "9" * 5000])
    def test_a_line_with_other_words_is_left_out(self, word):
        fine = "Max open files            1024                 524288               files\n"
        for soft, hard in ((word, "5"), ("5", word)):
            text = f"Max nice priority         {soft}  {hard}\n{fine}"
            assert processes.parse_limits(text) == {"nofile": (1024, 524288)}

    @given(
        st.text()
        | st.lists(st.sampled_from(["Max open files", "  ", " ", "9", "x", "unlimited", "\n", "²"])).map("".join)
    )
    def test_any_text_can_be_read(self, text):
        assert set(processes.parse_limits(f"{text}\nMax open files  {text}  9")) <= {"nofile"}


@pytest.fixture
def proc_tree(tmp_path, monkeypatch):
    """Make psutil read these files instead of those below /proc."""
    import psutil

    def fill(files):
        for name, text in files.items():
            place = tmp_path / "proc" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))

    return fill


def meminfo():
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in lines if len(fields) == 3}


class TestFacts:
    def test_all_of_them_are_json(self):
        found = json.loads(json.dumps(host_facts.facts(), allow_nan=False))
        assert list(found) == ["cpu", "virtual_memory", "swap_memory", "disks", "net_io", "boot_time"]

    def test_only_what_is_asked_for(self):
        assert list(host_facts.facts(["swap_memory"])) == ["swap_memory"]
        assert host_facts.facts([]) == {}

    def test_unknown_name(self):
        with pytest.raises(KeyError):
            host_facts.facts(["memory"])

    def test_cpu(self):
        found = host_facts.cpu()
        assert found["logical"] == proc("", "cpuinfo").count("processor\t")
        assert found["physical"] is None or 0 < found["physical"] <= found["logical"]
        assert found["load_average"] == pytest.approx(
            [float(word) for word in proc("", "loadavg").split()[:3]], abs=0.5
        )
        assert 0 <= found["percent_since_boot"] <= 100
        frequency = found["frequency_mhz"]
        assert frequency is None or 100 < frequency["current"] < 10000

    def test_busy_since_boot(self, proc_tree):
        """Time of guests is within that of users, and counts once."""
        proc_tree({"stat": "cpu  100 0 100 600 200 0 0 0 50 0\n", "cpuinfo": "processor\t: 0\n"})
        assert host_facts.cpu()["percent_since_boot"] == 20.0

    def test_frequency_that_is_known_in_part(self, monkeypatch):
        import psutil

        known = psutil._common.scpufreq if hasattr(psutil._common, "scpufreq") else type(psutil.cpu_freq())
        monkeypatch.setattr(psutil, "cpu_freq", lambda: known(2400.0, 0.0, 0.0))
        assert host_facts.cpu()["frequency_mhz"] == {"current": 2400.0, "min": None, "max": None}

    def test_no_frequency(self, monkeypatch):
        """What psutil does on hosts without cpufreq, by its version and the machine's kind."""
        import psutil

        def refuse():
            raise NotImplementedError("can't find current frequency file")

        monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
        assert host_facts.cpu()["frequency_mhz"] is None
        monkeypatch.setattr(psutil, "cpu_freq", refuse)
        assert host_facts.cpu()["frequency_mhz"] is None
        monkeypatch.delattr(psutil, "cpu_freq")
        assert host_facts.cpu()["frequency_mhz"] is None

    def test_memory(self):
        found = host_facts.virtual_memory()
        assert found["total"] == meminfo()["MemTotal"]
        assert found["available"] == pytest.approx(meminfo()["MemAvailable"], rel=0.2)

    def test_swap(self):
        found = host_facts.swap_memory()
        assert found["total"] == meminfo()["SwapTotal"]
        assert {"used", "free", "sin", "sout", "percent"} <= set(found)

    def test_counters_that_a_container_hides_are_no_warning(self, proc_tree, recwarn):
        proc_tree({"meminfo": "MemTotal: 4 kB\nMemFree: 1 kB\nSwapTotal: 8 kB\nSwapFree: 8 kB\n"})
        assert host_facts.swap_memory()["sout"] == 0
        assert [str(warning.message) for warning in recwarn] == []

    def test_disks(self):
        found = {disk["mountpoint"]: disk for disk in host_facts.disks()}
        size = os.statvfs("/")
        assert found["/"]["total"] == size.f_blocks * size.f_frsize
        assert not {"/proc", "/sys", "/dev"} & set(found)
        assert all(Path(path).is_dir() for path in found)
        assert len({disk["device"] for disk in found.values()}) == len(found)

    def test_disks_of_a_container(self, proc_tree, tmp_path):
        mounts = [
            "overlay / overlay",
            "proc /proc proc",
            "/dev/vda1 /etc/passwd ext4",  # a file over a file
            f"/dev/vda1 {tmp_path}/data ext4",
            f"/dev/vda1 {tmp_path}/data-again ext4",
            f"/dev/loop0 {tmp_path}/image squashfs",
            f"server:/share {tmp_path}/network nfs4",
            f"/dev/vdb1 {tmp_path}/gone ext4",
        ]
        for name in ("data", "data-again", "image", "network"):
            (tmp_path / name).mkdir()
        proc_tree(
            {
                "filesystems": "nodev\tproc\nnodev\toverlay\nnodev\tnfs4\n\text4\n\tsquashfs\n",
                "self/mounts": "".join(f"{mount} rw 0 0\n" for mount in mounts),
            }
        )
        found = [(disk["device"], disk["mountpoint"]) for disk in host_facts.disks()]
        assert found == [("overlay", "/"), ("/dev/vda1", f"{tmp_path}/data")]

    def test_network(self):
        found = host_facts.net_io()
        assert set(found["nics"]) == {line.split(":")[0].strip() for line in proc("self", "net/dev").splitlines()[2:]}
        assert found["total"]["bytes_recv"] == sum(nic["bytes_recv"] for nic in found["nics"].values())

    def test_network_without_interfaces(self):
        """A network namespace whose loopback is hidden has no interface; nothing is not an error."""
        code = (
            f"from {host_facts.__name__} import net_io; import psutil; psutil.net_io_counters = dict; print(net_io())"
        )
        code = code.replace("= dict", "= lambda **options: {}")
        assert run_python(code).stdout.strip() == "{'total': {}, 'nics': {}}"

    def test_boot_time(self):
        booted = next(line for line in proc("", "stat").splitlines() if line.startswith("btime"))
        assert host_facts.boot_time() == pytest.approx(float(booted.split()[1]), abs=2)


def run_python(code, stdin=""):
    return subprocess.run(
        [sys.executable, "-c", code], input=stdin, capture_output=True, text=True, check=False, env=environment()
    )


def run_module(code_before="", **arguments):
    """Run the module as Ansible does, in a process of its own; return its result and exit code."""
    code = (
        f"{code_before}from ansible.module_utils.testing import patch_module_args\n"
        f"from {MODULE} import main\n"
        f"with patch_module_args({arguments!r}):\n    main()\n"
    )
    done = run_python(code)
    assert done.stderr == ""
    return json.loads(done.stdout), done.returncode


class TestMissingPsutil:
    def test_facts_degrade(self):
        code = f"{NO_PSUTIL}from {host_facts.__name__} import facts\nimport json; print(json.dumps(facts(['cpu'])))"
        error = json.loads(run_python(code).stdout)["error"]
        assert error.startswith(f"psutil is missing on this host for {sys.executable}: ")

    def test_module_fails_with_the_remedy(self):
        result, code = run_module(NO_PSUTIL, subset=[])
        assert code == 1
        assert "\n" not in result["msg"]
        assert f"{sys.executable} -m pip install psutil" in result["msg"]  # the tests run in a virtual environment
        assert "role precog.fleet.preflight" in result["msg"]

    def test_importing_costs_no_psutil(self):
        code = f"import sys, {MODULE}; print('psutil' in sys.modules)"
        assert run_python(code).stdout == "False\n"

    @pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no Python of the system")
    def test_the_systems_python_is_told_of_its_package(self):
        code = f"import {host_facts.__name__} as u; print(u.MISSING_REMEDY)"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", code], capture_output=True, text=True, check=True, env=environment()
        )
        assert ": apt-get install python3-psutil, or " in done.stdout


class FakeSystemctl(Host):
    """A host whose systemctl says what it is told to say; processes are the real ones."""

    def __init__(self, **properties):
        super().__init__()
        self.properties = properties
        self.argv = None

    def run(self, argv):
        self.argv = list(argv)
        return "".join(f"{name}={value}\n" for name, value in self.properties.items())


ACTIVE = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "ControlGroup": "/system.slice/x.service",
}
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("ready", flush=True)
child.wait()
"""


@pytest.fixture
def parent():
    with running(PARENT, start_new_session=True) as process:
        yield process
        os.killpg(process.pid, signal.SIGKILL)


class TestService:
    def test_main_process_and_children(self, parent):
        found = processes.service(FakeSystemctl(**ACTIVE, MainPID=parent.pid), "x")
        children = [int(pid) for pid in proc(parent.pid, f"task/{parent.pid}/children").split()]
        assert [process["pid"] for process in found["processes"]] == [parent.pid, *children]
        assert len(children) == 1
        assert found["running"] is True
        assert found["reason"] is None
        assert found["main_pid"] == parent.pid
        assert (found["unit"], found["control_group"]) == ("x.service", "/system.slice/x.service")

    def test_one_question_for_one_unit(self, sleeper):
        host = FakeSystemctl(**ACTIVE, MainPID=sleeper.pid)
        processes.service(host, "miner@1.service")
        assert host.argv[0:2] == ["systemctl", "show"]
        assert host.argv[-2:] == ["--", "miner@1.service"]

    @pytest.mark.parametrize(
        ("properties", "reason"),
        [
            ({"LoadState": "not-found", "ActiveState": "inactive", "MainPID": 0}, "x.service is not-found"),
            ({"LoadState": "masked", "ActiveState": "inactive", "MainPID": 0}, "x.service is masked"),
            (
                {"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "MainPID": 0},
                "x.service is failed (failed): journalctl -u x.service",
            ),
            ({**ACTIVE, "SubState": "exited", "MainPID": 0}, "x.service is active (exited) without a main process"),
            ({**ACTIVE, "MainPID": 2**22 + 7}, "x.service is active (running) without a main process"),  # just ended
            ({}, "x.service is unknown"),
        ],
    )
    def test_no_process(self, properties, reason):
        found = processes.service(FakeSystemctl(**properties), "x.service")
        assert (found["running"], found["processes"]) == (False, [])
        assert found["reason"].startswith(reason)

    def test_systemctl_that_fails_is_a_reason_in_one_line(self):
        class Broken(Host):
            def run(self, argv):
                raise HostError(f"{argv[0]} failed with code 1: no systemd here\nHost is down")

        found = processes.service(Broken(), "x")
        assert found["running"] is False
        assert found["reason"] == "systemctl failed with code 1: no systemd here Host is down"

    @pytest.mark.parametrize("name", ["", "-x", "a b", "a*", "a[1]", "../a", "a\nb", "a" * 300])
    def test_what_is_no_units_name_is_not_given_to_systemctl(self, name):
        host = FakeSystemctl()
        found = processes.service(host, name)
        assert "is no unit's name" in found["reason"]
        assert host.argv is None


class TestModule:
    def test_facts_of_the_subset(self):
        result, code = run_module(subset=["virtual_memory"])
        assert code == 0
        assert result["changed"] is False
        assert result["ansible_facts"]["precog_psutil"]["virtual_memory"]["total"] == meminfo()["MemTotal"]
        assert list(result["ansible_facts"]["precog_psutil"]) == ["virtual_memory"]

    def test_default_is_everything(self):
        result, _ = run_module()
        assert set(result["ansible_facts"]["precog_psutil"]) == set(host_facts.FACTS)

    def test_check_mode(self):
        result, code = run_module(subset=["boot_time"], _ansible_check_mode=True)
        assert code == 0
        assert result["ansible_facts"]["precog_psutil"]["boot_time"] > 0

    def test_unknown_subset(self):
        result, code = run_module(subset=["gpu"])
        assert code == 1
        assert "must be one or more of: cpu, virtual_memory" in result["msg"]

    def test_no_such_service_is_no_error(self):
        result, code = run_module(subset=[], service="no-such-unit-of-ours.service")
        assert code == 0
        found = result["ansible_facts"]["precog_psutil"]["service"]
        assert found["running"] is False
        assert found["reason"]

    def test_documentation_has_the_same_choices(self, capsys):
        import yaml

        options = yaml.safe_load(psutil_facts.DOCUMENTATION)["options"]
        assert options["subset"]["choices"] == options["subset"]["default"] == list(host_facts.FACTS)
        with patch_module_args({"subset": []}), pytest.raises(SystemExit):
            psutil_facts.main()
        assert json.loads(capsys.readouterr().out)["ansible_facts"] == {"precog_psutil": {}}
