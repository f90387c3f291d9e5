"""What the checks of this scenario compare with."""

from __future__ import annotations

import pytest

HERE = "/opt/precog/env"


@pytest.fixture
def is_as_recorded(host):
    """Tell whether the folders that environments lie in are as prepare.yml recorded them."""
    return lambda: (
        host.check_output("cd /var/lib/molecule && python3 record.py -- /opt /var/cache/precog-fleet")
        == host.file("/var/lib/molecule/originals").content_string.rstrip("\n")
    )


@pytest.fixture(scope="module")
def environment(host):
    """The path of the environment in use, links followed."""
    return host.check_output("readlink -e /opt/precog/env/miner")
