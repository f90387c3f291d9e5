"""What the checks of the machine share."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_vm.look import Look


@pytest.fixture(scope="module")
def originals(look: Look, fleet_folder: Path) -> Path:
    """Where the state from before the first run is kept until the machines go."""
    return fleet_folder / f"originals-{look.name}.json"
