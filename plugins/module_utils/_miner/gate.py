# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gate of a release: is an instance ready, does it answer rightly and in time, and by what the source says.

It asks over HTTP at a steady rate, and judges every answer. Prices are compared with the source's own
(`source`), never with those of the release that is left. What it asks of an engine:

runtime
    `GET /readyz`, then `POST /predict`, in turn for all assets at the time of the request, and as validators ask: for
    assets by name, at the last mark of five minutes.
upstream
    the same at the port of its metrics, and any answer at all from the axon, which answers validators only: to what
    is no request, as it logs an error for each that names no synapse. That its axon hands a request to our forward
    function is not seen by that.
simulator
    `GET /control`, and once for prices: it allows few requests, and they are for those who need prices.
"""

from __future__ import annotations

import json
import math
import re
import socket
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple

from .._host.host import HostError
from .options import GATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .plan import Instance
    from .systemd import Live

READY_S = {"upstream": 300.0}  # where `ready_s` is not given: it asks the chain before it is ready
MOST_AT_ONCE = 32  # requests in flight; where all of them are, the next ones of the rate are left out
LARGEST_BODY = 1 << 20  # bytes; an answer of 32 assets has less than 8 KiB
MARK_S = 300  # validators ask for predictions at the full five minutes
FIRST = 2  # requests that pay for what a new process does once: one of each kind
CLOCK_S = 2.0  # by how much an answer's timestamp may be off the time of its request
LONGEST_TEXT = 120  # characters of an answer that are shown
MOST_TEXTS = 5  # kinds of wrong answers that are told
POLL_S = 0.1  # between looks at whether an instance is ready
PATIENCE_S = 1.0  # for one such look: a socket of systemd takes a connection whether or not a process will answer it
PEERS_S = 900  # older answers of other hosts are not compared with
BLOCKS = 6  # of requests, over which memory is looked at
NUDGE_S = 1.0  # between requests that have an instance fetch newer prices than it has
CONTROL = "/control"
NO_REQUEST = b"?\r\n\r\n"
PRICES = "/v4/timeseries/asset-metrics?assets=*&metrics=ReferenceRateUSD&frequency=1s&limit_per_asset=1"
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
FAULTS = ("latency", "hang", "drop", "429", "500", "cut", "garbage", "late")  # of a simulator: shares of requests
# What an answer says when its prices are old. That is the source's doing, not the release's.
STALE = re.compile(r"prices are [^;]* s old(; |$)")
MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]{1,9})?(?:Z|\+00:00)")

# -- limits -----------------------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """What an instance is held to; the names and defaults are those of `miner_service_gate`.

    :ivar ready_s: as it was given, or its default; `ready_for` knows what holds for an engine.
    :ivar rejoin_s: how long load balancers take to hand requests to an instance that is ready again.
    :ivar ready_given: whether `ready_s` was given, and so holds for every engine.
    """

    ready_s: float
    soak_s: float
    rate_hz: float
    deadline_ms: float
    p99_ms: float
    p99_factor: float
    p99_slack_ms: float
    error_rate: float
    price_tolerance: float
    max_age_s: float
    interval_min: float
    interval_max: float
    growth_kb: float
    drain_s: float
    rejoin_s: float
    ready_given: bool = False

    def ready_for(self, engine: str) -> float:
        """Return how long an instance of an engine may take to be ready, seconds."""
        return self.ready_s if self.ready_given else READY_S.get(engine, self.ready_s)


class Bounds(NamedTuple):
    """Which values a limit can have."""

    least: float
    most: float
    unit: str


BOUNDS = {
    "ready_s": Bounds(0.1, 3600, "seconds"),
    "soak_s": Bounds(0, 600, "seconds"),
    "rate_hz": Bounds(0.1, 200, "requests a second"),
    "deadline_ms": Bounds(1, 60_000, "milliseconds"),
    "p99_ms": Bounds(1, 60_000, "milliseconds"),
    "p99_factor": Bounds(1, 1000, "times the p99 of before"),
    "p99_slack_ms": Bounds(0, 60_000, "milliseconds"),
    "error_rate": Bounds(0, 1, "the share of requests"),
    "price_tolerance": Bounds(0, 1000, "the share of the source's price"),
    "max_age_s": Bounds(1, 86400, "seconds"),
    "interval_min": Bounds(0, 1000, "the share of the prediction"),
    "interval_max": Bounds(0, 1e12, "the share of the prediction"),
    "growth_kb": Bounds(0, 1 << 30, "KB of memory for each request"),
    "drain_s": Bounds(0, 600, "seconds"),
    "rejoin_s": Bounds(0, 600, "seconds"),
}


def limits(given: Mapping[str, Any] | None) -> Limits:
    """Return the limits, those that are not given at their defaults.

    :param given: `miner_service_gate`; a null leaves the default.
    :raises HostError: a name or a value can't be used; all of them are told.
    """
    values = {name: float(argument["default"]) for name, argument in GATE.items()}
    problems = []
    for name, value in (given or {}).items():
        bounds = BOUNDS.get(name)
        number = _amount(value)
        if bounds is None:
            problems.append(f"there is no {name}. Choose from {', '.join(BOUNDS)}")
        elif value is not None and (number is None or not bounds.least <= number <= bounds.most):
            wanted = f"give {bounds.unit} from {bounds.least:g} to {bounds.most:g}"
            problems.append(f"{name} is {value!r}: {wanted}")
        elif number is not None:
            values[name] = number
    if problems:
        raise HostError("\n".join(f"miner_service_gate: {problem}" for problem in problems))
    return Limits(**values, ready_given=(given or {}).get("ready_s") is not None)


def _amount(value: object) -> float | None:
    """Return a number that may come as text, as from the command line; None if it is none."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return _number(value)


