# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings engine: read, plan, apply, report, the same way for every subsystem.

A subsystem reads its state from the host and makes a plan of it without further input or output. The engine applies
plans: the files' next content onto the disk first (not yet in place), then originals into the ledger, then the kernel's
values one by one, then everything is read again, then the files go into place. What stands in the way of the whole run
raises HostError before anything is changed; what the kernel refuses is told for that setting, and the rest lands.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ansible_collections.precog.fleet.plugins.module_utils import _ledger
from ansible_collections.precog.fleet.plugins.module_utils._host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._ledger import Ledger, Original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ansible_collections.precog.fleet.plugins.module_utils._host import Host

OK = "ok"
CHANGED = "changed"
DRIFTED = "drifted"
OVERRIDDEN = "overridden"
UNSUPPORTED = "unsupported"
UNKNOWN = "unknown"
REFUSED = "refused"
BLOCK = 4096  # bytes; what the ledger takes at the least
MOST_TOLD = 5  # lines
HEADER = "# Managed by precog.fleet"

STATUSES = (OK, CHANGED, DRIFTED, OVERRIDDEN, UNSUPPORTED, UNKNOWN, REFUSED)
FAILING = (UNKNOWN, REFUSED)

Files = dict[str, "bytes | None"]


@dataclass(eq=False, repr=False)
class Change:
    """One setting's row of the plan, and of the report.

    :ivar name: the setting as an operator writes it.
    :ivar desired: the value wanted, or None when the original is given back.
    :ivar target: the value that has to be read after the writes, or None to accept any.
    :ivar before: the value now, or None where it can't be read.
    :ivar persisted_before: what the next boot would give before this run, None if no file says.
    :ivar writes: (path, value) for the kernel, in order; none if it is as it should be.
    :ivar undo: the writes that take these back within the same run.
    :ivar malformed: whether it is no setting at all but an input that can't be understood.
    :ivar overridden_by: which file of somebody else's decides at the next boot, and what to do; "" for none.
    :ivar line: the value that the managed file holds for it, or None for no line.
    :ivar kept: the line that stays where the new value is refused: the value that was taken before.
    :ivar original: what the ledger has to know before the first write, or None if it knows already.
    :ivar forget: whether the ledger drops the original once the setting is given back.
    """

    name: str
    desired: str | None = None
    target: str | None = None
    before: str | None = None
    persisted_before: str | None = None
    writes: tuple[tuple[str, str], ...] = ()
    line: str | None = None
    kept: str | None = None
    original: Original | None = None
    forget: bool = False
    malformed: bool = False
    undo: tuple[tuple[str, str], ...] = ()
    overridden_by: str = ""
    status: str = OK
    reason: str = ""
    after: str | None = None
    persisted: str | None = None
    persisted_by: str | None = None

    def reject(self, status: str, reason: str) -> None:
        """Take the setting out of the plan: nothing of it is written, and nothing new is made to last."""
        self.status, self.reason = status, reason
        self.target, self.writes, self.undo, self.original, self.forget = None, (), (), None, False
        self.line = self.kept if status == REFUSED else None
        self.after, self.overridden_by = self.before, ""

    def explain(self, reason: str) -> None:
        """Add a reason to those told already."""
        self.reason = f"{self.reason}; {reason}" if self.reason else reason

    @property
    def verdict(self) -> str:
        """The status to report: what another file takes away again at the next boot is not done."""
        return OVERRIDDEN if self.overridden_by and self.status in (OK, CHANGED, DRIFTED) else self.status

    def row(self) -> dict[str, str | None]:
        """Return the row of the common report."""
        return {
            "name": self.name,
            "desired": self.desired,
            "before": self.before,
            "after": self.after,
            "persisted_before": self.persisted_before,
            "persisted": self.persisted,
            "persisted_by": self.persisted_by,
            "status": self.verdict,
            "reason": "; ".join(text for text in (self.reason, self.overridden_by) if text),
        }


