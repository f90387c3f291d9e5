"""What bin/demo shows after its runs: that nothing changed the second time, and that each host has its own overrides.

Values are read on the hosts themselves, over SSH, and not by the modules under test.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_fleet.model import FleetError, Problem
from local_fleet.process import Failed, Runner

PARAMETERS = "kernel_tuning_parameters"
PROFILE = "99-zz-precog-fleet.conf"


@dataclass(frozen=True)
class Override:
    """What one host's variables say of one key; None takes the key out of the host's profile."""

    host: str
    key: str
    value: str | None


def text(value: Any) -> str:
    """A value as /proc/sys shows it, its fields separated by one blank each."""
    fields = value if isinstance(value, list) else str(value).split()
    return " ".join(map(str, fields))


def overrides(inventory: Mapping[str, Any]) -> list[Override]:
    """The overrides in what `ansible-inventory --list` prints, by host and key."""
    variables: Mapping[str, Any] = inventory.get("_meta", {}).get("hostvars", {})
    return [
        Override(host, key, None if value is None else text(value))
        for host in sorted(variables)
        for key, value in sorted((variables[host].get(PARAMETERS) or {}).items())
    ]


def restless(report: Mapping[str, Any]) -> list[Problem]:
    """A problem for each host in fleet_report's JSON that changed, failed or wasn't reached."""
    problems = []
    for host, entry in sorted(report["hosts"].items()):
        counts = {name: entry["stats"].get(name, 0) for name in ("changed", "failures", "unreachable")}
        if any(counts.values()):
            what = ", ".join(f"{name}={count}" for name, count in counts.items() if count)
            keys = [setting["name"] for setting in entry["settings"] if setting["status"] not in ("ok", "unsupported")]
            remedy = f"See the second run above; settings to look at: {', '.join(keys) or 'none'}."
            problems.append(Problem(f"{host}: the second run was to change nothing, and has {what}", remedy))
    return problems


def escaped(report: Mapping[str, Any], canary: str) -> list[Problem]:
    """What went wrong where a release was to be refused by *canary*, and to reach no other host."""
    hosts = report["hosts"]
    refused = [row for row in hosts.get(canary, {}).get("settings", []) if row["status"] == "refused"]
    # All of them are asked before whether they can be reached.
    touched = sorted(name for name, entry in hosts.items() if name != canary and entry["settings"])
    problems = [Problem(f"{name} was touched", f"Only {canary} should have been.") for name in touched]
    if not refused:
        problems.append(Problem(f"{canary} refused nothing", "See the run above."))
    return problems


def unsupported(report: Mapping[str, Any], override: Override) -> str:
    """Why this host can't have the key, as the run reported; empty when it can."""
    for setting in report["hosts"].get(override.host, {}).get("settings", []):
        if setting["name"] == override.key and setting["status"] == "unsupported":
            return str(setting["reason"])
    return ""


def judge(override: Override, value: str, managed: bool, reason: str) -> tuple[bool, str]:
    """Whether the host has what *override* says, and a line that shows it.

    *value* is the key's value on the host, *managed* whether our file there names the key, *reason* why the host
    can't have it.
    """
    start = f"{override.host}: {override.key} = {value}"
    if reason:
        return True, f"{start}  (wanted {override.value}; {reason})"
    if override.value is None:
        return not managed, f"{start}  ({'still managed' if managed else 'left alone'}, as null in host_vars says)"
    return value == override.value, f"{start}  (host_vars says {override.value})"


def look(runner: Runner, ssh_config: str, override: Override) -> tuple[str, bool]:
    """The key's value on the host, and whether our file there names it; raises Failed."""
    path = f"/proc/sys/{override.key.replace('.', '/')}"
    script = f"cat {path}; grep -cs '^{override.key} *=' /etc/sysctl.d/{PROFILE} || true"
    *value, count = runner.run(["ssh", "-F", ssh_config, override.host, script], timeout=30).splitlines()
    return text("".join(value)), count != "0"


def show(items: Sequence[Override], report: Mapping[str, Any], at: Callable[[Override], tuple[str, bool]]) -> None:
    """Prints a line per override; raises FleetError with those that the host doesn't have."""
    problems = []
    for item in items:
        value, managed = at(item)
        fine, line = judge(item, value, managed, unsupported(report, item))
        print(f"  {line}")
        if not fine:
            problems.append(
                Problem(f"the override isn't on the host: {line}", "Run bin/demo again with a fresh fleet.")
            )
    if problems:
        raise FleetError(*problems)


def load(path: str, what: str) -> dict[str, Any]:
    """A JSON file's content; raises FleetError when there is none."""
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise FleetError(Problem(f"no {what} in {path}: {error}", "Is precog.fleet.fleet_report enabled?")) from None
    return content


def main(words: Sequence[str]) -> int:
    """``unchanged REPORT``, ``refused REPORT CANARY``, ``overrides REPORT INVENTORY SSH_CONFIG``: the exit status."""
    command, *paths = words
    try:
        report = load(paths[0], "report of the run")
        if command == "unchanged":
            if problems := restless(report):
                raise FleetError(*problems)
            print(f"Nothing changed on {len(report['hosts'])} hosts.")
        elif command == "refused":
            if problems := escaped(report, paths[1]):
                raise FleetError(*problems)
            print(f"{paths[1]} refused it, and no other host was touched.")
        else:
            items = overrides(load(paths[1], "inventory"))
            show(items, report, lambda item: look(Runner(), paths[2], item))
    except (FleetError, Failed) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
