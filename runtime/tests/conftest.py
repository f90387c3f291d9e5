"""For all tests."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

# A machine that is busy with something else makes nothing wrong.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

LEVEL = "PRECOG_TEST_OPTIMIZE"  # the level of optimisation that bin/test wants; any, if it is not set


def pytest_configure() -> None:
    """Look whether this process, xdist's workers included, runs with the level that is wanted."""
    found = str(sys.flags.optimize)
    if os.environ.get(LEVEL, found) != found:
        raise pytest.UsageError(f"{LEVEL} is {os.environ[LEVEL]}, and sys.flags.optimize {found}: set PYTHONOPTIMIZE")
