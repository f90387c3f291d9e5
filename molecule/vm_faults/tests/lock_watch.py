"""Waits on the guest for a module of ours at its work: `python3 lock_watch.py NUMBER PAUSE`.

Prints `ready` when it looks, and `held` when the module has the lock under which it reads and writes; the first module
that it sees has the number 0. With a number of seconds as PAUSE it kills the module then with SIGKILL, and prints
`killed` or, if that was faster, `ended`; with `-` it leaves it alone and prints for how long it held the lock.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path

LOCK = "/var/lib/precog-fleet/lock"
# How Ansible starts a module whose program it sends through a pipe.
MODULE = re.compile(rb"/usr/bin/python3[.0-9]*\0")
POLL = 0.02  # seconds; a module needs longer until it takes the lock
PATIENCE = 120  # seconds


def processes():
    """Return the ids of all processes."""
    return {int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()}


def is_module(pid):
    """Tell whether a process is a module that runs as root."""
    folder = Path("/proc", str(pid))
    try:
        return folder.stat().st_uid == 0 and MODULE.fullmatch((folder / "cmdline").read_bytes())
    except OSError:
        return False


def wait_for(number):
    """Return the process id of the module with this number, once it runs."""
    others = processes()
    seen = []
    end = time.monotonic() + PATIENCE
    print("ready", flush=True)
    while len(seen) <= number:
        if time.monotonic() > end:
            sys.exit(f"no module number {number} for {PATIENCE} s")
        time.sleep(POLL)
        seen += [pid for pid in sorted(processes() - others - set(seen)) if is_module(pid)]
    return seen[number]


def holds(pid):
    """Tell whether a process holds the lock."""
    try:
        inode = str(Path(LOCK).stat().st_ino)
    except FileNotFoundError:
        return False
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(lock[1:5:3] == ["FLOCK", str(pid)] and lock[5].rpartition(":")[2] == inode for lock in locks)


def main():
    """Wait, then kill or measure."""
    pid = wait_for(int(sys.argv[1]))
    # Without a pause: the shortest hold of the lock must not be missed.
    while not holds(pid):
        if not is_module(pid):
            print("ended", flush=True)
            return
    began = time.monotonic()
    print("held", flush=True)
    if sys.argv[2] == "-":
        while holds(pid):
            pass
        print(f"{time.monotonic() - began:.3f}", flush=True)
        return
    time.sleep(float(sys.argv[2]))
    if is_module(pid):
        os.kill(pid, signal.SIGKILL)
        print("killed", flush=True)
    else:
        print("ended", flush=True)


if __name__ == "__main__":
    main()
