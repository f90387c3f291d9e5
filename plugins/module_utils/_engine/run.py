# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings engine: read, plan, apply, report, the same way for every subsystem.

A subsystem reads its state from the host and makes a plan of it without further input or output. The engine applies
plans in this order: stage the next content of the files, note originals in the ledger, write the kernel's values one by
one, read all of them again, put the files into place. An obstacle to the whole run raises HostError before anything is
changed. A value that the kernel refuses fails its own setting; the others are applied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._host.host import HostError
from . import model
from .ledger import COPY, LOCK, PATH, Ledger
from .managed import HEADER, files_of, read_managed
from .model import Job

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .._host.host import Host
    from .ledger import Original
    from .model import Change, Subsystem

BLOCK = 4096  # bytes; what the ledger takes at the least
MOST_TOLD = 5  # lines


@dataclass(eq=False, repr=False)
class Report:
    """What a run found and did."""

    changed: bool
    changes: list[Change]
    diff: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def failures(self, *, on_unsupported: str = "report") -> list[Change]:
        """Return the settings for which the task has to fail."""
        failing = (*model.FAILING, model.UNSUPPORTED) if on_unsupported == "fail" else model.FAILING
        return [change for change in self.changes if change.status in failing]

    def result(self) -> dict[str, Any]:
        """Return what every module of the collection returns."""
        summary = {status: sum(change.verdict == status for change in self.changes) for status in model.STATUSES}
        return {
            "changed": self.changed,
            "settings": [change.row() for change in self.changes],
            "summary": summary,
            "diff": self.diff,
        }


def explain_failures(failures: Iterable[Change]) -> str:
    """Return one message that names every failing setting, its value and the reason, a line each."""
    lines = []
    for change in failures:
        value = "" if change.desired is None else f" = {change.desired}"
        lines.append(f"{change.name}{value}: {model.stated(change.status, change.reason)}")
    return f"{len(lines)} setting(s) can't be applied (the others are not affected):\n" + "\n".join(lines)


def run(host: Host, subsystems: Sequence[Subsystem], *, check_mode: bool) -> Report:
    """Bring all settings of some subsystems to where they should be, or say what that would change.

    :raises HostError: nothing could be done; the host is as it was.
    """
    try:
        if check_mode:
            ledger = Ledger.load(host)
            jobs = [_make(host, subsystem, ledger, check_mode=True) for subsystem in subsystems]
            _expect_room(host, jobs)
            return _report(jobs, _losses(ledger, jobs))
        with host.lock(LOCK):
            ledger = Ledger.load(host)
            jobs = [_make(host, subsystem, ledger, check_mode=False) for subsystem in subsystems]
            for path in [path for job in jobs for path in job.plan.paths]:
                host.sweep(path)
            warnings = _losses(ledger, jobs)
            if ledger.warning:
                ledger.save(always=True)
            if all(_is_settled(job, ledger) for job in jobs):
                for job in jobs:
                    job.leave()
            else:
                # Most runs find nothing to do, and need not load how it would be done.
                from . import apply

                apply.apply(host, ledger, jobs)
            return _report(jobs, warnings)
    except OSError as error:
        raise HostError(f"{model.write_error(error)}. Nothing was changed. {model.remedy(error)}") from error


def _make(host: Host, subsystem: Subsystem, ledger: Ledger, *, check_mode: bool) -> Job:
    """Plan a subsystem, and read the files that it manages."""
    plan = subsystem.plan(subsystem.read(host, ledger, check_mode=check_mode))
    if check_mode:
        _predict(host, plan.changes, subsystem.advice)
        for change in plan.changes:
            change.after = change.before if change.target is None else change.target
    files = files_of(host, subsystem, plan, ledger)
    before = {path: read_managed(host, path) for path in files}
    subsystem.settle(plan, files)
    return Job(subsystem, plan, before, files)


def _is_settled(job: Job, ledger: Ledger) -> bool:
    """Tell whether nothing is to be written, on the host or in the ledger."""
    originals = ledger.of(job.subsystem.owner)
    return not job.changed and all(_is_known(change, originals.get(change.name)) for change in job.changes)


