# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Judges the answers of an instance, and sums them up as figures. Pure."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from .values import as_moment, as_number, as_object, as_price, as_table, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FIRST = 2  # requests that pay for what a new process does once: one of each kind
OLDEST_S = 1e9  # a larger age is cut to this: an answer may say Infinity, which JSON can't hold
MOST_TEXTS = 5  # kinds of wrong answers that are told
BLOCKS = 6  # of requests, over which memory is looked at
# What an answer says when its prices are old. That is the source's doing, not the release's.
STALE = re.compile(r"prices are [^;]* s old(; |$)")


class Demand(NamedTuple):
    """What an instance has to show besides right answers.

    :ivar fresh: each asset has a price that is newer than the process, and `max_age_s` old at the most.
    :ivar whole: its predictions are near the source's prices, its intervals are as wide as intervals are, its answers
        are its own model's, it keeps no memory for each request, and it is no slower than before.
    :ivar prices: lowest and highest price that the source gave lately, USD, by asset.
    :ivar peers: lowest and highest prediction of other hosts that passed their gates in this run.
    """

    fresh: bool
    whole: bool
    prices: Mapping[str, tuple[float, float]] = {}
    peers: Mapping[str, tuple[float, float]] = {}


FORM = Demand(fresh=False, whole=False)  # while the source is down, for a release that was good before


class Figures(NamedTuple):
    """What was measured of an instance.

    Times are those of all requests that an answer was waited for, but the first ones: they pay for what a new process
    does once. The p99 is a time that at least one percent of them and at least one exceed, as far as there are two: a
    single slow answer among few is none of the release's ways.
    """

    requests: int
    errors: int  # without an answer of status 200 in time
    wrong: tuple[str, ...]  # what is not right with answers, each kind once
    p50_ms: float
    p99_ms: float  # both 0 where nothing was timed
    prices: dict[str, float]  # the median of the predictions for now, USD by asset
    age_s: float  # the greatest age of the newest price of an asset
    faults: tuple[str, ...] = ()  # why requests were errors, each kind once
    judgements: tuple[Judgement, ...] = ()  # of all answers
    priceless: int = 0  # how many of the errors were the answer that there are no prices
    kinds: Mapping[str, tuple[int, int]] = {}  # requests and errors, by what was asked
    model: str = ""  # what the instance says of itself that it answers by; "" where it doesn't
    growth: float = 0.0  # bytes of memory that each request left behind


class Judgement(NamedTuple):
    """What one answer says, and what is wrong with it."""

    wrong: dict[str, str]  # an example, by what is wrong
    prices: dict[str, float]
    age_s: float
    widths: Mapping[str, float] = {}  # of the intervals, as shares of their predictions, by asset
    models: Mapping[str, str] = {}  # who made it, by asset


class Sample(NamedTuple):
    """One request and what came of it."""

    seconds: float | None  # None where a failure says nothing of speed
    fault: str = ""  # why it has no answer in time
    judgement: Judgement = Judgement({}, {}, 0.0)
    priceless: bool = False  # whether the fault is the answer that there are no prices
    kind: str = ""  # what was asked


def judge(body: bytes, assets: Sequence[str], earliest: float, latest: float) -> Judgement:
    """Judge the answer of `/predict` to a request. It never raises.

    Old prices alone are not wrong, as they are the source's doing: their age is told.

    :param assets: what has to be answered, and nothing else; if empty, at least one asset.
    :param earliest: the first second since the epoch that its timestamp may have.
    :param latest: the last one.
    """
    answer = as_object(body)
    if not answer:
        return Judgement({"an answer is no JSON object with anything in it": shortened(body)}, {}, 0.0)
    wrong = _wrong_whole(answer, earliest, latest)
    predictions = as_table(answer, "predictions")
    asked = tuple(assets) or tuple(predictions)
    if not asked:
        wrong["no asset is answered"] = shortened(body)
    for asset in asked:
        wrong.update(_wrong_asset(answer, asset))
    if unasked := set(predictions) - set(asked):
        wrong["an answer has assets that nobody asked for"] = shortened(", ".join(sorted(unasked)))
    prices = {asset: price for asset in asked if (price := as_price(predictions.get(asset))) is not None}
    ages = [
        min(age, OLDEST_S) for age in map(as_number, as_table(answer, "age_s").values()) if age is not None and age >= 0
    ]
    widths = {asset: width for asset in prices if (width := _width(answer, asset)) is not None}
    models = {asset: shortened(model) for asset, model in as_table(answer, "models").items() if asset in prices}
    return Judgement(wrong, prices, max(ages, default=0.0), widths, models)


