"""A fleet of virtual machines: up, power loss, start, down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from local_fleet.engine import write_if_other
from local_fleet.fleet import each, free_ports
from local_fleet.images import locked
from local_fleet.inventory import inventory_text, known_hosts_text, script_text, ssh_config_text
from local_fleet.model import FleetError, Host, Problem
from local_fleet.process import Failed, Runner, uninterrupted
from local_fleet.ready import wait_until_booted

from local_vm import qemu
from local_vm.image import Image, Images
from local_vm.model import VmSpec
from local_vm.qemu import Machine

# Without KVM, on two busy cores, a boot takes 20 to 60 s.
READY_SECONDS = 240
DEATH_SECONDS = 20


class Fleet:
    """One fleet of a cache. Its folder is as that of a fleet of containers, with a folder more for each machine."""

    def __init__(self, name: str, cache: Path, runner: Runner, images: Images, say: Callable[[str], None]) -> None:
        self.name, self._runner, self._images, self._say = name, runner, images, say
        self._cache = cache
        self.folder = cache / "fleets" / name

    def up(self, specs: Sequence[VmSpec]) -> Path:
        """Boots a new machine for each of *specs*, and returns the inventory's path. What was there is gone.

        Raises FleetError; then no machine of it runs.
        """
        with self._locked():
            self._remove()
            images = {suite: self._images.ensure(suite) for suite in sorted({spec.suite for spec in specs})}
            machines = [
                self._machine(spec, port, images[spec.suite])
                for spec, port in zip(specs, free_ports(len(specs)), strict=True)
            ]
            try:
                self._write(machines, images)
                for machine in machines:
                    base = images[machine.suite].disk
                    backing = ["-f", "qcow2", "-F", "raw", "-b", str(base)]
                    self._runner.run(["qemu-img", "create", "-q", *backing, str(machine.layer)])
                self._boot(machines)
            except BaseException:
                with uninterrupted():
                    self._end(machines)
                raise
        return self.folder / "inventory.yml"

    def start(self, name: str) -> None:
        """Boots a machine that is off, as it was left; raises FleetError."""
        with self._locked():
            machine = self._named(name)
            if not is_running(machine):
                self._boot([machine])

    def kill(self, name: str) -> None:
        """Takes the power from a machine: what its kernel had not yet written is lost. Raises FleetError."""
        with self._locked():
            self._end([self._named(name)])

    def down(self) -> int:
        """Removes all machines, and returns how many there were."""
        with self._locked():
            return self._remove()

    def machines(self) -> list[Machine]:
        """The fleet's machines, running or not."""
        note = self.folder / "machines.json"
        listed = json.loads(note.read_text()) if note.exists() else []
        paths = ("folder", "console", "image")
        return [Machine(**{**entry, **{name: Path(entry[name]) for name in paths}}) for entry in listed]

    def _machine(self, spec: VmSpec, port: int, image: Image) -> Machine:
        console = self._cache / "logs" / f"console-{self.name}-{spec.name}.log"
        return Machine(spec.name, spec.suite, port, spec.memory, self.folder / spec.name, console, image.folder)

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self._cache / "fleets" / f"{self.name}.lock", self._runner)

    def _named(self, name: str) -> Machine:
        found = [machine for machine in self.machines() if machine.name == name]
        if not found:
            known = ", ".join(machine.name for machine in self.machines()) or "none"
            raise FleetError(Problem(f"the fleet {self.name} has no machine {name!r}", f"There are: {known}."))
        return found[0]

    def _remove(self) -> int:
        machines = self.machines()
        self._end(machines)
        shutil.rmtree(self.folder, ignore_errors=True)
        return len(machines)

    def _end(self, machines: Sequence[Machine]) -> None:
        for machine in machines:
            if is_running(machine):
                os.kill(_pid(machine), signal.SIGKILL)
        end = time.monotonic() + DEATH_SECONDS
        for machine in machines:
            while is_running(machine):
                if time.monotonic() > end:
                    raise FleetError(Problem(f"{machine.name}: QEMU ({_pid(machine)}) doesn't end", "Look at it: ps."))
                time.sleep(0.05)

    def _write(self, machines: Sequence[Machine], images: dict[str, Image]) -> None:
        self.folder.mkdir(mode=0o700, parents=True)
        for machine in machines:
            machine.folder.mkdir()
            machine.console.parent.mkdir(exist_ok=True)
            machine.console.write_text("")
        hosts = [Host(self.name, one.name, one.suite, one.port, "", "", running=True) for one in machines]
        (self.folder / "id_ed25519").symlink_to(self._images.key)
        keys = {machine.name: images[machine.suite].host_key for machine in machines}
        write_if_other(self.folder / "known_hosts", known_hosts_text(hosts, keys))
        write_if_other(self.folder / "ssh_config", ssh_config_text(hosts, self.folder))
        write_if_other(self.folder / "inventory.json", script_text(hosts, self.folder))
        write_if_other(self.folder / "inventory.yml", inventory_text(hosts, self.folder))
        listed = json.dumps([vars(machine) for machine in machines], indent=1, default=str)
        write_if_other(self.folder / "machines.json", listed + "\n")

    def _boot(self, machines: Sequence[Machine]) -> None:
        for machine in machines:
            image = Image(machine.image)
            accelerator = qemu.accelerator(self._runner, image, self._cache / "vm-images" / "accelerator")
            try:
                self._runner.run(qemu.argv(machine, image, accelerator))
            except Failed as failure:
                raise FleetError(Problem(f"{machine.name}: QEMU didn't start: {failure}")) from None
            self._say(f"{machine.name}: {machine.suite}, 127.0.0.1:{machine.port}, {accelerator}")
        for machine, failed in zip(machines, each(self._runner, self._ready, machines), strict=True):
            if failed:
                self._say(f"{machine.name}: degraded, failed units: {', '.join(failed)}")

    def _ready(self, machine: Machine) -> list[str]:
        began = time.monotonic()
        try:
            failed = wait_until_booted(
                self._runner, self.folder / "ssh_config", machine.name, READY_SECONDS, f"Its console: {machine.console}"
            )
        except FleetError:
            with suppress(OSError):
                self._say(
                    f"The end of {machine.name}'s console:\n{machine.console.read_text(errors='replace')[-4000:]}"
                )
            raise
        self._say(f"{machine.name}: booted in {time.monotonic() - began:.0f} s")
        return failed


def _pid(machine: Machine) -> int:
    try:
        return int(machine.pid_file.read_text())
    except (OSError, ValueError):
        return 0


def is_running(machine: Machine) -> bool:
    """Whether the process that is noted is there, and QEMU with this machine's disk."""
    try:
        command = Path(f"/proc/{_pid(machine)}/cmdline").read_bytes()
    except OSError:
        return False
    return os.fsencode(machine.layer) in command
