"""Looks at a machine as an operator would: over SSH, in /proc and /sys, and at bytes on disk; never by our modules."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parents[2] / "molecule" / "record.py"
GUEST = Path(__file__).with_name("look_guest.py")
# All that the roles may touch, and everything that configures a host.
PARTS = ("vm", "net/core", "net/ipv4")
FOLDERS = ("/etc",)
# What each boot has anew: times, measurements, and how the unit that sets the governor ended.
OF_THE_MOMENT = ("booted", "frequencies", "unit result", "unit finished", "boot finished")


def limits_in(text: str) -> dict[str, str]:
    """The lines of /proc/PID/limits by the name of the limit, as `soft hard`."""
    return {line[:26].strip(): " ".join(line[26:].split()[:2]) for line in text.splitlines()[1:]}


class Look:
    """One machine, looked at anew with each call, in as few logins as will do: each takes seconds without KVM."""

    def __init__(self, name: str, fleet: Path) -> None:
        self.name, self._fleet = name, fleet

    def ssh(self, *command: str, stdin: str = "") -> str:
        """What a command prints in a login of its own: no connection is shared."""
        alone = ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
        argv = ["ssh", "-F", str(self._fleet / "ssh_config"), *alone, self.name, shlex.join(command)]
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=True).stdout

    def login_limits(self, *, root: bool = False) -> dict[str, str]:
        """The limits of a fresh login, or of a session of root's within it."""
        become = ("sudo", "-i") if root else ()
        return limits_in(self.ssh(*become, "cat", "/proc/self/limits"))

    def record(self, *folders: str) -> dict[str, Any]:
        """All keys that the roles may touch, and the fingerprints of all files below folders."""
        told = self.ssh("sudo", "python3", "-", *PARTS, "--", *folders, stdin=RECORD.read_text())
        return dict(json.loads(told))

    def now(self) -> dict[str, Any]:
        """Services, swap, processors and huge pages, as look_guest.py tells of them."""
        told = json.loads(self.ssh("sudo", "python3", "-", stdin=GUEST.read_text()))
        return {**told, **{name: limits_in(told[name]) for name in ("service", "new service")}}

    def state(self) -> dict[str, Any]:
        """All that has to be the same after a rollback, in values that JSON keeps."""
        now = {name: value for name, value in self.now().items() if name not in OF_THE_MOMENT}
        return {
            **self.record(*FOLDERS),
            **now,
            "login": self.login_limits(),
            "root": self.login_limits(root=True),
        }
