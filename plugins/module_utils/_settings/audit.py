# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The audit: preflight's checks, and every subsystem's own plan, made and not carried out.

No rule of what should be is written here again.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from .._engine import model
from .._engine import run as engine
from .._host import psutil_facts
from .._host.host import NOT_ROOT, Host, HostError
from . import registry

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
RUN_TIME = "run time"
DISK = "disk"
FACTS = ("virtual_memory", "swap_memory", "net_io")
PREFLIGHT = "preflight"
MACHINE_ID, BOOT_ID = "/etc/machine-id", "/proc/sys/kernel/random/boot_id"


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
        return not self.error and all(row["status"] in (model.OK, model.UNSUPPORTED) for row in self.rows)


def look(host: Host, name: str, params: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Plan one part, and tell what its role would do."""
    try:
        planned = registry.subsystems(name, params, facts)
        report = engine.run(host, planned, check_mode=True)
    except HostError as error:
        return Finding([], str(error))
    rows = [_row(name, change) for change in report.changes]
    if report.changed and not any(row["where"] for row in rows):
        rows += [_file_row(name, shown["after_header"]) for shown in report.diff]
    return Finding(rows, "", tuple(report.warnings))


def _row(part: str, change: model.Change) -> dict[str, Any]:
    row = change.row()
    where = [RUN_TIME] if change.writes else []
    # With nothing to be written at run time, what is not as it should be is a file.
    if change.status in (model.CHANGED, model.DRIFTED) and (change.persisted_before != change.persisted or not where):
        where.append(DISK)
    status = model.DRIFTED if row["status"] == model.CHANGED else row["status"]
    # The plan says what a run would make of it; the audit makes nothing of it.
    found = {"after": change.before} | ({"persisted": change.persisted_before} if status == model.DRIFTED else {})
    return {"part": part, **row, **found, "status": status, "where": " and ".join(where)}


def _file_row(part: str, path: str) -> dict[str, Any]:
    """A managed file that says the same in other words: somebody edited it."""
    change = model.Change(name=path, status=model.DRIFTED, reason="the managed file was edited")
    return {"part": part, **change.row(), "where": DISK}


def fitness(host: Host, params: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Return whether the role preflight would do and stop nothing here, and of what it would warn.

    :param params: the checked arguments of its module.
    """
    from . import preflight

    try:
        wanted = preflight.understand(params)
    except HostError:  # which its module tells
        return False, []
    facts = preflight.collect(host, wanted.disk)
    checks = preflight.judge(facts, wanted)
    installs = facts.psutil is None and not wanted.psutil
    is_fit = not installs and not preflight.failed(checks, preflight.ERROR)
    return is_fit, [preflight.describe(check) for check in preflight.failed(checks, preflight.WARNING)]


def run(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Look at this host, and return what the module returns: a failure only if some part could not be looked at.

    :param parts: the checked arguments of each part to look at, by the role's name.
    """
    host = Host()
    return {**_look(host, parts), "machine": identity(host)}


def identity(host: Host) -> str:
    """Return what tells one running machine from any other, "" where it is not known.

    Clones of one image may share their machine id, and containers the boot of the machine beneath; none shares both.
    """
    try:
        ids = [host.read_text(path).strip() for path in (MACHINE_ID, BOOT_ID)]
    except OSError:
        return ""
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16] if all(ids) else ""


def _look(host: Host, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    is_fit, warnings = fitness(host, parts[PREFLIGHT]) if PREFLIGHT in parts else (True, [])
    if not is_fit:
        # Preflight says why, or installs what is missing; the roles then look for themselves.
        return {**result({}), "unclean": list(parts), "psutil": {}}
    if os.geteuid() != 0:
        return {"failed": True, "changed": False, "msg": NOT_ROOT, "settings": [], "unclean": []}
    facts = psutil_facts.facts(FACTS)
    findings = {name: look(host, name, params, facts) for name, params in parts.items() if name != PREFLIGHT}
    warnings += [warning for finding in findings.values() for warning in finding.warnings]
    told_of = {**result(findings), "psutil": facts, "warnings": warnings}
    if told_of["errors"]:
        return {**told_of, "failed": True, "msg": "; ".join(dict.fromkeys(told_of["errors"].values()))}
    if told_of["unclean"]:
        return {**told_of, "msg": told(told_of["settings"])}
    return told_of


def result(findings: Mapping[str, Finding]) -> dict[str, Any]:
    """Return what the module returns. Pure."""
    rows = [row for finding in findings.values() for row in finding.rows]
    return {
        "changed": False,
        "schema": SCHEMA,
        "settings": rows,
        "summary": {status: sum(row["status"] == status for row in rows) for status in model.STATUSES},
        "unclean": [name for name, finding in findings.items() if not finding.is_clean],
        "errors": {name: finding.error for name, finding in findings.items() if finding.error},
    }


def told(rows: list[dict[str, Any]]) -> str:
    """Return one message that names every setting that is not as wanted. Pure."""
    wrong = [row for row in rows if row["status"] not in (model.OK, model.UNSUPPORTED)]
    return "\n".join([f"{len(wrong)} setting(s) are not as expected:", *map(_line, wrong)])


def _line(row: Mapping[str, Any]) -> str:
    asked = row["status"] in model.FAILING and row["desired"] is not None
    label = f"{row['name']} = {row['desired']}" if asked else row["name"]
    place = f" ({row['where']})" if row["where"] and not row["reason"].startswith(row["status"]) else ""
    return f"{label}: {model.stated(row['status'] + place, row['reason'])}"
