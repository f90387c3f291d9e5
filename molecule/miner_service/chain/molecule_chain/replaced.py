"""What stands for the chain: a metagraph filled in from CHAIN. The external address is fixed, not asked of the web.

All else in bittensor is as installed.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import bittensor
import numpy as np
from bittensor.core.chain_data import AxonInfo, NeuronInfoLite
from bittensor.utils import networking

# By uid: [{"hotkey": SS58 address, "coldkey": SS58 address, "validator_permit": bool, "stake": TAO}, ...]
CHAIN = Path("/srv/chain.json")
BLOCK_S = 12
EXTERNAL_ADDRESS = "192.0.2.1"  # reserved for documentation


class Metagraph(bittensor.Metagraph):
    """Bittensor's own, filled in from CHAIN."""

    def sync(self, block=None, lite=None, subtensor=None):
        """Fill it in again."""
        rows = json.loads(CHAIN.read_text(encoding="utf-8"))
        self.neurons = [neuron(uid, row) for uid, row in enumerate(rows)]
        self._set_metagraph_attributes(block or current_block())
        stakes = np.array([row["stake"] for row in rows], np.float32)
        self.alpha_stake = self.tao_stake = self.total_stake = self.stake = stakes


class Subtensor(bittensor.Subtensor):
    """A client that connects to nothing; what isn't replaced here fails for lack of a connection."""

    def __init__(self, network=None, config=None, **_options):
        self.chain_endpoint, self.network = self.setup_config(network, config)

    def metagraph(self, netuid, *_args, **_options):
        """Return the metagraph."""
        return Metagraph(netuid, self.network, sync=True, subtensor=self)

    def get_current_block(self):
        """Return the number of the block of now."""
        return current_block()

    def serve_axon(self, *_args, **_options):
        """Accept the axon's address, which nobody looks up."""
        return True

    def close(self):
        """Close nothing."""


def neuron(uid, row):
    """Return what a metagraph has of one neuron."""
    return replace(
        NeuronInfoLite.get_null_neuron(),
        uid=uid,
        hotkey=row["hotkey"],
        coldkey=row["coldkey"],
        validator_permit=row["validator_permit"],
        axon_info=AxonInfo(0, "0.0.0.0", 0, 4, row["hotkey"], row["coldkey"]),
        is_null=False,
    )


def current_block():
    """Return a number that grows by one per block."""
    return int(time.time() // BLOCK_S)


bittensor.Subtensor = bittensor.subtensor = Subtensor
networking.get_external_ip = lambda: EXTERNAL_ADDRESS
