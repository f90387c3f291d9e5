"""Prices from Coin Metrics; what it imports brings polars, as upstream's does."""

import bittensor as bt
import pandas as pd
from coinmetrics.api_client import CoinMetricsClient


class PriceData:
    """A client, and a cache that stays empty."""

    def __init__(self, api_key: str = "") -> None:
        self.client = CoinMetricsClient(api_key)
        self.cache = pd.DataFrame()
        bt.logging.debug(f"prices from {self.client}")
