"""What the checks of the machine share."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_vm.look import Look
from testinfra.host import Host


@pytest.fixture(scope="module")
def look(host: Host, fleet_folder: Path) -> Look:
    """The machine under test."""
    return Look(host.backend.get_hostname(), fleet_folder)


@pytest.fixture(scope="module")
def originals(look: Look, fleet_folder: Path) -> Path:
    """Where the state from before the first run is kept until the machines go."""
    return fleet_folder / f"originals-{look.name}.json"
