"""For the environment with bittensor (requirements/runtime-axon.txt): `pytest tests/axon`."""

import os
import shutil
import socket
import tempfile
from contextlib import suppress
from types import SimpleNamespace

import pytest

HOME = tempfile.mkdtemp(prefix="precog-axon-")
# Before bittensor is imported, which makes ~/.bittensor.
os.environ["HOME"] = HOME
for name in [name for name in os.environ if name.startswith(("PRECOG_RUNTIME_", "BT_"))]:
    del os.environ[name]


def pytest_sessionfinish():
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def only_loopback():
    """Nothing looks for the network; bittensor would ask it for its external address."""
    from bittensor.utils import networking

    before = socket.getaddrinfo, networking.get_external_ip

    def here(host, *args, **kwargs):
        if host not in ("127.0.0.1", "localhost", "0.0.0.0", None):
            raise AssertionError(f"something looked for {host}")
        return before[0](host, *args, **kwargs)

    socket.getaddrinfo, networking.get_external_ip = here, lambda: "127.0.0.1"
    yield
    socket.getaddrinfo, networking.get_external_ip = before


@pytest.fixture(autouse=True, scope="session")
def fixed():
    """The fixes are in place as in a miner; a test that compares reaches the originals by `__wrapped__`."""
    from precog_runtime.axon import fix_headers, keep_hotkey

    fix_headers()
    keep_hotkey()


@pytest.fixture(scope="session")
def background(tmp_path_factory):
    from axon.loopback import wait_until
    from simulated import SimulatedMarket

    from precog_runtime.axon.forward import Background
    from precog_runtime.settings import Settings

    # Prices of marks, so that there are timestamps whose answers are not ready.
    settings = Settings(window_s=7200, monitor_s=0, price_basis="mark", state_dir=str(tmp_path_factory.mktemp("state")))
    made = Background(settings, SimulatedMarket(1, "mixed"))
    wait_until(lambda: all(age < 5 for age in made.runtime.engine.ages().values()))
    yield made
    made.close()


@pytest.fixture(scope="session")
def validators():
    """Validators with a permit, registered."""
    import bittensor
    from axon.loopback import wallet

    made = [bittensor.Dendrite(wallet(f"validator{number}")) for number in range(4)]
    yield made
    for one in made:
        with suppress(RuntimeError):  # as bittensor does where the loop is gone
            one.close_session()


@pytest.fixture(scope="session")
def metagraph(validators):
    hotkeys = [one.keypair.ss58_address for one in validators]
    return SimpleNamespace(hotkeys=hotkeys, validator_permit=[True] * len(hotkeys), S=[100.0] * len(hotkeys))


@pytest.fixture(scope="session")
def axon(background, metagraph):
    from axon.challenge import Challenge
    from axon.loopback import new_axon, start

    from precog_runtime.axon import Callers, attach
    from precog_runtime.axon.forward import forward_by

    made = attach(new_axon(), Challenge, forward_by(background), Callers(metagraph))
    yield start(made)
    made.stop()