def _number(value: object) -> float | None:
    """Return a number of JSON, or None: for what is none, and for what is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


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

# -- judging answers: pure --------------------------------------------------------------------------------------------


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
    answer = _object(body)
    if not answer:
        return Judgement({"an answer is no JSON object with anything in it": _short(body)}, {}, 0.0)
    wrong = _wrong_whole(answer, earliest, latest)
    predictions = _table(answer, "predictions")
    asked = tuple(assets) or tuple(predictions)
    if not asked:
        wrong["no asset is answered"] = _short(body)
    for asset in asked:
        wrong.update(_wrong_asset(answer, asset))
    if unasked := set(predictions) - set(asked):
        wrong["an answer has assets that nobody asked for"] = _short(", ".join(sorted(unasked)))
    prices = {asset: price for asset in asked if (price := _price(predictions.get(asset))) is not None}
    ages = [age for age in map(_number, _table(answer, "age_s").values()) if age is not None and age >= 0]
    widths = {asset: width for asset in prices if (width := _width(answer, asset)) is not None}
    models = {asset: _short(model) for asset, model in _table(answer, "models").items() if asset in prices}
    return Judgement(wrong, prices, max(ages, default=0.0), widths, models)


def _wrong_whole(answer: Mapping[str, Any], earliest: float, latest: float) -> dict[str, str]:
    wrong = {}
    moment = _moment(answer.get("timestamp"))
    if moment is None or not earliest <= moment <= latest:
        wrong["the timestamp of an answer is not that of its request"] = _short(answer.get("timestamp"))
    if answer.get("refused"):
        wrong["an answer refuses something"] = _short(answer["refused"])
    return wrong


def _wrong_asset(answer: Mapping[str, Any], asset: str) -> dict[str, str]:
    point = _table(answer, "predictions").get(asset)
    interval = _table(answer, "intervals").get(asset)
    price = _price(point)
    if price is None:
        return {f"{asset} has no prediction that is a price": _short(point)}
    wrong = {}
    low, high = map(_price, interval) if isinstance(interval, list) and len(interval) == 2 else (None, None)
    if low is None or high is None or not low <= price <= high:
        wrong[f"{asset} has no interval around its prediction"] = f"{_short(interval)} around {price:g}"
    degraded = _table(answer, "degraded").get(asset)
    reason = STALE.sub("", degraded, count=1) if isinstance(degraded, str) else degraded
    if reason:
        wrong[f"{asset} is not answered by the model that is wanted"] = _short(reason)
    return wrong


def _width(answer: Mapping[str, Any], asset: str) -> float | None:
    """Return the width of an asset's interval as a share of its prediction, or None where there is none."""
    interval, price = _table(answer, "intervals").get(asset), _price(_table(answer, "predictions").get(asset))
    low, high = map(_price, interval) if isinstance(interval, list) and len(interval) == 2 else (None, None)
    return None if low is None or high is None or price is None else (high - low) / price


