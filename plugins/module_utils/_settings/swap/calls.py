# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The two system calls for swap areas, with the kernel's own errno."""

from __future__ import annotations

import os
from collections.abc import Iterable

# <sys/swap.h>
PREFER = 0x8000
PRIORITY_MASK = 0x7FFF
DISCARD = {"discard": 0x10000, "discard=once": 0x30000, "discard=pages": 0x50000}


def flags(priority: int | None, options: Iterable[str] = ()) -> int:
    """Return the flags of swapon.

    :param priority: None or below zero to let the kernel choose.
    :param options: of fstab; those about discarding count.
    """
    found = 0 if priority is None or priority < 0 else PREFER | (priority & PRIORITY_MASK)
    for option in options:
        found |= DISCARD.get(option, 0)
    return found


class Calls:
    """The real kernel."""

    def on(self, path: str, flags: int) -> None:
        """Activate an area.

        :raises OSError: the kernel refused it.
        """
        self._call("swapon", path, flags)

    def off(self, path: str) -> None:
        """Deactivate an area; returns when all of it is back in memory, which can take minutes.

        :raises OSError: the kernel refused it.
        """
        self._call("swapoff", path)

    @staticmethod
    def _call(name: str, path: str, *arguments: int) -> None:
        # Only a run that changes something needs it.
        import ctypes

        function = getattr(ctypes.CDLL(None, use_errno=True), name)
        if function(os.fsencode(path), *(ctypes.c_int(argument) for argument in arguments)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
