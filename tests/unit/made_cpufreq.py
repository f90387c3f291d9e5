"""A made-up host with CPU frequency scaling: a tree of sysfs, and a kernel in front of it that behaves like Linux.

Modelled on drivers/cpufreq/cpufreq.c (EBUSY of inactive policies, limits kept in bounds, EINVAL for crossed ones as
before Linux 5.3), intel_pstate.c and amd-pstate.c (two governors in active mode, the energy preference held under
`performance`).
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs import cpufreq
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs.options import OPTIONS
from ansible_collections.precog.fleet.tests.unit.made_host import BOOT_ID, MadeHost, make_host

CPU = "/sys/devices/system/cpu"
FOLDER = f"{CPU}/cpufreq"
UNIT = "/etc/systemd/system/precog-fleet-cpu.service"
WANT = "/etc/systemd/system/multi-user.target.d/precog-fleet-cpu.conf"
PREFERENCES = "default performance balance_performance balance_power power"
ACTIVE = ("intel_pstate", "amd-pstate-epp")
WITH_PREFERENCE = (*ACTIVE, "intel_cpufreq")
LOWEST, HIGHEST = 800000, 3600000
SHARED = {0: "0 1", 2: "2 3"}
"""Processors by policy: two policies of two each."""


class MadeCpu(MadeHost):
    """A made-up host whose processors have a cpufreq driver."""

    driver = "acpi-cpufreq"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.policies: Mapping[int, str] = {}
        self.offline: set[int] = set()
        """Processors."""
        self.modules = {"conservative"}
        """Governors that are loaded when they are named."""
        self.saved: dict[str, str] = {}
        """What intel_pstate goes back to when the governor `performance` is left."""
        self.fixed: dict[str, int] = {}
        """errno of switches that the firmware has locked, by path."""
        self.old_kernel = False
        """Whether an inactive policy shows an empty affected_cpus instead of EBUSY."""

    def file(self, policy: int, name: str) -> str:
        """Return what a file of a policy holds."""
        return self.text(f"{FOLDER}/policy{policy}/{name}").strip()

    def governors(self) -> list[str]:
        return [self.file(policy, "scaling_governor") for policy in self.policies]

    def set_file(self, policy: int, name: str, value: str) -> None:
        self.put(f"{FOLDER}/policy{policy}/{name}", value + "\n")

    def start(self) -> None:
        """Bring up the driver with its own values, as at boot."""
        active = self.driver in ACTIVE
        for policy, processors in self.policies.items():
            files = {
                "affected_cpus": processors,
                "related_cpus": processors,
                "scaling_driver": self.driver,
                "scaling_governor": "powersave" if active else "schedutil",
                "scaling_available_governors": "performance powersave" if active else "powersave schedutil performance",
                "scaling_min_freq": str(LOWEST),
                "scaling_max_freq": str(HIGHEST),
                "cpuinfo_min_freq": str(LOWEST),
                "cpuinfo_max_freq": str(HIGHEST),
            }
            if self.driver in WITH_PREFERENCE:
                files["energy_performance_preference"] = "balance_performance"
                files["energy_performance_available_preferences"] = PREFERENCES
            for name, value in files.items():
                self.set_file(policy, name, value)
        self.put(*((f"{CPU}/intel_pstate/no_turbo", "0\n") if self._is_intel() else (f"{FOLDER}/boost", "1\n")))

    def _is_intel(self) -> bool:
        return self.driver.startswith("intel")

    def set_offline(self, *processors: int) -> None:
        self.offline = set(processors)
        for processor in range(1, 4):  # the first has no such file: it can't be taken offline
            self.put(f"{CPU}/cpu{processor}/online", f"{int(processor not in self.offline)}\n")

    def _is_idle(self, path: str) -> bool:
        folder = path.partition(f"{FOLDER}/policy")[2].partition("/")[0]
        return folder.isdecimal() and all(int(cpu) in self.offline for cpu in self.policies[int(folder)].split())

    def read_bytes(self, path: str) -> bytes:
        if self._is_idle(path) and self.exists(path):
            if self.old_kernel and path.endswith("affected_cpus"):
                return b"\n"
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        return super().read_bytes(path)

    def write_kernel(self, path: str, value: str) -> None:
        if not path.startswith(CPU):
            super().write_kernel(path, value)
            return
        self._step()
        self.kernel_writes.append((path, value))
        code = errno.ENOENT if not self.exists(path) else self._answer(path, value)
        if code:
            raise OSError(code, os.strerror(code), path)
        self._step()

    def _answer(self, path: str, value: str) -> int:
        """Take a value, or return the errno with which the kernel refuses it."""
        folder, name = path.rsplit("/", 1)
        if self._is_idle(path):
            return errno.EBUSY
        if path in self.fixed:
            return self.fixed[path]
        if name in ("boost", "no_turbo"):
            return self._keep(path, value) if value in ("0", "1") else errno.EINVAL
        if name == "scaling_governor":
            return self._govern(folder, value)
        if name == "energy_performance_preference":
            return self._prefer(folder, value)
        return self._limit(folder, name, value)

    def _keep(self, path: str, value: str) -> int:
        self.put(path, value + "\n")
        return 0

    def _govern(self, folder: str, value: str) -> int:
        listed = self.text(f"{folder}/scaling_available_governors").split()
        before = self.text(f"{folder}/scaling_governor").strip()
        if value not in listed and (self.driver in ACTIVE or value not in self.modules):
            return errno.EINVAL
        if value not in listed:
            self.put(f"{folder}/scaling_available_governors", " ".join([*listed, value]) + "\n")
        self.put(f"{folder}/scaling_governor", value + "\n")
        preference = f"{folder}/energy_performance_preference"
        if self.driver in ACTIVE and value != before:
            if value == "performance":
                self.saved[folder] = self.text(preference).strip()
                self.put(preference, "performance\n")
            elif self._is_intel():  # amd-pstate leaves it at performance
                self.put(preference, self.saved.get(folder, "performance") + "\n")
        return 0

    def _prefer(self, folder: str, value: str) -> int:
        if value not in PREFERENCES.split():
            return errno.EINVAL
        held = self.driver in ACTIVE and self.text(f"{folder}/scaling_governor").strip() == "performance"
        if held and value != "performance":
            return errno.EBUSY
        return self._keep(
            f"{folder}/energy_performance_preference", "balance_performance" if value == "default" else value
        )

    def _limit(self, folder: str, name: str, value: str) -> int:
        if not value.isdecimal() or not self.exists(f"{folder}/scaling_min_freq"):
            return errno.EINVAL
        texts = {limit: self.text(f"{folder}/scaling_{limit}_freq").strip() for limit in ("min", "max")}
        limits = {limit: int(text) if text.isdecimal() else LOWEST for limit, text in texts.items()}
        limits[name.split("_")[1]] = min(max(int(value), LOWEST), HIGHEST)
        if limits["min"] > limits["max"]:
            return errno.EINVAL
        return self._keep(f"{folder}/{name}", str(limits[name.split("_")[1]]))

    def run(self, argv):
        self.commands.append(list(argv))
        return ""

    def reboot(self, boot: str = "22222222-2222-4222-8222-222222222222") -> None:
        """A new boot: the driver's own values, then the unit's lines, if its target wants it."""
        super().reboot(boot)
        self.start()
        if self.at(WANT).exists() and "Wants=precog-fleet-cpu.service" in self.text(WANT).splitlines():
            for line in self.text(UNIT).splitlines():
                if line.startswith("ExecStart=-"):
                    _shell, _option, script = shlex.split(line[len("ExecStart=-") :])
                    value, path = script.removeprefix("echo ").split(" > ")
                    try:
                        self.write_kernel(path, value)
                    except OSError:
                        pass
        self.kernel_writes.clear()


def make_cpu(
    root: Path,
    driver: str = "acpi-cpufreq",
    policies: Mapping[int, str] = SHARED,
    *,
    container: bool = False,
    kind: type[MadeCpu] = MadeCpu,
) -> MadeCpu:
    """Build a host with a driver and policies; with none of these for a host without scaling."""
    host = make_host(root, container=container, kind=kind)
    assert isinstance(host, MadeCpu)
    host.driver, host.policies = driver, policies
    host.at("/run/systemd/system").mkdir(parents=True)
    host.at("/etc/systemd/system").mkdir(parents=True)
    if policies:
        host.start()
        host.set_offline()
    return host


def params(**changes):
    """The module's parameters with their defaults."""
    defaults = {name: argument.get("default") for name, argument in OPTIONS.items()}
    return {**defaults, **changes}


def tune(host: MadeCpu, *, check: bool = False, **changes) -> engine.Report:
    """Apply parameters."""
    return engine.run(host, [cpufreq.subsystem(params(**changes))], check_mode=check)


def give_back(host: MadeCpu, *, check: bool = False) -> engine.Report:
    return tune(host, check=check, state="absent")


__all__ = ["BOOT_ID", "CPU", "FOLDER", "UNIT", "WANT", "MadeCpu", "give_back", "make_cpu", "params", "tune"]
