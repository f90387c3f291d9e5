"""A miner's objects of bittensor."""

import sys
from pathlib import Path

import bittensor as bt


def connect(miner):
    """Connect a miner to the chain, load its wallet and make its axon; end where its hotkey isn't registered."""
    config = miner.config
    miner.subtensor = bt.subtensor(config=config, network=config.subtensor.chain_endpoint)
    miner.metagraph = miner.subtensor.metagraph(config.netuid)
    miner.wallet = bt.wallet(config=config)
    miner.dendrite = bt.dendrite(wallet=miner.wallet)
    miner.axon = bt.axon(wallet=miner.wallet, config=config, port=config.axon.port)
    if miner.wallet.hotkey.ss58_address not in miner.metagraph.hotkeys:
        bt.logging.error(f"{miner.wallet} is not registered")
        sys.exit(1)
    miner.uid = miner.metagraph.hotkeys.index(miner.wallet.hotkey.ss58_address)
    # Upstream writes below its home, too.
    Path("~/.bittensor/Miners", config.wallet.name, config.wallet.hotkey).expanduser().mkdir(
        parents=True, exist_ok=True
    )


def describe(miner):
    """Log how a miner is doing."""
    graph = miner.metagraph
    told = {"stake": graph.S, "trust": graph.T, "incentive": graph.I, "emission": graph.E}
    figures = ", ".join(f"{name} {values[miner.uid]:.3f}" for name, values in told.items())
    bt.logging.info(f"uid {miner.uid} at block {miner.block}: {figures}")
