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
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.precog.fleet.plugins.module_utils import _ledger
from ansible_collections.precog.fleet.plugins.module_utils._host import HostError, StagedFile
from ansible_collections.precog.fleet.plugins.module_utils._ledger import Ledger, Original, OriginalFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ansible_collections.precog.fleet.plugins.module_utils._host import Host

OK = "ok"
CHANGED = "changed"
DRIFTED = "drifted"
OVERRIDDEN = "overridden"
UNSUPPORTED = "unsupported"
UNKNOWN = "unknown"
REFUSED = "refused"
BLOCK = 4096  # bytes; what the ledger takes at the least
HEADER = "# Managed by precog.fleet"

STATUSES = (OK, CHANGED, DRIFTED, OVERRIDDEN, UNSUPPORTED, UNKNOWN, REFUSED)
FAILING = (UNKNOWN, REFUSED)

Files = dict[str, "bytes | None"]


@dataclass
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


@dataclass
class Report:
    """What a run found and did."""

    changed: bool
    changes: list[Change]
    diff: list[dict[str, str]] = field(default_factory=list)

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
    """Return one message that names every failing setting, its value and the reason."""
    lines = []
    for change in failures:
        value = "" if change.desired is None else f" = {change.desired}"
        lines.append(f"{change.name}{value}: {change.status}: {change.reason}")
    return f"{len(lines)} setting(s) can't be applied (the others are not affected): " + " | ".join(lines)


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


def refusal(code: int) -> str:
    """Return the reason for what the kernel refused with an errno."""
    return f"the kernel refused it: {os.strerror(code)} ({errno.errorcode.get(code, '?')})"


def run(host: Host, subsystems: Sequence[Subsystem], *, check_mode: bool) -> Report:
    """Bring all settings of some subsystems to where they should be, or say what that would change.

    :raises HostError: nothing could be done; the host is as it was.
    """
    try:
        if check_mode:
            ledger = Ledger.load(host)
            jobs = [_Job.make(host, subsystem, ledger, True) for subsystem in subsystems]
            _expect_room(host, jobs)
            return _report(jobs)
        with host.lock(_ledger.LOCK):
            ledger = Ledger.load(host)
            jobs = [_Job.make(host, subsystem, ledger, False) for subsystem in subsystems]
            _apply(host, ledger, jobs)
            return _report(jobs)
    except OSError as error:
        raise HostError(f"{_told(error)}. Nothing was changed. {_remedy(error)}") from error


class _Job:
    """One subsystem's plan while it is carried out."""

    def __init__(self, subsystem: Subsystem, changes: list[Change], files_before: Files, files: Files) -> None:
        self.subsystem = subsystem
        self.changes = changes
        self.files_before = files_before
        self.files = files

    @classmethod
    def make(cls, host: Host, subsystem: Subsystem, ledger: Ledger, check_mode: bool) -> _Job:
        changes = subsystem.plan(host, ledger, check_mode=check_mode)
        if check_mode:
            _predict(host, changes)
            for change in changes:
                change.after = change.before if change.target is None else change.target
        files = subsystem.files(changes, ledger)
        before = {path: _read_managed(host, path) for path in files}
        subsystem.settle(changes, files)
        return cls(subsystem, changes, before, files)

    @property
    def files_changed(self) -> list[str]:
        return [path for path in self.files if self.files[path] != self.files_before[path]]

    @property
    def changed(self) -> bool:
        return bool(self.files_changed) or any(change.writes for change in self.changes)


def _predict(host: Host, changes: Sequence[Change]) -> None:
    """In check mode: reject what the kernel would refuse, as far as it says so without being changed."""
    refused = host.refusals([write for change in changes for write in change.writes])
    for change in changes:
        code = next((refused[path] for path, _value in change.writes if path in refused), None)
        if code is not None:
            change.reject(REFUSED, refusal(code))


def _read_managed(host: Host, path: str) -> bytes | None:
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