def _is_known(change: Change, known: Original | None) -> bool:
    if change.original is not None or change.forget:
        return False
    return (
        known is None
        or known.desired == change.desired
        or change.status in (model.REFUSED, model.UNKNOWN, model.UNSUPPORTED)
    )


def _predict(host: Host, changes: Sequence[Change], advice: Mapping[int, str]) -> None:
    """In check mode: reject what the kernel would refuse, as far as it says so without being changed."""
    refused = host.refusals([write for change in changes for write in change.writes])
    for change in changes:
        code = next((refused[path] for path, _value in change.writes if path in refused), None)
        if code is not None:
            change.reject(model.REFUSED, model.refusal(code, advice))


def _expect_room(host: Host, jobs: Sequence[Job]) -> None:
    """Fail where the real run would, for want of a place to write."""
    for job in jobs:
        for path in job.files_changed:
            host.expect_room(path, len(job.files[path] or b""))
    if any(job.changed for job in jobs):
        host.expect_room(PATH, BLOCK)


def _losses(ledger: Ledger, jobs: Sequence[Job]) -> list[str]:
    """Return a warning for what can't be restored: originals that were lost, and lines of others in our files."""
    warnings = [ledger.warning] if ledger.warning else []
    for path, before in ((path, before) for job in jobs for path, before in job.files_before.items()):
        if before is None or not before.startswith(HEADER.encode()):
            continue
        known = ledger.files.get(path)
        if known is None:
            warnings.append(
                f"{path} was written by this collection, but the ledger of originals ({PATH}) knows nothing of "
                "it: the ledger was lost. What was there before the first run is not known, so a rollback removes this "
                f"file and takes the values of now for the originals. Restore the ledger, or {COPY}, from a "
                "backup, then run again"
            )
    return warnings + [warning for job in jobs for path in job.files_changed if (warning := _added(job, path, ledger))]


def _added(job: Job, path: str, ledger: Ledger) -> str:
    """Say which lines of a managed file go that this collection did not write; "" for none."""
    before, known = job.files_before[path] or b"", ledger.files.get(path)
    if known is None or known.written is None or not before.startswith(HEADER.encode()):
        return ""
    kept = {*known.written.splitlines(), *(job.files[path] or b"").splitlines()}
    lines = [line.decode("utf-8", "backslashreplace") for line in before.splitlines() if line and line not in kept]
    more = f" and {len(lines) - MOST_TOLD} more" if len(lines) > MOST_TOLD else ""
    shown = "; ".join(lines[:MOST_TOLD])
    hint = "Keep lines of your own in a file of your own"
    return f"{path}: lines that somebody else wrote there are removed: {shown}{more}. {hint}" if lines else ""


def _report(jobs: Sequence[Job], warnings: list[str]) -> Report:
    diff: list[dict[str, str]] = []
    for job in jobs:
        diff += [_file_diff(path, job.files_before[path], job.files[path]) for path in job.files_changed]
        diff += _value_diff(job.changes)
    return Report(
        changed=any(job.changed for job in jobs),
        changes=[change for job in jobs for change in job.changes],
        diff=diff,
        warnings=[*warnings, *(warning for job in jobs for warning in job.plan.warnings)],
    )


def _file_diff(path: str, before: bytes | None, after: bytes | None) -> dict[str, str]:
    def shown(content: bytes | None) -> str:
        return "" if content is None else content.decode("utf-8", "backslashreplace")

    return {"before_header": path, "after_header": path, "before": shown(before), "after": shown(after)}


def _value_diff(changes: Sequence[Change]) -> list[dict[str, str]]:
    moved = [change for change in changes if change.writes]
    if not moved:
        return []
    return [
        {
            "before_header": "values now",
            "after_header": "values after",
            "before": "".join(f"{change.name} = {change.before}\n" for change in moved),
            "after": "".join(f"{change.name} = {change.after}\n" for change in moved),
        }
    ]
