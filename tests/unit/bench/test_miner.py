"""The pure part of bench/miner.py."""

from __future__ import annotations

import sys

import pytest
from ansible_collections.precog.fleet.tests.places import ROOT

sys.path.insert(0, str(ROOT))

from bench import miner

SERIES = {miner.PINGS: [4.0, 4.2, 4.1], miner.ONE: [3.0, 3.1], miner.MANY: [4.6, 4.5]}


def lines(series=None, back=(1.0, 4.0), burst=(20.0, 79.0)):
    return miner.report(series or SERIES, back, burst)


def verdict(told, name):
    """Whether a figure of the report is met; its line begins with the name."""
    line = next(line for line in told if line.startswith(name) and line.endswith("met"))
    return not line.endswith("not met")


def test_each_figure_to_reach_is_told():
    told = lines()
    assert verdict(told, "1 instance, to 4 ping tasks")
    assert not verdict(told, "6 instances, to 4 ping tasks")
    assert verdict(told, "back after kill -9")
    assert verdict(told, "p99 of a burst")


@pytest.mark.parametrize(("back", "met"), [([1.0, 5.0], True), ([5.1, 1.0], False)])
def test_the_slowest_return_counts(back, met):
    told = lines(back=back)
    assert verdict(told, "back after kill -9") == met
    assert f"worst of 2: {max(back)} s, at most 5 s" in " ".join(told)


@pytest.mark.parametrize(("burst", "met"), [([10.0, 80.0], True), ([80.4, 10.0], False)])
def test_the_slowest_host_counts(burst, met):
    assert verdict(lines(burst=burst), "p99 of a burst, worst host") == met


def test_the_batches_are_told_as_they_are_given():
    assert """all hosts in one batch (--extra-vars '{"miner_rollout_batches": ["100%"]}')""" in lines()[0]
    assert miner.variables(1)["miner_rollout_batches"] == miner.BATCHES


@pytest.mark.parametrize(("name", "count"), miner.INSTANCES.items())
def test_so_many_miners_beside_a_market(name, count):
    about = miner.variables(count)["miner_service_instances"]
    ports = [one["port"] for one in about.values()]
    assert len(about) == count + 1
    assert len(set(ports)) == len(ports)
    assert str(count) in name
