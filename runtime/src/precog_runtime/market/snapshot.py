"""The newest prices on disk, so that a miner that is started again answers before its source does."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from precog_runtime.types import Series

if TYPE_CHECKING:
    from precog_runtime.market.market import Market
    from precog_runtime.metrics import Metrics

logger = logging.getLogger(__name__)

NAME = "window.npz"
KEPT_S = 6 * 3600  # beyond it no answer is given from old prices, and no model of ours looks back
EACH_S = 60.0
SAVING_S = 60.0  # a file that is being written is younger than this


def save(path: Path, prices: Mapping[str, Series]) -> None:
    """Write the prices of all assets, atomically.

    :raises OSError: it can't be written; an earlier file is as it was.
    """
    arrays = {
        f"{asset}:{part}": getattr(series, part) for asset, series in prices.items() for part in ("times", "prices")
    }
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: Path, now: float) -> dict[str, Series]:
    """Return the prices that were saved, by asset; none from the future, and nothing from a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {
                asset: _checked(file[f"{asset}:times"], file[f"{asset}:prices"], now)
                for asset, part in (name.split(":") for name in file.files)
                if part == "times"
            }
    except FileNotFoundError:
        return {}
    except Exception as error:  # by the byte that is wrong, zipfile and numpy raise a dozen kinds
        told = f"{type(error).__name__}: {error}"
        logger.warning("%s holds no prices that can be read, and is passed over: %s", path, told)
        return {}


def sweep(path: Path) -> None:
    """Remove what a `save` that was killed has left beside the file; what another process is writing now is young."""
    now = time.time()
    for left in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):  # another process was quicker, or the folder can't be written
            if not 0 <= now - left.stat().st_mtime < SAVING_S:
                left.unlink()


def _checked(times: np.ndarray, prices: np.ndarray, now: float) -> Series:
    """Return the series, without what is no price at a time before now.

    :raises ValueError: these are no arrays of one length.
    """
    series = Series(times.astype(np.int64), prices.astype(np.float64))
    if series.times.ndim != 1 or series.times.shape != series.prices.shape:
        raise ValueError("times and prices differ in shape")
    good = np.isfinite(series.prices) & (series.prices > 0) & (series.times > 0) & (series.times <= now)
    good[1:] &= series.times[1:] > np.maximum.accumulate(series.times)[:-1]
    return Series(series.times[good], series.prices[good])


class Snapshots:
    """Restores the market from the snapshot, and keeps that up to date."""

    def __init__(self, market: Market, folder: str, metrics: Metrics) -> None:
        self._market = market
        self._path = Path(folder) / NAME
        self._metrics = metrics

    def restore(self, now: float) -> None:
        """Put what was saved into the market; assets that are not tracked any more are left out. Never raises."""
        sweep(self._path)
        for asset, series in load(self._path, now).items():
            if asset in self._market.windows and len(series):
                self._market.windows[asset].extend(series)

    async def run(self) -> None:
        """Save as soon as there is something new, and each minute from then on; until cancelled."""
        saved = self._market.changes
        while True:
            await asyncio.sleep(1.0)
            if self._market.changes == saved:
                continue
            saved = self._market.changes
            try:
                await asyncio.get_running_loop().run_in_executor(None, save, self._path, self._newest())
            except OSError as error:
                self._metrics.error("state")
                logger.warning("%s can't be written: %s", self._path, error.strerror)
            await asyncio.sleep(EACH_S)

    def _newest(self) -> dict[str, Series]:
        newest = {asset: window.newest for asset, window in self._market.windows.items()}
        return {
            asset: self._market.series(asset, second - KEPT_S, second)
            for asset, second in newest.items()
            if second is not None
        }
