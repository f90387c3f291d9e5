"""Runs `forward` of precog/miners/NAME.py behind a real axon, as upstream's miner does, but on no chain."""

import argparse
import asyncio
import importlib

import bittensor as bt
import precog
from bittensor.core.axon import Tuple  # the axon compares the annotation with its own
from precog.protocol import Challenge


def configuration():
    """Return what the command line says; as upstream's, it passes over flags that it doesn't know."""
    parser = argparse.ArgumentParser()
    for part in (bt.Wallet, bt.Subtensor, bt.logging, bt.Axon):
        part.add_args(parser)
    parser.add_argument("--netuid", type=int, default=1)
    parser.add_argument("--neuron.name", default="miner")
    parser.add_argument("--logging.level", choices=["info", "debug", "trace"], default="info")
    parser.add_argument("--forward_function", default="base_miner")
    return bt.Config(parser)


class Miner:
    """One hotkey's axon."""

    def __init__(self, config):
        self.forward_module = importlib.import_module(f"precog.miners.{config.forward_function}")
        self.config = config
        wallet = bt.Wallet(config=config)
        bt.logging.info(f"precog {precog.__version__} as {wallet.hotkey.ss58_address}")
        # Upstream asks the web for its address, and tells the chain.
        self.axon = bt.Axon(wallet=wallet, config=config, port=config.axon.port, external_ip="127.0.0.1")
        self.axon.attach(forward_fn=self.forward, blacklist_fn=self.blacklist, priority_fn=self.priority)

    async def forward(self, synapse: Challenge) -> Challenge:
        """Fill the synapse in."""
        return await self.forward_module.forward(synapse, None)

    async def blacklist(self, synapse: Challenge) -> Tuple[bool, str]:
        """Refuse whoever has no hotkey."""
        return synapse.dendrite.hotkey is None, "Missing hotkey"

    async def priority(self, synapse: Challenge) -> float:
        """Without a chain nobody has a stake."""
        return 0.0


def main():
    """Serve until killed."""
    miner = Miner(configuration())
    miner.axon.start()
    asyncio.new_event_loop().run_forever()


if __name__ == "__main__":
    main()
