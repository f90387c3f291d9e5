"""Transparent huge pages: the word in brackets, the winning line of tmpfiles.d, and the engine on top."""

from __future__ import annotations

import errno
import json

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._engine.ledger import Original
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs import thp
from ansible_collections.precog.fleet.tests.unit.made_host import LEDGER, THP, files_of, profile, snapshot, untouched
from hypothesis import given
from hypothesis import strategies as st

FILE = "/etc/tmpfiles.d/00-precog-fleet-thp.conf"
LINE = f"w {THP} - - - - never\n"
SHARED = "shared kernel: belongs to the machine under this container (podman)"


def run(host, mode, *, check=False, **options):
    return engine.run(host, [thp.TransparentHugePages(mode, **options)], check_mode=check)


def row(report):
    (change,) = report.changes
    return change.row()


SELECTED = [
    ("always [madvise] never\n", "madvise"),
    ("[always] madvise never", "always"),
    ("always madvise [never]", "never"),
    ("always madvise never", None),
    ("", None),
    ("[]", None),
]


@pytest.mark.parametrize(("text", "mode"), SELECTED)
def test_trap_the_word_in_brackets_is_in_force(text, mode):
    assert thp.selected(text) == mode


LINES = [
    (f"w {THP} - - - - never", "never"),
    (f"w! {THP} - - - - always", "always"),
    (f"  w+ {THP}  -\t- - -  madvise  ", "madvise"),
    (f"# w {THP} - - - - never", None),
    (f"f {THP} - - - - never", None),
    (f"w {THP}x - - - - never", None),
    (f"w {THP} - - - -", None),
    ("", None),
]


@pytest.mark.parametrize(("line", "mode"), LINES)
def test_a_line_that_sets_the_mode(line, mode):
    expected = [] if mode is None else [thp.Line("/x", 2, mode)]
    assert thp.parse("/x", f"\n{line}\n") == expected


@given(st.text() | st.text(f"w! -\n{THP}", max_size=80))
def test_any_text_can_be_read(text):
    for line in thp.parse("/x", text):
        assert 1 <= line.number <= text.count("\n") + 1
    thp.selected(text)


def test_the_first_name_wins_whatever_its_folder():
    lines = [thp.Line("/etc/tmpfiles.d/b.conf", 1, "b"), thp.Line("/usr/lib/tmpfiles.d/a.conf", 2, "a2")]
    assert thp.winner([*lines, thp.Line("/usr/lib/tmpfiles.d/a.conf", 1, "a1")]).mode == "a1"
    assert thp.winner([]) is None


KNOWN = Original("madvise", None, "boot", "never")


def state(**changes):
    return thp.State(
        **{
            "mode": "madvise",
            "sharing": None,
            "writable": True,
            "lines": (),
            "original": None,
            "boot": "boot",
            **changes,
        }
    )


OURS = (thp.Line(FILE, 2, "never"),)
# state, wanted, status, writes, a part of the reason
PLANS = [
    (state(), "never", "changed", [(THP, "never")], ""),
    (state(mode="never"), "never", "changed", [], ""),
    (state(mode="never", lines=OURS, original=KNOWN), "never", "ok", [], ""),
    (state(lines=OURS, original=KNOWN), "never", "drifted", [(THP, "never")], "at run time: was madvise"),
    (state(mode="never", original=KNOWN), "never", "drifted", [], "lost its line"),
    (state(mode="never", lines=OURS, original=KNOWN), "always", "changed", [(THP, "always")], ""),
    (state(mode=None), "never", "unsupported", [], "this kernel has no"),
    (state(sharing=SHARED), "never", "unsupported", [], "shared kernel"),
    (state(writable=False), "never", "unsupported", [], "read-only"),
    (state(mode="never", lines=OURS, original=KNOWN), None, "changed", [(THP, "madvise")], "given back: madvise"),
    (state(mode="madvise", lines=OURS, original=KNOWN), None, "changed", [], "given back: madvise"),
]


@pytest.mark.parametrize(("found", "wanted", "status", "writes", "reason"), PLANS)
def test_the_plan(found, wanted, status, writes, reason):
    (change,) = thp.make_plan(found, wanted)
    assert (change.status, list(change.writes)) == (status, writes)
    assert reason in change.reason


def test_nothing_wanted_and_nothing_managed_is_no_row():
    assert thp.make_plan(state(), None) == []


def test_set_again_and_given_back(host):
    before = files_of(host)

    assert row(run(host, "never"))["status"] == "changed"
    assert host.text(THP) == "always madvise [never]\n"
    assert host.text(FILE).split("\n")[1:] == [LINE.strip(), ""]
    seen = untouched(host)
    again = run(host, "never")
    assert (row(again)["status"], again.changed, untouched(host)) == ("ok", False, seen)

    run(host, None)
    assert files_of(host) == before
    assert json.loads(host.text(LEDGER))["settings"] == {}
    assert run(host, None).changes == []


CASES = [
    ("never", lambda _host: None),
    ("madvise", lambda _host: None),
    ("never", lambda host: host.put(FILE, b"\xff\xfe before us\n")),
    ("never", lambda host: host.put("/usr/lib/tmpfiles.d/00-a.conf", f"w {THP} - - - - always\n")),
    ("never", lambda host: run(host, "always")),
    (None, lambda host: run(host, "always")),
    ("never", lambda host: (run(host, "never"), host.put(THP, "[always] madvise never\n"))),
    ("never", lambda host: (run(host, "never"), host.put(FILE, "junk\n"))),
    ("never", lambda host: host.at(THP).unlink()),
    ("never", lambda host: host.at(THP).chmod(0o444)),
]


