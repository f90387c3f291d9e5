"""What a rollback can't bring back is told: originals that were lost, lines of others, files by another name."""

from __future__ import annotations

import json

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._engine.ledger import COPY, Ledger, Original
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._settings import kernel_tuning
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl.options import OPTIONS as KERNEL_TUNING
from ansible_collections.precog.fleet.tests.unit.made_host import (
    LEDGER,
    OURS,
    absent,
    apply,
    files_of,
    make_host,
    rows,
    snapshot,
)

SWAP = "vm.swappiness"
OLD = "/etc/sysctl.d/98-old.conf"


@pytest.fixture
def host(memory):
    return make_host(memory / "host")


# -- the ledger and its copy ------------------------------------------------------------------------------------------


def lose(host, *paths):
    for path in paths:
        host.at(path).unlink()


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_a_lost_ledger_is_read_from_its_copy_and_that_is_told_once(host, how):
    before = files_of(host)
    apply(host, {SWAP: 10})
    kept = host.text(LEDGER)
    lose(host, LEDGER) if how == "removed" else host.put(LEDGER, "{")

    (told,) = apply(host, {SWAP: 10}).warnings
    assert told.startswith(f"the ledger of originals {LEDGER} is {'missing' if how == 'removed' else 'damaged'}")
    assert COPY in told
    assert host.text(LEDGER) == kept
    assert apply(host, {SWAP: 10}).warnings == []
    absent(host)
    assert host.value("vm/swappiness") == "60"
    assert files_of(host) == before


def test_check_mode_tells_of_a_lost_ledger_and_mends_nothing(host):
    apply(host, {SWAP: 10})
    lose(host, LEDGER)
    before = snapshot(host)
    assert len(apply(host, {SWAP: 10}, check=True).warnings) == 1
    assert snapshot(host) == before


@pytest.mark.parametrize("run", [lambda host: apply(host, {SWAP: 10}), absent])
def test_a_ledger_lost_with_its_copy_is_told_by_our_header(host, run):
    apply(host, {SWAP: 10})
    lose(host, LEDGER, COPY)
    (told,) = run(host).warnings
    assert told.startswith(f"{OURS} was written by this collection, but the ledger of originals")
    assert "the ledger was lost" in told
    assert run(host).warnings == []


def test_a_ledger_damaged_with_its_copy_stops_the_run(host):
    apply(host, {SWAP: 10})
    host.put(LEDGER, "{")
    host.put(COPY, "[]")
    with pytest.raises(HostError, match=f"is damaged .* Nothing was changed.*move it aside, and {COPY}"):
        apply(host, {SWAP: 10})


def test_the_copy_is_for_root_alone_and_says_the_same(host):
    ledger = Ledger(host)
    ledger.of("/etc/x")["vm.x"] = Original("1", None, "b")
    ledger.save()
    assert host.at(COPY).read_bytes() == host.at(LEDGER).read_bytes()
    assert host.at(COPY).stat().st_mode & 0o777 == 0o600


def test_a_host_that_was_never_tuned_has_lost_nothing(host):
    assert apply(host, {SWAP: 10}).warnings == []
    assert absent(host).warnings == []
    lose(host, LEDGER)
    assert apply(host, {SWAP: 10}).warnings == []


# -- lines of others in a file of ours --------------------------------------------------------------------------------


def append(host, text):
    host.put(OURS, host.text(OURS) + text)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("run", [lambda host, **how: apply(host, {SWAP: 10}, **how), absent])
def test_lines_that_an_admin_appended_are_told_before_they_go(host, run, check):
    apply(host, {SWAP: 10})
    append(host, "# for the database\nvm.vfs_cache_pressure = 7\n")
    (told,) = run(host, check=check).warnings
    assert told.startswith(f"{OURS}: lines that somebody else wrote there are removed: ")
    assert "# for the database; vm.vfs_cache_pressure = 7. Keep lines of your own in a file of your own" in told


def test_many_lines_are_told_in_one_sentence(host):
    apply(host, {SWAP: 10})
    append(host, "".join(f"vm.x{number} = 1\n" for number in range(9)))
    (told,) = absent(host).warnings
    assert "vm.x4 = 1 and 4 more." in told
    assert "vm.x5" not in told


def test_what_the_next_profile_changes_in_our_own_file_is_no_loss(host):
    apply(host, {SWAP: 10, "vm.vfs_cache_pressure": 7})
    assert apply(host, {SWAP: 20}).warnings == []
    assert absent(host).warnings == []


def test_a_ledger_of_before_that_does_not_know_what_was_written_tells_nothing(host):
    apply(host, {SWAP: 10})
    noted = json.loads(host.text(LEDGER))
    del noted["files"][OURS]["written"]
    host.put(LEDGER, json.dumps(noted))
    assert absent(host).warnings == []


# -- another name of the file -----------------------------------------------------------------------------------------


def sole(host, **options):
    return apply(host, {SWAP: 10}, only_file=True, **options)


def test_a_file_by_an_earlier_name_is_told_and_a_rollback_without_it_fails(host):
    before = files_of(host)
    sole(host, name="98-old")
    (told,) = engine_warnings(host)
    assert "another kernel_tuning_file_name too, '98-old'" in told

    sole(host)
    report = absent(host, only_file=True)
    assert rows(report)[OLD]["status"] == "refused"
    assert "-e kernel_tuning_file_name=98-old" in rows(report)[OLD]["reason"]
    assert report.failures()
    assert not host.at(OURS).exists(), "its own file goes all the same"

    assert absent(host, name="98-old", only_file=True).failures() == []
    assert absent(host, only_file=True).failures() == []
    assert files_of(host) == before


def engine_warnings(host):
    params = {name: about.get("default") for name, about in KERNEL_TUNING.items()}
    made = kernel_tuning.subsystems({**params, "profile": "none", "parameters": {SWAP: 10}, "only_file": True}, {})
    return engine.run(host, made, check_mode=True).warnings


def test_without_being_the_only_one_other_names_are_fine(host):
    apply(host, {SWAP: 10}, name="98-old")
    assert absent(host).failures() == []
