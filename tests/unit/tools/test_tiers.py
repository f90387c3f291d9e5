"""Which long parts of the tests are due: the map of paths, the order, the records, and `bin/test full --within`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import tiers
from ansible_collections.precog.fleet.tests.places import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tiers import Map, Pass, changes, declared, newest, order

KNOWN = declared()


def git(*words: str, where: Path = ROOT) -> str:
    return subprocess.run(["git", "-C", str(where), *words], check=True, capture_output=True, text=True).stdout


def a_pass(time: str, commit: str = "abc") -> Pass:
    return Pass(commit, f"2026-01-{time}T00:00:00Z", 60)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (
            "plugins/module_utils/_miner/gate/ask.py",
            {"faults", "releases", "roles", "vm_faults", "vm_miner", "vm_trixie"},
        ),
        ("plugins/module_utils/_settings/sysctl/sysctl.py", {"faults", "roles", "vm_faults", "vm_trixie"}),
        ("plugins/callback/fleet_report.py", {"faults", "releases", "roles", "vm_trixie"}),
        ("runtime/src/precog_runtime/engine.py", {"runtime_full", "releases", "roles"}),
        ("runtime/tests/axon/test_verify.py", {"runtime_full"}),
        ("roles/swap/tasks/main.yml", {"roles", "vm_faults", "vm_trixie"}),
        ("molecule/vm_faults/tests/test_disk.py", {"vm_faults"}),
        ("molecule/vm_miner/converge.yml", {"vm_miner"}),
        ("molecule/limits/converge.yml", {"roles"}),
        ("molecule/swap/converge.yml", set()),
        ("docs/testing.md", set()),
        ("tests/unit/module_utils/_engine/test_run.py", set()),
        ("bin/lib.sh", set(KNOWN.parts)),
        ("requirements/runtime-axon.txt", {"runtime_full", "releases", "roles"}),
        ("a/folder/that/nobody/declared.py", set(KNOWN.parts)),
    ],
)
def test_a_path_concerns_the_parts_that_test_it(path, parts):
    assert KNOWN.concerned(path) >= parts
    if not parts:
        assert KNOWN.concerned(path) == set()


def test_every_pattern_matches_a_file():
    files = git("ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    patterns = {*KNOWN.everything, *KNOWN.nothing, *(one for paths in KNOWN.parts.values() for one in paths)}
    # tests/passes.json comes with the first full pass.
    assert [one for one in patterns if not any(tiers.matches(file, [one]) for file in files)] in (
        [],
        ["tests/passes.json"],
    )


def test_every_long_part_can_be_run():
    script = (ROOT / "bin/test").read_text()
    assert [part for part in KNOWN.parts if not re.search(rf"^part_{part}\(\)", script, re.MULTILINE)] == []


def test_changed_parts_come_first_and_then_the_oldest_pass():
    passes = {"old": a_pass("01"), "new": a_pass("03"), "changed": a_pass("04"), "changed before": a_pass("02")}
    files = {"changed": ["b.py", "c.py"], "changed before": ["a.py"], "old": [], "new": []}
    due = order(["new", "old", "never", "changed", "changed before"], passes, files)
    assert [(one.part, one.why) for one in due] == [
        ("never", "has no pass on record"),
        ("changed before", "changed since its last pass: a.py"),
        ("changed", "changed since its last pass: b.py and 1 more"),
        ("old", "passed last at 2026-01-01T00:00:00Z"),
        ("new", "passed last at 2026-01-03T00:00:00Z"),
    ]


DAYS = st.integers(1, 28).map("{:02}".format)
PARTS = st.sampled_from("abcdef")


@given(st.sets(PARTS), st.dictionaries(PARTS, DAYS.map(a_pass)), st.dictionaries(PARTS, st.just(["x.py"])))
def test_a_part_that_does_not_run_is_never_behind_one_that_passed_later(parts, passes, files):
    due = order(parts, passes, files)
    assert {one.part for one in due} == parts
    for one, other in zip(due, due[1:]):
        is_due = [entry.part not in passes or entry.part in files for entry in (one, other)]
        assert is_due != [False, True]
        if is_due[0] == is_due[1] and other.last:
            assert not one.last or one.last.time <= other.last.time


@given(*[st.dictionaries(PARTS, DAYS.map(a_pass))] * 2)
def test_the_newest_pass_of_two_records_counts(one, other):
    both = newest(one, other)
    assert both == newest(other, one)
    assert all(both[part].time >= entry.time for record in (one, other) for part, entry in record.items())


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a commit, in which tools/tiers.py looks."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("a.py", "b.py", "README.md"):
        (folder / name).write_text(f"{name}\n")
    git("init", "--quiet", where=folder)
    git("config", "user.email", "test@localhost", where=folder)
    git("config", "user.name", "test", where=folder)
    git("add", ".", where=folder)
    git("commit", "--quiet", "--message=first", where=folder)
    monkeypatch.setattr(tiers, "ROOT", folder)
    monkeypatch.setenv("PRECOG_FLEET_CACHE", str(tmp_path / "cache"))
    return folder


MADE = Map({"a": ("a.py",), "b": ("b.py",)}, (), ("*.md",))


def test_what_changed_since_a_pass_is_asked_of_git(repository):
    commit = git("rev-parse", "HEAD", where=repository).strip()
    passes = {"a": a_pass("01", commit), "b": a_pass("01", commit)}
    assert changes(MADE, passes) == {"a": [], "b": []}

    (repository / "a.py").write_text("other\n")
    (repository / "README.md").write_text("other\n")
    assert changes(MADE, passes) == {"a": ["a.py"], "b": []}
    git("commit", "--all", "--quiet", "--message=second", where=repository)
    assert changes(MADE, passes) == {"a": ["a.py"], "b": []}

    (repository / "unknown.py").write_text("new\n")
    assert changes(MADE, passes) == {"a": ["a.py", "unknown.py"], "b": ["unknown.py"]}


@pytest.mark.usefixtures("repository")
def test_a_commit_that_is_not_there_counts_as_changed():
    assert changes(MADE, {"a": a_pass("01", "0" * 40)}) == {"a": ["commit 000000000000 is not in this clone"]}


def test_a_pass_is_kept_of_a_commit_and_not_of_a_tree_with_changes(repository, capsys):
    tiers.note_pass("a", 61)
    kept = tiers.read(tiers.in_cache())
    assert kept["a"].commit == git("rev-parse", "HEAD", where=repository).strip()
    assert kept["a"].seconds == 61

    (repository / "a.py").write_text("other\n")
    tiers.note_pass("b", 62)
    assert tiers.read(tiers.in_cache()) == kept
    assert "not recorded as passed" in capsys.readouterr().out


def test_without_time_no_part_runs_and_each_is_named_with_its_reason():
    done = subprocess.run(
        [ROOT / "bin/test", "full", "--within", "0"],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    said = dict(re.findall(r"^(\w+) +not run: (.*)$", done.stdout, re.MULTILINE))
    assert said.keys() == KNOWN.parts.keys()
    assert all(said.values())