def _wrong_whole(answer: Mapping[str, Any], earliest: float, latest: float) -> dict[str, str]:
    wrong = {}
    moment = as_moment(answer.get("timestamp"))
    if moment is None or not earliest <= moment <= latest:
        wrong["the timestamp of an answer is not that of its request"] = shortened(answer.get("timestamp"))
    if answer.get("refused"):
        wrong["an answer refuses something"] = shortened(answer["refused"])
    return wrong


def _wrong_asset(answer: Mapping[str, Any], asset: str) -> dict[str, str]:
    point = as_table(answer, "predictions").get(asset)
    interval = as_table(answer, "intervals").get(asset)
    price = as_price(point)
    if price is None:
        return {f"{asset} has no prediction that is a price": shortened(point)}
    wrong = {}
    low, high = map(as_price, interval) if isinstance(interval, list) and len(interval) == 2 else (None, None)
    if low is None or high is None or not low <= price <= high:
        wrong[f"{asset} has no interval around its prediction"] = f"{shortened(interval)} around {price:g}"
    degraded = as_table(answer, "degraded").get(asset)
    reason = STALE.sub("", degraded, count=1) if isinstance(degraded, str) else degraded
    if reason:
        wrong[f"{asset} is not answered by the model that is wanted"] = shortened(reason)
    return wrong


def _width(answer: Mapping[str, Any], asset: str) -> float | None:
    """Return the width of an asset's interval as a share of its prediction, or None where there is none."""
    interval, price = as_table(answer, "intervals").get(asset), as_price(as_table(answer, "predictions").get(asset))
    low, high = map(as_price, interval) if isinstance(interval, list) and len(interval) == 2 else (None, None)
    return None if low is None or high is None or price is None else (high - low) / price


def figures(samples: Sequence[Sample]) -> Figures:
    """Return what samples amount to, the FIRST of them made before the others."""
    times = sorted(sample.seconds for sample in samples[FIRST:] or samples if sample.seconds is not None)
    kinds = Counter(what for sample in samples for what in sample.judgement.wrong)
    examples = {what: text for sample in samples for what, text in sample.judgement.wrong.items()}
    faults = Counter(sample.fault for sample in samples if sample.fault)
    return Figures(
        requests=len(samples),
        errors=sum(faults.values()),
        wrong=tuple(f"{what}: {examples[what]}" for what, _times in kinds.most_common(MOST_TEXTS)),
        p50_ms=_quantile(times, 0.5),
        p99_ms=_quantile(times, 0.99),
        prices=_medians(sample.judgement for sample in samples),
        age_s=max((sample.judgement.age_s for sample in samples), default=0.0),
        faults=tuple(fault for fault, _times in faults.most_common(MOST_TEXTS)),
        judgements=tuple(sample.judgement for sample in samples if not sample.fault),
        priceless=sum(sample.priceless for sample in samples),
        kinds=_kinds(samples),
    )


def _kinds(samples: Iterable[Sample]) -> dict[str, tuple[int, int]]:
    """Return how many requests there were, and how many of them were errors, by what was asked."""
    found: dict[str, tuple[int, int]] = {}
    for sample in samples:
        requests, errors = found.get(sample.kind, (0, 0))
        found[sample.kind] = requests + 1, errors + bool(sample.fault and not sample.priceless)
    return found


def growth(memory: Sequence[int]) -> float:
    """Return how many bytes each request left behind. Pure.

    The median over blocks of requests: a leak is in each of them, a page of prices that is parsed meanwhile in one.

    :param memory: bytes that the instance's processes had before each request, in order.
    """
    if len(memory) < BLOCKS * 2:
        return 0.0
    size = (len(memory) - 1) // BLOCKS
    slopes = sorted((memory[start + size] - memory[start]) / size for start in range(0, size * BLOCKS, size))
    return slopes[(BLOCKS - 1) // 2]


def _medians(judgements: Iterable[Judgement]) -> dict[str, float]:
    """Return the median of each asset's predictions: the upper one where it lies between two."""
    prices: dict[str, list[float]] = {}
    for judgement in judgements:
        for asset, price in judgement.prices.items():
            prices.setdefault(asset, []).append(price)
    return {asset: sorted(all_)[len(all_) // 2] for asset, all_ in sorted(prices.items())}


def _quantile(times: Sequence[float], share: float) -> float:
    """Return a quantile of sorted times in milliseconds: the next lower one of them where it lies between two."""
    return round(times[int(share * (len(times) - 1))] * 1000, 3) if times else 0.0


def summary(figures: Figures) -> str:
    """Return the figures in one line."""
    errors = f"{figures.errors} errors in {figures.requests} requests"
    return f"{errors}, p50 {figures.p50_ms:.0f} ms, p99 {figures.p99_ms:.0f} ms"
