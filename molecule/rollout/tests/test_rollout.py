"""A good release reaches every host; a bad one stops at the canary, which goes back by itself; nobody is refused."""

from __future__ import annotations

import re

import pytest

HOSTS = {"roll-1", "roll-2", "roll-3", "roll-4"}
CANARY = "roll-1"
# What the gate says of each bad release: the check, and its figure.
SAYS = {
    "crashes": r"ends at start .*it said: .*a broken release",
    "wrong": r"-1",
    "slow": r"p99 is 1[0-9]{3} ms",
}


def test_a_good_release_reaches_every_host(story):
    step = story.steps["good"]
    assert step.run.code == 0, step.run.output
    assert step.run.touched() == HOSTS
    assert step.versions == dict.fromkeys(HOSTS, "0.2.0")


def test_nobody_sees_an_error_of_a_good_release(story):
    for name, client in story.clients.items():
        assert len(client.seen) > 20
        assert story.errors(name, "good") == [], name


@pytest.mark.parametrize("kind", SAYS)
def test_a_bad_release_stops_at_the_canary(story, kind: str):
    step = story.steps[kind]
    assert step.run.code == 2, step.run.output
    assert step.run.touched() == {CANARY}
    assert step.versions == dict.fromkeys(HOSTS, "0.2.0")


@pytest.mark.parametrize("kind", SAYS)
def test_the_run_says_which_host_which_check_and_which_figures(story, kind: str):
    run = story.steps[kind].run
    reasons = [row["reason"] for row in run.hosts[CANARY]["settings"] if row["status"] == "refused"]
    assert reasons
    assert re.search(SAYS[kind], reasons[0]), reasons[0]
    assert "main: " in reasons[0]
    assert re.search(r"back on [0-9a-f]{12}, and that is healthy: .*main: 0 errors in [0-9]+ requests", reasons[0])


@pytest.mark.parametrize("kind", SAYS)
def test_only_the_canarys_own_clients_notice_a_bad_release(story, kind: str):
    for name in HOSTS - {CANARY}:
        assert story.errors(name, kind) == [], name


def test_the_canary_answers_rightly_after_each_bad_release(story):
    assert story.errors(CANARY, "good again") == []


def test_the_good_release_again_touches_no_miner(story):
    run = story.steps["good again"].run
    assert run.code == 0, run.output
    rows = [row for host in run.hosts.values() for row in host["settings"] if row["name"].startswith("miner:")]
    assert {row["status"] for row in rows} <= {"ok", "unsupported"}
