# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file by which a load balancer is told to send an instance no more requests: /run/precog-miner/NAME/drain.

The folder is root's, and read-only for the miner. Releases from before that left it to the miner, so the folder is
taken over here before anything is done in it, and nothing that was put there is followed.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .units import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._host.host import Host

FILE = "drain"


def mark(host: Host, name: str) -> None:
    """Have an instance say that it is not ready; one that has no folder runs no process to say so.

    :raises OSError: the file can't be made.
    """
    with suppress(FileNotFoundError), _folder(host, name) as folder:
        _clear(folder)
        os.close(os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder))


def unmark(host: Host, name: str) -> None:
    """Let an instance be ready again.

    :raises OSError: the file can't be removed.
    """
    with suppress(FileNotFoundError), _folder(host, name) as folder:
        _clear(folder)


def forget(host: Host, name: str) -> None:
    """Remove the folder of an instance that is no more.

    :raises OSError: it can't be removed.
    """
    host.remove_tree(f"{RUN}/{name}")
    host.remove_if_empty(RUN)


def marked(host: Host) -> frozenset[str]:
    """Return the names of the instances that are to get no requests."""
    return frozenset(name for name in host.list_dir(RUN) if FILE in host.list_dir(f"{RUN}/{name}"))


def _clear(folder: int) -> None:
    """Remove what is in the file's place; a folder there, which only a miner can have made, is moved away first."""
    try:
        os.unlink(FILE, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        aside = f".{FILE}-{time.time_ns()}"
        os.rename(FILE, aside, src_dir_fd=folder, dst_dir_fd=folder)
        shutil.rmtree(f"/proc/self/fd/{folder}/{aside}", ignore_errors=True)


@contextmanager
def _folder(host: Host, name: str) -> Iterator[int]:
    """Yield the descriptor of an instance's folder itself, which is root's by then."""
    fd = os.open(f"{host.locate(RUN)}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o755)
        yield fd
    finally:
        os.close(fd)