def _expect_room(host: Host, jobs: Sequence[_Job]) -> None:
    """Fail where the real run would, for want of a place to write."""
    for job in jobs:
        for path in job.files_changed:
            host.expect_room(path, len(job.files[path] or b""))
    if any(job.changed for job in jobs):
        host.expect_room(_ledger.PATH, BLOCK)


def _apply(host: Host, ledger: Ledger, jobs: Sequence[_Job]) -> None:
    for job in jobs:
        for path in job.subsystem.paths:
            host.sweep(path)
    _record(host, ledger, jobs)
    with ExitStack() as undo:
        staged = {path: _stage(host, ledger, job, path, undo) for job in jobs for path in job.files_changed}
        # Written even if it says nothing new, so that a disk without room for it shows before anything is changed.
        ledger.save(always=any(job.changed for job in jobs))
        try:
            _set_values(host, jobs)
            for job in jobs:
                if any(change.status == REFUSED for change in job.changes):
                    _restage(host, ledger, job, staged, undo)
            _commit(host, jobs, staged)
        except OSError:
            # The disk says no even now: take the kernel's values back too.
            for change in reversed([change for job in jobs for change in job.changes]):
                _put_back(host, change)
            raise
    _close(ledger, jobs)
    try:
        ledger.save()
    except OSError as error:
        raise HostError(
            f"all is applied, but {_told(error)}: the ledger of originals is as before this run, and still right. "
            f"{_remedy(error)}"
        ) from error


def _set_values(host: Host, jobs: Sequence[_Job]) -> None:
    """Give the kernel all values, then read all of them again: a later write may move what an earlier one had set."""
    for job in jobs:
        for change in job.changes:
            _write(host, job.subsystem, change)
    for job in jobs:
        for change in job.changes:
            _reread(host, job.subsystem, change)


def _record(host: Host, ledger: Ledger, jobs: Sequence[_Job]) -> None:
    """Note what everything was before its first change."""
    for job in jobs:
        originals = ledger.of(job.subsystem.owner)
        for change in job.changes:
            if change.original is not None:
                originals[change.name] = change.original
        for path in job.files_changed:
            if path not in ledger.files:
                ledger.files[path] = _original_file(host, path, job.files_before[path])


def _original_file(host: Host, path: str, content: bytes | None) -> OriginalFile:
    """Return what a rollback puts there; a file of ours whose ledger was lost is no original."""
    if content is None or content.startswith(HEADER.encode()):
        return OriginalFile(None, None)
    return OriginalFile(content, host.meta(path))


def _stage(host: Host, ledger: Ledger, job: _Job, path: str, undo: ExitStack) -> StagedFile | None:
    """Put a file's next content on disk; None for one to be removed."""
    content = job.files[path]
    if content is None:
        return None
    original = ledger.files.get(path)
    staged = host.stage(path, content, original.meta if original and original.content == content else None)
    undo.callback(staged.discard)
    return staged


def _restage(host: Host, ledger: Ledger, job: _Job, staged: dict[str, StagedFile | None], undo: ExitStack) -> None:
    """What the kernel refused must not last: make the files anew without it."""
    old = job.files
    job.files = job.subsystem.files(job.changes, ledger)
    for path in old:
        staged.pop(path, None)
    for path in job.files_changed:
        staged[path] = _stage(host, ledger, job, path, undo)
    job.subsystem.settle(job.changes, job.files)


def _write(host: Host, subsystem: Subsystem, change: Change) -> None:
    """Give the kernel one setting's value, and make sure that it has it."""
    if not change.writes:
        return
    try:
        for path, value in change.writes:
            host.write_kernel(path, value)
    except OSError as error:
        if len(change.writes) > 1:
            _put_back(host, change)
        change.reject(REFUSED, refusal(error.errno or 0))
        change.after = subsystem.current(host, change)
        return
    after = subsystem.current(host, change)
    if change.target is None or subsystem.same(change, after, change.target):
        return
    reason = "ignored it" if subsystem.same(change, after, change.before) else f"made {after} of it"
    _put_back(host, change)
    change.reject(REFUSED, f"the kernel took the write without an error but {reason}: see the limits of this key")
    change.after = subsystem.current(host, change)


