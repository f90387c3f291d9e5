"""The local fleet's pure parts: arguments, recipes, inventory texts, what `up` has to do, the demo's proof."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible_collections.precog.fleet.tests.places import ROOT
from local_fleet import cli, fleet, machine, proof
from local_fleet.engine import Engine, Facts, global_argv, limit, parse_hosts, run_argv, write_if_other
from local_fleet.images import check_room
from local_fleet.inventory import inventory_text, known_hosts_text, script_text, ssh_config_text
from local_fleet.model import FleetError, Host, HostSpec, Problem, parse_specs
from local_fleet.process import Failed, Runner, Stopped
from local_fleet.recipe import Recipe, install_script, own_image_variable, tag_with

FACTS = Facts("podman", (), "runc", files=20_000, processes=96_365, most_processes=32_768)
HOST = Host("demo", "miner-1", "bookworm", 40_001, "localhost/x:1", "precog-abc123-demo-miner-1", running=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a=trixie"], [HostSpec("a", "trixie")]),
        (["b-2=bookworm", "a=bullseye"], [HostSpec("b-2", "bookworm"), HostSpec("a", "bullseye")]),
    ],
)
def test_parse_specs(words, expected):
    assert parse_specs(words) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["miner"], ["'miner' is not NAME=SUITE"]),
        (["a=sid"], ["'sid' is no suite"]),
        (["A=trixie"], ["'A' can't be the name of a host"]),
        (["-a=trixie"], ["'-a' can't be"]),
        (["../a=trixie"], ["'../a' can't be"]),
        (["=trixie"], ["'' can't be"]),
        (["a=trixie", "a=bookworm"], ["host 'a' is named twice"]),
        (["x", "B=trixie", "c=woody"], ["'x' is not", "'B' can't be", "'woody' is no suite"]),
    ],
)
def test_parse_specs_names_every_problem(words, said):
    with pytest.raises(FleetError) as error:
        parse_specs(words)
    assert len(error.value.problems) == len(said)
    for problem, text in zip(error.value.problems, said):
        assert text in problem.what
        assert problem.remedy


@pytest.mark.parametrize(
    "other",
    [
        Recipe("trixie"),
        Recipe("bookworm", mirror="http://mirror.example/debian"),
        Recipe("bookworm", packages=("systemd",)),
        Recipe("bookworm", variant="essential"),
    ],
)
def test_each_part_of_a_recipe_changes_its_checksum(other):
    assert other.checksum != Recipe("bookworm").checksum
    assert other.tag != Recipe("bookworm").tag


def test_a_recipe_is_stable_and_leaves_psutil_to_the_role():
    assert Recipe("bookworm").checksum == Recipe("bookworm").checksum
    assert "python3-psutil" not in Recipe("bookworm").packages


def test_build_argv_has_updates_and_security():
    argv = Recipe("trixie", mirror="http://m.example/debian/").build_argv("/out.part", as_root=False)
    assert argv[0] == "mmdebstrap"
    assert argv[argv.index("trixie") + 1] == "/out.part"
    assert "deb http://m.example/debian-security trixie-security main" in argv
    assert "--format=tar" in argv  # the target's name doesn't end in .tar while it is being built


def test_root_builds_in_a_mount_namespace():
    recipe = Recipe("trixie")
    assert recipe.build_argv("/o", as_root=True) == ["unshare", "--mount", *recipe.build_argv("/o", as_root=False)]


def test_an_image_with_packages_has_a_name_of_its_own():
    bare = Recipe("trixie").tag
    tag = tag_with(bare, "trixie", ["python3-psutil", "g++"])
    assert tag == tag_with(bare, "trixie", ["g++", "python3-psutil"])
    assert tag.startswith("localhost/precog-fleet/trixie-with-gpp-python3-psutil:")
    assert tag != tag_with("localhost/other:1", "trixie", ["python3-psutil", "g++"])


def test_a_packages_name_is_no_shell():
    assert "-- '$(reboot)' &&" in install_script(["$(reboot)"])


class Containers(Runner):
    """An engine's command that notes what it is called with, and fails at one verb."""

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self._broken = broken

    def run(self, argv, **_options):
        call = argv[len(global_argv(FACTS)) :]
        self.calls.append(call)
        if call[0] == self._broken:
            raise Failed(argv, 1, "E: Unable to locate package pythn3")
        return ""


