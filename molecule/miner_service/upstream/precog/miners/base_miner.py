"""The forward function without ours: it knows no price, so that a test tells which of the two runs."""

import bittensor as bt
import pandas as pd
from precog.protocol import Challenge
from precog.utils.cm_data import PriceData
from precog.utils.timestamp import parse


async def forward(synapse: Challenge, data: PriceData) -> Challenge:
    """Answer that there is no answer."""
    bt.logging.info(f"nothing is known of {pd.Timestamp(parse(synapse.timestamp))}, {data}")
    synapse.predictions = None
    return synapse
