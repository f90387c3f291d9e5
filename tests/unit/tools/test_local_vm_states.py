"""Saved states of virtual machines: their names, QEMU's monitor, and what happens when one can't be used."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace

import pytest
from local_fleet.model import FleetError
from local_fleet.process import Failed, Runner
from local_vm import monitor, qemu, states
from local_vm.cli import parser
from local_vm.fleet import Fleet
from local_vm.image import Image, Images

HOST = states.Host("QEMU 7.2.22", qemu.TCG, "model name: one")
CPUINFO = "processor\t: 0\nmodel name\t: A\nflags\t\t: fpu sse\ncpu MHz\t\t: 2000\nbogomips\t: 1\n\nprocessor\t: 1\n"


def machine(folder, name="a", memory=512):
    return qemu.Machine(name, "bookworm", 40_001, memory, folder / name, folder / "console.log", folder / "image")


def test_state_is_loaded_by_the_command_that_boots_without_one(tmp_path):
    one = machine(tmp_path)
    boot, load = (qemu.argv(one, Image(one.image), qemu.TCG, state) for state in ("", "tuned"))
    assert load == [*boot, "-loadvm", "tuned"]


@pytest.mark.parametrize(
    "host",
    [
        replace(HOST, version="QEMU 10.0"),
        replace(HOST, accelerator=qemu.KVM),
        replace(HOST, processor="model name: two"),
    ],
    ids=["version", "accelerator", "processor"],
)
def test_booted_state_is_another_one_on_another_host(tmp_path, host):
    assert states.booted_file(machine(tmp_path), host) != states.booted_file(machine(tmp_path), HOST)


def test_booted_state_depends_on_memory_image_and_hardware_only(tmp_path, monkeypatch):
    one = machine(tmp_path)
    file = states.booted_file(one, HOST)
    twin = replace(one, name="b", port=1, folder=tmp_path / "b", console=tmp_path / "other.log")
    assert states.booted_file(twin, HOST) == file
    assert states.booted_file(replace(one, memory=1024), HOST) != file
    assert states.booted_file(replace(one, image=tmp_path / "other"), HOST) != file
    monkeypatch.setattr(qemu, "HARDWARE", "q35")
    assert states.booted_file(one, HOST) != file


def test_processor_is_its_model_and_features():
    moved = CPUINFO.replace("2000", "2001").replace("bogomips\t: 1", "bogomips\t: 2")
    assert states.processor_text(moved) == states.processor_text(CPUINFO)
    assert states.processor_text(CPUINFO.replace("sse", "sse avx")) != states.processor_text(CPUINFO)


def test_booted_states_of_another_qemu_are_removed(tmp_path):
    old, new, larger = (tmp_path / f"booted-{name}.qcow2" for name in ("512-old", "512-new", "1024-old"))
    for file in (old, new, larger):
        file.touch()
    states.forget_others(new, 512)
    assert [file.exists() for file in (old, new, larger)] == [False, True, True]


@pytest.fixture
def qemu_that_answers(tmp_path):
    """Plays QEMU's monitor at a socket; returns the function that sets its answer, and what it was asked."""
    path, asked, answers = tmp_path / "qmp", [], []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)

    def serve():
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as lines:

            def put(message):
                lines.write(json.dumps(message) + "\n")
                lines.flush()

            put({"QMP": {"version": {}}})
            for line in lines:
                asked.append(json.loads(line))
                if asked[-1]["execute"] == "qmp_capabilities":
                    put({"return": {}})
                elif answers:
                    put({"event": "STOP"})
                    put(answers[0])
                else:
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield path, asked, answers
    server.close()
    thread.join(5)


def test_monitor_saves_a_state(qemu_that_answers):
    path, asked, answers = qemu_that_answers
    answers.append({"return": ""})
    monitor.save_state(path, "tuned")
    assert [one["execute"] for one in asked] == ["qmp_capabilities", "human-monitor-command"]
    assert asked[1]["arguments"] == {"command-line": "savevm tuned"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([{"return": "Error: no room\r\n"}], "did not save the state tuned: Error: no room"),
        ([{"error": {"class": "GenericError", "desc": "not now"}}], "does not answer: not now"),
        ([], "closed the connection"),
    ],
    ids=["failed", "error", "gone"],
)
def test_monitor_reports_why_a_state_was_not_saved(qemu_that_answers, answer, said):
    path, _asked, answers = qemu_that_answers
    answers += answer
    with pytest.raises(FleetError, match=said):
        monitor.save_state(path, "tuned")


def test_save_of_a_machine_that_is_off_says_so(tmp_path):
    with pytest.raises(FleetError, match="Is the machine running"):
        monitor.save_state(tmp_path / "qmp", "tuned")