@pytest.mark.parametrize("broken", ["", "run", "commit"])
def test_packages_are_installed_in_a_container_that_is_gone_afterwards(broken, tmp_path):
    runner = Containers(broken)
    engine = Engine(runner, tmp_path, FACTS)
    with nullcontext() if not broken else pytest.raises(Failed):
        engine.derive("bare:1", "localhost/x:2", "true")
    verbs = [call[0] for call in runner.calls]
    assert verbs == ["rm", "run", *(["commit"] if broken != "run" else []), "rm"]
    assert runner.calls[1][-4:] == ["bare:1", "/bin/sh", "-ec", "true"]
    assert {call[-1] for call in runner.calls if call[0] == "rm"} == {runner.calls[1][1].removeprefix("--name=")}


def test_own_image_variable():
    assert own_image_variable("trixie") == "PRECOG_FLEET_IMAGE_TRIXIE"


@pytest.mark.parametrize(
    ("hard", "most", "expected"),
    [(20_000, 1_048_576, 20_000), (-1, 1_048_576, 1_048_576), (4_000_000, 1_048_576, 1_048_576), (5, 5, 5)],
)
def test_limit(hard, most, expected):
    assert limit(hard, most) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (FACTS, ["podman", "--runtime", "runc"]),
        (replace(FACTS, runtime=""), ["podman"]),
        (replace(FACTS, extra=("--root", "/x y")), ["podman", "--runtime", "runc", "--root", "/x y"]),
        (replace(FACTS, name="/opt/podman", runtime=""), ["/opt/podman"]),
    ],
)
def test_global_argv(facts, expected):
    assert global_argv(facts) == expected


def test_podman_run_argv():
    argv = run_argv(FACTS, HOST, "abc123", "INIT", "ssh-ed25519 KEY")
    assert {"--systemd=always", "--privileged", "--publish=127.0.0.1:40001:22", "--hostname=miner-1"} <= {*argv}
    assert {"--ulimit=nofile=20000:20000", "--ulimit=nproc=32768:32768"} <= {*argv}
    assert argv[-6:] == ["localhost/x:1", "/bin/sh", "-c", "INIT", "precog-host", "ssh-ed25519 KEY"]


def test_hosts_trust_the_certificates_that_this_machine_trusts():
    assert not [word for word in run_argv(FACTS, HOST, "abc123", "INIT", "KEY") if word.startswith("--volume")]
    argv = run_argv(replace(FACTS, certificates="/own"), HOST, "abc123", "INIT", "KEY")
    assert argv.index("--volume=/own:/usr/local/share/ca-certificates:ro") < argv.index(HOST.image)


def inspected(argv: list[str], name: str, state: str = "running") -> dict:
    labels = dict(word.removeprefix("--label=").split("=", 1) for word in argv if word.startswith("--label="))
    return {"Name": name, "Config": {"Labels": labels}, "State": {"Status": state}}


def test_the_labels_of_a_container_tell_the_host():
    argv = run_argv(FACTS, HOST, "abc123", "INIT", "KEY")
    ours = inspected(argv, HOST.container)
    stopped = inspected(argv, HOST.container, "exited")
    others = [{**ours, "Config": {"Labels": labels}} for labels in (None, {}, {"precog.fleet": "zzz"})]
    assert parse_hosts(json.dumps([ours, stopped, *others]), "abc123") == [replace(HOST, running=False), HOST]
    assert parse_hosts("", "abc123") == []


OTHER = replace(HOST, name="monitor-1", suite="trixie", port=40_002)


@pytest.mark.parametrize("folder", [Path("/c/fleets/demo"), Path("/c d/fleets/demo")])
def test_inventory_tells_the_connection_and_nothing_else(folder):
    content = yaml.safe_load(inventory_text([OTHER, HOST], folder))
    assert list(content) == ["all"]
    assert list(content["all"]) == ["hosts"]
    entry = content["all"]["hosts"]["monitor-1"]
    assert (entry["ansible_host"], entry["ansible_port"], entry["ansible_user"]) == ("127.0.0.1", 40_002, "operator")
    assert all(key.startswith("ansible_") for key in entry)
    options = shlex.split(entry["ansible_ssh_common_args"])
    assert "StrictHostKeyChecking=yes" in options
    assert "GlobalKnownHostsFile=/dev/null" in options
    known = next(option for option in options if option.startswith("UserKnownHostsFile="))
    assert known.split("=")[1].strip('"') == f"{folder}/known_hosts"


