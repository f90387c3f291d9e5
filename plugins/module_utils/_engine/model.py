# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The data that the settings engine works with: changes, subsystems, plans, statuses and messages.

Nothing is read or written when this is used by itself: subsystems and the engine do that.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._host.host import Host
    from .ledger import Ledger, Original
    from .managed import Files

OK = "ok"
CHANGED = "changed"
DRIFTED = "drifted"
OVERRIDDEN = "overridden"
UNSUPPORTED = "unsupported"
UNKNOWN = "unknown"
REFUSED = "refused"

STATUSES = (OK, CHANGED, DRIFTED, OVERRIDDEN, UNSUPPORTED, UNKNOWN, REFUSED)
FAILING = (UNKNOWN, REFUSED)


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
    :ivar shortage: why memory did not allow the write, nor any that follow; "" where it did.
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
    shortage: str = ""
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
        """Add a reason to those already given."""
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


class Plan(NamedTuple):
    """What a subsystem plans for one host. It keeps nothing about the host in itself.

    :ivar changes: one for every setting concerned, in the order of writing.
    :ivar paths: all files that may be managed on this host; what an earlier run left beside them is swept.
    :ivar state: what was read, for the subsystem's other functions.
    :ivar warnings: what an operator should know besides the rows.
    :ivar pending: whether programs still have to be notified of files that an earlier run put into place.
    :ivar of_system: whether the files belong to the system and only contain lines of ours: such a file is never
        removed, even if it begins with our header.
    """

    changes: list[Change]
    paths: tuple[str, ...]
    state: Any = None
    warnings: tuple[str, ...] = ()
    pending: bool = False
    of_system: bool = False


class Subsystem(ABC):
    """One kind of setting: how it is read, planned and made to last. It holds the request, and nothing about a host."""

    owner: str
    """The managed file by whose path the ledger knows this subsystem's originals."""

    advice: ClassVar[Mapping[int, str]] = {}
    """What to do about a write that the kernel refused, by its errno."""

    @abstractmethod
    def read(self, host: Host, ledger: Ledger, *, check_mode: bool) -> Any:
        """Read all that the plan needs."""

    @abstractmethod
    def plan(self, state: Any) -> Plan:
        """Return what to do. Pure."""

    @abstractmethod
    def current(self, host: Host, plan: Plan, change: Change) -> str | None:
        """Read a setting's value again; None if it can't be read."""

    @abstractmethod
    def same(self, change: Change, left: str | None, right: str | None) -> bool:
        """Tell whether two spellings are the same value of a setting."""

    @abstractmethod
    def files(self, plan: Plan) -> Mapping[str, bytes] | None:
        """Return the managed files that hold something of what is left of the plan; None: no file is touched. Pure.

        The engine restores or removes the others of the plan's paths.
        """

    @abstractmethod
    def settle(self, plan: Plan, files: Files) -> None:
        """Fill in what the next boot will give with these files, and who decides it. Pure."""

    def write(self, host: Host, plan: Plan, change: Change) -> None:
        """Bring a setting about at run time, as its `writes` say.

        :raises OSError: the kernel refused it.
        """
        del plan
        for path, value in change.writes:
            host.write_kernel(path, value)

    def put_back(self, host: Host, plan: Plan, change: Change) -> None:
        """Undo one setting's writes, as far as the kernel lets us. Never raises."""
        del plan
        for path, value in change.undo:
            with suppress(OSError):
                host.write_kernel(path, value)

    def announce(self, host: Host, plan: Plan, paths: Sequence[str]) -> None:
        """Notify programs of the host that managed files have changed; by default there are none.

        :raises HostError: a program could not be notified; the files are in place.
        """
        return


class Job:
    """One subsystem's plan while it is carried out.

    :ivar files_before: the managed files' bytes as they were found; None for no file.
    :ivar files: the same as they must be.
    """

    def __init__(self, subsystem: Subsystem, plan: Plan, files_before: Files, files: Files) -> None:
        self.subsystem = subsystem
        self.plan = plan
        self.changes = plan.changes
        self.files_before = files_before
        self.files = files

    @property
    def files_changed(self) -> list[str]:
        """The paths of the managed files that are not as they must be."""
        return [path for path in self.files if self.files[path] != self.files_before[path]]

    @property
    def changed(self) -> bool:
        """Whether anything is to be written, or a program to be notified of what an earlier run wrote."""
        return self.plan.pending or bool(self.files_changed) or any(change.writes for change in self.changes)

    def leave(self) -> None:
        """Close a plan in which there is nothing to do."""
        for change in self.changes:
            change.after = change.before


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


def stated(status: str, reason: str) -> str:
    """Return a status with its reason, the status once. Pure."""
    return reason if reason.startswith(status) else ": ".join(filter(None, (status, reason)))


def refusal(code: int, advice: Mapping[int, str]) -> str:
    """Return the reason for what the kernel refused with an errno.

    :param advice: what to do about it, by errno.
    """
    said = f"the kernel says {os.strerror(code)} ({errno.errorcode.get(code, '?')})"
    return ": ".join(filter(None, (said, advice.get(code))))


def write_error(error: OSError) -> str:
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
