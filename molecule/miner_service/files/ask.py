"""Asks a miner's axon as a validator does, with bittensor's own client: `python ask.py WALLETS HOTKEY PORT WALLET`."""

import asyncio
import json
import sys
from datetime import datetime, timezone

import bittensor
import pydantic
from bittensor.utils import networking

# The client asks the web for its own address, which the answer doesn't depend on.
networking.get_external_ip = lambda: "127.0.0.1"


class Challenge(bittensor.Synapse):
    """The prices of some assets an hour after a time."""

    timestamp: str
    assets: list[str] = pydantic.Field(default=["btc"])
    predictions: dict[str, float] | None = None
    intervals: dict[str, list[float]] | None = None


async def ask(wallets, hotkey, port, wallet):
    """Return the synapse that the axon sends back."""
    axon = bittensor.AxonInfo(version=1, ip="127.0.0.1", port=port, ip_type=4, hotkey=hotkey, coldkey=hotkey)
    question = Challenge(timestamp=datetime.now(timezone.utc).isoformat(), assets=["btc", "eth", "tao_bittensor"])
    client = bittensor.Dendrite(bittensor.Wallet(wallet, "default", wallets))
    try:
        return await client.forward(axon, question, timeout=12, deserialize=False)
    finally:
        await client.aclose_session()


def main():
    """Print what came back."""
    wallets, hotkey, port, wallet = sys.argv[1:]
    answer = asyncio.run(ask(wallets, hotkey, int(port), wallet))
    told = {"status": answer.dendrite.status_code, "predictions": answer.predictions, "intervals": answer.intervals}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