def test_the_script_says_the_same_as_the_inventory():
    folder = Path("/c/fleets/demo")
    script = json.loads(script_text([OTHER, HOST], folder))
    assert script["all"]["hosts"] == ["miner-1", "monitor-1"]
    assert script["_meta"]["hostvars"] == yaml.safe_load(inventory_text([OTHER, HOST], folder))["all"]["hosts"]


def test_ssh_config_and_known_hosts():
    config = ssh_config_text([HOST], Path("/c d"))
    assert config.splitlines()[1:4] == ["Host miner-1", "    HostName 127.0.0.1", "    Port 40001"]
    assert '    IdentityFile "/c d/id_ed25519"' in config
    assert known_hosts_text([HOST], {"miner-1": "ssh-ed25519 AAAA miner-1\n"}) == "[127.0.0.1]:40001 ssh-ed25519 AAAA\n"


TAGS = {"bookworm": "localhost/x:1", "trixie": "localhost/y:1"}


@pytest.mark.parametrize(
    ("specs", "present", "expected"),
    [
        ([HostSpec("a", "trixie")], [], (["a"], [], [])),
        ([HostSpec("miner-1", "bookworm")], [HOST], ([], [], ["miner-1"])),
        ([HostSpec("miner-1", "trixie")], [HOST], (["miner-1"], ["miner-1"], [])),
        ([HostSpec("miner-1", "bookworm")], [replace(HOST, image="localhost/x:0")], (["miner-1"], ["miner-1"], [])),
        ([HostSpec("a", "trixie")], [HOST], (["a"], [], ["miner-1"])),
    ],
)
def test_missing(specs, present, expected):
    assert tuple([item.name for item in part] for part in fleet.missing(specs, present, TAGS)) == expected


class MadeEngine:
    """An engine whose containers can be without life, whatever its records say; no container is started."""

    facts, cache_id = FACTS, "abc123"

    def __init__(self, hosts: list[Host], *, dead: set[str], startable: set[str]) -> None:
        self.present, self.dead, self.startable, self.done = hosts, dead, startable, []

    def hosts(self, _fleet: str | None = None) -> list[Host]:
        return self.present

    def execute(self, host: Host, *argv: str) -> str:
        if host.name in self.dead:
            raise Failed(["podman"], 255, "cannot exec in a stopped container")
        return "ssh-ed25519 KEY" if argv != ("true",) else ""

    def start(self, host: Host) -> None:
        self.done.append(f"start {host.name}")
        if host.name not in self.startable:
            raise Failed(["podman"], 125, "no such namespace")
        self.dead.discard(host.name)

    def remove(self, hosts: list[Host]) -> None:
        self.done += [f"remove {host.name}" for host in hosts]

    def run(self, host: Host, _key: str) -> None:
        self.done.append(f"run {host.name} {host.port}")
        self.dead.discard(host.name)


STOPPED = replace(HOST, running=False)


@pytest.mark.parametrize(
    ("host", "dead", "startable", "done"),
    [
        (HOST, set(), set(), []),
        (STOPPED, {"miner-1"}, {"miner-1"}, ["start miner-1"]),
        (STOPPED, {"miner-1"}, set(), ["start miner-1", "remove miner-1", "run miner-1 40001"]),
        (HOST, {"miner-1"}, set(), ["remove miner-1", "run miner-1 40001"]),
    ],
    ids=["runs", "stopped", "can't be started", "dead, and recorded as running"],
)
def test_what_no_life_comes_into_is_made_again(host, dead, startable, done, tmp_path, monkeypatch):
    folder = tmp_path / "fleets/demo"
    folder.mkdir(parents=True)
    for name in ("id_ed25519", "id_ed25519.pub"):
        (folder / name).write_text("KEY")
    monkeypatch.setattr(fleet.machine, "remember", lambda _note: None)
    monkeypatch.setattr(fleet.machine, "check_inotify", lambda _new, _running: None)
    monkeypatch.setattr(fleet, "probe_runtime", lambda engine, _image: engine.facts)
    monkeypatch.setattr(fleet, "wait_until_booted", lambda *_: [])
    monkeypatch.setattr(fleet, "READY_SECONDS", 0)
    engine = MadeEngine([host], dead=set(dead), startable=startable)
    images = SimpleNamespace(ensure=lambda suite, _packages: TAGS[suite])
    made = fleet.Fleet("demo", tmp_path, Runner(), engine, images, lambda _text: None)
    inventory = made.up([HostSpec("miner-1", "bookworm")])
    assert engine.done == done
    assert "ansible_port: 40001" in inventory.read_text()


