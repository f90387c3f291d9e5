"""Takes memory on the guest until the kernel has to swap, tells systemd so, and keeps it: a service of type notify."""

import mmap
import os
import signal
import socket
from pathlib import Path

# Bytes: much at a time, in the kernel's huge pages, while there is plenty; then little by little.
MUCH, LITTLE = 2**24, 2**20
PLENTY = 96 * 1024  # KiB
LEAST_SWAPPED = 40 * 1024  # KiB
# More in swap than memory could take back, whatever the programs that look at it need meanwhile.
MARGIN = 24 * 1024  # KiB


def memory():
    """Return what the kernel says of memory, in KiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) for name, _colon, rest in (line.partition(":") for line in lines)}


def is_enough(now):
    """Tell whether what is swapped out has no place in memory."""
    return now["SwapTotal"] - now["SwapFree"] >= max(LEAST_SWAPPED, now["MemAvailable"] + MARGIN)


def main():
    """Grow, tell, wait."""
    held = []
    content = os.urandom(64) * (MUCH // 64)
    while not is_enough(now := memory()):
        size = MUCH if now["MemAvailable"] > PLENTY else LITTLE
        held.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        if size == MUCH:
            held[-1].madvise(mmap.MADV_HUGEPAGE)
        held[-1].write(content[:size])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.connect(os.environ["NOTIFY_SOCKET"])
        systemd.send(b"READY=1")
    signal.pause()


if __name__ == "__main__":
    main()
