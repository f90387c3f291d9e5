"""The pure part of bench/environment.py."""

from __future__ import annotations

import sys

import pytest
from ansible_collections.precog.fleet.tests.places import ROOT

sys.path.insert(0, str(ROOT))

from bench import environment
from bench.process import BenchError

SERIES = {environment.FIRST: [5.0], environment.UV: [2.0], environment.PIP: [8.0], environment.GUIDE: [16.0]}


def test_the_modules_own_time_is_read():
    output = 'env-1 | CHANGED => {\n "changed": true,\n "seconds": {"install": 1.0, "all": 4.25}\n}\n'
    assert environment.module_seconds(output) == 4.25


@pytest.mark.parametrize("output", ["env-1 | FAILED! => {", "", 'env-1 | SUCCESS => {"seconds": {"all": 0.1}}'])
def test_a_run_that_built_nothing_is_no_time(output):
    with pytest.raises(BenchError, match="no environment was built"):
        environment.module_seconds(output)


def test_the_figures_to_reach():
    assert [(one.name, one.ratio, one.met) for one in environment.targets(SERIES)] == [
        ("uv, to pip", 0.25, True),
        ("uv, fetched first, to pip", 0.625, False),
        ("uv, to venv and pip", 0.125, True),
        ("uv, fetched first, to venv and pip", 0.3125, True),
    ]


def test_the_report_names_the_load():
    lines = environment.report(SERIES, {"cores": 2, "before": 0.5, "after": 1.0})
    assert lines[0].startswith("2 cores, load 0.5 before and 1.0 after")
    assert any(line.startswith("uv, to pip") and line.endswith("  met") for line in lines)
    assert any(line.startswith("uv, fetched first, to pip") and line.endswith("not met") for line in lines)
