"""What the unit tests share."""

from __future__ import annotations

import os

import pytest
from ansible_collections.precog.fleet.tests.unit.made_host import make_host


@pytest.fixture
def host(memory):
    """A machine that has its kernel to itself."""
    return make_host(memory / "host")


@pytest.fixture
def container(memory):
    """A privileged container on somebody's machine."""
    return make_host(memory / "container", container=True)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Syncing takes most of the time of these tests; test_host shows that it happens, and tests/fault does it."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
