"""The engine as a whole: read, plan, apply, report and give back, on made-up hosts of many kinds."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._engine import model
from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._engine.ledger import COPY
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.tests.places import ROOT
from ansible_collections.precog.fleet.tests.unit import made_host
from ansible_collections.precog.fleet.tests.unit.made_host import (
    LEDGER,
    MODULES,
    OURS,
    Killed,
    absent,
    apply,
    files_of,
    make_host,
    rows,
    snapshot,
    statuses,
    untouched,
)
from ansible_collections.precog.fleet.tests.unit.scenarios import SCENARIOS
from hypothesis import example, given, settings
from hypothesis import strategies as st

SWAP = "vm.swappiness"
BY_NAME = [pytest.param(case, id=case.name) for case in SCENARIOS]


@pytest.fixture
def stage(memory):
    """Build the host of a scenario."""

    def build(case):
        return make_host(memory / "host", container=case.container)

    return build


# -- every scenario, in every way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BY_NAME)
def test_every_setting_has_its_status_and_reason(case, stage):
    host = stage(case)
    case.prepare(host)

    found = rows(case.run(host))

    assert {name: row["status"] for name, row in found.items()} == {
        name: status for name, (status, _reason) in case.expected.items()
    }
    for name, (_status, reason) in case.expected.items():
        assert reason in found[name]["reason"]


@pytest.mark.parametrize("case", BY_NAME)
def test_the_report_is_true(case, stage):
    """`before` and `after` are what /proc/sys holds, and what failed is in no file."""
    host = stage(case)
    case.prepare(host)
    before = {name: _held(host, name) for name in case.expected}

    report = case.run(host)

    ours = host.text(OURS) if host.at(OURS).exists() else ""
    for name, row in rows(report).items():
        if row["before"] is not None:
            assert (row["before"], row["after"]) == (before[name], _held(host, name))
        if row["status"] in ("unknown", "unsupported"):
            assert f"{name} = " not in ours
        if row["status"] in ("refused", "unknown", "unsupported"):
            assert before[name] == _held(host, name)
            assert f"{name} = {row['desired']}\n" not in ours
        elif row["desired"] is not None:
            assert f"{name} = {row['desired']}\n" in ours


@pytest.mark.parametrize("case", BY_NAME)
def test_check_mode_says_the_same_and_touches_nothing(case, stage):
    host = stage(case)
    case.prepare(host)
    before, seen = snapshot(host), untouched(host)

    predicted = case.run(host, check=True)

    assert snapshot(host) == before
    assert untouched(host) == seen
    assert all("--dry-run" in command for command in host.commands)
    host.commands.clear()
    real = case.run(host)
    if case.predictable:
        assert rows(predicted) == rows(real)
        assert predicted.changed == real.changed
        assert predicted.diff == real.diff


@pytest.mark.parametrize("case", BY_NAME)
def test_a_second_run_writes_nothing_at_all(case, stage):
    host = stage(case)
    case.prepare(host)
    case.run(host)
    host.kernel_writes.clear()
    host.file_writes.clear()
    seen = untouched(host)

    again = case.run(host)

    assert not again.changed
    assert again.diff == []
    assert host.file_writes == [] or not case.settles
    if case.settles:
        assert host.kernel_writes == []
        assert untouched(host) == seen
        assert set(statuses(again).values()) <= {"ok", "overridden", "refused", "unknown", "unsupported"}


@pytest.mark.parametrize("case", BY_NAME)
def test_absent_brings_every_byte_back(case, stage):
    host = stage(case)
    case.arrange(host)
    before = files_of(host)
    if case.earlier is not None:
        apply(host, case.earlier, **case.options)
        case.after_earlier(host)
    case.run(host)

    absent(host)

    after = files_of(host)
    if "by a module" in case.name:  # a loaded module stays
        after.pop("/proc/sys/net/ipv4/tcp_available_congestion_control")
        before.pop("/proc/sys/net/ipv4/tcp_available_congestion_control")
    assert after == before
    assert (
        json.loads(host.text(LEDGER)) == {"version": 1, "settings": {}, "files": {}} if host.at(LEDGER).exists() else 1
    )
    seen = untouched(host)
    again = absent(host)
    assert (again.changed, again.changes, again.diff) == (False, [], [])
    assert untouched(host) == seen


def _held(host, name):
    key = name if name.split(".")[0].count("/") else name.translate(str.maketrans("./", "/."))
    place = host.at(f"/proc/sys/{key}")
    return " ".join(place.read_text().split()) if place.is_file() else None


# -- killed at any moment ----------------------------------------------------------------------------------------------

BEFORE_US = b"\xffkernel.hostname = odd\r\n"
WISHES = {SWAP: 10, "vm.dirty_bytes": 1048576, "net.ipv4.ip_forward": 1, "net.ipv4.tcp_congestion_control": "bbr"}
OTHERS = {SWAP: 20, "vm.dirty_background_ratio": 5, "net.ipv4.tcp_congestion_control": "bbr"}
FIRST_BOOT = made_host.KEYS[made_host.BOOT_ID]


def _machine(path):
    """A host with a file of our name from before, and a module to load (loaded already: that can't be undone)."""
    host = make_host(path)
    host.put(OURS, BEFORE_US, 0o600)
    host.module_keys["tcp_bbr"] = {"net/ipv4/tcp_available_congestion_control": "reno cubic bbr"}
    return host


def _kills(path, prepare, run):
    """Yield a host for every moment at which a run can be killed, after the kill."""
    for steps in range(200):
        host = _machine(path / str(steps))
        prepare(host)
        host.steps_to_live = steps
        try:
            run(host)
        except Killed:
            host.steps_to_live = None
            host.kernel_writes.clear()
            yield host
        else:
            assert steps > 10
            return
    raise AssertionError("a run never ends")


KILLED_RUNS = [
    pytest.param(lambda _host: None, lambda host: apply(host, WISHES), id="first apply"),
    pytest.param(lambda host: apply(host, WISHES), lambda host: apply(host, OTHERS), id="change"),
    pytest.param(lambda host: apply(host, WISHES), absent, id="absent"),
]
AFTERWARDS = {
    "absent": absent,
    "apply": lambda host: apply(host, WISHES),
    "reboot": lambda host: host.reboot(),
    "reboot and apply": lambda host: (host.reboot(), apply(host, WISHES)),
    "change": lambda host: apply(host, OTHERS),
}


@pytest.mark.full
@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize(("prepare", "run"), KILLED_RUNS)
def test_a_killed_run_leaves_nothing_that_the_next_does_not_mend(memory, prepare, run, afterwards):
    before = files_of(_machine(memory / "before"))
    del before["/proc/sys/kernel/random/boot_id"]
    del before["/proc/sys/net/ipv4/tcp_available_congestion_control"]  # a loaded module stays
    for host in _kills(memory, prepare, run):
        assert host.at(OURS).read_bytes() == BEFORE_US or host.text(OURS).startswith("# Managed by precog.fleet")
        assert not host.at(LEDGER).exists() or json.loads(host.text(LEDGER))["version"] == 1

        AFTERWARDS[afterwards](host)
        apply(host, WISHES)
        assert not apply(host, WISHES).changed
        assert [host.value(key) for key in ("vm/swappiness", "vm/dirty_bytes", "net/ipv4/ip_forward")] == [
            "10",
            "1048576",
            "1",
        ]
        absent(host)

        after = files_of(host)
        del after["/proc/sys/kernel/random/boot_id"]
        del after["/proc/sys/net/ipv4/tcp_available_congestion_control"]
        assert after == before
        assert json.loads(host.text(LEDGER))["settings"] == {}


def test_killed_before_the_files_are_in_place_the_ledger_knows_the_originals(host):
    host.steps_to_live = 5  # the file is staged, the ledger and its copy are in place
    with pytest.raises(Killed):
        apply(host, {SWAP: 10})
    host.steps_to_live = None
    assert host.value("vm/swappiness") == "60"
    host.set_key("vm/swappiness", "10")  # what the run would have done next

    apply(host, {SWAP: 10})
    absent(host)

    assert host.value("vm/swappiness") == "60"


# -- what stands in the way of the whole run ---------------------------------------------------------------------------


def _folder_in_place(path):
    def arrange(host):
        place = host.at(path)
        place.unlink(missing_ok=True)
        place.mkdir(parents=True)

    return arrange


def _link_in_place(path, target):
    def arrange(host):
        host.at(path).unlink(missing_ok=True)
        host.at(path).symlink_to(target)

    return arrange


def _ledger(content):
    return lambda host: host.put(LEDGER, content)


ONE = {"value": "60", "configured": None, "boot": "b", "desired": "10", "companions": {}}
IN_THE_WAY = {
    "ledger torn": (_ledger(b'{"version": 1, "sett'), "ledger.json is damaged"),
    "ledger empty": (_ledger(b""), "ledger.json is damaged"),
    "ledger of bytes": (_ledger(b"\xff\x00\x80"), "ledger.json is damaged"),
    "ledger of something else": (_ledger(b'["hosts"]'), "ledger.json is damaged"),
    "ledger without its parts": (_ledger(b'{"version": 1}'), "ledger.json is damaged"),
    "ledger of another version": (
        _ledger(b'{"version": 2, "settings": {}, "files": {}}'),
        "version 2, where 1 is known",
    ),
    "ledger with a value that is no text": (
        _ledger(json.dumps({"version": 1, "files": {}, "settings": {OURS: {SWAP: {**ONE, "value": 60}}}})),
        "a recorded value is not text",
    ),
    "ledger with a name that is no key": (
        _ledger(json.dumps({"version": 1, "files": {}, "settings": {OURS: {"../x": ONE}}})),
        "is damaged",
    ),
    "ledger with an unknown field": (
        _ledger(json.dumps({"version": 1, "files": {}, "settings": {OURS: {SWAP: {**ONE, "more": 1}}}})),
        "is damaged",
    ),
    "ledger with a mode that is no number": (
        _ledger(
            json.dumps({"version": 1, "settings": {}, "files": {OURS: {"content": None, "meta": ["a", "b", "c"]}}})
        ),
        "not a number",
    ),
    "ledger with content that is no base64": (
        _ledger(json.dumps({"version": 1, "settings": {}, "files": {OURS: {"content": "%", "meta": None}}})),
        "is damaged",
    ),
    "ledger is a folder": (_folder_in_place(LEDGER), "cannot read the ledger of originals"),
    "our file is a folder": (_folder_in_place(OURS), f"{OURS} is not a file: move what is there away"),
    "our file is a link to /dev/null": (_link_in_place(OURS, "/dev/null"), f"{OURS} is a link"),
    "our file is a broken link": (_link_in_place(OURS, "/nowhere"), f"{OURS} is a link"),
    "our file is a link in a circle": (_link_in_place(OURS, OURS), f"{OURS} is a link"),
}


@pytest.mark.parametrize("check", [False, True], ids=["real", "check"])
@pytest.mark.parametrize("case", IN_THE_WAY)
def test_what_stands_in_the_way_is_named_and_nothing_is_changed(host, case, check):
    arrange, words = IN_THE_WAY[case]
    arrange(host)
    before = files_of(host)

    with pytest.raises(HostError) as told:
        apply(host, {SWAP: 10}, check=check)

    assert words in str(told.value)
    assert files_of(host) == before
    assert host.kernel_writes == []


DISK_ERRORS = [
    (f"stage {OURS}", errno.ENOSPC, "Free space on that file system"),
    (f"stage {OURS}", errno.EROFS, "mounted read-only"),
    (f"stage {OURS}", errno.EDQUOT, "Raise the quota"),
    (f"stage {LEDGER}", errno.ENOSPC, "Free space"),
    (f"commit {LEDGER}", errno.EROFS, "mounted read-only"),
    (f"commit {OURS}", errno.ENOSPC, "Free space"),
    (f"commit {OURS}", errno.EPERM, "immutable"),
    (f"commit {MODULES}", errno.EIO, "See /etc/modules-load.d"),
]


@pytest.mark.parametrize(("what", "code", "remedy"), DISK_ERRORS)
def test_a_disk_that_says_no_is_told_with_the_remedy_and_nothing_is_changed(host, what, code, remedy):
    host.module_keys["tcp_bbr"] = {"net/ipv4/tcp_available_congestion_control": "reno cubic bbr"}
    host.run(["modprobe", "tcp_bbr"])
    wishes = {SWAP: 10, "vm.dirty_bytes": 1048576, "net.ipv4.tcp_congestion_control": "bbr"}
    before = files_of(host)
    host.disk_errors[what] = code

    with pytest.raises(HostError) as told:
        apply(host, wishes)

    assert what.partition(" ")[2] in str(told.value)
    assert "Nothing was changed" in str(told.value)
    assert remedy in str(told.value)
    assert files_of(host) == before
    host.disk_errors.clear()
    assert set(statuses(apply(host, wishes)).values()) == {"changed"}
    absent(host)
    assert files_of(host) == before


def test_a_disk_that_fails_at_the_second_file_takes_the_first_back(host):
    apply(host, {SWAP: 10})
    before = files_of(host)
    host.disk_errors[f"commit {MODULES}"] = errno.EIO
    host.set_key("net/ipv4/tcp_available_congestion_control", "reno cubic bbr")
    before["/proc/sys/net/ipv4/tcp_available_congestion_control"] = ("file", 0o444, b"reno cubic bbr\n")

    with pytest.raises(HostError):
        apply(host, {SWAP: 20, "net.ipv4.tcp_congestion_control": "bbr"})

    assert files_of(host) == before


def test_a_disk_that_fills_while_the_file_is_made_anew_takes_the_values_back(host):
    host.refuse["vm/vfs_cache_pressure"] = errno.EINVAL
    written = host.write_kernel

    def fill(path, value):
        host.disk_errors[f"stage {OURS}"] = errno.ENOSPC
        written(path, value)

    host.write_kernel = fill
    with pytest.raises(HostError, match="Free space"):
        apply(host, {SWAP: 10, "vm.vfs_cache_pressure": 50})

    assert host.value("vm/swappiness") == "60"
    assert not host.at(OURS).exists()


def test_without_room_for_the_ledger_nothing_is_given_back_either(host):
    """The ledger says nothing new before the values go back: that it could be written is found out all the same."""
    apply(host, {SWAP: 10})
    before = snapshot(host)
    host.disk_errors[f"stage {LEDGER}"] = errno.ENOSPC

    with pytest.raises(HostError, match=r"Nothing was changed\. Free space"):
        absent(host)

    assert snapshot(host) == before


def test_a_ledger_that_fails_at_the_very_end_is_told_as_what_it_is(host):
    written = host.write_kernel

    def fail_later(path, value):
        host.disk_errors[f"stage {LEDGER}"] = errno.EIO
        written(path, value)

    host.write_kernel = fail_later
    with pytest.raises(HostError, match=r"all is applied, but cannot write .*ledger.json.*Input/output error"):
        apply(host, {SWAP: 10})
    host.disk_errors.clear()
    host.write_kernel = written

    assert not apply(host, {SWAP: 10}).changed
    absent(host)
    assert host.value("vm/swappiness") == "60"


def test_a_run_waits_for_another_and_then_says_so(host):
    apply(host, {})
    with host.at("/var/lib/precog-fleet/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(HostError, match=r"another run has held /var/lib/precog-fleet/lock for 0.1 s: wait for it"):
            apply(host, {SWAP: 10})
        assert host.value("vm/swappiness") == "60"
        assert statuses(apply(host, {SWAP: 10}, check=True)) == {SWAP: "changed"}
    assert statuses(apply(host, {SWAP: 10})) == {SWAP: "changed"}


# -- single promises --------------------------------------------------------------------------------------------------


def test_what_is_in_the_file_and_the_ledger(host):
    apply(host, {SWAP: "010", "net.ipv4.tcp_rmem": [4096, 65536, 134217728], "net.ipv4.conf.eth0/100.rp_filter": 1})

    assert host.text(OURS) == (
        "# Managed by precog.fleet: the next run undoes what is changed here.\n"
        "net.ipv4.conf.eth0/100.rp_filter = 1\n"
        "net.ipv4.tcp_rmem = 4096 65536 134217728\n"
        "vm.swappiness = 010\n"
    )
    assert host.at(OURS).stat().st_mode & 0o7777 == 0o644
    assert host.at(LEDGER).stat().st_mode & 0o7777 == 0o600
    ledger = json.loads(host.text(LEDGER))
    assert ledger["settings"][OURS][SWAP] == {
        "value": "60",
        "configured": None,
        "boot": FIRST_BOOT,
        "desired": "010",
        "companions": {},
        "moved": True,
    }
    written = base64.b64encode(host.at(OURS).read_bytes()).decode()
    assert ledger["files"] == {OURS: {"content": None, "meta": None, "written": written}}


def test_trap_ip_forward_only_managed_keys_are_written(host):
    """Reload collateral: nothing replays the files of others."""
    host.put("/etc/sysctl.d/10-other.conf", "net.ipv4.ip_forward = 1\nvm.vfs_cache_pressure = 7\n")

    apply(host, {SWAP: 10})

    assert host.kernel_writes == [("/proc/sys/vm/swappiness", "10")]
    assert host.file_writes == [OURS, LEDGER, COPY, LEDGER, COPY]


def test_trap_order_maxima_before_vectors_and_ip_forward_before_interfaces(host):
    apply(
        host,
        {
            "net.ipv4.tcp_rmem": [4096, 65536, 1048576],
            "net.ipv4.conf.eth0.forwarding": 0,
            "net.core.rmem_max": 1048576,
            "net.ipv4.conf.all.rp_filter": 1,
            "net.ipv4.ip_forward": 1,
        },
    )

    assert [path.removeprefix("/proc/sys/net/") for path, _value in host.kernel_writes] == [
        "ipv4/ip_forward",
        "ipv4/conf/all/rp_filter",
        "core/rmem_max",
        "ipv4/conf/eth0/forwarding",
        "ipv4/tcp_rmem",
    ]
    assert host.value("net/ipv4/conf/eth0/forwarding") == "0"


def test_trap_reading_never_walks_and_never_reads_keys_with_effects(host):
    apply(host, {"vm.stat_refresh": 1, "vm.drop_caches": 1, "vm.swapiness": 1, SWAP: 10})

    assert set(host.reads) == {"vm/swappiness", made_host.BOOT_ID, "net/ipv4/tcp_available_congestion_control"} | {
        f"net/{key}" for key in ("core/rmem_max", "core/wmem_max", "ipv4/tcp_rmem", "ipv4/tcp_wmem")
    }
    assert host.kernel_writes == [("/proc/sys/vm/swappiness", "10")]


def test_trap_dirty_pair_zero_each_other_and_the_counterpart_comes_back(host):
    apply(host, {"vm.dirty_bytes": 1048576, "vm.dirty_background_bytes": 65536})
    assert [host.value(f"vm/dirty{key}") for key in ("_bytes", "_ratio", "_background_bytes", "_background_ratio")] == [
        "1048576",
        "0",
        "65536",
        "0",
    ]

    absent(host)

    assert ("/proc/sys/vm/dirty_bytes", "0") not in host.kernel_writes
    assert [host.value(f"vm/dirty{key}") for key in ("_bytes", "_ratio", "_background_bytes", "_background_ratio")] == [
        "0",
        "20",
        "0",
        "10",
    ]


def test_trap_one_way_keys_say_so_and_are_left_to_the_next_boot(host):
    told = rows(apply(host, {"kernel.yama.ptrace_scope": 3}))["kernel.yama.ptrace_scope"]
    assert (told["status"], told["reason"]) == ("changed", "one-way: only a reboot takes it back")
    host.kernel_writes.clear()
    assert not apply(host, {"kernel.yama.ptrace_scope": 3}).changed  # rewriting the same value would be EPERM

    back = rows(absent(host))["kernel.yama.ptrace_scope"]

    assert host.kernel_writes == []
    assert (back["status"], back["after"]) == ("changed", "3")
    assert "the next boot brings it" in back["reason"]
    assert not host.at(OURS).exists()
    assert not absent(host).changes


def test_trap_modules_a_key_and_a_congestion_control_have_theirs_loaded_at_boot(host):
    host.module_keys = {
        "nf_conntrack": {"net/netfilter/nf_conntrack_max": "65536"},
        "tcp_bbr": {"net/ipv4/tcp_available_congestion_control": "reno cubic bbr"},
    }
    wishes = {"net.netfilter.nf_conntrack_max": 262144, "net.ipv4.tcp_congestion_control": "bbr", SWAP: 10}
    predicted = statuses(apply(host, wishes, check=True))
    assert not host.at("/proc/sys/net/netfilter").exists()
    assert predicted == statuses(apply(host, wishes)) == dict.fromkeys(wishes, "changed")
    assert host.text(MODULES).split("\n")[1:] == ["nf_conntrack", "tcp_bbr", ""]
    assert [command for command in host.commands if "--dry-run" not in command] == [
        ["modprobe", "--", "nf_conntrack"],
        ["modprobe", "--", "tcp_bbr"],
    ]

    host.commands.clear()
    assert not apply(host, wishes).changed
    assert host.commands == []

    apply(host, {SWAP: 10})
    assert not host.at(MODULES).exists()
    assert host.value("net/netfilter/nf_conntrack_max") == "65536"
    assert host.value("net/ipv4/tcp_congestion_control") == "cubic"


def test_a_refused_value_is_not_made_to_last_and_the_one_before_is(host):
    """Trap: one bad key poisons the file."""
    host.refuse["net/ipv4/tcp_keepalive_time=-1"] = errno.EINVAL
    apply(host, {"net.ipv4.tcp_keepalive_time": 600, SWAP: 10})

    row = rows(apply(host, {"net.ipv4.tcp_keepalive_time": -1, SWAP: 20}))["net.ipv4.tcp_keepalive_time"]

    assert (row["status"], row["after"], row["persisted"]) == ("refused", "600", "600")
    assert host.text(OURS).split("\n")[1:] == ["net.ipv4.tcp_keepalive_time = 600", "vm.swappiness = 20", ""]
    assert not apply(host, {"net.ipv4.tcp_keepalive_time": 600, SWAP: 20}).changed
    absent(host)
    assert host.value("net/ipv4/tcp_keepalive_time") == "7200"


RMEM = "net.ipv4.tcp_rmem"
TOO_LARGE = [4096, 123456, 671088640000]


def test_a_vector_that_the_kernel_refuses_in_part_is_put_back_whole(host):
    """Trap: the kernel stores a vector's first numbers before it fails with EINVAL."""
    before = host.value("net/ipv4/tcp_rmem")

    report = apply(host, {RMEM: TOO_LARGE})

    assert host.value("net/ipv4/tcp_rmem") == before
    row = rows(report)[RMEM]
    assert (row["status"], row["after"]) == ("refused", row["before"])
    assert row["reason"] == "the kernel says Invalid argument (EINVAL): give a value in the key's range"
    assert not report.changed
    assert json.loads(host.text(LEDGER))["settings"] == {}


def test_a_vector_that_can_not_be_put_back_is_reported_as_it_is_now(host):
    written = host.write_kernel

    def refuse_the_rest(path, value):
        try:
            written(path, value)
        finally:
            host.set_key("net/ipv4/tcp_rmem", host.value("net/ipv4/tcp_rmem"), 0o444)

    host.write_kernel = refuse_the_rest
    row = rows(apply(host, {RMEM: TOO_LARGE}))[RMEM]

    assert (row["status"], row["after"].split()) == ("refused", ["4096", "123456", "6291456"])
    assert json.loads(host.text(LEDGER))["settings"] != {}


IN_A_NAMESPACE = """
import sys
from pathlib import Path
from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._engine import model
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl.sysctl import Sysctl
place = Path("/proc/sys/net/ipv4/tcp_rmem")
before = place.read_text().split()
wish = Sysctl("99-zz-precog-fleet", present=True, parameters={"net.ipv4.tcp_rmem": [*WISH]}, profile="none")
(change,) = engine.run(Host(sys.argv[1]), [wish], check_mode=False).changes
print(change.status, place.read_text().split() == before == change.after.split())
"""


def _can_unshare():
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "-n", "true"], check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("unshare") or not _can_unshare(), reason="needs root and namespaces")
def test_the_real_kernel_has_its_vector_back_after_a_refusal(tmp_path):
    for folder in ("etc/sysctl.d", "run", "var/lib", "proc/sys"):
        (tmp_path / folder).mkdir(parents=True)
    code = IN_A_NAMESPACE.replace("WISH", str(TOO_LARGE))
    script = 'mount --bind /proc/sys "$1/proc/sys" && exec "$2" -c "$3" "$1"'
    root = ROOT / ".ansible/collections"

    done = subprocess.run(
        ["unshare", "-m", "-n", "sh", "-c", script, "sh", str(tmp_path), sys.executable, code],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("refused True\n", "")


def test_a_refused_first_value_is_forgotten(host):
    host.refuse["vm/swappiness"] = errno.EINVAL
    apply(host, {SWAP: 10})

    assert json.loads(host.text(LEDGER))["settings"] == {}
    assert not host.at(OURS).exists()
    assert apply(host, {}).changes == []


def test_a_value_that_cannot_be_given_back_is_kept_in_mind(host):
    apply(host, {SWAP: 10})
    host.refuse["vm/swappiness=60"] = errno.EBUSY

    row = rows(absent(host))[SWAP]
    assert (row["status"], row["after"]) == ("refused", "10")
    host.refuse.clear()
    absent(host)

    assert host.value("vm/swappiness") == "60"
    assert json.loads(host.text(LEDGER))["settings"] == {}


@pytest.mark.parametrize(("wished", "later"), [([1, 0], "1"), ([0], "0")])
def test_interfaces_come_back_once_a_run_has_moved_them_and_only_then(host, wished, later):
    """ip_forward has its original already: what followed it is given back, if it was we who moved it."""
    for value in wished:
        apply(host, {"net.ipv4.ip_forward": value})
    host.set_key("net/ipv4/conf/eth0.100/forwarding", "0")
    absent(host)
    assert host.value("net/ipv4/conf/eth0.100/forwarding") == later


def test_what_can_be_given_back_in_part_only_is_not_given_back_at_all(host):
    apply(host, {"net.ipv4.ip_forward": 1})
    host.refuse["net/ipv4/conf/eth0.100/forwarding=1"] = errno.EBUSY
    host.set_key("net/ipv4/conf/eth0.100/forwarding", "0")
    before = files_of(host)

    row = rows(absent(host))["net.ipv4.ip_forward"]

    assert (row["status"], row["before"], row["after"]) == ("refused", "1", "1")
    host.refuse.clear()
    del before[OURS]
    assert {path for path, seen in files_of(host).items() if before.get(path) != seen} == set()
    absent(host)
    assert [host.value(f"net/ipv4/{key}") for key in ("ip_forward", "conf/eth0.100/forwarding")] == ["0", "1"]


def test_what_a_later_write_takes_away_is_told_and_not_made_to_last(host):
    written = host.write_kernel

    def fight(path, value):
        written(path, value)
        if path.endswith("vfs_cache_pressure"):
            host.set_key("vm/swappiness", "61")

    host.write_kernel = fight
    report = apply(host, {SWAP: 10, "vm.vfs_cache_pressure": 50})

    row = rows(report)[SWAP]
    assert (row["status"], row["after"]) == ("refused", "61")
    assert "another program, made it 61 again" in row["reason"]
    assert report.changed
    assert "swappiness" not in host.text(OURS)
    host.write_kernel = written
    absent(host)
    assert host.value("vm/swappiness") == "60"


# name, what the files of others say at the first run, at the end, reboot between, value afterwards
GIVE_BACK = [
    ("same boot, nobody else", None, None, False, "42"),
    ("same boot, others as before", "70", "70", False, "42"),
    ("same boot, others changed", "70", "80", False, "80"),
    ("same boot, others silent now", "70", None, False, "42"),
    ("later boot, nobody else", None, None, True, "42"),
    ("later boot, others as before", "70", "70", True, "70"),
    ("later boot, others changed", "70", "80", True, "80"),
]


@pytest.mark.parametrize(("_case", "first", "last", "reboot", "expected"), GIVE_BACK)
def test_trap_ledger_what_was_at_run_time_is_per_boot(host, _case, first, last, reboot, expected):
    """saptune's state survived a reboot: the way back is what the configuration says, else what was recorded."""
    host.set_key("vm/swappiness", "42")
    if first:
        host.put("/etc/sysctl.d/10-x.conf", f"vm.swappiness = {first}\n")
    apply(host, {SWAP: 10})
    if reboot:
        host.reboot()
    host.at("/etc/sysctl.d/10-x.conf").unlink(missing_ok=True)
    if last:
        host.put("/etc/sysctl.d/10-x.conf", f"vm.swappiness = {last}\n")

    absent(host)

    assert host.value("vm/swappiness") == expected


def test_trap_lost_at_reboot_the_file_brings_the_values_back(host):
    apply(host, {SWAP: 10, "net.ipv4.tcp_rmem": [4096, 65536, 134217728]})
    host.reboot()
    assert host.value("vm/swappiness") == "10"
    assert host.value("net/ipv4/tcp_rmem") == "4096\t65536\t134217728"
    assert not apply(host, {SWAP: 10, "net.ipv4.tcp_rmem": [4096, 65536, 134217728]}).changed


def test_tuning_is_applied_anew_where_the_boot_did_not(host):
    """Trap: state in the ledger suppressed tuning after a reboot."""
    apply(host, {SWAP: 10})
    host.reboot()
    host.set_key("vm/swappiness", "60")

    assert statuses(apply(host, {SWAP: 10})) == {SWAP: "drifted"}
    assert host.value("vm/swappiness") == "10"


def test_a_note_of_a_run_cut_off_in_an_earlier_boot_gives_nothing_back(host):
    host.disk_errors[f"commit {OURS}"] = errno.EIO
    with pytest.raises(HostError):
        apply(host, {SWAP: 10})
    host.disk_errors.clear()
    host.reboot()
    host.set_key("vm/swappiness", "33")  # somebody else's business since

    assert not absent(host).changed

    assert host.value("vm/swappiness") == "33"
    assert json.loads(host.text(LEDGER))["settings"] == {}


def test_what_the_next_boot_gives_is_told_before_and_after(host):
    host.put("/etc/sysctl.d/10-x.conf", "\nvm.swappiness = 70\n")

    row = rows(apply(host, {SWAP: 10}))[SWAP]
    assert (row["persisted_before"], row["persisted"], row["persisted_by"]) == ("70", "10", f"{OURS}:2")

    row = rows(absent(host))[SWAP]
    assert (row["persisted_before"], row["persisted"], row["persisted_by"]) == ("10", "70", "/etc/sysctl.d/10-x.conf:2")


def test_the_diff_shows_the_file_and_the_values(host):
    diff = apply(host, {SWAP: 10}).diff

    assert [(part["before_header"], part["before"], part["after"]) for part in diff] == [
        (OURS, "", host.text(OURS)),
        ("values now", "vm.swappiness = 60\n", "vm.swappiness = 10\n"),
    ]


def test_two_profiles_of_different_names_keep_apart(host):
    before = files_of(host)
    apply(host, {SWAP: 10})
    apply(host, {"vm.vfs_cache_pressure": 50}, name="98-other")

    absent(host, name="98-other")
    assert (host.value("vm/swappiness"), host.value("vm/vfs_cache_pressure")) == ("10", "100")
    absent(host)
    assert files_of(host) == before


def test_without_its_ledger_a_file_of_ours_is_no_original(host):
    apply(host, {SWAP: 10})
    host.at(LEDGER).unlink()

    apply(host, {SWAP: 10})
    absent(host)

    assert not host.at(OURS).exists()


def test_an_original_file_comes_back_with_its_mode_though_ours_was_made_anew(host):
    host.put(OURS, BEFORE_US, 0o600)
    apply(host, {SWAP: 10})
    host.at(OURS).unlink()
    apply(host, {SWAP: 10})
    assert host.at(OURS).stat().st_mode & 0o777 == 0o644

    absent(host)

    assert host.at(OURS).read_bytes() == BEFORE_US
    assert host.at(OURS).stat().st_mode & 0o777 == 0o600


FAILING = [
    ("report", {"a": model.OK, "b": model.UNSUPPORTED}, []),
    ("fail", {"a": model.OK, "b": model.UNSUPPORTED}, ["b"]),
    ("report", {"a": model.REFUSED, "b": model.UNKNOWN, "c": model.DRIFTED}, ["a", "b"]),
]


@pytest.mark.parametrize(("mode", "given", "failing"), FAILING)
def test_which_settings_fail_the_task(mode, given, failing):
    changes = [model.Change(name, status=status) for name, status in given.items()]
    assert [change.name for change in engine.Report(False, changes).failures(on_unsupported=mode)] == failing


def test_the_failure_names_key_value_reason_and_remedy(host):
    report = apply(host, {"vm.swapiness": 1, SWAP: True, "vm.vfs_cache_pressure": 50})

    message = engine.explain_failures(report.failures())

    assert "2 setting(s) can't be applied" in message
    assert "vm.swapiness = 1: unknown: this kernel has no such key; is vm.swappiness meant?" in message
    assert "vm.swappiness = True: refused: is a boolean: write 0 or 1" in message
    assert host.value("vm/vfs_cache_pressure") == "50"
    assert report.result()["summary"] == {
        "ok": 0,
        "changed": 1,
        "drifted": 0,
        "overridden": 0,
        "unsupported": 0,
        "unknown": 1,
        "refused": 1,
    }


def test_an_interface_taken_over_after_its_default_has_the_original_of_before_the_default(host):
    apply(host, {"net.ipv4.conf.default.rp_filter": 1})
    assert host.value("net/ipv4/conf/eth0/rp_filter") == "1"
    apply(host, {"net.ipv4.conf.default.rp_filter": 1, "net.ipv4.conf.eth0.rp_filter": 2})
    absent(host)
    assert host.value("net/ipv4/conf/eth0/rp_filter") == "0"


def test_an_interface_that_was_given_a_value_of_its_own_since_has_that_for_its_original(host):
    apply(host, {"net.ipv4.conf.default.rp_filter": 1})
    host.take("net/ipv4/conf/eth0/rp_filter", "2")
    apply(host, {"net.ipv4.conf.default.rp_filter": 1, "net.ipv4.conf.eth0.rp_filter": 0})
    absent(host)
    assert host.value("net/ipv4/conf/eth0/rp_filter") == "2"


def test_a_default_given_back_leaves_interfaces_with_a_value_of_their_own_alone(host):
    apply(host, {"net.ipv4.conf.default.rp_filter": 1})
    host.take("net/ipv4/conf/eth0/rp_filter", "2")
    host.kernel_writes.clear()
    absent(host)
    assert host.kernel_writes == [("/proc/sys/net/ipv4/conf/default/rp_filter", "0")]
    assert host.value("net/ipv4/conf/eth0.100/rp_filter") == "0"


# -- whatever is wished for, on whatever host --------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-5, 300), st.sampled_from([4096, 2**20, 2**31, 2**64]))
ODD = st.one_of(st.none(), st.booleans(), st.text(max_size=4), st.lists(NUMBERS, max_size=4), st.just({}), st.floats())
NAMES = [path.translate(str.maketrans("./", "/.")) for path in made_host.KEYS if path != made_host.BOOT_ID]
KNOWN_NAMES = st.sampled_from([*NAMES, *(path for path in made_host.KEYS if path.startswith("vm/"))])
ANY_NAMES = KNOWN_NAMES | st.sampled_from(["vm.swapiness", "a.b", "..", "x", "net.ipv4.conf.eth9.forwarding"])
WISHED = st.dictionaries(ANY_NAMES, NUMBERS | ODD, max_size=8)
FRAGMENTS = st.dictionaries(
    st.sampled_from(
        ["/etc/sysctl.d/10-a.conf", "/etc/sysctl.d/zz.conf", "/etc/sysctl.conf", "/run/sysctl.d/50-x.conf", OURS]
    ),
    st.lists(st.builds("{} = {}\n".format, KNOWN_NAMES, NUMBERS) | st.text(max_size=10), max_size=4).map("".join),
    max_size=3,
)
CHANGED_KEYS = st.dictionaries(
    st.sampled_from(
        [path for path in made_host.KEYS if path.startswith("vm/") and path[3:] not in ("stat_refresh", "drop_caches")]
    ),
    st.integers(1, 90).map(str),
    max_size=3,
)


@settings(max_examples=120, deadline=None)
@example(
    first={"net.ipv4.conf.default.rp_filter": 1},
    second={"net.ipv4.conf.eth0.rp_filter": 0},
    fragments={},
    changed={},
    in_container=False,
)
@given(WISHED, WISHED, FRAGMENTS, CHANGED_KEYS, st.booleans())
def test_any_wishes_on_any_host_settle_at_once_and_can_be_taken_back(first, second, fragments, changed, in_container):
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        host = make_host(Path(folder) / "host", container=in_container)
        for path, text in fragments.items():
            host.put(path, text.encode("utf-8", "surrogatepass"))
        for key, value in changed.items():
            host.take(key, value)
        before = files_of(host)

        apply(host, first)
        predicted = apply(host, second, check=True)
        real = apply(host, second)
        assert _told(predicted) == _told(real)

        seen = untouched(host)
        again = apply(host, second)
        assert not again.changed
        assert untouched(host) == seen

        absent(host)
        assert files_of(host) == before


def _told(report):
    return report.changed, [change.row() for change in report.changes], report.diff