@pytest.mark.parametrize(
    ("names", "removed", "left"),
    [([], ["a", "b"], []), (["a"], ["a"], ["b"]), (["a", "b"], ["a", "b"], []), (["x"], [], ["a", "b"])],
)
def test_down_removes_the_named_hosts_and_keeps_the_others_reachable(names, removed, left, tmp_path):
    folder = tmp_path / "fleets/demo"
    folder.mkdir(parents=True)
    hosts = [replace(HOST, name=name, container=name) for name in ("a", "b")]
    engine = MadeEngine(hosts, dead=set(), startable=set())
    engine.call = lambda *_: "still running"
    made = fleet.Fleet("demo", tmp_path, Runner(), engine, SimpleNamespace(), lambda _text: None)

    assert made.down(names) == len(removed)
    assert engine.done == [f"remove {name}" for name in removed]
    known = folder / "inventory.yml"
    assert [name for name in ("a", "b") if known.exists() and f"{name}:" in known.read_text()] == left


def test_too_few_inotify_instances_are_an_error_that_names_the_limit_and_its_users(tmp_path, monkeypatch):
    limit = tmp_path / "fs/inotify/max_user_instances"
    limit.parent.mkdir(parents=True)
    limit.write_text("128\n")
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine, "inotify_in_use", lambda: 110)
    machine.check_inotify(3, {"demo": 22})
    with pytest.raises(FleetError) as error:
        machine.check_inotify(4, {"demo": 18, "molecule": 4})
    assert str(error.value) == (
        "4 new hosts need about 24 inotify instances, and 18 are free: fs.inotify.max_user_instances is 128, "
        "110 are in use. Running fleets: demo (18 hosts), molecule (4 hosts)\n"
        "  To continue, remove a fleet (bin/local-fleet down demo) or "
        "raise the limit (sysctl -w fs.inotify.max_user_instances=512)."
    )


def test_inotify_instances_are_counted_by_what_processes_hold(tmp_path, monkeypatch):
    for process, targets in {
        "7": ["anon_inode:inotify", "socket:[5]", "anon_inode:inotify"],
        "9": ["/dev/null"],
    }.items():
        (tmp_path / process / "fd").mkdir(parents=True)
        for number, target in enumerate(targets):
            (tmp_path / process / "fd" / str(number)).symlink_to(target)
    (tmp_path / "8").mkdir()  # ends while it is looked at
    monkeypatch.setattr(machine, "_PROCESSES", tmp_path)
    assert machine.inotify_in_use() == 2


def test_free_ports_are_different_and_not_taken():
    ports = fleet.free_ports(8)
    assert len({*ports}) == 8
    assert not {*fleet.free_ports(8, ports)} & {*ports}


def test_each_reports_the_problems_of_all():
    def fail(number: int) -> int:
        if number % 2:
            raise FleetError(Problem(f"odd {number}"))
        return number

    assert fleet.each(Runner(), fail, [2, 4]) == [2, 4]
    assert fleet.each(Runner(), fail, []) == []
    with pytest.raises(FleetError) as error:
        fleet.each(Runner(), fail, [1, 2, 3])
    assert [problem.what for problem in error.value.problems] == ["odd 1", "odd 3"]


def test_a_failed_program_tells_the_end_of_what_it_said():
    with pytest.raises(Failed, match="status 3:\nlast words") as failure:
        Runner().run(["sh", "-c", "echo out; echo last words >&2; exit 3"])
    assert failure.value.status == 3


def test_a_program_that_takes_too_long_is_ended():
    with pytest.raises(Failed, match=r"no end after 0 s"):
        Runner().run(["sleep", "30"], timeout=0.2)


def test_stop_ends_what_runs_with_its_children_and_lets_nothing_start():
    runner = Runner()
    threading.Timer(0.2, runner.stop).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        runner.run(["sh", "-c", "sleep 30; true"])
    assert time.monotonic() - began < 5
    with pytest.raises(Stopped):
        runner.run(["true"])
    with pytest.raises(Stopped):
        runner.pause(30)


def test_write_if_other_leaves_an_equal_file_alone(tmp_path):
    path = tmp_path / "new" / "file"
    write_if_other(path, "a")
    os.utime(path, (1, 1))
    write_if_other(path, "a")
    assert path.stat().st_mtime == 1
    write_if_other(path, "b")
    assert path.read_text() == "b"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_no_room_for_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr("local_fleet.images.NEEDED_BYTES", 10**18)
    with pytest.raises(FleetError, match="an image takes"):
        check_room(tmp_path)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("vm/swappiness", True),
        ("fs/file-max", True),
        ("net/ipv4/tcp_rmem", True),
        ("net/ipv4/conf/all/rp_filter", True),
        ("net/ipv4/ip_forward", False),
        ("net/ipv4/conf/all/forwarding", False),
        ("net/ipv4/conf/podman0/rp_filter", False),
        ("fs/file-nr", False),
        ("kernel/random/uuid", False),
    ],
)
def test_is_setting(key, expected):
    assert machine.is_setting(key) is expected


