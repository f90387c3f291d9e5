# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files that this collection manages on a host: how to recognise one, and how to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._host.host import HostError

if TYPE_CHECKING:
    from .._host.host import Host
    from .ledger import Ledger
    from .model import Plan, Subsystem

HEADER = "# Managed by precog.fleet"

Files = dict[str, "bytes | None"]


def is_ours(host: Host, path: str) -> bool:
    """Tell whether a file carries our header; what else is wrong with it shows when it is read to be managed."""
    try:
        return host.read_bytes(path).startswith(HEADER.encode())
    except OSError:
        return False


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


def files_of(host: Host, subsystem: Subsystem, plan: Plan, ledger: Ledger) -> Files:
    """Return the managed files as they must be; None for no such file.

    A file that no longer holds anything gets its original content. Without an original, it is removed if it is ours.
    """
    wanted = subsystem.files(plan)
    if wanted is None:
        return {}
    found: Files = dict(wanted)
    for path in plan.paths:
        if path in wanted:
            continue
        if path in ledger.files:
            found[path] = ledger.files[path].content
        elif not plan.of_system and is_ours(host, path):
            found[path] = None
    return found
