"""A fleet of virtual machines: up, power loss, start, saved states, down."""

from __future__ import annotations

import json
import os
import secrets
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

from local_vm import monitor, qemu, states
from local_vm.image import Image, Images
from local_vm.model import VmSpec
from local_vm.qemu import Machine

# Without KVM, on two busy cores, a boot takes 20 to 60 s.
READY_SECONDS = 240
# A restored machine answers its first login within seconds.
RESTORED_SECONDS = 60
DEATH_SECONDS = 20


class Fleet:
    """One fleet of a cache. Its folder is as that of a fleet of containers, with a folder more for each machine."""

    def __init__(self, name: str, cache: Path, runner: Runner, images: Images, say: Callable[[str], None]) -> None:
        self.name, self._runner, self._images, self._say = name, runner, images, say
        self._cache = cache
        self.folder = cache / "fleets" / name

    def up(self, specs: Sequence[VmSpec]) -> Path:
        """Makes a new machine for each of *specs*, and returns the inventory's path. What was there is gone.

        Each begins booted, from a state in the cache that the first of its kind makes.
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
                host = states.this_host(self._runner, self._accelerator(machines[0]))
                booted = {machine.name: self._booted(machine, host) for machine in machines}
                each(self._runner, lambda machine: self._begin(machine, booted[machine.name], host), machines)
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
                self._boot(machine, self._accelerator(machine))

    def kill(self, name: str) -> None:
        """Takes the power from a machine: what its kernel had not yet written is lost. Raises FleetError."""
        with self._locked():
            self._end([self._named(name)])

    def reboot(self, name: str) -> None:
        """Has a machine reboot itself, and waits until it has booted; raises FleetError."""
        with self._locked():
            machine = self._named(name)
            before = self._boot_id(machine)
            with suppress(Failed):  # the login may end with the machine
                self._log_in(machine, "sudo systemctl --no-block reboot")
            end = time.monotonic() + READY_SECONDS
            while self._boot_id(machine) in ("", before):
                if time.monotonic() > end:
                    remedy = f"Its console: {machine.console}"
                    raise FleetError(Problem(f"{name} has not rebooted after {READY_SECONDS} s", remedy))
                self._runner.pause(0.3)
            self._wait(machine)

    def save(self, name: str, state: str) -> None:
        """Saves a running machine's memory and disk as *state*, in place of one of that name. Raises FleetError."""
        with self._locked():
            machine = self._named(name)
            monitor.save_state(machine.monitor, state)
            self._refresh(machine)  # its clock stood still

    def restore(self, name: str, state: str) -> None:
        """Puts a machine, running or off, back to *state*; raises FleetError, with the machine as it was or off."""
        with self._locked():
            machine = self._named(name)
            known = states.saved_in(self._runner, machine.layer)
            if state not in known:
                there = ", ".join(known) or "none"
                raise FleetError(Problem(f"{name} has no saved state {state!r}", f"There are: {there}."))
            self._end([machine])
            self._load(machine, self._accelerator(machine), state)

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
        killed = {machine.name: _pid(machine) for machine in machines if is_running(machine)}
        for pid in killed.values():
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + DEATH_SECONDS
        for name, pid in killed.items():
            while not has_ended(pid):
                if time.monotonic() > end:
                    raise FleetError(Problem(f"{name}: QEMU ({pid}) doesn't end", "Look at it: ps."))
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

    def _accelerator(self, machine: Machine) -> str:
        return qemu.accelerator(self._runner, Image(machine.image), self._cache / "vm-images" / "accelerator")

    def _booted(self, machine: Machine, host: states.Host) -> Path | None:
        """The booted layer for machines like this one, made by booting it unless the cache has it; None if that fails.

        Raises FleetError when the machine does not boot.
        """
        file = states.booted_file(machine, host)
        with locked(file.with_suffix(".lock"), self._runner):
            if file.exists():
                return file
            self._new_layer(machine)
            self._boot(machine, host.accelerator)
            try:
                monitor.save_state(machine.monitor, states.BOOTED)
                self._end([machine])
                part = file.with_suffix(".part")
                shutil.copyfile(machine.layer, part)
                part.replace(file)
            except (FleetError, OSError) as error:
                self._say(f"{machine.name}: its state can't be saved for the next time: {error}")
                self._end([machine])
                return None
            states.forget_others(file, machine.memory)
            return file

    def _begin(self, machine: Machine, booted: Path | None, host: states.Host) -> None:
        """Brings a new machine up: from the booted layer, or by booting it where that can't be used."""
        if booted:
            try:
                shutil.copyfile(booted, machine.layer)
                self._load(machine, host.accelerator, states.BOOTED)
            except (FleetError, OSError) as error:
                self._say(f"{machine.name}: booting it, as the saved state can't be used: {error}")
                self._end([machine])
                booted.unlink(missing_ok=True)
            else:
                return
        self._new_layer(machine)
        self._boot(machine, host.accelerator)

    def _new_layer(self, machine: Machine) -> None:
        backing = ["-f", "qcow2", "-F", "raw", "-b", str(Image(machine.image).disk)]
        self._runner.run(["qemu-img", "create", "-q", *backing, str(machine.layer)])

    def _start(self, machine: Machine, accelerator: str, state: str = "") -> None:
        try:
            self._runner.run(qemu.argv(machine, Image(machine.image), accelerator, state))
        except Failed as failure:
            raise FleetError(Problem(f"{machine.name}: QEMU didn't start: {failure}")) from None
        self._say(f"{machine.name}: {machine.suite}, 127.0.0.1:{machine.port}, {accelerator}")

    def _boot(self, machine: Machine, accelerator: str) -> None:
        self._start(machine, accelerator)
        self._wait(machine)

    def _wait(self, machine: Machine) -> None:
        """Waits until a machine has booted; raises FleetError, and shows the end of its console then."""
        began = time.monotonic()
        ssh_config, remedy = self.folder / "ssh_config", f"Its console: {machine.console}"
        try:
            failed = wait_until_booted(self._runner, ssh_config, machine.name, READY_SECONDS, remedy)
        except FleetError:
            with suppress(OSError):
                end = machine.console.read_text(errors="replace")[-4000:]
                self._say(f"The end of {machine.name}'s console:\n{end}")
            raise
        self._say(f"{machine.name}: booted in {time.monotonic() - began:.0f} s")
        if failed:
            self._say(f"{machine.name}: degraded, failed units: {', '.join(failed)}")

    def _log_in(self, machine: Machine, command: str) -> str:
        """What a command prints in a login of its own; raises Failed."""
        options = ["-F", str(self.folder / "ssh_config"), "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
        return self._runner.run(["ssh", *options, machine.name, command], timeout=20)

    def _boot_id(self, machine: Machine) -> str:
        """What is another one after each boot; '' while there is no login."""
        try:
            return self._log_in(machine, "cat /proc/sys/kernel/random/boot_id")
        except Failed:
            return ""

    def _load(self, machine: Machine, accelerator: str, state: str) -> None:
        began = time.monotonic()
        self._start(machine, accelerator, state)
        self._refresh(machine)
        self._say(f"{machine.name}: restored in {time.monotonic() - began:.0f} s")

    def _refresh(self, machine: Machine) -> None:
        """Gives a machine whose time stood still this machine's time and new random bytes; raises FleetError."""
        end = time.monotonic() + RESTORED_SECONDS
        while True:
            script = f"date --set=@{time.time():.2f} && echo {secrets.token_hex(32)} >/dev/urandom"
            try:
                self._log_in(machine, f"sudo sh -c '{script}'")
                return
            except Failed as failure:
                if time.monotonic() > end:
                    remedy = f"Its console: {machine.console}"
                    raise FleetError(Problem(f"{machine.name}: its clock can't be set: {failure}", remedy)) from None
                self._runner.pause(0.2)


def _pid(machine: Machine) -> int:
    try:
        return int(machine.pid_file.read_text())
    except (OSError, ValueError):
        return 0


def has_ended(pid: int) -> bool:
    """Whether a process is gone with all its threads: the last of them gives its files and their locks free.

    It has no command line any more long before that.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len([*Path(f"/proc/{pid}/task").iterdir()]) == 1
    except OSError:
        return True


def is_running(machine: Machine) -> bool:
    """Whether the process that is noted is there, and QEMU with this machine's disk."""
    try:
        command = Path(f"/proc/{_pid(machine)}/cmdline").read_bytes()
    except OSError:
        return False
    return os.fsencode(machine.layer) in command