class MadeRunner(Runner):
    """Notes the commands; a command that holds a word of *failing* fails."""

    def __init__(self, *failing, output=""):
        super().__init__()
        self.ran, self._failing, self._output = [], failing, output

    def run(self, argv, *, env=None, timeout=600):
        self.ran.append(list(argv))
        if set(self._failing) & set(argv):
            raise Failed(argv, 1, "State blocked")
        return "running" if argv[0] == "ssh" else self._output


@pytest.fixture
def made(tmp_path):
    """Makes a fleet of one machine whose programs are made up; what it says goes to `fleet.said`."""

    def make(runner):
        said = []
        fleet = Fleet("demo", tmp_path, runner, Images(runner, tmp_path, {}, said.append), said.append)
        fleet.said = said
        one = machine(fleet.folder)
        for folder in (one.folder, one.image, tmp_path / "vm-images"):
            folder.mkdir(parents=True, exist_ok=True)
        (fleet.folder / "machines.json").write_text(json.dumps([vars(one)], default=str))
        return fleet, one

    return make


def test_machine_begins_in_the_booted_state(made):
    runner = MadeRunner()
    fleet, one = made(runner)
    booted = states.booted_file(one, HOST)
    booted.write_text("a layer")
    fleet._begin(one, booted, HOST)
    assert one.layer.read_text() == "a layer"
    assert runner.ran[0][-2:] == ["-loadvm", "booted"]
    (login,) = [argv for argv in runner.ran if argv[0] == "ssh"]
    assert "date --set=@" in login[-1]
    assert "/dev/urandom" in login[-1]


def test_machine_boots_when_its_state_cannot_be_loaded(made):
    runner = MadeRunner("-loadvm")
    fleet, one = made(runner)
    booted = states.booted_file(one, HOST)
    booted.write_text("a layer")
    fleet._begin(one, booted, HOST)
    assert "booting it, as the saved state can't be used" in fleet.said[0]
    assert "State blocked" in fleet.said[0]
    assert not booted.exists()
    assert [argv[0] for argv in runner.ran] == [qemu.PROGRAM, "qemu-img", qemu.PROGRAM, "ssh"]
    assert "-loadvm" not in runner.ran[2]


def test_state_is_in_the_cache_once_it_is_complete(made, monkeypatch):
    runner = MadeRunner()
    fleet, one = made(runner)
    monkeypatch.setattr(monitor, "save_state", lambda _path, state: one.layer.write_text(f"saved {state}"))
    file = fleet._booted(one, HOST)
    assert file.read_text() == "saved booted"
    ran = len(runner.ran)
    assert fleet._booted(one, HOST) == file
    assert len(runner.ran) == ran


def test_machine_does_without_a_state_that_cannot_be_saved(made, monkeypatch):
    fleet, one = made(MadeRunner())

    def fail(*_arguments):
        raise FleetError(monitor.Problem("no room"))

    monkeypatch.setattr(monitor, "save_state", fail)
    assert fleet._booted(one, HOST) is None
    assert "can't be saved for the next time: no room" in fleet.said[-1]
    assert list(one.image.glob("*.qcow2")) == []


def test_restore_names_the_states_that_exist(made):
    listed = "Snapshot list:\nID  TAG  VM SIZE\n1   booted   1 MiB\n2   tuned   1 MiB\n"
    fleet, _one = made(MadeRunner(output=listed))
    with pytest.raises(FleetError) as error:
        fleet.restore("a", "untuned")
    assert "a has no saved state 'untuned'" in str(error.value)
    assert "There are: booted, tuned." in str(error.value)


def test_command_line_takes_a_state():
    found = parser().parse_args(["restore", "demo", "a", "tuned"])
    assert (found.command, found.fleet, found.machine, found.state) == ("restore", "demo", "a", "tuned")


class RebootingRunner(MadeRunner):
    """Answers logins with one boot's id, then with none, as a machine that shuts down, then with another's."""

    boots = ("one", "one", "", "two")

    def run(self, argv, *, env=None, timeout=600):
        super().run(argv, env=env, timeout=timeout)
        if "boot_id" in argv[-1]:
            asked = sum("boot_id" in ran[-1] for ran in self.ran)
            if not self.boots[asked - 1]:
                raise Failed(argv, 255, "Connection refused")
            return self.boots[asked - 1]
        return "running"


def test_reboot_waits_for_another_boot(made):
    runner = RebootingRunner()
    fleet, _one = made(runner)
    fleet.reboot("a")
    commands = [argv[-1] for argv in runner.ran]
    assert commands[1] == "sudo systemctl --no-block reboot"
    assert ["boot_id" in command for command in commands] == [True, False, True, True, True, False]
    assert "is-system-running" in commands[-1]
