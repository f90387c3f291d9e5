"""SIGKILL before every system call that matters, once and several times in a row: the next run mends what is left."""

from __future__ import annotations

import json
import random

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import TEMPORARY_SUFFIX
from ansible_collections.precog.fleet.tests.fault.cases import CASES, MOMENTS, everything, prepare
from ansible_collections.precog.fleet.tests.fault.killing import killed_before
from ansible_collections.precog.fleet.tests.unit.made_host import LEDGER, files_of

TURNS = 20  # for each case and moment


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=MOMENTS)
def moment(request):
    return MOMENTS[request.param]


@pytest.fixture
def versions(case, memory):
    """What every file below /etc is around runs that nobody cuts off: kind, mode and bytes, by path."""
    host = case.make(memory / "undisturbed")
    seen = [below_etc(host)]
    for run in (case.first, case.second, case.absent):
        run(host)
        seen.append(below_etc(host))
    paths = {path for found in seen for path in found}
    found = {path: {files.get(path) for files in seen} for path in paths}
    assert {path: len(looks) for path, looks in found.items() if len(looks) > 1} == case.files
    return found


def below_etc(host):
    return {path: seen for path, seen in files_of(host).items() if path.startswith("/etc/")}


def check_whole(host, versions):
    """No file is torn, none is too many, and the originals are known."""
    for path, seen in below_etc(host).items():
        folder, _slash, name = path.rpartition("/")
        if name.endswith(TEMPORARY_SUFFIX):
            assert name.startswith("."), path
            assert f"{folder}/{name[1 : -len(TEMPORARY_SUFFIX)]}" in versions
        else:
            assert seen in versions[path], path
    for path in versions.keys() - below_etc(host).keys():
        assert None in versions[path], path
    if host.at(LEDGER).exists():
        assert json.loads(host.text(LEDGER))["version"] == 1


def check_mended(host, case, wish, before):
    """The next run does all that is wished, and then all comes back."""
    wish(host)
    again = wish(host)
    assert not again.changed
    assert {change.status for change in again.changes} == {"ok"}
    check_given_back(host, case, before)


def check_given_back(host, case, before):
    case.absent(host)
    assert everything(host) == before
    assert json.loads(host.text(LEDGER)) == {"version": 1, "settings": {}, "files": {}}
    assert not case.absent(host).changed


@pytest.mark.full
def test_killed_before_any_system_call(memory, case, moment, versions):
    host = case.make(memory / "host")
    before = everything(host)
    work = getattr(case, moment.run)
    for call in range(1000):
        prepare(case, moment, host)
        killed = killed_before(call, host, work)
        host.recall()
        check_whole(host, versions)
        if call % 2:
            check_given_back(host, case, before)  # straight back
        else:
            check_mended(host, case, [case.first, case.second][call // 2 % 2], before)
        if not killed:
            assert call > 20
            return
    raise AssertionError("the run never ends")


@pytest.mark.full
def test_killed_before_random_calls_up_to_three_times_in_a_row(memory, case, moment, versions):
    choices = random.Random(55)
    host = case.make(memory / "host")
    before = everything(host)
    runs = [moment.run, *sorted({"first", "second", "absent"} - {moment.run})]
    longest = calls_of(case, moment, host)
    kills = 0
    for turn in range(TURNS):
        prepare(case, moment, host)
        for run in runs[: 1 + turn % 3]:
            kills += killed_before(choices.randrange(longest), host, getattr(case, run))
            host.recall()
            check_whole(host, versions)
        check_mended(host, case, [case.first, case.second][turn % 2], before)
    assert kills > TURNS // 2


def calls_of(case, moment, host):
    """Return a number of calls that a run does not come to."""
    for call in range(20, 1000, 20):
        prepare(case, moment, host)
        killed = killed_before(call, host, getattr(case, moment.run))
        host.recall()
        if not killed:
            return call
    raise AssertionError("the run never ends")
