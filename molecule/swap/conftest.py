"""What the checks of this scenario compare with."""

from __future__ import annotations

import pytest


@pytest.fixture
def is_as_recorded(host):
    """Tell whether everything in /etc and the machine's swap areas are as prepare.yml recorded them."""
    return lambda: (
        host.check_output("cd /var/lib/molecule && (python3 record.py -- /etc; cat /proc/swaps)")
        == host.file("/var/lib/molecule/originals").content_string.rstrip("\n")
    )