class Subsystem(ABC):
    """One kind of setting: how it is read, planned and made to last."""

    owner: str
    """The managed file by whose path the ledger knows this subsystem's originals."""
    paths: tuple[str, ...]
    """All files that this subsystem may manage, the owner included."""
    pending = False
    """Whether programs have yet to be told of files that an earlier run put into place; known after `plan`."""

    advice: ClassVar[Mapping[int, str]] = {}
    """What to do about a write that the kernel refused, by its errno."""

    warnings: Sequence[str] = ()
    """What an operator has to know beside the rows; known after `plan`."""

    @abstractmethod
    def plan(self, host: Host, ledger: Ledger, *, check_mode: bool) -> list[Change]:
        """Read the host and return a change for every setting concerned, in the order of writing."""

    @abstractmethod
    def current(self, host: Host, change: Change) -> str | None:
        """Read a setting's value again; None if it can't be read."""

    @abstractmethod
    def same(self, change: Change, left: str | None, right: str | None) -> bool:
        """Tell whether two spellings are the same value of a setting."""

    @abstractmethod
    def files(self, changes: Sequence[Change], ledger: Ledger) -> Files:
        """Return the managed files as they must be for what is left of the plan; None for no such file. Pure."""

    @abstractmethod
    def settle(self, changes: Sequence[Change], files: Files) -> None:
        """Fill in what the next boot will give with these files, and who decides it. Pure."""

    def write(self, host: Host, change: Change) -> None:
        """Bring a setting about at run time, as its `writes` say.

        :raises OSError: the kernel refused it.
        """
        for path, value in change.writes:
            host.write_kernel(path, value)

    def put_back(self, host: Host, change: Change) -> None:
        """Undo one setting's writes, as far as the kernel lets us. Never raises."""
        for path, value in change.undo:
            with suppress(OSError):
                host.write_kernel(path, value)

    def announce(self, host: Host, paths: Sequence[str]) -> None:
        """Tell programs of the host that managed files have changed; by default none wants to know.

        :raises HostError: a program could not be told; the files are in place.
        """
        return


@dataclass(eq=False, repr=False)
class Report:
    """What a run found and did."""

    changed: bool
    changes: list[Change]
    diff: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def failures(self, *, on_unsupported: str = "report") -> list[Change]:
        """Return the settings for which the task has to fail."""
        failing = (*FAILING, UNSUPPORTED) if on_unsupported == "fail" else FAILING
        return [change for change in self.changes if change.status in failing]

    def result(self) -> dict[str, Any]:
        """Return what every module of the collection returns."""
        summary = {status: sum(change.verdict == status for change in self.changes) for status in STATUSES}
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
        lines.append(f"{change.name}{value}: {stated(change.status, change.reason)}")
    return f"{len(lines)} setting(s) can't be applied (the others are not affected):\n" + "\n".join(lines)


def judge(change: Change, known: Original | None, on_disk: str | None, same: Callable[[str | None], bool]) -> None:
    """Tell first application, drift at run time, drift on disk, and all as it should be apart.

    :param change: with its writes planned; its status and reason are set.
    :param known: what the ledger has of the setting.
    :param on_disk: the value in the managed file, None for no line.
    :param same: tells whether a value is the one desired.
    """
    if not change.writes and same(on_disk):
        return
    if known is None or known.desired is None or not same(known.desired):
        change.status = CHANGED
        return
    change.status = DRIFTED
    if change.writes:
        change.explain(f"drifted at run time: was {change.before}")
    if not same(on_disk):
        change.explain(f"drifted on disk: the managed file {'lost its line' if on_disk is None else f'said {on_disk}'}")


def is_ours(host: Host, path: str) -> bool:
    """Tell whether a file carries our header; what else is wrong with it shows when it is read to be managed."""
    try:
        return host.read_bytes(path).startswith(HEADER.encode())
    except OSError:
        return False


def stated(status: str, reason: str) -> str:
    """Return a status with its reason, the status once. Pure."""
    return reason if reason.startswith(status) else ": ".join(filter(None, (status, reason)))


def refusal(code: int, advice: Mapping[int, str]) -> str:
    """Return the reason for what the kernel refused with an errno.

    :param advice: what to do about it, by errno.
    """
    said = f"the kernel says {os.strerror(code)} ({errno.errorcode.get(code, '?')})"
    return ": ".join(filter(None, (said, advice.get(code))))


def run(host: Host, subsystems: Sequence[Subsystem], *, check_mode: bool) -> Report:
    """Bring all settings of some subsystems to where they should be, or say what that would change.

    :raises HostError: nothing could be done; the host is as it was.
    """
    try:
        if check_mode:
            ledger = Ledger.load(host)
            jobs = [Job.make(host, subsystem, ledger, True) for subsystem in subsystems]
            _expect_room(host, jobs)
            return _report(jobs, _losses(ledger, jobs))
        with host.lock(_ledger.LOCK):
            ledger = Ledger.load(host)
            jobs = [Job.make(host, subsystem, ledger, False) for subsystem in subsystems]
            for path in [path for subsystem in subsystems for path in subsystem.paths]:
                host.sweep(path)
            warnings = _losses(ledger, jobs)
            if ledger.warning:
                ledger.save(always=True)
            if all(job.is_settled(ledger) for job in jobs):
                for job in jobs:
                    job.leave()
            else:
                # Most runs find nothing to do, and need not load how it would be done.
                from ansible_collections.precog.fleet.plugins.module_utils import _apply

                _apply.apply(host, ledger, jobs)
            return _report(jobs, warnings)
    except OSError as error:
        raise HostError(f"{told(error)}. Nothing was changed. {remedy(error)}") from error