def _put_back(host: Host, change: Change) -> None:
    """Undo one setting's writes, as far as the kernel lets us."""
    for path, value in change.undo:
        with suppress(OSError):
            host.write_kernel(path, value)


def _commit(host: Host, jobs: Sequence[_Job], staged: dict[str, StagedFile | None]) -> None:
    """Put the files into place: all of them, or none."""
    before = {path: content for job in jobs for path, content in job.files_before.items()}
    begun = []
    try:
        for path, file in staged.items():
            begun.append(path)
            if file is None:
                host.remove(path)
            else:
                file.commit()
    except OSError:
        for path in begun:
            _put_back_file(host, path, before[path])
        raise


def _put_back_file(host: Host, path: str, content: bytes | None) -> None:
    """Undo one file's replacement, as far as the disk lets us."""
    with suppress(OSError, HostError):
        if _read_managed(host, path) == content:
            return
        if content is None:
            host.remove(path)
        else:
            host.stage(path, content).commit()


def _reread(host: Host, subsystem: Subsystem, change: Change) -> None:
    """Read a setting when all values are set."""
    if change.status in (UNKNOWN, UNSUPPORTED, REFUSED):
        return
    change.after = subsystem.current(host, change)
    if change.target is not None and not subsystem.same(change, change.after, change.target):
        change.status, change.line, change.forget = REFUSED, change.kept, False
        change.explain(f"another setting of this run, or another program, made it {change.after} again")


def _close(ledger: Ledger, jobs: Sequence[_Job]) -> None:
    """Note what is applied, and forget what was given back."""
    for job in jobs:
        originals = ledger.of(job.subsystem.owner)
        for change in job.changes:
            if change.forget or _is_untouched(job.subsystem, change, originals.get(change.name)):
                originals.pop(change.name, None)
            elif change.name in originals and change.status not in (REFUSED, UNKNOWN, UNSUPPORTED):
                originals[change.name].desired = change.desired
        for path, content in job.files.items():
            original = ledger.files.get(path)
            if original is not None and content == original.content and not originals:
                del ledger.files[path]


def _is_untouched(subsystem: Subsystem, change: Change, known: Original | None) -> bool:
    """Tell whether a setting is still its original, as its first value was refused: there is nothing to give back."""
    never_applied = known is not None and known.desired is None and change.status == REFUSED
    return never_applied and known is not None and subsystem.same(change, change.after, known.value)


def _report(jobs: Sequence[_Job]) -> Report:
    diff: list[dict[str, str]] = []
    for job in jobs:
        diff += [_file_diff(path, job.files_before[path], job.files[path]) for path in job.files_changed]
        diff += _value_diff(job.changes)
    return Report(
        changed=any(job.changed for job in jobs),
        changes=[change for job in jobs for change in job.changes],
        diff=diff,
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


def _told(error: OSError) -> str:
    where = error.filename or ""
    return f"cannot write {where}: {error.strerror}" if where else f"cannot write: {error.strerror}"


def _remedy(error: OSError) -> str:
    remedies = {
        errno.ENOSPC: "Free space on that file system (df -h), then run again.",
        errno.EDQUOT: "Raise the quota or free space, then run again.",
        errno.EROFS: "That file system is mounted read-only: remount it (mount -o remount,rw) once its cause is known.",
        errno.EACCES: "Root is needed: run with become: true.",
        errno.EPERM: "Something denies it even to root (an immutable file? lsattr), or this is not root: become: true.",
        errno.EISDIR: "A folder is in a file's place: move it away.",
    }
    return remedies.get(error.errno or 0, f"See {os.path.dirname(error.filename or '/')} on the host.")
