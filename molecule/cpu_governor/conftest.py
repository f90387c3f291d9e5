"""What the checks of this scenario compare with."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def files_before(host):
    """What prepare.yml recorded of /etc."""
    return json.loads(host.file("/var/lib/molecule/originals.json").content_string)["files"]


@pytest.fixture
def files_now(host):
    """The same now."""
    return json.loads(host.check_output("python3 /var/lib/molecule/record.py -- /etc"))["files"]
