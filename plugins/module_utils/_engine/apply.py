# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The half of the settings engine that writes: originals first, files staged, the kernel's values, files into place.

Loaded only when there is something to do.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from .._host.host import HostError, StagedFile
from .ledger import OriginalFile
from .managed import HEADER, files_of, read_managed
from .model import REFUSED, UNKNOWN, UNSUPPORTED, refusal, remedy, write_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._host.host import Host
    from .ledger import Ledger, Original
    from .model import Change, Job, Subsystem


def apply(host: Host, ledger: Ledger, jobs: Sequence[Job]) -> None:
    """Carry out plans, all of them together.

    :raises OSError: the disk said no; nothing was changed.
    :raises HostError: all is applied, but something else has to be looked at.
    """
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
            for job in reversed(jobs):
                for change in reversed(job.changes):
                    job.subsystem.put_back(host, job.plan, change)
            raise
    # Before the ledger forgets: what a run that is cut off here gave back, the next one tells again.
    for job in jobs:
        _announce(host, job)
    _close(ledger, jobs)
    try:
        ledger.save()
    except OSError as error:
        raise HostError(
            f"all is applied, but {write_error(error)}: the ledger of originals is unchanged, and still right. "
            f"{remedy(error)}"
        ) from error


def _announce(host: Host, job: Job) -> None:
    """Tell programs of changed files, and read what they made of it."""
    gives_back = any(change.forget for change in job.changes)
    if not job.files_changed and not job.plan.pending and not gives_back:
        return
    job.subsystem.announce(host, job.plan, job.files_changed)
    for change in job.changes:
        if change.status not in (UNKNOWN, UNSUPPORTED, REFUSED):
            change.after = job.subsystem.current(host, job.plan, change)


def _set_values(host: Host, jobs: Sequence[Job]) -> None:
    """Give the kernel all values, then read all of them again: a later write may move what an earlier one had set."""
    for job in jobs:
        for change in job.changes:
            _write(host, job, change)
    for job in jobs:
        for change in job.changes:
            _reread(host, job, change)


def _record(host: Host, ledger: Ledger, jobs: Sequence[Job]) -> None:
    """Note what everything was before its first change."""
    for job in jobs:
        originals = ledger.of(job.subsystem.owner)
        for change in job.changes:
            if change.original is not None:
                originals[change.name] = change.original
        for path, content in job.files.items():
            found = job.files_before[path]
            # One that needs no change is noted too, if it is ours and was lost from the ledger.
            if path not in ledger.files and (content != found or (found or b"").startswith(HEADER.encode())):
                ledger.files[path] = _original_file(host, path, found)
            if path in ledger.files and content is not None and content != found:
                # Both, as this run may be cut off before or after the file is in place.
                ledger.files[path].written = (ledger.files[path].written or b"") + content


def _original_file(host: Host, path: str, content: bytes | None) -> OriginalFile:
    """Return what a rollback puts there; a file of ours whose ledger was lost is no original."""
    if content is None or content.startswith(HEADER.encode()):
        return OriginalFile(None, None)
    return OriginalFile(content, host.meta(path))


def _stage(host: Host, ledger: Ledger, job: Job, path: str, undo: ExitStack) -> StagedFile | None:
    """Put a file's next content on disk; None for one to be removed."""
    content = job.files[path]
    if content is None:
        return None
    original = ledger.files.get(path)
    staged = host.stage(path, content, original.meta if original and original.content == content else None)
    undo.callback(staged.discard)
    return staged


def _restage(host: Host, ledger: Ledger, job: Job, staged: dict[str, StagedFile | None], undo: ExitStack) -> None:
    """What the kernel refused must not last: make the files anew without it."""
    old = job.files
    job.files = files_of(host, job.subsystem, job.plan, ledger)
    for path in old:
        staged.pop(path, None)
    for path in job.files_changed:
        staged[path] = _stage(host, ledger, job, path, undo)
    job.subsystem.settle(job.plan, job.files)


def _write(host: Host, job: Job, change: Change) -> None:
    """Give the kernel one setting's value, and make sure that it has it."""
    if not change.writes:
        return
    subsystem, plan = job.subsystem, job.plan
    try:
        subsystem.write(host, plan, change)
    except OSError as error:
        # Even one refused write may have taken effect in part: the kernel stores a vector's first numbers.
        subsystem.put_back(host, plan, change)
        change.reject(REFUSED, refusal(error.errno or 0, subsystem.advice))
        change.after = subsystem.current(host, plan, change)
        return
    after = subsystem.current(host, plan, change)
    if change.target is None or subsystem.same(change, after, change.target):
        return
    reason = "ignored it" if subsystem.same(change, after, change.before) else f"made {after} of it"
    subsystem.put_back(host, plan, change)
    change.reject(REFUSED, f"the kernel took the write without an error but {reason}: see the limits of this key")
    change.after = subsystem.current(host, plan, change)


def _commit(host: Host, jobs: Sequence[Job], staged: dict[str, StagedFile | None]) -> None:
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
        if read_managed(host, path) == content:
            return
        if content is None:
            host.remove(path)
        else:
            host.stage(path, content).commit()


def _reread(host: Host, job: Job, change: Change) -> None:
    """Read a setting when all values are set."""
    if change.status in (UNKNOWN, UNSUPPORTED, REFUSED):
        return
    change.after = job.subsystem.current(host, job.plan, change)
    if change.target is not None and not job.subsystem.same(change, change.after, change.target):
        change.status, change.line, change.forget = REFUSED, change.kept, False
        change.explain(f"another setting of this run, or another program, made it {change.after} again")


def _close(ledger: Ledger, jobs: Sequence[Job]) -> None:
    """Note what is applied, and forget what was given back."""
    for job in jobs:
        originals = ledger.of(job.subsystem.owner)
        for change in job.changes:
            if change.forget or _is_untouched(job.subsystem, change, originals.get(change.name)):
                originals.pop(change.name, None)
            elif change.name in originals and change.status not in (REFUSED, UNKNOWN, UNSUPPORTED):
                originals[change.name].desired = change.desired
                originals[change.name].moved |= bool(change.writes)
        for path, content in job.files.items():
            original = ledger.files.get(path)
            if original is not None and content == original.content and not originals:
                del ledger.files[path]
            elif original is not None:
                original.written = content


def _is_untouched(subsystem: Subsystem, change: Change, known: Original | None) -> bool:
    """Tell whether a setting is still its original, as its first value was refused: there is nothing to give back."""
    never_applied = known is not None and known.desired is None and change.status == REFUSED
    return never_applied and known is not None and subsystem.same(change, change.after, known.value)
