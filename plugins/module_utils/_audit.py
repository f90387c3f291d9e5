# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The audit: every subsystem's own plan, made and not carried out. No rule of what should be is written here again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ansible_collections.precog.fleet.plugins.module_utils import (
    _cpufreq,
    _kernel_tuning,
    _limits,
    _swap,
)
from ansible_collections.precog.fleet.plugins.module_utils import _engine as engine
from ansible_collections.precog.fleet.plugins.module_utils._host import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ansible_collections.precog.fleet.plugins.module_utils._host import Host

SCHEMA = 1
RUN_TIME = "run time"
DISK = "disk"


class Part(NamedTuple):
    """What one role tunes: the arguments of its module, and what makes its subsystems of them and of psutil's facts."""

    arguments: Mapping[str, Any]
    subsystems: Callable[[Any, Any], list[engine.Subsystem]]


# In the order of site.yml, by the name of the role.
PARTS = {
    "kernel_tuning": Part(_kernel_tuning.ARGUMENTS, _kernel_tuning.subsystems),
    "limits": Part(_limits.ARGUMENTS, lambda params, _facts: _limits.subsystems(params)),
    "cpu_governor": Part(_cpufreq.ARGUMENTS, lambda params, _facts: [_cpufreq.subsystem(params)]),
    "swap": Part(_swap.ARGUMENTS, lambda params, _facts: [_swap.subsystem(params)]),
}


class Finding(NamedTuple):
    """What the audit says of one part.

    :ivar rows: of the common report, with the part's name and, where something drifted, where: at run time, on disk,
        or both.
    :ivar error: why the part could not be looked at, or "".
    :ivar warnings: what an operator has to know beside the rows.
    """

    rows: list[dict[str, Any]]
    error: str
    warnings: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether a run of the role would find nothing to do and nothing to tell as a failure."""
        return not self.error and all(row["status"] in (engine.OK, engine.UNSUPPORTED) for row in self.rows)


def look(host: Host, name: str, params: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Plan one part, and tell what its role would do."""
    try:
        subsystems = PARTS[name].subsystems(params, facts)
        report = engine.run(host, subsystems, check_mode=True)
    except HostError as error:
        return Finding([], str(error))
    rows = [_row(name, change) for change in report.changes]
    if report.changed and not any(row["where"] for row in rows):
        rows += [_file_row(name, shown["after_header"]) for shown in report.diff]
    return Finding(rows, "", tuple(warning for subsystem in subsystems for warning in subsystem.warnings))


def _row(part: str, change: engine.Change) -> dict[str, Any]:
    row = change.row()
    where = [RUN_TIME] if change.writes else []
    if change.status in (engine.CHANGED, engine.DRIFTED) and change.persisted_before != change.persisted:
        where.append(DISK)
    status = engine.DRIFTED if row["status"] == engine.CHANGED else row["status"]
    return {"part": part, **row, "status": status, "where": " and ".join(where)}


def _file_row(part: str, path: str) -> dict[str, Any]:
    """A managed file that says the same in other words: somebody edited it."""
    change = engine.Change(name=path, status=engine.DRIFTED, reason="the managed file was edited")
    return {"part": part, **change.row(), "where": DISK}


def result(findings: Mapping[str, Finding]) -> dict[str, Any]:
    """Return what the module returns. Pure."""
    rows = [row for finding in findings.values() for row in finding.rows]
    return {
        "changed": False,
        "schema": SCHEMA,
        "settings": rows,
        "summary": {status: sum(row["status"] == status for row in rows) for status in engine.STATUSES},
        "unclean": [name for name, finding in findings.items() if not finding.is_clean],
        "errors": {name: finding.error for name, finding in findings.items() if finding.error},
    }


def told(rows: list[dict[str, Any]]) -> str:
    """Return one message that names every setting that is not as wanted. Pure."""
    wrong = [row for row in rows if row["status"] not in (engine.OK, engine.UNSUPPORTED)]
    lines = [" ".join(filter(None, (f"{row['name']}:", row["status"], _place(row), row["reason"]))) for row in wrong]
    return f"{len(wrong)} setting(s) are not as wanted: " + " | ".join(lines)


def _place(row: Mapping[str, Any]) -> str:
    return f"({row['where']})" if row["where"] else ""