MASTER, ETH, ALL = "net/ipv4/ip_forward", "net/ipv4/conf/eth0/forwarding", "net/ipv4/conf/all/accept_redirects"


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({MASTER: "0", ETH: "0"}, {MASTER: "0", ETH: "0"}, []),
        ({MASTER: "0", ETH: "1", ALL: "0"}, {MASTER: "1", ETH: "1", ALL: "0"}, [(MASTER, "0"), (ALL, "0"), (ETH, "1")]),
        ({MASTER: "1", ETH: "0"}, {MASTER: "1", ETH: "1"}, [(ETH, "0")]),
        ({MASTER: "1", ETH: "0"}, {MASTER: "1"}, []),
    ],
)
def test_to_restore(before, now, expected):
    assert machine.to_restore(before, now) == expected


@pytest.fixture
def forwarding(tmp_path, monkeypatch):
    """A made-up /proc/sys and /sys/class/net; returns the path of ip_forward there."""
    proc, net = tmp_path / "proc", tmp_path / "net"
    for key, value in {MASTER: "0", ETH: "0", ALL: "1", "kernel/random/boot_id": "boot-1"}.items():
        (proc / key).parent.mkdir(parents=True, exist_ok=True)
        (proc / key).write_text(f"{value}\n")
    (net / "eth0").mkdir(parents=True)
    monkeypatch.setattr(machine, "_PROC", proc)
    monkeypatch.setattr(machine, "_NET", net)
    return proc / MASTER


def test_restore_gives_back_what_the_engine_changed(forwarding, tmp_path):
    note = tmp_path / "note.json"
    machine.remember(note)
    forwarding.write_text("1")
    machine.remember(note)  # the second fleet of the same boot: the first note stands
    machine.restore(note)
    assert forwarding.read_text() == "0"
    assert not note.exists()
    machine.restore(note)  # nothing is noted: nothing happens


@pytest.mark.parametrize("change", ["network", "reboot"])
def test_restore_leaves_alone_what_others_may_need(forwarding, tmp_path, change):
    note = tmp_path / "note.json"
    machine.remember(note)
    forwarding.write_text("1")
    if change == "network":
        (tmp_path / "net" / "virbr0").mkdir()
    else:
        (tmp_path / "proc/kernel/random/boot_id").write_text("boot-2")
    machine.restore(note)
    assert forwarding.read_text() == "1"
    assert not note.exists()


def test_read_settings_leaves_out_counters_and_what_can_not_be_read(tmp_path, monkeypatch):
    proc = tmp_path / "proc"
    proc.mkdir()
    monkeypatch.setattr(machine, "_PROC", proc)
    for key in ("vm/swappiness", "fs/file-nr"):
        (proc / key).parent.mkdir(exist_ok=True)
        (proc / key).write_text("60\n")
    (proc / "vm/drop_caches").write_text("1")
    (proc / "vm/drop_caches").chmod(0o200)
    assert machine.read_settings() == {"vm/swappiness": "60"}


def test_status_lines():
    assert cli.status_lines([HOST, replace(OTHER, running=False)]) == [
        "FLEET  HOST       SUITE     ADDRESS          STATE",
        "demo   miner-1    bookworm  127.0.0.1:40001  running",
        "demo   monitor-1  trixie    127.0.0.1:40002  stopped",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "Demo", "a=trixie"], "'Demo' can't be the name of a fleet"),
        (["up", "demo", "a"], "'a' is not NAME=SUITE"),
        (["down", "../x"], "'../x' can't be the name of a fleet"),
        (["image", "sid"], "'sid' is no suite"),
    ],
)
def test_wrong_words_are_an_error_with_a_remedy(words, said, capsys):
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.main(words) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    error = capsys.readouterr().err
    assert error.startswith(f"Error: {said}")
    assert "\n  Use " in error or "\n  For example" in error


def report(**hosts: dict) -> dict:
    return {"schema": 1, "hosts": hosts}


