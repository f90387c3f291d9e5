"""Waits until a host takes logins and has booted."""

from __future__ import annotations

import time
from pathlib import Path

from local_fleet.model import FleetError, Problem
from local_fleet.process import Failed, Runner

_STATE = "systemctl is-system-running; systemctl list-units --failed --plain --no-legend --full"


def wait_until_booted(runner: Runner, ssh_config: Path, name: str, seconds: float, remedy: str) -> list[str]:
    """Returns the units that failed.

    Raises FleetError with *remedy* when the host has not booted after so many *seconds*.
    """
    end = time.monotonic() + seconds
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
    argv = ["ssh", "-F", str(ssh_config), *options, name, f"{{ {_STATE}; }} || true"]
    while True:
        try:
            seen = runner.run(argv, timeout=20)
        except Failed as failure:
            seen = failure.output
        state, _, units = seen.strip().partition("\n")
        if state in ("running", "degraded"):
            return [line.split()[0] for line in units.splitlines()]
        if time.monotonic() > end:
            raise FleetError(Problem(f"{name}: not ready after {seconds:.0f} s; last seen: {seen.strip()}", remedy))
        runner.pause(0.3)