@pytest.mark.parametrize(("mode", "arrange"), CASES)
def test_check_mode_says_the_same_and_touches_nothing(host, mode, arrange):
    arrange(host)
    before, seen = snapshot(host), untouched(host)
    predicted = run(host, mode, check=True)
    assert snapshot(host) == before
    assert untouched(host) == seen
    real = run(host, mode)
    assert (row(predicted), predicted.changed, predicted.diff) == (row(real), real.changed, real.diff)


@pytest.mark.parametrize(("mode", "arrange"), CASES[:4])
def test_every_byte_comes_back(host, mode, arrange):
    arrange(host)
    before = files_of(host)
    run(host, mode)
    run(host, None)
    assert files_of(host) == before


def test_a_rival_that_sorts_first_is_named(host):
    host.put("/usr/lib/tmpfiles.d/00-a.conf", f"\nw {THP} - - - - always\n")
    told = row(run(host, "never"))
    assert (told["status"], told["persisted"], told["persisted_by"]) == (
        "overridden",
        "always",
        "/usr/lib/tmpfiles.d/00-a.conf:2",
    )
    assert "remove that line, or set the mode here to match" in told["reason"]


def test_a_masked_rival_is_none(host):
    host.put("/usr/lib/tmpfiles.d/00-a.conf", f"w {THP} - - - - always\n")
    host.put("/etc/tmpfiles.d/00-a.conf", "")
    assert row(run(host, "never"))["status"] == "changed"


def test_trap_a_container_leaves_it_to_the_machine_underneath(container):
    before = snapshot(container)
    told = row(run(container, "never"))
    assert (told["status"], "shared kernel" in told["reason"]) == ("unsupported", True)
    assert {path: seen for path, seen in snapshot(container).items() if "/var/lib" not in path} == {
        path: seen for path, seen in before.items() if "/var/lib" not in path
    }
    assert row(run(container, "never", apply_shared=True))["status"] == "changed"


def test_what_the_kernel_refuses_is_not_made_to_last(host):
    host.put(THP, "[always] never\n")  # a kernel without madvise
    told = row(run(host, "madvise"))
    assert (told["status"], told["after"]) == ("refused", "always")
    assert "EINVAL" in told["reason"]
    assert not host.at(FILE).exists()


def test_a_lost_ledger_still_lets_our_file_go(host):
    run(host, "never")
    host.at(LEDGER).unlink()
    run(host, None)
    assert not host.at(FILE).exists()


def test_with_the_keys_in_one_run_a_full_disk_leaves_all_as_it_was(host):
    before = files_of(host)
    host.disk_errors[f"commit {FILE}"] = errno.ENOSPC
    both = [profile({"vm.swappiness": 10}), thp.TransparentHugePages("never")]
    with pytest.raises(HostError, match="Free space"):
        engine.run(host, both, check_mode=False)
    assert files_of(host) == before

    host.disk_errors.clear()
    report = engine.run(host, both, check_mode=False)
    assert [change.status for change in report.changes] == ["changed", "changed"]
    engine.run(host, [profile(present=False), thp.TransparentHugePages(None)], check_mode=False)
    assert files_of(host) == before


RESERVE = "vm/min_free_kbytes"
COMPUTED = {"always": "23800", "madvise": "23800", "never": "2666"}


@pytest.fixture
def computing(host, monkeypatch):
    """A host whose kernel computes its reserve of memory anew with every switch."""
    write = host.write_kernel

    def write_and_compute(path, value):
        write(path, value)
        if path == THP:
            host.set_key(RESERVE, COMPUTED[value])

    monkeypatch.setattr(host, "write_kernel", write_and_compute)
    host.put(THP, "always madvise [never]\n")
    host.set_key(RESERVE, "2730")
    return host


def test_trap_what_the_kernel_computes_anew_comes_back_as_it_was(computing):
    run(computing, "madvise")
    assert computing.value(RESERVE) == "23800"
    run(computing, None)
    assert (computing.text(THP), computing.value(RESERVE)) == ("always madvise [never]\n", "2730")
    assert run(computing, None).changes == []


def test_it_comes_back_after_a_rollback_that_was_killed_between_the_two(computing):
    run(computing, "madvise")
    computing.put(THP, "always madvise [never]\n")
    computing.set_key(RESERVE, COMPUTED["never"])
    run(computing, None)
    assert computing.value(RESERVE) == "2730"


def test_it_comes_back_after_a_reboot_too_for_then_only_the_mode_of_the_boot_was_another(computing):
    run(computing, "madvise")
    computing.reboot()
    computing.put(THP, "always [madvise] never\n")
    computing.set_key(RESERVE, COMPUTED["madvise"])
    run(computing, None)
    assert (computing.text(THP), computing.value(RESERVE)) == ("always madvise [never]\n", "2730")


def test_one_that_is_kept_as_a_key_of_its_own_is_left_to_that(computing):
    engine.run(computing, [profile({"vm.min_free_kbytes": 9000})], check_mode=False)
    run(computing, "madvise")
    run(computing, None)
    assert computing.value(RESERVE) == COMPUTED["never"]
    engine.run(computing, [profile({"vm.min_free_kbytes": 9000})], check_mode=False)
    assert computing.value(RESERVE) == "9000"
