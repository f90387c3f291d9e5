"""Runs `forward` of precog/miners/NAME.py behind a real axon, as upstream's miner does, with the same imports."""

import argparse
import asyncio
import importlib
import typing
from datetime import datetime

import bittensor as bt
import precog
from precog.protocol import Challenge
from precog.utils.bittensor import connect, describe
from precog.utils.cm_data import PriceData
from precog.utils.config import configuration
from precog.utils.general import forever, retried
from pytz import timezone

SYNC_S = 600
DESCRIBE_S = 12


class Miner:
    """One hotkey's axon."""

    def __init__(self, config):
        self.forward_module = importlib.import_module(f"precog.miners.{config.forward_function}")
        self.config = config
        connect(self)
        bt.logging.info(f"precog {precog.__version__} at {datetime.now(timezone('UTC'))}")
        self.data = PriceData()
        self.axon.attach(forward_fn=self.forward, blacklist_fn=self.blacklist, priority_fn=self.priority)
        self.block = retried(self.subtensor.get_current_block)
        self.loop = asyncio.get_event_loop()
        self.loop.create_task(self.run())
        self.loop.create_task(forever(self.sync, SYNC_S))

    async def run(self):
        """Start the axon, then say now and then how the miner is doing."""
        self.axon.serve(netuid=self.config.netuid, subtensor=self.subtensor)
        self.axon.start()
        while True:
            describe(self)
            await asyncio.sleep(DESCRIBE_S)

    async def sync(self):
        """Read the metagraph from the chain."""
        self.metagraph.sync(subtensor=self.subtensor)
        self.block = retried(self.subtensor.get_current_block)

    async def forward(self, synapse: Challenge) -> Challenge:
        """Fill the synapse in."""
        return await self.forward_module.forward(synapse, self.data)

    async def blacklist(self, synapse: Challenge) -> typing.Tuple[bool, str]:  # noqa: UP006  the axon compares it
        """Refuse callers without a validator permit; as upstream's, it fails for those who aren't registered."""
        if synapse.dendrite is None or synapse.dendrite.hotkey is None:
            return True, "no hotkey"
        uid = self.metagraph.hotkeys.index(synapse.dendrite.hotkey)
        if self.config.blacklist.force_validator_permit and not self.metagraph.validator_permit[uid]:
            return True, "no validator permit"
        return False, "a validator"

    async def priority(self, synapse: Challenge) -> float:
        """Return the caller's stake."""
        return float(self.metagraph.S[self.metagraph.hotkeys.index(synapse.dendrite.hotkey)])


def main():
    """Serve until killed."""
    Miner(configuration(argparse.ArgumentParser())).loop.run_forever()


if __name__ == "__main__":
    main()
