"""SIGKILL before every system call that matters, and at random moments: the next run mends what is left."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from ansible_collections.precog.fleet.tests.unit.made_host import LEDGER, NAME, OURS, absent, apply, files_of, make_host

BEFORE_US = b"# by hand\nvm.swappiness = 7\n\xff"
FIRST = {"vm.swappiness": 10, "net.ipv4.tcp_rmem": [4096, 65536, 134217728]}
SECOND = {"vm.swappiness": 20, "vm.vfs_cache_pressure": 50}
HEADER = "# Managed by precog.fleet: the next run undoes what is changed here.\n"
WHOLE = {
    BEFORE_US,
    f"{HEADER}net.ipv4.tcp_rmem = 4096 65536 134217728\nvm.swappiness = 10\n".encode(),
    f"{HEADER}vm.swappiness = 20\nvm.vfs_cache_pressure = 50\n".encode(),
}
CALLS = ("open", "write", "close", "fchown", "fchmod", "fsync", "rename", "unlink", "mkdir")
RUNS = {
    "first apply": (None, lambda host: apply(host, FIRST)),
    "change": (lambda host: apply(host, FIRST), lambda host: apply(host, SECOND)),
    "absent": (lambda host: apply(host, FIRST), absent),
}


def machine(path):
    host = make_host(path)
    host.put(OURS, BEFORE_US, 0o640)
    return host


def in_child(work):
    """Fork; return the child's process id. The child ends without a trace of pytest."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def die_before(call):
    """Make this process kill itself just before it makes the numbered system call."""
    made = iter(range(10**6))

    def fatal(function):
        def counted(*args, **kwargs):
            if next(made) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    for name in CALLS:
        setattr(os, name, fatal(getattr(os, name)))


def was_killed(child):
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def check_whole(host):
    assert host.at(OURS).read_bytes() in WHOLE
    if host.at(LEDGER).exists():
        assert json.loads(host.text(LEDGER))["version"] == 1
    assert {place.name for place in host.at("/etc/sysctl.d").glob("*.conf")} == {"99-sysctl.conf", f"{NAME}.conf"}


def check_mended(host, before, wishes):
    apply(host, wishes)
    again = apply(host, wishes)
    assert not again.changed
    assert {change.status for change in again.changes} == {"ok"}
    absent(host)
    assert files_of(host) == before
    assert json.loads(host.text(LEDGER)) == {"version": 1, "settings": {}, "files": {}}


@pytest.mark.parametrize("run", RUNS)
def test_killed_before_any_system_call(tmp_path, run):
    prepare, work = RUNS[run]
    before = files_of(machine(tmp_path / "before"))
    for call in range(1000):
        host = machine(tmp_path / str(call))
        if prepare is not None:
            prepare(host)
        killed = was_killed(in_child(lambda host=host, call=call: (die_before(call), work(host))))
        check_whole(host)
        if call % 2:
            absent(host)  # straight back
            assert files_of(host) == before
        check_mended(host, before, SECOND)
        if not killed:
            assert call > 20
            return
    raise AssertionError("the run never ends")


def test_killed_sixty_times_at_random_moments(tmp_path):
    moments = random.Random(55)
    host = machine(tmp_path / "host")
    before = files_of(host)
    works = [lambda: apply(host, FIRST), lambda: apply(host, SECOND), lambda: absent(host)]
    longest = max(duration(work) for work in works)
    kills = turn = 0
    while kills < 60:
        child = in_child(works[turn % 3])
        time.sleep(moments.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        kills += was_killed(child)
        check_whole(host)
        turn += 1
        if turn % 5 == 0:
            check_mended(host, before, [FIRST, SECOND][turn % 2])
        assert turn < 2000, "the children are too fast to be killed"


def duration(work):
    start = time.monotonic()
    was_killed(in_child(work))
    return time.monotonic() - start
