"""What each instance's process really has: limits, priority, environment, user. Read from /proc, as root and others."""

from __future__ import annotations

import re

import pytest


def test_every_instance_runs_and_the_next_boot_starts_it(host, instances):
    for one in instances:
        assert host.service(one.service).is_running
        assert host.service(one.service).is_enabled
    listed = host.check_output("systemctl list-units --all --plain --no-legend 'precog-miner@*.service'")
    assert {line.split()[0] for line in listed.splitlines()} == {one.service for one in instances}


def limit(host, pid, title):
    """A limit of a process, soft and hard, as the kernel shows it."""
    found = re.search(rf"^{title} +([0-9]+) +([0-9]+) ", host.file(f"/proc/{pid}/limits").content_string, re.MULTILINE)
    return tuple(map(int, found.groups()))


def test_the_limits_of_open_files_and_processes_are_in_force(host, instances):
    for one in instances:
        assert limit(host, one.pid(host), "Max open files") == one.nofile, one.name
        if one.nproc:
            assert limit(host, one.pid(host), "Max processes") == one.nproc, one.name


@pytest.mark.once("svc-13")
def test_the_facts_in_the_report_are_those_of_the_process(host, instances, converge):
    settings = converge(check=True).settings
    for one in instances:
        facts = settings[f"miner:{one.name}"]["facts"]
        process, pid = facts["process"], one.pid(host)
        status = dict(line.split(":\t", 1) for line in host.file(f"/proc/{pid}/status").content_string.splitlines())
        assert (facts["engine"], process["pid"]) == (one.engine, pid)
        assert (process["rlimits"]["nofile"]["soft"], process["rlimits"]["nofile"]["hard"]) == one.nofile
        assert process["name"] == status["Name"]
        # These move from one look to the next.
        assert process["threads"] == pytest.approx(int(status["Threads"]), abs=4)
        assert process["open_files"] == pytest.approx(int(host.check_output(f"ls /proc/{pid}/fd | wc -l")), abs=8)
        assert process["rss"] == pytest.approx(int(status["VmRSS"].split()[0]) * 1024, rel=0.2)
        assert facts["variables"] == {
            name: value for name, value in one.environ(host).items() if name.startswith(("PYTHON", "PRECOG_MINER_"))
        }


def test_priority_and_processors_are_its_own(host, instances):
    for one in instances:
        pid = one.pid(host)
        assert int(host.check_output(f"ps -o ni= -p {pid}")) == one.nice, one.name
        allowed = re.search(
            r"^Cpus_allowed_list:\s+(\S+)", host.file(f"/proc/{pid}/status").content_string, re.MULTILINE
        )
        everywhere = host.check_output("awk '/^Cpus_allowed_list/ {print $2}' /proc/1/status")
        assert allowed[1] == (one.cpus or everywhere), one.name


def test_the_score_by_which_the_kernel_picks_when_memory_runs_out_is_in_force(host, instances):
    """Where it is above 0: a container's systemd, which lacks CAP_SYS_RESOURCE, can't go below its own."""
    raised = {one.pid(host): score for one in instances if (score := int(one.unit.get("OOMScoreAdjust", "0"))) > 0}
    assert raised
    for pid, score in raised.items():
        assert int(host.file(f"/proc/{pid}/oom_score_adj").content_string) == score


def test_what_systemd_keeps_of_it(host, instances):
    for one in instances:
        for key, value in {"WatchdogUSec": "8s", **one.unit}.items():
            assert host.check_output("systemctl show -P %s %s", key, one.service) == value, (one.name, key)


def test_the_variables_of_python_and_its_own_are_set(host, instances):
    for one in instances:
        environ = one.environ(host)
        assert environ["PYTHONUNBUFFERED"] == "1"
        assert re.fullmatch("[0-9a-f]{12}", environ["PRECOG_MINER_DIGEST"])
        for key, value in one.variables.items():
            assert environ.get(key) == value, (one.name, key)


def test_nobody_else_reads_its_environment(host, instances):
    for one in instances:
        path = f"/proc/{one.pid(host)}/environ"
        assert host.run("cat %s", path).rc == 0
        assert host.run("runuser -u nobody -- cat %s", path).rc != 0, one.name


def test_its_user_is_its_own_who_has_no_shell_and_no_password(host, instances):
    for one in instances:
        name = f"precog-miner-{one.name}"
        user = host.user(name)
        assert user.shell == "/usr/sbin/nologin"
        assert user.uid < 1000
        assert host.check_output("passwd --status %s", name).split()[1] == "L"
        assert user.groups == [name]
        assert host.check_output(f"ps -o user:32= -p {one.pid(host)}") == name
    assert len({host.user(f"precog-miner-{one.name}").uid for one in instances}) == len(instances)


def test_its_code_is_not_the_miners_to_change(host, miners):
    """Not even by a path that leads there: the release, the environment and upstream's checkout."""
    for place in ("/opt/precog", "/etc/systemd/system"):
        assert (
            host.check_output(f"find {place} \\( ! -user root -o -perm /022 \\) ! -type l -printf '%p\\n' -quit") == ""
        )
    for one in miners:
        start = host.file(f"/opt/precog/current/instances/{one.name}/start").content_string
        assert "/current/" not in start
        for path in re.findall(r"/opt/precog/\S+", start):
            assert host.run("runuser -u %s -- test -w %s", f"precog-miner-{one.name}", path).rc == 1, path


def test_the_environment_is_linked_to_its_release(host):
    release = host.check_output("readlink -f /opt/precog/current")
    assert re.fullmatch("/opt/precog/releases/[0-9a-f]{12}", release)
    assert host.file(f"{release}/environment").is_symlink
    assert host.run(f"{release}/environment/bin/python -c 'import precog_runtime'").rc == 0