class Job:
    """One subsystem's plan while it is carried out.

    :ivar files_before: the managed files' bytes as they were found; None for no file.
    :ivar files: the same as they must be.
    """

    def __init__(self, subsystem: Subsystem, changes: list[Change], files_before: Files, files: Files) -> None:
        self.subsystem = subsystem
        self.changes = changes
        self.files_before = files_before
        self.files = files

    @classmethod
    def make(cls, host: Host, subsystem: Subsystem, ledger: Ledger, check_mode: bool) -> Job:
        """Plan a subsystem, and read the files that it manages."""
        changes = subsystem.plan(host, ledger, check_mode=check_mode)
        if check_mode:
            _predict(host, changes, subsystem.advice)
            for change in changes:
                change.after = change.before if change.target is None else change.target
        files = subsystem.files(changes, ledger)
        before = {path: read_managed(host, path) for path in files}
        subsystem.settle(changes, files)
        return cls(subsystem, changes, before, files)

    @property
    def files_changed(self) -> list[str]:
        """The paths of the managed files that are not as they must be."""
        return [path for path in self.files if self.files[path] != self.files_before[path]]

    @property
    def changed(self) -> bool:
        """Whether anything is to be written, or a program to be told of what an earlier run wrote."""
        return self.subsystem.pending or bool(self.files_changed) or any(change.writes for change in self.changes)

    def is_settled(self, ledger: Ledger) -> bool:
        """Tell whether nothing is to be written, on the host or in the ledger."""
        originals = ledger.of(self.subsystem.owner)
        if self.changed:
            return False
        return all(_is_settled(change, originals.get(change.name)) for change in self.changes)

    def leave(self) -> None:
        """Close a plan in which there is nothing to do."""
        for change in self.changes:
            change.after = change.before


def _is_settled(change: Change, known: Original | None) -> bool:
    if change.original is not None or change.forget:
        return False
    return known is None or known.desired == change.desired or change.status in (REFUSED, UNKNOWN, UNSUPPORTED)


def _predict(host: Host, changes: Sequence[Change], advice: Mapping[int, str]) -> None:
    """In check mode: reject what the kernel would refuse, as far as it says so without being changed."""
    refused = host.refusals([write for change in changes for write in change.writes])
    for change in changes:
        code = next((refused[path] for path, _value in change.writes if path in refused), None)
        if code is not None:
            change.reject(REFUSED, refusal(code, advice))


def read_managed(host: Host, path: str) -> bytes | None:
    """Return a managed file's bytes, None if there is none.

    :raises HostError: something else is in its place.
    """
    if host.readlink(path) is not None:
        raise HostError(f"{path} is a link, where a file of this collection belongs: remove it, or choose another name")
    if host.exists(path) and not host.is_file(path):
        raise HostError(f"{path} is not a file: move what is there away, or choose another name")
    try:
        return host.read_bytes(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error


def _expect_room(host: Host, jobs: Sequence[Job]) -> None:
    """Fail where the real run would, for want of a place to write."""
    for job in jobs:
        for path in job.files_changed:
            host.expect_room(path, len(job.files[path] or b""))
    if any(job.changed for job in jobs):
        host.expect_room(_ledger.PATH, BLOCK)


def _losses(ledger: Ledger, jobs: Sequence[Job]) -> list[str]:
    """Return a warning for what can't be restored: originals that were lost, and lines of others in our files."""
    warnings = [ledger.warning] if ledger.warning else []
    for path, before in ((path, before) for job in jobs for path, before in job.files_before.items()):
        if before is None or not before.startswith(HEADER.encode()):
            continue
        known = ledger.files.get(path)
        if known is None:
            warnings.append(
                f"{path} was written by this collection, but the ledger of originals ({_ledger.PATH}) knows nothing of "
                "it: the ledger was lost. What was there before the first run is not known, so a rollback removes this "
                f"file and takes the values of now for the originals. Restore the ledger, or {_ledger.COPY}, from a "
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
        warnings=warnings,
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


def told(error: OSError) -> str:
    """Say what could not be written, and why."""
    where = error.filename or ""
    return f"cannot write {where}: {error.strerror}" if where else f"cannot write: {error.strerror}"


def remedy(error: OSError) -> str:
    """Say what to do about it."""
    known = {
        errno.ENOSPC: "Free space on that file system (df -h), then run again.",
        errno.EDQUOT: "Raise the quota or free space, then run again.",
        errno.EROFS: "That file system is mounted read-only: remount it (mount -o remount,rw) once its cause is known.",
        errno.EACCES: "Root is needed: run with become: true.",
        errno.EPERM: "Something denies it even to root (an immutable file? lsattr), or this is not root: become: true.",
        errno.EISDIR: "A folder is in a file's place: move it away.",
    }
    return known.get(error.errno or 0, f"See {os.path.dirname(error.filename or '/')} on the host.")
