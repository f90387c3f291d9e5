"""The subnet's synapse, with the fields that upstream's has."""

import pydantic
from bittensor import Synapse


class Challenge(Synapse):
    timestamp: str = pydantic.Field(..., title="Timestamp", frozen=True)
    assets: list[str] = pydantic.Field(default=["btc"], title="Assets", frozen=True)
    predictions: dict[str, float] | None = pydantic.Field(default=None, title="Predictions")
    intervals: dict[str, list[float]] | None = pydantic.Field(default=None, title="Intervals")

    def deserialize(self):
        return self.predictions
