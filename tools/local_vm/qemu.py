"""QEMU's command line, and whether KVM can be had. No state but one note in the cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from local_fleet.process import Failed, Runner

from local_vm.image import Image

PROGRAM = "qemu-system-x86_64"
# A version of its own, so that another QEMU that knows it makes the same hardware.
HARDWARE = "pc-i440fx-7.2"
TCG = "tcg,thread=multi"
KVM = "kvm"
# Five levels of page tables and nested machines cost emulation, and serve nothing here.
PROCESSOR = "max,la57=off,svm=off"
# Without what takes seconds of a boot and has nothing to do in a machine like this.
_LEFT_OUT = (
    "systemd.mask=e2scrub_reap.service "
    "modprobe.blacklist=ata_piix,ata_generic,aesni_intel,ghash_clmulni_intel,sha512_ssse3,sha256_ssse3,sha1_ssse3,"
    "crc32_pclmul,efi_pstore"
)
PROBE_SECONDS = 8
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Machine:
    """One virtual machine: how it is made, and where it is kept."""

    name: str
    suite: str
    port: int
    memory: int
    """MiB."""
    folder: Path
    console: Path
    """All that its serial console printed since `up`, over reboots too; it stays when the machine goes."""
    image: Path
    """The folder of the image that its disk is a layer above."""

    @property
    def layer(self) -> Path:
        """The disk: what differs from the image."""
        return self.folder / "disk.qcow2"

    @property
    def pid_file(self) -> Path:
        """Holds QEMU's process id while it runs, and after."""
        return self.folder / "qemu.pid"

    @property
    def monitor(self) -> Path:
        """The socket that QEMU takes commands from while it runs."""
        return self.folder / "qmp"


def argv(machine: Machine, image: Image, accelerator: str, state: str = "") -> list[str]:
    """The command that boots *machine* in the background, or restores it to a *state* that is saved in its disk layer.

    Two processors, so that there are two of every policy.
    """
    return [
        PROGRAM,
        *("-name", machine.name, "-machine", HARDWARE, "-accel", accelerator, "-cpu", PROCESSOR),
        *("-smp", "2", "-m", str(machine.memory), "-display", "none", "-nodefaults", "-no-user-config"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", f"root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 {_LEFT_OUT}"),
        *("-drive", f"file={machine.layer},if=virtio,format=qcow2"),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{machine.port}-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
        *("-chardev", f"file,id=console,path={machine.console},append=on", "-serial", "chardev:console"),
        *("-qmp", f"unix:{machine.monitor},server=on,wait=off"),
        *("-daemonize", "-pidfile", str(machine.pid_file)),
        *(("-loadvm", state) if state else ()),
    ]


def accelerator(runner: Runner, image: Image, note: Path) -> str:
    """KVM if it really boots a kernel here, else TCG. A device that opens may still hang: it is tried once a boot.

    :param note: where the outcome is kept.
    """
    boot = _BOOT_ID.read_text().strip()
    words = note.read_text().split() if note.exists() else []
    if words[:1] == [boot]:
        return words[1]
    found = KVM if os.access("/dev/kvm", os.R_OK | os.W_OK) and _boots_with_kvm(runner, image) else TCG
    note.write_text(f"{boot} {found}\n")
    return found


def _boots_with_kvm(runner: Runner, image: Image) -> bool:
    """Whether a kernel without a root file system gets as far as to give up, which ends QEMU."""
    give_up = "panic=-1 console=ttyS0 quiet"
    words = [PROGRAM, "-accel", KVM, "-cpu", "max", "-m", "256", "-display", "none", "-nodefaults", "-no-reboot"]
    try:
        runner.run([*words, "-kernel", str(image.kernel), "-append", give_up], timeout=PROBE_SECONDS)
    except Failed:
        return False
    return True
