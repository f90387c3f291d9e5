# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks the kernel, without changing anything, whether it would take a value: in throw-away namespaces of a child."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLONE_NEWUTS = 0x04000000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWNET = 0x40000000

# Numeric keys that a new namespace has of its own. Text ones are left out: some make the kernel load a module.
_TRIABLE = re.compile(
    r"/proc/sys/(net/ipv[46]/(?!.*congestion_control)|net/(core/somaxconn|unix)|kernel/(sem|msg\w+|shm\w+)$)"
)


def is_triable(path: str) -> bool:
    """Tell whether a key's value can be tried."""
    return bool(_TRIABLE.match(path))


def refusals(writes: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the errno of each write that the kernel refuses in namespaces of its own, by path.

    What can't be tried (no such key there, no right to make namespaces) is left out. Never raises.

    :param writes: (path, value), tried in order.
    """
    triable = [(path, value) for path, value in writes if is_triable(path)]
    if not triable:
        return {}
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(writer, triable)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else {}


def _in_child(writer: int, writes: Sequence[tuple[str, str]]) -> None:
    """Try all writes, send the refusals, and end this process whatever happens."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS) == 0:
            found = {path: code for path, value in writes for code in [_try(path, value)] if code}
            os.write(writer, json.dumps(found).encode())
    finally:
        os._exit(0)


def _try(path: str, value: str) -> int | None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.write(fd, (value + "\n").encode())
    except OSError as error:
        return error.errno if error.errno in (errno.EINVAL, errno.ERANGE) else None
    finally:
        os.close(fd)
    return None
