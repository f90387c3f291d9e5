"""What validators ask and miners answer."""

import bittensor as bt
import pydantic


class Challenge(bt.Synapse):
    """The prices of some assets an hour after a time."""

    timestamp: str
    assets: list[str] = pydantic.Field(default=["btc"])
    predictions: dict[str, float] | None = None
    intervals: dict[str, list[float]] | None = None
