"""Processes that are killed with SIGKILL before a certain system call."""

from __future__ import annotations

import os
import signal

CALLS = ("open", "write", "close", "fchown", "fchmod", "fsync", "rename", "unlink", "mkdir", "symlink", "rmdir")


def in_child(work):
    """Fork; return the child's process id. The child ends without a trace of pytest."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def die_before(call, host, calls=CALLS):
    """Make this process kill itself just before it makes the numbered system call, or gives the numbered order."""
    made = iter(range(10**6))

    def fatal(function):
        def counted(*args, **kwargs):
            if next(made) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    for name in calls:
        setattr(os, name, fatal(getattr(os, name)))
    # The made-up kernel and systemd are told something at each step.
    host._step = fatal(host._step)


def was_killed(child):
    """Wait for a child; it was killed, or has done all that it had to."""
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def killed_before(call, host, work, calls=CALLS):
    """Run in a child that is killed before the numbered call, if it comes to it; tell whether it was."""
    return was_killed(in_child(lambda: (die_before(call, host, calls), work(host))))
