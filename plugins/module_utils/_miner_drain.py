# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file by which a load balancer is told to send an instance no more requests: /run/precog-miner/NAME/drain.

Its folder is the miner's own, so a miner that was broken into can put there what it likes: nothing in it is followed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ansible_collections.precog.fleet.plugins.module_utils._miner_units import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ansible_collections.precog.fleet.plugins.module_utils._host import Host

RUN = f"/run/{SERVICE}"
FILE = "drain"


def mark(host: Host, name: str) -> None:
    """Have an instance say that it is not ready; one that has no folder runs no process to say so.

    :raises OSError: the file can't be made.
    """
    with suppress(FileNotFoundError), _folder(host, name) as folder:
        with suppress(FileNotFoundError):
            os.unlink(FILE, dir_fd=folder)
        os.close(os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder))


def unmark(host: Host, name: str) -> None:
    """Let an instance be ready again.

    :raises OSError: the file can't be removed.
    """
    with suppress(FileNotFoundError), _folder(host, name) as folder:
        os.unlink(FILE, dir_fd=folder)


def marked(host: Host) -> frozenset[str]:
    """Return the names of the instances that are to get no requests."""
    return frozenset(name for name in host.list_dir(RUN) if FILE in host.list_dir(f"{RUN}/{name}"))


@contextmanager
def _folder(host: Host, name: str) -> Iterator[int]:
    """Yield the descriptor of an instance's folder itself: what is reached by it stays in that folder."""
    fd = os.open(f"{host.locate(RUN)}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
