"""The subnet's synapse, with the fields that upstream's has, and a miner's wallet."""

from typing import Any

import bittensor
import pydantic


class Challenge(bittensor.Synapse):  # type: ignore[misc]
    """A question and its answer."""

    timestamp: str = pydantic.Field(..., title="Timestamp", frozen=True)
    assets: list[str] = pydantic.Field(default=["btc"], title="Assets", frozen=True)
    predictions: dict[str, float] | None = pydantic.Field(default=None, title="Predictions")
    intervals: dict[str, list[float]] | None = pydantic.Field(default=None, title="Intervals")


def wallet(home: str) -> Any:
    """Return the miner's wallet, made at its first use."""
    made = bittensor.Wallet(name="miner", hotkey="default", path=f"{home}/wallets")
    return made.create_if_non_existent(coldkey_use_password=False, hotkey_use_password=False, suppress=True)
