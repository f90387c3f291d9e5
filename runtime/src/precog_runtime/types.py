"""What the parts hand to one another, and the two interfaces that an operator can fill: a source and a model.

Times are seconds since the epoch (UTC). Prices are USD for one unit of the asset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# As the second of a forecast: made from the newest prices that are known, whatever timestamp is asked for.
NEWEST = 0
HORIZON_S = 3600  # validators compare with the price, and with the range of prices, of the hour after the timestamp


@dataclass(frozen=True)
class Series:
    """Prices of one asset, one a second at most, oldest first.

    :ivar times: shape (n,), int64, seconds since the epoch, strictly increasing.
    :ivar prices: shape (n,), float64, USD, finite and above 0.
    """

    times: Ints
    prices: Floats

    def __len__(self) -> int:
        return len(self.times)


@runtime_checkable
class PriceSource(Protocol):
    """Where prices come from."""

    async def fetch(self, assets: Sequence[str], start: int, end: int, timeout_s: float) -> Mapping[str, Series]:
        """Return what there is of each asset from `start` to `end`, both included: maybe nothing yet.

        :raises SourceError: nothing usable came within `timeout_s` seconds, retries included.
        """

    async def close(self) -> None:
        """Give back connections; safe to call twice."""


@dataclass(frozen=True)
class Forecast:
    """What a model says of one asset.

    :ivar point: USD at the end of the horizon.
    :ivar low: lower end of the range of prices within the horizon, USD.
    :ivar high: upper end, USD.
    """

    point: float
    low: float
    high: float


@runtime_checkable
class Model(Protocol):
    """Makes a forecast from a window of prices. See docs/runtime/model.md.

    :ivar name: told in answers, log and metrics; part of the cache's key, so change it when forecasts change.
    :ivar lookback_s: how many seconds before the timestamp the model wants to see.
    :ivar kind: "numpy" (quick or releasing the GIL: called in a thread at most) or "python" (slow pure Python: called
        in another process, so the model must be picklable).
    """

    name: str
    lookback_s: int
    kind: str

    def forecast(self, asset: str, timestamp: int, series: Series) -> Forecast:
        """Forecast the horizon that begins at `timestamp` from prices up to it.

        :param series: at least one price, maybe older than `lookback_s`; none later than `timestamp`, gaps possible.
        """


@dataclass(frozen=True)
class Request:
    """What a validator asks, as it came: unchecked.

    :ivar timestamp: ISO 8601 text or seconds since the epoch; None means now.
    :ivar deadline: on the engine's clock (`time.monotonic()`), when the answer must be on its way.
    :ivar caller: who asks, for the log (a hotkey, or an address).
    """

    timestamp: object
    assets: Sequence[object]
    deadline: float
    caller: str = ""


@dataclass(frozen=True)
class AssetAnswer:
    """The answer for one asset.

    :ivar age_s: by how many seconds the newest price used is older than the moment of the answer, or, where prices of
        marks are used, than the timestamp (0 if it is not).
    :ivar model: name of the model that made it.
    :ivar degraded: why it is not what it is on a good day ("stale", "model failed: ..."), "" if it is.
    :ivar price_time: second of the newest price used.
    """

    asset: str
    forecast: Forecast
    age_s: float
    model: str
    degraded: str = ""
    price_time: int | None = None


@dataclass(frozen=True)
class Answer:
    """What is answered.

    :ivar timestamp: seconds since the epoch that the forecasts begin at; None if it could not be understood.
    :ivar refused: why an asset has no answer, by the name that was asked for; "" stands for the whole request.
    :ivar hit: whether all was ready: no wait and no computation.
    """

    timestamp: int | None
    assets: Mapping[str, AssetAnswer] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    hit: bool = False

    def predictions(self) -> dict[str, float]:
        """Return the points, USD by asset, as the Challenge synapse has them."""
        return {name: answer.forecast.point for name, answer in self.assets.items()}

    def intervals(self) -> dict[str, list[float]]:
        """Return [low, high], USD by asset, as the Challenge synapse has them."""
        return {name: [answer.forecast.low, answer.forecast.high] for name, answer in self.assets.items()}
