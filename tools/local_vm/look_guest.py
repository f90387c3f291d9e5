"""Tells what a machine is like now, as JSON: by /proc, /sys and systemctl, not by the code under test. Run as root."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

CPU = Path("/sys/devices/system/cpu/cpufreq")
KNOBS = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
UNIT = "precog-fleet-cpu.service"


def output(*argv: str) -> str:
    """Return what a program prints."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def shown(unit: str, *properties: str) -> dict[str, str]:
    """Return properties of a unit, by name."""
    return dict(
        line.split("=", 1) for line in output("systemctl", "show", "-p", ",".join(properties), unit).split("\n")
    )


def swaps() -> list[str]:
    """Return the active swap areas: name, kind, size and priority, without what is in use."""
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    return sorted(" ".join(field for at, field in enumerate(line.split()) if at != 3) for line in lines)


def booted() -> int:
    """Return when this boot began, in seconds since 1970."""
    return next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "btime" in line)


def main() -> None:
    """Print the JSON."""
    policies = sorted(CPU.glob("policy*"))
    service = shown("sleeper.service", "MainPID", "LimitNOFILE", "LimitNOFILESoft")
    finished, reached = "ExecMainExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"
    unit = shown(UNIT, "Result", finished)
    told = {
        "booted": booted(),
        "service": Path("/proc", service["MainPID"], "limits").read_text(),
        "service as declared": [service["LimitNOFILE"], service["LimitNOFILESoft"]],
        "new service": output("systemd-run", "--quiet", "--pipe", "--wait", "cat", "/proc/self/limits"),
        "swaps": swaps(),
        "processors": {f"{one.name} {knob}": (one / knob).read_text().strip() for one in policies for knob in KNOBS},
        "frequencies": [(one / "scaling_cur_freq").read_text().strip() for one in policies],
        "boost": (CPU / "boost").read_text().strip(),
        "huge pages": Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip(),
        "unit result": unit["Result"],
        "unit finished": int(unit[finished]) / 1e6,
        "boot finished": int(shown("multi-user.target", reached)[reached]) / 1e6,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