def entry(status: str = "ok", **stats: int) -> dict:
    setting = {"name": "net.ipv4.tcp_rmem", "status": status, "reason": "shared kernel"}
    return {"settings": [setting], "stats": {"ok": 3, "changed": 0, "failures": 0, "unreachable": 0, **stats}}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (report(a=entry(), b=entry("unsupported")), []),
        (
            report(a=entry("changed", changed=1), b=entry()),
            ["a: the second run was to change nothing, and has changed=1"],
        ),
        (report(a=entry(failures=1), b=entry(unreachable=1)), ["failures=1", "unreachable=1"]),
    ],
)
def test_restless(seen, said):
    problems = proof.restless(seen)
    assert len(problems) == len(said)
    assert all(text in problem.what for text, problem in zip(said, problems))


def test_overrides_of_an_inventory():
    hostvars = {
        "b": {"kernel_tuning_parameters": {"net.ipv4.tcp_rmem": [4096, 1, 2], "vm.swappiness": 5}},
        "a": {"kernel_tuning_parameters": {"net.ipv4.tcp_wmem": None}},
        "c": {},
    }
    assert proof.overrides({"_meta": {"hostvars": hostvars}}) == [
        proof.Override("a", "net.ipv4.tcp_wmem", None),
        proof.Override("b", "net.ipv4.tcp_rmem", "4096 1 2"),
        proof.Override("b", "vm.swappiness", "5"),
    ]
    assert proof.overrides({}) == []


@pytest.mark.parametrize(
    ("wanted", "value", "managed", "reason", "fine"),
    [
        ("1 2 3", "1 2 3", True, "", True),
        ("1 2 3", "1 2 4", True, "", False),
        ("1 2 3", "1 2 4", False, "shared kernel", True),
        (None, "1 2 4", False, "", True),
        (None, "1 2 4", True, "", False),
    ],
)
def test_judge(wanted, value, managed, reason, fine):
    item = proof.Override("a", "net.ipv4.tcp_rmem", wanted)
    assert proof.judge(item, value, managed, reason)[0] is fine


def test_unsupported_gives_the_reason():
    item = proof.Override("a", "net.ipv4.tcp_rmem", "1")
    assert proof.unsupported(report(a=entry("unsupported")), item) == "shared kernel"
    assert proof.unsupported(report(a=entry()), item) == ""
    assert proof.unsupported(report(), item) == ""


def test_a_missing_report_is_an_error(tmp_path, capsys):
    assert proof.main(["unchanged", str(tmp_path / "none.json")]) == 1
    assert "no report of the run" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["cli", "proof"])
def test_needs_nothing_but_the_standard_library(module):
    tools = str(Path(fleet.__file__).parents[1])
    script = f"import sys; sys.path.insert(0, {tools!r}); import local_fleet.{module}"
    Runner().run([sys.executable, "-I", "-S", "-c", script])


def rolled_out(*touched: str, status: str = "refused") -> dict:
    rows = [{"name": "miner:main", "status": status}]
    hosts = {name: {"stats": {"ok": 1}, "settings": rows if name in touched else []} for name in ("a", "b", "c")}
    return {"hosts": hosts}


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (rolled_out("a"), []),
        (rolled_out("a", "c"), ["c was touched"]),
        (rolled_out("a", status="changed"), ["a refused nothing"]),
        ({"hosts": {}}, ["a refused nothing"]),
    ],
)
def test_a_release_that_the_canary_had_to_refuse(report, told):
    assert [problem.what for problem in proof.escaped(report, "a")] == told


def test_the_documented_run_is_of_the_documented_hosts_and_their_own_markets():
    text = (ROOT / "docs/local-fleet.md").read_text()
    started = re.search(r"^bin/local-fleet up demo (\S+=\S+(?: \S+=\S+)*)", text, re.MULTILINE)[1]
    hosts = [pair.partition("=")[0] for pair in started.split()]
    (command,) = re.findall(r"^ansible-playbook .*?site\.yml.*$", text.replace("\\\n", ""), re.MULTILINE)
    words = shlex.split(command)
    assert words[words.index("--limit") + 1].split(",") == hosts
    inventories = [after for word, after in zip(words, words[1:]) if word == "-i" and not after.startswith("~")]
    argv = ["ansible-inventory", *(word for path in inventories for word in ("-i", path)), "--list"]
    listed = json.loads(subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    variables = listed["_meta"]["hostvars"]
    urls = [variables[host]["miner_service_variables"]["PRECOG_RUNTIME_API_URL"] for host in hosts]
    assert all(url.startswith("http://127.0.0.1:") for url in urls)
