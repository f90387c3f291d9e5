"""The cache of booted machines: a disk layer per image, memory size and QEMU, with a saved state in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from local_fleet.process import Failed, Runner

from local_vm import qemu
from local_vm.image import Image
from local_vm.qemu import Machine

# The state in which each machine of `up` begins.
BOOTED = "booted"
_CPUINFO = Path("/proc/cpuinfo")
# What differs from one processor to the next of the same kind, or from one moment to the next.
_OF_THE_MOMENT = ("processor", "cpu MHz", "core id", "apicid", "initial apicid", "physical id", "bogomips")


@dataclass(frozen=True)
class Host:
    """What of this machine decides whether a state that was saved earlier can be loaded.

    :ivar version: QEMU's own, with that of its package.
    :ivar accelerator: KVM or TCG.
    :ivar processor: the processor's model and features.
    """

    version: str
    accelerator: str
    processor: str


def this_host(runner: Runner, accelerator: str) -> Host:
    """The machine that this runs on."""
    return Host(runner.run([qemu.PROGRAM, "--version"]), accelerator, processor_text(_CPUINFO.read_text()))


def processor_text(cpuinfo: str) -> str:
    """The first processor of /proc/cpuinfo, without what changes by itself."""
    lines = cpuinfo.split("\n\n", maxsplit=1)[0].splitlines()
    return "\n".join(line for line in lines if line.partition(":")[0].strip() not in _OF_THE_MOMENT)


def booted_file(machine: Machine, host: Host) -> Path:
    """Where the booted layer for machines like *machine* is kept: beside its image, and removed with it.

    The name holds a checksum of QEMU's whole command line and of *host*: a state that might not load is never found.
    """
    anyone = replace(machine, name="", port=0, folder=Path("/"), console=Path("/"))
    made_of = [*qemu.argv(anyone, Image(machine.image), host.accelerator), host.version, host.processor]
    checksum = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:12]
    return machine.image / f"{BOOTED}-{machine.memory}-{checksum}.qcow2"


def forget_others(file: Path, memory: int) -> None:
    """Removes the booted layers of the same image and memory that other versions of QEMU made."""
    for other in file.parent.glob(f"{BOOTED}-{memory}-*.qcow2"):
        if other != file:
            other.unlink()


def saved_in(runner: Runner, layer: Path) -> list[str]:
    """The names of the states that are saved in a disk layer, whether its machine runs or not."""
    try:
        listed = runner.run(["qemu-img", "snapshot", "-U", "-l", str(layer)])
    except Failed:
        return []
    return [line.split()[1] for line in listed.splitlines()[2:]]
