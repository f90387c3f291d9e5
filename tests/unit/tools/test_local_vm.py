"""The virtual machines' pure parts: arguments, the recipe, QEMU's command line, what belongs to a fleet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_fleet.model import FleetError
from local_fleet.process import Runner
from local_vm import qemu
from local_vm.fleet import Fleet, has_ended, is_running
from local_vm.image import Image, Images
from local_vm.model import DEFAULT_MEMORY, VmSpec, parse_specs
from local_vm.recipe import GUEST, VmRecipe

RECIPE = VmRecipe("bookworm", "http://m.example/debian", "ssh-ed25519 AAAA")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a=trixie"], [VmSpec("a", "trixie", DEFAULT_MEMORY)]),
        (["b-2=bookworm,512", "a=trixie,2048"], [VmSpec("b-2", "bookworm", 512), VmSpec("a", "trixie", 2048)]),
    ],
)
def test_parse_specs(words, expected):
    assert parse_specs(words) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a"], ["'a' is not NAME=SUITE"]),
        (["a=woody,512"], ["'woody' is no suite"]),
        (["a=trixie,"], ["'' is no memory"]),
        (["a=trixie,-512"], ["'-512' is no memory"]),
        (["a=trixie,64"], ["'64' is no memory"]),
        (["a=trixie,1G", "A=trixie,512"], ["'1G' is no memory", "'A' can't be the name"]),
        (["a=trixie", "a=bookworm"], ["host 'a' is named twice"]),
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
        VmRecipe("trixie", RECIPE.mirror, RECIPE.public_key),
        VmRecipe("bookworm", "http://n.example/debian", RECIPE.public_key),
        VmRecipe("bookworm", RECIPE.mirror, "ssh-ed25519 BBBB"),
    ],
)
def test_each_part_of_a_recipe_makes_another_image(other):
    assert other.name != RECIPE.name
    assert VmRecipe("bookworm", RECIPE.mirror, RECIPE.public_key).name == RECIPE.name


def test_every_file_of_the_guest_is_part_of_the_recipe(monkeypatch, tmp_path):
    for path in GUEST.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr("local_vm.recipe.GUEST", tmp_path)
    assert RECIPE.name == RECIPE.name
    before = RECIPE.name
    (tmp_path / "setup.sh").write_text("other")
    assert RECIPE.name != before


def test_the_guest_is_set_up_after_debian_is_unpacked_into_a_folder():
    argv = RECIPE.build_argv(Path("/own/root"), Path("/own/guest"))
    assert "--format=directory" in argv
    assert "--format=tar" not in argv
    hooks = [word for word in argv if word.startswith("--customize-hook")]
    assert "copy-in /own/guest /root" in hooks[0]
    assert "ssh-ed25519 AAAA" in hooks[1]
    assert argv.index("bookworm") > argv.index(hooks[1])
    assert argv[argv.index("bookworm") + 1] == "/own/root"


def machine(folder):
    return qemu.Machine("a", "bookworm", 40_001, 512, folder, folder / "console.log", folder / "image")


def test_qemu_listens_on_this_machine_only_and_writes_to_its_own_layer_only(tmp_path):
    argv = qemu.argv(machine(tmp_path), Image(tmp_path / "image"), qemu.TCG)
    assert "user,id=net,hostfwd=tcp:127.0.0.1:40001-:22" in argv
    assert f"file={tmp_path}/disk.qcow2,if=virtio,format=qcow2" in argv
    assert not any("disk.img" in word for word in argv)
    assert argv[argv.index("-m") + 1] == "512"


def test_a_process_id_that_is_somebody_elses_is_never_taken_for_ours(tmp_path):
    one = machine(tmp_path)
    assert not is_running(one)
    one.pid_file.write_text(f"{os.getpid()}\n")
    assert not is_running(one)
    one.pid_file.write_text("garbage")
    assert not is_running(one)


@pytest.fixture
def process(tmp_path):
    """A process that looks like the machine's QEMU."""
    words = [sys.executable, "-c", "print(flush=True); input()", str(machine(tmp_path).layer)]
    started = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started.stdout.readline()
    yield started
    started.kill()
    started.communicate()


def test_a_running_machine_is_known_by_its_disk(tmp_path, process):
    one = machine(tmp_path)
    one.pid_file.write_text(f"{process.pid}\n")
    assert is_running(one)


def test_down_of_a_fleet_that_never_was_is_nothing(tmp_path):
    images = Images(Runner(), tmp_path, {}, lambda _text: None)
    fleet = Fleet("never", tmp_path, Runner(), images, lambda _text: None)
    assert fleet.machines() == []
    assert fleet.down() == 0


def test_a_machine_that_is_not_there_is_named_with_those_that_are(tmp_path):
    images = Images(Runner(), tmp_path, {}, lambda _text: None)
    fleet = Fleet("demo", tmp_path, Runner(), images, lambda _text: None)
    with pytest.raises(FleetError) as error:
        fleet.kill("b")
    assert "no machine 'b'" in str(error.value)
    assert "There are: none." in str(error.value)


def test_an_image_that_a_disk_is_a_layer_above_is_kept(tmp_path):
    images = Images(Runner(), tmp_path, {}, lambda _text: None)
    old, used, new = (tmp_path / "vm-images" / f"bookworm-{name}" for name in ("old", "used", "new"))
    for folder in (old, used, new, tmp_path / "fleets/demo"):
        folder.mkdir(parents=True)
    (tmp_path / "fleets/demo/machines.json").write_text(f'[{{"image": "{used}"}}]')
    images._forget_others("bookworm", Image(new))
    assert [folder.exists() for folder in (old, used, new)] == [False, True, True]


def test_kvm_is_probed_once_a_boot(tmp_path, monkeypatch):
    probed = []
    monkeypatch.setattr(qemu.os, "access", lambda *_arguments: True)
    monkeypatch.setattr(qemu, "_boots_with_kvm", lambda *_arguments: probed.append(1) or False)
    note, image = tmp_path / "accelerator", Image(tmp_path)
    assert [qemu.accelerator(Runner(), image, note) for _ in range(2)] == [qemu.TCG] * 2
    assert len(probed) == 1
    note.write_text("another-boot kvm\n")
    assert qemu.accelerator(Runner(), image, note) == qemu.TCG
    assert len(probed) == 2


# Its first thread ends, as when it is killed, and another one still has the process's files.
HALF_DEAD = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
print(flush=True)
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone (x86_64)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of a system call")
def test_process_has_ended_with_its_last_thread():
    process = subprocess.Popen(
        [sys.executable, "-c", HALF_DEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stat = Path(f"/proc/{process.pid}/stat")
    try:
        assert process.stdout.readline() == "\n"
        deadline = time.monotonic() + 30
        while ") Z " not in stat.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert Path(f"/proc/{process.pid}/cmdline").read_bytes() == b""
        assert not has_ended(process.pid)
        process.stdin.close()
        while not has_ended(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert has_ended(process.pid)
