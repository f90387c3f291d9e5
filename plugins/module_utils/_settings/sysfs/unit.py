# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The unit that sets CPU frequencies again at every boot: its text, and what a text of it says. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ..._engine.managed import HEADER
from ..rivals import CPU_GOVERNOR, RIVALS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAME = "precog-fleet-cpu.service"
TARGET = "multi-user.target"
FILE = f"/etc/systemd/system/{NAME}"
# Enabled by a file, not by a link of `systemctl enable`: it is put into place and taken away with the unit.
WANT = f"/etc/systemd/system/{TARGET}.d/precog-fleet-cpu.conf"

NOTICE = f"{HEADER}: the next run undoes what is changed here.\n"
DROP_IN = f"{NOTICE}[Unit]\nWants={NAME}\n"

_WRITE = re.compile(r"ExecStart=-/bin/sh -c 'echo (?P<value>[\w.+-]+) > (?P<path>/sys/devices/system/cpu/[\w./-]+)'")
_WANTS = re.compile(rf"^Wants=(.*\s)?{re.escape(NAME)}(\s|$)", re.MULTILINE)


class Line(NamedTuple):
    """A line of the unit that gives the kernel a value."""

    number: int
    value: str


def rival_units() -> list[str]:
    """Return the units of all tools that set CPU frequencies."""
    rivals = (rival for rival in RIVALS if CPU_GOVERNOR in rival.subsystems)
    return sorted(unit for rival in rivals for unit in rival.units)


def render(writes: Iterable[tuple[str, str]]) -> str:
    """Return the unit's text.

    :param writes: (path, value) in the order of writing.
    """
    # After its own target, though that wants it: TLP is started like this, and being after TLP but before the target
    # would close a circle, out of which systemd drops a unit. `-`: a policy that is absent fails nothing.
    lines = [
        "[Unit]",
        "Description=CPU frequency settings of precog-fleet",
        f"After={TARGET} {' '.join(rival_units())}",
        "",
        "[Service]",
        "Type=oneshot",
        *(f"ExecStart=-/bin/sh -c 'echo {value} > {path}'" for path, value in writes),
    ]
    return NOTICE + "\n".join(lines) + "\n"


def parse(unit: str, drop_in: str) -> dict[str, Line]:
    """Return the values that the unit gives at boot, by path; none of a unit that nothing wants."""
    if not _WANTS.search(drop_in):
        return {}
    found = ((number, _WRITE.fullmatch(line.strip())) for number, line in enumerate(unit.split("\n"), 1))
    return {match["path"]: Line(number, match["value"]) for number, match in found if match}


def in_order(writes: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the writes so that they succeed whatever the limits are when the unit starts.

    A lower limit above the upper one is refused, or lowered to it. So with both to be set, the upper one is set before
    the lower one and, as the lower one may have stood in its way, once more after it.
    """
    ordered: list[tuple[str, str]] = []
    values = dict(writes)
    for path, value in writes:
        folder, _slash, name = path.rpartition("/")
        upper, lower = f"{folder}/scaling_max_freq", f"{folder}/scaling_min_freq"
        if name not in ("scaling_max_freq", "scaling_min_freq") or not {upper, lower} <= values.keys():
            ordered.append((path, value))
        elif (upper, values[upper]) not in ordered:
            ordered += [(upper, values[upper]), (lower, values[lower]), (upper, values[upper])]
    return ordered
