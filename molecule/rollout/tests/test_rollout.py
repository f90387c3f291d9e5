"""A good release reaches every host; a bad one stops at the first that it is bad on, which goes back by itself."""

from __future__ import annotations

import re

import pytest

HOSTS = {"roll-1", "roll-2", "roll-3"}
CANARY, SECOND = "roll-1", "roll-2"
# What the gate says of each bad release: the check, and its figure.
SAYS = {
    "crashes": r"main: its process ends at start .*it said: .*a broken release",
    "wrong": r"main: the answers are wrong: .*btc has no prediction that is a price: -1\.0",
    "tenfold": r"main: the prediction of [a-z_]+ is .* where its source says .*, (89|90)[0-9]\.[0-9]% away",
    "slow": r"main: .*p99 is [0-9]{4} ms; the limit is 1000 ms \(gate p99_ms\)",
}
STEPS = ("good", *SAYS, "good again", "third, unfit for one", "third, mended")
# Each step is a run of the playbook, of half a minute or more.
SLOW = {*STEPS} - {"good", "wrong"}
BACK = r"back on [0-9a-f]{12}, and that is healthy: .*main: 0 errors in [0-9]+ requests"


def quick_and_slow(kinds) -> list:
    """The steps as parameters; those of SLOW are marked as slow."""
    return [pytest.param(kind, marks=[pytest.mark.full] if kind in SLOW else []) for kind in kinds]


def reason(run, host: str) -> str:
    """Why a host refused the release."""
    return next(row["reason"] for row in run.hosts[host]["settings"] if row["status"] == "refused")


@pytest.mark.parametrize("kind", quick_and_slow(STEPS))
def test_every_host_was_asked_all_the_while(story, kind: str):
    """Without that, nothing below about errors says anything."""
    step = story.steps[kind]
    seconds = step.ended - step.began
    counts = {name: len(story.asked(name, kind)) for name in HOSTS}
    assert min(counts.values()) >= seconds / 2, (counts, seconds)


def test_a_good_release_reaches_every_host(story):
    step = story.steps["good"]
    assert step.run.code == 0, step.run.output
    assert step.run.touched() == HOSTS
    assert step.versions == dict.fromkeys(HOSTS, "0.2.0")
    assert [name for name in HOSTS if step.before[name] == step.after[name]] == []


def test_nobody_sees_an_error_of_a_good_release(story):
    assert {name: errors for name in HOSTS if (errors := story.errors(name, "good"))} == {}


@pytest.mark.parametrize("kind", quick_and_slow(SAYS))
def test_a_bad_release_stops_at_the_canary(story, kind: str):
    step = story.steps[kind]
    assert step.run.code == 2, step.run.output
    assert step.run.touched() == {CANARY}
    assert step.versions == dict.fromkeys(HOSTS, "0.2.0")


@pytest.mark.parametrize("kind", quick_and_slow(SAYS))
def test_no_other_hosts_processes_are_touched(story, kind: str):
    step = story.steps[kind]
    assert {name for name in HOSTS if step.before[name] != step.after[name]} == {CANARY}


@pytest.mark.parametrize("kind", quick_and_slow(SAYS))
def test_the_canary_is_back_on_the_release_before_and_answers(story, kind: str):
    step = story.steps[kind]
    assert step.before[CANARY].splitlines()[-1] == step.after[CANARY].splitlines()[-1]
    assert step.wrong == dict.fromkeys(HOSTS, "")


@pytest.mark.parametrize("kind", quick_and_slow(SAYS))
def test_the_run_says_which_host_which_check_and_which_figures(story, kind: str):
    told = reason(story.steps[kind].run, CANARY)
    assert re.search(SAYS[kind], told, re.DOTALL), told  # problems are separated by newlines
    assert re.search(BACK, told), told


@pytest.mark.parametrize("kind", quick_and_slow(SAYS))
def test_only_the_canarys_own_clients_notice_a_bad_release(story, kind: str):
    assert {name: errors for name in HOSTS - {CANARY} if (errors := story.errors(name, kind))} == {}


@pytest.mark.full
def test_the_good_release_again_touches_no_miner(story):
    step = story.steps["good again"]
    assert step.run.code == 0, step.run.output
    rows = [row for host in step.run.hosts.values() for row in host["settings"] if row["name"].startswith("miner:")]
    assert {row["status"] for row in rows} <= {"ok", "unsupported"}
    assert step.before == step.after
    assert {name: errors for name in HOSTS if (errors := story.errors(name, "good again"))} == {}


@pytest.mark.full
def test_a_release_that_is_bad_on_one_host_alone_stops_there(story):
    step = story.steps["third, unfit for one"]
    assert step.run.code == 2, step.run.output
    assert step.run.touched() == {CANARY, SECOND}
    assert step.versions == {**dict.fromkeys(HOSTS, "0.2.0"), CANARY: "0.3.0"}
    assert {name for name in HOSTS if step.before[name] != step.after[name]} == {CANARY, SECOND}
    assert re.search(rf"main: its process ends at start .*{BACK}", reason(step.run, SECOND))
    assert {name: errors for name in HOSTS - {SECOND} if (errors := story.errors(name, "third, unfit for one"))} == {}
    assert step.wrong == dict.fromkeys(HOSTS, "")


@pytest.mark.full
def test_after_the_fix_the_run_goes_on_where_it_was_stopped(story):
    step = story.steps["third, mended"]
    assert step.run.code == 0, step.run.output
    assert step.versions == dict.fromkeys(HOSTS, "0.3.0")
    assert {name for name in HOSTS if step.before[name] != step.after[name]} == HOSTS - {CANARY}
    assert {name: errors for name in HOSTS if (errors := story.errors(name, "third, mended"))} == {}
