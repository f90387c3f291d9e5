"""Runs that are killed, and power that is lost meanwhile: no file is torn, and the next run mends what is left.

A sample, on a real kernel and disk, of what tests/fault does at every system call.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass

import pytest

SEED = int(os.environ.get("PRECOG_FLEET_SEED") or random.randrange(10**6))
# The same as in the engine: what is staged beside a file. No reader of fragments takes it for one.
STAGED = ".precog-fleet.tmp"
PARTS = ("kernel_tuning", "limits")
KILLS, MOST_ATTEMPTS = 3, 15
POWER_LOSSES = 3
# The kernel computes some values from the memory that is free at boot, which is never quite the same.
NEAR = 0.01


@dataclass(frozen=True)
class Known:
    """What is to be compared with.

    :ivar originals: all of the machine before the first run.
    :ivar seen: what it is like untuned and tuned, by what is wanted of it.
    :ivar held: for how many seconds each part's module holds the lock.
    """

    originals: dict
    seen: dict
    held: dict


@pytest.fixture(scope="module")
def known(machine, look):
    """The record, and a machine that is tuned."""
    originals, untuned = look.state(), machine.seen()
    with machine.watch(0, None) as first, machine.watch(1, None) as second:
        machine.tune()
        held = {part: float(watch.stdout.read().split()[-1]) for part, watch in zip(PARTS, (first, second))}
    tuned = machine.seen()
    assert tuned.files != untuned.files
    machine.save(machine.tuned)
    return Known(originals, {"absent": untuned, "present": tuned}, held)


def check_whole(machine, known):
    """No file is torn or empty, none is too many, and the originals are known."""
    found = machine.seen().files
    looks = [seen.files for seen in known.seen.values()]
    staged = {path for path in found if path.endswith(STAGED)}
    for path in staged:
        folder, _slash, name = path.rpartition("/")
        assert name.startswith("."), path
        assert any(f"{folder}/{name[1 : -len(STAGED)]}" in look for look in looks), path
    for path in {*found, *looks[0], *looks[1]} - staged:
        assert found.get(path) in [look.get(path) for look in looks], path
    ledger = machine.ledger()
    assert ledger is None or json.loads(ledger)["version"] == 1


def differences(found, wanted):
    """What is not the same: (found, wanted) by key."""
    keys = found.keys() | wanted.keys()
    return {key: (found.get(key), wanted.get(key)) for key in keys if found.get(key) != wanted.get(key)}


def moved(found, wanted):
    """The values that are not what they should be, but for what two boots differ by: (found, wanted) by key."""
    return {key: both for key, both in differences(found, wanted).items() if not is_near(*both)}


def flat(state):
    """All that a look tells, by the name of the part and the key in it."""
    parts = {name: part if isinstance(part, dict) else {"": part} for name, part in state.items()}
    return {(name, key): value for name, part in parts.items() for key, value in part.items()}


def is_near(left, right):
    """Tell whether the numbers in two values are nearly the same, one by one."""
    try:
        pairs = [(int(one), int(other)) for one, other in zip(left.split(), right.split(), strict=True)]
    except (AttributeError, ValueError):
        return False
    return all(abs(one - other) <= NEAR * abs(other) for one, other in pairs)


def cut_off(machine, known, moments, wanted, how):
    """Start a run, or a rollback, and cut it off at a random moment; return how it ended. Nothing is torn."""
    order = PARTS if wanted == "present" else PARTS[::-1]
    victim = moments.randrange(2)
    # The record was made on a machine that had just begun: later it is faster.
    pause = moments.uniform(0, known.held[order[victim]] / 2)
    cut = (machine.kill_during if how == "kill" else machine.lose_power_during)(wanted, victim, pause)
    about = f"{order[victim]} {wanted}, {how} after {pause:.3f} s: {cut.said}, exit code {cut.code}"
    print(f"PRECOG_FLEET_SEED={SEED}: {about}")
    # 0: the module had already answered. 2: it failed. 4: unreachable.
    assert cut.code in {"killed": (0, 2), "ended": (0,), "power lost": (0, 4)}[cut.said], cut.output
    check_whole(machine, known)
    return cut


def converge(machine, known, wanted):
    """Let the next run come to its end: it brings all that was wanted."""
    machine.tune(wanted)
    now = machine.seen()
    assert now.files == known.seen[wanted].files
    assert moved(now.values, known.seen[wanted].values) == {}


def test_killed_runs_leave_nothing_torn_and_the_next_run_ends_them(machine, known):
    moments, hits = random.Random(SEED), 0
    for attempt in range(MOST_ATTEMPTS):
        # Each the other way than the one before, so that there is something to do.
        cut = cut_off(machine, known, moments, ("absent", "present")[attempt % 2], "kill")
        hits += cut.code != 0
        if hits == KILLS:
            break
    assert hits == KILLS
    converge(machine, known, "present")


@pytest.mark.parametrize("number", range(POWER_LOSSES))
def test_after_a_power_loss_nothing_is_torn_and_the_next_run_ends_it(machine, known, number):
    wanted = ("absent", "present")[number % 2]
    cut_off(machine, known, random.Random(f"{SEED} {number}"), wanted, "power")
    converge(machine, known, wanted)


def test_a_rollback_still_reaches_the_originals(machine, look, known):
    machine.tune("absent")
    # It has the limits that it was started with, by the last boot: after a power loss, before the rollback's end.
    machine.host.check_output("systemctl restart sleeper.service")
    now, wanted = look.state(), dict(known.originals)
    assert moved(now.pop("values"), wanted.pop("values")) == {}
    assert differences(flat(now), flat(wanted)) == {}