def _object(body: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one for what is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _table(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = answer.get(name)
    return found if isinstance(found, dict) else {}


def _price(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and 0 < number < math.inf else None


def _moment(text: object) -> float | None:
    """Return the second of a timestamp such as 2026-11-23T21:05:00.000000Z, since the epoch, or None."""
    whole = MOMENT.fullmatch(text) if isinstance(text, str) else None
    try:
        return datetime.fromisoformat(f"{whole[1]}+00:00").timestamp() if whole else None
    except ValueError:
        return None


def _short(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    try:
        shown = text if isinstance(text, str) else repr(value)
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        shown = "..."
    return shown if len(shown) <= LONGEST_TEXT else f"{shown[:LONGEST_TEXT]}..."


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


# -- the verdict: pure ------------------------------------------------------------------------------------------------


def verdict(instance: Instance, before: Figures | None, after: Figures, limits: Limits, demand: Demand) -> list[str]:
    """Return what speaks against a release, each with check, figure and limit; nothing if it is good.

    :param before: the same of the release that ran before; None, or figures without an answer, compare with nothing.
    """
    baseline = _baseline(before)
    problems = [f"the answers are wrong: {wrong}" for wrong in after.wrong]
    problems += _wrong_rate(baseline, after, limits, demand)
    if demand.fresh:
        problems += _old_prices(after, limits)
    if demand.whole:
        problems += _wrong_p99(baseline, after, limits)
        problems += far_prices(after, limits, demand.prices)
        problems += far_prices(after, limits, demand.peers, "other hosts that just passed their gate answer")
        problems += _wrong_widths(after, limits)
        problems += _wrong_models(after)
        problems += _leak(after, limits)
    if demand.whole and baseline is not None and after.requests > after.errors:
        for asset in baseline.prices:
            problems += _lost_price(instance, asset, after)
    return problems


def _baseline(before: Figures | None) -> Figures | None:
    """Return the figures if there is anything in them to compare with."""
    return before if before is not None and before.requests > before.errors else None


def _wrong_rate(before: Figures | None, after: Figures, limits: Limits, demand: Demand) -> list[str]:
    # While the source is down, "there are no prices" is the right answer.
    errors = after.errors if demand.fresh else after.errors - after.priceless
    rate = errors / after.requests if after.requests else 1.0
    of_kinds = _wrong_kinds(before, after, limits)
    allowed = max(limits.error_rate, before.errors / before.requests if before else 0.0)
    # A release that answers nothing is never good, however bad the one before was.
    if rate <= allowed and rate < 1:
        return of_kinds
    of_before = f", before the release it was {allowed:.1%}" if allowed > limits.error_rate else ""
    told = f"the error rate is {rate:.1%} ({errors} of {after.requests} requests)"
    why = f": {'; '.join(after.faults)}" if after.faults else ""
    return [f"{told}; the limit is {limits.error_rate:.1%} (gate error_rate){of_before}{why}"]


def _wrong_p99(before: Figures | None, after: Figures, limits: Limits) -> list[str]:
    told = f"p99 is {after.p99_ms:.0f} ms"
    if after.p99_ms > limits.p99_ms:
        return [f"{told}; the limit is {limits.p99_ms:g} ms (gate p99_ms)"]
    if before is None:
        return []
    allowed = before.p99_ms * limits.p99_factor + limits.p99_slack_ms
    if after.p99_ms <= allowed:
        return []
    how = f"{limits.p99_factor:g} times the {before.p99_ms:.0f} ms of before and {limits.p99_slack_ms:g} ms"
    return [f"{told}; the limit is {allowed:.0f} ms: {how} (gate p99_factor, p99_slack_ms)"]


def _lost_price(instance: Instance, asset: str, after: Figures) -> list[str]:
    """Return what tells that an asset was answered before, and is no more; nothing if it was taken out on purpose."""
    if asset in after.prices or (instance.assets and asset not in instance.assets):
        return []
    wanted = "if that is wanted, name the assets in the instance's variable PRECOG_RUNTIME_ASSETS"
    return [f"{asset} has no price any more, before the release it had; the limit is none lost: {wanted}"]


def _old_prices(after: Figures, limits: Limits) -> list[str]:
    if after.age_s <= limits.max_age_s:
        return []
    limit = f"the limit is {limits.max_age_s:g} s (gate max_age_s)"
    return [f"the newest price of an answer is {after.age_s:.0f} s old; {limit}"]


def peers_prices(peers: Iterable[object], now: float) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest of other hosts' predictions, USD, by asset. Pure.

    :param peers: their `answers`, as the module returns them.
    :param now: seconds since the epoch; what was answered more than PEERS_S ago is passed over.
    """
    found: dict[str, list[float]] = {}
    for peer in peers:
        told = peer if isinstance(peer, dict) else {}
        at = _number(told.get("at"))
        if at is None or abs(now - at) > PEERS_S:
            continue
        for asset, value in _table(told, "predictions").items():
            price = _price(value)
            if price is not None:
                found.setdefault(asset, []).append(price)
    return {asset: (min(all_), max(all_)) for asset, all_ in found.items()}


def far_prices(
    after: Figures, limits: Limits, prices: Mapping[str, tuple[float, float]], who: str = "its source says"
) -> list[str]:
    """Return that predictions are too far from what they should be: the farthest one, and for which assets. Pure.

    :param prices: lowest and highest price that they are compared with, USD, by asset.
    :param who: whose prices these are.
    """
    far: dict[str, tuple[float, str]] = {}
    for asset, (low, high) in prices.items():
        given = [one.prices[asset] for one in after.judgements if asset in one.prices]
        offs = [(max(price / high - 1, 1 - price / low, 0.0), price) for price in given]
        beyond = [(off, price) for off, price in offs if off > limits.price_tolerance]
        if beyond:
            off, price = max(beyond)
            told = f"is {price:g} where {who} {low:g} to {high:g}, {off:.1%} away"
            far[asset] = off, f"{told}, in {len(beyond)} of {len(given)} answers"
    if not far:
        return []
    farthest = max(far, key=lambda asset: far[asset][0])
    others = ", ".join(asset for asset in far if asset != farthest)
    too = f"; so is that of {others}" if others else ""
    limit = f"the limit is {limits.price_tolerance:.1%} (gate price_tolerance)"
    return [f"the prediction of {farthest} {far[farthest][1]}{too}; {limit}"]


def _wrong_kinds(before: Figures | None, after: Figures, limits: Limits) -> list[str]:
    """Return what tells that requests of one kind fail, which those of the others would hide."""
    found = []
    for kind, (requests, errors) in after.kinds.items():
        of_before, bad = before.kinds.get(kind, (0, 0)) if before else (0, 0)
        allowed = max(limits.error_rate, bad / of_before if of_before else 0.0)
        if requests and errors / requests > allowed:
            found.append(
                f"the error rate of requests {kind} is {errors / requests:.1%} ({errors} of {requests} requests); the "
                f"limit is {limits.error_rate:.1%} (gate error_rate): {'; '.join(after.faults)}"
            )
    return found


def _wrong_widths(after: Figures, limits: Limits) -> list[str]:
    """Return which assets have an interval that says nothing, each once, with one that is too wide or too narrow."""
    found = []
    for asset in sorted({asset for one in after.judgements for asset in one.widths}):
        widths = [one.widths[asset] for one in after.judgements if asset in one.widths]
        bad = [width for width in widths if not limits.interval_min <= width <= limits.interval_max]
        if bad:
            found.append(
                f"the interval of {asset} is {max(bad):.4%} of its prediction wide in {len(bad)} of {len(widths)} "
                f"answers; the limits are {limits.interval_min:.4%} and {limits.interval_max:.4%} "
                "(gate interval_min, interval_max)"
            )
    return found


def _wrong_models(after: Figures) -> list[str]:
    """Return which assets are answered by another model than the one that the instance says it has."""
    if not after.model:
        return []
    others = Counter(
        (asset, model) for one in after.judgements for asset, model in one.models.items() if model != after.model
    )
    return [
        f"{asset} is answered by the model {model} in {times} of {len(after.judgements)} answers; the instance's model "
        f"is {after.model}"
        for (asset, model), times in others.most_common(MOST_TEXTS)
    ]


def _leak(after: Figures, limits: Limits) -> list[str]:
    kb = after.growth / 1024
    if kb <= limits.growth_kb:
        return []
    return [f"each request leaves {kb:.0f} KB of memory behind; the limit is {limits.growth_kb:g} KB (gate growth_kb)"]


def unsteady(then: Live, now: Live) -> list[str]:
    """Return what tells that an instance did not run through its soak; nothing if it did. Pure.

    :param then: what it was when the soak began.
    :param now: what it is after it.
    """
    if now.active == "active" and (now.pid, now.restarts) == (then.pid, then.restarts):
        return []
    restarts = now.restarts - then.restarts
    told = f"its process {then.pid} did not last through the soak: its unit is {now.state}"
    return [f"{told}, its process {now.pid or 'none'}, and systemd started it again {restarts} times"]


# -- asking -----------------------------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """What came of one exchange."""

    status: int  # 0 if there is no whole answer
    body: bytes
    seconds: float
    fault: str  # why there is none
    late: bool  # whether it was given up at its deadline


class Place:
    """An address that answers HTTP, with connections that are kept from request to request. For several threads.

    :param host: an address; that of all interfaces stands for this machine.
    :param timeout_s: what a request has from the first byte sent to the last byte received.
    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        bare = host.strip("[]")
        self._host, self._port, self._timeout_s = ANYWHERE.get(bare, bare), port, timeout_s
        self._idle: deque[HTTPConnection] = deque()

    @property
    def name(self) -> str:
        """The address as it is shown."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def ask(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Send a request and return what came of it. It never raises, and a failed request is not repeated."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        began = time.monotonic()
        status, content, fault = self._exchange(connection, method, path, body)
        seconds = time.monotonic() - began
        late = seconds >= self._timeout_s
        if late:
            fault = f"{self.name} gave no answer to {path.partition('?')[0]} within {self._timeout_s * 1000:g} ms"
        if fault:
            connection.close()
            return Reply(0, b"", seconds, fault, late)
        self._idle.append(connection)
        return Reply(status, content, seconds, "", False)

    def heard(self) -> str:
        """Return "" if HTTP is answered here, with whatever status, or why not; on a connection of its own."""
        try:
            with socket.create_connection((self._host, self._port), self._timeout_s) as connection:
                connection.sendall(NO_REQUEST)
                head = connection.recv(64)
        except OSError as error:
            return f"{self.name}: {_told(error)}"
        return "" if head.startswith(b"HTTP/") else f"{self.name} does not answer HTTP, but {_short(head)!r}"

    def _exchange(
        self, connection: HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, bytes, str]:
        """Return status, body, and why there are none."""
        deadline = threading.Timer(self._timeout_s, lambda: None)
        try:
            if connection.sock is None:
                connection.connect()
            # The socket's own time-out begins anew with each byte.
            deadline = threading.Timer(self._timeout_s, _end, (connection.sock,))
            deadline.start()
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            content = response.read(LARGEST_BODY + 1)
        except (OSError, HTTPException, ValueError) as error:
            return 0, b"", f"{self.name}: {_told(error)}"
        finally:
            deadline.cancel()
        if len(content) > LARGEST_BODY:
            return 0, b"", f"{self.name}: an answer of more than {LARGEST_BODY} bytes"
        if response.length:
            return 0, b"", f"{self.name}: an answer that ends {response.length} bytes too soon"
        return response.status, content, ""

    def close(self) -> None:
        """Give the connections back."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _end(connected: socket.socket) -> None:
    """End a connection under whoever waits for it in another thread."""
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended by itself


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return f"{type(error).__name__}: {_short(str(error))}" if str(error) else type(error).__name__


def _web(instance: Instance, timeout_s: float) -> Place:
    return Place(instance.http_host, instance.http_port, timeout_s)


def wait_ready(instance: Instance, limits: Limits, alive: Callable[[], str], demand: Demand) -> str:
    """Wait until an instance says that it is ready, for the `ready_s` of its engine at most.

    Where fresh prices are demanded, each asset has to have one that is newer than this call: what its process had from
    the one before it proves nothing of it.

    :param alive: returns "", or why the instance can't become ready any more.
    :returns: "", or why it is not ready.
    """
    ready_s = limits.ready_for(instance.engine)
    began = nudged = time.monotonic()
    with _web(instance, PATIENCE_S) as web, Place(instance.host, instance.port, PATIENCE_S) as axon:
        while True:
            seen = _unready(instance, web, axon, demand, limits, time.monotonic() - began)
            dead = alive() if seen else ""
            if not seen or dead:
                return dead
            if time.monotonic() + POLL_S >= began + ready_s:
                return f"not ready after {ready_s:g} s (gate ready_s): {seen}"
            if demand.fresh and instance.engine != "simulator" and time.monotonic() >= nudged + NUDGE_S:
                web.ask("POST", "/predict", b"{}")  # which has it look for newer prices
                nudged = time.monotonic()
            time.sleep(POLL_S)


def _unready(instance: Instance, web: Place, axon: Place, demand: Demand, limits: Limits, passed_s: float) -> str:
    """Return "" if an instance is ready now, or why not.

    :param passed_s: for how long its process has lived at least.
    """
    if instance.engine == "simulator":
        return _unanswered(web, CONTROL, web.ask("GET", CONTROL))
    reply = web.ask("GET", "/readyz")
    seen = _unanswered(web, "/readyz", reply)
    told = _object(reply.body)
    if not demand.fresh and reply.status == 503 and "ready" in told:
        seen = ""  # it runs, and lacks prices
    if demand.fresh and not seen:
        seen = _unfresh(instance, _table(told, "age_s"), limits, passed_s)
    return axon.heard() if not seen and instance.engine == "upstream" else seen


def _unfresh(instance: Instance, ages: Mapping[str, Any], limits: Limits, passed_s: float) -> str:
    """Return "" if each asset has a fresh price that came after the process began, or what tells that one has none."""
    for asset in instance.assets or tuple(ages):
        age_s = _number(ages.get(asset))
        if age_s is None:
            return f"{asset} has no price"
        if age_s > limits.max_age_s:
            limit = f"the limit is {limits.max_age_s:g} s (gate max_age_s)"
            return f"the newest price of {asset} is {age_s:.0f} s old; {limit}"
        # Ages are whole seconds, rounded down.
        if age_s + 1 > passed_s:
            return f"{asset} got no price in the {passed_s:.0f} s since the start; its newest is {age_s:.0f} s old"
    return "" if ages else "/readyz does not say how old its prices are"


def measure(instance: Instance, limits: Limits, seconds: float, memory: Callable[[], int] | None = None) -> Figures:
    """Ask an instance at the gate's rate for some seconds, and at least once each way; judge the answers.

    It takes `seconds` and three deadlines at most.

    :param memory: tells how many bytes the instance's processes have now.
    """
    if instance.engine == "simulator":
        return figures(list(_look_at_simulator(instance, limits)))
    with _web(instance, limits.deadline_ms / 1000) as web:
        model = _object(web.ask("GET", "/readyz").body).get("model")
        now = _sample(web, instance.assets)
        named = instance.assets or tuple(now.judgement.prices)
        samples = [now, _sample_of_mark(web, named)]

        def ask(number: int) -> Sample:
            return _sample_of_mark(web, named) if number % 2 else _sample(web, instance.assets)

        had: list[int] = []
        samples += _steadily(ask, limits.rate_hz, seconds, lambda: had.append(memory()) if memory else None)
    if instance.engine == "upstream":
        with Place(instance.host, instance.port, limits.deadline_ms / 1000) as axon:
            samples.append(Sample(None, axon.heard(), kind="to the axon"))
    return figures(samples)._replace(model=model if isinstance(model, str) else "", growth=growth(had))


def soak(
    instance: Instance,
    before: Figures | None,
    limits: Limits,
    demand: Demand,
    memory: Callable[[], int] | None = None,
) -> tuple[Figures, list[str]]:
    """Measure an instance for `soak_s`; return the figures, and what speaks against the release.

    It takes `rejoin_s` at least: load balancers have the instance back then, before another one is drained.

    Where that is nothing but the p99, it is measured once more, and that counts: a host that was busy for a moment is
    not a slow release, and a slow release is slow again.

    :param memory: tells how many bytes the instance's processes have now.
    """
    after = measure(instance, limits, max(limits.soak_s, limits.rejoin_s), memory)
    problems = verdict(instance, before, after, limits, demand)
    if problems and problems == _wrong_p99(_baseline(before), after, limits):
        after = measure(instance, limits, limits.soak_s, memory)
        problems = verdict(instance, before, after, limits, demand)
    return after, problems


def _sample(web: Place, assets: Sequence[str]) -> Sample:
    """Ask for all assets, now."""
    sent = time.time()
    reply = web.ask("POST", "/predict", b"{}")
    return _judged(web, reply, assets, sent - CLOCK_S, time.time() + CLOCK_S)._replace(kind="for now")


def _sample_of_mark(web: Place, assets: Sequence[str]) -> Sample:
    """Ask for assets by name at the last mark, as validators do; where none is known, for all of them."""
    mark = int(time.time()) // MARK_S * MARK_S
    moment = datetime.fromtimestamp(mark, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    asked = {"timestamp": moment, **({"assets": list(assets)} if assets else {})}
    reply = web.ask("POST", "/predict", json.dumps(asked).encode())
    return _judged(web, reply, assets, mark, mark)._replace(kind="for the last mark")


def _judged(web: Place, reply: Reply, assets: Sequence[str], earliest: float, latest: float) -> Sample:
    fault = _unanswered(web, "/predict", reply)
    if fault:
        priceless = reply.status == 503 and bool(_table(_object(reply.body), "refused"))
        return Sample(reply.seconds if reply.late or reply.status else None, fault, priceless=priceless)
    return Sample(reply.seconds, "", judge(reply.body, assets, earliest, latest))


def _steadily(ask: Callable[[int], Sample], rate_hz: float, seconds: float, look: Callable[[], None]) -> list[Sample]:
    """Ask at a steady rate, whether or not earlier requests are answered; return what came of all of them.

    :param ask: makes the request of a number, counted from 0.
    :param look: is called before each request.
    """
    slots = threading.BoundedSemaphore(MOST_AT_ONCE)
    began = time.monotonic()
    asked = []
    with ThreadPoolExecutor(MOST_AT_ONCE) as threads:
        for number in range(int(rate_hz * seconds)):
            time.sleep(max(0.0, began + number / rate_hz - time.monotonic()))
            look()
            if slots.acquire(blocking=False):
                asked.append(threads.submit(ask, number))
                asked[-1].add_done_callback(lambda _done: slots.release())
    return [each.result() for each in asked]


def _look_at_simulator(instance: Instance, limits: Limits) -> Iterator[Sample]:
    """Look whether a stand-in for the market works. Its speed is its settings' matter, and so are its faults."""
    with _web(instance, limits.ready_s) as web:
        control = web.ask("GET", CONTROL)
        faults = _object(control.body)
        yield Sample(None, _unanswered(web, CONTROL, control))
        if control.status != 200 or any(_number(faults.get(name)) for name in FAULTS):
            return
        prices = web.ask("GET", PRICES)
        if prices.status == 429:
            return  # it works, and allows no more requests for now
        lacking = {} if _object(prices.body).get("data") else {"the market has no prices": _short(prices.body)}
        yield Sample(None, _unanswered(web, PRICES, prices), Judgement(lacking, {}, 0.0))


def _unanswered(web: Place, path: str, reply: Reply) -> str:
    """Return "" where a reply has status 200, or what it has instead."""
    told = f"{web.name}{path.partition('?')[0]} answers {reply.status} {_short(reply.body)}"
    return reply.fault or ("" if reply.status == 200 else told)
