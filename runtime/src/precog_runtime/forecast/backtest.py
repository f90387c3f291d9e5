"""`precog-runtime backtest`: scores models as the validators do, over simulated or recorded prices."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from precog_runtime.errors import ModelError, SettingError
from precog_runtime.forecast.model import check, load
from precog_runtime.forecast.score import coverage, interval_score, point_error
from precog_runtime.settings import Settings
from precog_runtime.types import HORIZON_S, Floats, Forecast, Ints, Model, Series

if TYPE_CHECKING:
    import pandas as pd

Read = Callable[[str, int, int], Series]
BASELINE = "upstream"
MARK = "mark"
EPOCH = 1_760_000_400  # where simulated prices begin: any fixed time makes runs comparable; a multiple of 300 s
ALL = "all"
# Validators ask 0 to 12 s after a mark: 6 s in the mean, at which the newest price is about a second old.
LATER_S = 5
# Columns of prices: ours, and Coin Metrics'.
PRICE_COLUMNS = ("price", "ReferenceRateUSD")


@dataclass(frozen=True)
class Result:
    """How a model did on an asset: means over the forecasts that could be scored.

    :ivar forecasts: how many.
    :ivar skipped: for how many times there was no price before, or none at the end of the horizon.
    :ivar point_error: mean of |point - price| / price at the end of the horizon, %.
    :ivar median_error: median of the same, %.
    :ivar coverage: share of the horizon's prices within the interval, %.
    :ivar width: of the interval, % of the point.
    :ivar score: the validators' interval score, 0 to 1.
    :ivar prices: which prices it saw: MARK, those up to the time of the forecast, or those of so many seconds after it.
    """

    model: str
    asset: str
    forecasts: int
    skipped: int
    point_error: float
    median_error: float
    coverage: float
    width: float
    score: float
    prices: str = MARK


def backtest(
    models: Sequence[Model],
    assets: Sequence[str],
    read: Read,
    start: int,
    end: int,
    step_s: int,
    told: Callable[[float], None] | None = None,
    later_s: int = 0,
) -> list[Result]:
    """Have each model forecast at `start`, every `step_s` seconds, to `end`, and score it by what came then.

    A model sees prices up to the time of its forecast only, or to the moment at which a late validator is answered.

    :param read: gives an asset's prices between two times, both included; from the longest lookback before `start` to a
        horizon after `end`.
    :param told: called with the share that is done, 0 to 1.
    :param later_s: the forecast is made so many seconds after that time, from prices up to then, and scored as ever.
    :returns: one for each asset and model, in that order.
    :raises ModelError: a model failed, or gave no forecast.
    """
    results = []
    for number, asset in enumerate(assets):
        rows: list[list[tuple[float, ...]]] = [[] for _ in models]
        times = range(start, end + 1, step_s)
        for at, timestamp in enumerate(times):
            after = read(asset, timestamp, timestamp + HORIZON_S)
            if len(after) and after.times[-1] == timestamp + HORIZON_S:
                for model, row in zip(models, rows, strict=True):
                    moment = timestamp + later_s
                    before = read(asset, moment - model.lookback_s, moment)
                    if len(before):
                        row.append(_scored(_forecast(model, asset, moment, before), after.prices))
            if told:
                told((number + (at + 1) / len(times)) / len(assets))
        prices = f"+{later_s} s" if later_s else MARK
        results += [_result(model, asset, row, len(times), prices) for model, row in zip(models, rows, strict=True)]
    return results


def _forecast(model: Model, asset: str, timestamp: int, series: Series) -> Forecast:
    try:
        return check(asset, model.forecast(asset, timestamp, series), float(series.prices[-1]))
    except Exception as error:  # whatever an operator's model raises
        told = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        raise ModelError(f"model {model.name} at {timestamp}, {len(series)} prices of {asset}: {told}") from error


def _scored(made: Forecast, prices: Floats) -> tuple[float, ...]:
    return (
        100 * point_error(made.point, float(prices[-1])),
        100 * coverage(made.low, made.high, prices),
        100 * (made.high - made.low) / made.point,
        interval_score(made.low, made.high, prices),
    )


def _result(model: Model, asset: str, rows: list[tuple[float, ...]], times: int, prices: str) -> Result:
    table = np.array(rows) if rows else np.full((1, 4), np.nan)
    error, inside, width, score = (float(value) for value in table.mean(axis=0))
    median = float(np.median(table[:, 0]))
    return Result(model.name, asset, len(rows), times - len(rows), error, median, inside, width, score, prices)


def _slices(series: Mapping[str, Series]) -> Read:
    """Return a reading function over prices in memory."""

    def read(asset: str, start: int, end: int) -> Series:
        whole = series[asset]
        first, last = np.searchsorted(whole.times, [start, end + 1])
        return Series(whole.times[first:last], whole.prices[first:last])

    return read


@dataclass(frozen=True)
class _Market:
    """Prices to score over.

    :ivar name: the regime, or the file.
    :ivar start: time of the first forecast.
    :ivar end: of the last one.
    """

    name: str
    series: Mapping[str, Series]
    start: int
    end: int


def _simulated(regime: str, assets: Sequence[str], seed: int, hours: float, lookback_s: int) -> _Market:
    from precog_runtime.simulator.prices import prices

    end = EPOCH + int(hours * 3600)
    series = {asset: prices(asset, EPOCH - lookback_s, end + HORIZON_S, seed, regime) for asset in assets}
    return _Market(regime, series, EPOCH, end)


def _recorded(path: str, assets: Sequence[str] | None) -> _Market:
    """Return the prices of a file, with forecasts from an hour after its beginning to a horizon before its end.

    :raises SettingError: it can't be read, or holds too little.
    """
    series = read_file(path)
    missing = [asset for asset in assets or () if asset not in series]
    if missing:
        raise SettingError(f"{path}: it has no prices of {', '.join(missing)}. It has: {', '.join(series)}")
    chosen = {asset: series[asset] for asset in assets or series}
    start = max(int(each.times[0]) for each in chosen.values()) + HORIZON_S
    end = min(int(each.times[-1]) for each in chosen.values()) - HORIZON_S
    if start > end:
        raise SettingError(
            f"{path}: its prices span too little: a forecast wants an hour before it, and one after it to be scored by"
        )
    return _Market(path, chosen, start, end)


def read_file(path: str) -> dict[str, Series]:
    """Read prices from CSV or Parquet (by the file's suffix; see `precog_runtime.frames.read`).

    Columns: `asset`, `time` (ISO 8601 or seconds since the epoch) and `price` or `ReferenceRateUSD`, in any order.

    :returns: by asset, without rows that are no price; of several prices of one second, the last in the file.
    :raises FrameError: it can't be read.
    :raises SettingError: a column or the extra `frames` is missing, or there is no price in it.
    """
    try:
        from precog_runtime.frames import read
    except ModuleNotFoundError as error:
        raise SettingError(f"{path}: {error}") from error
    frame = read(path)
    column = next((name for name in PRICE_COLUMNS if name in frame.columns), PRICE_COLUMNS[0])
    for name in ("asset", "time", column):
        if name not in frame.columns:
            found = ", ".join(map(str, frame.columns))
            raise SettingError(f"{path}: it has no column {name!r} but {found}. Rename the one that is meant")
    times, prices, names = (
        _seconds(path, frame["time"]),
        _numbers(frame[column]),
        np.asarray(frame["asset"].astype(str)),
    )
    series = {str(name): _ordered(times[names == name], prices[names == name]) for name in dict.fromkeys(names)}
    kept = {name: each for name, each in series.items() if len(each)}
    if not kept:
        raise SettingError(f"{path}: there is no price in it")
    return kept


def _numbers(column: pd.Series[Any]) -> Floats:
    import pandas as pd

    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _seconds(path: str, column: pd.Series[Any]) -> Ints:
    import pandas as pd

    try:
        if pd.api.types.is_numeric_dtype(column):
            return column.to_numpy(np.int64)
        moments = pd.to_datetime(column, utc=True).dt.tz_localize(None)
        return moments.to_numpy("datetime64[s]").astype(np.int64)
    except (ValueError, TypeError) as error:
        raise SettingError(f"{path}: column 'time' has something that is no time: {error}") from error


def _ordered(times: Ints, prices: Floats) -> Series:
    good = np.isfinite(prices) & (prices > 0) & (times > 0)
    times, prices = times[good], prices[good]
    order = np.argsort(times, kind="stable")
    times, prices = times[order], prices[order]
    last = np.append(times[1:] != times[:-1], True)[: len(times)]
    return Series(times[last], prices[last])


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="default, upstream, an entry point, or path/to/file.py:Name; repeatable (default: default and upstream)",
    )
    parser.add_argument(
        "--asset",
        action="append",
        metavar="NAME",
        help="repeatable (default: btc, eth and tao_bittensor; of a file, all)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--regime", default=ALL, metavar="NAME", help="a regime of simulated prices (default: all)")
    where.add_argument(
        "--csv", metavar="FILE", help="recorded prices: columns asset, time, and price or ReferenceRateUSD"
    )
    where.add_argument("--parquet", metavar="FILE", help="the same, as Parquet")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated prices (default: %(default)s)")
    parser.add_argument(
        "--hours", type=_positive(float), default=24.0, help="of simulated forecasts (default: %(default)g)"
    )
    parser.add_argument(
        "--step", type=_positive(int), default=300, metavar="S", help="between forecasts (default: %(default)s)"
    )
    parser.add_argument(
        "--later-s",
        type=int,
        default=LATER_S,
        metavar="S",
        help="score also answers made from the newest price so long after the mark; 0: only from prices up to the mark "
        "(default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
        return value

    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code.

    :raises ModelError: a model can't be loaded, or failed.
    :raises SettingError: the regime or the file can't be used.
    """
    models = [load(name) for name in dict.fromkeys(arguments.model or ["default", BASELINE])]
    names = [model.name for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ModelError(f"two models are called {twice!r}. Give each a name of its own")
    results: dict[str, list[Result]] = {}
    if not 0 <= arguments.later_s < HORIZON_S:
        raise SettingError(f"--later-s is {arguments.later_s}: give 0 to {HORIZON_S - 1} seconds")
    for market in _markets(arguments, max(model.lookback_s for model in models)):
        results[market.name] = []
        moments = list(dict.fromkeys((0, arguments.later_s)))
        for number, later_s in enumerate(moments):
            results[market.name] += backtest(
                models,
                list(market.series),
                _slices(market.series),
                market.start,
                market.end,
                arguments.step,
                partial(_progress, market.name, number, len(moments)),
                later_s,
            )
    rows = [row for name, found in results.items() for row in _rows(name, found)]
    if not any(row["forecasts"] for row in rows):
        raise SettingError(
            "nothing could be scored: no price lies an hour after a forecast. Give prices of every second"
        )
    print(json.dumps(rows, indent=2) if arguments.json else _table(rows))
    return 0


def _markets(arguments: argparse.Namespace, lookback_s: int) -> Iterator[_Market]:
    file = arguments.csv or arguments.parquet
    if file:
        yield _recorded(file, arguments.asset)
        return
    from precog_runtime.simulator.prices import REGIMES, check_regime

    if arguments.regime != ALL:
        check_regime(arguments.regime)
    assets = list(dict.fromkeys(arguments.asset or Settings.assets))
    for regime in REGIMES if arguments.regime == ALL else [arguments.regime]:
        yield _simulated(regime, assets, arguments.seed, arguments.hours, lookback_s)


def _progress(name: str, number: int, count: int, share: float) -> None:
    """Show what is done, on stderr: in place on a terminal, else once a market is through.

    :param number: of the pass over the market, from 0, of `count`.
    :param share: of that pass.
    """
    share = (number + share) / count
    if sys.stderr.isatty():
        print(f"\r{name} {share:4.0%}", end="\n" if share == 1 else "", file=sys.stderr, flush=True)
    elif share == 1:
        print(f"{name} done", file=sys.stderr, flush=True)


def _rows(market: str, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the results of a market, and their means over its assets, each with its ratios to upstream's rule."""
    kinds = dict.fromkeys((result.model, result.prices) for result in results)
    means = [_mean([each for each in results if (each.model, each.prices) == kind]) for kind in kinds]
    several = means if len({result.asset for result in results}) > 1 else []
    rows = []
    for result in [*results, *several]:
        wanted = (BASELINE, result.asset, MARK)  # upstream's miner takes prices up to the mark
        base = next((each for each in [*results, *means] if (each.model, each.asset, each.prices) == wanted), None)
        row: dict[str, Any] = {"market": market, **asdict(result)}
        row["error_ratio"] = result.point_error / base.point_error if base and base.point_error else None
        row["score_ratio"] = result.score / base.score if base and base.score else None
        rows.append(
            {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        )
    return rows


def _mean(results: Sequence[Result]) -> Result:
    """Return the mean of a model's results over assets, all of which count alike."""
    counts = [sum(each.forecasts for each in results), sum(each.skipped for each in results)]
    figures = np.array(
        [[each.point_error, each.median_error, each.coverage, each.width, each.score] for each in results]
    ).mean(axis=0)
    error, median, inside, width, score = (float(value) for value in figures)
    one = results[0]
    return Result(one.model, ALL, counts[0], counts[1], error, median, inside, width, score, one.prices)


# Title, key and format of each column.
COLUMNS = (
    ("market", "market", "s"),
    ("asset", "asset", "s"),
    ("model", "model", "s"),
    ("prices", "prices", "s"),
    ("forecasts", "forecasts", "d"),
    ("skipped", "skipped", "d"),
    ("error %", "point_error", ".4f"),
    ("median %", "median_error", ".4f"),
    ("inside %", "coverage", ".1f"),
    ("width %", "width", ".3f"),
    ("score", "score", ".4f"),
    ("error/upstream", "error_ratio", ".3f"),
    ("score/upstream", "score_ratio", ".2f"),
)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [[title for title, _, _ in COLUMNS]]
    cells += [["-" if row[key] is None else format(row[key], form) for _, key, form in COLUMNS] for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(COLUMNS))]
    left = [form == "s" for _, _, form in COLUMNS]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if leftmost else cell.rjust(width)
            for cell, width, leftmost in zip(line, widths, left, strict=True)
        )
        for line in cells
    )
